use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cilium_policy::Protocol;

/// A workload with addresses. `metadata.labels` are its security labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// Name of the [`crate::NodeSpec`] it runs on.
    pub node: String,
    /// Empty only for `attach: {host: true}`, whose addresses are the node's.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpAddr>,
    pub attach: Attach,
    /// What named ports of policies resolve to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
}

/// How the node reaches the endpoint: exactly one of three forms (checked).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attach {
    /// Alone: an existing host-side interface. With `netns`: the name inside the namespace (default `eth0`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Name (`ip netns`) or absolute path of a namespace: Weir makes the veth pair, addresses and routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The host itself: its policy is the host firewall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostTrue>,
}

/// The literal `true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "bool", into = "bool")]
#[schemars(with = "bool")]
pub struct HostTrue;

impl TryFrom<bool> for HostTrue {
    type Error = &'static str;

    fn try_from(value: bool) -> Result<Self, Self::Error> {
        if value { Ok(Self) } else { Err("only `true` means something here; leave `host` out otherwise") }
    }
}

impl From<HostTrue> for bool {
    fn from(_: HostTrue) -> Self {
        true
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedPort {
    pub name: String,
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
}
