//! A client's packets to a service, at the program of its device: beside a bare program that looks a frontend and both of
//! conntrack's entries up, and rewrites the packet by the same helpers.
use weir_abi::{
    Address, BackendInfo, DIRECTION_EGRESS, FrontendInfo, FrontendKey, InterfaceInfo, PolicyEntry, PolicyKey, Settings,
    SubjectInfo, TupleClass, backend_flags, interface_flags, policy_verdict, settings_flags,
};
use weir_plan::{Capacity, Hook, Prefix4, Prefix6, Service, Table, Tables};

use crate::{
    Options, balancer,
    flows::{Flow, Random},
    measure::{BenchError, Rounds},
    node::Node,
    programs::{Layer, Pass, Programs, Slot, tcp},
    report::Report,
};

const TCP: u8 = 6;
const PORT: u16 = 80;
pub(crate) const BACKEND_PORT: u16 = 8080;
/// What the shipped program and the floors answer when a packet goes on.
pub(crate) const PASS: u32 = -1_i32 as u32;
const FLOOR_PASS: u32 = 0;
const CLIENT: u32 = 256;
const BACKENDS: u32 = 257;
const MANY: u32 = 50_000;
/// Of each service.
const BACKENDS_EACH: u32 = 2;

/// Where the addresses of each kind begin: as IPv4, or behind `fd00::`.
const CLIENTS: u32 = 0x0a00_0000;
const FRONTENDS: u32 = 0x0a60_0000;
pub(crate) const BACKEND_NET: u32 = 0x0a80_0000;

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    established(options, report, Family::V4, &[1 << 10, 1 << 17, 1 << 20])?;
    established(options, report, Family::V6, &[1 << 17])?;
    balancer::run(options, report)?;
    many_established(options, report)?;
    new_flows(options, report)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub(crate) fn address(self, bits: u32) -> Address {
        match self {
            Self::V4 => Address::from_v4(bits.to_be_bytes()),
            Self::V6 => Address((V6_NET | u128::from(bits)).to_be_bytes()),
        }
    }
}

const V6_NET: u128 = 0xfd00 << 112;

/// Number `service` counts from 0.
const fn backend(service: u32, which: u32) -> u32 {
    BACKEND_NET + service * BACKENDS_EACH + which
}

pub(crate) fn frontend(family: Family, service: u32) -> FrontendKey {
    FrontendKey::new(family.address(FRONTENDS + service), TCP, PORT)
}

/// One client, whose policy lets it speak to the backends and to nobody else.
fn tables(family: Family, services: u32) -> Tables {
    let mut tables = Tables::default();
    tables.settings.insert(0, Settings { flags: settings_flags::SERVICES, ..Settings::default() });
    let interface = InterfaceInfo {
        flags: interface_flags::ENDPOINT,
        endpoint: 1,
        identity: CLIENT,
        incarnation: 1,
        ..InterfaceInfo::default()
    };
    tables.interfaces.insert("lo".into(), interface);
    let class = TupleClass::new(Some(16), false);
    let subject = SubjectInfo { allow_classes: [0, 1 << class.0], default_deny: [0, 1], ..SubjectInfo::default() };
    tables.subjects.insert(CLIENT, subject);
    let entry = PolicyEntry { rule: 1, verdict: policy_verdict::ALLOW, ..PolicyEntry::default() };
    tables.policy.insert(PolicyKey::new(CLIENT, BACKENDS, DIRECTION_EGRESS, class, TCP, BACKEND_PORT), entry);
    let of_v6 = Prefix6::from_bits(V6_NET | u128::from(BACKEND_NET), 108);
    let _ = match family {
        Family::V4 => tables.ipcache4.insert(Prefix4 { bits: BACKEND_NET, length: 12 }, BACKENDS),
        Family::V6 => tables.ipcache6.insert(of_v6, BACKENDS),
    };
    let mut frontends = Vec::new();
    for service in 0..services {
        let key = frontend(family, service);
        frontends.push((key, FrontendInfo { service: service + 1, flags: 0 }));
        frontends.push((FrontendKey::of_address(key.address), FrontendInfo::default()));
    }
    tables.frontends = Table::from_unsorted(frontends);
    let first = |service: u32| 1 + service * BACKENDS_EACH;
    let of = |service: u32| {
        let slots = (first(service)..first(service) + BACKENDS_EACH).collect();
        (service + 1, Service { slots, ..Service::default() })
    };
    tables.services = (0..services).map(of).collect();
    let numbered = |number: u32| {
        let (service, which) = (number / BACKENDS_EACH, number % BACKENDS_EACH);
        let info = BackendInfo {
            address: family.address(backend(service, which)),
            incarnation: 1,
            service: service + 1,
            port_be: BACKEND_PORT.to_be(),
            flags: backend_flags::EXISTS,
            reserved: 0,
        };
        (number + 1, info)
    };
    tables.backends = (0..services * BACKENDS_EACH).map(numbered).collect();
    tables
}

/// `count` flows of random clients to random services.
pub(crate) fn flows(family: Family, count: u32, services: u32, seed: u64) -> Vec<Flow> {
    let mut random = Random::new(seed);
    let mut flow = || Flow {
        source: family.address(CLIENTS + random.below(1 << 22) as u32),
        destination: family.address(FRONTENDS + random.below(u64::from(services)) as u32),
        source_port_be: (random.next() as u16).to_be(),
        destination_port_be: PORT.to_be(),
        ..Flow::default()
    };
    (0..count).map(|_| flow()).collect()
}

/// Programs, with the floors' frontends in their table: there, a frontend itself says who its first backend is.
pub(crate) fn programs(family: Family, entries: u32, services: u32) -> Result<Programs, BenchError> {
    let mut programs = Programs::load(entries, 1)?;
    let floors = (0..services).map(|service| {
        let bits = family.address(backend(service, 0)).0;
        let flags = u32::from_ne_bytes([bits[12], bits[13], bits[14], bits[15]]);
        (frontend(family, service), FrontendInfo { service: BACKEND_PORT.into(), flags })
    });
    programs.fill_frontends(floors)?;
    Ok(programs)
}

fn node(name: &str, family: Family, services: u32, entries: u32) -> Result<Node, BenchError> {
    let capacity = Capacity { conntrack_tcp: entries, conntrack_other: 1024, ..Capacity::default() };
    Node::with_capacity(name, &tables(family, services), &capacity)
}

/// The last packet went to a backend, and not just on.
pub(crate) fn is_served(programs: &Programs, family: Family, what: &str) -> Result<(), BenchError> {
    let port = match family {
        Family::V4 => 36,
        Family::V6 => 56,
    };
    if programs.last_packet()[port..port + 2] == BACKEND_PORT.to_be_bytes() {
        return Ok(());
    }
    Err(BenchError::Wrong { what: format!("{what}: the packet went to no backend") })
}

/// Somebody who is measured, and how far into its flows it is.
struct Runner {
    slot: Slot,
    expect: u32,
    /// Where its flows are, and how many.
    base: u32,
    flows: u32,
    fresh: bool,
    walked: u64,
}

impl Runner {
    const fn new(slot: Slot, expect: u32, base: u32, flows: u32) -> Self {
        Self { slot, expect, base, flows, fresh: false, walked: 0 }
    }

    /// Sends the next `packets` of the flows.
    fn send(&mut self, programs: &mut Programs, family: Family, packets: u32) -> Result<f64, BenchError> {
        let Self { slot, expect, base, flows, fresh, walked } = *self;
        self.walked += u64::from(packets);
        let pass = Pass { base, flows, packets, fresh, start: walked };
        programs.run(slot, &tcp(family == Family::V6), pass, expect)
    }
}

/// Packets of a sample.
const PACKETS: u32 = 1 << 17;

fn established(options: &Options, report: &mut Report, family: Family, counts: &[u32]) -> Result<(), BenchError> {
    let most = counts.iter().copied().max().unwrap_or(0);
    // Room for both entries of every flow: what the table drops would be made anew.
    let entries = most * 2 + most / 2;
    let mut programs = programs(family, entries, 1)?;
    programs.set_flows(0, &flows(family, most, 1, 7))?;
    let mut node = node("established", family, 1, entries)?;
    let parse = programs.floor("floor_parse_tc")?;
    let floor = programs.floor("floor_service_hit_tc")?;
    let fill = programs.floor("floor_service_insert_tc")?;
    let weir = programs.shipped(Layer::Tc, &node.program(Hook::FromEndpoint)?)?;
    for &count in counts {
        let what = format!("service, {}, {count} flows:", family.name());
        Runner::new(fill, FLOOR_PASS, 0, count).send(&mut programs, family, count)?;
        Runner::new(weir, PASS, 0, count).send(&mut programs, family, count)?;
        is_served(&programs, family, &what)?;
        let mut runners = [(parse, FLOOR_PASS), (floor, FLOOR_PASS), (weir, PASS)]
            .map(|(slot, expect)| Runner::new(slot, expect, 0, count));
        let names = ["parse only", "bare service", "weir, established"];
        let rounds =
            Rounds::interleaved(options.rounds, &names, |index| runners[index].send(&mut programs, family, PACKETS))?;
        is_served(&programs, family, &what)?;
        rounds.figures(&what, "ns").into_iter().for_each(|figure| report.figure(figure));
        report.at_most(format!("{what} established / bare"), rounds.per_round(|ns| ns[2] / ns[1]), 1.3);
    }
    Ok(())
}

/// The same number of flows, to one service and to many.
fn many_established(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    const FLOWS: u32 = 1 << 17;
    let family = Family::V4;
    let mut programs = programs(family, FLOWS * 5, MANY)?;
    let mut runners = Vec::new();
    let fill = programs.floor("floor_service_insert_tc")?;
    let floor = programs.floor("floor_service_hit_tc")?;
    let mut nodes = Vec::new();
    for (base, services) in [(0, 1), (FLOWS, MANY)] {
        programs.set_flows(base, &flows(family, FLOWS, services, 8))?;
        let mut node = node(&format!("services-{services}"), family, services, FLOWS * 5)?;
        let weir = programs.shipped(Layer::Tc, &node.program(Hook::FromEndpoint)?)?;
        nodes.push(node);
        Runner::new(fill, FLOOR_PASS, base, FLOWS).send(&mut programs, family, FLOWS)?;
        Runner::new(weir, PASS, base, FLOWS).send(&mut programs, family, FLOWS)?;
        is_served(&programs, family, &format!("{services} services"))?;
        runners.push(Runner::new(floor, FLOOR_PASS, base, FLOWS));
        runners.push(Runner::new(weir, PASS, base, FLOWS));
    }
    let names = ["bare, 1 service", "weir, 1 service", "bare, 50,000 services", "weir, 50,000 services"];
    let rounds =
        Rounds::interleaved(options.rounds, &names, |index| runners[index].send(&mut programs, family, PACKETS))?;
    rounds.figures("service, established:", "ns").into_iter().for_each(|figure| report.figure(figure));
    report.at_most(format!("service, established: {MANY} services / 1"), rounds.per_round(|ns| ns[3] / ns[1]), 1.2);
    Ok(())
}

fn new_flows(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    const ENTRIES: u32 = 1 << 20;
    /// Of each list.
    const FLOWS: u32 = 1 << 17;
    // Few enough that "half full" stays that over all the rounds.
    const PACKETS: u32 = 1 << 12;
    let family = Family::V4;
    let mut programs = programs(family, ENTRIES, MANY)?;
    programs.set_flows(0, &flows(family, FLOWS, 1, 9))?;
    programs.set_flows(FLOWS, &flows(family, FLOWS, MANY, 10))?;
    let (mut one, mut many) = (node("one", family, 1, ENTRIES)?, node("many", family, MANY, ENTRIES)?);
    let floor = programs.floor("floor_service_insert_tc")?;
    let one = programs.shipped(Layer::Tc, &one.program(Hook::FromEndpoint)?)?;
    let many = programs.shipped(Layer::Tc, &many.program(Hook::FromEndpoint)?)?;
    let mut runners = [(floor, FLOOR_PASS, 0), (one, PASS, 0), (many, PASS, FLOWS)]
        .map(|(slot, expect, base)| Runner { fresh: true, ..Runner::new(slot, expect, base, FLOWS) });
    // A flow has two entries.
    for (state, fill) in [("half full", ENTRIES / 2 / 2 - ENTRIES / 16), ("full", ENTRIES / 2 + ENTRIES / 8)] {
        for runner in &mut runners {
            runner.send(&mut programs, family, fill)?;
        }
        is_served(&programs, family, "a new flow")?;
        let names = ["bare, two inserts", "weir, 1 service", "weir, 50,000 services"];
        let rounds =
            Rounds::interleaved(options.rounds, &names, |index| runners[index].send(&mut programs, family, PACKETS))?;
        let what = format!("service, new flow, table {state}:");
        rounds.figures(&what, "ns").into_iter().for_each(|figure| report.figure(figure));
        report.at_most(format!("{what} new / bare"), rounds.per_round(|ns| ns[1] / ns[0]), 1.3);
        report.at_most(format!("{what} {MANY} services / 1"), rounds.per_round(|ns| ns[2] / ns[1]), 1.2);
    }
    Ok(())
}
