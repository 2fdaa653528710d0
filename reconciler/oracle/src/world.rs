//! All objects, seen from one node.
use std::{net::IpAddr, sync::Arc};

use weir_schema::{CidrFilterSpec, EndpointSpec, LabelSelector, NodeConfigSpec, NodeSpec, Object, Spec};

use crate::{
    End, Flow, FlowProtocol, Judgement, Subject, Verdict, cilium, kubernetes,
    labels::{self, Labels},
    peer::Peer,
    rank::{self, Match, PortMatch},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// What the policy of one end of a flow is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub direction: Direction,
    /// The end whose policy it is.
    pub end: Peer<'a>,
    pub peer: Peer<'a>,
    /// The flow's destination, by whose `ports` named ports are resolved.
    pub receiver: Peer<'a>,
    pub protocol: FlowProtocol,
}

impl Question<'_> {
    /// A named port of an egress rule is a port of the peer: the rule means this peer, even if it speaks of all.
    pub(crate) fn names_the_peer(&self, ports: PortMatch) -> bool {
        ports.named && self.direction == Direction::Egress
    }
}

/// A set of objects as one node sees it.
#[derive(Clone, Debug)]
pub struct World<'a> {
    objects: &'a [Arc<Object>],
    node: &'a str,
    host_addresses: &'a [IpAddr],
}

impl<'a> World<'a> {
    /// `node` is the name that `--node` gives; `host_addresses` are the ones that the node's devices carry (those of
    /// its `Node` and of its host `Endpoint` count too).
    pub fn new(objects: &'a [Arc<Object>], node: &'a str, host_addresses: &'a [IpAddr]) -> Self {
        Self { objects, node, host_addresses }
    }

    /// The first packet of a flow, judged at both ends.
    pub fn judge(&self, flow: &Flow) -> Judgement {
        let source = self.who(flow.source);
        let destination = self.who(flow.destination);
        let ask = |direction, end, peer| {
            self.answer(&Question { direction, end, peer, receiver: destination, protocol: flow.protocol })
        };
        Judgement {
            egress: ask(Direction::Egress, source, destination),
            ingress: ask(Direction::Ingress, destination, source),
        }
    }

    fn answer(&self, question: &Question<'a>) -> End {
        let Question { direction, end, protocol, .. } = *question;
        let subject = match end {
            Peer::Endpoint(object, spec) if spec.node == self.node => Subject::Endpoint(object.key.clone()),
            Peer::Host => Subject::Host,
            Peer::Endpoint(..) | Peer::RemoteNode(..) | Peer::World(_) => {
                return End { subject: None, verdict: Verdict::Allow, rule: None };
            }
        };
        if protocol.is_neighbour_discovery() {
            return End { subject: Some(subject), verdict: Verdict::Allow, rule: None };
        }
        let mut default_deny = false;
        let mut matches: Vec<Match> = Vec::new();
        for object in self.objects {
            match &object.spec {
                Spec::NetworkPolicy(rules) | Spec::ClusterwideNetworkPolicy(rules) => {
                    let clusterwide = matches!(object.spec, Spec::ClusterwideNetworkPolicy(_));
                    let namespace = (!clusterwide).then_some(&*object.key.namespace);
                    for rule in rules.iter() {
                        let selected = match end {
                            Peer::Endpoint(..) => rule
                                .endpoint_selector
                                .as_ref()
                                .is_some_and(|selector| self.selects_endpoint(selector, namespace, end)),
                            _ => rule
                                .node_selector
                                .as_ref()
                                .is_some_and(|selector| clusterwide && self.selects_this_node(selector)),
                        };
                        if !selected {
                            continue;
                        }
                        default_deny |= cilium::default_deny(rule, direction);
                        matches.extend(cilium::matches(self, object, rule, namespace, question));
                    }
                }
                Spec::KubernetesNetworkPolicy(spec) => {
                    let namespace = Some(&*object.key.namespace);
                    if kubernetes::applies(spec, direction) && self.selects_endpoint(&spec.pod_selector, namespace, end)
                    {
                        default_deny = true;
                        matches.extend(kubernetes::matches(self, object, spec, question));
                    }
                }
                _ => {}
            }
        }
        let (verdict, rule) = match rank::best(matches) {
            Some(best) if best.deny => (Verdict::RuleDeny, Some(best.rule)),
            Some(best) => (Verdict::Allow, Some(best.rule)),
            None if default_deny => (Verdict::DefaultDeny, None),
            None => (Verdict::Allow, None),
        };
        End { subject: Some(subject), verdict, rule }
    }

    fn selects_endpoint(&self, selector: &LabelSelector, namespace: Option<&str>, end: Peer<'_>) -> bool {
        let Peer::Endpoint(object, _) = end else { return false };
        namespace.is_none_or(|namespace| &*object.key.namespace == namespace)
            && labels::selects(selector, &self.labels(end))
    }

    fn selects_this_node(&self, selector: &LabelSelector) -> bool {
        labels::selects(selector, &self.node_labels(self.node))
    }

    pub(crate) fn objects(&self) -> &'a [Arc<Object>] {
        self.objects
    }

    pub(crate) fn node(&self) -> &'a str {
        self.node
    }

    /// The endpoints of a namespace that a service's selector means; one that stands for a host has the addresses that
    /// it names.
    pub(crate) fn selected_endpoints(&self, namespace: &str, selector: &LabelSelector) -> Vec<&'a EndpointSpec> {
        let selected = self
            .endpoints()
            .filter(|(object, spec)| self.selects_endpoint(selector, Some(namespace), Peer::Endpoint(object, spec)));
        selected.map(|(_, spec)| spec).collect()
    }

    /// Who an address is, seen from this node.
    pub(crate) fn who(&self, address: IpAddr) -> Peer<'a> {
        let workload =
            self.endpoints().find(|(_, spec)| spec.attach.host.is_none() && spec.addresses.contains(&address));
        if let Some((object, spec)) = workload {
            return Peer::Endpoint(object, spec);
        }
        if self.is_host_address(address) {
            return Peer::Host;
        }
        let mut remote = self.node_addresses().filter(|(node, _)| *node != self.node);
        match remote.find(|(_, addresses)| addresses.contains(&address)) {
            Some((node, _)) => Peer::RemoteNode(node),
            None => Peer::World(address),
        }
    }

    fn is_host_address(&self, address: IpAddr) -> bool {
        let mut here = self.node_addresses().filter(|(node, _)| *node == self.node);
        self.host_addresses.contains(&address) || here.any(|(_, addresses)| addresses.contains(&address))
    }

    /// With those that no manifest names.
    pub(crate) fn all_host_addresses(&self) -> Vec<IpAddr> {
        let here = self.node_addresses().filter(|(node, _)| *node == self.node);
        here.flat_map(|(_, addresses)| addresses).chain(self.host_addresses).copied().collect()
    }

    /// Whether it is an address of the host, of a node or of an endpoint.
    pub(crate) fn is_anybodys(&self, address: IpAddr) -> bool {
        !matches!(self.who(address), Peer::World(_))
    }

    /// Addresses by node: of the `Node`s, and of the nodes' host `Endpoint`s.
    fn node_addresses(&self) -> impl Iterator<Item = (&'a str, &'a [IpAddr])> {
        let of_nodes = self.nodes().map(|(object, spec)| (&*object.key.name, &*spec.addresses));
        let host_endpoints = self.endpoints().filter(|(_, spec)| spec.attach.host.is_some());
        of_nodes.chain(host_endpoints.map(|(_, spec)| (&*spec.node, &*spec.addresses)))
    }

    /// Whose `ports` a named port is looked up in.
    pub(crate) fn receiver<'p>(&'p self, receiver: Peer<'p>) -> Option<&'p EndpointSpec> {
        match receiver {
            Peer::Endpoint(_, spec) => Some(spec),
            Peer::Host => {
                let mut host =
                    self.endpoints().filter(|(_, spec)| spec.attach.host.is_some() && spec.node == self.node);
                host.next().map(|(_, spec)| spec)
            }
            Peer::RemoteNode(..) | Peer::World(_) => None,
        }
    }

    /// What selectors are matched with.
    pub(crate) fn labels(&self, peer: Peer<'_>) -> Labels {
        let reserved = |name: &str| (format!("reserved:{name}"), String::new());
        match peer {
            Peer::Endpoint(object, _) => {
                let mut all = labels::written(&object.metadata.labels);
                all.insert(labels::NAMESPACE.to_owned(), object.key.namespace.to_string());
                for (key, value) in self.namespace_labels(&object.key.namespace) {
                    all.insert(format!("{}{key}", labels::NAMESPACE_LABELS), value);
                }
                all
            }
            Peer::Host => self.node_labels(self.node).into_iter().chain([reserved("host")]).collect(),
            Peer::RemoteNode(node) => self.node_labels(node).into_iter().chain([reserved("remote-node")]).collect(),
            Peer::World(IpAddr::V4(_)) => [reserved("world"), reserved("world-ipv4")].into(),
            Peer::World(IpAddr::V6(_)) => [reserved("world"), reserved("world-ipv6")].into(),
        }
    }

    /// Of the `Namespace` object, and the name label that every namespace has.
    pub(crate) fn namespace_labels(&self, namespace: &str) -> Labels {
        let object = self
            .objects
            .iter()
            .find(|object| matches!(object.spec, Spec::Namespace(_)) && &*object.key.name == namespace);
        let mut all = object.map(|object| labels::written(&object.metadata.labels)).unwrap_or_default();
        all.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
        all
    }

    fn node_labels(&self, name: &str) -> Labels {
        let node = self.nodes().find(|(object, _)| &*object.key.name == name);
        node.map(|(object, _)| labels::written(&object.metadata.labels)).unwrap_or_default()
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&'a Object, &'a EndpointSpec)> {
        self.objects.iter().filter_map(|object| match &object.spec {
            Spec::Endpoint(spec) => Some((&**object, &**spec)),
            _ => None,
        })
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&'a Object, &'a NodeSpec)> {
        self.objects.iter().filter_map(|object| match &object.spec {
            Spec::Node(spec) => Some((&**object, &**spec)),
            _ => None,
        })
    }

    pub(crate) fn filters(&self) -> impl Iterator<Item = (&'a Object, &'a CidrFilterSpec)> {
        self.objects.iter().filter_map(|object| match &object.spec {
            Spec::CidrFilter(spec) => Some((&**object, &**spec)),
            _ => None,
        })
    }

    /// Globs of this node's network devices, by the `NodeConfig`s that select it; any, where none names them.
    pub(crate) fn devices(&self) -> Vec<String> {
        let named: Vec<Vec<String>> = self.node_configs().filter_map(|config| config.devices.clone()).collect();
        if named.is_empty() { vec!["*".to_owned()] } else { named.concat() }
    }

    /// Whether the host's own sockets reach services.
    pub(crate) fn balances_sockets(&self) -> bool {
        self.node_configs().all(|config| config.socket_load_balancing != Some(false))
    }

    /// Those that select this node.
    pub(crate) fn node_configs(&self) -> impl Iterator<Item = &'a NodeConfigSpec> {
        let labels = self.node_labels(self.node);
        let configs = self.objects.iter().filter_map(|object| match &object.spec {
            Spec::NodeConfig(spec) => Some(&**spec),
            _ => None,
        });
        configs.filter(move |config| labels::selects(&config.node_selector, &labels))
    }

    /// Whether this node's endpoints are addressed from a range that holds the address.
    pub(crate) fn is_endpoint_range(&self, address: IpAddr) -> bool {
        let mut here = self.nodes().filter(|(object, _)| &*object.key.name == self.node);
        here.any(|(_, spec)| spec.endpoint_cidrs.iter().any(|prefix| prefix.contains(&address)))
    }

    /// Whether the address is an endpoint of this node, or the host.
    pub(crate) fn is_delivered_here(&self, address: IpAddr) -> bool {
        match self.who(address) {
            Peer::Endpoint(_, spec) => spec.node == self.node,
            Peer::Host => true,
            Peer::RemoteNode(..) | Peer::World(_) => false,
        }
    }
}
