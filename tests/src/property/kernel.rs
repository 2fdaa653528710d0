//! A node for sets of manifests: the real tables and programs, in namespaces of its own, without any traffic.
mod services;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, thread};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use weir_abi::{Generation, RULE_NONE, Reason};
use weir_compile::Compiled;
use weir_datapath::{CheckInstance, Kernel, Options, Outcome, Packet, TC_PASS};
use weir_oracle::{Flow, RuleId, World};
use weir_plan::{Capacity, Datapath as _, Hook, NodeFacts, Numbering, Provenance as _, Tables};
use weir_schema::{Inventory, Object};

use super::{
    check::{Counts, packets},
    compiled::compiled,
    faults::Plant,
    flows::flows,
    generate::Generated,
    objects::{objects, try_objects},
    programs::{Answer, Stop, Turn, distinct, expected, frame_of, is_tracked, key_of, place, stops},
    random::Random,
    topology::{ENDPOINT_INTERFACES, HOST_ADDRESSES, NETWORK_INTERFACES, NODE},
};
use crate::packet::frame;

/// Enough for every set, so that no table of traffic is made anew on the way.
const CAPACITY: Capacity = Capacity {
    conntrack_tcp: 4096,
    conntrack_other: 4096,
    fragments: 1024,
    affinity: 1024,
    nat: 1024,
    sockets: 64,
    rules: 1 << 16,
};
/// Where a run returns `XDP_PASS`.
const XDP_PASS: u32 = 2;

/// How a planted fault misleads the programs about the generation: from the one before the flip and the one after.
pub type Aim = fn(Generation, Generation) -> Generation;

/// A loaded node.
#[derive(Debug)]
pub struct Lab {
    kernel: Kernel,
    /// Runs instead of the live programs, where the generation word is to be another.
    check: Option<(CheckInstance, Aim)>,
    facts: NodeFacts,
    ifindexes: BTreeMap<String, u32>,
    numbering: Numbering,
    sequence: u64,
    /// What each side holds.
    sides: [Tables; 2],
}

/// A set that is live.
#[derive(Debug)]
pub struct Installed<'a> {
    pub set: &'a Generated,
    objects: Vec<Arc<Object>>,
    compiled: Compiled,
}

impl Installed<'_> {
    fn world(&self) -> World<'_> {
        World::new(&self.objects, NODE, &self.set.topology.host)
    }

    /// What a number stands for; the object that has the rule gives its name.
    fn rule(&self, number: u32) -> Option<RuleId> {
        if number == RULE_NONE {
            return None;
        }
        let Some(rule) = self.compiled.provenance.rule(number) else {
            let nobody = |text: &str| text.into();
            let object = weir_schema::ObjectKey {
                group: nobody(""),
                kind: nobody("no"),
                namespace: nobody("such"),
                name: nobody("rule"),
            };
            return Some(RuleId { object, path: number.to_string() });
        };
        let group = rule.object.api_version.split_once('/').map_or("", |(group, _)| group);
        let object = weir_schema::ObjectKey {
            group: group.into(),
            kind: Arc::clone(&rule.object.kind),
            namespace: Arc::clone(&rule.object.namespace),
            name: Arc::clone(&rule.object.name),
        };
        Some(RuleId { object, path: rule.path.to_string() })
    }
}

fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status().expect("ip(8)");
    assert!(status.success(), "ip {arguments}");
}

impl Lab {
    /// Runs `test` on a node of its own: a thread that is alone in its namespaces.
    pub fn run(test: impl FnOnce(&mut Self) + Send + 'static) {
        let outcome = thread::spawn(move || test(&mut Self::build())).join();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    fn build() -> Self {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("a mount namespace of our own");
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).expect("a BPF file system");
        for name in ENDPOINT_INTERFACES.iter().chain(&NETWORK_INTERFACES) {
            ip(&format!("link add {name} type veth peer name {name}p"));
        }
        let [network, _] = NETWORK_INTERFACES;
        for address in HOST_ADDRESSES {
            let (length, nodad) = if address.contains(':') { (128, " nodad") } else { (32, "") };
            ip(&format!("address add {address}/{length} dev {network}{nodad}"));
        }
        let options = Options { trace: true, ..Options::new("/sys/fs/bpf/weir") };
        let mut kernel = Kernel::open(options).expect("an empty pin directory");
        let facts = kernel.facts(&[]).expect("the namespace's devices");
        let ifindexes = facts.interfaces.iter().map(|one| (one.name.to_string(), one.ifindex)).collect();
        kernel.prepare(&Tables::default(), &CAPACITY).expect("tables and programs");
        Self {
            kernel,
            check: None,
            facts,
            ifindexes,
            numbering: Numbering::default(),
            sequence: 0,
            sides: Default::default(),
        }
    }

    /// From now on the programs are told another generation than the live one.
    pub fn mislead(&mut self, aim: Option<Aim>) {
        self.check = aim.map(|aim| (self.kernel.check_instance().expect("a second instance"), aim));
    }

    /// Compiles, stages, flips. `None`: the fault made a set that is refused.
    pub fn install<'s>(&mut self, set: &'s Generated, fault: Option<&Plant>) -> Option<Installed<'s>> {
        let meant = objects(set);
        let inventory = match fault {
            Some(Plant::Manifests(plant)) => {
                let mut documents = set.documents.clone();
                plant(&mut documents);
                try_objects(&set.rewritten(documents)).ok()?
            }
            _ => meant.clone(),
        };
        let compiled = self.compile(set, &inventory);
        let mut tables = (*compiled.tables).clone();
        if let Some(Plant::Tables(plant)) = fault {
            plant(&mut tables);
        }
        self.switch_to(tables);
        Some(Installed { set, objects: meant.objects().collect(), compiled })
    }

    fn compile(&mut self, set: &Generated, inventory: &Inventory) -> Compiled {
        self.sequence += 1;
        self.numbering.retire(self.sequence.saturating_sub(2));
        match compiled(inventory, &self.facts, &mut self.numbering, self.sequence) {
            Ok(compiled) => compiled,
            Err(errors) => panic!("set {:#x} does not compile: {errors}", set.seed),
        }
    }

    /// What an apply does with its tables.
    fn switch_to(&mut self, tables: Tables) {
        let before = self.generation();
        let standby = before.side.other().index() as usize;
        self.kernel.prepare(&tables, &CAPACITY).expect("the tables fit");
        self.kernel.stage(&self.sides[standby].diff(&tables)).expect("the standby side is written");
        let after = self.kernel.flip().expect("the flip");
        self.kernel.grace().expect("the grace period");
        self.sides[standby] = tables;
        if let Some((check, aim)) = &mut self.check {
            if !check.is_current(&self.kernel) {
                *check = self.kernel.check_instance().expect("a second instance");
            }
            check.aim(aim(before, after));
        }
    }

    fn generation(&mut self) -> Generation {
        self.kernel.generation().expect("the generation word").expect("tables")
    }

    fn program(&mut self, hook: Hook, interface: &str, frame: &[u8]) -> Outcome {
        let ifindex = self.ifindexes.get(interface).copied().unwrap_or_else(|| panic!("no device {interface}"));
        let packet = Packet { frame, ifindex, mark: 0 };
        let outcome = match &mut self.check {
            Some((check, _)) => check.run(hook, &packet),
            None => self.kernel.test_run(hook, &packet),
        };
        outcome.unwrap_or_else(|error| panic!("{} on {interface}: {error}", hook.program()))
    }

    /// What a stop does with one packet of a flow.
    fn answer(&mut self, live: &Installed<'_>, flow: &Flow, stop: &Stop, turn: Turn) -> Answer {
        let hook = stop.hooks[usize::from(turn == Turn::Reply)];
        let outcome = self.program(hook, stop.interface, &frame_of(flow, turn));
        let rule = outcome.trace.and_then(|trace| live.rule(trace.rule));
        if outcome.action as i32 == TC_PASS {
            return Answer { verdict: Some(weir_oracle::Verdict::Allow), rule, note: "" };
        }
        Answer::of_reason(outcome.trace.and_then(|trace| Reason::from_code(trace.reason)), rule)
    }

    fn forget(&mut self, flow: &Flow) {
        let key = key_of(flow);
        let deleted = match &self.check {
            Some((check, _)) => check.conntrack().and_then(|conntrack| conntrack.delete(&key)),
            None => self.kernel.conntrack().and_then(|conntrack| conntrack.delete(&key)),
        };
        deleted.expect("conntrack can be deleted from");
    }

    /// Every first packet at each of its stops, with nothing remembered; and packets at the prefilter.
    pub fn compare_first(&mut self, live: &Installed<'_>, flows: &[Flow], counts: &mut Counts) -> Vec<String> {
        let mut found = Vec::new();
        for flow in flows {
            let judgement = live.world().judge(flow);
            counts.flows += 1;
            counts.allowed += usize::from(judgement.allowed());
            counts.end(&judgement.egress);
            counts.end(&judgement.ingress);
            for stop in stops(&live.set.topology, flow) {
                self.forget(flow);
                let expected = expected(&live.set.topology, flow, &stop, &judgement);
                found.extend(self.differs(live, flow, &stop, Turn::First, &expected));
            }
            self.forget(flow);
        }
        for (interface, source, destination) in packets(live.set, flows) {
            found.extend(self.compare_prefilter(live, interface, source, destination, counts));
        }
        found
    }

    fn differs(
        &mut self,
        live: &Installed<'_>,
        flow: &Flow,
        stop: &Stop,
        turn: Turn,
        expected: &Answer,
    ) -> Option<String> {
        let answer = self.answer(live, flow, stop, turn);
        let place = || place(live.set, flow, stop, turn);
        (answer != *expected).then(|| format!("{}: the evaluator says {expected}, the program says {answer}", place()))
    }

    fn compare_prefilter(
        &mut self,
        live: &Installed<'_>,
        interface: &str,
        source: IpAddr,
        destination: IpAddr,
        counts: &mut Counts,
    ) -> Option<String> {
        let expected = live.world().prefilter(interface, source, destination);
        counts.prefilter_packets += 1;
        counts.prefilter_drops += usize::from(expected.is_some());
        let ends = [source, destination].map(|address| (address, 1000).into());
        let outcome = self.program(Hook::XdpIngress, interface, &frame::udp(ends[0], ends[1]));
        let rule = outcome.trace.and_then(|trace| live.rule(trace.rule));
        let dropped = outcome.action != XDP_PASS;
        let name = |rule: &Option<RuleId>| rule.as_ref().map_or_else(|| "no rule".to_owned(), RuleId::to_string);
        (dropped != expected.is_some() || rule != expected).then(|| {
            let reason = outcome.trace.and_then(|trace| Reason::from_code(trace.reason));
            format!(
                "set {:#x}: {source} -> {destination} at {interface}: the evaluator says {}, xdp_ingress says {} ({reason:?})",
                live.set.seed,
                name(&expected),
                name(&rule),
            )
        })
    }

    /// Flows that live through two sets: what the first allows goes on in both directions exactly as long as the
    /// second allows its first packet, and once more when the first is back.
    pub fn compare_lives(&mut self, sets: [&Generated; 2], counts: &mut Counts) -> Vec<String> {
        let mut random = Random::new(sets[0].seed ^ sets[1].seed.rotate_left(1));
        let half = |set, random: &mut Random| flows(set, random, 10);
        let mut all = half(sets[0], &mut random);
        all.extend(half(sets[1], &mut random));
        let all: Vec<Flow> = distinct(all).into_iter().filter(is_tracked).collect();

        let mut found = Vec::new();
        let Some(first) = self.install(sets[0], None) else { return found };
        let alive: Vec<Flow> =
            all.into_iter().filter(|flow| self.establish(&first, flow, counts, &mut found)).collect();
        for set in [sets[1], sets[0]] {
            let Some(live) = self.install(set, None) else { continue };
            for flow in &alive {
                let judgement = live.world().judge(flow);
                counts.continued += 1;
                counts.revoked += usize::from(!judgement.allowed());
                for stop in stops(&live.set.topology, flow) {
                    let expected = expected(&live.set.topology, flow, &stop, &judgement);
                    let turns = [Turn::Later, Turn::Reply];
                    let turns = if random.chance(50) { turns } else { [turns[1], turns[0]] };
                    for turn in turns {
                        let found_here = self.differs(&live, flow, &stop, turn, &expected);
                        found.extend(found_here.map(|text| format!("{text} (begun under set {:#x})", sets[0].seed)));
                    }
                }
            }
        }
        alive.iter().for_each(|flow| self.forget(flow));
        found
    }

    /// Sends a flow's first packet along its way, and a reply back: whether both came through.
    fn establish(&mut self, live: &Installed<'_>, flow: &Flow, counts: &mut Counts, found: &mut Vec<String>) -> bool {
        self.forget(flow);
        let judgement = live.world().judge(flow);
        let stops = stops(&live.set.topology, flow);
        for stop in &stops {
            let expected = expected(&live.set.topology, flow, stop, &judgement);
            found.extend(self.differs(live, flow, stop, Turn::First, &expected));
            if expected.verdict != Some(weir_oracle::Verdict::Allow) {
                self.forget(flow);
                return false;
            }
        }
        for stop in stops.iter().rev() {
            counts.replies += 1;
            let expected = expected(&live.set.topology, flow, stop, &judgement);
            found.extend(self.differs(live, flow, stop, Turn::Reply, &expected));
        }
        // A host that nobody selects is not tracked on network devices: such a flow has no past.
        let host_only = stops.iter().all(|stop| matches!(stop.hooks[0], Hook::FromNetwork | Hook::ToNetwork));
        let tracked = judgement.egress.rule.is_some() || judgement.ingress.rule.is_some();
        if host_only && !tracked {
            self.forget(flow);
            return false;
        }
        true
    }
}
