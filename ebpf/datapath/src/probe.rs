//! The packets of a check: made here, sent through a second instance of the programs, and told apart by their ports.
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep};
use weir_abi::{Reason, tc_action, xdp_action};
use weir_plan::{DatapathError, Hook, HookKey, InterfaceName, Probe, ProbeStep, TableCopy};

use crate::{
    error::{Result, netlink},
    kernel::Kernel,
    test_run::{CheckInstance, Packet},
};

/// Nobody's: a program looks at neither.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const HOPS: u8 = 64;
const WINDOW: u16 = 65_535;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

impl Kernel {
    pub(crate) fn probe_all(&mut self, copy: TableCopy, probes: &[Probe]) -> Result<Vec<Vec<ProbeStep>>> {
        if probes.is_empty() {
            return Ok(Vec::new());
        }
        let mut check = match self.check.take() {
            Some(mut check) if check.is_current(self) => {
                check.forget()?;
                check
            }
            _ => self.check_instance()?,
        };
        check.aim(match copy {
            TableCopy::Active => self.live()?.word.get(),
            TableCopy::Standby => self.next_generation()?,
        });
        let links = self.netlink.links().map_err(netlink)?;
        let devices: HashMap<&str, u32> = links.iter().map(|link| (&*link.name, link.ifindex)).collect();
        let ports = (FIRST_PORT..=u16::MAX).cycle();
        let steps = probes.iter().zip(ports).map(|(probe, port)| send(&mut check, &devices, probe, port)).collect();
        self.check = Some(check);
        steps
    }
}

/// The flows of one check have each a port or an identifier of its own: they do not meet in conntrack.
const FIRST_PORT: u16 = 20_000;

fn send(
    check: &mut CheckInstance,
    devices: &HashMap<&str, u32>,
    probe: &Probe,
    own_port: u16,
) -> Result<Vec<ProbeStep>> {
    let mut steps = Vec::new();
    let mut ends = Ends {
        source: probe.source,
        destination: probe.destination,
        source_port: own_port,
        // An echo has its identifier in both.
        destination_port: if has_ports(probe.protocol) { probe.port } else { own_port },
    };
    let mut back = &probe.back;
    for answer in [false, true] {
        let mut bytes = frame(probe.protocol, &ends, answer)?;
        let mut left: VecDeque<&HookKey> = if answer { back } else { &probe.way }.iter().collect();
        while let Some(at) = left.pop_front() {
            let (mut step, after, went_back) = meet(check, devices, at, &bytes, answer)?;
            // It goes on as it came out, and where it is addressed to then.
            bytes = after;
            let now = if step.reason.is_drop() { None } else { Ends::of(probe.protocol, &bytes) };
            if let Some(now) = now.filter(|now| *now != ends) {
                if !answer && now.destination != ends.destination {
                    step.destination = Some((now.destination, now.destination_port));
                    let onward = probe.onward(now.destination);
                    left = onward.way.iter().collect();
                    back = &onward.back;
                }
                ends = now;
            }
            let dropped = step.reason.is_drop();
            steps.push(step);
            if dropped {
                return Ok(steps);
            }
            if went_back {
                // To the endpoint that it came from, past its other hook.
                break;
            }
        }
        ends = ends.turned();
    }
    Ok(steps)
}

fn meet(
    check: &mut CheckInstance,
    devices: &HashMap<&str, u32>,
    at: &HookKey,
    frame: &[u8],
    answer: bool,
) -> Result<(ProbeStep, Vec<u8>, bool)> {
    let interface = InterfaceName(at.place.to_string().into());
    let ifindex = *devices.get(&*interface.0).ok_or(DatapathError::InterfaceMissing { interface })?;
    let outcome = check.run(at.hook, &Packet { frame, ifindex, mark: 0 })?;
    let passed = match at.hook {
        Hook::XdpIngress => outcome.action == xdp_action::PASS,
        _ => matches!(outcome.action as i32, tc_action::CONTINUE | tc_action::REDIRECT),
    };
    let went_back = passed && outcome.action as i32 == tc_action::REDIRECT;
    let (reason, rule) = match outcome.trace {
        Some(trace) => (Reason::from_code(trace.reason).unwrap_or(Reason::Internal), trace.rule),
        // It had no say on this side: nothing is counted then, either.
        None if passed => (Reason::Forwarded, 0),
        None => (Reason::Internal, 0),
    };
    if passed == reason.is_drop() {
        return Err(DatapathError::Failed {
            doing: "reading the verdict of",
            what: format!("{} on {}", at.hook.program(), at.place),
            cause: format!("it returned {} and noted {}", outcome.action as i32, reason.name()),
        });
    }
    Ok((ProbeStep { at: at.clone(), answer, reason, rule, destination: None }, outcome.frame, went_back))
}

const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// Who speaks to whom, in the packet's own direction. An echo has its identifier in both ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
}

impl Ends {
    /// Of a frame that was made here: without VLAN tags, options or extension headers.
    fn of(protocol: u8, frame: &[u8]) -> Option<Self> {
        const ETHERNET: usize = 14;
        let (addresses, length, transport) = match frame.get(12..14)? {
            [0x08, 0x00] => (ETHERNET + 12, 4, ETHERNET + 20),
            [0x86, 0xdd] => (ETHERNET + 8, 16, ETHERNET + 40),
            _ => return None,
        };
        let address = |at: usize| -> Option<IpAddr> {
            let bytes = frame.get(at..at + length)?;
            <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
        };
        let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let ports = if has_ports(protocol) { [transport, transport + 2] } else { [transport + 4; 2] };
        Some(Self {
            source: address(addresses)?,
            destination: address(addresses + length)?,
            source_port: word(ports[0])?,
            destination_port: word(ports[1])?,
        })
    }

    fn turned(self) -> Self {
        let Self { source, destination, source_port, destination_port } = self;
        Self { source: destination, destination: source, source_port: destination_port, destination_port: source_port }
    }
}

/// The packet that begins the flow, or the answer to it.
fn frame(protocol: u8, ends: &Ends, answer: bool) -> Result<Vec<u8>> {
    let Ends { source, destination, source_port, destination_port } = *ends;
    let macs = if answer { [MACS[1], MACS[0]] } else { MACS };
    let refused = |cause: &dyn std::fmt::Display| DatapathError::Failed {
        doing: "making",
        what: format!("a packet from {source} to {destination}"),
        cause: cause.to_string(),
    };
    let network = PacketBuilder::ethernet2(macs[0], macs[1]);
    let network: PacketBuilderStep<IpHeaders> = match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => network.ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => network.ipv6(from.octets(), to.octets(), HOPS),
        _ => return Err(refused(&"they are of two families")),
    };
    let mut bytes = Vec::new();
    match protocol {
        TCP if answer => network.tcp(source_port, destination_port, 1, WINDOW).syn().ack(1).write(&mut bytes, &[]),
        TCP => network.tcp(source_port, destination_port, 0, WINDOW).syn().write(&mut bytes, &[]),
        UDP => network.udp(source_port, destination_port).write(&mut bytes, &[]),
        ICMP if answer => network.icmpv4_echo_reply(source_port, 1).write(&mut bytes, &[]),
        ICMP => network.icmpv4_echo_request(source_port, 1).write(&mut bytes, &[]),
        ICMPV6 if answer => network.icmpv6_echo_reply(source_port, 1).write(&mut bytes, &[]),
        ICMPV6 => network.icmpv6_echo_request(source_port, 1).write(&mut bytes, &[]),
        SCTP => {
            let packet = sctp(source_port, destination_port, if answer { INIT_ACK } else { INIT });
            network.write(&mut bytes, IpNumber(SCTP), &packet)
        }
        other => return Err(refused(&format!("protocol {other} has no packet that begins a flow"))),
    }
    .map_err(|cause| refused(&cause))?;
    Ok(bytes)
}

/// Common header and one chunk (RFC 9260, 3.3.2), without a checksum: no program reads it.
fn sctp(source_port: u16, destination_port: u16, chunk: u8) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(source_port.to_be_bytes());
    packet.extend(destination_port.to_be_bytes());
    // Verification tag and checksum.
    packet.extend([0; 8]);
    packet.extend([chunk, 0, 0, 20]);
    // Initiate tag, window, streams out and in, first number.
    packet.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    packet
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    fn ends(source: &str, destination: &str, answer: bool) -> Ends {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let there = Ends { source, destination, source_port: 20_001, destination_port: 443 };
        if answer { there.turned() } else { there }
    }

    #[test]
    fn packets_are_what_a_stack_would_send() {
        for (source, destination) in [("10.0.0.1", "203.0.113.7"), ("fd00::1", "2001:db8::7")] {
            for answer in [false, true] {
                let bytes = frame(TCP, &ends(source, destination, answer), answer).unwrap();
                let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
                let ports = if answer { (443, 20_001) } else { (20_001, 443) };
                assert_eq!((tcp.source_port(), tcp.destination_port()), ports);
                assert_eq!((tcp.syn(), tcp.ack()), (true, answer));
                assert_eq!(Ends::of(TCP, &bytes), Some(ends(source, destination, answer)));
                let bytes = frame(UDP, &ends(source, destination, answer), answer).unwrap();
                let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
                let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
                assert_eq!((udp.source_port(), udp.destination_port()), ports);
                let bytes = frame(SCTP, &ends(source, destination, answer), answer).unwrap();
                let transport = &bytes[bytes.len() - 32..];
                assert_eq!(u16::from_be_bytes([transport[0], transport[1]]), ports.0);
                assert_eq!(transport[12], if answer { INIT_ACK } else { INIT });
                let echo = if source.contains(':') { ICMPV6 } else { ICMP };
                let bytes = frame(echo, &ends(source, destination, answer), answer).unwrap();
                assert!(SlicedPacket::from_ethernet(&bytes).unwrap().transport.is_some());
            }
        }
        assert!(frame(TCP, &ends("10.0.0.1", "fd00::1", false), false).is_err());
        assert!(frame(47, &ends("10.0.0.1", "10.0.0.2", false), false).is_err());
    }
}
