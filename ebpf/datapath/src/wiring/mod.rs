//! Devices and attachments: what exists beside the tables.
mod endpoint;
mod router;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::AsFd as _,
};

use weir_plan::{DatapathError, Device, HookKey, HookState, InterfaceName, ROUTER, Table, Wiring, WiringDelta};

use crate::{
    attach::{Attached, Way},
    error::{Result, attach, failed, netlink},
    kernel::Kernel,
    netlink::{Link, Route},
    pins::remove_tree,
    prepare::uses,
};

/// A device that we made is known by its alias, and by nothing else: `weir:<netns>:<peer>`, and no namespace for the
/// node's own.
const ALIAS: &str = "weir:";

pub(crate) fn is_ours(link: &Link) -> bool {
    ours(link).is_some()
}

/// The namespace and the peer's name of a device that we made.
fn ours(link: &Link) -> Option<(&str, &str)> {
    let alias = link.alias.as_deref().filter(|_| link.kind == "veth")?;
    alias.strip_prefix(ALIAS)?.rsplit_once(':')
}

fn alias(netns: &str, peer: &str) -> String {
    format!("{ALIAS}{netns}:{peer}")
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

fn taken(name: &str) -> DatapathError {
    DatapathError::Failed {
        doing: "making",
        what: format!("the device {name}"),
        cause: "a device of that name is there, and not ours".to_owned(),
    }
}

/// What the node's own namespace says of what we made.
struct Around {
    routes: Vec<Route>,
    neighbours: BTreeSet<(u32, IpAddr, [u8; 6])>,
}

impl Kernel {
    pub(crate) fn observe_wiring(&mut self, links: &[Link]) -> Result<Wiring> {
        let mut devices = Vec::new();
        if links.iter().any(is_ours) {
            let around = Around {
                routes: self.netlink.device_routes().map_err(netlink)?,
                neighbours: self.netlink.permanent_neighbours().map_err(netlink)?.into_iter().collect(),
            };
            for link in links {
                let device = match ours(link) {
                    None => continue,
                    Some(("", _)) if link.name == ROUTER => Device::Router(self.observe_router(&around, links, link)?),
                    Some(("", _)) => continue,
                    Some((netns, peer)) => Device::Endpoint(around.endpoint(link, netns, peer)?),
                };
                devices.push((InterfaceName(link.name.as_str().into()), device));
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
            match &change.to {
                Some(Device::Endpoint(pair)) => self.make_endpoint(&change.key, pair)?,
                Some(Device::Router(pair)) => self.make_router(pair)?,
                None => {}
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
        // The router first: endpoints are routed from its addresses. And what they were routed from goes last.
        for change in &delta.devices {
            if let Some(Device::Router(pair)) = &change.to {
                self.raise_router(pair)?;
            }
        }
        for change in &delta.devices {
            if let Some(Device::Endpoint(pair)) = &change.to {
                self.raise_endpoint(&change.key, pair)?;
            }
        }
        for change in &delta.devices {
            match &change.to {
                None => self.remove_device(&change.key)?,
                Some(Device::Router(pair)) => self.settle_router(pair)?,
                Some(Device::Endpoint(_)) => {}
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
