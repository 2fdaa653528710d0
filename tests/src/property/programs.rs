//! The comparison of the real programs with the reference evaluator: which hooks a flow meets, what each must answer,
//! and what it does.
use weir_abi::{ConntrackKey, Reason};
use weir_oracle::{End, Flow, FlowProtocol, Judgement, RuleId, Verdict};
use weir_plan::Hook;

use super::{
    generate::Generated,
    topology::{NETWORK_INTERFACES, Topology},
};
use crate::packet::frame;

/// One hook that a flow's packets meet, and the ends that it answers for.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// For packets of the flow's direction, and for replies.
    pub hooks: [Hook; 2],
    pub interface: &'static str,
    /// The end that lives here, and whether it is the flow's source.
    pub of_source: bool,
    /// The other end is the host, which this hook answers for as well.
    pub with_host: bool,
}

/// The stops of a flow, in its order.
pub fn stops(topology: &Topology, flow: &Flow) -> Vec<Stop> {
    let source = topology.interface_of(flow.source);
    let destination = topology.interface_of(flow.destination);
    let endpoint = |interface, of_source: bool, peer| Stop {
        hooks: if of_source { [Hook::FromEndpoint, Hook::ToEndpoint] } else { [Hook::ToEndpoint, Hook::FromEndpoint] },
        interface,
        of_source,
        with_host: topology.is_host(peer),
    };
    let network = |of_source: bool| Stop {
        hooks: if of_source { [Hook::ToNetwork, Hook::FromNetwork] } else { [Hook::FromNetwork, Hook::ToNetwork] },
        interface: NETWORK_INTERFACES[0],
        of_source,
        with_host: false,
    };
    let mut stops = Vec::new();
    // What comes from outside, or goes there, meets the network device; host policy is about the host's packets only.
    if source.is_none() && !topology.is_host(flow.source) {
        stops.push(network(false));
    }
    stops.extend(source.map(|interface| endpoint(interface, true, flow.destination)));
    stops.extend(destination.map(|interface| endpoint(interface, false, flow.source)));
    if destination.is_none() && !topology.is_host(flow.destination) {
        stops.push(network(true));
    }
    stops
}

/// What a stop answers, by the evaluator: the end that lives there decides, then the host.
pub fn expected(topology: &Topology, flow: &Flow, stop: &Stop, judgement: &Judgement) -> Answer {
    let (near, far) =
        if stop.of_source { (&judgement.egress, &judgement.ingress) } else { (&judgement.ingress, &judgement.egress) };
    let is_network = matches!(stop.hooks[0], Hook::FromNetwork | Hook::ToNetwork);
    let own = if stop.of_source { flow.source } else { flow.destination };
    if is_network && !topology.is_host(own) {
        return Answer { verdict: Some(Verdict::Allow), rule: None, note: "" };
    }
    let answer = |end: &End| Answer { verdict: Some(end.verdict), rule: end.rule.clone(), note: "" };
    if near.verdict == Verdict::Allow && stop.with_host && far.verdict != Verdict::Allow {
        return answer(far);
    }
    answer(near)
}

/// A verdict and the rule behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `None`: the packet was dropped for a reason that is no policy.
    pub verdict: Option<Verdict>,
    pub rule: Option<RuleId>,
    /// The reason that is no policy.
    pub note: &'static str,
}

impl Answer {
    /// Of a drop's reason.
    pub fn of_reason(reason: Option<Reason>, rule: Option<RuleId>) -> Self {
        let verdict = match reason {
            Some(Reason::PolicyDeny) => Some(Verdict::RuleDeny),
            Some(Reason::PolicyDefaultDeny) => Some(Verdict::DefaultDeny),
            _ => None,
        };
        let note = if verdict.is_none() { reason.map_or("no reason", Reason::name) } else { "" };
        Self { verdict, rule, note }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.verdict {
            Some(verdict) => write!(f, "{verdict:?}")?,
            None => write!(f, "a drop for {}", self.note)?,
        }
        match &self.rule {
            Some(rule) => write!(f, " by {rule}"),
            None => write!(f, " by no rule"),
        }
    }
}

/// Which packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A SYN, a request, a first datagram.
    First,
    /// A later one of the same direction.
    Later,
    Reply,
}

/// Of an echo, whose identifier stands in the flow's key.
const ECHO: u16 = 0x4567;

pub fn frame_of(flow: &Flow, turn: Turn) -> Vec<u8> {
    use std::net::SocketAddr;
    let (source, destination) = match turn {
        Turn::First | Turn::Later => (flow.source, flow.destination),
        Turn::Reply => (flow.destination, flow.source),
    };
    let ends = |from: u16, to: u16| match turn {
        Turn::First | Turn::Later => (SocketAddr::new(source, from), SocketAddr::new(destination, to)),
        Turn::Reply => (SocketAddr::new(source, to), SocketAddr::new(destination, from)),
    };
    let network = frame::Network::new(source, destination);
    match flow.protocol {
        FlowProtocol::Tcp { source, destination } => {
            let (from, to) = ends(source, destination);
            let flags = match turn {
                Turn::First => frame::SYN,
                Turn::Later => frame::ACK,
                Turn::Reply => frame::SYN | frame::ACK,
            };
            frame::tcp(from, to, flags)
        }
        FlowProtocol::Udp { source, destination } => {
            let (from, to) = ends(source, destination);
            frame::udp(from, to)
        }
        FlowProtocol::Sctp { source, destination } => {
            let (from, to) = ends(source, destination);
            frame::sctp(from, to)
        }
        FlowProtocol::Icmp { kind } | FlowProtocol::Icmpv6 { kind } => {
            let kind = match (kind, turn) {
                (8, Turn::Reply) => 0,
                (128, Turn::Reply) => 129,
                (kind, _) => kind,
            };
            let [high, low] = ECHO.to_be_bytes();
            // Neighbour discovery, which crosses no router.
            let network = if (133..=137).contains(&kind) { network.hop_limit(255) } else { network };
            frame::icmp(&network, kind, 0, [high, low, 0, 1], b"0123456789abcdef")
        }
        FlowProtocol::Other(number) => network.frame(number, b"0123456789abcdef"),
    }
}

/// Whether the programs remember it.
pub fn is_tracked(flow: &Flow) -> bool {
    match flow.protocol {
        FlowProtocol::Icmp { kind } => kind == 8,
        FlowProtocol::Icmpv6 { kind } => kind == 128,
        _ => true,
    }
}

/// Under which it is remembered.
pub fn key_of(flow: &Flow) -> ConntrackKey {
    let address = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(v4) => weir_abi::Address::from_v4(v4.octets()),
        std::net::IpAddr::V6(v6) => weir_abi::Address(v6.octets()),
    };
    let (protocol, source, destination) = match flow.protocol {
        FlowProtocol::Tcp { source, destination } => (6, source, destination),
        FlowProtocol::Udp { source, destination } => (17, source, destination),
        FlowProtocol::Sctp { source, destination } => (132, source, destination),
        FlowProtocol::Icmp { .. } => (1, ECHO, ECHO),
        FlowProtocol::Icmpv6 { .. } => (58, ECHO, ECHO),
        FlowProtocol::Other(number) => (number, 0, 0),
    };
    let mut ends = [(address(flow.source), source), (address(flow.destination), destination)];
    ends.sort_unstable();
    let [(low, low_port), (high, high_port)] = ends;
    ConntrackKey {
        low,
        high,
        low_port_be: low_port.to_be(),
        high_port_be: high_port.to_be(),
        protocol,
        ..ConntrackKey::default()
    }
}

/// Flows of which no two have one key: each can be told apart in conntrack.
pub fn distinct(flows: Vec<Flow>) -> Vec<Flow> {
    let mut seen = Vec::new();
    flows
        .into_iter()
        .filter(|flow| {
            let key = key_of(flow);
            let new = !seen.contains(&key);
            seen.push(key);
            new
        })
        .collect()
}

/// `set 0x…: flow, hook on interface`.
pub fn place(set: &Generated, flow: &Flow, stop: &Stop, turn: Turn) -> String {
    let hook = stop.hooks[usize::from(turn == Turn::Reply)];
    format!("set {:#x}: {flow}, {turn:?} at {} on {}", set.seed, hook.program(), stop.interface)
}
