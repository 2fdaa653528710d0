//! Devices and attachments: what exists beside the tables.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd as _,
};

use weir_plan::{DatapathError, Device, HookKey, HookState, InterfaceName, Table, Wiring, WiringDelta};

use crate::{
    attach::{Attached, Way},
    error::{Result, attach, failed, netlink},
    kernel::Kernel,
    netlink::{Link, NetlinkError, Netns},
    pins::remove_tree,
    prepare::uses,
};

/// A device that we made is known by its alias, and by nothing else: `weir:<netns>:<peer>`.
const ALIAS: &str = "weir:";

/// Where an endpoint sends everything: addresses that exist nowhere, with a permanent neighbour entry for the host's
/// end of the pair.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

pub(crate) fn is_ours(link: &Link) -> bool {
    ours(link).is_some()
}

/// The namespace and the peer's name of a device that we made.
fn ours(link: &Link) -> Option<(&str, &str)> {
    let alias = link.alias.as_deref().filter(|_| link.kind == "veth")?;
    alias.strip_prefix(ALIAS)?.rsplit_once(':')
}

fn alias(device: &Device) -> String {
    format!("{ALIAS}{}:{}", device.netns, device.peer)
}

fn gateway(address: &IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }
}

fn key(found: &Attached) -> HookKey {
    match found.way {
        Way::Cgroup => HookKey::of_sockets(found.hook),
        _ => HookKey::on(InterfaceName(found.interface.as_str().into()), found.hook),
    }
}

fn no_mac(name: &InterfaceName) -> DatapathError {
    DatapathError::Failed {
        doing: "reading",
        what: format!("the hardware address of {name}"),
        cause: "none".to_owned(),
    }
}

/// What the host's side says of endpoints.
struct Around {
    routes: BTreeSet<(u32, IpAddr)>,
    neighbours: BTreeSet<(u32, IpAddr, [u8; 6])>,
}

impl Around {
    /// The addresses of an endpoint that are complete: on the inside, routed, with both neighbours. What is missing
    /// anything is left out, so that the device shows as changed and is mended.
    fn addresses(&self, link: &Link, netns: &str, peer: &str) -> Result<Vec<IpAddr>> {
        let inside = Netns::look(netns, |netlink| {
            let Some(inner) = netlink.link(peer)?.filter(|inner| inner.kind == "veth") else { return Ok(None) };
            let addresses = netlink.addresses()?;
            let gateways = netlink.default_gateways(inner.ifindex)?;
            let neighbours = netlink.permanent_neighbours()?;
            Ok(Some((inner, addresses, gateways, neighbours)))
        });
        let (inner, addresses, gateways, inner_neighbours) = match inside {
            Ok(Some(inside)) => inside,
            Ok(None) | Err(NetlinkError::NetnsMissing { .. } | NetlinkError::Enter { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(netlink(error)),
        };
        let (Some(mac), Some(inner_mac)) = (link.mac, inner.mac) else { return Ok(Vec::new()) };
        if link.peer != Some(inner.ifindex) || !link.up || !inner.up {
            return Ok(Vec::new());
        }
        let mut complete: Vec<IpAddr> = addresses
            .into_iter()
            .filter(|place| place.ifindex == inner.ifindex && !is_link_local(&place.address))
            .map(|place| place.address)
            .filter(|address| {
                let gateway = gateway(address);
                self.routes.contains(&(link.ifindex, *address))
                    && self.neighbours.contains(&(link.ifindex, *address, inner_mac))
                    && gateways.contains(&gateway)
                    && inner_neighbours.contains(&(inner.ifindex, gateway, mac))
            })
            .collect();
        complete.sort_unstable();
        Ok(complete)
    }
}

impl Kernel {
    pub(crate) fn observe_wiring(&mut self, links: &[Link]) -> Result<Wiring> {
        let mut devices = Vec::new();
        if links.iter().any(is_ours) {
            let around = Around {
                routes: self.netlink.host_routes().map_err(netlink)?.into_iter().collect(),
                neighbours: self.netlink.permanent_neighbours().map_err(netlink)?.into_iter().collect(),
            };
            for link in links {
                if let Some((netns, peer)) = ours(link) {
                    let addresses = around.addresses(link, netns, peer)?;
                    devices.push((
                        InterfaceName(link.name.as_str().into()),
                        Device { netns: netns.into(), peer: peer.into(), addresses },
                    ));
                }
            }
        }
        let mut hooks: BTreeMap<HookKey, HookState> = BTreeMap::new();
        for found in self.attacher.attached(&mut self.netlink, links).map_err(attach)? {
            let current = self.current
                && self.pinned
                && self.programs.as_ref().is_some_and(|programs| programs.id(found.hook) == Some(found.program));
            let state = if current { self.attacher.asked(&found) } else { HookState::Stale };
            // Attached in two ways: one is left over from a change that was cut short.
            hooks.entry(key(&found)).and_modify(|state| *state = HookState::Stale).or_insert(state);
        }
        Ok(Wiring { devices: Table::from_unsorted(devices), hooks: hooks.into_iter().collect() })
    }

    pub(crate) fn build_all(&mut self, delta: &WiringDelta) -> Result<()> {
        if delta.is_empty() {
            return Ok(());
        }
        for change in &delta.devices {
            if let Some(device) = &change.to {
                self.make_device(&change.key, device)?;
            }
        }
        let links = self.netlink.links().map_err(netlink)?;
        self.attacher.adopt(&links).map_err(attach)?;
        let attached = self.attacher.attached(&mut self.netlink, &links).map_err(attach)?;
        let word = self.live()?.runtime.id();
        for change in &delta.hooks {
            let Some(want) = change.to else { continue };
            // Programs of another ABI go on with their own tables until ours are live.
            let foreign_word =
                attached.iter().filter(|found| key(found) == change.key).any(|found| !uses(found.program, word));
            if !foreign_word {
                self.attach_hook(&links, &change.key, want, change.from)?;
            }
        }
        Ok(())
    }

    pub(crate) fn tear_all(&mut self, delta: &WiringDelta) -> Result<()> {
        if delta.is_empty() {
            return Ok(());
        }
        let links = self.netlink.links().map_err(netlink)?;
        for change in &delta.hooks {
            let name = change.key.place.to_string();
            let ifindex = links.iter().find(|link| link.name == name).map(|link| link.ifindex);
            match change.to {
                None => self.attacher.detach(&mut self.netlink, &name, ifindex, change.key.hook).map_err(attach)?,
                // What `build` had to leave to the old programs.
                Some(want) => self.attach_hook(&links, &change.key, want, change.from)?,
            }
        }
        for change in &delta.devices {
            match &change.to {
                Some(device) => self.raise_device(&change.key, device)?,
                None => self.remove_device(&change.key)?,
            }
        }
        self.forget_others()
    }

    /// Removes the pins of another ABI once none of our attachments runs its programs, and takes what is left of its flows.
    fn forget_others(&mut self) -> Result<()> {
        let looking = |cause| failed("looking at", "the pins of another version", cause);
        let others = self.pins.others().map_err(looking)?;
        if others.is_empty() {
            return Ok(());
        }
        let links = self.netlink.links().map_err(netlink)?;
        let attached = self.attacher.attached(&mut self.netlink, &links).map_err(attach)?;
        let word = self.live()?.runtime.id();
        if attached.iter().all(|found| uses(found.program, word)) {
            let former = std::mem::take(&mut self.handed_over);
            if !former.is_empty() {
                // Its programs may still be at their last packets.
                self.quiet = false;
                self.ensure_quiet()?;
                self.end_move(&former)?;
            }
            others.iter().try_for_each(|other| remove_tree(other)).map_err(looking)?;
        }
        Ok(())
    }

    fn attach_hook(&mut self, links: &[Link], key: &HookKey, want: HookState, from: Option<HookState>) -> Result<()> {
        let device = match key.interface() {
            None => None,
            Some(name) => match links.iter().find(|link| link.name == *name.0) {
                None => return Err(DatapathError::InterfaceMissing { interface: name.clone() }),
                device => device,
            },
        };
        let program = self
            .load_hooks(&[key.hook])?
            .fd(key.hook)?
            .try_clone_to_owned()
            .map_err(|cause| failed("holding", "a program", cause))?;
        tracing::debug!(place = %key.place, hook = key.hook.program(), ?want, ?from, "attaching");
        match device {
            Some(device) => self.attacher.attach(&mut self.netlink, device, key.hook, want, program.as_fd()),
            None => {
                let asking = |cause| failed("asking for", "the number of this network namespace", cause);
                self.live()?.word.set_netns().map_err(asking)?;
                self.attacher.attach_to_cgroup(key.hook, program.as_fd())
            }
        }
        .map_err(attach)
    }

    /// Makes the pair (both ends down), or takes the one that is there; addresses inside.
    fn make_device(&mut self, name: &InterfaceName, device: &Device) -> Result<()> {
        let netns = Netns::open(&device.netns).map_err(netlink)?;
        let peer = &*device.peer;
        let mut host = self.netlink.link(&name.0).map_err(netlink)?;
        if let Some(link) = &host {
            let inner = netns.enter(|netlink| netlink.link(peer)).map_err(netlink)?;
            let whole = inner.is_some_and(|inner| link.peer == Some(inner.ifindex));
            match ours(link) {
                None => {
                    return Err(DatapathError::Failed {
                        doing: "making",
                        what: format!("the device {name}"),
                        cause: "a device of that name is there, and not ours".to_owned(),
                    });
                }
                Some(is) if is == (&*device.netns, peer) && whole => {}
                Some(_) => {
                    self.netlink.delete_link(link.ifindex).map_err(netlink)?;
                    host = None;
                }
            }
        }
        if host.is_none() {
            self.netlink.add_veth(&name.0, &alias(device), peer, &netns).map_err(netlink)?;
        }
        let wanted = &device.addresses;
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
    fn raise_device(&mut self, name: &InterfaceName, device: &Device) -> Result<()> {
        let netns = Netns::open(&device.netns).map_err(netlink)?;
        let host = self.netlink.link(&name.0).map_err(netlink)?.filter(is_ours);
        let Some(host) = host else { return Err(DatapathError::InterfaceMissing { interface: name.clone() }) };
        self.netlink.set_up(host.ifindex).map_err(netlink)?;
        let mac = host.mac.ok_or_else(|| no_mac(name))?;
        let (peer, wanted) = (&*device.peer, &device.addresses);
        let inner_mac = netns
            .enter(|netlink| {
                let Some(inner) = netlink.link(peer)? else { return Ok(None) };
                netlink.set_up(inner.ifindex)?;
                for gateway in [GATEWAY_V4, GATEWAY_V6] {
                    if wanted.iter().any(|address| address.is_ipv4() == gateway.is_ipv4()) {
                        netlink.add_neighbour(inner.ifindex, gateway, mac)?;
                        netlink.add_default_route(inner.ifindex, gateway)?;
                    }
                }
                Ok(inner.mac)
            })
            .map_err(netlink)?
            .ok_or_else(|| no_mac(name))?;
        for (ifindex, route) in self.netlink.host_routes().map_err(netlink)? {
            if ifindex == host.ifindex && !wanted.contains(&route) && !is_link_local(&route) {
                self.netlink.delete_host_route(ifindex, route).map_err(netlink)?;
            }
        }
        for address in wanted {
            self.netlink.add_neighbour(host.ifindex, *address, inner_mac).map_err(netlink)?;
            self.netlink.add_host_route(host.ifindex, *address).map_err(netlink)?;
        }
        Ok(())
    }

    /// Deletes the pair if it is ours; one that is not there is fine.
    fn remove_device(&mut self, name: &InterfaceName) -> Result<()> {
        match self.netlink.link(&name.0).map_err(netlink)? {
            Some(link) if is_ours(&link) => self.netlink.delete_link(link.ifindex).map_err(netlink),
            _ => Ok(()),
        }
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
