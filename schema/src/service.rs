use std::{collections::HashMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    LabelSelector, PortNumber, code,
    port::is_port_name,
    prefix::unusable_address,
    problem::{Path, Problems},
};

/// Addresses and ports that stand for backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Where clients reach it.
    pub frontends: Vec<Frontend>,
    /// Who answers, by address. Not beside `selector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// Who answers: the endpoints of the service's namespace that match. Not beside `backends`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// How a backend is picked for a new flow. Default: `random`.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// A client's flows go to one backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
    /// Who may come from outside, by source address, to node ports and external addresses. Empty: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::json_schema::cidrs")]
    pub source_ranges: Vec<IpNet>,
    /// Which backends get what comes from outside the node. Default: `Cluster`.
    #[serde(default)]
    pub external_traffic_policy: TrafficPolicy,
    /// Which backends get what endpoints and processes of the node send. Default: `Cluster`.
    #[serde(default)]
    pub internal_traffic_policy: TrafficPolicy,
    /// What a client gets when no backend is there. Default: `reject`.
    #[serde(default)]
    pub no_backends: NoBackends,
}

/// An address and port that clients use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Frontend {
    /// Not with `type: node-port`, whose addresses are the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::json_schema::optional_address")]
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// Default: `TCP`.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// Default: `cluster`.
    #[serde(default, rename = "type")]
    pub kind: FrontendType,
    /// The backends' port, or the name of a port of the endpoints that are selected. Default: a backend's own `port`,
    /// else the frontend's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<PortNumber>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServiceProtocol {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    /// Ports are not rewritten: the backends' must be the frontend's.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl ServiceProtocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendType {
    /// An address that only the service has, for clients inside.
    #[default]
    Cluster,
    /// A port of every address of the node.
    NodePort,
    /// An address that clients outside use.
    External,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Of an endpoint, or of any other machine.
    pub address: IpAddr,
    /// Where the frontend has no `targetPort`. Default: the frontend's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share of new flows, beside the others' weights; 0 gets none. Default: 1.
    #[serde(default = "one")]
    pub weight: u16,
    /// Default: `active`.
    #[serde(default)]
    pub state: BackendState,
}

const fn one() -> u16 {
    1
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    #[default]
    Active,
    /// Keeps the flows that it has, and gets no new ones.
    Draining,
    /// Gets no packet at all.
    Maintenance,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Each flow by chance.
    #[default]
    Random,
    /// By a Maglev table: every node picks the same backend for a flow, and few flows move when backends change.
    Maglev,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionAffinity {
    /// How long after its last new flow a client is remembered. Default: 3h.
    #[serde(default = "three_hours", with = "crate::duration::plain")]
    #[schemars(schema_with = "crate::json_schema::duration")]
    pub timeout: Duration,
}

const fn three_hours() -> Duration {
    Duration::from_secs(3 * 3600)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    /// Every backend.
    #[default]
    Cluster,
    /// Backends on this node, and nobody where there are none.
    Local,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoBackends {
    /// A reset for TCP, "port unreachable" for everything else.
    #[default]
    Reject,
    Drop,
}

/// Seven days: as long as a client may be remembered.
const LONGEST_AFFINITY: Duration = Duration::from_secs(7 * 86400);

/// What only one frontend of a set can have: the address, none for a node port; the port; the protocol.
pub(crate) type FrontendPlace = (Option<IpAddr>, u16, ServiceProtocol);

/// `192.0.2.1:80/TCP`, `node port 30080/TCP`.
pub(crate) fn place_name((address, port, protocol): FrontendPlace) -> String {
    let protocol = protocol.name();
    match address {
        Some(address) => format!("{}/{protocol}", std::net::SocketAddr::new(address, port)),
        None => format!("node port {port}/{protocol}"),
    }
}

impl ServiceProtocol {
    /// As manifests have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl Frontend {
    /// The port of a backend that has, or has not, one of its own; `None` where only the backend's port names tell.
    fn port_of(&self, own: Option<u16>) -> Option<u16> {
        match &self.target_port {
            Some(PortNumber::Number(port)) => Some(*port),
            Some(PortNumber::Name(_)) => None,
            None => Some(own.unwrap_or(self.port)),
        }
    }
}

impl ServiceSpec {
    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        let form = "write `backends` with their addresses, or a `selector` of endpoints";
        match (self.backends.is_empty(), &self.selector) {
            (true, None) => {
                problems.push(code::SERVICE_FORM, at, "a service needs `backends` or a `selector`").at_key().help(form);
            }
            (false, Some(_)) => {
                let message = "`backends` and `selector` exclude each other";
                problems.push(code::SERVICE_FORM, &at.field("selector"), message).at_key().help(form);
            }
            _ => {}
        }
        if let Some(selector) = &self.selector {
            selector.check(&at.field("selector"), problems);
        }
        self.check_frontends(at, problems);
        self.check_backends(&at.field("backends"), problems);
        check_ranges(&self.source_ranges, &at.field("sourceRanges"), problems);
        if let Some(SessionAffinity { timeout }) = self.session_affinity
            && (timeout.subsec_nanos() != 0 || timeout.is_zero() || timeout > LONGEST_AFFINITY)
        {
            let at = at.field("sessionAffinity");
            problems
                .push(code::INVALID_DURATION, &at.field("timeout"), "`timeout` must be whole seconds, from 1s to 7days")
                .help("write for example `90s` or `3h`");
        }
    }

    fn check_frontends(&self, at: &Path<'_>, problems: &mut Problems) {
        let list = at.field("frontends");
        if self.frontends.is_empty() {
            problems
                .push(code::SERVICE_FORM, &list, "a service needs a frontend")
                .at_key()
                .help("write where clients reach it: `- {address: 10.96.0.10, port: 80}`");
        }
        let mut places = HashMap::new();
        for (index, frontend) in self.frontends.iter().enumerate() {
            let at = list.index(index);
            frontend.check(self.selector.is_some(), &at, problems);
            let place = (frontend.address, frontend.port, frontend.protocol);
            if let Some(first) = places.insert(place, index) {
                problems
                    .push(code::DUPLICATE_FRONTEND, &at, format!("{} stands here a second time", place_name(place)))
                    .related(&list.index(first), "first here");
            }
        }
    }

    fn check_backends(&self, at: &Path<'_>, problems: &mut Problems) {
        let mut earlier: HashMap<IpAddr, Vec<usize>> = HashMap::new();
        for (index, backend) in self.backends.iter().enumerate() {
            let at_backend = at.index(index);
            check_address(backend.address, &at_backend.field("address"), problems);
            if backend.port == Some(0) {
                problems.push(code::INVALID_PORT, &at_backend.field("port"), "no backend listens on port 0");
            }
            let rewritten = |frontend: &&Frontend| {
                frontend.protocol == ServiceProtocol::Sctp
                    && frontend.target_port.is_none()
                    && backend.port.is_some_and(|port| port != frontend.port)
            };
            if let Some(frontend) = self.frontends.iter().find(rewritten) {
                sctp_port(frontend.port, &at_backend.field("port"), problems);
            }
            let alike = earlier.entry(backend.address).or_default();
            // Two that differ in ports are one where a frontend says the port.
            let first = alike.iter().find_map(|first: &usize| {
                let other = &self.backends[*first];
                let same = |frontend: &Frontend| {
                    let port = frontend.port_of(backend.port)?;
                    let of_family = frontend.address.is_none_or(|one| one.is_ipv4() == backend.address.is_ipv4());
                    (of_family && frontend.port_of(other.port) == Some(port)).then_some((*first, port))
                };
                let equal = || (backend.port == other.port).then_some((*first, backend.port.unwrap_or_default()));
                self.frontends.iter().find_map(same).or_else(equal)
            });
            if let Some((first, port)) = first {
                let name = match port {
                    0 => backend.address.to_string(),
                    port => std::net::SocketAddr::new(backend.address, port).to_string(),
                };
                problems
                    .push(code::DUPLICATE_BACKEND, &at_backend, format!("`{name}` is a backend a second time"))
                    .related(&at.index(first), "first here")
                    .help("for a larger share of the flows, give the first one a `weight`");
            }
            alike.push(index);
        }
    }
}

impl Frontend {
    fn check(&self, selects: bool, at: &Path<'_>, problems: &mut Problems) {
        let address = at.field("address");
        match (self.address, self.kind) {
            (Some(_), FrontendType::NodePort) => {
                problems
                    .push(
                        code::SERVICE_FORM,
                        &address,
                        "a node port has no `address`: it is on every one of the node's",
                    )
                    .at_key()
                    .help("remove `address`, or write `type: external`");
            }
            (None, FrontendType::Cluster | FrontendType::External) => {
                problems
                    .push(code::SERVICE_FORM, at, "a frontend needs an `address`")
                    .help("only `type: node-port` goes without: it has the node's");
            }
            _ => {}
        }
        if let Some(one) = self.address {
            check_address(one, &address, problems);
        }
        if self.port == 0 {
            problems.push(code::INVALID_PORT, &at.field("port"), "a service's port is a number from 1 to 65535");
        }
        let target = at.field("targetPort");
        check_target_port(self.target_port.as_ref(), &target, problems);
        match &self.target_port {
            Some(PortNumber::Name(name)) if !selects => {
                problems
                    .push(code::SERVICE_FORM, &target, format!("nothing says which port `{name}` is"))
                    .help("write the number: names are those of the `ports` of selected endpoints");
            }
            Some(PortNumber::Number(port)) if self.protocol == ServiceProtocol::Sctp && *port != self.port => {
                sctp_port(self.port, &target, problems);
            }
            _ => {}
        }
    }
}

pub(crate) fn sctp_port(port: u16, at: &Path<'_>, problems: &mut Problems) {
    problems
        .push(code::SERVICE_FORM, at, "ports of SCTP are not rewritten")
        .help(format!("write the frontend's, {port}, or leave it out"));
}

pub(crate) fn check_target_port(port: Option<&PortNumber>, at: &Path<'_>, problems: &mut Problems) {
    match port {
        Some(PortNumber::Number(0)) => {
            problems.push(code::INVALID_PORT, at, "no backend listens on port 0");
        }
        Some(PortNumber::Name(name)) if !is_port_name(name) => {
            problems
                .push(code::INVALID_PORT, at, format!("`{name}` cannot name a port"))
                .help("use 1 to 15 letters, digits and `-`, at least one letter");
        }
        _ => {}
    }
}

/// An address of a service or of a backend.
pub(crate) fn check_address(address: IpAddr, at: &Path<'_>, problems: &mut Problems) {
    if let Some(what) = unusable_address(address) {
        problems.push(code::INVALID_ADDRESS, at, format!("`{address}` is {what}: nobody can have it"));
    }
}

pub(crate) fn check_ranges(ranges: &[IpNet], at: &Path<'_>, problems: &mut Problems) {
    for (index, range) in ranges.iter().enumerate() {
        if *range != range.trunc() {
            problems
                .push(code::HOST_BITS, &at.index(index), format!("`{range}` has bits set behind its prefix length"))
                .help(format!("write `{}`", range.trunc()));
        }
    }
}
