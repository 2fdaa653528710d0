//! Programs run on packets that nobody sent: the live instance, and the one that looks at the standby side.
mod node;

use node::{apply, capacity, node, observe, open, prefix4, run, some_tables};
use weir_abi::{Direction, InterfaceInfo, Reason, Settings, interface_flags, xdp_action};
use weir_datapath::{Kernel, Packet};
use weir_plan::{Datapath as _, Hook, Tables};

/// An Ethernet frame with a UDP packet.
fn udp(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut header = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0];
    header.extend(source);
    header.extend(destination);
    let sum = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend([0x30, 0x39, 0, 53, 0, 8, 0, 0]);
    frame.resize(64, 0);
    frame
}

/// A prefilter on `v0` that drops these sources.
fn filter(prefixes: &[&str]) -> Tables {
    let watched = InterfaceInfo {
        flags: interface_flags::NETWORK | interface_flags::PREFILTER_SOURCE,
        ..InterfaceInfo::default()
    };
    Tables {
        settings: [(0, Settings::default())].into_iter().collect(),
        interfaces: [("v0".into(), watched)].into_iter().collect(),
        prefilter4: prefixes.iter().map(|prefix| (prefix4(prefix), 1)).collect(),
        classes: some_tables().classes,
        ..Tables::default()
    }
}

fn v0(kernel: &mut Kernel) -> u32 {
    let facts = kernel.facts(&[]).expect("facts");
    facts.interfaces.iter().find(|interface| interface.name == "v0".into()).expect("v0").ifindex
}

#[test]
fn the_live_programs_run_on_the_active_side_and_count() {
    node(|| {
        run("ip link add v0 type veth peer name v1");
        let mut kernel = open();
        apply(&mut kernel, &filter(&["192.0.2.0/24"]));
        let ifindex = v0(&mut kernel);
        let mut events = kernel.events().expect("events");
        let bad = udp([192, 0, 2, 9], [10, 0, 0, 1]);
        let good = udp([192, 0, 3, 9], [10, 0, 0, 1]);
        let outcome = kernel.test_run(Hook::XdpIngress, &Packet { frame: &bad, ifindex, mark: 0 }).expect("a test run");
        assert_eq!(outcome.action, xdp_action::DROP);
        let trace = outcome.trace.expect("a trace");
        assert_eq!((trace.reason, trace.rule), (Reason::Prefilter as u8, 1));
        let event = events.take().expect("a drop event");
        assert_eq!((event.reason, event.rule, event.ifindex), (Reason::Prefilter as u8, 1, ifindex));
        assert_eq!(events.take(), None);
        let outcome =
            kernel.test_run(Hook::XdpIngress, &Packet { frame: &good, ifindex, mark: 0 }).expect("a test run");
        assert_eq!((outcome.action, outcome.frame), (xdp_action::PASS, good));

        let metrics = kernel.metrics().expect("metrics");
        let dropped = metrics.get(Reason::Prefilter, Direction::Ingress);
        assert_eq!((dropped.packets, dropped.bytes), (1, 64));
        assert_eq!(metrics.lost_events(), 0);
        assert_eq!(metrics.iter().count(), 2);
        let mut rules = kernel.rule_counters().expect("rule counters");
        assert_eq!(rules.get(1).packets, 1);
        rules.reset(1);
        assert_eq!(rules.get(1).packets, 0);
        assert_eq!(rules.get(u32::MAX).packets, 0);
    });
}

#[test]
fn a_check_sees_the_standby_side_and_live_traffic_never_does() {
    node(|| {
        run("ip link add v0 type veth peer name v1");
        let mut kernel = open();
        apply(&mut kernel, &filter(&["192.0.2.0/24"]));
        let next = filter(&["198.51.100.0/24"]);
        let ifindex = v0(&mut kernel);
        kernel.prepare(&next, &capacity()).expect("preparing");
        let standby = observe(&mut kernel).standby().clone();
        kernel.stage(&standby.diff(&next)).expect("staging");

        let mut check = kernel.check_instance().expect("a check instance");
        assert_eq!(check.generation(), kernel.next_generation().expect("the next generation"));
        let old = udp([192, 0, 2, 9], [10, 0, 0, 1]);
        let new = udp([198, 51, 100, 9], [10, 0, 0, 1]);
        let mut verdicts = |frame: &[u8]| {
            let packet = Packet { frame, ifindex, mark: 0 };
            let live = kernel.test_run(Hook::XdpIngress, &packet).expect("a test run").action;
            (live, check.run(Hook::XdpIngress, &packet).expect("a check").action)
        };
        assert_eq!(verdicts(&old), (xdp_action::DROP, xdp_action::PASS));
        assert_eq!(verdicts(&new), (xdp_action::PASS, xdp_action::DROP));
        assert_eq!(kernel.metrics().expect("metrics").get(Reason::Prefilter, Direction::Ingress).packets, 1);
        assert_eq!(check.metrics().expect("metrics").get(Reason::Prefilter, Direction::Ingress).packets, 1);
        assert_eq!(check.rule_counters().expect("rule counters").get(1).packets, 1);
        assert!(check.events().expect("events").take().is_some());
        assert_eq!(check.conntrack().expect("conntrack").dump().expect("dumping"), []);
        check.forget().expect("forgetting");

        assert!(check.is_current(&kernel));
        let mut large = next.clone();
        large.prefilter4 =
            (0..20_000u32).map(|n| (weir_plan::Prefix4 { bits: n.wrapping_mul(0x9e37_79b1), length: 32 }, 1)).collect();
        kernel.prepare(&large, &capacity()).expect("preparing");
        assert!(!check.is_current(&kernel), "a table that has grown is another");
        let pins = run("find /sys/fs/bpf/weir -name check-*");
        assert_eq!(pins, "", "nothing of it is pinned");
    });
}

#[test]
fn marks_travel_through_a_run_and_the_machine_is_described() {
    node(|| {
        run("ip link add v0 type veth peer name v1");
        let mut kernel = open();
        apply(&mut kernel, &filter(&[]));
        let ifindex = v0(&mut kernel);
        let frame = udp([10, 0, 0, 2], [10, 0, 0, 1]);
        let outcome =
            kernel.test_run(Hook::FromNetwork, &Packet { frame: &frame, ifindex, mark: 0x1234 }).expect("a test run");
        assert_eq!(outcome.action, weir_datapath::TC_PASS as u32);
        assert_eq!((outcome.mark, outcome.frame), (0x1234, frame));

        kernel.load_all().expect("loading");
        let programs = kernel.loaded_programs().expect("programs");
        assert_eq!(programs.len(), weir_plan::Hook::ALL.len());
        assert!(programs.iter().all(|program| program.verified_instructions > 0));
        let tables = kernel.tables().expect("tables");
        assert_eq!(tables.len(), weir_abi::sided_tables().len() + weir_abi::runtime_tables().len());
        assert!(tables.iter().all(|table| table.bytes[0] > 0), "{tables:?}");
        let manifests: u64 = tables.iter().filter(|table| table.bytes[1] > 0).map(|table| table.bytes[0]).sum();
        assert!(manifests <= 4 << 20, "small sets get small tables: {manifests} bytes");
        let machine = weir_datapath::Machine::examine(&node::pin_dir());
        assert!(machine.bpffs && machine.missing_capabilities.is_empty() && machine.version >= (6, 1), "{machine:?}");
    });
}
