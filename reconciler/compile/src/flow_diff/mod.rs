//! Which flows meet another fate under one set than under another: one for each pair of identities and each rule that
//! speaks of them, one for each client and frontend of a service, and those that flow tests declare.
mod policy;
mod prefilter;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use weir_abi::Reason;
use weir_plan::{InterfaceName, ObjectRef, RuleRef};

use crate::{BackendTrace, Compiled, Decision, FlowCase, Outcome, Trace, TraceFlow, Who};

/// A flow that passes under one set and not under the other, or has other backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowChange {
    pub flow: ChangedFlow,
    pub before: Fate,
    pub after: Fate,
}

/// What becomes of it, and by which rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Whichever backend it goes to.
    pub passes: bool,
    /// `None` behind a service, whose backends have theirs.
    pub rule: Option<RuleRef>,
    /// Why a service has no backend for it.
    pub dropped: Option<Reason>,
    /// Those that it may be sent to, sorted by address and port.
    pub backends: Vec<BackendFate>,
}

/// What becomes of it at one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFate {
    pub address: IpAddr,
    pub port: u16,
    pub passes: bool,
    pub rule: Option<RuleRef>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedFlow {
    /// A packet of a flow test.
    Test(Box<FlowCase>),
    /// Between a subject and a peer, as the subject's policy sees it.
    Policy {
        subject: Side,
        /// `None`: whoever no rule names.
        peer: Option<Side>,
        egress: bool,
        /// `None`: a protocol that no rule names.
        protocol: Option<u8>,
        /// `None`: a port that no rule names.
        port: Option<u16>,
    },
    /// From a client to a frontend, which stands for all that have its backends in common.
    Service { service: Option<ObjectRef>, client: Side, address: IpAddr, protocol: u8, port: u16 },
    /// From or to an address, as the prefilter of a device sees it.
    Prefilter { interface: InterfaceName, address: IpAddr, destination: bool },
}

/// One end: its labels, and an address where it is the address that changed hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub labels: BTreeMap<String, String>,
    pub address: Option<IpAddr>,
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ECHO_REQUEST: u16 = 8;
const ECHO_REQUEST_V6: u16 = 128;

/// Every flow that passes under one and not under the other, one for each pair of identities and rules. Goes through all
/// policy entries once.
pub fn flow_changes(before: &Compiled, after: &Compiled) -> Vec<FlowChange> {
    let mut changes = tests(before, after);
    changes.extend(service::changes(before, after));
    changes.extend(policy::changes(before, after));
    changes.extend(prefilter::changes(before, after));
    changes
}

/// Of either set, those that both can tell of.
fn tests(before: &Compiled, after: &Compiled) -> Vec<FlowChange> {
    let mut cases = after.flow_cases().cases;
    let known: BTreeSet<ObjectRef> = cases.iter().map(|case| case.test.clone()).collect();
    cases.extend(before.flow_cases().cases.into_iter().filter(|case| !known.contains(&case.test)));
    let fate = |compiled: &Compiled, case: &FlowCase| {
        let probe = &case.probe;
        let flow = TraceFlow {
            source: Who::Addresses(vec![probe.source]),
            destination: Who::Addresses(vec![probe.destination]),
            protocol: probe.protocol,
            port: match probe.protocol {
                ICMP => ECHO_REQUEST,
                ICMPV6 => ECHO_REQUEST_V6,
                _ => probe.port,
            },
        };
        let mut trace = compiled.trace(&flow).ok()?;
        if let Some(interface) = &case.interface {
            trace.prefilter.retain(|device| device.interface == *interface);
        }
        Some(Fate::of(&trace))
    };
    let changed = |case: FlowCase| {
        let (before, after) = (fate(before, &case)?, fate(after, &case)?);
        let flow = ChangedFlow::Test(Box::new(case));
        before.differs(&after).then_some(FlowChange { flow, before, after })
    };
    cases.into_iter().filter_map(changed).collect()
}

impl Fate {
    fn of(trace: &Trace) -> Self {
        let passes = trace.passes();
        let filtered = trace.prefilter.iter().all(|device| device.drops);
        if let Some(dropped) = trace.prefilter.first().filter(|_| filtered) {
            return Self { rule: dropped.rule.clone(), ..Self::default() };
        }
        match &trace.service {
            None => Self { passes, rule: deciding(&trace.egress, &trace.ingress), ..Self::default() },
            Some(service) => {
                let fate = |backend: &BackendTrace| {
                    let rule = deciding(&backend.egress, &backend.ingress);
                    let address = backend.backend.address?;
                    Some(BackendFate { address, port: backend.port, passes: backend.passes(), rule })
                };
                let backends = service.backends.iter().filter_map(fate).collect();
                Self { passes, rule: None, dropped: service.dropped, backends }
            }
        }
    }

    /// By more than the name of a rule.
    fn differs(&self, other: &Self) -> bool {
        let of = |fate: &Self| {
            let backends = fate.backends.iter().map(|one| (one.address, one.port, one.passes));
            (fate.passes, fate.dropped, backends.collect::<Vec<_>>())
        };
        of(self) != of(other)
    }
}

/// The rule that stops it, or the last that lets it pass.
fn deciding(egress: &Option<Decision>, ingress: &Option<Decision>) -> Option<RuleRef> {
    let judged = || egress.iter().chain(ingress);
    let stopped = judged().find(|decision| !decision.outcome.passes());
    let said = judged().rfind(|decision| decision.outcome == Outcome::Allow);
    stopped.or(said).and_then(|decision| decision.rule.clone())
}

/// An address of the prefix that no longer prefix has taken; `None` where there is none, or none is found soon.
fn own_address(net: IpNet, is_taken: &impl Fn(IpNet) -> bool) -> Option<IpAddr> {
    const TRIES: usize = 256;
    let mut address = net.network();
    for _ in 0..TRIES {
        let longer = (net.prefix_len() + 1..=net.max_prefix_len()).rev().filter_map(|length| {
            let longer = IpNet::new(address, length).ok()?.trunc();
            is_taken(longer).then_some(longer)
        });
        let Some(taken) = longer.last() else { return Some(address) };
        // Behind it.
        address = match taken.broadcast() {
            IpAddr::V4(last) => IpAddr::V4(u32::from(last).checked_add(1)?.into()),
            IpAddr::V6(last) => IpAddr::V6(u128::from(last).checked_add(1)?.into()),
        };
        if !net.contains(&address) {
            return None;
        }
    }
    None
}
