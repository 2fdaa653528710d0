//! `v1 Service` and `discovery.k8s.io/v1 EndpointSlice`, read as they are.
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    FrontendType, PortNumber, ServiceProtocol, TrafficPolicy, code,
    problem::{Path, Problems},
    service::{FrontendPlace, check_address, check_ranges, check_target_port, place_name, sctp_port},
};

/// What an API server has and nobody here needs: accepted, and the same whatever it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOver;

impl<'de> Deserialize<'de> for ReadOver {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(from).map(|_| Self)
    }
}

impl JsonSchema for ReadOver {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ReadOver".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({})
    }
}

/// Addresses and ports that stand for pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesServiceSpec {
    /// Default: `ClusterIP`.
    #[serde(default, rename = "type")]
    pub kind: KubernetesServiceType,
    /// Ports of its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<KubernetesServicePort>,
    /// Who answers, where no `EndpointSlice` is of this service: the endpoints of its namespace with these labels.
    #[serde(default, deserialize_with = "crate::meta::unique_map", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub selector: BTreeMap<String, String>,
    /// Its address for clients inside; `None` for a headless service, which is not balanced.
    #[serde(default, rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<String>,
    /// Its addresses of both families, `clusterIP` first.
    #[serde(default, rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// Addresses for clients outside.
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::json_schema::addresses")]
    pub external_ips: Vec<IpAddr>,
    /// An address for clients outside, with `type: LoadBalancer`.
    #[serde(default, rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::json_schema::optional_address")]
    pub load_balancer_ip: Option<IpAddr>,
    /// Who may come from outside, by source address. Empty: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::json_schema::cidrs")]
    pub load_balancer_source_ranges: Vec<IpNet>,
    /// Which backends get what comes from outside the node. Default: `Cluster`.
    #[serde(default)]
    pub external_traffic_policy: TrafficPolicy,
    /// Which backends get what endpoints of the node send. Default: `Cluster`.
    #[serde(default)]
    pub internal_traffic_policy: TrafficPolicy,
    /// Whether a client's flows go to one backend. Default: `None`.
    #[serde(default)]
    pub session_affinity: KubernetesAffinity,
    /// How long a client is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<KubernetesAffinityConfig>,
    /// Pods that are not ready are backends as well.
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub external_name: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub health_check_node_port: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub ip_families: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub ip_family: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub ip_family_policy: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub allocate_load_balancer_node_ports: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub load_balancer_class: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub traffic_distribution: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub topology_keys: ReadOver,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KubernetesServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    /// A name in DNS: nothing to balance.
    ExternalName,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesServicePort {
    /// What an `EndpointSlice` calls the port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Default: `TCP`.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// The service's port.
    pub port: u16,
    /// The pods' port, by number or by name. Default: `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<PortNumber>,
    /// The port of every node, with `type: NodePort` and `LoadBalancer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub app_protocol: ReadOver,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KubernetesAffinity {
    #[default]
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesAffinityConfig {
    /// For `sessionAffinity: ClientIP`.
    #[serde(default, rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientIp {
    /// How long a client is remembered. Default: 10800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// Backends of a `v1 Service`, which the label `kubernetes.io/service-name` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSliceSpec {
    pub address_type: SliceAddressType,
    pub endpoints: Vec<SliceEndpoint>,
    pub ports: Vec<SlicePort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SliceAddressType {
    IPv4,
    IPv6,
    /// Names in DNS: no backends.
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SliceEndpoint {
    /// All of one backend; only the first counts, as in Kubernetes.
    pub addresses: Vec<String>,
    /// Whether it answers.
    #[serde(default)]
    pub conditions: SliceConditions,
    /// The node that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub hostname: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub target_ref: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub deprecated_topology: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub zone: ReadOver,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub hints: ReadOver,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SliceConditions {
    /// Gets new flows. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Answers, although it may be on its way out. Default: as `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// On its way out. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlicePort {
    /// What the service calls the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Default: `TCP`.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// The number; unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Read over.
    #[serde(default, skip_serializing)]
    pub app_protocol: ReadOver,
}

/// A place where a `v1 Service` is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesFrontend {
    /// None for a node port.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub protocol: ServiceProtocol,
    pub kind: FrontendType,
    /// Index in `ports`.
    pub of: usize,
    /// What says so.
    pub path: String,
}

/// Kubernetes' default.
const AFFINITY_SECONDS: u32 = 10800;
const LONGEST_AFFINITY: u32 = 86400;

impl KubernetesServiceSpec {
    /// Whether its clients find its pods by DNS, and nothing is balanced.
    pub fn is_headless(&self) -> bool {
        self.cluster_ip.iter().chain(&self.cluster_ips).any(|text| text == "None")
    }

    /// Seconds that a client is remembered, 0 for none.
    pub fn affinity(&self) -> u32 {
        let config = self.session_affinity_config.as_ref();
        match self.session_affinity {
            KubernetesAffinity::None => 0,
            KubernetesAffinity::ClientIp => {
                config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds).unwrap_or(AFFINITY_SECONDS)
            }
        }
    }

    /// Where it is reached, each place once. None for a headless service and `ExternalName`.
    pub fn frontends(&self) -> Vec<KubernetesFrontend> {
        if self.kind == KubernetesServiceType::ExternalName || self.is_headless() {
            return Vec::new();
        }
        let cluster = self.cluster_ip.iter().map(|text| (text, "spec.clusterIP".to_owned()));
        let clusters = self.cluster_ips.iter().enumerate();
        let clusters = clusters.map(|(index, text)| (text, format!("spec.clusterIPs[{index}]")));
        let cluster = cluster.chain(clusters).filter_map(|(text, path)| Some((text.parse().ok()?, path)));
        let mut addresses: Vec<(IpAddr, FrontendType, String)> = Vec::new();
        let external = self.external_ips.iter().enumerate();
        let external = external.map(|(index, address)| (*address, format!("spec.externalIPs[{index}]")));
        let balancer = self.load_balancer_ip.filter(|_| self.kind == KubernetesServiceType::LoadBalancer);
        let external = external.chain(balancer.map(|address| (address, "spec.loadBalancerIP".to_owned())));
        let all = cluster.map(|(address, path)| (address, FrontendType::Cluster, path));
        for one in all.chain(external.map(|(address, path)| (address, FrontendType::External, path))) {
            if addresses.iter().all(|(address, ..)| *address != one.0) {
                addresses.push(one);
            }
        }
        let mut frontends = Vec::new();
        for (of, port) in self.ports.iter().enumerate() {
            let place = |address, number, kind, path| KubernetesFrontend {
                address,
                port: number,
                protocol: port.protocol,
                kind,
                of,
                path,
            };
            let own = addresses.iter().cloned();
            frontends.extend(own.map(|(address, kind, path)| place(Some(address), port.port, kind, path)));
            let on_nodes = matches!(self.kind, KubernetesServiceType::NodePort | KubernetesServiceType::LoadBalancer);
            if let Some(number) = port.node_port.filter(|number| on_nodes && *number != 0) {
                frontends.push(place(None, number, FrontendType::NodePort, format!("spec.ports[{of}].nodePort")));
            }
        }
        frontends
    }

    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        let list = at.field("clusterIPs");
        let clusters = self.cluster_ips.iter().enumerate().map(|(index, text)| (list.index(index), text));
        for (at, text) in self.cluster_ip.iter().map(|text| (at.field("clusterIP"), text)).chain(clusters) {
            match text.parse() {
                Ok(address) => check_address(address, &at, problems),
                Err(_) if matches!(text.as_str(), "" | "None") => {}
                Err(_) => {
                    let message = format!("`{text}` is neither an IP address nor `None`");
                    problems.push(code::INVALID_ADDRESS, &at, message);
                }
            }
        }
        let list = at.field("externalIPs");
        for (index, address) in self.external_ips.iter().enumerate() {
            check_address(*address, &list.index(index), problems);
        }
        if let Some(address) = self.load_balancer_ip {
            check_address(address, &at.field("loadBalancerIP"), problems);
        }
        check_ranges(&self.load_balancer_source_ranges, &at.field("loadBalancerSourceRanges"), problems);
        let timeout = self.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        if timeout.and_then(|one| one.timeout_seconds).is_some_and(|one| one == 0 || one > LONGEST_AFFINITY) {
            let (config, client) = (at.field("sessionAffinityConfig"), "clientIP");
            let at = config.field(client);
            let message = format!("`timeoutSeconds` must be from 1 to {LONGEST_AFFINITY}");
            problems.push(code::INVALID_DURATION, &at.field("timeoutSeconds"), message);
        }
        self.check_ports(&at.field("ports"), problems);
    }

    fn check_ports(&self, at: &Path<'_>, problems: &mut Problems) {
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut places: HashMap<FrontendPlace, usize> = HashMap::new();
        for (index, port) in self.ports.iter().enumerate() {
            let at_port = at.index(index);
            if port.port == 0 {
                let message = "a service's port is a number from 1 to 65535";
                problems.push(code::INVALID_PORT, &at_port.field("port"), message);
            }
            let target = at_port.field("targetPort");
            check_target_port(port.target_port.as_ref(), &target, problems);
            if port.protocol == ServiceProtocol::Sctp
                && let Some(PortNumber::Number(number)) = &port.target_port
                && *number != port.port
            {
                sctp_port(port.port, &target, problems);
            }
            if let Some(first) = names.insert(&port.name, index) {
                let name =
                    if port.name.is_empty() { "no name".to_owned() } else { format!("the name `{}`", port.name) };
                problems
                    .push(code::INVALID_PORT, &at_port, format!("two ports have {name}"))
                    .related(&at.index(first), "first here")
                    .help("give each its own `name`: endpoint slices have their ports by it");
            }
            let on_nodes = port.node_port.filter(|number| *number != 0).map(|number| (None, number, port.protocol));
            // Its addresses are those of all ports: unspecified stands for each.
            let any = IpAddr::from([0, 0, 0, 0]);
            for place in [Some((Some(any), port.port, port.protocol)), on_nodes].into_iter().flatten() {
                if let Some(first) = places.insert(place, index) {
                    let what = match place {
                        (None, ..) => place_name(place),
                        (_, number, protocol) => format!("port {number}/{}", protocol.name()),
                    };
                    problems
                        .push(code::DUPLICATE_FRONTEND, &at_port, format!("{what} stands here a second time"))
                        .related(&at.index(first), "first here");
                }
            }
        }
    }
}

impl EndpointSliceSpec {
    /// The addresses that are backends, with what they are an address of.
    pub fn backends(&self) -> impl Iterator<Item = (IpAddr, &SliceEndpoint)> {
        let names = self.address_type == SliceAddressType::Fqdn;
        let endpoints = self.endpoints.iter().filter(move |_| !names);
        endpoints.filter_map(|endpoint| Some((endpoint.addresses.first()?.parse().ok()?, endpoint)))
    }

    pub(crate) fn check(&self, root: &Path<'_>, problems: &mut Problems) {
        let list = root.field("endpoints");
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let at = list.index(index);
            let addresses = at.field("addresses");
            if endpoint.addresses.is_empty() {
                problems.push(code::MISSING_FIELD, &addresses, "an endpoint of a slice needs an address").at_key();
            }
            for (index, text) in endpoint.addresses.iter().enumerate() {
                let at = addresses.index(index);
                match (self.address_type, text.parse::<IpAddr>()) {
                    (SliceAddressType::Fqdn, _) => {}
                    (kind, Ok(address)) if address.is_ipv4() != (kind == SliceAddressType::IPv4) => {
                        let message = format!("`{text}` is not an address of `{kind:?}`");
                        problems
                            .push(code::INVALID_ADDRESS, &at, message)
                            .related(&root.field("addressType"), "the slice's family");
                    }
                    (_, Ok(address)) => check_address(address, &at, problems),
                    (_, Err(_)) => {
                        problems.push(code::INVALID_ADDRESS, &at, format!("`{text}` is not an IP address"));
                    }
                }
            }
        }
        let ports = root.field("ports");
        for (index, port) in self.ports.iter().enumerate() {
            if port.port == Some(0) {
                problems.push(code::INVALID_PORT, &ports.index(index).field("port"), "no backend listens on port 0");
            }
        }
    }
}
