//! The pair that is the router of the node's endpoints: `weir_host` has its addresses, and gets what is for endpoints
//! and has no route of its own; `weir_net` is only its other end.
use ipnet::IpNet;
use weir_plan::{DatapathError, InterfaceName, ROUTER, ROUTER_PEER, RouterPair};

use super::{Around, alias, is_link_local, is_ours, ours, taken};
use crate::{
    error::{Result, netlink},
    kernel::Kernel,
    netlink::{Link, Place, Route},
};

/// Of the routes to ranges of endpoints: whoever has one of its own to the same range keeps it.
const METRIC: u32 = 32_000;

/// To a range of endpoints.
fn route(pair: &RouterPair, ifindex: u32, to: IpNet) -> Route {
    let source = pair.addresses.iter().find(|address| address.is_ipv4() == to.addr().is_ipv4()).copied();
    Route { ifindex, to, source, metric: METRIC }
}

impl Kernel {
    /// With the addresses and routes that are there; with none where the pair itself is not as it should be.
    pub(super) fn observe_router(&mut self, around: &Around, links: &[Link], link: &Link) -> Result<RouterPair> {
        let mut found = RouterPair { addresses: Vec::new(), routes: Vec::new() };
        let peer = links.iter().find(|peer| peer.name == ROUTER_PEER && link.peer == Some(peer.ifindex));
        let ready = |link: &Link| link.up && !link.arp && is_ours(link);
        if !ready(link) || !peer.is_some_and(ready) {
            return Ok(found);
        }
        found.addresses = self.router_places(link)?.iter().map(|place| place.address).collect();
        found.addresses.sort_unstable();
        let to =
            |route: &&Route| route.ifindex == link.ifindex && **route == self::route(&found, link.ifindex, route.to);
        found.routes = around.routes.iter().filter(to).map(|route| route.to).collect();
        found.routes.sort_unstable();
        Ok(found)
    }

    fn router_places(&mut self, link: &Link) -> Result<Vec<Place>> {
        let mut places = self.netlink.addresses().map_err(netlink)?;
        places.retain(|place| place.ifindex == link.ifindex && !is_link_local(&place.address));
        Ok(places)
    }

    fn router_link(&mut self) -> Result<Option<Link>> {
        let link = self.netlink.link(ROUTER).map_err(netlink)?;
        match link {
            Some(link) if !is_ours(&link) => Err(taken(ROUTER)),
            link => Ok(link),
        }
    }

    /// Makes the pair, or takes the one that is there, and adds what addresses it lacks.
    pub(super) fn make_router(&mut self, pair: &RouterPair) -> Result<()> {
        let peer = self.netlink.link(ROUTER_PEER).map_err(netlink)?;
        if peer.as_ref().is_some_and(|peer| !is_ours(peer)) {
            return Err(taken(ROUTER_PEER));
        }
        let mut link = self.router_link()?;
        if let Some(there) = &link {
            let whole = peer.is_some_and(|peer| there.peer == Some(peer.ifindex));
            if !whole || ours(there) != Some(("", ROUTER_PEER)) {
                self.netlink.delete_link(there.ifindex).map_err(netlink)?;
                link = None;
            }
        }
        if link.is_none() {
            let (host, net) = (alias("", ROUTER_PEER), alias("", ROUTER));
            self.netlink.add_veth_here([(ROUTER, &host), (ROUTER_PEER, &net)]).map_err(netlink)?;
        }
        let Some(link) = self.router_link()? else { return Ok(()) };
        let there = self.router_places(&link)?;
        for address in pair.addresses.iter().filter(|address| !there.iter().any(|place| place.address == **address)) {
            self.netlink.add_address(link.ifindex, *address).map_err(netlink)?;
        }
        Ok(())
    }

    /// Both ends up, and the routes to it.
    pub(super) fn raise_router(&mut self, pair: &RouterPair) -> Result<()> {
        let missing = || DatapathError::InterfaceMissing { interface: InterfaceName::from(ROUTER) };
        let link = self.router_link()?.ok_or_else(missing)?;
        for ifindex in link.peer.into_iter().chain([link.ifindex]) {
            self.netlink.set_noarp(ifindex).map_err(netlink)?;
            self.netlink.set_up(ifindex).map_err(netlink)?;
        }
        for range in &pair.routes {
            self.netlink.add_device_route(&route(pair, link.ifindex, *range)).map_err(netlink)?;
        }
        Ok(())
    }

    /// Takes away what addresses and routes it had before.
    pub(super) fn settle_router(&mut self, pair: &RouterPair) -> Result<()> {
        let Some(link) = self.router_link()? else { return Ok(()) };
        for there in self.netlink.device_routes().map_err(netlink)? {
            let ours = there.ifindex == link.ifindex && there.metric == METRIC;
            if ours && !(pair.routes.contains(&there.to) && there == route(pair, link.ifindex, there.to)) {
                self.netlink.delete_device_route(&there).map_err(netlink)?;
            }
        }
        for place in self.router_places(&link)? {
            if !pair.addresses.contains(&place.address) {
                self.netlink.delete_address(link.ifindex, place.address, place.prefix).map_err(netlink)?;
            }
        }
        Ok(())
    }
}
