use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    HostTrue, ObjectKey, code,
    name::{NameRule, check_interface},
    prefix::unusable_address,
    problem::{Path, Problems},
};

/// A flow, and what must become of it. A commit under which it does not is refused before it goes live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowTestSpec {
    /// Who begins the flow.
    pub from: FlowEnd,
    /// Whom it is to reach.
    pub to: FlowEnd,
    /// `ICMP` and `ICMPv6` are an echo request, of IPv4 and IPv6. The others are tested in every address family that
    /// both ends have.
    pub protocol: FlowTestProtocol,
    /// The destination port; not with `ICMP` and `ICMPv6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What must become of it.
    pub expect: Expectation,
}

/// One end of a flow: exactly one of `endpoint`, `address` and `host` (checked).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowEnd {
    /// Name of an `Endpoint`, `namespace/name` for one of another namespace than the test's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// An address, of whomever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::json_schema::optional_address")]
    pub address: Option<IpAddr>,
    /// The node that the other end is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostTrue>,
    /// With the `address` that begins the flow: the network device by which it comes in. Default: by each that a
    /// `CidrFilter` watches, and the expectation must hold for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FlowTestProtocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
    #[serde(rename = "ICMP")]
    Icmp,
    #[serde(rename = "ICMPv6")]
    Icmpv6,
}

impl FlowTestProtocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
        }
    }

    /// Whether packets of it can have these addresses.
    pub const fn fits(self, address: IpAddr) -> bool {
        match self {
            Self::Icmp => address.is_ipv4(),
            Self::Icmpv6 => address.is_ipv6(),
            _ => true,
        }
    }

    const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }
}

/// What must become of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectation {
    /// `allow`: its first packet gets through, and the answer to it.
    pub verdict: ExpectedVerdict,
    /// With `deny`: why its first packet is dropped, as counters and events name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<DenyReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ExpectedVerdict {
    Allow,
    Deny,
}

/// Why a well-formed packet that begins a flow can be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    Prefilter,
    UnknownDestination,
    PolicyDeny,
    PolicyDefaultDeny,
    UnknownProtocol,
    InvalidSource,
}

impl DenyReason {
    pub const ALL: [Self; 6] = [
        Self::Prefilter,
        Self::UnknownDestination,
        Self::PolicyDeny,
        Self::PolicyDefaultDeny,
        Self::UnknownProtocol,
        Self::InvalidSource,
    ];

    /// As counters and events have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefilter => "prefilter",
            Self::UnknownDestination => "unknown_destination",
            Self::PolicyDeny => "policy_deny",
            Self::PolicyDefaultDeny => "policy_default_deny",
            Self::UnknownProtocol => "unknown_protocol",
            Self::InvalidSource => "invalid_source",
        }
    }
}

impl FlowEnd {
    /// The `Endpoint` that it names, as a test in `namespace` means it.
    pub fn endpoint_key(&self, namespace: &str) -> Option<ObjectKey> {
        let name = self.endpoint.as_deref()?;
        let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
        Some(ObjectKey {
            group: "weir".into(),
            kind: "Endpoint".into(),
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    fn check(&self, begins: bool, at: &Path<'_>, problems: &mut Problems) {
        let forms = [self.endpoint.is_some(), self.address.is_some(), self.host.is_some()];
        if forms.into_iter().filter(|given| *given).count() != 1 {
            problems
                .push(code::FLOW_TEST_FORM, at, "an end of a flow is one of `endpoint`, `address` and `host`")
                .help("write for example `{endpoint: web}`, `{address: 203.0.113.7}` or `{host: true}`");
        }
        if let Some(name) = &self.endpoint {
            let field = at.field("endpoint");
            let (namespace, name) = name.split_once('/').map_or((None, &**name), |(space, name)| (Some(space), name));
            if let Some(namespace) = namespace {
                NameRule::Label.check(namespace, &field, problems);
            }
            NameRule::Subdomain.check(name, &field, problems);
        }
        if let Some(what) = self.address.and_then(unusable_address) {
            let message = format!("an address that is {what} begins and ends no flow");
            problems.push(code::INVALID_ADDRESS, &at.field("address"), message);
        }
        if let Some(interface) = &self.interface {
            let field = at.field("interface");
            check_interface(interface, &field, problems);
            if self.address.is_none() || !begins {
                problems
                    .push(code::FLOW_TEST_FORM, &field, "only a flow that begins at an `address` comes in by a device")
                    .at_key()
                    .help("take it out, or write `from: {address: …, interface: …}`");
            }
        }
    }
}

impl FlowTestSpec {
    /// Both ends.
    pub fn ends(&self) -> [(&'static str, &FlowEnd); 2] {
        [("from", &self.from), ("to", &self.to)]
    }

    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        let (from, to) = (at.field("from"), at.field("to"));
        self.from.check(true, &from, problems);
        self.to.check(false, &to, problems);
        let bare = |end: &FlowEnd| FlowEnd { interface: None, ..end.clone() };
        if bare(&self.from) == bare(&self.to) && self.from != FlowEnd::default() {
            problems
                .push(code::FLOW_TEST_FORM, &to, "both ends are the same: such packets never leave it")
                .related(&from, "the other end");
        }
        self.check_families(&to, problems);
        let port = at.field("port");
        match (self.port, self.protocol.has_ports()) {
            (Some(0), true) => {
                problems.push(code::INVALID_PORT, &port, "port 0 cannot be the destination of a flow");
            }
            (Some(_), false) => {
                problems.push(code::FLOW_TEST_FORM, &port, "an echo request has no port").at_key().help("leave it out");
            }
            (None, true) => {
                problems.push(code::MISSING_FIELD, at, "a flow of this protocol needs `port`").at_key();
            }
            _ => {}
        }
        if self.expect.verdict == ExpectedVerdict::Allow && self.expect.reason.is_some() {
            let expect = at.field("expect");
            problems
                .push(code::FLOW_TEST_FORM, &expect.field("reason"), "what is allowed has no reason to be dropped")
                .at_key()
                .help("leave it out, or expect `verdict: deny`");
        }
    }

    /// Addresses that stand in the test itself; an endpoint's are looked at when the test runs.
    fn check_families(&self, to: &Path<'_>, problems: &mut Problems) {
        let (from, address) = (self.from.address, self.to.address);
        if let (Some(from), Some(address)) = (from, address)
            && from.is_ipv4() != address.is_ipv4()
        {
            let message = "the two ends have no address family in common";
            problems.push(code::FLOW_TEST_FORM, &to.field("address"), message);
        }
        if from.into_iter().chain(address).any(|address| !self.protocol.fits(address)) {
            let (message, help) = match self.protocol {
                FlowTestProtocol::Icmp => ("ICMP is of IPv4", "write `protocol: ICMPv6`"),
                _ => ("ICMPv6 is of IPv6", "write `protocol: ICMP`"),
            };
            problems.push(code::FLOW_TEST_FORM, to, message).at_key().help(help);
        }
    }
}
