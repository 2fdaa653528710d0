//! The programs, loaded with maps of the tests' own.
//!
//! Deliberately not the datapath crate's loader: here a test holds both sides, the generation word and the clock.
use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{Program, ProgramFd},
};
use aya_obj::generated::bpf_map_type;
use weir_abi::{
    AffinityEntry, AffinityKey, ConntrackEntry, ConntrackKey, Counter, FragmentKey, FragmentPorts, Generation,
    KernelTable, NatEntry, NatKey, RULE_COUNTERS, Runtime, ServiceInfo, Side, TableKind, runtime_tables, service_flags,
    sided_tables, tree::Line,
};
use weir_datapath::{
    prefix_tree::Tree,
    sys::{Batch, MapSpec, Mapping, Plain, bytes_of, jiffies_program, map_create, pin_replace, test_run},
};
use weir_plan::{Prefix4, Prefix6, Service, Table, Tables};

use super::{
    lab::address,
    world::{DB_DEVICE, NETWORK_DEVICE, WEB_DEVICE},
};

/// Rules that have a counter.
pub const RULES: u32 = 256;
const BPFFS: &str = "/sys/fs/bpf";

/// How large the tables that traffic fills are, and whether the programs trace.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub conntrack: u32,
    pub fragments: u32,
    pub tracing: bool,
    /// Conntrack is on its way from other tables, whose entries have so many bytes.
    pub former: Option<u32>,
}

impl Default for Size {
    fn default() -> Self {
        Self { conntrack: 4096, fragments: 256, tracing: true, former: None }
    }
}

/// A loaded instance, and a network namespace that has its devices.
#[allow(missing_debug_implementations, reason = "aya's types have none")]
pub struct Instance {
    pub ebpf: Ebpf,
    pub events: RingBuf<MapData>,
    pub runtime: Mapping<Runtime>,
    pub counters: Mapping<Counter>,
    pub ifindexes: BTreeMap<&'static str, u32>,
    pub hz: u64,
    inner: BTreeMap<(&'static str, Side), OwnedFd>,
    traffic: BTreeMap<&'static str, OwnedFd>,
    former_entry: usize,
    sizes: BTreeMap<&'static str, u32>,
    namespace: fs::File,
}

/// The one that all tests share that do not need their own: to verify the programs takes longer than most tests.
pub fn shared() -> MutexGuard<'static, Instance> {
    static SHARED: OnceLock<Mutex<Instance>> = OnceLock::new();
    let mutex = SHARED.get_or_init(|| {
        // A thread of its own goes into the namespaces and ends: the tests' threads only borrow the network's.
        let made = std::thread::spawn(|| Instance::new(&Size::default())).join();
        Mutex::new(made.expect("the programs load"))
    });
    // A test that failed leaves nothing that the next does not clear.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cpus() -> u32 {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").expect("the list of CPUs");
    possible.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u32>().ok()).expect("a CPU number") + 1
}

fn check(result: i32, doing: &str) {
    assert!(result == 0, "{doing}: {}", io::Error::last_os_error());
}

/// This thread, in namespaces of its own with an empty BPF file system and one veth pair per device.
fn enter() -> BTreeMap<&'static str, u32> {
    // SAFETY: no pointers; only this thread's namespaces change.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET) }, "unshare (are you root?)");
    let mount = |kind: &str, target: &str, flags: libc::c_ulong| {
        let (kind, target) = (CString::new(kind).expect("no NUL"), CString::new(target).expect("no NUL"));
        // SAFETY: NUL-terminated strings that outlive the call.
        check(unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) }, "mount");
    };
    mount("none", "/", libc::MS_REC | libc::MS_PRIVATE);
    fs::create_dir_all(BPFFS).expect("the mount point");
    mount("bpf", BPFFS, 0);
    [WEB_DEVICE, DB_DEVICE, NETWORK_DEVICE]
        .into_iter()
        .enumerate()
        .map(|(at, name)| {
            let peer = format!("peer{at}");
            ip(&["link", "add", name, "type", "veth", "peer", "name", &peer]);
            let name_c = CString::new(name).expect("no NUL");
            // SAFETY: a NUL-terminated string.
            let ifindex = unsafe { libc::if_nametoindex(name_c.as_ptr()) };
            assert!(ifindex != 0, "{name} was just made");
            (name, ifindex)
        })
        .collect()
}

/// Runs ip(8) in this thread's namespaces.
pub fn ip(arguments: &[&str]) {
    let status = std::process::Command::new("ip").args(arguments).status().expect("ip(8)");
    assert!(status.success(), "ip {}", arguments.join(" "));
}

fn spec(table: &KernelTable, size: u32) -> MapSpec {
    let plain = |map_type| MapSpec {
        map_type,
        key_size: table.key_size,
        value_size: table.value_size,
        max_entries: size,
        flags: 0,
    };
    match table.kind {
        TableKind::Hash => MapSpec::hash(table.key_size, table.value_size, size),
        TableKind::MappedArray => MapSpec::mapped_array(table.value_size, size),
        TableKind::LruHash => plain(bpf_map_type::BPF_MAP_TYPE_LRU_HASH),
        TableKind::PerCpuArray => plain(bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY),
        TableKind::RingBuffer => plain(bpf_map_type::BPF_MAP_TYPE_RINGBUF),
    }
}

fn size_of_table(table: &KernelTable, size: &Size) -> u32 {
    match (table.name, table.max_entries) {
        ("CONNTRACK_TCP" | "CONNTRACK_OTHER", _) => size.conntrack,
        ("FRAGMENTS", _) => size.fragments,
        (RULE_COUNTERS, _) => RULES * cpus(),
        ("IPCACHE" | "PREFILTER", _) => 8192,
        ("PREFILTER_CLASSES", _) => 64,
        (_, 0) => 1024,
        (_, fixed) => fixed,
    }
}

impl Instance {
    pub fn new(size: &Size) -> Self {
        let ifindexes = enter();
        let namespace = fs::File::open("/proc/thread-self/ns/net").expect("this thread's network namespace");
        let mut pins: Vec<(&'static str, PathBuf)> = Vec::new();
        let mut pin = |name: &'static str, map: &OwnedFd| {
            let path = Path::new(BPFFS).join(name);
            pin_replace(map.as_fd(), &path).expect("pinning");
            pins.push((name, path));
        };
        let mut inner = BTreeMap::new();
        let mut sizes = BTreeMap::new();
        for table in sided_tables() {
            let entries = size_of_table(table, size);
            sizes.insert(table.name, entries);
            let make = || map_create(table.name, &spec(table, entries), None).expect("making an inner map");
            let sides = [make(), make()];
            let outer =
                map_create(table.name, &MapSpec::outer(2), Some(sides[0].as_fd())).expect("making an outer map");
            for (side, map) in Side::BOTH.into_iter().zip(sides) {
                let filled = Batch::of(&outer).update(&[side.index()], &[map.as_raw_fd() as u32]);
                filled.1.expect("putting an inner map into its outer");
                inner.insert((table.name, side), map);
            }
            pin(table.name, &outer);
        }
        let mut traffic = BTreeMap::new();
        for table in runtime_tables() {
            let entries = size_of_table(table, size);
            let map = map_create(table.name, &spec(table, entries), None).expect("making a map");
            pin(table.name, &map);
            traffic.insert(table.name, map);
        }
        for (former, current) in [("FORMER_TCP", "CONNTRACK_TCP"), ("FORMER_OTHER", "CONNTRACK_OTHER")] {
            let Some(entry) = size.former else {
                pin(former, &traffic[current]);
                continue;
            };
            let table = runtime_tables().iter().find(|table| table.name == current).expect("a table of the list");
            let shape = MapSpec { value_size: entry, ..spec(table, size.conntrack) };
            let map = map_create(former, &shape, None).expect("making a map");
            pin(former, &map);
            traffic.insert(former, map);
        }
        let mut runtime = Mapping::<Runtime>::new(traffic["RUNTIME"].as_fd(), 1).expect("mapping");
        let counters = Mapping::new(traffic[RULE_COUNTERS].as_fd(), RULES * cpus()).expect("mapping");
        // Far from the start of jiffies, and so that the first commit goes to side A.
        let first = Generation { side: Side::B, epoch: 1 };
        runtime.write(0, Runtime { generation: first.pack(), clock_offset: 1 << 32, ..Runtime::default() });
        let hz = hz();
        let (hz32, tracing, from_former) = (hz as u32, u32::from(size.tracing), size.former.unwrap_or(0));
        let mut loader = EbpfLoader::new();
        for (name, path) in &pins {
            loader.map_pin_path(name, path.clone());
        }
        loader
            .override_global("RULES", &RULES, true)
            .override_global("HZ", &hz32, true)
            .override_global("TRACING", &tracing, true)
            .override_global("FORMER", &from_former, true);
        let mut ebpf = loader.load(super::object()).expect("the object");
        let events = RingBuf::try_from(ebpf.take_map("EVENTS").expect("EVENTS")).expect("a ring buffer");
        let former_entry = size.former.unwrap_or(0) as usize;
        Self { ebpf, events, runtime, counters, ifindexes, hz, inner, traffic, former_entry, sizes, namespace }
    }

    /// Puts the calling thread where the devices are.
    pub fn enter(&self) {
        // SAFETY: a descriptor that is open, and no pointers; only this thread moves.
        check(unsafe { libc::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWNET) }, "entering the namespace");
    }

    /// Forgets what earlier packets left.
    pub fn clear(&mut self) {
        for name in ["CONNTRACK_TCP", "CONNTRACK_OTHER"] {
            clear::<ConntrackKey, ConntrackEntry>(self.traffic[name].as_fd());
        }
        clear::<FragmentKey, FragmentPorts>(self.traffic["FRAGMENTS"].as_fd());
        clear::<AffinityKey, AffinityEntry>(self.traffic["AFFINITY"].as_fd());
        clear::<NatKey, NatEntry>(self.traffic["NAT"].as_fd());
        for slot in 0..self.counters.len() {
            self.counters.write(slot, Counter::default());
        }
        while self.events.next().is_some() {}
    }

    /// All flows move to the former tables.
    pub fn move_to_former(&mut self) {
        for (former, current) in [("FORMER_TCP", "CONNTRACK_TCP"), ("FORMER_OTHER", "CONNTRACK_OTHER")] {
            let content = Batch::of(&self.traffic[current]).dump::<ConntrackKey, ConntrackEntry>().expect("dumping");
            let keys: Vec<_> = content.iter().map(|(key, _)| *key).collect();
            let mut bytes = Vec::new();
            for (_, entry) in &content {
                let mut entry = bytes_of(entry).to_vec();
                entry.resize(self.former_entry, 0xff);
                bytes.extend(entry);
            }
            if !keys.is_empty() {
                Batch::of(&self.traffic[former]).update(&keys, &bytes).1.expect("filling");
                Batch::of(&self.traffic[current]).delete(&keys).1.expect("clearing");
            }
        }
    }

    pub fn generation(&self) -> Generation {
        Generation::unpack(self.runtime.load(0))
    }

    /// Makes the standby side hold exactly these tables.
    pub fn stage(&mut self, tables: &Tables) {
        let side = self.generation().side.other();
        self.mapped(side, "SETTINGS", |map| map.write(0, tables.settings.get(&0).copied().unwrap_or_default()));
        self.hash(side, "INTERFACES", &tables.interfaces, |name| *self.ifindexes.get(&*name.0).expect("a device"));
        self.hash(side, "ENDPOINTS", &tables.endpoints, |ip| address(*ip));
        self.hash(side, "SUBJECTS", &tables.subjects, |identity| *identity);
        self.hash(side, "POLICY", &tables.policy, |key| *key);
        self.tree(side, "IPCACHE", &tables.ipcache4, &tables.ipcache6);
        self.tree(side, "PREFILTER", &tables.prefilter4, &tables.prefilter6);
        self.mapped(side, "PREFILTER_CLASSES", |map| {
            for (class, value) in tables.classes.iter() {
                map.write(*class as usize, *value);
            }
        });
        self.hash(side, "FRONTENDS", &tables.frontends, |key| *key);
        self.hash(side, "SOURCE_RANGES", &tables.source_ranges, |key| *key);
        self.services(side, &tables.services);
        self.mapped(side, "BACKENDS", |map| {
            for number in 0..map.len() {
                map.write(number, tables.backends.get(&(number as u32)).copied().unwrap_or_default());
            }
        });
    }

    /// Every service's slots in lines of their own, this node's after all.
    fn services(&self, side: Side, services: &Table<u32, Service>) {
        let mut lines: Vec<Line> = Vec::new();
        let mut place = |slots: &[u32]| {
            let first = lines.len() as u32;
            for chunk in slots.chunks(16) {
                let mut line = Line::ZERO;
                line.0[..chunk.len()].copy_from_slice(chunk);
                lines.push(line);
            }
            (first, slots.len() as u32)
        };
        self.mapped(side, "SERVICES", |map| {
            (0..map.len()).for_each(|number| map.write(number, ServiceInfo::default()));
            for (number, service) in services.iter() {
                let ((slots, slot_count), (local_slots, local_count)) =
                    (place(&service.slots), place(&service.local_slots));
                let info = ServiceInfo {
                    slots,
                    slot_count,
                    local_slots,
                    local_count,
                    flags: service.flags | service_flags::EXISTS,
                    affinity: service.affinity,
                    ranges_v4: service.ranges_v4,
                    ranges_v6: service.ranges_v6,
                    reserved: 0,
                };
                map.write(*number as usize, info);
            }
        });
        self.mapped(side, "SLOTS", |map| {
            for (at, line) in lines.into_iter().enumerate() {
                map.write(at, line);
            }
        });
    }

    fn map(&self, side: Side, name: &'static str) -> BorrowedFd<'_> {
        self.inner.get(&(name, side)).expect("a sided table").as_fd()
    }

    fn mapped<T: Plain>(&self, side: Side, name: &'static str, write: impl FnOnce(&mut Mapping<T>)) {
        write(&mut Mapping::new(self.map(side, name), self.sizes[name]).expect("mapping"));
    }

    fn hash<K: Clone + Ord, V: Plain + PartialEq, T: Plain>(
        &self,
        side: Side,
        name: &'static str,
        table: &Table<K, V>,
        key: impl Fn(&K) -> T,
    ) {
        let map = self.map(side, name);
        clear::<T, V>(map);
        let (keys, values): (Vec<T>, Vec<V>) = table.iter().map(|(k, value)| (key(k), *value)).unzip();
        if !keys.is_empty() {
            Batch::of(&map).update(&keys, &values).1.expect("filling");
        }
    }

    fn tree(&self, side: Side, name: &'static str, v4: &Table<Prefix4, u32>, v6: &Table<Prefix6, u32>) {
        let room = vec![Line::ZERO; self.sizes[name] as usize];
        let Ok(tree) = Tree::rebuild(room, v4, v6) else { panic!("{name} is too large for a test") };
        self.mapped(side, name, |map| {
            for (at, line) in tree.into_lines().into_iter().enumerate() {
                map.write(at, line);
            }
        });
    }

    /// A program, loaded when it is first asked for.
    pub fn program(&mut self, name: &str) -> ProgramFd {
        let fd = match self.ebpf.program_mut(name).expect("a program") {
            Program::Xdp(program) => {
                if program.fd().is_err() {
                    program.load().unwrap_or_else(|error| panic!("{name}: {error:?}"));
                }
                program.fd().expect("loaded").try_clone()
            }
            Program::SchedClassifier(program) => {
                if program.fd().is_err() {
                    program.load().unwrap_or_else(|error| panic!("{name}: {error:?}"));
                }
                program.fd().expect("loaded").try_clone()
            }
            _ => panic!("{name} is of no kind of ours"),
        };
        fd.expect("a descriptor of its own")
    }

    /// As the programs see it.
    pub fn now(&self) -> u64 {
        jiffies(self.hz) + self.runtime.read(0).clock_offset
    }
}

fn clear<K: Plain, V: Plain>(map: BorrowedFd<'_>) {
    let batch = Batch::of(&map);
    let keys: Vec<K> = batch.dump::<K, V>().expect("dumping").into_iter().map(|(key, _)| key).collect();
    if !keys.is_empty() {
        batch.delete(&keys).1.expect("clearing");
    }
}

/// Jiffies, of which a program gives the lower half; the kernel starts them five minutes before the half is full.
fn jiffies(hz: u64) -> u64 {
    let low = low_jiffies();
    let uptime = fs::read_to_string("/proc/uptime").expect("/proc/uptime");
    let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    let about = ((1u64 << 32) as f64 + (seconds - 300.0) * hz as f64) as u64;
    let candidate = (about & !0xffff_ffff) | u64::from(low);
    [candidate.wrapping_sub(1 << 32), candidate, candidate.wrapping_add(1 << 32)]
        .into_iter()
        .min_by_key(|value| value.abs_diff(about))
        .expect("three candidates")
}

fn low_jiffies() -> u32 {
    use std::sync::OnceLock;
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| jiffies_program().expect("a program"));
    test_run(program.as_fd(), &[0; 64], &[], 1).expect("a test run").retval
}

/// Jiffies a second, measured over a fifth of one, once.
fn hz() -> u64 {
    use std::sync::OnceLock;
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        let (start, from) = (std::time::Instant::now(), low_jiffies());
        std::thread::sleep(std::time::Duration::from_millis(200));
        let passed = f64::from(low_jiffies().wrapping_sub(from)) / start.elapsed().as_secs_f64();
        [100, 250, 300, 1000].into_iter().min_by_key(|hz| (f64::from(*hz) - passed).abs() as u64).expect("candidates")
            as u64
    })
}
