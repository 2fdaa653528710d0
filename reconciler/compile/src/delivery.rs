//! Where a new flow goes when services are in its way, by walking the compiled tables as the programs do.
use std::{collections::BTreeSet, net::IpAddr};

use weir_abi::{Address, FrontendInfo, FrontendKey, Reason, SourceRangeKey, frontend_flags, identity, settings_flags};
use weir_plan::{Tables, address_of, ip_of};

use crate::{ports::ICMPV6, trace::peer};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Who sends, as services tell senders apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sender {
    /// An endpoint of this node.
    Endpoint,
    /// The host itself, whose sockets pick the backend before there is a packet.
    Host,
    /// Whoever's packets come in by a network device.
    Outside,
}

/// What services make of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// No service is meant.
    Direct,
    Dropped(Refusal),
    /// To one of these, which chance or a hash picks: sorted by address and port, never empty.
    Balanced {
        service: u32,
        targets: Vec<Target>,
    },
}

/// Why a flow gets no backend, and of which service; `None`: it is addressed to none of the ports of an address that is
/// services' only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub service: Option<u32>,
    pub reason: Reason,
}

/// A backend that new flows are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub address: IpAddr,
    pub port: u16,
    pub identity: u32,
    /// Of this node, which then asks the backend's policy.
    pub is_judged: bool,
}

/// Where a new flow goes. `port`: the destination's, or the ICMP type; `source`: `None` for an address that nobody
/// mentioned.
pub(crate) fn deliver(
    tables: &Tables,
    sender: Sender,
    source: Option<IpAddr>,
    destination: IpAddr,
    protocol: u8,
    port: u16,
) -> Delivery {
    let settings = tables.settings.get(&0).copied().unwrap_or_default();
    let by_socket = settings.flags & settings_flags::SOCKETS != 0 && matches!(protocol, TCP | UDP) && port != 0;
    let is_neighbour_discovery = protocol == ICMPV6 && (133..=137).contains(&port);
    if settings.flags & settings_flags::SERVICES == 0 || sender == Sender::Host && !by_socket || is_neighbour_discovery
    {
        return Delivery::Direct;
    }
    let address = address_of(destination);
    let has_ports = matches!(protocol, TCP | UDP | SCTP);
    let on_port = |address: Address| {
        let found = tables.frontends.get(&FrontendKey::new(address, protocol, port));
        found.filter(|info| has_ports && info.service != 0)
    };
    // A node port is one of the loopback's addresses too, for who is on the node.
    let of_loopback = || {
        let node = if destination.is_ipv4() { settings.node_v4 } else { settings.node_v6 };
        let is_meant = sender == Sender::Host && destination.is_loopback();
        on_port(node).filter(|info| is_meant && info.flags & frontend_flags::NODE_PORT != 0)
    };
    let Some(frontend) = on_port(address).or_else(of_loopback) else {
        return match tables.frontends.get(&FrontendKey::of_address(address)) {
            Some(_) => Delivery::Dropped(Refusal { service: None, reason: Reason::NoService }),
            None => Delivery::Direct,
        };
    };
    let service = frontend.service;
    match only_local(tables, frontend, sender, source).map(|only_local| targets(tables, service, only_local)) {
        Err(reason) => Delivery::Dropped(Refusal { service: Some(service), reason }),
        Ok(targets) if targets.is_empty() => {
            Delivery::Dropped(Refusal { service: Some(service), reason: Reason::NoBackend })
        }
        Ok(targets) => Delivery::Balanced { service, targets },
    }
}

/// Whether what this sender has for a frontend goes to backends of this node only.
///
/// # Errors
///
/// Why it goes to none.
pub(crate) fn only_local(
    tables: &Tables,
    frontend: &FrontendInfo,
    sender: Sender,
    source: Option<IpAddr>,
) -> Result<bool, Reason> {
    let has = |flag: u32| frontend.flags & flag != 0;
    match sender {
        Sender::Endpoint | Sender::Host => Ok(has(frontend_flags::INTERNAL_LOCAL)),
        Sender::Outside if !has(frontend_flags::NODE_PORT | frontend_flags::EXTERNAL) => Err(Reason::NoService),
        Sender::Outside if has(frontend_flags::SOURCE_RANGES) && !in_ranges(tables, frontend, source) => {
            Err(Reason::SourceRange)
        }
        Sender::Outside => Ok(has(frontend_flags::EXTERNAL_LOCAL)),
    }
}

/// The backends that new flows to a service are sent to, by address and port.
pub(crate) fn targets(tables: &Tables, service: u32, only_local: bool) -> Vec<Target> {
    let Some(service) = tables.services.get(&service) else { return Vec::new() };
    let slots: BTreeSet<u32> = if only_local { &service.local_slots } else { &service.slots }.iter().copied().collect();
    let target = |number: &u32| {
        let info = tables.backends.get(number)?;
        let address = ip_of(&info.address);
        let is_judged = tables.endpoints.get(&address).is_some();
        Some(Target { address, port: u16::from_be(info.port_be), identity: peer(tables, address), is_judged })
    };
    let targets: BTreeSet<Target> = slots.iter().filter_map(target).collect();
    targets.into_iter().collect()
}

/// Whether an address is in one of a service's source ranges.
fn in_ranges(tables: &Tables, frontend: &FrontendInfo, source: Option<IpAddr>) -> bool {
    let Some(service) = tables.services.get(&frontend.service) else { return false };
    let contains = |length: u32, bits: u128| {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        let key = SourceRangeKey { service: frontend.service, length, address: Address((bits & mask).to_be_bytes()) };
        tables.source_ranges.get(&key).is_some()
    };
    let lengths_v4 = || (0..=32u32).filter(|length| service.ranges_v4 >> length & 1 == 1).map(|length| 96 + length);
    let lengths_v6 =
        || (0..=128u32).filter(|length| service.ranges_v6[*length as usize / 64] >> (length % 64) & 1 == 1);
    match source {
        Some(source) => {
            let bits = u128::from_be_bytes(address_of(source).0);
            match source.is_ipv4() {
                true => lengths_v4().any(|length| contains(length, bits)),
                false => lengths_v6().any(|length| contains(length, bits)),
            }
        }
        // In none but the whole of its family.
        None => service.ranges_v4 & 1 == 1 || service.ranges_v6[0] & 1 == 1,
    }
}

/// Who sends from an address, seen from this node.
pub(crate) fn sender(tables: &Tables, address: IpAddr) -> Sender {
    match tables.endpoints.get(&address) {
        Some(info) if info.identity == identity::HOST => Sender::Host,
        Some(_) => Sender::Endpoint,
        None => Sender::Outside,
    }
}
