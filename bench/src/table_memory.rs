//! What 100,000 entries of each table take: of the agent, `RssAnon`; of the kernel, beside a bare map of that type, key,
//! value and flags that has room for these entries and no more, filled with as many.
//!
//! Both are asked of the kernel: `memlock` of a map's descriptor, which since Linux 6.4 is what the map really has
//! allocated, buckets and every entry's header included.
use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use weir_abi::{AffinityEntry, AffinityKey, ConntrackEntry, ConntrackKey, NatEntry, NatKey, Side};
use weir_datapath::{
    Kernel,
    sys::{self, Batch, MapSpec, Plain},
};
use weir_plan::{Datapath as _, Observed, Tables};
use weir_tests::node::kernel::RawMap;

use crate::{
    Options,
    measure::{BenchError, Doing, figure},
    node::shell,
    report::Report,
    table_sets::{BASE, DEVICES, ENTRIES, SERVED, SETS, Set},
    verify::pin,
    weir::{Agent, Weir},
};

const MIB: f64 = 1024.0 * 1024.0;
/// What an agent does after its start, it has done by then.
const SETTLED: Duration = Duration::from_secs(3);
/// Of a file, at most.
const DOCUMENTS: usize = 256;
/// Slots of a line.
const WIDTH: usize = 16;

pub(crate) fn run(_: &Options, report: &mut Report) -> Result<(), BenchError> {
    for pair in (0..DEVICES).step_by(2) {
        shell(&format!("ip link add memory{pair} up type veth peer name memory{}", pair + 1))?;
        shell(&format!("ip link set memory{} up", pair + 1))?;
    }
    let work = tempfile::tempdir().doing("making a directory")?;
    let base = traffic(work.path(), report)?;
    SETS.iter().try_for_each(|set| filled(work.path(), set, base, report))
}

/// An agent of the base and `text`.
fn start(work: &Path, name: &str, text: &str) -> Result<Weir, BenchError> {
    let source = work.join(format!("{name}-source"));
    fs::create_dir_all(&source).doing("making a directory")?;
    fs::write(source.join("base.yaml"), BASE).doing("writing manifests")?;
    let documents: Vec<&str> = text.split("---\n").filter(|document| !document.is_empty()).collect();
    for (number, documents) in documents.chunks(DOCUMENTS).enumerate() {
        fs::write(source.join(format!("part-{number}.yaml")), documents.join("---\n")).doing("writing manifests")?;
    }
    Weir::new(work.join(name), &source)
}

/// An agent at rest.
fn rested(weir: &Weir) -> Result<Agent<'_>, BenchError> {
    let mut agent = weir.agent(&["--verify", "1h"])?;
    agent.converged()?;
    thread::sleep(SETTLED);
    Ok(agent)
}

/// The agent without entries, and the tables that traffic fills: what the agent takes when they are full.
fn traffic(work: &Path, report: &mut Report) -> Result<f64, BenchError> {
    let weir = start(work, "memory-base", SERVED)?;
    let agent = rested(&weir)?;
    let base = agent.memory.now();
    report.figure(figure("agent without entries: RssAnon", "MiB", &[base]));
    let now = |what: &str, before: f64, report: &mut Report| {
        thread::sleep(SETTLED);
        let now = agent.memory.now();
        report.at_most(format!("{what}: RssAnon for 100k entries, MB"), megabytes(now - before), 10.0);
        now
    };
    let pins = weir.pins();
    let entry = ConntrackEntry { expires: u64::MAX / 2, ..ConntrackEntry::default() };
    let mut rss = base;
    for (table, protocol) in [("CONNTRACK_TCP", 6), ("CONNTRACK_OTHER", 17)] {
        let map = sys::pin_get(&pin(&pins, table)?).doing(table)?;
        let key = |number: u32| ConntrackKey {
            low: address(0x0a00_0000 + number),
            high: address(0x0b00_0000),
            low_port_be: 1,
            high_port_be: 2,
            protocol,
            ..ConntrackKey::default()
        };
        fill(map.as_fd(), ENTRIES, key, entry).doing(table)?;
        rss = now(table, rss, report);
        beside_bare::<ConntrackKey, ConntrackEntry>(table, &map, ENTRIES, "", report)?;
    }
    let map = sys::pin_get(&pin(&pins, "AFFINITY")?).doing("AFFINITY")?;
    let key = |number| AffinityKey { client: address(0x0a00_0000 + number), service: 1, reserved: 0 };
    fill(map.as_fd(), ENTRIES, key, AffinityEntry::default()).doing("AFFINITY")?;
    rss = now("AFFINITY", rss, report);
    beside_bare::<AffinityKey, AffinityEntry>("AFFINITY", &map, ENTRIES, "", report)?;
    let map = sys::pin_get(&pin(&pins, "NAT")?).doing("NAT")?;
    let key = |number| NatKey { remote: address(0x0a00_0000 + number), protocol: 6, ..NatKey::default() };
    fill(map.as_fd(), ENTRIES, key, NatEntry::default()).doing("NAT")?;
    now("NAT", rss, report);
    beside_bare::<NatKey, NatEntry>("NAT", &map, ENTRIES, "", report)?;
    Ok(base)
}

fn address(bits: u32) -> weir_abi::Address {
    weir_abi::Address::from_v4(bits.to_be_bytes())
}

/// Of MiB.
fn megabytes(mib: f64) -> f64 {
    mib * MIB / 1e6
}

/// One table that manifests fill.
fn filled(work: &Path, set: &Set, base: f64, report: &mut Report) -> Result<(), BenchError> {
    let weir = start(work, &format!("memory-{}", set.table), &(set.manifests)())?;
    let agent = rested(&weir)?;
    let mut kernel = Kernel::open(weir_datapath::Options::new(weir.pins())).doing("opening the agent's tables")?;
    let observed = both_sides(&mut kernel)?;
    let tables = observed.active();
    let (entries, all) = (entries(tables, set.table), all_entries(tables));
    let growth = megabytes(agent.memory.now() - base);
    let per = |count: usize| growth / count as f64 * f64::from(ENTRIES);
    println!("{}: {entries} entries, {all} in all tables together", set.table);
    let what = format!("{}: RssAnon for 100k entries", set.table);
    report.figure(figure(&format!("{what}, others' left out"), "MB", &[per(entries)]));
    report.at_most(format!("{what} of all tables, MB"), per(all), 10.0);
    let lines = kernel.tables().doing("asking after the tables")?;
    let lines = lines.iter().find(|table| table.table == set.map).and_then(|table| table.lines);
    let outer = RawMap::pinned(&pin(&weir.pins(), set.map)?);
    for side in Side::BOTH {
        let id = outer.lookup(&side.index().to_ne_bytes()).and_then(|id| id.try_into().ok()).map(u32::from_ne_bytes);
        let id = id.ok_or(BenchError::Wrong { what: format!("{} has no inner map", set.map) })?;
        let map = sys::map_by_id(id).doing("opening an inner map")?;
        let which = format!(", side {}", side.index());
        match set.map {
            "FRONTENDS" => beside_bare::<[u8; 24], [u8; 8]>(set.table, &map, entries as u32, &which, report)?,
            "SOURCE_RANGES" => beside_bare::<[u8; 24], [u8; 4]>(set.table, &map, entries as u32, &which, report)?,
            "POLICY" => beside_bare::<[u8; 12], [u8; 8]>(set.table, &map, entries as u32, &which, report)?,
            "ENDPOINTS" => beside_bare::<[u8; 16], [u8; 32]>(set.table, &map, entries as u32, &which, report)?,
            "SLOTS" => beside_array(set.table, &map, entries.div_ceil(WIDTH) as u32, &which, report)?,
            // A tree has lines, not entries: those in use.
            _ => beside_array(set.table, &map, lines.unwrap_or(entries as u32), &which, report)?,
        }
    }
    Ok(())
}

/// The standby side comes after the active one.
fn both_sides(kernel: &mut Kernel) -> Result<Observed, BenchError> {
    let begun = Instant::now();
    loop {
        let observed = kernel.observe().doing("reading the tables")?;
        if let Some(observed) = observed.filter(|observed| observed.sides[0] == observed.sides[1]) {
            return Ok(observed);
        }
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(BenchError::Wrong { what: "the sides did not become the same".to_owned() });
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn slots(tables: &Tables) -> usize {
    tables.services.iter().map(|(_, service)| service.slots.len()).sum()
}

/// `table` without its family.
fn entries(tables: &Tables, table: &str) -> usize {
    if table == "slots" {
        return slots(tables);
    }
    let named = |name: &str| name.strip_prefix(table).is_some_and(|rest| matches!(rest, "" | "4" | "6"));
    tables.lengths().into_iter().filter(|(name, _)| named(name)).map(|(_, length)| length).sum()
}

fn all_entries(tables: &Tables) -> usize {
    tables.lengths().into_iter().map(|(_, length)| length).sum::<usize>() + slots(tables)
}

/// As many entries as a map is to have, under keys that differ.
fn fill<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    entries: u32,
    key: impl Fn(u32) -> K,
    value: V,
) -> std::io::Result<()> {
    let keys: Vec<K> = (0..entries).map(key).collect();
    Batch { map }.update(&keys, &vec![value; keys.len()]).1
}

fn memlock(map: &OwnedFd) -> Result<f64, BenchError> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let info = fs::read_to_string(&path).doing(path)?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or(BenchError::Wrong { what: "the kernel does not say what a map takes".to_owned() })
}

/// A hash beside a bare one, which is made for `entries` and holds as many.
fn beside_bare<K: Plain, V: Plain>(
    table: &str,
    map: &OwnedFd,
    entries: u32,
    which: &str,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bare = bare(map, entries)?;
    let number = |number: u32| {
        let mut key: K = sys::zeroed();
        let bytes = std::ptr::from_mut(&mut key).cast::<[u8; 4]>();
        // SAFETY: no key here is shorter than four bytes, and any bytes are a value of a plain type.
        unsafe { *bytes = number.to_ne_bytes() };
        key
    };
    fill(bare.as_fd(), entries, number, sys::zeroed::<V>()).doing("filling a bare map")?;
    compare(table, map, &bare, entries, which, report)
}

fn beside_array(table: &str, map: &OwnedFd, entries: u32, which: &str, report: &mut Report) -> Result<(), BenchError> {
    let bare = bare(map, entries)?;
    compare(table, map, &bare, entries, which, report)
}

fn bare(map: &OwnedFd, entries: u32) -> Result<OwnedFd, BenchError> {
    let spec = sys::map_info(map.as_fd()).doing("asking after a map")?.spec;
    sys::map_create("bare", &MapSpec { max_entries: entries, ..spec }, None).doing("making a bare map")
}

fn compare(
    table: &str,
    map: &OwnedFd,
    bare: &OwnedFd,
    entries: u32,
    which: &str,
    report: &mut Report,
) -> Result<(), BenchError> {
    let (bytes, floor) = (memlock(map)?, memlock(bare)?);
    report.figure(figure(&format!("{table}{which}: kernel memory"), "MiB", &[bytes / MIB]));
    report.figure(figure(&format!("{table}{which}: of a bare map of {entries}"), "MiB", &[floor / MIB]));
    report.at_most(format!("{table}{which}: kernel memory / a bare map's"), bytes / floor, 1.1);
    Ok(())
}
