//! What one object fills tables with.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weir_abi::{BackendInfo, FrontendInfo, FrontendKey, SourceRangeKey, backend_flags, frontend_flags, service_flags};
use weir_plan::{OutOfNumbers, Service, Space, address_of};
use weir_schema::{Algorithm, BackendState, FrontendType, NoBackends};

use super::{
    definition::{Candidates, Definition, Frontend},
    index::Index,
    maglev::{self, Active},
    slots,
};
use crate::objects::numbering_key;

/// What a node is for services.
#[derive(Clone, Copy)]
pub(crate) struct Site<'s> {
    pub node: &'s str,
    /// Sorted.
    pub host_addresses: &'s [IpAddr],
    /// Whether an address is an endpoint's of this node, or the host's.
    pub is_local: &'s dyn Fn(IpAddr) -> bool,
}

/// One service with all that belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub number: u32,
    pub key: Arc<str>,
    pub service: Service,
    pub frontends: Vec<(FrontendKey, FrontendInfo)>,
    /// Sorted by address and port.
    pub backends: Vec<(u32, BackendInfo)>,
    pub ranges: Vec<SourceRangeKey>,
}

/// What a backend is numbered by.
pub(crate) fn backend_key(service: &str, address: IpAddr, port: u16) -> String {
    format!("{service} {address} {port}")
}

/// What its incarnation is numbered by.
pub(crate) fn incarnation_key(backend: &str) -> String {
    format!("backend {backend}")
}

/// Frontends that have their backends in common.
pub(super) struct Group<'d> {
    pub key: Arc<str>,
    pub v4: bool,
    pub protocol: u8,
    /// One of them.
    pub frontend: &'d Frontend<'d>,
    pub places: Vec<(IpAddr, &'d Frontend<'d>)>,
}

/// In the order of family, protocol and port.
pub(super) fn groups<'d>(definition: &'d Definition<'d>, host_addresses: &[IpAddr]) -> Vec<Group<'d>> {
    let object = numbering_key(&definition.object);
    let mut groups: BTreeMap<(bool, u8, String), Group<'d>> = BTreeMap::new();
    for frontend in &definition.frontends {
        let rule = definition.rule_key(frontend);
        let own = frontend.address.as_slice();
        let addresses = if frontend.address.is_some() { own } else { host_addresses };
        for address in addresses {
            let (v4, protocol) = (address.is_ipv4(), frontend.protocol.number());
            let group = groups.entry((!v4, protocol, rule.clone())).or_insert_with(|| {
                let (family, name) = (if v4 { "ipv4" } else { "ipv6" }, frontend.protocol.name());
                let key = format!("{object} {family} {name} {rule}").into();
                Group { key, v4, protocol, frontend, places: Vec::new() }
            });
            group.places.push((*address, frontend));
        }
    }
    groups.into_values().collect()
}

pub(crate) fn build(
    definition: &Definition<'_>,
    index: &Index,
    site: &Site<'_>,
    number: &mut dyn FnMut(Space, &str) -> Result<u32, OutOfNumbers>,
) -> Result<Vec<Built>, OutOfNumbers> {
    let mut built = Vec::new();
    for group in groups(definition, site.host_addresses) {
        let service = number(Space::Service, &group.key)?;
        let candidates = definition.candidates(group.frontend, group.v4, index, site.node);
        let (backends, active) = backends(&candidates, service, &group.key, site, number)?;
        let (slots, local_slots) = slots_of(definition.algorithm, &active);
        let mut flags = 0;
        if definition.algorithm == Algorithm::Maglev {
            flags |= service_flags::MAGLEV;
        }
        if definition.no_backends == NoBackends::Reject {
            flags |= service_flags::REJECT;
        }
        // Who comes by a cluster address is inside.
        let is_at_the_edge = group.places.iter().any(|(_, frontend)| frontend.kind != FrontendType::Cluster);
        let mut ranges: Vec<_> = definition.ranges.iter().map(ipnet::IpNet::trunc).collect();
        ranges.retain(|range| is_at_the_edge && range.addr().is_ipv4() == group.v4);
        ranges.sort_unstable();
        ranges.dedup();
        let (mut ranges_v4, mut ranges_v6) = (0, [0; 3]);
        for range in &ranges {
            let length = usize::from(range.prefix_len());
            match range {
                ipnet::IpNet::V4(_) => ranges_v4 |= 1 << length,
                ipnet::IpNet::V6(_) => ranges_v6[length / 64] |= 1 << (length % 64),
            }
        }
        let range_key = |range: ipnet::IpNet| SourceRangeKey {
            service,
            length: u32::from(range.prefix_len()) + if group.v4 { 96 } else { 0 },
            address: address_of(range.network()),
        };
        let frontend = |(address, frontend): &(IpAddr, &Frontend<'_>)| {
            let key = FrontendKey::new(address_of(*address), group.protocol, frontend.port);
            (key, FrontendInfo { service, flags: frontend_flags(definition, frontend) })
        };
        built.push(Built {
            number: service,
            service: Service { flags, affinity: definition.affinity, slots, local_slots, ranges_v4, ranges_v6 },
            frontends: group.places.iter().map(frontend).collect(),
            backends,
            ranges: ranges.into_iter().map(range_key).collect(),
            key: group.key,
        });
    }
    Ok(built)
}

fn frontend_flags(definition: &Definition<'_>, frontend: &Frontend<'_>) -> u32 {
    let mut flags = match frontend.kind {
        FrontendType::Cluster => 0,
        FrontendType::NodePort => frontend_flags::NODE_PORT,
        FrontendType::External => frontend_flags::EXTERNAL,
    };
    if flags != 0 {
        if definition.external_local {
            flags |= frontend_flags::EXTERNAL_LOCAL;
        }
        if !definition.ranges.is_empty() {
            flags |= frontend_flags::SOURCE_RANGES;
        }
    }
    if definition.internal_local {
        flags |= frontend_flags::INTERNAL_LOCAL;
    }
    flags
}

/// Backends with their numbers, and those that get new flows, each with whether it is on this node.
type Numbered = (Vec<(u32, BackendInfo)>, Vec<(Active, bool)>);

fn backends(
    candidates: &Candidates,
    service: u32,
    key: &str,
    site: &Site<'_>,
    number: &mut dyn FnMut(Space, &str) -> Result<u32, OutOfNumbers>,
) -> Result<Numbered, OutOfNumbers> {
    let (mut backends, mut active) = (Vec::new(), Vec::new());
    for ((address, port), candidate) in candidates {
        if candidate.state == BackendState::Maintenance {
            continue;
        }
        let key = backend_key(key, *address, *port);
        let backend = number(Space::Backend, &key)?;
        let local = candidate.here || (site.is_local)(*address);
        let drains = candidate.state == BackendState::Draining || candidate.weight == 0;
        let mut flags = backend_flags::EXISTS;
        if drains {
            flags |= backend_flags::DRAINING;
        }
        if local {
            flags |= backend_flags::LOCAL;
        }
        let info = BackendInfo {
            address: address_of(*address),
            incarnation: number(Space::Incarnation, &incarnation_key(&key))?,
            service,
            port_be: port.to_be(),
            flags,
            ..BackendInfo::default()
        };
        backends.push((backend, info));
        if !drains {
            active.push((Active { number: backend, address: *address, port: *port, weight: candidate.weight }, local));
        }
    }
    Ok((backends, active))
}

fn slots_of(algorithm: Algorithm, active: &[(Active, bool)]) -> (Arc<[u32]>, Arc<[u32]>) {
    let slots = |list: Vec<Active>| -> Arc<[u32]> {
        match algorithm {
            Algorithm::Maglev => maglev::table(&list),
            Algorithm::Random => slots::slots(&list.iter().map(|one| (one.number, one.weight)).collect::<Vec<_>>()),
        }
        .into()
    };
    let all = slots(active.iter().map(|(one, _)| *one).collect());
    let here: Vec<Active> = active.iter().filter(|(_, local)| *local).map(|(one, _)| *one).collect();
    let local = if here.len() == active.len() { Arc::clone(&all) } else { slots(here) };
    (all, local)
}
