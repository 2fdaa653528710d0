//! The pair of an endpoint in a network namespace.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weir_plan::{DatapathError, EndpointPair, InterfaceName};

use super::{Around, alias, is_link_local, is_ours, no_mac, ours, taken};
use crate::{
    error::{Result, netlink},
    kernel::Kernel,
    netlink::{Link, NetlinkError, Netns, Route},
};

/// Where an endpoint sends everything when no router is named: addresses that exist nowhere. Whichever it is, it has a
/// permanent neighbour entry for the host's end of the pair.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// The gateway of an address's family.
fn gateway(router: &[IpAddr], address: &IpAddr) -> IpAddr {
    let nobodys = if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 };
    own_router(router, address).unwrap_or(nobodys)
}

/// The router's address of an address's family.
fn own_router(router: &[IpAddr], address: &IpAddr) -> Option<IpAddr> {
    router.iter().find(|own| own.is_ipv4() == address.is_ipv4()).copied()
}

impl Around {
    /// The pair with the addresses that are complete: on the inside, routed, with both neighbours. What is missing
    /// anything is left out, so that the device shows as changed and is mended.
    pub fn endpoint(&self, link: &Link, netns: &str, peer: &str) -> Result<EndpointPair> {
        let nothing =
            EndpointPair { netns: netns.into(), peer: peer.into(), addresses: Vec::new(), router: Vec::new() };
        let inside = Netns::look(netns, |netlink| {
            let Some(inner) = netlink.link(peer)?.filter(|inner| inner.kind == "veth") else { return Ok(None) };
            let addresses = netlink.addresses()?;
            let gateways = netlink.default_gateways(inner.ifindex)?;
            let neighbours = netlink.permanent_neighbours()?;
            Ok(Some((inner, addresses, gateways, neighbours)))
        });
        let (inner, addresses, gateways, inner_neighbours) = match inside {
            Ok(Some(inside)) => inside,
            Ok(None) | Err(NetlinkError::NetnsMissing { .. } | NetlinkError::Enter { .. }) => return Ok(nothing),
            Err(error) => return Err(netlink(error)),
        };
        let (Some(mac), Some(inner_mac)) = (link.mac, inner.mac) else { return Ok(nothing) };
        if link.peer != Some(inner.ifindex) || !link.up || !inner.up {
            return Ok(nothing);
        }
        let mut found = nothing;
        for place in addresses {
            let address = place.address;
            if place.ifindex != inner.ifindex || is_link_local(&address) {
                continue;
            }
            let to = IpNet::from(address);
            let Some(route) = self.routes.iter().find(|route| route.ifindex == link.ifindex && route.to == to) else {
                continue;
            };
            let gateway = gateway(route.source.as_slice(), &address);
            if self.neighbours.contains(&(link.ifindex, address, inner_mac))
                && gateways.contains(&gateway)
                && inner_neighbours.contains(&(inner.ifindex, gateway, mac))
            {
                found.addresses.push(address);
                found.router.extend(route.source);
            }
        }
        found.addresses.sort_unstable();
        found.router.sort_unstable();
        found.router.dedup();
        Ok(found)
    }
}

impl Kernel {
    /// Makes the pair (both ends down), or takes the one that is there; addresses inside.
    pub(super) fn make_endpoint(&mut self, name: &InterfaceName, pair: &EndpointPair) -> Result<()> {
        let netns = Netns::open(&pair.netns).map_err(netlink)?;
        let peer = &*pair.peer;
        let mut host = self.netlink.link(&name.0).map_err(netlink)?;
        if let Some(link) = &host {
            let inner = netns.enter(|netlink| netlink.link(peer)).map_err(netlink)?;
            let whole = inner.is_some_and(|inner| link.peer == Some(inner.ifindex));
            match ours(link) {
                None => return Err(taken(&name.0)),
                Some(is) if is == (&*pair.netns, peer) && whole => {}
                Some(_) => {
                    self.netlink.delete_link(link.ifindex).map_err(netlink)?;
                    host = None;
                }
            }
        }
        if host.is_none() {
            self.netlink.add_veth(&name.0, &alias(&pair.netns, peer), peer, &netns).map_err(netlink)?;
        }
        let wanted = &pair.addresses;
        netns
            .enter(|netlink| {
                let Some(inner) = netlink.link(peer)? else { return Ok(()) };
                let there: Vec<_> =
                    netlink.addresses()?.into_iter().filter(|place| place.ifindex == inner.ifindex).collect();
                for place in &there {
                    if !is_link_local(&place.address) && !wanted.contains(&place.address) {
                        netlink.delete_address(inner.ifindex, place.address, place.prefix)?;
                    }
                }
                for address in wanted {
                    if !there.iter().any(|place| place.address == *address) {
                        netlink.add_address(inner.ifindex, *address)?;
                    }
                }
                Ok(())
            })
            .map_err(netlink)
    }

    /// Both ends up; routes and neighbours on both.
    pub(super) fn raise_endpoint(&mut self, name: &InterfaceName, pair: &EndpointPair) -> Result<()> {
        let netns = Netns::open(&pair.netns).map_err(netlink)?;
        let host = self.netlink.link(&name.0).map_err(netlink)?.filter(is_ours);
        let Some(host) = host else { return Err(DatapathError::InterfaceMissing { interface: name.clone() }) };
        self.netlink.set_up(host.ifindex).map_err(netlink)?;
        let mac = host.mac.ok_or_else(|| no_mac(name))?;
        let (peer, wanted, router) = (&*pair.peer, &pair.addresses, &pair.router);
        let inner_mac = netns
            .enter(|netlink| {
                let Some(inner) = netlink.link(peer)? else { return Ok(None) };
                netlink.set_up(inner.ifindex)?;
                let mut gateways: Vec<IpAddr> = wanted.iter().map(|address| gateway(router, address)).collect();
                gateways.sort_unstable();
                gateways.dedup();
                for gateway in gateways {
                    netlink.add_neighbour(inner.ifindex, gateway, mac)?;
                    netlink.add_default_route(inner.ifindex, gateway)?;
                }
                Ok(inner.mac)
            })
            .map_err(netlink)?
            .ok_or_else(|| no_mac(name))?;
        let there = self.netlink.device_routes().map_err(netlink)?;
        let stale = |route: &&Route| {
            let address = route.to.addr();
            route.ifindex == host.ifindex && !is_link_local(&address) && !wanted.contains(&address)
        };
        for route in there.iter().filter(stale) {
            self.netlink.delete_device_route(route).map_err(netlink)?;
        }
        for address in wanted {
            self.netlink.add_neighbour(host.ifindex, *address, inner_mac).map_err(netlink)?;
            let source = own_router(router, address);
            let route = Route { ifindex: host.ifindex, to: (*address).into(), source, metric: 0 };
            self.netlink.add_device_route(&route).map_err(netlink)?;
        }
        Ok(())
    }
}
