//! The kernel as a [`Datapath`].
use std::{collections::BTreeMap, os::fd::AsFd as _, path::PathBuf, sync::Arc};

use weir_abi::{Generation, Side};
use weir_plan::{
    Capacity, Datapath, DatapathError, Delivery, InterfaceFacts, InterfaceName, NetnsFacts, NodeFacts, Observed, Probe,
    ProbeStep, Session, TableCopy, Tables, TablesDelta, WiringDelta,
};

use crate::{
    attach::Attacher,
    clock::Clock,
    doctor::cgroup2,
    error::{Result, failed, netlink},
    generation::Barrier,
    live::{Finder, Foreseen, Live},
    mapped::stores,
    maps::Map,
    netlink::{Link, Netlink, Scope, netns_exists},
    pins::{Pins, entries},
    prepare::Former,
    programs::{Loading, Programs},
    sys,
    test_run::CheckInstance,
    wiring,
};

/// How a kernel is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// In a BPF file system that is mounted already; made when it is first needed.
    pub pin_dir: PathBuf,
    /// Programs write their trace cell at every run: for tests that run the live programs themselves.
    pub trace: bool,
}

impl Options {
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self { pin_dir: pin_dir.into(), trace: false }
    }
}

/// What this process has written to the kernel so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// `bpf(2)` calls and rtnetlink requests that changed something.
    pub syscalls: u64,
    /// Stores through mapped tables.
    pub stores: u64,
}

/// The live side of Weir in this network namespace, below one pin directory.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) options: Options,
    pub(crate) pins: Pins,
    pub(crate) attacher: Attacher,
    pub(crate) netlink: Netlink,
    /// `None` on a cold start.
    pub(crate) live: Option<Live>,
    pub(crate) programs: Option<Programs>,
    /// Tables of a cold start that are being made.
    pub(crate) foreseen: Foreseen,
    /// Made when it is first asked for: the verifier takes its time.
    pub(crate) check: Option<CheckInstance>,
    /// What will be `programs`.
    pub(crate) loading: Option<Loading>,
    /// The programs are this build's, and use the live tables.
    pub(crate) current: bool,
    /// Every table is at its pin.
    pub(crate) pinned: bool,
    /// Grace has returned for the last flip, in this process.
    pub(crate) quiet: bool,
    /// Sockets of the host may speak to backends that are no more.
    pub(crate) orphans: bool,
    barrier: Option<Barrier>,
    /// The last epoch of another version's words: ours come after it.
    pub(crate) beyond: u64,
    /// Conntrack's tables of another version, until its programs are replaced.
    pub(crate) handed_over: Vec<Former>,
    /// Made when somebody first asks how long flows have yet.
    pub(crate) clock: Option<Arc<Clock>>,
    /// What each side's `interfaces` was last seen to call which index.
    pub(crate) names: [BTreeMap<InterfaceName, u32>; 2],
}

impl Kernel {
    /// Opens what is pinned; writes nothing.
    pub fn open(options: Options) -> Result<Self> {
        let pins = Pins::new(options.pin_dir.clone());
        pins.check()?;
        let attacher = Attacher::new(pins.links());
        let mut kernel = Self {
            options,
            pins,
            attacher,
            netlink: Netlink::open().map_err(netlink)?,
            live: None,
            programs: None,
            foreseen: Foreseen::default(),
            check: None,
            loading: None,
            current: false,
            pinned: false,
            quiet: false,
            // Whoever flipped last may have died before it ended them.
            orphans: true,
            barrier: None,
            beyond: 0,
            handed_over: Vec::new(),
            clock: None,
            names: Default::default(),
        };
        kernel.find()?;
        Ok(kernel)
    }

    /// Looks at the pins, and at what the programs use.
    fn find(&mut self) -> Result<()> {
        let opening = |cause| failed("opening", self.pins.root().display(), cause);
        let pinned = Programs::pinned(&self.pins, self.options.trace).map_err(opening)?;
        let (programs, current) = pinned.map_or((None, false), |(programs, current)| (Some(programs), current));
        let used = match &programs {
            Some(programs) => programs.maps().collect(),
            None => self.attached_maps().map_err(opening)?,
        };
        let used = maps_by_id(used).map_err(opening)?;
        let mut finder = Finder { pins: &self.pins, used, pinned: true };
        self.live = Live::open(&mut finder).map_err(opening)?;
        self.pinned = self.live.is_some() && finder.pinned;
        self.current = current && self.programs_use_live(programs.as_ref(), &finder.used);
        self.programs = programs;
        Ok(())
    }

    /// Maps of the programs that our links hold on to: where the tables are when the pins are gone.
    fn attached_maps(&self) -> std::io::Result<Vec<u32>> {
        let mut ids = Vec::new();
        if !self.pins.root().exists() {
            return Ok(ids);
        }
        for pin in entries(&self.pins.links())? {
            let Ok(link) = sys::pin_get(&pin) else { continue };
            let Ok(info) = sys::link_info(link.as_fd()) else { continue };
            let Ok(program) = sys::prog_by_id(info.program) else { continue };
            ids.extend(sys::prog_info(program.as_fd())?.maps);
        }
        Ok(ids)
    }

    /// Whether every table that the programs use is the live one.
    fn programs_use_live(&self, programs: Option<&Programs>, used: &[Map]) -> bool {
        let (Some(programs), Some(live)) = (programs, &self.live) else { return false };
        let ours: Vec<u32> = live.maps().iter().map(|(_, map)| map.id()).collect();
        programs.maps().all(|id| ours.contains(&id) || !used.iter().any(|map| map.id() == id))
    }

    /// Opened without tables: nothing of ours is in the kernel.
    pub const fn is_cold(&self) -> bool {
        self.live.is_none()
    }

    pub fn pin_dir(&self) -> &std::path::Path {
        self.pins.base()
    }

    /// What was written so far, by this process.
    pub fn writes(&self) -> Writes {
        let pending = self.live.as_ref().map_or(0, Live::pending_stores);
        Writes { syscalls: sys::write_syscalls(), stores: stores() + pending }
    }

    pub(crate) fn live(&mut self) -> Result<&mut Live> {
        self.live.as_mut().ok_or_else(not_prepared)
    }

    pub(crate) fn standby(&self) -> Side {
        self.live.as_ref().map_or(Side::B, |live| live.word.get().side.other())
    }

    /// Makes sure that no program can still hold the standby side.
    pub(crate) fn ensure_quiet(&mut self) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        if self.barrier.is_none() {
            self.barrier =
                Some(Barrier::new().map_err(|cause| failed("making", "the map that grace waits on", cause))?);
        }
        if let Some(barrier) = &self.barrier {
            barrier.wait().map_err(|cause| failed("waiting", "for running programs to end", cause))?;
        }
        self.quiet = true;
        Ok(())
    }

    pub(crate) fn forget_barrier(&mut self) {
        self.barrier = None;
    }

    /// Moves the programs' clock: the simulated hours of a test.
    pub fn set_clock_offset(&mut self, jiffies: u64) -> Result<()> {
        self.live()?.word.set_clock_offset(jiffies);
        Ok(())
    }
}

pub(crate) fn not_prepared() -> DatapathError {
    DatapathError::Failed { doing: "using", what: "the tables".to_owned(), cause: "they are not made yet".to_owned() }
}

/// A veth's other end is reached directly; a TAP device takes frames for a virtual machine.
fn delivery(link: &Link) -> Delivery {
    match (&*link.kind, link.peer_elsewhere) {
        ("veth", true) => Delivery::Peer,
        ("veth", false) => Delivery::Device,
        ("tun", _) if link.mac.is_some() => Delivery::Device,
        _ => Delivery::Stack,
    }
}

/// Those of the ids that are tables of Weir.
fn maps_by_id(mut ids: Vec<u32>) -> std::io::Result<Vec<Map>> {
    ids.sort_unstable();
    ids.dedup();
    let mut maps = Vec::new();
    for id in ids {
        match Map::by_id(id) {
            Ok(map) if map.name().starts_with("wr_") => maps.push(map),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(maps)
}

impl Datapath for Kernel {
    fn sessions(&mut self) -> Vec<Session> {
        crate::sessions::sessions()
    }

    fn facts(&mut self, netns: &[String]) -> Result<NodeFacts> {
        let links = self.netlink.links().map_err(netlink)?;
        let mut places = self.netlink.addresses().map_err(netlink)?;
        places.retain(|place| place.scope == Scope::Global);
        let of = |ifindex| places.iter().filter(move |place| place.ifindex == ifindex).map(|place| place.address);
        let mut interfaces: Vec<InterfaceFacts> = links
            .iter()
            .map(|link| InterfaceFacts {
                name: InterfaceName(link.name.as_str().into()),
                ifindex: link.ifindex,
                kind: link.kind.clone(),
                loopback: link.loopback,
                addresses: of(link.ifindex).collect(),
                ours: wiring::is_ours(link),
                delivery: delivery(link),
            })
            .collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        // What is on a device of ours, manifests have put there.
        let left_out =
            |ifindex| links.iter().any(|link| link.ifindex == ifindex && (link.loopback || wiring::is_ours(link)));
        let mut addresses: Vec<_> =
            places.iter().filter(|place| !left_out(place.ifindex)).map(|place| place.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let netns =
            netns.iter().map(|netns| NetnsFacts { netns: netns.clone(), exists: netns_exists(netns) }).collect();
        Ok(NodeFacts { interfaces, addresses, netns, tcx: crate::doctor::has_tcx(), cgroup2: cgroup2().is_some() })
    }

    fn observe(&mut self) -> Result<Option<Observed>> {
        self.finish_loading()?;
        self.find()?;
        self.observe_all()
    }

    fn unchanged(&mut self, known: &Observed) -> Result<bool> {
        self.finish_loading()?;
        self.is_as(known)
    }

    fn generation(&mut self) -> Result<Option<Generation>> {
        Ok(self.live.as_ref().map(|live| live.word.get()))
    }

    fn foresee(&mut self, capacity: Option<&Capacity>) {
        self.foreseen = match capacity {
            Some(capacity) if self.live.is_none() => Foreseen::begin(capacity),
            _ => Foreseen::default(),
        };
    }

    fn prepare(&mut self, tables: &Tables, capacity: &Capacity) -> Result<()> {
        self.prepare_all(tables, capacity)
    }

    fn build(&mut self, delta: &WiringDelta) -> Result<()> {
        self.build_all(delta)
    }

    fn stage(&mut self, delta: &TablesDelta) -> Result<()> {
        self.stage_all(delta)
    }

    fn probe(&mut self, copy: TableCopy, probes: &[Probe]) -> Result<Vec<Vec<ProbeStep>>> {
        self.probe_all(copy, probes)
    }

    fn flip(&mut self) -> Result<Generation> {
        // A generation that no program looks at is not live.
        self.finish_loading()?;
        // The side that goes live was staged after the last grace; one that was not must be quiet all the same.
        self.ensure_quiet()?;
        let beyond = self.beyond;
        let live = self.live()?;
        let flipped = live.word.get().flipped();
        let next = Generation { epoch: flipped.epoch.max(beyond + 1), ..flipped };
        live.word.set(next);
        self.quiet = false;
        Ok(next)
    }

    fn grace(&mut self) -> Result<()> {
        self.ensure_quiet()?;
        self.end_orphans();
        Ok(())
    }

    fn tear(&mut self, delta: &WiringDelta) -> Result<()> {
        self.tear_all(delta)
    }
}
