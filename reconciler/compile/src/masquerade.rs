//! Which networks see the endpoints' own addresses.
use std::net::IpAddr;

use ipnet::IpNet;
use weir_abi::{InterfaceInfo, Settings, SourceRangeKey};
use weir_plan::{InterfaceFacts, address_of};

use crate::objects::{ObjectId, Objects};

/// What `NodeConfig` says about it for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Masquerade {
    /// The object that asks for it; `None`: endpoints show their own addresses everywhere.
    pub by: Option<ObjectId>,
    /// Whom endpoints show their own addresses to: what is listed, and the nodes with the ranges of their endpoints.
    pub exempt: Vec<IpNet>,
    pub ports: Option<(u16, u16)>,
}

impl Masquerade {
    /// Adds the nodes, where anything is masqueraded at all.
    pub fn spare_nodes(&mut self, objects: &Objects<'_>) {
        if self.by.is_none() {
            self.exempt.clear();
            return;
        }
        for node in &objects.nodes {
            self.exempt.extend(&node.spec.endpoint_cidrs);
            self.exempt.extend(node.spec.addresses.iter().map(|address| IpNet::from(*address)));
        }
    }

    /// Whether an endpoint's address needs no entry of its own.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.by.is_none() || self.exempt.iter().any(|net| net.contains(&address))
    }

    /// Every prefix that is exempt.
    pub fn prefixes(&self, objects: &Objects<'_>) -> Vec<SourceRangeKey> {
        let own = objects.endpoints.iter().flat_map(|item| &item.spec.addresses);
        let own = own.filter(|address| !self.covers(**address)).map(|address| IpNet::from(*address));
        self.exempt.iter().copied().chain(own).map(|net| key(&net)).collect()
    }
}

/// Service 0 is none: its ranges are what is exempt.
fn key(net: &IpNet) -> SourceRangeKey {
    let length = u32::from(net.prefix_len()) + if net.addr().is_ipv4() { 96 } else { 0 };
    SourceRangeKey { service: 0, length, address: address_of(net.network()) }
}

/// Says in the settings which lengths there are.
pub(crate) fn note(settings: &mut Settings, prefixes: &[SourceRangeKey]) {
    for key in prefixes {
        if key.address.is_v4() && key.length >= 96 {
            settings.exempt_v4 |= 1 << (key.length - 96);
        } else {
            settings.exempt_v6[key.length as usize / 64] |= 1 << (key.length % 64);
        }
    }
}

/// The addresses that a network device lends.
pub(crate) fn lend(info: &mut InterfaceInfo, device: &InterfaceFacts) {
    let first = |v4: bool| device.addresses.iter().find(|address| address.is_ipv4() == v4).copied();
    info.masquerade_v4 = first(true).map(address_of).unwrap_or_default();
    info.masquerade_v6 = first(false).map(address_of).unwrap_or_default();
}
