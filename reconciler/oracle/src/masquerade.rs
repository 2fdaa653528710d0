//! Under which address endpoints are seen outside.
use std::net::IpAddr;

use crate::{World, peer::Peer};

impl World<'_> {
    /// Whether the first packet of a flow leaves by a network device under that device's address: where this node
    /// masquerades, for an endpoint of its own, toward nobody of the cluster and no network that is excluded.
    pub fn is_masqueraded(&self, source: IpAddr, destination: IpAddr) -> bool {
        let of_here = matches!(self.who(source), Peer::Endpoint(_, spec) if spec.node == self.node());
        let enabled = self.node_configs().any(|config| config.masquerade.enabled == Some(true));
        let excluded = self.node_configs().filter_map(|config| config.masquerade.exclude.as_ref()).flatten();
        let of_nodes = self.nodes().flat_map(|(_, node)| &node.endpoint_cidrs);
        let is_spared =
            self.is_anybodys(destination) || excluded.chain(of_nodes).any(|network| network.contains(&destination));
        of_here && enabled && !is_spared
    }
}
