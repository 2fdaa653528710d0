//! What a verification costs that finds everything as it was, both sides: of mapped tables beside memcmp over as many
//! bytes, of hashes beside the program that computes their digest, run alone.
use std::{
    hint::black_box,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
    time::Instant,
};

use weir_abi::{ACTION_DROP, ClassCell, PolicyEntry, PolicyKey, PrefilterClass, Side, TupleClass};
use weir_datapath::{
    Kernel,
    sys::{self, DigestProgram, MapSpec},
};
use weir_plan::{Capacity, Datapath as _, Observed, Tables};
use weir_tests::node::kernel::RawMap;

use crate::{
    Options,
    measure::{BenchError, Doing, Rounds, last_error, own_time},
    node::BPFFS,
    report::Report,
    sets,
};

const PREFIXES: usize = 512 << 10;
const LINE: usize = 64;

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load average: {}", load.trim());
    let mut class = PrefilterClass::default();
    class.cells[0] = ClassCell::new(1, ACTION_DROP);
    let classes = [(1, class)].into_iter().collect();
    let prefilter4 = sets::mixed4(PREFIXES).into_iter().map(|prefix| (prefix, 1)).collect();
    mapped(options, report, "512k IPv4 in the prefilter", &Tables { prefilter4, classes, ..Tables::default() })?;
    let ipcache6 = sets::mixed6(PREFIXES).into_iter().map(|prefix| (prefix, 300)).collect();
    mapped(options, report, "512k IPv6 in the ipcache", &Tables { ipcache6, ..Tables::default() })?;
    for thousands in [16, 128, 512] {
        hashes(options, report, thousands)?;
    }
    Ok(())
}

/// A datapath whose sides both hold the same, and what it was seen to hold.
struct Settled {
    kernel: Kernel,
    known: Observed,
}

impl Settled {
    fn new(tables: &Tables) -> Result<Self, BenchError> {
        let options = weir_datapath::Options::new(Path::new(BPFFS).join("verify"));
        let mut kernel = Kernel::open(options).doing("opening the datapath")?;
        let capacity = Capacity {
            conntrack_tcp: 1024,
            conntrack_other: 1024,
            fragments: 64,
            affinity: 64,
            nat: 64,
            sockets: 64,
            rules: 1024,
        };
        let empty = Tables::default();
        for _ in Side::BOTH {
            let observed = kernel.observe().doing("reading the tables")?;
            kernel.prepare(tables, &capacity).doing("making the tables")?;
            let delta = observed.as_ref().map_or(&empty, Observed::standby).diff(tables);
            kernel.stage(&delta).doing("filling the tables")?;
            kernel.flip().doing("flipping")?;
            kernel.grace().doing("waiting for programs")?;
        }
        let known = kernel.observe().doing("reading the tables")?;
        let known = known.ok_or(BenchError::Wrong { what: "there are no tables".to_owned() })?;
        if Side::BOTH.iter().any(|side| *known.sides[side.index() as usize] != *tables) {
            return Err(BenchError::Wrong { what: "a side does not hold everything".to_owned() });
        }
        Ok(Self { kernel, known })
    }

    fn verify(&mut self) -> Result<(), BenchError> {
        if self.kernel.unchanged(&self.known).doing("verifying")? {
            return Ok(());
        }
        Err(BenchError::Wrong { what: "somebody else wrote to the tables".to_owned() })
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        if let Err(cause) = self.kernel.uninstall() {
            eprintln!("weir-bench: cleaning up: {cause}");
        }
    }
}

fn wall(run: impl FnOnce() -> Result<(), BenchError>) -> Result<f64, BenchError> {
    let begun = Instant::now();
    run()?;
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

/// CPU time: the same on a machine that does other things as well.
fn processor(run: impl FnOnce() -> Result<(), BenchError>) -> Result<f64, BenchError> {
    let begun = own_time()?;
    run()?;
    Ok((own_time()? - begun).as_secs_f64() * 1000.0)
}

fn mapped(options: &Options, report: &mut Report, what: &str, tables: &Tables) -> Result<(), BenchError> {
    let mut settled = Settled::new(tables)?;
    let uses = settled.kernel.tables().doing("asking after the tables")?;
    let trees = uses.iter().filter(|table| ["IPCACHE", "PREFILTER"].contains(&table.table));
    let lines: u32 = trees.map(|table| table.room[0]).sum();
    let floor = [Memory::new(lines)?, Memory::new(lines)?];
    let names = ["verified", "CPU time of that", "floor: memcmp of as many bytes"];
    let rounds = Rounds::interleaved(options.rounds, &names, |index| match index {
        0 => wall(|| settled.verify()),
        1 => processor(|| settled.verify()),
        _ => wall(|| floor[0].same(&floor[1])),
    })?;
    rounds.figures(&format!("{what}:"), "ms").into_iter().for_each(|figure| report.figure(figure));
    report.at_most(format!("{what}, both sides verified, ms"), rounds.median(0), 10.0);
    Ok(())
}

/// A mapped array that is none of Weir's.
struct Memory {
    base: *const libc::c_void,
    bytes: usize,
}

impl Memory {
    fn new(lines: u32) -> Result<Self, BenchError> {
        let spec = MapSpec::mapped_array(LINE as u32, lines);
        let map = sys::map_create("floor", &spec, None).doing("making an array")?;
        let bytes = lines as usize * LINE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a descriptor that is held.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(last_error()).doing("mapping an array");
        }
        Ok(Self { base, bytes })
    }

    fn same(&self, other: &Self) -> Result<(), BenchError> {
        // SAFETY: both are mapped and of that size; nobody writes to either.
        let differ = unsafe { libc::memcmp(self.base, other.base, self.bytes.min(other.bytes)) };
        if black_box(differ) == 0 { Ok(()) } else { Err(io::ErrorKind::InvalidData).doing("comparing empty memory") }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped.
        unsafe { libc::munmap(self.base.cast_mut(), self.bytes) };
    }
}

fn hashes(options: &Options, report: &mut Report, thousands: u32) -> Result<(), BenchError> {
    let key = |n: u32| PolicyKey::new(300 + n, 0, 0, TupleClass::new(Some(16), true), 6, 80);
    let entry = |rule| PolicyEntry { rule, verdict: 1, ..PolicyEntry::default() };
    let policy = (0..thousands << 10).map(|n| (key(n), entry(n))).collect();
    let mut settled = Settled::new(&Tables { policy, ..Tables::default() })?;
    let outer = RawMap::pinned(&pin(settled.kernel.pin_dir(), "POLICY")?);
    let mut programs = Vec::new();
    for side in Side::BOTH {
        let id = outer.lookup(&side.index().to_ne_bytes()).and_then(|id| id.try_into().ok()).map(u32::from_ne_bytes);
        let id = id.ok_or(BenchError::Wrong { what: "there is no inner map".to_owned() })?;
        let inner = sys::map_by_id(id).doing("opening an inner map")?;
        programs.push(load(inner.as_fd())?);
    }
    let names = ["verified", "CPU time of that", "floor: the digest's program, loaded before"];
    let rounds = Rounds::interleaved(options.rounds, &names, |index| match index {
        0 => wall(|| settled.verify()),
        1 => processor(|| settled.verify()),
        _ => wall(|| programs.iter().try_for_each(|program| program.run(1).map(drop).doing("running a program"))),
    })?;
    let what = format!("{thousands}k policy entries");
    rounds.figures(&format!("{what}:"), "ms").into_iter().for_each(|figure| report.figure(figure));
    let ratio = rounds.per_round(|row| row[0] / row[2]);
    report.at_most(format!("{what}, both sides verified: times the digest's floor"), ratio, 1.5);
    Ok(())
}

fn load(map: BorrowedFd<'_>) -> Result<DigestProgram, BenchError> {
    let (key, value) = (size_of::<PolicyKey>() as u32, size_of::<PolicyEntry>() as u32);
    DigestProgram::load(map, key, value).doing("loading a program")
}

/// The pin of a table: in the directory of the ABI's version.
pub(crate) fn pin(pins: &Path, table: &str) -> Result<PathBuf, BenchError> {
    let entries = std::fs::read_dir(pins).doing("looking at the pins")?;
    let found = entries.flatten().map(|entry| entry.path().join(table)).find(|path| path.exists());
    found.ok_or(BenchError::Wrong { what: format!("no pin of {table} below {}", pins.display()) })
}
