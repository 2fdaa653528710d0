//! The compiled tables, walked as the ABI says that a program walks them: a program without a kernel.
use std::net::IpAddr;

use weir_abi::{
    ACTION_DROP, ACTION_ENDPOINT_RANGE, DIRECTION_EGRESS, DIRECTION_INGRESS, PolicyKey, RULE_NONE, SIDE_DESTINATION,
    SIDE_SOURCE, TupleClass, identity, interface_flags, policy_verdict, settings_flags,
};
use weir_oracle::{Flow, FlowProtocol, Verdict};
use weir_plan::{InterfaceName, Prefix4, Prefix6, Tables};

/// One end as the tables judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// [`RULE_NONE`] when no rule decided.
    pub rule: u32,
}

impl Decision {
    const NOT_ENFORCED: Self = Self { verdict: Verdict::Allow, rule: RULE_NONE };
}

/// Protocol number and what stands in a key's port.
pub fn protocol_and_port(protocol: FlowProtocol) -> (u8, u16) {
    match protocol {
        FlowProtocol::Tcp { destination, .. } => (6, destination),
        FlowProtocol::Udp { destination, .. } => (17, destination),
        FlowProtocol::Sctp { destination, .. } => (132, destination),
        FlowProtocol::Icmp { kind } => (1, u16::from(kind)),
        FlowProtocol::Icmpv6 { kind } => (58, u16::from(kind)),
        FlowProtocol::Other(number) => (number, 0),
    }
}

/// What the ipcache says of an address.
pub fn identity_of(tables: &Tables, address: IpAddr) -> u32 {
    let found = match address {
        IpAddr::V4(v4) => {
            let host = Prefix4::host(v4);
            let covering = tables.ipcache4.iter().filter(|(prefix, _)| prefix.covers(&host));
            covering.max_by_key(|(prefix, _)| prefix.length).map(|(_, identity)| *identity)
        }
        IpAddr::V6(v6) => {
            let host = Prefix6::host(v6);
            let covering = tables.ipcache6.iter().filter(|(prefix, _)| prefix.covers(&host));
            covering.max_by_key(|(prefix, _)| prefix.length).map(|(_, identity)| *identity)
        }
    };
    found.unwrap_or(identity::WORLD)
}

/// (egress of the source, ingress of the destination), `None` for an end that is not of this node.
pub fn judge(tables: &Tables, flow: &Flow) -> (Option<Decision>, Option<Decision>) {
    let (protocol, port) = protocol_and_port(flow.protocol);
    let end = |subject: IpAddr, peer: IpAddr, direction: u8| {
        let subject = tables.endpoints.get(&subject)?.identity;
        Some(decide(tables, subject, identity_of(tables, peer), direction, protocol, port))
    };
    (end(flow.source, flow.destination, DIRECTION_EGRESS), end(flow.destination, flow.source, DIRECTION_INGRESS))
}

fn decide(tables: &Tables, subject: u32, peer: u32, direction: u8, protocol: u8, port: u16) -> Decision {
    let host_policy = tables.settings.get(&0).is_some_and(|settings| settings.flags & settings_flags::HOST_POLICY != 0);
    if subject == identity::HOST && !host_policy {
        return Decision::NOT_ENFORCED;
    }
    let Some(info) = tables.subjects.get(&subject) else { return Decision::NOT_ENFORCED };
    let probe = |classes: u64, verdict: u8| {
        let used = (0..TupleClass::COUNT).filter(|class| classes >> class & 1 == 1).map(TupleClass);
        let mut keys = used.map(|class| PolicyKey::new(subject, peer, direction, class, protocol, port));
        keys.find_map(|key| tables.policy.get(&key).filter(|entry| entry.verdict == verdict))
    };
    let at = usize::from(direction);
    if let Some(entry) = probe(info.deny_classes[at], policy_verdict::DENY) {
        return Decision { verdict: Verdict::RuleDeny, rule: entry.rule };
    }
    if let Some(entry) = probe(info.allow_classes[at], policy_verdict::ALLOW) {
        return Decision { verdict: Verdict::Allow, rule: entry.rule };
    }
    let verdict = if info.default_deny[at] == 1 { Verdict::DefaultDeny } else { Verdict::Allow };
    Decision { verdict, rule: RULE_NONE }
}

/// The rule by which XDP drops a packet on a device.
pub fn prefilter(tables: &Tables, interface: &str, source: IpAddr, destination: IpAddr) -> Option<u32> {
    let info = tables.interfaces.get(&InterfaceName::from(interface))?;
    let cell = |address: IpAddr, side: usize| {
        let class = tables.classes.get(&class_of(tables, address)?)?;
        Some(class.cells[info.prefilter_group as usize * 2 + side])
    };
    if info.flags & interface_flags::PREFILTER_SOURCE != 0
        && let Some(cell) = cell(source, SIDE_SOURCE)
        && cell.action() == ACTION_DROP
    {
        return Some(cell.rule());
    }
    if info.flags & interface_flags::PREFILTER_DESTINATION != 0
        && let Some(cell) = cell(destination, SIDE_DESTINATION)
    {
        let unknown = tables.endpoints.get(&destination).is_none();
        match cell.action() {
            ACTION_DROP => return Some(cell.rule()),
            ACTION_ENDPOINT_RANGE if unknown => return Some(cell.rule()),
            _ => {}
        }
    }
    None
}

fn class_of(tables: &Tables, address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(v4) => {
            let covering = tables.prefilter4.iter().filter(|(prefix, _)| prefix.covers(&Prefix4::host(v4)));
            covering.max_by_key(|(prefix, _)| prefix.length).map(|(_, class)| *class)
        }
        IpAddr::V6(v6) => {
            let covering = tables.prefilter6.iter().filter(|(prefix, _)| prefix.covers(&Prefix6::host(v6)));
            covering.max_by_key(|(prefix, _)| prefix.length).map(|(_, class)| *class)
        }
    }
}
