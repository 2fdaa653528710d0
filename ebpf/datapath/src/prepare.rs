//! Making tables, making them larger, and swapping programs in, without losing a packet.
use std::os::fd::AsFd as _;

use weir_abi::{
    ConntrackEntry, Counter, EndpointInfo, FrontendInfo, FrontendKey, InterfaceInfo, PolicyEntry, PolicyKey,
    SourceRangeKey, SubjectInfo, settings_flags,
};
use weir_plan::{Capacity, DatapathError, Hook, Tables};

use crate::{
    attach::Way,
    clock::jiffies_per_second,
    doctor::missing_capabilities,
    error::{Result, attach, failed, netlink},
    hash,
    kernel::{Kernel, not_prepared},
    live::{Live, Need, grown_class, possible_cpus, rule_counters, single, table_names},
    mapped::Mapped,
    maps::Map,
    prefix_tree::lines_estimate,
    programs::{Globals, Loading, Programs},
    services::slot_lines,
    sided::{MappedTable, Sided},
    sys::{self, Batch, Plain},
};

/// A hash has as many buckets as it has room for entries: twice the room, and chains are short. Room costs 16 bytes, and
/// is given where a packet asks for many keys.
const fn half_empty(entries: usize) -> usize {
    entries * 2
}

impl Need {
    fn of(tables: &Tables, capacity: &Capacity) -> Self {
        Self {
            interfaces: tables.interfaces.len(),
            endpoints: tables.endpoints.len(),
            subjects: tables.subjects.len(),
            policy: half_empty(tables.policy.len()),
            ipcache: lines_estimate(tables.ipcache4.len(), tables.ipcache6.len()),
            prefilter: lines_estimate(tables.prefilter4.len(), tables.prefilter6.len()),
            classes: tables.classes.last().map_or(0, |(class, _)| *class as usize + 1),
            frontends: tables.frontends.len(),
            services: tables.services.last().map_or(0, |(service, _)| *service as usize + 1),
            slot_lines: slot_lines(&tables.services),
            backends: tables.backends.last().map_or(0, |(backend, _)| *backend as usize + 1),
            source_ranges: tables.source_ranges.len(),
            capacity: *capacity,
        }
    }
}

impl Kernel {
    pub(crate) fn prepare_all(&mut self, tables: &Tables, capacity: &Capacity) -> Result<()> {
        self.finish_loading()?;
        let need = Need::of(tables, capacity);
        let making = |cause| failed("making", "the tables", cause);
        let predecessor = self.predecessor()?;
        let mut changed = !self.current || !self.pinned;
        if self.live.is_none() {
            // Nothing is begun that could not be ended.
            self.pins.check()?;
            if let Some(capability) = missing_capabilities().first() {
                return Err(DatapathError::NotPermitted { capability, cause: "not in effect".to_owned() });
            }
            let mut live = Live::cold(self.beyond).map_err(making)?;
            if let Some(predecessor) = &predecessor {
                predecessor.hand_over(&mut live).map_err(making)?;
            }
            self.live = Some(live);
            // No program has seen these tables yet.
            self.quiet = true;
            changed = true;
        }
        let foreseen = std::mem::take(&mut self.foreseen);
        changed |= self.live()?.complete(&need, foreseen).map_err(making)?;
        self.grow_hashes(&need)?;
        let (grown, former) = self.grow_arrays(&need)?;
        // Another version's programs make flows in its tables until `tear` replaces them.
        let handed_over = match predecessor {
            Some(predecessor) => predecessor.conntrack(self.live()?).map_err(making)?,
            None => Vec::new(),
        };
        if let Some(first) = handed_over.first() {
            let entry = first.from.spec().value_size;
            self.pin_former(&handed_over)?;
            self.handed_over = handed_over;
            self.begin_loading(likely(tables), entry)?;
            if self.programs.is_some() {
                self.finish_loading()?;
            }
        } else if !former.is_empty() {
            self.move_conntrack(&former)?;
        } else if changed || grown {
            self.begin_loading(likely(tables), 0)?;
            // Where programs run, they are to be replaced now; where none does, tables can be filled meanwhile.
            if self.programs.is_some() {
                self.finish_loading()?;
            }
        }
        Ok(())
    }

    /// Conntrack has new tables: at first the programs take each flow over that they miss; when all have come, they
    /// forget the former tables.
    fn move_conntrack(&mut self, former: &[Former]) -> Result<()> {
        self.pin_former(former)?;
        self.load(size_of::<ConntrackEntry>() as u32)?;
        self.end_move(former)
    }

    /// A hash of the standby side gets a larger inner map; the active side's turn comes when it is standby.
    fn grow_hashes(&mut self, need: &Need) -> Result<()> {
        let side = self.standby();
        let small = |sided: &Option<Sided>, entries: usize| {
            sided.as_ref().is_some_and(|sided| (sided.entries(side) as usize) < entries)
        };
        let live = self.live()?;
        let grow = [
            small(&live.interfaces, need.interfaces),
            small(&live.endpoints, need.endpoints),
            small(&live.subjects, need.subjects),
            small(&live.policy, need.policy),
            small(&live.frontends, need.frontends),
            small(&live.source_ranges, need.source_ranges),
        ];
        if !grow.contains(&true) {
            return Ok(());
        }
        self.ensure_quiet()?;
        let live = self.live()?;
        let larger = |cause| failed("making larger", "a table", cause);
        if grow[0] {
            regrow::<u32, InterfaceInfo>(&mut live.interfaces, side, need.interfaces).map_err(larger)?;
        }
        if grow[1] {
            regrow::<weir_abi::Address, EndpointInfo>(&mut live.endpoints, side, need.endpoints).map_err(larger)?;
        }
        if grow[2] {
            regrow::<u32, SubjectInfo>(&mut live.subjects, side, need.subjects).map_err(larger)?;
        }
        if grow[3] {
            regrow::<PolicyKey, PolicyEntry>(&mut live.policy, side, need.policy).map_err(larger)?;
        }
        if grow[4] {
            regrow::<FrontendKey, FrontendInfo>(&mut live.frontends, side, need.frontends).map_err(larger)?;
        }
        if grow[5] {
            regrow::<SourceRangeKey, u32>(&mut live.source_ranges, side, need.source_ranges).map_err(larger)?;
        }
        Ok(())
    }

    /// Arrays and the tables of traffic are made anew in their new size. Whether any was; and conntrack's former and
    /// new tables.
    fn grow_arrays(&mut self, need: &Need) -> Result<(bool, Vec<Former>)> {
        let live = self.live()?;
        let mut grown = false;
        let larger = |cause| failed("making larger", "a table", cause);
        grown |= grow(&mut live.ipcache, need.ipcache).map_err(larger)?;
        grown |= grow(&mut live.prefilter, need.prefilter).map_err(larger)?;
        grown |= grow(&mut live.classes, need.classes).map_err(larger)?;
        grown |= grow(&mut live.backends, need.backends).map_err(larger)?;
        if let Some(services) = &mut live.services {
            grown |= services.grow(need.services, need.slot_lines).map_err(larger)?;
        }
        if live.rules() < need.capacity.rules {
            let former = live.rules();
            let counters = rule_counters(need.capacity.rules).map_err(larger)?;
            if let Some(old) = live.rule_counters.replace(counters)
                && let Some(new) = &live.rule_counters
            {
                copy_counters(&old, former, new).map_err(larger)?;
            }
            grown = true;
        }
        let mut former = Vec::new();
        for (place, name, entries) in [
            (&mut live.conntrack_tcp, "CONNTRACK_TCP", need.capacity.conntrack_tcp),
            (&mut live.conntrack_other, "CONNTRACK_OTHER", need.capacity.conntrack_other),
        ] {
            let Some(old) = place.as_ref().filter(|map| map.entries() != entries) else { continue };
            let from = Map::by_id(old.id()).map_err(larger)?;
            let new = single(name, entries).map_err(larger)?;
            former.push(Former { name, from, to: Map::by_id(new.id()).map_err(larger)? });
            *place = Some(new);
            grown = true;
        }
        if live.fragments.as_ref().is_some_and(|map| map.entries() != need.capacity.fragments) {
            live.fragments = Some(single("FRAGMENTS", need.capacity.fragments).map_err(larger)?);
            grown = true;
        }
        for (place, name, entries) in [
            (&mut live.affinity, "AFFINITY", need.capacity.affinity),
            (&mut live.nat, "NAT", need.capacity.nat),
            (&mut live.sockets, "SOCKETS", need.capacity.sockets),
        ] {
            if place.as_ref().is_some_and(|map| map.entries() != entries) {
                *place = Some(single(name, entries).map_err(larger)?);
                grown = true;
            }
        }
        Ok((grown, former))
    }

    /// Pins the tables, loads the programs against them, and puts these in the place of those that run.
    pub(crate) fn reload(&mut self) -> Result<()> {
        self.load(0)
    }

    fn load(&mut self, former: u32) -> Result<()> {
        self.finish_loading()?;
        self.begin_loading(Vec::new(), former)?;
        self.finish_loading()
    }

    /// Starts to load the programs that are in use, and those of `hooks`.
    fn begin_loading(&mut self, mut hooks: Vec<Hook>, former: u32) -> Result<()> {
        self.pins.make()?;
        let pins = self.pins.clone();
        pins.sweep().map_err(|cause| failed("clearing", pins.root().display(), cause))?;
        self.live()?.pin(&pins)?;
        hooks.extend(self.programs.iter().flat_map(|programs| programs.all().map(|(hook, _)| hook)));
        hooks.sort_unstable();
        hooks.dedup();
        let globals = Globals { former, ..self.globals()? };
        self.loading = Some(Loading::start(pins, table_names(), globals, hooks));
        Ok(())
    }

    fn globals(&mut self) -> Result<Globals> {
        let former = self.handed_over.first().map_or(0, |former| former.from.spec().value_size);
        Ok(Globals { rules: self.live()?.rules(), hz: jiffies_per_second()?, trace: self.options.trace, former })
    }

    /// Waits for the verifier, where it is still at work.
    pub(crate) fn finish_loading(&mut self) -> Result<()> {
        let Some(loading) = self.loading.take() else { return Ok(()) };
        let mut programs = loading.finish()?;
        programs.pin(&self.pins, self.options.trace).map_err(|cause| failed("pinning", "the programs", cause))?;
        self.programs = Some(programs);
        self.current = true;
        self.pinned = true;
        self.relink()
    }

    /// The programs, with those of `hooks` among them.
    pub(crate) fn load_hooks(&mut self, hooks: &[Hook]) -> Result<&Programs> {
        self.finish_loading()?;
        let missing = |programs: &Programs| -> Vec<Hook> {
            hooks.iter().copied().filter(|hook| programs.id(*hook).is_none()).collect()
        };
        let missing = missing(self.programs.as_ref().ok_or_else(not_prepared)?);
        if !missing.is_empty() {
            // Beside programs of another build, or without the tables at their pins, it would be another set.
            if !self.current || !self.pinned {
                return Err(not_prepared());
            }
            let (pins, globals) = (self.pins.clone(), self.globals()?);
            let more = Programs::load(|name| pins.table(name), &table_names(), globals, &missing)?;
            let pinning = |cause| failed("pinning", "the programs", cause);
            self.programs.as_mut().ok_or_else(not_prepared)?.add(more).map_err(pinning)?;
        }
        self.programs.as_ref().ok_or_else(not_prepared)
    }

    /// Updates, in place, every attachment that runs other programs on our generation word. Those on another word
    /// (of another ABI) wait until the new tables are live: see `tear`.
    fn relink(&mut self) -> Result<()> {
        let links = self.netlink.links().map_err(netlink)?;
        let attached = self.attacher.attached(&mut self.netlink, &links).map_err(attach)?;
        let word = self.live()?.runtime.id();
        for found in attached {
            let device = links.iter().find(|link| link.ifindex == found.ifindex);
            if device.is_none() && found.way != Way::Cgroup {
                continue;
            }
            let ours = self.programs.as_ref().and_then(|programs| programs.id(found.hook));
            if ours == Some(found.program) || !uses(found.program, word) {
                continue;
            }
            let programs = self.load_hooks(&[found.hook])?;
            let fd =
                programs.fd(found.hook)?.try_clone_to_owned().map_err(|cause| failed("holding", "a program", cause))?;
            let want = self.attacher.asked(&found);
            match device {
                Some(device) => self.attacher.attach(&mut self.netlink, device, found.hook, want, fd.as_fd()),
                None => self.attacher.attach_to_cgroup(found.hook, fd.as_fd()),
            }
            .map_err(attach)?;
        }
        Ok(())
    }
}

/// One of conntrack's tables, before and after.
#[derive(Debug)]
pub struct Former {
    pub name: &'static str,
    pub from: Map,
    pub to: Map,
}

/// The hooks that tables like these are for; what else is attached is loaded when it is.
fn likely(tables: &Tables) -> Vec<Hook> {
    // One at least: a set of programs is known by its content.
    let mut hooks = vec![Hook::XdpIngress];
    if tables.interfaces.iter().any(|(_, info)| info.endpoint != 0) {
        hooks.extend([Hook::FromEndpoint, Hook::ToEndpoint]);
    }
    if tables.settings.iter().any(|(_, settings)| settings.flags & settings_flags::HOST_POLICY != 0) {
        hooks.extend([Hook::FromNetwork, Hook::ToNetwork]);
    }
    if tables.settings.iter().any(|(_, settings)| settings.flags & settings_flags::SOCKETS != 0) {
        hooks.extend(Hook::of_sockets());
    }
    hooks
}

/// Whether a program, by id, uses a map, by id.
pub(crate) fn uses(program: u32, map: u32) -> bool {
    sys::prog_by_id(program)
        .and_then(|program| sys::prog_info(program.as_fd()))
        .is_ok_and(|info| info.maps.contains(&map))
}

fn grow<T: MappedTable>(place: &mut Option<T>, entries: usize) -> std::io::Result<bool> {
    match place {
        Some(table) if (table.sided().entries(weir_abi::Side::A) as usize) < entries => {
            *table = table.grown(grown_class(entries))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn regrow<K: Plain + Ord, V: Plain + PartialEq>(
    place: &mut Option<Sided>,
    side: weir_abi::Side,
    entries: usize,
) -> std::io::Result<()> {
    let Some(sided) = place else { return Ok(()) };
    let content = hash::read::<K, V>(sided.side(side))?;
    sided.replace(side, grown_class(entries))?;
    insert_all(sided.side(side), &content)
}

pub(crate) fn insert_all<K: Plain, V: Plain>(map: &Map, content: &[(K, V)]) -> std::io::Result<()> {
    let (keys, values): (Vec<K>, Vec<V>) = content.iter().copied().unzip();
    if keys.is_empty() {
        return Ok(());
    }
    match Batch::of(map).update(&keys, &values).1 {
        Err(error) if Batch::unsupported(&error) => {}
        done => return done,
    }
    keys.iter().zip(&values).try_for_each(|(key, value)| sys::update(map.as_fd(), key, sys::bytes_of(value)))
}

/// Counters are indexed `cpu * rules + rule`, so a table for more rules has another layout.
fn copy_counters(from: &Map, former: u32, to: &Map) -> std::io::Result<()> {
    let (from, mut to) = (Mapped::<Counter>::new(from)?, Mapped::<Counter>::new(to)?);
    let rules = to.len() / possible_cpus() as usize;
    for cpu in 0..possible_cpus() as usize {
        for rule in 0..(former as usize).min(rules) {
            to.set(cpu * rules + rule, from.get(cpu * former as usize + rule));
        }
    }
    Ok(())
}
