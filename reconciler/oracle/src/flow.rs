//! Questions and answers.
use std::{fmt, net::IpAddr};

use weir_schema::ObjectKey;

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: FlowProtocol,
}

/// What stands above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowProtocol {
    Tcp {
        source: u16,
        destination: u16,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    Sctp {
        source: u16,
        destination: u16,
    },
    Icmp {
        kind: u8,
    },
    Icmpv6 {
        kind: u8,
    },
    /// By its IP protocol number.
    Other(u8),
}

impl FlowProtocol {
    /// Neighbour discovery: a link does not work without it, so no policy is asked.
    pub(crate) fn is_neighbour_discovery(self) -> bool {
        matches!(self, Self::Icmpv6 { kind: 133..=137 })
    }

    /// The same to another port, where there are ports.
    pub fn to_port(self, port: u16) -> Self {
        match self {
            Self::Tcp { source, .. } => Self::Tcp { source, destination: port },
            Self::Udp { source, .. } => Self::Udp { source, destination: port },
            Self::Sctp { source, .. } => Self::Sctp { source, destination: port },
            Self::Icmp { .. } | Self::Icmpv6 { .. } | Self::Other(_) => self,
        }
    }
}

/// `10.0.0.1 -> 10.0.0.2 tcp/4000:80`.
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} ", self.source, self.destination)?;
        match self.protocol {
            FlowProtocol::Tcp { source, destination } => write!(f, "tcp/{source}:{destination}"),
            FlowProtocol::Udp { source, destination } => write!(f, "udp/{source}:{destination}"),
            FlowProtocol::Sctp { source, destination } => write!(f, "sctp/{source}:{destination}"),
            FlowProtocol::Icmp { kind } => write!(f, "icmp/{kind}"),
            FlowProtocol::Icmpv6 { kind } => write!(f, "icmpv6/{kind}"),
            FlowProtocol::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// Both ends of a flow, each judged by its own policy. The flow passes when both allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Of the source, where it lives on this node.
    pub egress: End,
    /// Of the destination, where it lives on this node.
    pub ingress: End,
}

impl Judgement {
    /// Where nobody is asked.
    pub(crate) const UNASKED: Self = Self { egress: End::UNASKED, ingress: End::UNASKED };

    pub fn allowed(&self) -> bool {
        self.egress.verdict == Verdict::Allow && self.ingress.verdict == Verdict::Allow
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Whose policy was asked; `None` where this end is not of this node.
    pub subject: Option<Subject>,
    pub verdict: Verdict,
    /// The rule that decided; `None` for default deny and where nothing enforces.
    pub rule: Option<RuleId>,
}

impl End {
    const UNASKED: Self = Self { subject: None, verdict: Verdict::Allow, rule: None };
}

/// What a policy can be enforced on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Endpoint(ObjectKey),
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// A deny rule matched.
    RuleDeny,
    /// The subject is selected for this direction, and no rule allows it.
    DefaultDeny,
}

/// A rule by what it is called in an entry: its object, and the path inside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    pub object: ObjectKey,
    /// `spec.ingressDeny[0].toPorts[1].ports[0]`.
    pub path: String,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.path)
    }
}
