//! The prefilter beside a kernel LPM trie with the same set, net of the parse-only program.
use weir_abi::{ACTION_DROP, Address, ClassCell, InterfaceInfo, PrefilterClass, SIDE_SOURCE, interface_flags};
use weir_plan::{Hook, Prefix4, Prefix6, Tables};

use crate::{
    Options,
    flows::Flow,
    measure::{BenchError, Rounds},
    node::Node,
    programs::{Layer, Pass, Programs, tcp},
    report::Report,
    sets,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// Flows of each kind.
const KEYS: u32 = 131_072;
const CLASS: u32 = 1;

pub(crate) enum Set {
    V4(Vec<Prefix4>),
    V6(Vec<Prefix6>),
}

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    for count in [1_000, 100_000, 524_288] {
        one(options, report, &format!("IPv4 mixed {count}"), count, Set::V4(sets::mixed4(count)))?;
    }
    for count in [1_000, 100_000, 524_288] {
        one(options, report, &format!("IPv4 mild {count}"), count, Set::V4(sets::mild4(count)))?;
    }
    for count in [1_000, 100_000, 524_288] {
        one(options, report, &format!("IPv6 {count}"), count, Set::V6(sets::mixed6(count)))?;
    }
    Ok(())
}

fn one(options: &Options, report: &mut Report, name: &str, count: usize, set: Set) -> Result<(), BenchError> {
    let mut programs = Programs::load(1, count as u32)?;
    let (hits, misses): (Vec<Address>, Vec<Address>) = match &set {
        Set::V4(set) => {
            programs.fill_lpm4(set)?;
            let v4 = |bits: u32| Address::from_v4(bits.to_be_bytes());
            (
                sets::hits4(set, KEYS as usize).into_iter().map(v4).collect(),
                sets::misses4(set, KEYS as usize).into_iter().map(v4).collect(),
            )
        }
        Set::V6(set) => {
            programs.fill_lpm6(set)?;
            let v6 = |bits: u128| Address(bits.to_be_bytes());
            (
                sets::hits6(set, KEYS as usize).into_iter().map(v6).collect(),
                sets::misses6(set, KEYS as usize).into_iter().map(v6).collect(),
            )
        }
    };
    let v6 = matches!(set, Set::V6(_));
    for (base, sources) in [(0, hits), (KEYS, misses)] {
        let flows: Vec<Flow> = sources.into_iter().map(flow).collect();
        programs.set_flows(base, &flows)?;
    }

    let mut node = Node::new("prefilter", &tables("lo", set))?;
    let parse = programs.floor("floor_parse_xdp")?;
    let trie = programs.floor("floor_lpm_xdp")?;
    let weir = programs.shipped(Layer::Xdp, &node.program(Hook::XdpIngress)?)?;

    let packet = tcp(v6);
    let pass = |base, flows| Pass { base, flows, packets: KEYS, fresh: false, start: 0 };
    let (hit, miss, hot) = (pass(0, KEYS), pass(KEYS, KEYS), pass(0, 1));
    let names = ["parse only", "trie, hit", "weir, hit", "trie, miss", "weir, miss", "trie, one packet"];
    let rounds = Rounds::interleaved(options.rounds, &names, |index| match index {
        0 => programs.run(parse, &packet, hit, XDP_PASS),
        1 => programs.run(trie, &packet, hit, XDP_DROP),
        2 => programs.run(weir, &packet, hit, XDP_DROP),
        3 => programs.run(trie, &packet, miss, XDP_PASS),
        4 => programs.run(weir, &packet, miss, XDP_PASS),
        _ => programs.run(trie, &packet, hot, XDP_DROP),
    })?;
    for figure in rounds.figures(name, "ns") {
        report.figure(figure);
    }
    if count >= 100_000 && rounds.median(1) < 1.5 * rounds.median(5) {
        return Err(BenchError::Wrong { what: format!("{name}: random flows cost no more than one packet repeated") });
    }

    let hit_ratio = rounds.per_round(|ns| (ns[2] - ns[0]) / (ns[1] - ns[0]));
    let miss_ratio = rounds.per_round(|ns| (ns[4] - ns[0]) / (ns[3] - ns[0]));
    let hit_limit = if count >= 500_000 {
        0.25
    } else if count >= 100_000 {
        0.4
    } else {
        1.0
    };
    report.at_most(format!("{name}: hit / trie"), hit_ratio, hit_limit);
    if count >= 100_000 {
        report.at_most(format!("{name}: miss / trie"), miss_ratio, 0.1);
    }
    report.at_most(format!("{name}: miss, ns net"), rounds.per_round(|ns| ns[4] - ns[0]), 100.0);
    Ok(())
}

pub(crate) fn flow(source: Address) -> Flow {
    let destination = if source.is_v4() {
        Address::from_v4([10, 0, 0, 1])
    } else {
        Address([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    };
    Flow {
        source,
        destination,
        source_port_be: 40_000u16.to_be(),
        destination_port_be: 80u16.to_be(),
        ..Flow::default()
    }
}

/// One filter on one device; test runs arrive on `lo`.
pub(crate) fn tables(name: &str, set: Set) -> Tables {
    let mut tables = Tables::default();
    let mut class = PrefilterClass::default();
    class.cells[SIDE_SOURCE] = ClassCell::new(1, ACTION_DROP);
    tables.classes.insert(CLASS, class);
    let interface = InterfaceInfo {
        flags: interface_flags::NETWORK | interface_flags::PREFILTER_SOURCE,
        ..InterfaceInfo::default()
    };
    tables.interfaces.insert(name.into(), interface);
    tables.settings.insert(0, weir_abi::Settings::default());
    match set {
        Set::V4(set) => tables.prefilter4 = set.into_iter().map(|prefix| (prefix, CLASS)).collect(),
        Set::V6(set) => tables.prefilter6 = set.into_iter().map(|prefix| (prefix, CLASS)).collect(),
    }
    tables
}
