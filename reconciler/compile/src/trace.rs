//! Who may reach whom and which rule says so, by walking the compiled tables as the programs do.
use std::{collections::BTreeMap, net::IpAddr};

use weir_abi::{
    ACTION_DROP, ACTION_ENDPOINT_RANGE, ACTION_NONE, DIRECTION_EGRESS, DIRECTION_INGRESS, PolicyKey, RULE_NONE, Reason,
    SIDE_DESTINATION, SIDE_SOURCE, TupleClass, identity, interface_flags, policy_verdict,
};
use weir_plan::{Hook, InterfaceName, ObjectRef, Owner, Prefix4, Prefix6, Provenance, RuleRef, Tables};

use crate::{
    Compiled,
    delivery::{self, Delivery, Refusal, Sender, Target, deliver},
};

/// One end of a flow, as somebody names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// An address, or those of one endpoint: the one whose family fits the other end is taken.
    Addresses(Vec<IpAddr>),
    Host,
    World,
}

/// A new flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFlow {
    pub source: Who,
    pub destination: Who,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or the ICMP type.
    pub port: u16,
}

/// One end of a flow, as the tables see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    pub address: Option<IpAddr>,
    pub identity: u32,
    pub labels: BTreeMap<String, String>,
    /// The endpoint that has the address, on whichever node.
    pub endpoint: Option<ObjectRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No policy selects the subject for this direction.
    NotEnforced,
    Allow,
    Deny,
    /// Selected, and no rule allows it.
    DefaultDeny,
}

impl Outcome {
    pub const fn passes(self) -> bool {
        matches!(self, Self::NotEnforced | Self::Allow)
    }
}

/// What the policy of one end says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub subject: u32,
    pub peer: u32,
    pub outcome: Outcome,
    pub rule: Option<RuleRef>,
}

/// What the prefilter of one device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefilterDecision {
    pub interface: InterfaceName,
    pub drops: bool,
    pub rule: Option<RuleRef>,
}

/// What services make of a flow that is addressed to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTrace {
    /// Whose address it is.
    pub service: Option<ObjectRef>,
    /// Why it goes to no backend.
    pub dropped: Option<Reason>,
    /// Chance or a hash picks one of these: sorted by address and port.
    pub backends: Vec<BackendTrace>,
}

/// A backend that the flow may be sent to, and what policy makes of it then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTrace {
    pub backend: Party,
    pub port: u16,
    /// It is the client itself, which nobody is asked about.
    pub is_client: bool,
    pub egress: Option<Decision>,
    pub ingress: Option<Decision>,
}

impl BackendTrace {
    pub fn passes(&self) -> bool {
        self.egress.iter().chain(&self.ingress).all(|decision| decision.outcome.passes())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceVerdict {
    Allowed,
    Dropped,
    /// By the backend that it is sent to.
    Varies,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub source: Party,
    pub destination: Party,
    /// Per device, for a flow that comes from outside of this node.
    pub prefilter: Vec<PrefilterDecision>,
    /// Of a flow to a service's address, whose policy is asked for each backend.
    pub service: Option<ServiceTrace>,
    /// `None` where the source is not on this node.
    pub egress: Option<Decision>,
    pub ingress: Option<Decision>,
}

impl Trace {
    /// Whether the flow gets through, by whichever device it comes, to whichever backend it goes.
    pub fn passes(&self) -> bool {
        self.verdict() == TraceVerdict::Allowed
    }

    pub fn verdict(&self) -> TraceVerdict {
        let filtered = !self.prefilter.is_empty() && self.prefilter.iter().all(|device| device.drops);
        let judged = self.egress.iter().chain(&self.ingress);
        let passes = !filtered && judged.map(|decision| decision.outcome).all(Outcome::passes);
        let Some(service) = self.service.as_ref().filter(|_| passes) else {
            return if passes { TraceVerdict::Allowed } else { TraceVerdict::Dropped };
        };
        let mut of_backends = service.backends.iter().map(BackendTrace::passes);
        match of_backends.next() {
            Some(first) if of_backends.any(|other| other != first) => TraceVerdict::Varies,
            Some(true) => TraceVerdict::Allowed,
            Some(false) | None => TraceVerdict::Dropped,
        }
    }
}

/// Why a flow cannot be traced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("`{0}` is no endpoint, no address, and neither `host` nor `world`")]
    Unknown(String),
    #[error("`{name}` is several endpoints: {}", .matches.join(", "))]
    Ambiguous { name: String, matches: Vec<String> },
    #[error("the two ends have no address family in common")]
    Families,
}

impl Compiled {
    /// What `text` names: an endpoint (`name` or `namespace/name`), an address, `host` or `world`.
    pub fn resolve(&self, text: &str) -> Result<Who, TraceError> {
        match text {
            "host" => return Ok(Who::Host),
            "world" => return Ok(Who::World),
            _ => {}
        }
        if let Ok(address) = text.parse() {
            return Ok(Who::Addresses(vec![address]));
        }
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let matches: Vec<_> = self
            .endpoints()
            .into_iter()
            .filter(|one| &*one.object.name == name && namespace.is_none_or(|n| n == &*one.object.namespace))
            .collect();
        match matches.as_slice() {
            [] => Err(TraceError::Unknown(text.to_owned())),
            [one] if one.host && one.local => Ok(Who::Host),
            [one] => Ok(Who::Addresses(one.addresses.clone())),
            several => Err(TraceError::Ambiguous {
                name: text.to_owned(),
                matches: several.iter().map(|one| format!("{}/{}", one.object.namespace, one.object.name)).collect(),
            }),
        }
    }

    /// Who is at both ends of a flow, and what decides about it.
    pub fn trace(&self, flow: &TraceFlow) -> Result<Trace, TraceError> {
        let (source, destination) = self.addresses(&flow.source, &flow.destination)?;
        let v4 = source.or(destination).is_none_or(|address| address.is_ipv4());
        let sender = self.sender(&flow.source, source);
        let destination_local = self.is_local(&flow.destination, destination);
        let source = self.party(&flow.source, source, v4);
        let destination = self.party(&flow.destination, destination, v4);
        let prefilter = match sender {
            Sender::Outside => self.prefilter(source.address, destination.address),
            Sender::Endpoint | Sender::Host => Vec::new(),
        };
        let delivery = destination
            .address
            .map_or(Delivery::Direct, |to| deliver(&self.tables, sender, source.address, to, flow.protocol, flow.port));
        let service = match delivery {
            Delivery::Direct => {
                let judge = |subject: u32, peer: u32, direction: u8| {
                    self.decision(subject, peer, direction, flow.protocol, flow.port)
                };
                let egress =
                    (sender != Sender::Outside).then(|| judge(source.identity, destination.identity, DIRECTION_EGRESS));
                let ingress =
                    destination_local.then(|| judge(destination.identity, source.identity, DIRECTION_INGRESS));
                return Ok(Trace { source, destination, prefilter, service: None, egress, ingress });
            }
            Delivery::Dropped(Refusal { service, reason }) => {
                let owner = match (service, destination.address) {
                    (Some(number), _) => self.provenance.services.get(&number),
                    (None, address) => address.and_then(|address| self.provenance.service_addresses.get(&address)),
                };
                let service = owner.map(Owner::reference);
                ServiceTrace { service, dropped: Some(reason), backends: Vec::new() }
            }
            Delivery::Balanced { service, targets } => {
                let backend = |target: &Target| self.backend_trace(flow.protocol, sender, &source, target);
                let backends = targets.iter().map(backend).collect();
                let service = self.provenance.services.get(&service).map(Owner::reference);
                ServiceTrace { service, dropped: None, backends }
            }
        };
        Ok(Trace { source, destination, prefilter, service: Some(service), egress: None, ingress: None })
    }

    fn backend_trace(&self, protocol: u8, sender: Sender, source: &Party, target: &Target) -> BackendTrace {
        let judge =
            |subject: u32, peer: u32, direction: u8| self.decision(subject, peer, direction, protocol, target.port);
        // What an endpoint says to itself is nobody else's business.
        let is_client = sender == Sender::Endpoint && source.address == Some(target.address);
        let is_asked = sender != Sender::Outside && !is_client;
        let egress = is_asked.then(|| judge(source.identity, target.identity, DIRECTION_EGRESS));
        let is_asked = target.is_judged && !is_client;
        let ingress = is_asked.then(|| judge(target.identity, source.identity, DIRECTION_INGRESS));
        let who = Who::Addresses(vec![target.address]);
        let backend = self.party(&who, Some(target.address), target.address.is_ipv4());
        BackendTrace { backend, port: target.port, is_client, egress, ingress }
    }

    fn decision(&self, subject: u32, peer: u32, direction: u8, protocol: u8, port: u16) -> Decision {
        let (outcome, rule) = judge(&self.tables, subject, peer, direction, protocol, port);
        Decision { subject, peer, outcome, rule: self.provenance.rule(rule).cloned() }
    }

    /// One address for each end that has any, of one family.
    fn addresses(&self, source: &Who, destination: &Who) -> Result<(Option<IpAddr>, Option<IpAddr>), TraceError> {
        let candidates = |who: &Who| match who {
            Who::Addresses(list) => list.clone(),
            Who::Host => self.host_addresses.clone(),
            Who::World => Vec::new(),
        };
        let (from, to) = (candidates(source), candidates(destination));
        for a in &from {
            if let Some(b) = to.iter().find(|b| a.is_ipv4() == b.is_ipv4()) {
                return Ok((Some(*a), Some(*b)));
            }
        }
        match (from.first(), to.first()) {
            (Some(_), Some(_)) if *source != Who::Host && *destination != Who::Host => Err(TraceError::Families),
            (Some(_), Some(_)) if *source == Who::Host => Ok((None, to.first().copied())),
            (Some(_), Some(_)) => Ok((from.first().copied(), None)),
            (from, to) => Ok((from.copied(), to.copied())),
        }
    }

    fn sender(&self, who: &Who, address: Option<IpAddr>) -> Sender {
        match (who, address) {
            (Who::Host, _) => Sender::Host,
            (Who::World, _) | (Who::Addresses(_), None) => Sender::Outside,
            (Who::Addresses(_), Some(address)) => delivery::sender(&self.tables, address),
        }
    }

    fn is_local(&self, who: &Who, address: Option<IpAddr>) -> bool {
        match who {
            Who::Host => true,
            Who::World => false,
            Who::Addresses(_) => address.is_some_and(|address| self.tables.endpoints.get(&address).is_some()),
        }
    }

    fn party(&self, who: &Who, address: Option<IpAddr>, v4: bool) -> Party {
        let identity = match (who, address) {
            (Who::Host, _) => identity::HOST,
            (Who::World, _) | (Who::Addresses(_), None) => world(&self.tables, v4),
            (Who::Addresses(_), Some(address)) => peer(&self.tables, address),
        };
        let labels = self.identities.get(&identity).map(|labels| BTreeMap::clone(labels)).unwrap_or_default();
        Party { address, identity, labels, endpoint: address.and_then(|address| self.endpoint_at(address)) }
    }

    pub(crate) fn prefilter(&self, source: Option<IpAddr>, destination: Option<IpAddr>) -> Vec<PrefilterDecision> {
        let hooks = self.wiring.hooks.iter().filter(|(key, _)| key.hook == Hook::XdpIngress);
        let decide = |interface: &InterfaceName| {
            let info = self.tables.interfaces.get(interface).copied().unwrap_or_default();
            let group = info.prefilter_group as usize;
            let watched = [interface_flags::PREFILTER_SOURCE, interface_flags::PREFILTER_DESTINATION];
            let cell = |address: Option<IpAddr>, side: usize| {
                // The load balancer alone may be on the device, which then is in no group.
                let address = address.filter(|_| info.flags & watched[side] != 0);
                let class = address.map_or(0, |address| prefilter_class(&self.tables, address));
                let class = self.tables.classes.get(&class).copied().unwrap_or_default();
                class.cells[group * 2 + side]
            };
            let from = cell(source, SIDE_SOURCE);
            let to = cell(destination, SIDE_DESTINATION);
            let unknown = destination.is_some_and(|address| self.tables.endpoints.get(&address).is_none());
            let decided = match (from.action(), to.action()) {
                (ACTION_DROP, _) => Some(from),
                (_, ACTION_DROP) => Some(to),
                (_, ACTION_ENDPOINT_RANGE) if unknown => Some(to),
                (_, ACTION_NONE | _) => None,
            };
            PrefilterDecision {
                interface: interface.clone(),
                drops: decided.is_some(),
                rule: decided.and_then(|cell| self.provenance.rule(cell.rule()).cloned()),
            }
        };
        hooks.filter_map(|(key, _)| key.interface()).map(decide).collect()
    }
}

/// What `policy` says about one end of a flow, and the number of the rule that says it.
pub(crate) fn judge(
    tables: &Tables,
    subject: u32,
    peer: u32,
    direction: u8,
    protocol: u8,
    port: u16,
) -> (Outcome, u32) {
    let Some(info) = tables.subjects.get(&subject) else { return (Outcome::NotEnforced, RULE_NONE) };
    let direction_index = usize::from(direction);
    let probe = |mask: u64, verdict: u8| {
        (0..TupleClass::COUNT).filter(|class| mask & (1 << class) != 0).find_map(|class| {
            let key = PolicyKey::new(subject, peer, direction, TupleClass(class), protocol, port);
            tables.policy.get(&key).filter(|entry| entry.verdict == verdict)
        })
    };
    if let Some(entry) = probe(info.deny_classes[direction_index], policy_verdict::DENY) {
        return (Outcome::Deny, entry.rule);
    }
    if let Some(entry) = probe(info.allow_classes[direction_index], policy_verdict::ALLOW) {
        return (Outcome::Allow, entry.rule);
    }
    let outcome = if info.default_deny[direction_index] != 0 { Outcome::DefaultDeny } else { Outcome::NotEnforced };
    (outcome, RULE_NONE)
}

/// The identity of an address.
pub(crate) fn peer(tables: &Tables, address: IpAddr) -> u32 {
    let found = match address {
        IpAddr::V4(address) => {
            let bits = address.to_bits();
            (0..=32).rev().find_map(|length| tables.ipcache4.get(&prefix4(bits, length)))
        }
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (0..=128).rev().find_map(|length| tables.ipcache6.get(&prefix6(bits, length)))
        }
    };
    found.copied().unwrap_or(identity::WORLD)
}

/// The identity of an address that nobody mentioned.
pub(crate) fn world(tables: &Tables, v4: bool) -> u32 {
    let whole = if v4 { tables.ipcache4.get(&prefix4(0, 0)) } else { tables.ipcache6.get(&prefix6(0, 0)) };
    whole.copied().unwrap_or(identity::WORLD)
}

pub(crate) fn prefilter_class(tables: &Tables, address: IpAddr) -> u32 {
    let found = match address {
        IpAddr::V4(address) => {
            let bits = address.to_bits();
            (0..=32).rev().find_map(|length| tables.prefilter4.get(&prefix4(bits, length)))
        }
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (0..=128).rev().find_map(|length| tables.prefilter6.get(&prefix6(bits, length)))
        }
    };
    found.copied().unwrap_or(0)
}

fn prefix4(bits: u32, length: u8) -> Prefix4 {
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    Prefix4 { bits: bits & mask, length }
}

fn prefix6(bits: u128, length: u8) -> Prefix6 {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    Prefix6::from_bits(bits & mask, length)
}
