use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LabelSelector, PortNumber};

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
