//! Flow tests without a node: the reference evaluator asks each node that an end is on.
mod fate;

use std::{net::IpAddr, sync::Arc};

use weir_compile::assumed_facts;
use weir_oracle::{Flow, FlowProtocol, RuleId, World};
use weir_plan::ObjectRef;
use weir_schema::{Attach, FlowEnd, FlowTestProtocol, FlowTestSpec, Inventory, Object, Spec};

use super::{FlowResult, FlowTestsDocument, Judge, PacketDocument, Result, VerdictDocument};
use crate::{Manifests, ObjectDocument, Place, RuleDocument};
use fate::{Drop, Fate};

/// A packet that begins a flow has some source port, and nobody judges by it.
const SOURCE_PORT: u16 = 40_000;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Runs every `FlowTest` of the set, on `node` or on all nodes that it concerns: a flow passes when every node that it
/// crosses lets it pass. Network devices are taken to be as the manifests name them.
pub fn flow_tests_by_oracle(manifests: &Manifests, inventory: &Inventory, node: Option<&str>) -> FlowTestsDocument {
    let objects: Vec<Arc<Object>> = inventory.objects().collect();
    let asked = Asked { manifests, inventory, objects: &objects, only: node };
    let results = inventory.of_kind("weir", "FlowTest").flat_map(|test| asked.test(&test)).collect();
    FlowTestsDocument::new(node, Judge::Oracle, results)
}

struct Asked<'a> {
    manifests: &'a Manifests,
    inventory: &'a Inventory,
    objects: &'a [Arc<Object>],
    only: Option<&'a str>,
}

/// One end: its addresses, and the node that it is on, where the set says so.
struct End {
    addresses: Vec<IpAddr>,
    node: Option<String>,
}

impl Asked<'_> {
    fn test(&self, test: &Object) -> Vec<FlowResult> {
        let Spec::FlowTest(spec) = &test.spec else { return Vec::new() };
        let about = self.about(test);
        let skipped = |why: &str| vec![FlowResult { why: Some(why.to_owned()), ..about.clone() }];
        let namespace = &*test.key.namespace;
        let service = spec.to.service_keys(namespace);
        let mut ends = [&spec.from, &spec.to].map(|end| self.end(end, namespace));
        // Whose host is meant is said by the other end.
        for (at, given) in [&spec.from, &spec.to].into_iter().enumerate() {
            if given.host.is_some() {
                let node = ends[1 - at].node.clone().or_else(|| self.only.map(str::to_owned));
                let Some(node) = node else { return skipped("neither end says on which node the host is meant") };
                ends[at] = End { addresses: self.host_addresses(&node), node: Some(node) };
                if ends[at].addresses.is_empty() {
                    return skipped("the manifests do not say which addresses the host has");
                }
            }
        }
        let [from, mut to] = ends;
        let mut nodes: Vec<String> = from.node.iter().chain(&to.node).cloned().collect();
        nodes.dedup();
        if let Some(only) = self.only {
            nodes.retain(|node| *node == only);
        }
        let enters = from.node.is_none() && to.node.is_none();
        if nodes.is_empty() && enters && (service.is_some() || self.is_frontend(&to.addresses)) {
            let Some(entry) = self.entry() else {
                return skipped("nobody says by which node it comes in: name one with --node");
            };
            nodes.push(entry);
        }
        let Some(first) = nodes.first() else {
            return skipped(if self.only.is_some() {
                "neither end is on this node"
            } else {
                "neither end is on a node"
            });
        };
        if let Some(keys) = service {
            to = match self.service_end(&keys, spec, &from, first) {
                Ok(end) => end,
                Err((false, why)) => return skipped(&why),
                Err((true, why)) => return vec![FlowResult { result: Result::Failed, why: Some(why), ..about }],
            };
        }
        let wanted = self.wanted(spec, namespace);
        let mut results = Vec::new();
        for v4 in [true, false] {
            let of_family = |end: &End| {
                let mut addresses = end.addresses.iter().copied();
                addresses.find(|address| address.is_ipv4() == v4 && spec.protocol.fits(*address))
            };
            let (Some(source), Some(destination)) = (of_family(&from), of_family(&to)) else { continue };
            let flow = Flow { source, destination, protocol: protocol(spec) };
            // From outside, by each device.
            let entered = nodes.iter().find(|node| from.node.as_ref() != Some(node));
            let entrances = entered.map_or_else(Vec::new, |node| self.entrances(node, spec));
            for entrance in if entrances.is_empty() { vec![None] } else { entrances } {
                let filtered = entered.zip(entrance.as_ref()).and_then(|(node, by)| self.filtered(node, &flow, by));
                let fates = match filtered {
                    Some(dropped) => vec![Fate { backend: None, dropped: Some(dropped) }],
                    None => self.fates(&nodes, &flow),
                };
                // Whichever backend it goes to, this must become of it.
                let right: Vec<bool> = fates.iter().map(|fate| fate.is_as_expected(spec, wanted.as_ref())).collect();
                let told = right.iter().position(|right| !right).unwrap_or(0);
                let Some(fate) = fates.into_iter().nth(told) else { continue };
                results.push(self.result(&about, spec, &flow, entrance, fate, !right.contains(&false)));
            }
        }
        if results.is_empty() {
            let why = "the two ends have no address family in common that the protocol can have".to_owned();
            return vec![FlowResult { result: Result::Failed, why: Some(why), ..about }];
        }
        results
    }

    fn about(&self, test: &Object) -> FlowResult {
        let place = Place { file: test.origin.path.clone(), line: test.origin.line };
        FlowResult::about(&weir_compile::reference(test), Some(place))
    }

    fn end(&self, end: &FlowEnd, namespace: &str) -> End {
        if let Some(address) = end.address {
            return End { addresses: vec![address], node: self.node_of(address) };
        }
        let object = end.endpoint_key(namespace).and_then(|key| self.inventory.get(&key));
        match object.as_ref().map(|object| &object.spec) {
            Some(Spec::Endpoint(endpoint)) => {
                let addresses = match endpoint.attach {
                    Attach { host: Some(_), .. } => self.host_addresses(&endpoint.node),
                    _ => endpoint.addresses.clone(),
                };
                End { addresses, node: Some(endpoint.node.clone()) }
            }
            _ => End { addresses: Vec::new(), node: None },
        }
    }

    /// The node that an address is on, as far as manifests say it.
    fn node_of(&self, address: IpAddr) -> Option<String> {
        self.objects.iter().find_map(|object| match &object.spec {
            Spec::Endpoint(endpoint) if endpoint.addresses.contains(&address) => Some(endpoint.node.clone()),
            Spec::Node(node)
                if node.addresses.contains(&address)
                    || node.endpoint_cidrs.iter().any(|range| range.contains(&address)) =>
            {
                Some(object.key.name.to_string())
            }
            _ => None,
        })
    }

    /// As far as manifests say it.
    fn host_addresses(&self, node: &str) -> Vec<IpAddr> {
        let of = |object: &Arc<Object>| match &object.spec {
            Spec::Node(spec) if &*object.key.name == node => spec.addresses.clone(),
            Spec::Endpoint(spec) if spec.node == node && spec.attach.host.is_some() => spec.addresses.clone(),
            _ => Vec::new(),
        };
        self.objects.iter().flat_map(of).collect()
    }

    /// The devices by which a packet from outside comes in.
    fn entrances(&self, node: &str, spec: &FlowTestSpec) -> Vec<Option<String>> {
        if let Some(interface) = &spec.from.interface {
            return vec![Some(interface.clone())];
        }
        self.devices(node).into_iter().map(Some).collect()
    }

    /// Those that filters watch.
    fn devices(&self, node: &str) -> Vec<String> {
        let world = World::new(self.objects, node, &[]);
        let facts = assumed_facts(&[self.inventory], node);
        let names = facts.interfaces.into_iter().map(|interface| interface.name.to_string());
        names.filter(|name| world.is_watched(name)).collect()
    }

    fn filtered(&self, node: &str, flow: &Flow, interface: &str) -> Option<Drop> {
        let rule = World::new(self.objects, node, &[]).prefilter(interface, flow.source, flow.destination)?;
        let unknown = rule.path == "spec.dropUnknownDestinations";
        let reason = if unknown { "unknown_destination" } else { "prefilter" };
        Some(Drop { reason, rule: Some(rule), at: format!("{interface} of {node}") })
    }

    fn result(
        &self,
        about: &FlowResult,
        spec: &FlowTestSpec,
        flow: &Flow,
        interface: Option<String>,
        fate: Fate,
        is_right: bool,
    ) -> FlowResult {
        let Fate { backend, dropped } = fate;
        let actual = VerdictDocument::actual(dropped.as_ref().map(|dropped| dropped.reason), backend);
        let (rule, at) = dropped.map_or((None, None), |Drop { rule, at, .. }| (rule, Some(at)));
        let document =
            PacketDocument::new(flow.source, flow.destination, spec.protocol.number(), spec.port.unwrap_or(0));
        let judged = Flow { destination: backend.map_or(flow.destination, |(address, _)| address), ..*flow };
        FlowResult {
            result: if is_right { Result::Passed } else { Result::Failed },
            flow: Some(PacketDocument { interface, ..document }),
            expected: Some((&spec.expect).into()),
            actual: Some(actual),
            rule: rule.map(|rule| self.rule(&rule, &judged)),
            at,
            ..about.clone()
        }
    }

    fn rule(&self, rule: &RuleId, flow: &Flow) -> RuleDocument {
        let object = self.inventory.get(&rule.object);
        let file_of = |path: &str| self.manifests.file(path);
        let place = object.as_ref().and_then(|object| {
            let of_list = |address| weir_schema::locate_list_entry(object, &rule.path, address, file_of);
            let listed = [flow.source, flow.destination].into_iter().find_map(of_list);
            listed.map(|(file, position)| (file, position.line)).or_else(|| {
                let Object { origin, .. } = &**object;
                let located = weir_schema::locate(self.manifests.file(&origin.path)?, origin.document, &rule.path);
                Some((origin.path.clone(), located.map_or(origin.line, |position| position.line)))
            })
        });
        let reference = object.map_or_else(
            || ObjectRef {
                api_version: rule.object.group.clone(),
                kind: rule.object.kind.clone(),
                namespace: rule.object.namespace.clone(),
                name: rule.object.name.clone(),
            },
            |object| weir_compile::reference(&object),
        );
        RuleDocument {
            object: ObjectDocument::from(&reference),
            path: rule.path.clone(),
            file: place.as_ref().map(|(file, _)| file.to_string()),
            line: place.map(|(_, line)| line),
        }
    }
}

fn protocol(spec: &FlowTestSpec) -> FlowProtocol {
    let (source, destination) = (SOURCE_PORT, spec.port.unwrap_or(0));
    match spec.protocol {
        FlowTestProtocol::Tcp => FlowProtocol::Tcp { source, destination },
        FlowTestProtocol::Udp => FlowProtocol::Udp { source, destination },
        FlowTestProtocol::Sctp => FlowProtocol::Sctp { source, destination },
        FlowTestProtocol::Icmp => FlowProtocol::Icmp { kind: ECHO_REQUEST },
        FlowTestProtocol::Icmpv6 => FlowProtocol::Icmpv6 { kind: ECHO_REQUEST_V6 },
    }
}
