//! How things really are, for people: what an idle plan does not say.
use std::{collections::BTreeMap, os::fd::AsRawFd as _};

use weir_abi::Side;
use weir_plan::Hook;

use crate::{
    attach::Way,
    error::{Result, attach, failed, netlink},
    kernel::Kernel,
    maps::Map,
    programs::Programs,
    sided::{MappedTable as _, TreeSide},
    sys,
};

/// How a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub interface: String,
    pub ifindex: u32,
    pub hook: Hook,
    /// `xdp native`, `xdp generic`, `tcx` or `clsact`.
    pub way: &'static str,
    /// Why native XDP was not possible, where any mode was asked for.
    pub reason: Option<String>,
    /// It is the program that is loaded now.
    pub current: bool,
    /// Programs of others in the same tcx chain, by id. Ours stands first.
    pub beside: Vec<u32>,
}

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableUse {
    pub table: &'static str,
    /// Entries that fit; on each side, where there are two. Lines for a prefix tree.
    pub room: [u32; 2],
    /// Kernel memory, per side where there are two, as the kernel accounts for it.
    pub bytes: [u64; 2],
    /// Lines in use, for a prefix tree that this process has read.
    pub lines: Option<u32>,
}

/// One program as it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramUse {
    pub name: &'static str,
    pub id: u32,
    /// Instructions that the verifier went through.
    pub verified_instructions: u32,
    pub jited_bytes: u32,
}

impl Kernel {
    pub fn attachments(&mut self) -> Result<Vec<Attachment>> {
        self.finish_loading()?;
        let links = self.netlink.links().map_err(netlink)?;
        let attached = self.attacher.attached(&mut self.netlink, &links).map_err(attach)?;
        let mut attachments = Vec::new();
        for found in attached {
            let ours = self.programs.as_ref().and_then(|programs| programs.id(found.hook));
            let beside = if found.way == Way::Tcx {
                let egress = matches!(found.hook, Hook::ToEndpoint | Hook::ToNetwork);
                let mut chain = sys::tcx_programs(found.ifindex, egress)
                    .map_err(|cause| failed("listing", "a tcx chain", cause))?;
                chain.retain(|id| *id != found.program);
                chain
            } else {
                Vec::new()
            };
            attachments.push(Attachment {
                reason: (found.way == Way::XdpGeneric)
                    .then(|| self.attacher.generic_reason(&found.interface))
                    .flatten(),
                interface: found.interface,
                ifindex: found.ifindex,
                hook: found.hook,
                way: found.way.name(),
                current: ours == Some(found.program) && self.current && self.pinned,
                beside,
            });
        }
        attachments.sort_by(|a, b| (&a.interface, a.hook).cmp(&(&b.interface, b.hook)));
        Ok(attachments)
    }

    pub fn tables(&mut self) -> Result<Vec<TableUse>> {
        let Some(live) = &self.live else { return Ok(Vec::new()) };
        let memory = |map: &Map| memory(map).map_err(|cause| failed("asking after", map.name(), cause));
        let mut lines = BTreeMap::new();
        for table in [&live.ipcache, &live.prefilter].into_iter().flatten() {
            if let TreeSide::Sound(tree) = table.side(live.word.get().side) {
                lines.insert(table.sided().table.name, tree.used());
            }
        }
        let mut uses = Vec::new();
        for sided in live.sided() {
            uses.push(TableUse {
                table: sided.table.name,
                room: Side::BOTH.map(|side| sided.entries(side)),
                bytes: [memory(&sided.inner[0])?, memory(&sided.inner[1])?],
                lines: lines.get(sided.table.name).copied(),
            });
        }
        for (table, map) in live.maps() {
            if !uses.iter().any(|known| known.table == table) {
                uses.push(TableUse { table, room: [map.entries(), 0], bytes: [memory(map)?, 0], lines: None });
            }
        }
        Ok(uses)
    }

    /// Loads what was not needed so far.
    pub fn load_all(&mut self) -> Result<()> {
        self.load_hooks(&Hook::ALL).map(drop)
    }

    pub fn loaded_programs(&mut self) -> Result<Vec<ProgramUse>> {
        self.finish_loading()?;
        let programs = self.programs.as_ref();
        let infos = programs.into_iter().flat_map(Programs::all);
        let uses = infos.map(|(hook, info)| ProgramUse {
            name: hook.program(),
            id: info.id,
            verified_instructions: info.verified_instructions,
            jited_bytes: info.jited_bytes,
        });
        Ok(uses.collect())
    }

    /// A program as aya holds it, for a program array of a benchmark or test.
    pub fn program_fd(&mut self, hook: Hook) -> Result<aya::programs::ProgramFd> {
        self.load_hooks(&[hook])?.aya_fd(hook)
    }
}

/// What the kernel says that a map takes.
fn memory(map: &Map) -> std::io::Result<u64> {
    let fd = std::os::fd::AsFd::as_fd(map).as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let memlock = info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    Ok(memlock.unwrap_or(0))
}
