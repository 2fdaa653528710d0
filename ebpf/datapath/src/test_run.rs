//! Running programs on packets that nobody sent.
use std::{
    os::fd::AsFd as _,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use weir_abi::{AffinityEntry, AffinityKey, Generation, NatEntry, NatKey, TraceCell, runtime_tables};
use weir_plan::{DatapathError, Hook};

use crate::{
    clock::jiffies_per_second,
    conntrack::Conntrack,
    counters::{Metrics, RuleCounters},
    error::{Result, failed},
    events::Events,
    generation::Word,
    hash,
    kernel::{Kernel, not_prepared},
    live::{possible_cpus, rule_counters, single, table_names},
    maps::{Map, spec},
    pins::remove_tree,
    programs::{Globals, Programs},
    sys::{self, Plain},
};

/// A packet for a test run: a whole Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub frame: &'a [u8],
    /// The device that the program thinks it runs on; of the caller's network namespace. 0 is `lo` at tc, and no device
    /// at XDP.
    pub ifindex: u32,
    pub mark: u32,
}

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Of `weir_abi::tc_action` (as `u32`) or `weir_abi::xdp_action`, or a redirect's code.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The mark afterwards; 0 at XDP.
    pub mark: u32,
    /// What the program noted, where it traces.
    pub trace: Option<TraceCell>,
    /// Mean over the repeats.
    pub nanoseconds: u32,
}

/// Offsets in `struct __sk_buff`, whose layout never changes.
const SK_BUFF: usize = 192;
const SK_MARK: usize = 8;
const SK_INGRESS_IFINDEX: usize = 36;
const SK_IFINDEX: usize = 40;

pub(crate) fn run(
    programs: &Programs,
    trace: Option<&Map>,
    hook: Hook,
    packet: &Packet<'_>,
    repeat: u32,
) -> Result<Outcome> {
    let refused = |cause| failed("running", hook.program(), cause);
    if let Some(trace) = trace {
        let empty = vec![0u8; size_of::<TraceCell>() * possible_cpus() as usize];
        sys::update(trace.as_fd(), &0u32, &empty).map_err(refused)?;
    }
    let run = sys::test_run(programs.fd(hook)?, packet.frame, &context(hook, packet), repeat).map_err(refused)?;
    let trace = trace.map(cell).transpose().map_err(refused)?.flatten();
    let word = |at: usize| run.context.get(at..at + 4).and_then(sys::value_of::<u32>).unwrap_or_default();
    let mark = if hook == Hook::XdpIngress { 0 } else { word(SK_MARK) };
    Ok(Outcome { action: run.retval, mark, trace, nanoseconds: run.nanoseconds, frame: run.data })
}

/// The context struct that the kernel wants beside the packet.
fn context(hook: Hook, packet: &Packet<'_>) -> Vec<u8> {
    if hook == Hook::XdpIngress {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        return [0, packet.frame.len() as u32, 0, packet.ifindex, 0, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
    }
    let mut context = vec![0u8; SK_BUFF];
    for (at, value) in [(SK_MARK, packet.mark), (SK_INGRESS_IFINDEX, packet.ifindex), (SK_IFINDEX, packet.ifindex)] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}

/// The cell of the CPU that the run was on: the others are empty.
fn cell(trace: &Map) -> std::io::Result<Option<TraceCell>> {
    let mut cells = vec![0u8; size_of::<TraceCell>() * possible_cpus() as usize];
    sys::lookup_bytes(trace.as_fd(), &0u32, &mut cells)?;
    Ok(cells
        .chunks_exact(size_of::<TraceCell>())
        .filter_map(sys::value_of::<TraceCell>)
        .find(|cell| cell.generation != 0))
}

impl Kernel {
    /// Runs a live program on a packet, on the live tables: conntrack and counters change. With
    /// [`crate::Options::trace`] the outcome has its trace.
    pub fn test_run(&mut self, hook: Hook, packet: &Packet<'_>) -> Result<Outcome> {
        self.test_run_repeated(hook, packet, 1)
    }

    pub fn test_run_repeated(&mut self, hook: Hook, packet: &Packet<'_>, repeat: u32) -> Result<Outcome> {
        self.load_hooks(&[hook])?;
        let trace = self.live.as_ref().and_then(|live| live.trace.as_ref()).filter(|_| self.options.trace);
        run(self.programs.as_ref().ok_or_else(not_prepared)?, trace, hook, packet, repeat)
    }

    /// What the generation word will be once the standby side is live.
    pub fn next_generation(&mut self) -> Result<Generation> {
        Ok(self.live()?.word.get().flipped())
    }

    /// A second instance of the same bytecode on the same tables of manifests, which looks at the standby side.
    pub fn check_instance(&mut self) -> Result<CheckInstance> {
        CheckInstance::new(self)
    }
}

/// The programs once more, tracing, with tables of traffic of their own: what is run here, live traffic never sees.
#[derive(Debug)]
pub struct CheckInstance {
    programs: Programs,
    runtime: Vec<(&'static str, Map)>,
    word: Word,
    rules: u32,
    sided: Vec<u32>,
}

/// Flows that a check can have at once.
const CHECK_FLOWS: u32 = 1 << 16;

/// So that two instances of one process do not meet at one temporary pin.
static INSTANCES: AtomicU32 = AtomicU32::new(0);

impl CheckInstance {
    fn new(kernel: &mut Kernel) -> Result<Self> {
        let making = |cause| failed("making", "the tables for test runs", cause);
        let pins = kernel.pins.clone();
        let live = kernel.live()?;
        live.pin(&pins)?;
        let rules = live.rules();
        let sided = live.sided().iter().map(|sided| sided.outer.id()).collect();
        let mut runtime = Vec::new();
        for table in runtime_tables() {
            let map = match table.name {
                "CONNTRACK_TCP" | "CONNTRACK_OTHER" => single(table.name, CHECK_FLOWS),
                "FRAGMENTS" | "AFFINITY" | "NAT" | "SOCKETS" => single(table.name, 1024),
                weir_abi::RULE_COUNTERS => rule_counters(rules),
                name => Map::create(name, &spec(table, 1), None),
            };
            runtime.push((table.name, map.map_err(making)?));
        }
        let word = Word::new(find(&runtime, "RUNTIME")?).map_err(making)?;
        word.set(live.word.get().flipped());

        // The loader takes maps by their pins: these are only pinned while it runs.
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let directory = pins.root().join(format!("check-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).map_err(making)?;
        let place = |name: &str| -> PathBuf {
            if runtime.iter().any(|(own, _)| *own == name) { directory.join(name) } else { pins.table(name) }
        };
        let loaded = runtime
            .iter()
            .try_for_each(|(name, map)| sys::pin_replace(map.as_fd(), &directory.join(name)))
            .map_err(making)
            .and_then(|()| {
                let globals = Globals { rules, hz: jiffies_per_second()?, trace: true, former: 0 };
                // The kernel runs no other program on a packet of ours.
                Programs::load(place, &table_names(), globals, &Hook::of_packets().collect::<Vec<_>>())
            });
        remove_tree(&directory).map_err(making)?;
        Ok(Self { programs: loaded?, runtime, word, rules, sided })
    }

    /// Whether the kernel's tables are still those that this instance looks at: one that has grown is another.
    pub fn is_current(&self, kernel: &Kernel) -> bool {
        kernel.live.as_ref().is_some_and(|live| {
            live.rules() == self.rules && live.sided().iter().all(|sided| self.sided.contains(&sided.outer.id()))
        })
    }

    /// Sets which side is looked at, and under which epoch: [`Kernel::next_generation`] after each flip.
    pub fn aim(&mut self, generation: Generation) {
        self.word.set(generation);
    }

    pub fn generation(&self) -> Generation {
        self.word.get()
    }

    pub fn set_clock_offset(&mut self, jiffies: u64) {
        self.word.set_clock_offset(jiffies);
    }

    pub fn run(&mut self, hook: Hook, packet: &Packet<'_>) -> Result<Outcome> {
        run(&self.programs, Some(find(&self.runtime, "TRACE")?), hook, packet, 1)
    }

    /// Forgets every flow, and whom a client or a port was given to.
    pub fn forget(&mut self) -> Result<()> {
        clear::<AffinityKey, AffinityEntry>(find(&self.runtime, "AFFINITY")?)?;
        clear::<NatKey, NatEntry>(find(&self.runtime, "NAT")?)?;
        self.conntrack()?.clear()
    }

    pub fn conntrack(&self) -> Result<Conntrack<'_>> {
        Ok(Conntrack::new([find(&self.runtime, "CONNTRACK_TCP")?, find(&self.runtime, "CONNTRACK_OTHER")?]))
    }

    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::read(find(&self.runtime, "METRICS")?)
    }

    pub fn rule_counters(&self) -> Result<RuleCounters> {
        RuleCounters::new(find(&self.runtime, weir_abi::RULE_COUNTERS)?)
    }

    pub fn events(&self) -> Result<Events> {
        Events::new(find(&self.runtime, "EVENTS")?, find(&self.runtime, "RUNTIME")?)
    }
}

fn clear<K: Plain, V: Plain>(map: &Map) -> Result<()> {
    let clearing = |cause| failed("clearing", map.name(), cause);
    let keys = hash::read::<K, V>(map).map_err(clearing)?;
    keys.into_iter().try_for_each(|(key, _)| sys::delete(map.as_fd(), &key).map(drop).map_err(clearing))
}

fn find<'a>(runtime: &'a [(&'static str, Map)], name: &'static str) -> Result<&'a Map> {
    runtime.iter().find(|(own, _)| *own == name).map(|(_, map)| map).ok_or_else(|| DatapathError::Failed {
        doing: "finding",
        what: format!("the table {name}"),
        cause: "it is not in the list".to_owned(),
    })
}
