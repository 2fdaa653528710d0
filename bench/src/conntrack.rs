//! Policy with conntrack beside bare LRU programs.
use weir_abi::{
    Address, DIRECTION_INGRESS, InterfaceInfo, PolicyEntry, PolicyKey, SubjectInfo, TupleClass, interface_flags,
    policy_verdict,
};
use weir_plan::{Capacity, Hook, Prefix4, Tables};

use crate::{
    Options,
    flows::{Flow, Random},
    measure::{BenchError, Rounds},
    node::Node,
    programs::{Layer, Pass, Programs, Slot, tcp},
    report::Report,
};

/// Entries of conntrack and of the floor's table.
const ENTRIES: u32 = 1 << 20;
/// What the shipped tc programs answer when a packet goes on.
const PASS: u32 = -1_i32 as u32;
const FLOOR_PASS: u32 = 0;
const SUBJECT: u32 = 256;
const PORT: u16 = 80;
const TCP: u8 = 6;

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    hits(options, report)?;
    new_flows(options, report)
}

/// `peers` networks may reach the subject on one port.
fn tables(peers: u32) -> Tables {
    let mut tables = Tables::default();
    tables.settings.insert(0, weir_abi::Settings::default());
    let interface = InterfaceInfo {
        flags: interface_flags::ENDPOINT,
        endpoint: 1,
        identity: SUBJECT,
        incarnation: 1,
        ..Default::default()
    };
    tables.interfaces.insert("lo".into(), interface);
    let class = TupleClass::new(Some(16), false);
    let subject = SubjectInfo { allow_classes: [1 << class.0, 0], default_deny: [1, 0], ..SubjectInfo::default() };
    tables.subjects.insert(SUBJECT, subject);
    let identity = |peer: u32| SUBJECT + 1 + peer;
    tables.ipcache4 = (0..peers).map(|peer| (Prefix4 { bits: network(peer), length: 24 }, identity(peer))).collect();
    let entry = PolicyEntry { rule: 1, verdict: policy_verdict::ALLOW, ..PolicyEntry::default() };
    tables.policy = (0..peers)
        .map(|peer| (PolicyKey::new(SUBJECT, identity(peer), DIRECTION_INGRESS, class, TCP, PORT), entry))
        .collect();
    tables
}

/// Peers are spread over 10.0.0.0/8, a /24 each: so that a few have enough flows to fill the table.
const fn network(peer: u32) -> u32 {
    0x0a00_0000 | (peer.wrapping_mul(0x9e37_79b1) >> 8) & !0xff
}

/// `count` flows of random peers.
fn flows(count: u32, peers: u32, seed: u64) -> Vec<Flow> {
    let mut random = Random::new(seed);
    (0..count)
        .map(|_| Flow {
            source: Address::from_v4(
                (network(random.below(u64::from(peers)) as u32) | random.below(256) as u32).to_be_bytes(),
            ),
            destination: Address::from_v4([192, 0, 2, 1]),
            source_port_be: (random.next() as u16).to_be(),
            destination_port_be: PORT.to_be(),
            ..Flow::default()
        })
        .collect()
}

fn capacity() -> Capacity {
    Capacity { conntrack_tcp: ENTRIES, ..Capacity::default() }
}

fn hits(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    const PEERS: u32 = 16_384;
    let mut programs = Programs::load(ENTRIES, 1)?;
    programs.set_flows(0, &flows(131_072, PEERS, 3))?;
    let mut node = Node::with_capacity("policy", &tables(PEERS), &capacity())?;
    let parse = programs.floor("floor_parse_tc")?;
    let floor = programs.floor("floor_lru_hit_tc")?;
    let fill = programs.floor("floor_lru_insert_tc")?;
    let weir = programs.shipped(Layer::Tc, &node.program(Hook::ToEndpoint)?)?;
    let packet = tcp(false);

    for (count, limit) in [(1_024, 1.5), (131_072, 1.3)] {
        let pass = Pass { base: 0, flows: count, packets: 131_072, fresh: false, start: 0 };
        programs.run(fill, &packet, pass, FLOOR_PASS)?;
        programs.run(weir, &packet, pass, PASS)?;
        let names = ["parse only", "one LRU lookup", "weir, established"];
        let rounds = Rounds::interleaved(options.rounds, &names, |index| match index {
            0 => programs.run(parse, &packet, pass, FLOOR_PASS),
            1 => programs.run(floor, &packet, pass, FLOOR_PASS),
            _ => programs.run(weir, &packet, pass, PASS),
        })?;
        for figure in rounds.figures(&format!("policy, {count} flows:"), "ns") {
            report.figure(figure);
        }
        report.at_most(
            format!("policy, {count} flows: established / LRU lookup"),
            rounds.per_round(|ns| ns[2] / ns[1]),
            limit,
        );
    }
    Ok(())
}

fn new_flows(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    // Each measurement adds this many entries: few enough that "half full" stays that over all the rounds.
    const PACKETS: u32 = 16_384;
    let mut programs = Programs::load(ENTRIES, 1)?;
    programs.set_flows(0, &flows(PACKETS, 16_384, 4))?;
    programs.set_flows(PACKETS, &flows(PACKETS, 16, 5))?;
    let mut many = Node::with_capacity("many", &tables(16_384), &capacity())?;
    let mut few = Node::with_capacity("few", &tables(16), &capacity())?;
    let floor = programs.floor("floor_lru_insert_tc")?;
    let slots = [
        (floor, 0, FLOOR_PASS),
        (programs.shipped(Layer::Tc, &many.program(Hook::ToEndpoint)?)?, 0, PASS),
        (programs.shipped(Layer::Tc, &few.program(Hook::ToEndpoint)?)?, PACKETS, PASS),
    ];
    let packet = tcp(false);
    let mut walked = [0u64; 3];
    let mut send = |index: usize, packets: u32| -> Result<f64, BenchError> {
        let (slot, base, expect): (Slot, u32, u32) = slots[index];
        let pass = Pass { base, flows: PACKETS, packets, fresh: true, start: walked[index] };
        walked[index] += u64::from(packets);
        programs.run(slot, &packet, pass, expect)
    };

    for (state, fill, rounds) in
        [("half full", ENTRIES / 4, options.rounds), ("full", ENTRIES + ENTRIES / 4, options.rounds)]
    {
        for index in 0..slots.len() {
            send(index, fill)?;
        }
        let names = ["one LRU insert", "weir, new flow, 16k policy entries", "weir, new flow, 16 entries"];
        let rounds = Rounds::interleaved(rounds, &names, |index| send(index, PACKETS))?;
        for figure in rounds.figures(&format!("policy, table {state}:"), "ns") {
            report.figure(figure);
        }
        report.at_most(
            format!("policy, table {state}: new flow / LRU insert"),
            rounds.per_round(|ns| ns[2] / ns[0]),
            1.4,
        );
        report.at_most(
            format!("policy, table {state}: 16k entries / 16 entries"),
            rounds.per_round(|ns| ns[1] / ns[2]),
            1.3,
        );
    }
    Ok(())
}
