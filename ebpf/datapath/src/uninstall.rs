//! Taking everything away again, and proof that nothing is left.
use std::{fmt, os::fd::AsFd as _};

use weir_plan::DatapathError;

use crate::{
    error::{Result, attach, failed, netlink},
    kernel::Kernel,
    maps::Map,
    pins::{entries, remove_tree},
    sys::{self, IdKind},
    wiring,
};

/// What belonged to Weir when it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belongings {
    maps: Vec<u32>,
    programs: Vec<u32>,
    links: Vec<u32>,
    devices: Vec<String>,
}

/// Something that is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residue {
    Pin(String),
    Map(u32),
    Program(u32),
    Link(u32),
    Device(String),
    Filter { interface: String, hook: &'static str },
}

impl fmt::Display for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(path) => write!(f, "pin {path}"),
            Self::Map(id) => write!(f, "map {id}"),
            Self::Program(id) => write!(f, "program {id}"),
            Self::Link(id) => write!(f, "link {id}"),
            Self::Device(name) => write!(f, "device {name}"),
            Self::Filter { interface, hook } => write!(f, "{hook} on {interface}"),
        }
    }
}

impl Kernel {
    /// Ids and names of everything that is ours, here and now.
    pub fn belongings(&mut self) -> Result<Belongings> {
        let asking = |cause| failed("asking after", "what is ours", cause);
        self.finish_loading()?;
        let mut ours = Belongings::default();
        if let Some(live) = &self.live {
            ours.maps.extend(live.maps().iter().map(|(_, map)| map.id()));
            ours.maps.extend(live.sided().iter().flat_map(|sided| sided.inner.iter().map(Map::id)));
        }
        if let Some(programs) = &self.programs {
            ours.maps.extend(programs.maps());
            ours.programs.extend(programs.all().map(|(_, info)| info.id));
        }
        for pin in entries(&self.pins.links()).map_err(asking)? {
            let Ok(link) = sys::pin_get(&pin) else { continue };
            if let Ok(info) = sys::link_info(link.as_fd()) {
                ours.links.push(info.id);
                ours.programs.push(info.program);
            }
        }
        ours.devices.extend(
            self.netlink
                .links()
                .map_err(netlink)?
                .iter()
                .filter(|link| wiring::is_ours(link))
                .map(|link| link.name.clone()),
        );
        for ids in [&mut ours.maps, &mut ours.programs, &mut ours.links] {
            ids.sort_unstable();
            ids.dedup();
        }
        Ok(ours)
    }

    /// Detaches every program, deletes every device that we made in this network namespace, and removes every pin. The
    /// kernel is cold afterwards.
    pub fn uninstall(&mut self) -> Result<()> {
        let removing = |cause| failed("removing", "the pins", cause);
        // What cannot be loaded cannot be left behind either.
        let _ = self.finish_loading();
        let links = self.netlink.links().map_err(netlink)?;
        self.attacher.clear(&mut self.netlink, &links).map_err(attach)?;
        for link in links.iter().filter(|link| wiring::is_ours(link)) {
            self.netlink.delete_link(link.ifindex).map_err(netlink)?;
        }
        self.live = None;
        self.programs = None;
        self.handed_over = Vec::new();
        self.current = false;
        self.pinned = false;
        self.names = Default::default();
        self.forget_barrier();
        for other in self.pins.others().map_err(removing)? {
            remove_tree(&other).map_err(removing)?;
        }
        remove_tree(self.pins.root()).map_err(removing)?;
        match std::fs::remove_dir(self.pins.base()) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(removing(cause)),
            _ => Ok(()),
        }
    }

    /// What is left of `belongings`, of pins, of filters. The kernel frees maps and programs a moment after the last
    /// user is gone: ask again before you worry.
    pub fn residue(&mut self, belongings: &Belongings) -> Result<Vec<Residue>> {
        let asking = |cause| failed("looking for", "what is left", cause);
        let mut residue = Vec::new();
        if self.pins.base().exists() {
            residue.push(Residue::Pin(self.pins.base().display().to_string()));
        }
        let left = |kind, ours: &[u32]| -> Result<Vec<u32>, DatapathError> {
            let there = sys::ids(kind).map_err(asking)?;
            Ok(ours.iter().copied().filter(|id| there.contains(id)).collect())
        };
        residue.extend(left(IdKind::Map, &belongings.maps)?.into_iter().map(Residue::Map));
        residue.extend(left(IdKind::Prog, &belongings.programs)?.into_iter().map(Residue::Program));
        residue.extend(left(IdKind::Link, &belongings.links)?.into_iter().map(Residue::Link));
        let links = self.netlink.links().map_err(netlink)?;
        residue.extend(
            links
                .iter()
                .filter(|link| wiring::is_ours(link) || belongings.devices.contains(&link.name))
                .map(|link| Residue::Device(link.name.clone())),
        );
        let attached = self.attacher.attached(&mut self.netlink, &links).map_err(attach)?;
        residue.extend(
            attached
                .into_iter()
                .map(|found| Residue::Filter { interface: found.interface, hook: found.hook.program() }),
        );
        Ok(residue)
    }
}
