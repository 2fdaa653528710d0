//! The tables as they are in the kernel: found again, made, made larger.
use std::{io, path::Path, thread};

use weir_abi::{BackendInfo, KernelTable, PrefilterClass, Settings, runtime_tables, sided_tables};
use weir_plan::Capacity;

use crate::{
    error::{Result, failed},
    generation::{Word, first},
    maps::{Map, kernel_name, spec},
    pins::Pins,
    services::ServiceTable,
    sided::{ArrayTable, MappedTable, Sided, TreeTable},
    sys,
};

/// Every table. One that is missing or of the wrong shape is `None` until it is made again.
#[derive(Debug)]
pub struct Live {
    pub settings: Option<ArrayTable<Settings>>,
    pub interfaces: Option<Sided>,
    pub endpoints: Option<Sided>,
    pub ipcache: Option<TreeTable>,
    pub subjects: Option<Sided>,
    pub policy: Option<Sided>,
    pub prefilter: Option<TreeTable>,
    pub classes: Option<ArrayTable<PrefilterClass>>,
    pub frontends: Option<Sided>,
    pub services: Option<ServiceTable>,
    pub backends: Option<ArrayTable<BackendInfo>>,
    pub source_ranges: Option<Sided>,
    pub runtime: Map,
    pub word: Word,
    pub conntrack_tcp: Option<Map>,
    pub conntrack_other: Option<Map>,
    pub fragments: Option<Map>,
    pub affinity: Option<Map>,
    pub nat: Option<Map>,
    pub sockets: Option<Map>,
    pub metrics: Option<Map>,
    pub rule_counters: Option<Map>,
    pub trace: Option<Map>,
    pub events: Option<Map>,
}

/// The least size of each table, in entries.
const SETTINGS: usize = 1;
const HASH: usize = 256;
pub const LINES: usize = 1 << 10;
const CLASSES: usize = 64;
const BACKENDS: usize = 64;

/// Sizes come in classes. A new table's are narrow, 16 to every doubling: it wastes little.
pub fn class(entries: usize, least: usize) -> u32 {
    rounded(entries.max(least), 32)
}

/// A table that grew once may grow again: four to every doubling, so that it does so rarely.
pub fn grown_class(entries: usize) -> u32 {
    rounded(entries, 8)
}

fn rounded(entries: usize, steps: usize) -> u32 {
    let entries = entries.clamp(1, 1 << 30);
    let step = (entries.next_power_of_two() / steps).max(1);
    entries.next_multiple_of(step) as u32
}

pub fn table(name: &str) -> &'static KernelTable {
    sided_tables()
        .iter()
        .chain(runtime_tables())
        .find(|table| table.name == name)
        .unwrap_or_else(|| unreachable!("the ABI lists every table that this crate names: {name}"))
}

pub fn table_names() -> Vec<&'static str> {
    sided_tables().iter().chain(runtime_tables()).map(|table| table.name).collect()
}

/// CPUs that the machine could have: per-CPU tables have a slot for each.
pub fn possible_cpus() -> u32 {
    aya::util::nr_cpus().unwrap_or(1) as u32
}

/// Finds maps: first among those that `used` (the maps of programs) names, then at the pin.
pub struct Finder<'a> {
    pub pins: &'a Pins,
    pub used: Vec<Map>,
    /// Whether every table was found at its pin, and is the one that programs use.
    pub pinned: bool,
}

impl Finder<'_> {
    fn find<T>(&mut self, name: &'static str, open: impl Fn(Map) -> io::Result<Option<T>>) -> io::Result<Option<T>> {
        let pinned = Map::pinned(&self.pins.table(name))?;
        let kernel_name = kernel_name(name);
        let mut found = None;
        // While conntrack moves, programs use two tables of one name: the pinned one is the newer.
        let mut used: Vec<usize> = (0..self.used.len()).filter(|&at| self.used[at].name() == kernel_name).collect();
        used.sort_by_key(|&at| pinned.as_ref().is_none_or(|map| map.id() != self.used[at].id()));
        for at in used {
            let id = self.used[at].id();
            if let Some(table) = open(Map::by_id(id)?)? {
                self.pinned &= pinned.as_ref().is_some_and(|map| map.id() == id);
                found = Some(table);
                break;
            }
        }
        if found.is_none()
            && let Some(map) = pinned
        {
            found = open(map)?;
        }
        self.pinned &= found.is_some();
        Ok(found)
    }

    fn sided(&mut self, name: &'static str) -> io::Result<Option<Sided>> {
        self.find(name, |map| Sided::open(table(name), map))
    }

    fn single(&mut self, name: &'static str) -> io::Result<Option<Map>> {
        self.find(name, |map| Ok(map.fits(&spec(table(name), 0)).then_some(map)))
    }

    fn mapped<T: MappedTable>(&mut self, name: &'static str) -> io::Result<Option<T>> {
        self.sided(name)?.map(T::of).transpose()
    }
}

impl Live {
    /// The tables that are there; `None` without a generation word: nothing that is there can be ours then.
    pub fn open(finder: &mut Finder<'_>) -> io::Result<Option<Self>> {
        let Some(runtime) = finder.single("RUNTIME")? else { return Ok(None) };
        Ok(Some(Self {
            settings: finder.mapped("SETTINGS")?,
            interfaces: finder.sided("INTERFACES")?,
            endpoints: finder.sided("ENDPOINTS")?,
            ipcache: finder.mapped("IPCACHE")?,
            subjects: finder.sided("SUBJECTS")?,
            policy: finder.sided("POLICY")?,
            prefilter: finder.mapped("PREFILTER")?,
            classes: finder.mapped("PREFILTER_CLASSES")?,
            frontends: finder.sided("FRONTENDS")?,
            services: ServiceTable::open(finder.mapped("SERVICES")?, finder.mapped("SLOTS")?),
            backends: finder.mapped("BACKENDS")?,
            source_ranges: finder.sided("SOURCE_RANGES")?,
            word: Word::new(&runtime)?,
            runtime,
            conntrack_tcp: finder.single("CONNTRACK_TCP")?,
            conntrack_other: finder.single("CONNTRACK_OTHER")?,
            fragments: finder.single("FRAGMENTS")?,
            affinity: finder.single("AFFINITY")?,
            nat: finder.single("NAT")?,
            sockets: finder.single("SOCKETS")?,
            metrics: finder.single("METRICS")?,
            rule_counters: finder.single(weir_abi::RULE_COUNTERS)?,
            trace: finder.single("TRACE")?,
            events: finder.single("EVENTS")?,
        }))
    }

    /// A new generation word, whose epochs begin after `beyond`, and no table yet. Conntrack, which speaks of epochs, is
    /// made anew with it, or has none later than that.
    pub fn cold(beyond: u64) -> io::Result<Self> {
        let runtime = Map::create("RUNTIME", &spec(table("RUNTIME"), 1), None)?;
        let word = Word::new(&runtime)?;
        word.set(first(beyond));
        Ok(Self {
            settings: None,
            interfaces: None,
            endpoints: None,
            ipcache: None,
            subjects: None,
            policy: None,
            prefilter: None,
            classes: None,
            frontends: None,
            services: None,
            backends: None,
            source_ranges: None,
            runtime,
            word,
            conntrack_tcp: None,
            conntrack_other: None,
            fragments: None,
            affinity: None,
            nat: None,
            sockets: None,
            metrics: None,
            rule_counters: None,
            trace: None,
            events: None,
        })
    }

    /// Makes what is missing. Whether anything was.
    pub fn complete(&mut self, need: &Need, foreseen: Foreseen) -> io::Result<bool> {
        let mut made = false;
        let mut hash = |place: &mut Option<Sided>, name, entries| -> io::Result<()> {
            if place.is_none() {
                *place = Some(Sided::create(table(name), class(entries, HASH))?);
                made = true;
            }
            Ok(())
        };
        hash(&mut self.interfaces, "INTERFACES", need.interfaces)?;
        hash(&mut self.endpoints, "ENDPOINTS", need.endpoints)?;
        hash(&mut self.subjects, "SUBJECTS", need.subjects)?;
        hash(&mut self.policy, "POLICY", need.policy)?;
        hash(&mut self.frontends, "FRONTENDS", need.frontends)?;
        hash(&mut self.source_ranges, "SOURCE_RANGES", need.source_ranges)?;
        made |= fill(&mut self.settings, || MappedTable::create(table("SETTINGS"), SETTINGS as u32))?;
        made |= fill(&mut self.ipcache, || MappedTable::create(table("IPCACHE"), class(need.ipcache, LINES)))?;
        made |= fill(&mut self.prefilter, || MappedTable::create(table("PREFILTER"), class(need.prefilter, LINES)))?;
        made |=
            fill(&mut self.classes, || MappedTable::create(table("PREFILTER_CLASSES"), class(need.classes, CLASSES)))?;
        made |= fill(&mut self.services, || ServiceTable::create(need.services, need.slot_lines))?;
        made |= fill(&mut self.backends, || MappedTable::create(table("BACKENDS"), class(need.backends, BACKENDS)))?;
        made |= fill(&mut self.nat, || single("NAT", need.capacity.nat))?;
        made |= fill(&mut self.sockets, || single("SOCKETS", need.capacity.sockets))?;
        made |= fill(&mut self.affinity, || single("AFFINITY", need.capacity.affinity))?;
        made |= fill(&mut self.fragments, || single("FRAGMENTS", need.capacity.fragments))?;
        made |= fill(&mut self.metrics, || single("METRICS", 0))?;
        made |= fill(&mut self.rule_counters, || rule_counters(need.capacity.rules))?;
        made |= fill(&mut self.trace, || single("TRACE", 0))?;
        made |= fill(&mut self.events, || single("EVENTS", 0))?;
        made |= self.conntrack_tcp.is_none() || self.conntrack_other.is_none();
        if made {
            self.connect(need, foreseen)?;
        }
        Ok(made)
    }

    /// Connecting new tables waits for RCU, and the kernel fills a million conntrack entries meanwhile.
    fn connect(&mut self, need: &Need, foreseen: Foreseen) -> io::Result<()> {
        let mut new = Vec::new();
        for sided in self.sided() {
            if !sided.is_connected()? {
                new.push(sided);
            }
        }
        let capacity = need.capacity;
        let (tcp, other) = thread::scope(|scope| {
            let missing = |place: &Option<Map>, name, entries, early: Option<Early>| {
                let make =
                    move || early.and_then(|early| early.take(entries)).map_or_else(|| single(name, entries), Ok);
                place.is_none().then(|| scope.spawn(make))
            };
            let Foreseen { tcp, other } = foreseen;
            let tcp = missing(&self.conntrack_tcp, "CONNTRACK_TCP", capacity.conntrack_tcp, tcp);
            let other = missing(&self.conntrack_other, "CONNTRACK_OTHER", capacity.conntrack_other, other);
            Sided::connect(&new)?;
            let made = |thread: Option<thread::ScopedJoinHandle<'_, io::Result<Map>>>| {
                let ended = |_| Err(io::Error::other("the thread that made it ended early"));
                thread.map(|thread| thread.join().unwrap_or_else(ended)).transpose()
            };
            Ok::<_, io::Error>((made(tcp)?, made(other)?))
        })?;
        self.conntrack_tcp = self.conntrack_tcp.take().or(tcp);
        self.conntrack_other = self.conntrack_other.take().or(other);
        Ok(())
    }

    /// The tables that traffic fills, which outlive a version of Weir.
    pub fn of_traffic(&mut self) -> [(&'static str, &mut Option<Map>); 9] {
        [
            ("CONNTRACK_TCP", &mut self.conntrack_tcp),
            ("CONNTRACK_OTHER", &mut self.conntrack_other),
            ("FRAGMENTS", &mut self.fragments),
            ("AFFINITY", &mut self.affinity),
            ("NAT", &mut self.nat),
            ("SOCKETS", &mut self.sockets),
            ("METRICS", &mut self.metrics),
            (weir_abi::RULE_COUNTERS, &mut self.rule_counters),
            ("EVENTS", &mut self.events),
        ]
    }

    /// Every map that has a pin, by table.
    pub fn maps(&self) -> Vec<(&'static str, &Map)> {
        let mut maps: Vec<(&'static str, &Map)> = vec![("RUNTIME", &self.runtime)];
        for sided in self.sided() {
            maps.push((sided.table.name, &sided.outer));
        }
        for (name, map) in [
            ("CONNTRACK_TCP", &self.conntrack_tcp),
            ("CONNTRACK_OTHER", &self.conntrack_other),
            ("FRAGMENTS", &self.fragments),
            ("AFFINITY", &self.affinity),
            ("NAT", &self.nat),
            ("SOCKETS", &self.sockets),
            ("METRICS", &self.metrics),
            (weir_abi::RULE_COUNTERS, &self.rule_counters),
            ("TRACE", &self.trace),
            ("EVENTS", &self.events),
        ] {
            maps.extend(map.as_ref().map(|map| (name, map)));
        }
        maps
    }

    /// The tables with two sides.
    pub fn sided(&self) -> Vec<&Sided> {
        let hashes =
            [&self.interfaces, &self.endpoints, &self.subjects, &self.policy, &self.frontends, &self.source_ranges];
        let mut tables: Vec<&Sided> = hashes.into_iter().flatten().collect();
        tables.extend(self.settings.as_ref().map(MappedTable::sided));
        tables.extend(self.ipcache.as_ref().map(MappedTable::sided));
        tables.extend(self.prefilter.as_ref().map(MappedTable::sided));
        tables.extend(self.classes.as_ref().map(MappedTable::sided));
        tables.extend(self.services.iter().flat_map(ServiceTable::sided));
        tables.extend(self.backends.as_ref().map(MappedTable::sided));
        tables
    }

    /// Pins every map that is not the one at its pin.
    pub fn pin(&self, pins: &Pins) -> Result<()> {
        for (name, map) in self.maps() {
            let path = pins.table(name);
            let there = Map::pinned(&path).map_err(|cause| failed("opening the pin", path.display(), cause))?;
            if there.is_none_or(|there| there.id() != map.id()) {
                pin(map, &path)?;
            }
        }
        Ok(())
    }

    pub fn capacity(&self) -> Capacity {
        let entries = |map: &Option<Map>| map.as_ref().map_or(0, Map::entries);
        Capacity {
            conntrack_tcp: entries(&self.conntrack_tcp),
            conntrack_other: entries(&self.conntrack_other),
            fragments: entries(&self.fragments),
            affinity: entries(&self.affinity),
            nat: entries(&self.nat),
            sockets: entries(&self.sockets),
            rules: self.rules(),
        }
    }

    /// Rules that the counters have room for.
    pub fn rules(&self) -> u32 {
        self.rule_counters.as_ref().map_or(0, Map::entries) / possible_cpus()
    }

    pub fn pending_stores(&self) -> u64 {
        self.settings.as_ref().map_or(0, MappedTable::pending_stores)
            + self.ipcache.as_ref().map_or(0, MappedTable::pending_stores)
            + self.prefilter.as_ref().map_or(0, MappedTable::pending_stores)
            + self.classes.as_ref().map_or(0, MappedTable::pending_stores)
            + self.services.as_ref().map_or(0, ServiceTable::pending_stores)
            + self.backends.as_ref().map_or(0, MappedTable::pending_stores)
    }
}

/// Conntrack's tables, begun before anybody asked for them: the kernel takes tens of milliseconds to fill a million
/// entries. They have no pin, and go with their last descriptor.
#[derive(Debug, Default)]
pub struct Foreseen {
    tcp: Option<Early>,
    other: Option<Early>,
}

#[derive(Debug)]
struct Early {
    entries: u32,
    making: thread::JoinHandle<io::Result<Map>>,
}

impl Foreseen {
    pub fn begin(capacity: &Capacity) -> Self {
        let begin = |name, entries| Some(Early { entries, making: thread::spawn(move || single(name, entries)) });
        Self {
            tcp: begin("CONNTRACK_TCP", capacity.conntrack_tcp),
            other: begin("CONNTRACK_OTHER", capacity.conntrack_other),
        }
    }
}

impl Early {
    /// `None` where it is of another size, or could not be made: whoever makes it then says why.
    fn take(self, entries: u32) -> Option<Map> {
        if self.entries != entries {
            return None;
        }
        self.making.join().ok()?.ok()
    }
}

/// What the tables must hold, in entries.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    pub interfaces: usize,
    pub endpoints: usize,
    pub subjects: usize,
    pub policy: usize,
    pub ipcache: usize,
    pub prefilter: usize,
    pub classes: usize,
    pub frontends: usize,
    pub services: usize,
    pub slot_lines: usize,
    pub backends: usize,
    pub source_ranges: usize,
    pub capacity: Capacity,
}

pub fn single(name: &'static str, entries: u32) -> io::Result<Map> {
    Map::create(name, &spec(table(name), entries), None)
}

/// Room for `rules` on every possible CPU.
pub fn rule_counters(rules: u32) -> io::Result<Map> {
    single(weir_abi::RULE_COUNTERS, class(rules as usize, 1024) * possible_cpus())
}

fn fill<T>(place: &mut Option<T>, make: impl FnOnce() -> io::Result<T>) -> io::Result<bool> {
    if place.is_some() {
        return Ok(false);
    }
    *place = Some(make()?);
    Ok(true)
}

fn pin(map: &Map, path: &Path) -> Result<()> {
    sys::pin_replace(std::os::fd::AsFd::as_fd(map), path).map_err(|cause| failed("pinning", path.display(), cause))
}
