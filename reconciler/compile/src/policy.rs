//! A policy of any kind in one form: what it selects, and rules of peers and ports. Depends on nothing but the object,
//! so it can be kept by the object's hash.
use std::sync::Arc;

use ipnet::IpNet;
use weir_schema::{Entity, LabelSelector};

use crate::{objects::ObjectId, ports::Transport, selector::EndpointSelector};

/// One rule set: a Kubernetes policy, or one `spec` of a Cilium one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub object: ObjectId,
    pub subject: Subject,
    /// By direction: what no rule allows is denied.
    pub default_deny: [bool; 2],
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Endpoints(EndpointSelector),
    /// The host of every node with these labels.
    Host(LabelSelector),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// [`weir_abi::DIRECTION_INGRESS`] or [`weir_abi::DIRECTION_EGRESS`].
    pub direction: u8,
    pub deny: bool,
    pub peers: Peers,
    /// Each with the path that it is counted under.
    pub transports: Vec<(Arc<str>, Transport)>,
}

/// A union of peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Peers {
    /// Everybody, known or not.
    pub any: bool,
    pub endpoints: Vec<EndpointSelector>,
    pub cidrs: Vec<CidrSelector>,
    pub entities: Vec<Entity>,
    pub nodes: Vec<LabelSelector>,
}

impl Peers {
    pub fn any() -> Self {
        Self { any: true, ..Self::default() }
    }
}

/// A prefix with holes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CidrSelector {
    pub net: IpNet,
    pub except: Vec<IpNet>,
}

impl CidrSelector {
    /// What was checked to parse; `None` for what does not.
    pub fn parse(cidr: &str, except: &[String]) -> Option<Self> {
        Some(Self { net: parse_net(cidr)?, except: except.iter().filter_map(|text| parse_net(text)).collect() })
    }

    /// Every address of one family.
    pub fn family(v4: bool) -> Self {
        let net = if v4 { IpNet::V4(ipnet::Ipv4Net::default()) } else { IpNet::V6(ipnet::Ipv6Net::default()) };
        Self { net, except: Vec::new() }
    }
}

/// A CIDR or a bare address.
fn parse_net(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))?;
    Some(net.trunc())
}
