//! A node of a test's own: network and mount namespaces of a thread, a BPF file system, and named namespaces for
//! endpoints. All of it ends with the thread.
#![allow(dead_code, reason = "each test file uses its part")]
use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{PoisonError, RwLock},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use weir_abi::{
    BackendInfo, ClassCell, EndpointInfo, FrontendInfo, FrontendKey, InterfaceInfo, PolicyEntry, PolicyKey,
    PrefilterClass, Settings, SourceRangeKey, SubjectInfo, TupleClass, interface_flags,
};
use weir_datapath::{Kernel, Options};
use weir_plan::{Capacity, Datapath as _, Observed, Prefix4, Prefix6, Service, Tables, address_of};

pub const BPFFS: &str = "/sys/fs/bpf";

/// Writes are counted per process: whoever compares counts must be alone in it.
static COUNTING: RwLock<()> = RwLock::new(());

/// Runs a test on a node that nobody else sees, while no other test of this file runs.
pub fn node_alone(test: impl FnOnce() + Send) {
    let _alone = COUNTING.write().unwrap_or_else(PoisonError::into_inner);
    enter(test);
}

/// Runs a test on a node that nobody else sees.
pub fn node(test: impl FnOnce() + Send) {
    let _beside = COUNTING.read().unwrap_or_else(PoisonError::into_inner);
    enter(test);
}

fn enter(test: impl FnOnce() + Send) {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("new namespaces (are you root?)");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("a private mount tree");
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).expect("a BPF file system");
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("an empty /run");
        fs::create_dir("/run/netns").expect("the directory of ip netns");
        run("ip link set lo up");
        test();
    };
    thread::scope(|scope| {
        if let Err(panic) = scope.spawn(inside).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs a command line; it must succeed.
pub fn run(line: &str) -> String {
    let (ok, out) = attempt(line);
    assert!(ok, "{line}: {out}");
    out
}

pub fn attempt(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

pub fn pin_dir() -> PathBuf {
    Path::new(BPFFS).join("weir")
}

pub fn open() -> Kernel {
    Kernel::open(Options { trace: true, ..Options::new(pin_dir()) }).expect("opening the kernel")
}

pub fn capacity() -> Capacity {
    Capacity {
        conntrack_tcp: 1024,
        conntrack_other: 1024,
        fragments: 64,
        affinity: 64,
        nat: 64,
        sockets: 64,
        rules: 1024,
    }
}

pub fn observe(kernel: &mut Kernel) -> Observed {
    kernel.observe().expect("observing").expect("a kernel that is not cold")
}

/// The order of an apply, for tables alone.
pub fn apply(kernel: &mut Kernel, tables: &Tables) {
    let empty = Tables::default();
    let observed = kernel.observe().expect("observing");
    let standby = observed.as_ref().map_or(&empty, Observed::standby);
    kernel.prepare(tables, &capacity()).expect("preparing");
    kernel.stage(&standby.diff(tables)).expect("staging");
    kernel.flip().expect("flipping");
    kernel.grace().expect("grace");
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn prefix4(text: &str) -> Prefix4 {
    text.parse::<ipnet::Ipv4Net>().expect("an IPv4 prefix").into()
}

pub fn prefix6(text: &str) -> Prefix6 {
    text.parse::<ipnet::Ipv6Net>().expect("an IPv6 prefix").into()
}

/// Something in every table.
pub fn some_tables() -> Tables {
    let class = |rule| {
        let mut class = PrefilterClass::default();
        class.cells[0] = ClassCell::new(rule, weir_abi::ACTION_DROP);
        class
    };
    let key = |port| PolicyKey::new(300, 0, 0, TupleClass::new(Some(16), true), 6, port);
    Tables {
        settings: [(0, Settings::default())].into_iter().collect(),
        interfaces: [("lo".into(), InterfaceInfo { flags: interface_flags::NETWORK, ..InterfaceInfo::default() })]
            .into_iter()
            .collect(),
        endpoints: ["10.1.1.1", "fd00::1"]
            .iter()
            .map(|a| (ip(a), EndpointInfo { endpoint: 1, identity: 300, incarnation: 1, ..EndpointInfo::default() }))
            .collect(),
        ipcache4: [(prefix4("10.1.1.1/32"), 300), (prefix4("10.0.0.0/8"), 301), (prefix4("0.0.0.0/0"), 2)]
            .into_iter()
            .collect(),
        ipcache6: [(prefix6("fd00::1/128"), 300), (prefix6("fd00::/8"), 301)].into_iter().collect(),
        subjects: [(300, SubjectInfo { default_deny: [1, 0], ..SubjectInfo::default() })].into_iter().collect(),
        policy: (1..40)
            .map(|port| (key(port), PolicyEntry { rule: 1, verdict: 1, ..PolicyEntry::default() }))
            .collect(),
        prefilter4: (0..2000u32).map(|n| (prefix4(&format!("100.{}.{}.0/24", n / 256, n % 256)), 1)).collect(),
        prefilter6: [(prefix6("2001:db8::/32"), 2), (prefix6("2001:db8:1::/48"), 0)].into_iter().collect(),
        classes: [(1, class(1)), (2, class(2))].into_iter().collect(),
        frontends: (1..300)
            .map(|port| {
                let to = FrontendInfo { service: 1 + u32::from(port) % 3, flags: 0 };
                (FrontendKey::new(address_of(ip("10.96.0.1")), 6, port), to)
            })
            .collect(),
        services: (1..4).map(|number| (number, service(number))).collect(),
        backends: (1..100).map(|number| (number, backend(number))).collect(),
        source_ranges: [(SourceRangeKey { service: 1, length: 104, address: address_of(ip("10.0.0.0")) }, 1)]
            .into_iter()
            .collect(),
    }
}

/// Slots of one line, of several, and of this node only.
pub fn service(number: u32) -> Service {
    let slots: Vec<u32> = (1..=number * 20).collect();
    Service { slots: slots.as_slice().into(), local_slots: slots[..3].into(), affinity: number, ..Service::default() }
}

pub fn backend(number: u32) -> BackendInfo {
    BackendInfo {
        address: address_of(ip(&format!("10.2.0.{number}"))),
        incarnation: number,
        service: 1,
        port_be: 80u16.to_be(),
        flags: weir_abi::backend_flags::EXISTS,
        ..BackendInfo::default()
    }
}
