//! Flows to services through the programs: a packet goes to a backend that the evaluator names, policy makes the same
//! of it there, and the next one goes the same way.
use std::net::IpAddr;

use weir_abi::{LOOPBACK_V4, LOOPBACK_V6, Reason, interface_flags};
use weir_datapath::Outcome;
use weir_oracle::{Candidate, Delivery, Flow, FlowProtocol, Sender, Verdict};
use weir_plan::{Hook, ip_of};

use super::{Installed, Lab};
use crate::{
    packet::frame::ETHERNET,
    property::{
        programs::{Answer, Stop, Turn, expected, frame_of, place, stops},
        services::{check::Counts, outward},
        topology::NETWORK_INTERFACES,
    },
};

/// What the programs did with a packet, and where it was addressed to afterwards.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    answer: Answer,
    to: (IpAddr, u16),
}

impl Lab {
    /// Every first packet of these flows where it enters the node, with nothing remembered, and then at its backend's
    /// endpoint. The host's own flows pick their backend before there is a packet.
    pub fn compare_services(&mut self, live: &Installed<'_>, flows: &[Flow], counts: &mut Counts) -> Vec<String> {
        let mut found = Vec::new();
        let is_seen = |flow: &&Flow| match live.world().sender(flow.source) {
            Sender::Endpoint => true,
            Sender::Host => false,
            // Where no service has a frontend and no policy is for the host, network devices are left alone.
            Sender::Outside => live.judges_outside(),
        };
        for flow in flows.iter().filter(is_seen) {
            match live.world().deliver(flow) {
                Delivery::Direct(judgement) => {
                    counts.direct += 1;
                    for stop in stops(&live.set.topology, flow) {
                        self.forget(flow);
                        let expected = as_told(flow, expected(&live.set.topology, flow, &stop, &judgement));
                        found.extend(self.differs(live, flow, &stop, Turn::First, &expected));
                    }
                }
                Delivery::Dropped(drop) => {
                    match drop.reason() {
                        "no_service" => counts.no_service += 1,
                        "no_backend" => counts.no_backend += 1,
                        _ => counts.source_range += 1,
                    }
                    found.extend(self.refused(live, flow, drop.reason()));
                }
                Delivery::Balanced { backends, .. } => {
                    counts.balanced += 1;
                    found.extend(self.balanced(live, flow, &backends, counts));
                }
            }
            self.forget(flow);
        }
        found
    }

    /// What endpoints of this node and the host send outside, where it leaves.
    pub fn compare_masquerade(&mut self, live: &Installed<'_>, counts: &mut Counts) -> Vec<String> {
        let [network, _] = NETWORK_INTERFACES;
        let topology = &live.set.topology;
        let mut found = Vec::new();
        let pairs = outward(topology).into_iter().filter(|(_, to)| live.world().sender(*to) == Sender::Outside);
        let is_of_here = |from: &IpAddr| topology.interface_of(*from).is_some() || topology.is_host(*from);
        for (source, destination) in pairs.filter(|(from, _)| is_of_here(from)) {
            let flow = Flow { source, destination, protocol: FlowProtocol::Udp { source: 4000, destination: 9 } };
            let outcome = self.program(Hook::ToNetwork, network, &frame_of(&flow, Turn::First));
            let shown = addresses(&outcome.frame, source.is_ipv4())[0];
            let expected = live.world().is_masqueraded(source, destination);
            counts.masqueraded += usize::from(expected);
            counts.spared += usize::from(!expected);
            // The host's policy may have dropped it, as it was.
            if (shown == source) == expected || expected && !topology.is_host(shown) {
                found.push(format!("{flow}, masqueraded: {expected} by the evaluator, and it left as {shown}"));
            }
            self.forget(&flow);
        }
        found
    }

    fn refused(&mut self, live: &Installed<'_>, flow: &Flow, reason: &'static str) -> Option<String> {
        let stop = entrance(live, flow)?;
        let (sent, _) = self.send(live, flow, &stop, &frame_of(flow, Turn::First));
        let expected = Answer { verdict: None, rule: None, note: reason };
        let at = place(live.set, flow, &stop, Turn::First);
        (sent.answer != expected)
            .then(|| format!("{at}: the evaluator says {expected}, the program says {}", sent.answer))
    }

    fn balanced(
        &mut self,
        live: &Installed<'_>,
        flow: &Flow,
        backends: &[Candidate],
        counts: &mut Counts,
    ) -> Option<String> {
        let stop = entrance(live, flow)?;
        let at = place(live.set, flow, &stop, Turn::First);
        let (sent, frame) = self.send(live, flow, &stop, &frame_of(flow, Turn::First));
        let is_picked = |backend: &&Candidate| (backend.address, backend.port) == sent.to;
        let Some(backend) = backends.iter().find(is_picked) else {
            return Some(format!("{at}: the evaluator says one of {backends:?}, the program says {sent:?}"));
        };
        counts.backends += 1;
        let judgement = &backend.judgement;
        counts.denied += usize::from(!judgement.allowed());
        let on = Flow { destination: backend.address, protocol: flow.protocol.to_port(backend.port), ..*flow };
        let is_own = on.source == on.destination;
        counts.own += usize::from(is_own);
        let topology = &live.set.topology;
        let way = if is_own { vec![stop] } else { stops(topology, &on) };
        let mut told = None;
        for (number, next) in way.iter().enumerate() {
            // What is lent to a client outside, so that the answer comes back, is no policy.
            if next.hooks[0] == Hook::ToNetwork {
                continue;
            }
            let answer = if number == 0 { sent.answer.clone() } else { self.send(live, &on, next, &frame).0.answer };
            let expected = expected(topology, &on, next, judgement);
            if answer != expected {
                let at = place(live.set, &on, next, Turn::First);
                told = Some(format!("{at}, by {flow}: the evaluator says {expected}, the program says {answer}"));
            }
            if told.is_some() || expected.verdict != Some(Verdict::Allow) {
                break;
            }
        }
        // To a backend that is its own frontend, both flows of the client are one to conntrack, and nothing is kept.
        if told.is_none() && on != *flow {
            let (again, _) = self.send(live, flow, &stop, &frame_of(flow, Turn::Later));
            told = (again != sent).then(|| format!("{at}: {sent:?}, and the next packet {again:?}"));
        }
        self.forget(&on);
        if is_own {
            let loopback = ip_of(if on.source.is_ipv4() { &LOOPBACK_V4 } else { &LOOPBACK_V6 });
            self.forget(&Flow { source: loopback, ..on });
        }
        told
    }

    fn send(&mut self, live: &Installed<'_>, flow: &Flow, stop: &Stop, frame: &[u8]) -> (Sent, Vec<u8>) {
        let Outcome { frame, trace, .. } = self.program(stop.hooks[0], stop.interface, frame);
        let rule = trace.and_then(|trace| live.rule(trace.rule));
        let reason = trace.and_then(|trace| Reason::from_code(trace.reason));
        let answer = match reason {
            Some(reason) if !reason.is_drop() => Answer { verdict: Some(Verdict::Allow), rule, note: "" },
            reason => Answer::of_reason(reason, rule),
        };
        (Sent { answer, to: destination(&frame, flow.source.is_ipv4()) }, frame)
    }
}

impl Installed<'_> {
    fn judges_outside(&self) -> bool {
        let [network, _] = NETWORK_INTERFACES;
        let info = self.compiled.tables.interfaces.get(&network.into());
        info.is_some_and(|info| info.flags & interface_flags::NETWORK != 0)
    }
}

/// What no rule names, and has no ports by which one could, is dropped by a reason of its own.
fn as_told(flow: &Flow, expected: Answer) -> Answer {
    match (flow.protocol, expected.verdict) {
        (FlowProtocol::Other(_), Some(Verdict::DefaultDeny)) => {
            Answer { verdict: None, rule: None, note: Reason::UnknownProtocol.name() }
        }
        _ => expected,
    }
}

/// Where a flow of somebody else than the host enters the node.
fn entrance(live: &Installed<'_>, flow: &Flow) -> Option<Stop> {
    stops(&live.set.topology, flow).into_iter().next()
}

/// Source and destination of a frame without options.
fn addresses(frame: &[u8], v4: bool) -> [IpAddr; 2] {
    let of = |at: usize, length: usize| &frame[ETHERNET + at..ETHERNET + at + length];
    let places = if v4 { [of(12, 4), of(16, 4)] } else { [of(8, 16), of(24, 16)] };
    places.map(|place| match <[u8; 4]>::try_from(place) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(place).expect("16 bytes")),
    })
}

/// Of a frame with ports and without options.
fn destination(frame: &[u8], v4: bool) -> (IpAddr, u16) {
    let transport = ETHERNET + if v4 { 20 } else { 40 };
    (addresses(frame, v4)[1], u16::from_be_bytes([frame[transport + 2], frame[transport + 3]]))
}
