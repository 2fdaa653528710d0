//! The compiled tables of services, walked as the ABI says that a program walks them.
use std::{collections::BTreeSet, net::IpAddr};

use weir_abi::{
    EndpointInfo, FrontendInfo, FrontendKey, SourceRangeKey, backend_flags, frontend_flags, identity, settings_flags,
};
use weir_oracle::{Flow, FlowProtocol};
use weir_plan::{Service, Tables, address_of, ip_of};

use crate::property::model::protocol_and_port;

/// Where a flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    Direct,
    /// By the name of the reason.
    Dropped(&'static str),
    To(BTreeSet<(IpAddr, u16)>),
}

pub fn deliver(tables: &Tables, flow: &Flow) -> Delivered {
    let is_set = |flag: u32| tables.settings.get(&0).is_some_and(|settings| settings.flags & flag != 0);
    let own = tables.endpoints.get(&flow.source);
    let from_host = own.is_some_and(|info| info.identity == identity::HOST);
    let is_neighbour_discovery = matches!(flow.protocol, FlowProtocol::Icmpv6 { kind: 133..=137 });
    let address = address_of(flow.destination);
    let (protocol, port) = protocol_and_port(flow.protocol);
    let by_socket = is_set(settings_flags::SOCKETS) && matches!(protocol, 6 | 17) && port != 0;
    if !is_set(settings_flags::SERVICES) || from_host && !by_socket || is_neighbour_discovery {
        return Delivered::Direct;
    }
    let has_ports = matches!(protocol, 6 | 17 | 132);
    let found = tables.frontends.get(&FrontendKey::new(address, protocol, port)).filter(|_| has_ports);
    let Some(frontend) = found else {
        return match tables.frontends.get(&FrontendKey::of_address(address)) {
            Some(_) => Delivered::Dropped("no_service"),
            None => Delivered::Direct,
        };
    };
    let Some(service) = tables.services.get(&frontend.service) else { return Delivered::Dropped("internal") };
    let has = |flag: u32| frontend.flags & flag != 0;
    let only_local = match own {
        Some(_) => has(frontend_flags::INTERNAL_LOCAL),
        None if !has(frontend_flags::NODE_PORT | frontend_flags::EXTERNAL) => return Delivered::Dropped("no_service"),
        None if has(frontend_flags::SOURCE_RANGES) && !in_ranges(tables, frontend, service, flow.source) => {
            return Delivered::Dropped("source_range");
        }
        None => has(frontend_flags::EXTERNAL_LOCAL),
    };
    let slots = if only_local { &service.local_slots } else { &service.slots };
    if slots.is_empty() {
        return Delivered::Dropped("no_backend");
    }
    let backend = |number: &u32| {
        let info = tables.backends.get(number)?;
        // A slot of what is not there, is another's or must get nothing new would be a fault.
        let is_one = info.service == frontend.service && info.flags & backend_flags::DRAINING == 0;
        let is_here = info.flags & backend_flags::LOCAL != 0;
        (is_one && (is_here || !only_local)).then(|| (ip_of(&info.address), u16::from_be(info.port_be)))
    };
    let sent: Option<BTreeSet<_>> = slots.iter().map(backend).collect();
    sent.map_or(Delivered::Dropped("internal"), Delivered::To)
}

fn in_ranges(tables: &Tables, frontend: &FrontendInfo, service: &Service, source: IpAddr) -> bool {
    in_prefixes(tables, frontend.service, (service.ranges_v4, &service.ranges_v6), source)
}

/// `lengths`: of the prefixes that there are.
fn in_prefixes(tables: &Tables, service: u32, lengths: (u64, &[u64; 3]), whom: IpAddr) -> bool {
    let (v4, v6) = lengths;
    let lengths: Vec<u32> = match whom {
        IpAddr::V4(_) => (0..=32).filter(|length| v4 >> length & 1 == 1).collect(),
        IpAddr::V6(_) => (0..=128u32).filter(|length| v6[*length as usize / 64] >> (length % 64) & 1 == 1).collect(),
    };
    let bits = |length: u32| if whom.is_ipv4() { 96 + length } else { length };
    lengths.into_iter().map(bits).any(|length| {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        let masked = u128::from_be_bytes(address_of(whom).0) & mask;
        let address = weir_abi::Address(masked.to_be_bytes());
        tables.source_ranges.get(&SourceRangeKey { service, length, address }).is_some()
    })
}

/// Whether a flow leaves under the node's address.
pub fn is_masqueraded(tables: &Tables, source: IpAddr, destination: IpAddr) -> bool {
    let Some(settings) = tables.settings.get(&0) else { return false };
    let of_endpoint = |info: &EndpointInfo| info.endpoint != 0 && info.identity != identity::HOST;
    settings.flags & settings_flags::MASQUERADE != 0
        && tables.endpoints.get(&source).is_some_and(of_endpoint)
        && !in_prefixes(tables, 0, (settings.exempt_v4, &settings.exempt_v6), destination)
}
