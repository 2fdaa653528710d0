//! The packets of a check: made here, sent through a second instance of the programs, and told apart by their ports.
use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep};
use weir_abi::{Reason, tc_action, xdp_action};
use weir_plan::{DatapathError, Hook, HookKey, Probe, ProbeStep, TableCopy};

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
    let mut probe = Cow::Borrowed(probe);
    for answer in [false, true] {
        let mut left: VecDeque<HookKey> = if answer { &probe.back } else { &probe.way }.iter().cloned().collect();
        while let Some(at) = left.pop_front() {
            let step = meet(check, devices, &at, &frame(&probe, own_port, answer)?, answer)?;
            if let Some((address, port)) = step.destination.filter(|_| !answer) {
                let onward = probe.onward(address).clone();
                left = onward.way.into();
                probe = Cow::Owned(Probe { destination: address, port, back: onward.back, ..probe.into_owned() });
            }
            let dropped = step.reason.is_drop();
            steps.push(step);
            if dropped {
                return Ok(steps);
            }
        }
    }
    Ok(steps)
}

fn meet(
    check: &mut CheckInstance,
    devices: &HashMap<&str, u32>,
    at: &HookKey,
    frame: &[u8],
    answer: bool,
) -> Result<ProbeStep> {
    let missing = || DatapathError::InterfaceMissing { interface: at.interface.clone() };
    let ifindex = *devices.get(&*at.interface.0).ok_or_else(missing)?;
    let outcome = check.run(at.hook, &Packet { frame, ifindex, mark: 0 })?;
    let passed = match at.hook {
        Hook::XdpIngress => outcome.action == xdp_action::PASS,
        _ => outcome.action as i32 == tc_action::CONTINUE,
    };
    let (reason, rule) = match outcome.trace {
        Some(trace) => (Reason::from_code(trace.reason).unwrap_or(Reason::Internal), trace.rule),
        // It had no say on this side: nothing is counted then, either.
        None if passed => (Reason::Forwarded, 0),
        None => (Reason::Internal, 0),
    };
    if passed == reason.is_drop() {
        return Err(DatapathError::Failed {
            doing: "reading the verdict of",
            what: format!("{} on {}", at.hook.program(), at.interface),
            cause: format!("it returned {} and noted {}", outcome.action as i32, reason.name()),
        });
    }
    Ok(ProbeStep { at: at.clone(), answer, reason, rule, destination: None })
}

/// The packet that begins the flow, or the answer to it.
fn frame(probe: &Probe, own_port: u16, answer: bool) -> Result<Vec<u8>> {
    let ends = [probe.source, probe.destination];
    let ports = [own_port, probe.port];
    let ([source, destination], [source_port, destination_port], macs) = match answer {
        false => (ends, ports, MACS),
        true => ([ends[1], ends[0]], [ports[1], ports[0]], [MACS[1], MACS[0]]),
    };
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
    match probe.protocol {
        TCP if answer => network.tcp(source_port, destination_port, 1, WINDOW).syn().ack(1).write(&mut bytes, &[]),
        TCP => network.tcp(source_port, destination_port, 0, WINDOW).syn().write(&mut bytes, &[]),
        UDP => network.udp(source_port, destination_port).write(&mut bytes, &[]),
        ICMP if answer => network.icmpv4_echo_reply(own_port, 1).write(&mut bytes, &[]),
        ICMP => network.icmpv4_echo_request(own_port, 1).write(&mut bytes, &[]),
        ICMPV6 if answer => network.icmpv6_echo_reply(own_port, 1).write(&mut bytes, &[]),
        ICMPV6 => network.icmpv6_echo_request(own_port, 1).write(&mut bytes, &[]),
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

    use weir_plan::Backends;

    use super::*;

    fn probe(source: &str, destination: &str, protocol: u8) -> Probe {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Probe {
            source,
            destination,
            protocol,
            port: 443,
            way: Vec::new(),
            back: Vec::new(),
            backends: Backends::default(),
        }
    }

    #[test]
    fn packets_are_what_a_stack_would_send() {
        for (source, destination) in [("10.0.0.1", "203.0.113.7"), ("fd00::1", "2001:db8::7")] {
            for answer in [false, true] {
                let bytes = frame(&probe(source, destination, TCP), 20_001, answer).unwrap();
                let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
                let ports = if answer { (443, 20_001) } else { (20_001, 443) };
                assert_eq!((tcp.source_port(), tcp.destination_port()), ports);
                assert_eq!((tcp.syn(), tcp.ack()), (true, answer));
                let bytes = frame(&probe(source, destination, UDP), 20_001, answer).unwrap();
                let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
                let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
                assert_eq!((udp.source_port(), udp.destination_port()), ports);
                let bytes = frame(&probe(source, destination, SCTP), 20_001, answer).unwrap();
                let transport = &bytes[bytes.len() - 32..];
                assert_eq!(u16::from_be_bytes([transport[0], transport[1]]), ports.0);
                assert_eq!(transport[12], if answer { INIT_ACK } else { INIT });
                let echo = if source.contains(':') { ICMPV6 } else { ICMP };
                let bytes = frame(&probe(source, destination, echo), 20_001, answer).unwrap();
                assert!(SlicedPacket::from_ethernet(&bytes).unwrap().transport.is_some());
            }
        }
        assert!(frame(&probe("10.0.0.1", "fd00::1", TCP), 1, false).is_err());
        assert!(frame(&probe("10.0.0.1", "10.0.0.2", 47), 1, false).is_err());
    }
}
