use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    cilium_policy::Protocol,
    code,
    name::{NameRule, check_interface},
    node::check_addresses,
    port::is_port_name,
    problem::{Path, Problems},
};

/// A workload with addresses. `metadata.labels` are its security labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// Name of the [`crate::NodeSpec`] it runs on.
    pub node: String,
    /// Empty only for `attach: {host: true}`, whose addresses are the node's.
    #[serde(default)]
    #[schemars(schema_with = "crate::json_schema::addresses")]
    pub addresses: Vec<IpAddr>,
    /// How the node reaches it.
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
#[schemars(with = "bool", extend("const" = true))]
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
    /// At most 15 letters, digits and `-`.
    pub name: String,
    /// The number.
    pub port: u16,
    /// Default: `ANY`.
    #[serde(default)]
    pub protocol: Protocol,
}

impl EndpointSpec {
    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        NameRule::Host.check(&self.node, &at.field("node"), problems);
        self.attach.check(&at.field("attach"), problems);
        let addresses = at.field("addresses");
        check_addresses(&self.addresses, &addresses, problems);
        if self.addresses.is_empty() && self.attach.host.is_none() {
            problems
                .push(code::MISSING_FIELD, at, "an endpoint needs `addresses`")
                .at_key()
                .help("only `attach: {host: true}` goes without: it has its node's");
        }
        self.check_ports(&at.field("ports"), problems);
    }

    fn check_ports(&self, at: &Path<'_>, problems: &mut Problems) {
        for (index, port) in self.ports.iter().enumerate() {
            let at_port = at.index(index);
            if !is_port_name(&port.name) {
                problems
                    .push(code::INVALID_PORT, &at_port.field("name"), format!("`{}` cannot name a port", port.name))
                    .help("use 1 to 15 letters, digits and `-`, at least one letter");
            }
            if port.port == 0 {
                problems.push(code::INVALID_PORT, &at_port.field("port"), "no endpoint listens on port 0");
            }
            let same = |earlier: &NamedPort| {
                let protocols = earlier.protocol == port.protocol
                    || earlier.protocol == Protocol::Any
                    || port.protocol == Protocol::Any;
                earlier.name == port.name && protocols
            };
            if let Some(first) = self.ports[..index].iter().position(same) {
                problems
                    .push(code::INVALID_PORT, &at_port.field("name"), format!("port `{}` is named twice", port.name))
                    .related(&at.index(first).field("name"), "first here");
            }
        }
    }
}

impl Attach {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        if let Some(interface) = &self.interface {
            check_interface(interface, &at.field("interface"), problems);
        }
        if let Some(netns) = &self.netns {
            let name = !netns.contains('/') && !matches!(netns.as_str(), "" | "." | "..");
            if !(name || netns.starts_with('/')) || netns.contains('\0') {
                problems
                    .push(code::INVALID_NAME, &at.field("netns"), format!("`{netns}` cannot be a network namespace"))
                    .help("write the name that `ip netns` shows, or the absolute path of the namespace's file");
            }
        }
        let forms =
            "write `{interface: NAME}`, `{netns: NAME}` with an optional `interface` inside it, or `{host: true}`";
        match (self.host, self.interface.is_some() || self.netns.is_some()) {
            (Some(_), true) => {
                problems.push(code::ATTACH_FORM, at, "`host: true` stands alone").at_key().help(forms);
            }
            (None, false) => {
                problems.push(code::ATTACH_FORM, at, "`attach` says nothing").at_key().help(forms);
            }
            _ => {}
        }
    }
}
