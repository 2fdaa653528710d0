//! One test's use of the programs: commits, packets by `BPF_PROG_TEST_RUN`, and what they left behind.
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::IpAddr,
    ops::{Deref, DerefMut},
    os::fd::AsFd as _,
    sync::{MutexGuard, atomic::Ordering},
};

use aya::maps::{HashMap, PerCpuArray, PerCpuValues};
use weir_abi::{
    Address, ConntrackEntry, ConntrackKey, Counter, Direction, Generation, METRIC_SLOTS, PacketEvent, Reason, Runtime,
    TraceCell, metric_slot, tc_action, xdp_action,
};
use weir_datapath::sys::{TestRun, test_run, value_of};

use super::{
    instance::{self, Instance, RULES, Size},
    world::{DB_DEVICE, NETWORK_DEVICE, WEB_DEVICE, World},
};

/// The last slot.
const LOST_EVENTS: u32 = METRIC_SLOTS - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Xdp,
    FromWeb,
    ToWeb,
    FromDb,
    ToDb,
    FromNetwork,
    ToNetwork,
}

impl Hook {
    const fn program(self) -> &'static str {
        match self {
            Self::Xdp => "xdp_ingress",
            Self::FromWeb | Self::FromDb => "from_endpoint",
            Self::ToWeb | Self::ToDb => "to_endpoint",
            Self::FromNetwork => "from_network",
            Self::ToNetwork => "to_network",
        }
    }

    const fn device(self) -> &'static str {
        match self {
            Self::Xdp | Self::FromNetwork | Self::ToNetwork => NETWORK_DEVICE,
            Self::FromWeb | Self::ToWeb => WEB_DEVICE,
            Self::FromDb | Self::ToDb => DB_DEVICE,
        }
    }

    pub const fn direction(self) -> Direction {
        match self {
            Self::Xdp | Self::FromWeb | Self::FromDb | Self::FromNetwork => Direction::Ingress,
            Self::ToWeb | Self::ToDb | Self::ToNetwork => Direction::Egress,
        }
    }
}

/// What became of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub reason: Reason,
    pub rule: u32,
    pub trace: TraceCell,
    /// It passed, and goes where a program sent it.
    pub redirected: bool,
}

impl Outcome {
    pub fn passed(&self) -> bool {
        !self.reason.is_drop()
    }
}

/// The programs with one test's tables, and with nothing else left of earlier packets.
#[allow(missing_debug_implementations, reason = "a test has nothing to print of it")]
pub struct Lab {
    instance: RefCell<Use>,
    /// The time before and after the last test run.
    last_run: Cell<(u64, u64)>,
}

enum Use {
    Shared(MutexGuard<'static, Instance>),
    Own(Box<Instance>),
}

impl Deref for Use {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        match self {
            Self::Shared(instance) => instance,
            Self::Own(instance) => instance,
        }
    }
}

impl DerefMut for Use {
    fn deref_mut(&mut self) -> &mut Instance {
        match self {
            Self::Shared(instance) => instance,
            Self::Own(instance) => instance,
        }
    }
}

impl Lab {
    pub fn new(world: &World) -> Self {
        let mut instance = instance::shared();
        instance.enter();
        instance.clear();
        Self::begin(Use::Shared(instance), world)
    }

    /// With an instance of its own.
    pub fn with(world: &World, size: Size) -> Self {
        Self::begin(Use::Own(Box::new(Instance::new(&size))), world)
    }

    fn begin(instance: Use, world: &World) -> Self {
        let lab = Self { instance: RefCell::new(instance), last_run: Cell::default() };
        lab.forget_traces();
        lab.commit(world);
        lab
    }

    pub fn generation(&self) -> Generation {
        self.instance.borrow().generation()
    }

    /// Writes the tables to the standby side, and flips.
    pub fn commit(&self, world: &World) {
        self.stage(world);
        self.flip();
    }

    /// Makes the standby side hold exactly these tables. Nothing runs while a test does not send.
    pub fn stage(&self, world: &World) {
        self.instance.borrow_mut().stage(&world.tables);
    }

    /// One store; the standby side is live.
    pub fn flip(&self) {
        let next = self.generation().flipped();
        self.instance.borrow().runtime.atomic(0).store(next.pack(), Ordering::SeqCst);
    }

    /// Moves the clock on.
    pub fn sleep(&self, seconds: u64) {
        let mut instance = self.instance.borrow_mut();
        let now = instance.runtime.read(0);
        let clock_offset = now.clock_offset + seconds * instance.hz;
        instance.runtime.write(0, Runtime { clock_offset, ..now });
    }

    /// Sends one packet, and checks what holds for every packet: it comes out as it went in; exactly one counter of a
    /// reason went up, by one packet and its length; a drop has its event, and what passes has none.
    pub fn send(&self, hook: Hook, frame: &[u8]) -> Outcome {
        let (outcome, out) = self.send_through(hook, frame);
        assert_eq!(out, frame, "{hook:?} changed the packet");
        assert!(!outcome.redirected, "{hook:?} redirected the packet");
        outcome
    }

    /// As [`Self::send`], for a packet that may come out otherwise than it went in: with what came out.
    pub fn send_through(&self, hook: Hook, frame: &[u8]) -> (Outcome, Vec<u8>) {
        let before = self.metrics();
        let run = self.run(hook, frame, 1);
        let action = run.retval;
        let after = self.metrics();
        let moved: Vec<u32> = before.keys().copied().filter(|slot| before[slot] != after[slot]).collect();
        let [slot] = moved[..] else { panic!("{hook:?}: the counters of {moved:?} moved") };
        let (old, new) = (before[&slot], after[&slot]);
        assert_eq!((new.packets, new.bytes), (old.packets + 1, old.bytes + frame.len() as u64), "{hook:?}: one packet");
        let reason = Reason::from_code((slot / 2) as u8).expect("a reason");
        assert_eq!(
            slot,
            metric_slot(reason, hook.direction()),
            "{hook:?}: {reason:?} was counted in the other direction"
        );
        let (pass, drop) = if hook == Hook::Xdp {
            (xdp_action::PASS, xdp_action::DROP)
        } else {
            (tc_action::CONTINUE as u32, tc_action::DROP as u32)
        };
        // Whom no backend is there for may be told.
        let answered = reason == Reason::NoBackend && action == tc_action::REDIRECT as u32;
        let expected = if reason.is_drop() { drop } else { pass };
        let redirected = !reason.is_drop() && hook != Hook::Xdp && action == tc_action::REDIRECT as u32;
        assert!(action == expected || answered || redirected, "{hook:?}: {action} where {reason:?} is counted");
        let trace = self.trace();
        assert_eq!(trace.reason, reason as u8, "{hook:?}: counter and trace");
        let events = self.events();
        if reason.is_drop() {
            let [event] = &events[..] else { panic!("{hook:?}: {reason:?} with {} events", events.len()) };
            assert_eq!((event.reason, event.rule), (reason as u8, trace.rule), "{hook:?}: event and trace");
            assert_eq!(event.length, frame.len() as u32);
            assert_eq!(event.ifindex, self.instance.borrow().ifindexes[hook.device()]);
        } else {
            assert!(events.is_empty(), "{hook:?}: {reason:?} with an event");
        }
        (Outcome { reason, rule: trace.rule, trace, redirected }, run.data)
    }

    /// Sends one packet to XDP, on a device that no filter watches: what it sends back out, counted once as come in and
    /// once as gone out, or `None` where it passes the packet as it is, uncounted.
    pub fn balance(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let before = self.metrics();
        let run = self.run(Hook::Xdp, frame, 1);
        let mut expected = before;
        if run.retval == xdp_action::TX {
            for way in [Direction::Ingress, Direction::Egress] {
                let counter = expected.get_mut(&metric_slot(Reason::Forwarded, way)).expect("a slot");
                counter.packets += 1;
                counter.bytes += frame.len() as u64;
            }
            let trace = self.trace();
            assert_eq!((trace.reason, trace.from_conntrack), (Reason::Forwarded as u8, 1));
        } else {
            assert_eq!(run.retval, xdp_action::PASS);
            assert_eq!(run.data, frame, "what passes is as it was");
        }
        assert_eq!(self.metrics(), expected);
        assert_eq!(self.events(), []);
        (run.retval == xdp_action::TX).then_some(run.data)
    }

    /// What a packet that is refused is answered with, to whoever sent it.
    #[track_caller]
    pub fn answer(&self, hook: Hook, frame: &[u8], reason: Reason) -> Vec<u8> {
        let (outcome, out) = self.send_through(hook, frame);
        assert_eq!(outcome.reason, reason, "{hook:?}: {outcome:?}");
        assert_ne!(out, frame, "{hook:?} answers");
        out
    }

    /// What comes out of a packet that passes.
    #[track_caller]
    pub fn through(&self, hook: Hook, frame: &[u8]) -> Vec<u8> {
        let (outcome, out) = self.send_through(hook, frame);
        assert!(outcome.passed(), "{hook:?} drops with {outcome:?}");
        out
    }

    pub fn passes(&self, hook: Hook, frame: &[u8]) -> Outcome {
        let outcome = self.send(hook, frame);
        assert!(outcome.passed(), "{hook:?} drops with {outcome:?}");
        outcome
    }

    #[track_caller]
    pub fn drops(&self, hook: Hook, frame: &[u8], reason: Reason) -> Outcome {
        let outcome = self.send(hook, frame);
        assert_eq!(outcome.reason, reason, "{hook:?}: {outcome:?}");
        outcome
    }

    pub fn run(&self, hook: Hook, frame: &[u8], repeat: u32) -> TestRun {
        let mut instance = self.instance.borrow_mut();
        let ifindex = instance.ifindexes[hook.device()];
        let context = if hook == Hook::Xdp {
            // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            [0, frame.len() as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat()
        } else {
            // struct __sk_buff as far as ifindex, its eleventh word.
            let mut words = [0u32; 12];
            words[10] = ifindex;
            words.map(u32::to_ne_bytes).concat()
        };
        let program = instance.program(hook.program());
        let before = instance.now();
        let run = test_run(program.as_fd().as_fd(), frame, &context, repeat)
            .unwrap_or_else(|error| panic!("test run of {hook:?} with {} bytes: {error}", frame.len()));
        self.last_run.set((before, instance.now()));
        run
    }

    /// How long the last run took.
    pub fn last_run_jiffies(&self) -> u64 {
        let (before, after) = self.last_run.get();
        after - before
    }

    /// Conntrack has been given other tables: its entries are in the former ones, the new ones empty.
    pub fn replace_conntrack(&self) {
        self.instance.borrow_mut().move_to_former();
    }

    /// The counters of every reason in both directions, and of lost events, by slot; summed over the CPUs.
    pub fn metrics(&self) -> BTreeMap<u32, Counter> {
        let instance = self.instance.borrow();
        let map = instance.ebpf.map("METRICS").expect("METRICS");
        let array = PerCpuArray::<_, [u8; size_of::<Counter>()]>::try_from(map).expect("a per-CPU array");
        let both = |reason: &Reason| [Direction::Ingress, Direction::Egress].map(|way| metric_slot(*reason, way));
        (Reason::ALL.iter().flat_map(both).chain([LOST_EVENTS]))
            .map(|slot| (slot, sum(array.get(&slot, 0).expect("a slot").iter().filter_map(|bytes| value_of(bytes)))))
            .collect()
    }

    pub fn lost_events(&self) -> u64 {
        self.metrics()[&LOST_EVENTS].packets
    }

    /// Packets and bytes of a rule, summed over the CPUs.
    pub fn rule(&self, rule: u32) -> Counter {
        let instance = self.instance.borrow();
        let cpus = instance.counters.len() / RULES as usize;
        sum((0..cpus).map(|cpu| instance.counters.read(cpu * RULES as usize + rule as usize)))
    }

    /// The cell of the CPU that ran last: it is cleared after it was read.
    fn trace(&self) -> TraceCell {
        const SIZE: usize = size_of::<TraceCell>();
        let mut instance = self.instance.borrow_mut();
        let map = instance.ebpf.map_mut("TRACE").expect("TRACE");
        let mut array = PerCpuArray::<_, [u8; SIZE]>::try_from(map).expect("a per-CPU array");
        let values = array.get(&0, 0).expect("a slot");
        let cells: Vec<TraceCell> = values
            .iter()
            .filter_map(|bytes| value_of::<TraceCell>(bytes))
            .filter(|cell| cell.generation != 0)
            .collect();
        let [cell] = cells[..] else { panic!("{} CPUs wrote a trace", cells.len()) };
        let empty = PerCpuValues::try_from(vec![[0u8; SIZE]; values.len()]).expect("one cell for each CPU");
        array.set(0, empty, 0).expect("clearing");
        cell
    }

    /// After runs that nobody asked about.
    pub fn forget_traces(&self) {
        const SIZE: usize = size_of::<TraceCell>();
        let mut instance = self.instance.borrow_mut();
        let map = instance.ebpf.map_mut("TRACE").expect("TRACE");
        let mut array = PerCpuArray::<_, [u8; SIZE]>::try_from(map).expect("a per-CPU array");
        let cells = array.get(&0, 0).expect("a slot").len();
        let empty = PerCpuValues::try_from(vec![[0u8; SIZE]; cells]).expect("one cell for each CPU");
        array.set(0, empty, 0).expect("clearing");
    }

    /// The events since the last call.
    pub fn events(&self) -> Vec<PacketEvent> {
        let mut instance = self.instance.borrow_mut();
        let mut events = Vec::new();
        while let Some(item) = instance.events.next() {
            events.push(value_of::<PacketEvent>(&item).expect("an event"));
        }
        events
    }

    /// The whole of a conntrack table.
    pub fn conntrack(&self, tcp: bool) -> Vec<(ConntrackKey, ConntrackEntry)> {
        const KEY: usize = size_of::<ConntrackKey>();
        const VALUE: usize = size_of::<ConntrackEntry>();
        let instance = self.instance.borrow();
        let map = instance.ebpf.map(if tcp { "CONNTRACK_TCP" } else { "CONNTRACK_OTHER" }).expect("conntrack");
        let map = HashMap::<_, [u8; KEY], [u8; VALUE]>::try_from(map).expect("a hash");
        map.iter()
            .map(|entry| {
                let (key, value) = entry.expect("an entry");
                (value_of::<ConntrackKey>(&key).expect("a key"), value_of::<ConntrackEntry>(&value).expect("a value"))
            })
            .collect()
    }

    /// The one entry that there is.
    #[track_caller]
    pub fn only_entry(&self, tcp: bool) -> ConntrackEntry {
        let all = self.conntrack(tcp);
        let [(_, entry)] = all[..] else { panic!("{} entries", all.len()) };
        entry
    }

    /// Checks that the last packet left the entry so many seconds to live: to the second that a program may leave a
    /// lifetime as it is.
    #[track_caller]
    pub fn lives(&self, entry: &ConntrackEntry, seconds: u64) {
        let (before, after) = self.last_run.get();
        let hz = self.instance.borrow().hz;
        let (least, most) = (before + (seconds - 1) * hz, after + seconds * hz);
        assert!(
            (least..=most).contains(&entry.expires),
            "it lives {} jiffies from the last packet on, not {seconds} s at {} Hz",
            entry.expires.wrapping_sub(before) as i64,
            hz
        );
    }
}

fn sum(counters: impl Iterator<Item = Counter>) -> Counter {
    counters.fold(Counter::default(), |sum, one| Counter {
        packets: sum.packets + one.packets,
        bytes: sum.bytes + one.bytes,
    })
}

pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address(v6.octets()),
    }
}
