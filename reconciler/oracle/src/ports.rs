//! The L4 part of a rule.
use weir_schema::{EndpointSpec, IcmpFamily, IcmpRule, PortNumber, PortProtocol, PortRule, Protocol};

use crate::{
    FlowProtocol,
    rank::{PortMatch, PortShape},
};

/// Protocol and destination port, of the protocols that have ports.
fn transport(flow: FlowProtocol) -> Option<(Protocol, u16)> {
    match flow {
        FlowProtocol::Tcp { destination, .. } => Some((Protocol::Tcp, destination)),
        FlowProtocol::Udp { destination, .. } => Some((Protocol::Udp, destination)),
        FlowProtocol::Sctp { destination, .. } => Some((Protocol::Sctp, destination)),
        FlowProtocol::Icmp { .. } | FlowProtocol::Icmpv6 { .. } | FlowProtocol::Other(_) => None,
    }
}

fn covers(rule: Protocol, flow: Protocol) -> bool {
    rule == Protocol::Any || rule == flow
}

/// Every way in which `toPorts` and `icmps` of one rule match: the shape and the rest of the rule path.
pub(crate) fn matches(
    to_ports: Option<&[PortRule]>,
    icmps: Option<&[IcmpRule]>,
    flow: FlowProtocol,
    receiver: Option<&EndpointSpec>,
) -> Vec<(PortMatch, String)> {
    let to_ports = to_ports.unwrap_or_default();
    let icmps = icmps.unwrap_or_default();
    if to_ports.is_empty() && icmps.is_empty() {
        return vec![(PortMatch::number(PortShape::AnyProtocol), String::new())];
    }
    let mut found = Vec::new();
    for (j, rule) in to_ports.iter().enumerate() {
        if rule.ports.is_empty() {
            found.push((PortMatch::number(PortShape::AnyProtocol), format!(".toPorts[{j}]")));
        }
        for (k, port) in rule.ports.iter().enumerate() {
            if let Some(ports) = port_matches(port, flow, receiver) {
                found.push((ports, format!(".toPorts[{j}].ports[{k}]")));
            }
        }
    }
    for (j, rule) in icmps.iter().enumerate() {
        for (k, field) in rule.fields.iter().enumerate() {
            let same = match (field.family, flow) {
                (IcmpFamily::IPv4, FlowProtocol::Icmp { kind }) => field.icmp_type.0 == kind,
                (IcmpFamily::IPv6, FlowProtocol::Icmpv6 { kind }) => field.icmp_type.0 == kind,
                _ => false,
            };
            if same {
                found.push((PortMatch::number(PortShape::Protocol { bits: 16 }), format!(".icmps[{j}].fields[{k}]")));
            }
        }
    }
    found
}

pub(crate) fn port_matches(
    rule: &PortProtocol,
    flow: FlowProtocol,
    receiver: Option<&EndpointSpec>,
) -> Option<PortMatch> {
    let (protocol, port) = transport(flow)?;
    if !covers(rule.protocol, protocol) {
        return None;
    }
    match &rule.port {
        PortNumber::Number(0) if rule.end_port.is_none() => Some(PortMatch::number(PortShape::Protocol { bits: 0 })),
        PortNumber::Number(first) => {
            let last = rule.end_port.unwrap_or(*first);
            block_bits(*first, last, port).map(|bits| PortMatch::number(PortShape::Protocol { bits }))
        }
        PortNumber::Name(name) => receiver?
            .ports
            .iter()
            .any(|named| named.name == *name && named.port == port && covers(named.protocol, protocol))
            .then_some(PortMatch { shape: PortShape::Protocol { bits: 16 }, named: true }),
    }
}

/// A range is cut into the fewest aligned blocks (as prefixes are cut out of an address range); the leading bits that
/// the ports of `port`'s block have in common.
fn block_bits(first: u16, last: u16, port: u16) -> Option<u32> {
    let (last, port) = (u32::from(last), u32::from(port));
    let mut start = u32::from(first);
    while start <= last {
        let mut size = 1u32;
        while start % (size * 2) == 0 && start + size * 2 - 1 <= last {
            size *= 2;
        }
        if (start..start + size).contains(&port) {
            return Some(16 - size.trailing_zeros());
        }
        start += size;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::block_bits;

    #[test]
    fn a_range_is_cut_into_aligned_blocks() {
        assert_eq!(block_bits(80, 83, 79), None);
        assert_eq!(block_bits(80, 83, 80), Some(14));
        assert_eq!(block_bits(80, 83, 84), None);
        assert_eq!(block_bits(79, 84, 79), Some(16));
        assert_eq!(block_bits(79, 84, 82), Some(14));
        assert_eq!(block_bits(79, 84, 84), Some(16));
        assert_eq!(block_bits(0, 65535, 0), Some(0));
        assert_eq!(block_bits(0, 65535, 65535), Some(0));
        assert_eq!(block_bits(1, 65535, 65535), Some(1));
        assert_eq!(block_bits(1, 65535, 0), None);
        assert_eq!(block_bits(65535, 65535, 65535), Some(16));
    }

    #[test]
    fn every_port_of_every_border_lies_in_exactly_the_range() {
        for (first, last) in [(0u16, 0u16), (0, 1), (1, 2), (1023, 1025), (65534, 65535), (32767, 32768), (7, 4099)] {
            for port in 0..=u16::MAX {
                assert_eq!(block_bits(first, last, port).is_some(), (first..=last).contains(&port));
            }
        }
    }
}
