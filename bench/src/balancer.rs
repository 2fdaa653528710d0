//! The load balancer at XDP: a client's packets of flows that tc has served, to a Maglev service whose backends are all
//! elsewhere. Beside a bare program that looks both of conntrack's entries up, rewrites both ends and sends the packet
//! out of the device that it came by.
use std::fs;

use weir_abi::{
    BackendInfo, FrontendInfo, InterfaceInfo, Settings, backend_flags, frontend_flags, interface_flags, service_flags,
    settings_flags, xdp_action,
};
use weir_plan::{Capacity, Hook, Service, Tables};

use crate::{
    Options, cpu,
    measure::{BenchError, Doing, Rounds},
    node::{Node, shell},
    programs::{Layer, Pass, Programs, Slot, tcp},
    report::Report,
    services::{self, Family, PASS},
};

const DEVICE: &str = "balance-rx";
const FAR_END: &str = "balance-tx";
/// Of the node on the device, and of the router to the backends: as the other addresses here.
const NODE: u32 = 0x0aff_0001;
const ROUTER: u32 = 0x0aff_00fe;
/// Behind the router, next to each other, as a cluster's are.
const BACKENDS: u32 = 64;
/// Of the table: the least that Weir makes.
const MAGLEV: u32 = 16_381;
/// The most that an established flow may cost, net of a bare drop behind the same prologue.
const TARGET_NS: f64 = 150.0;
const SAMPLE: u32 = 1 << 17;

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    // What is known of a next hop is known to one CPU.
    let joined = std::thread::scope(|scope| {
        let work = || {
            cpu::stay_on_first()?;
            let device = device()?;
            [Family::V4, Family::V6].into_iter().try_for_each(|family| established(options, report, family, device))
        };
        scope.spawn(work).join()
    });
    joined.unwrap_or_else(|_| Err(BenchError::Wrong { what: "the balancer's thread panicked".to_owned() }))
}

/// A network device with a router beyond it, that is known; its index.
fn device() -> Result<u32, BenchError> {
    shell(&format!("ip link add {DEVICE} address 02:00:00:00:00:01 type veth peer name {FAR_END}"))?;
    for end in [DEVICE, FAR_END] {
        shell(&format!("ip link set {end} up"))?;
    }
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = format!("/proc/sys/net/{setting}");
        fs::write(&path, "1").doing(format!("writing {path}"))?;
    }
    for (family, length, backends) in [(Family::V4, 24, 12), (Family::V6, 120, 108)] {
        let text = |bits| weir_plan::ip_of(&family.address(bits));
        let (node, router, net) = (text(NODE), text(ROUTER), text(services::BACKEND_NET));
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        shell(&format!("ip address add {node}/{length} dev {DEVICE}{nodad}"))?;
        shell(&format!("ip neighbour add {router} lladdr 02:00:00:00:00:02 dev {DEVICE} nud permanent"))?;
        shell(&format!("ip route add {net}/{backends} via {router} dev {DEVICE}"))?;
    }
    let text = shell(&format!("ip -o link show {DEVICE}"))?;
    text.split(':').next().unwrap_or_default().trim().parse().doing("reading an ifindex")
}

fn tables(family: Family) -> Tables {
    let mut tables = Tables::default();
    let settings = Settings {
        flags: settings_flags::SERVICES | settings_flags::XDP_BALANCER,
        nat_first_port: 1024,
        nat_last_port: u16::MAX,
        ..Settings::default()
    };
    tables.settings.insert(0, settings);
    let interface = InterfaceInfo {
        flags: interface_flags::NETWORK,
        masquerade_v4: Family::V4.address(NODE),
        masquerade_v6: Family::V6.address(NODE),
        ..InterfaceInfo::default()
    };
    tables.interfaces.insert(DEVICE.into(), interface);
    let frontend = FrontendInfo { service: 1, flags: frontend_flags::EXTERNAL };
    tables.frontends.insert(services::frontend(family, 0), frontend);
    let backend = |which: u32| BackendInfo {
        address: family.address(services::BACKEND_NET + which),
        incarnation: 1,
        service: 1,
        port_be: services::BACKEND_PORT.to_be(),
        flags: backend_flags::EXISTS,
        reserved: 0,
    };
    tables.backends = (0..BACKENDS).map(|which| (which + 1, backend(which))).collect();
    let slots = (0..MAGLEV).map(|slot| 1 + slot % BACKENDS).collect();
    tables.services.insert(1, Service { flags: service_flags::MAGLEV, slots, ..Service::default() });
    tables
}

/// Who is measured; behind which prologue is its slot's own.
struct Sender {
    slot: Slot,
    expect: u32,
    walked: u64,
}

impl Sender {
    const fn new(slot: Slot, expect: u32) -> Self {
        Self { slot, expect, walked: 0 }
    }

    fn send(&mut self, programs: &mut Programs, family: Family, flows: u32, packets: u32) -> Result<f64, BenchError> {
        let pass = Pass { base: 0, flows, packets, fresh: false, start: self.walked };
        self.walked += u64::from(packets);
        programs.run(self.slot, &tcp(family == Family::V6), pass, self.expect)
    }
}

fn established(options: &Options, report: &mut Report, family: Family, device: u32) -> Result<(), BenchError> {
    const COUNTS: [u32; 3] = [1 << 10, 1 << 17, 1 << 20];
    let most = COUNTS[2];
    let entries = most * 2 + most / 2;
    let mut programs = services::programs(family, entries, 1)?;
    programs.on_device(device);
    programs.set_flows(0, &services::flows(family, most, 1, 11))?;
    let capacity =
        Capacity { conntrack_tcp: entries, conntrack_other: 1024, nat: most + most / 2, ..Capacity::default() };
    let mut node = Node::with_capacity("balancer", &tables(family), &capacity)?;
    node.attach_xdp(DEVICE)?;

    let inward = programs.shipped(Layer::Tc, &node.program(Hook::FromNetwork)?)?;
    // The slot after that one.
    programs.shipped(Layer::Tc, &node.program(Hook::ToNetwork)?)?;
    let fill = programs.floor("floor_service_insert_tc")?;
    let drop = programs.floor("floor_drop_xdp")?;
    let parse = programs.floor("floor_parse_xdp")?.behind("prologue_restoring_xdp");
    let bare = programs.floor("floor_balance_xdp")?.behind("prologue_restoring_xdp");
    let weir = programs.shipped(Layer::Xdp, &node.program(Hook::XdpIngress)?)?.behind("prologue_restoring_xdp");

    let mut hot = f64::NAN;
    for count in COUNTS {
        let what = format!("balancer, {}, {count} flows:", family.name());
        // Both directions of tc, so twice as many runs as flows: it is served, and lent a port where it leaves.
        Sender::new(inward.behind("prologue_through_tc"), PASS).send(&mut programs, family, count, count * 2)?;
        Sender::new(fill, 0).send(&mut programs, family, count, count)?;
        let mut senders = [
            (drop.behind("floor_drop_xdp"), xdp_action::DROP),
            (drop.behind("prologue_restoring_xdp"), xdp_action::DROP),
            (parse, xdp_action::PASS),
            (bare, xdp_action::TX),
            (weir, xdp_action::TX),
        ]
        .map(|(slot, expect)| Sender::new(slot, expect));
        let mut by_weir = |programs: &mut Programs, sender: &mut Sender, packets| {
            let before = node.sent_on()?;
            let ns = sender.send(programs, family, count, packets)?;
            let sent = node.sent_on()? - before;
            is_sent_on(programs, family, &what)?;
            // Each destination is left to the stack once in ten seconds.
            if sent < u64::from(packets) / 100 * 99 {
                return Err(BenchError::Wrong { what: format!("{what} {sent} of {packets} packets were sent on") });
            }
            Ok(ns)
        };
        // XDP takes over what tc knows.
        by_weir(&mut programs, &mut senders[4], count)?;
        let names = ["bare drop", "bare drop, restored", "parse only, restored", "bare balancer", "weir, established"];
        let rounds = Rounds::interleaved(options.rounds, &names, |index| match index {
            4 => by_weir(&mut programs, &mut senders[4], SAMPLE),
            _ => senders[index].send(&mut programs, family, count, SAMPLE),
        })?;
        rounds.figures(&what, "ns").into_iter().for_each(|figure| report.figure(figure));
        report.figure(rounds.derived(&format!("{what} restoring a packet"), "ns", |ns| ns[1] - ns[0]));
        report.figure(rounds.derived(&format!("{what} established / bare"), "times", |ns| ns[4] / ns[3]));
        report.at_most(
            format!("{what} established, net of a restored drop"),
            rounds.per_round(|ns| ns[4] - ns[1]),
            TARGET_NS,
        );
        // A cache that holds a thousand flows does not hold a million.
        let net = rounds.per_round(|ns| ns[4] - ns[1]);
        if count == COUNTS[0] {
            hot = net;
        } else if count == most && net < hot * 1.5 {
            return Err(BenchError::Wrong { what: format!("{what} {net:.0} ns, and {hot:.0} of {} flows", COUNTS[0]) });
        }
    }
    Ok(())
}

/// The last packet went to a backend, from the node.
fn is_sent_on(programs: &Programs, family: Family, what: &str) -> Result<(), BenchError> {
    services::is_served(programs, family, what)?;
    let packet = programs.last_packet();
    let source = match family {
        Family::V4 => packet[26..30] == NODE.to_be_bytes(),
        Family::V6 => packet[22..38] == Family::V6.address(NODE).0,
    };
    if source {
        return Ok(());
    }
    Err(BenchError::Wrong { what: format!("{what} the packet is not from the node") })
}
