//! What becomes of one packet, on every way that it may take.
use std::net::IpAddr;

use weir_oracle::{Delivery, Flow, Judgement, RuleId, Sender, Verdict, World};
use weir_schema::{Attach, ExpectedBackend, FlowTestProtocol, FlowTestSpec, ObjectKey, ServiceProtocol, Spec};

use super::{Asked, End};
use crate::flow_test::is_as_expected;

/// One way that a flow may take: services give it one for each backend.
pub(super) struct Fate {
    pub backend: Option<(IpAddr, u16)>,
    pub dropped: Option<Drop>,
}

/// What dropped a packet.
pub(super) struct Drop {
    pub reason: &'static str,
    pub rule: Option<RuleId>,
    pub at: String,
}

/// The only backend that a flow may be sent to.
pub(super) struct Wanted {
    addresses: Vec<IpAddr>,
    port: Option<u16>,
}

impl Fate {
    pub fn is_as_expected(&self, spec: &FlowTestSpec, wanted: Option<&Wanted>) -> bool {
        let reason = self.dropped.as_ref().map(|dropped| dropped.reason);
        let is_there = wanted.is_none_or(|wanted| {
            let is = |(address, port)| {
                wanted.addresses.contains(&address) && wanted.port.is_none_or(|wanted| wanted == port)
            };
            self.backend.is_some_and(is)
        });
        is_as_expected(&spec.expect, reason, false) && is_there
    }
}

impl Asked<'_> {
    /// Over these nodes, in this order.
    pub(super) fn fates(&self, nodes: &[String], flow: &Flow) -> Vec<Fate> {
        let one = |dropped| vec![Fate { backend: None, dropped }];
        for node in nodes {
            match World::new(self.objects, node, &[]).deliver(flow) {
                Delivery::Direct(judgement) => {
                    if let Some(dropped) = denied(node, *judgement) {
                        return one(Some(dropped));
                    }
                }
                Delivery::Dropped(drop) => {
                    return one(Some(Drop { reason: drop.reason(), rule: None, at: node.clone() }));
                }
                Delivery::Balanced { backends, .. } => {
                    let fate = |candidate: weir_oracle::Candidate| {
                        let (address, port) = (candidate.address, candidate.port);
                        let on = Flow { destination: address, protocol: flow.protocol.to_port(port), ..*flow };
                        let dropped = denied(node, candidate.judgement).or_else(|| self.dropped_behind(node, &on));
                        Fate { backend: Some((address, port)), dropped }
                    };
                    return backends.into_iter().map(fate).collect();
                }
            }
        }
        one(None)
    }

    /// By the backend's own node, where it is another.
    fn dropped_behind(&self, node: &str, flow: &Flow) -> Option<Drop> {
        let there = self.node_of(flow.destination).filter(|there| there != node)?;
        if self.only.is_some() {
            return None;
        }
        let filtered = self.devices(&there).into_iter().find_map(|device| self.filtered(&there, flow, &device));
        filtered.or_else(|| denied(&there, World::new(self.objects, &there, &[]).judge(flow)))
    }

    /// The node by which a flow from outside comes to a service: the one that is asked for, or the only one.
    pub(super) fn entry(&self) -> Option<String> {
        if let Some(only) = self.only {
            return Some(only.to_owned());
        }
        let mut nodes = weir_compile::nodes(self.inventory).into_iter();
        nodes.next().filter(|_| nodes.next().is_none())
    }

    /// Whether a flow to one of these goes through a service, by whichever node it comes.
    pub(super) fn is_frontend(&self, addresses: &[IpAddr]) -> bool {
        // Of no node, so that no node's ports count.
        let world = World::new(self.objects, "", &[]);
        addresses.iter().any(|address| world.is_frontend(*address))
    }

    /// Where `from` finds the service that one of these keys names, by `node`; or why it does not.
    pub(super) fn service_end(
        &self,
        keys: &[ObjectKey],
        spec: &FlowTestSpec,
        from: &End,
        node: &str,
    ) -> Result<End, (bool, String)> {
        let Some(service) = keys.iter().find_map(|key| self.inventory.get(key)) else {
            return Err((true, "there is no such service".to_owned()));
        };
        let world = World::new(self.objects, node, &[]);
        let sender = from.addresses.first().map_or(Sender::Outside, |address| world.sender(*address));
        if sender == Sender::Host && spec.protocol == FlowTestProtocol::Sctp {
            return Err((false, "the host reaches services over TCP and UDP only".to_owned()));
        }
        let port = spec.port.unwrap_or(0);
        let addresses = match protocol(spec.protocol) {
            Some(protocol) => world.addresses_of_service(&service.key, protocol, port, sender),
            None => Vec::new(),
        };
        match addresses.is_empty() {
            true => {
                let service = weir_compile::reference(&service);
                Err((true, format!("{service} has no frontend on port {port} of this protocol")))
            }
            false => Ok(End { addresses, node: None }),
        }
    }

    pub(super) fn wanted(&self, spec: &FlowTestSpec, namespace: &str) -> Option<Wanted> {
        let key = match spec.expect.expected_backend(namespace)? {
            ExpectedBackend::Address(address, port) => return Some(Wanted { addresses: vec![address], port }),
            ExpectedBackend::Endpoint(key) => key,
        };
        let object = self.inventory.get(&key);
        let addresses = match object.as_ref().map(|object| &object.spec) {
            Some(Spec::Endpoint(endpoint)) => match endpoint.attach {
                Attach { host: Some(_), .. } => self.host_addresses(&endpoint.node),
                _ => endpoint.addresses.clone(),
            },
            _ => Vec::new(),
        };
        Some(Wanted { addresses, port: None })
    }
}

fn denied(node: &str, judged: Judgement) -> Option<Drop> {
    [judged.egress, judged.ingress].into_iter().find_map(|end| {
        let reason = match end.verdict {
            Verdict::Allow => return None,
            Verdict::RuleDeny => "policy_deny",
            Verdict::DefaultDeny => "policy_default_deny",
        };
        Some(Drop { reason, rule: end.rule, at: node.to_owned() })
    })
}

const fn protocol(protocol: FlowTestProtocol) -> Option<ServiceProtocol> {
    match protocol {
        FlowTestProtocol::Tcp => Some(ServiceProtocol::Tcp),
        FlowTestProtocol::Udp => Some(ServiceProtocol::Udp),
        FlowTestProtocol::Sctp => Some(ServiceProtocol::Sctp),
        FlowTestProtocol::Icmp | FlowTestProtocol::Icmpv6 => None,
    }
}
