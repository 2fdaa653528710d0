use std::net::{IpAddr, SocketAddr};

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
    /// `ICMP` and `ICMPv6` are an echo request, of IPv4 and IPv6, and not for services. The others are tested in every
    /// address family that both ends have.
    pub protocol: FlowTestProtocol,
    /// The destination port; not with `ICMP` and `ICMPv6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What must become of it.
    pub expect: Expectation,
}

/// One end of a flow: exactly one of `endpoint`, `address`, `host` and, where it ends, `service` (checked).
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
    /// Name of a `Service` (of ours, or else of Kubernetes), `namespace/name` for one of another namespace than the
    /// test's. The flow goes to a frontend of it on the test's protocol and port: to a cluster address; else to an
    /// external one; else to the node's. One from outside goes to a cluster address last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
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

/// What must become of a flow: of one to a service, whichever backend it is sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectation {
    /// `allow`: its first packet gets through, and the answer to it.
    pub verdict: ExpectedVerdict,
    /// With `deny`: why its first packet is dropped, as counters and events name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<DenyReason>,
    /// With `allow`: the only backend that it may be sent to. Name of an `Endpoint` (`namespace/name` for one of another
    /// namespace than the test's), an address, or an address and port: `10.0.0.1:80`, `[fd00::1]:80`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// Who is to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedBackend {
    /// Any address of this `Endpoint`, on any port.
    Endpoint(ObjectKey),
    /// `None`: on any port.
    Address(IpAddr, Option<u16>),
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
    NoService,
    NoBackend,
    SourceRange,
}

impl DenyReason {
    pub const ALL: [Self; 9] = [
        Self::Prefilter,
        Self::UnknownDestination,
        Self::PolicyDeny,
        Self::PolicyDefaultDeny,
        Self::UnknownProtocol,
        Self::InvalidSource,
        Self::NoService,
        Self::NoBackend,
        Self::SourceRange,
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
            Self::NoService => "no_service",
            Self::NoBackend => "no_backend",
            Self::SourceRange => "source_range",
        }
    }
}

/// An object that a test names.
#[derive(Clone, Debug)]
pub(crate) struct Named<'a> {
    pub path: String,
    pub kind: &'static str,
    pub written: &'a str,
    /// One of these must be there.
    pub keys: Vec<ObjectKey>,
}

/// An object by a name as tests write it.
fn key(group: &str, kind: &str, namespace: &str, written: &str) -> ObjectKey {
    let (namespace, name) = written.split_once('/').unwrap_or((namespace, written));
    ObjectKey { group: group.into(), kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

fn check_name(written: &str, at: &Path<'_>, problems: &mut Problems) {
    let (namespace, name) = written.split_once('/').map_or((None, written), |(space, name)| (Some(space), name));
    if let Some(namespace) = namespace {
        NameRule::Label.check(namespace, at, problems);
    }
    NameRule::Subdomain.check(name, at, problems);
}

impl Expectation {
    /// The backend that it names, as a test in `namespace` means it.
    pub fn expected_backend(&self, namespace: &str) -> Option<ExpectedBackend> {
        let written = self.backend.as_deref()?;
        let address = written.parse::<IpAddr>().map(|address| ExpectedBackend::Address(address, None));
        let socket = |_| written.parse().map(|at: SocketAddr| ExpectedBackend::Address(at.ip(), Some(at.port())));
        Some(
            address
                .or_else(socket)
                .unwrap_or_else(|_| ExpectedBackend::Endpoint(key("weir", "Endpoint", namespace, written))),
        )
    }

    fn check(&self, to: &FlowEnd, at: &Path<'_>, problems: &mut Problems) {
        let (reason, backend) = (at.field("reason"), at.field("backend"));
        let allow = self.verdict == ExpectedVerdict::Allow;
        if allow && self.reason.is_some() {
            problems
                .push(code::FLOW_TEST_FORM, &reason, "what is allowed has no reason to be dropped")
                .at_key()
                .help("leave it out, or expect `verdict: deny`");
        }
        let Some(written) = &self.backend else { return };
        if !allow {
            problems
                .push(code::FLOW_TEST_FORM, &backend, "what is denied reaches no backend")
                .at_key()
                .help("leave it out, or expect `verdict: allow`");
        }
        if to.endpoint.is_some() {
            problems
                .push(code::FLOW_TEST_FORM, &backend, "only services have backends")
                .at_key()
                .help("leave it out, or write `to: {service: …}`");
        }
        match self.expected_backend("default") {
            Some(ExpectedBackend::Address(address, port)) => {
                if let Some(what) = unusable_address(address) {
                    let message = format!("an address that is {what} is no backend's");
                    problems.push(code::INVALID_ADDRESS, &backend, message);
                }
                if port == Some(0) {
                    problems.push(code::INVALID_PORT, &backend, "port 0 cannot be a backend's");
                }
            }
            Some(ExpectedBackend::Endpoint(_)) | None => check_name(written, &backend, problems),
        }
    }
}

impl FlowEnd {
    /// The `Endpoint` that it names, as a test in `namespace` means it.
    pub fn endpoint_key(&self, namespace: &str) -> Option<ObjectKey> {
        self.endpoint.as_deref().map(|written| key("weir", "Endpoint", namespace, written))
    }

    /// The service that it names: the first of these that is there.
    pub fn service_keys(&self, namespace: &str) -> Option<[ObjectKey; 2]> {
        self.service.as_deref().map(|written| ["weir", ""].map(|group| key(group, "Service", namespace, written)))
    }

    fn check(&self, begins: bool, at: &Path<'_>, problems: &mut Problems) {
        let forms = [self.endpoint.is_some(), self.address.is_some(), self.host.is_some(), self.service.is_some()];
        if forms.into_iter().filter(|given| *given).count() != 1 {
            let (message, help) = match begins {
                true => (
                    "a flow begins at one of `endpoint`, `address` and `host`",
                    "write for example `{endpoint: web}`, `{address: 203.0.113.7}` or `{host: true}`",
                ),
                false => (
                    "a flow ends at one of `endpoint`, `address`, `service` and `host`",
                    "write for example `{endpoint: web}`, `{address: 203.0.113.7}`, `{service: web}` or `{host: true}`",
                ),
            };
            problems.push(code::FLOW_TEST_FORM, at, message).help(help);
        } else if begins && self.service.is_some() {
            problems
                .push(code::FLOW_TEST_FORM, &at.field("service"), "a service begins no flow")
                .at_key()
                .help("name one of its backends: `{endpoint: …}` or `{address: …}`");
        }
        for (name, field) in [(&self.endpoint, "endpoint"), (&self.service, "service")] {
            if let Some(name) = name {
                check_name(name, &at.field(field), problems);
            }
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

    /// What it names, as a test in `namespace` means it.
    pub(crate) fn names<'a>(&'a self, namespace: &str) -> Vec<Named<'a>> {
        let mut all = Vec::new();
        let mut name = |path: String, written: Option<&'a String>, kind, keys: Vec<ObjectKey>| {
            all.extend(written.map(|written| Named { path, kind, written, keys }));
        };
        for (end, given) in self.ends() {
            let endpoint = given.endpoint_key(namespace).into_iter().collect();
            name(format!("spec.{end}.endpoint"), given.endpoint.as_ref(), "endpoint", endpoint);
            let services = given.service_keys(namespace).into_iter().flatten().collect();
            name(format!("spec.{end}.service"), given.service.as_ref(), "service", services);
        }
        if let Some(ExpectedBackend::Endpoint(key)) = self.expect.expected_backend(namespace) {
            name("spec.expect.backend".to_owned(), self.expect.backend.as_ref(), "endpoint", vec![key]);
        }
        all
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
        if self.to.service.is_some() && !self.protocol.has_ports() {
            problems
                .push(code::FLOW_TEST_FORM, &to.field("service"), "a service answers no echo request")
                .at_key()
                .help("write `protocol: TCP` and a `port`, or the address: `{address: …}`");
        }
        self.expect.check(&self.to, &at.field("expect"), problems);
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
