//! `kill -9` of an apply, anywhere: the next run converges, the one after it writes nothing, allowed traffic loses
//! nothing, denied traffic never passes.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use weir_plan::Phase;
use weir_state::SledStore;
use weir_tests::node::{
    Agent, ENDPOINTS, Node, WEB,
    kernel::{RawMap, table_pin},
    rounds,
    traffic::{Stream, Way},
};

/// Half of the prefixes of the prefilter, of the addresses that a policy names, and of the policy's entries.
const FILTERED: u32 = 16_000;
const NAMED: u32 = 2_000;

/// Where the kill hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Reading, compiling, planning: nothing was begun.
    Before,
    Stage,
    Flip,
    Record,
    CatchUp,
    /// It was done before the kill came.
    After,
}

const PLACES: [Place; 6] = [Place::Before, Place::Stage, Place::Flip, Place::Record, Place::CatchUp, Place::After];

/// One of two sets of 20,000 entries that have none in common, but that the client may send to web on udp/80.
fn write_set(node: &Node, set: u32) {
    let mut list = String::new();
    for n in 0..FILTERED {
        writeln!(list, "{}.{}.{}.0/24", 100 + set, n / 250, n % 250).unwrap();
    }
    let cidrs: String = (0..NAMED).map(|n| format!("    - {}.{}.{}.0/24\n", 120 + set, n / 250, n % 250)).collect();
    node.write("lists/drop.txt", &list);
    node.write(
        "rules.yaml",
        &format!(
            r"
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {{name: drop}}
spec: {{interfaces: [uplink0], fromFiles: [lists/drop.txt]}}
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {{name: web}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
  ingress:
  - fromCIDR: [192.0.2.0/{}, '2001:db8:0:1::/{}']
    toPorts: [{{ports: [{{port: 80, protocol: UDP}}]}}]
  - fromCIDR:
{cidrs}    toPorts: [{{ports: [{{port: 82, protocol: UDP}}]}}]
",
            24 + set,
            64 + set
        ),
    );
}

/// Small differences between one run and the next, without a generator: rounds are reproducible.
fn spread(round: u32) -> f64 {
    f64::from((round * 7919 + 13) % 1000) / 1000.0
}

fn journal(node: &Node) -> Option<weir_plan::Journal> {
    SledStore::peek_journal(&node.state()).unwrap_or(None)
}

/// The generation word and the history: what an apply that has something to do changes.
fn footprint(node: &Node) -> (Vec<u8>, String) {
    let runtime = RawMap::pinned(&table_pin(node, "RUNTIME"));
    let word = runtime.lookup(&0u32.to_ne_bytes()).unwrap();
    (word, node.expect(0, &["history", "-o", "json"]).stdout)
}

fn start(node: &Node) -> Child {
    let mut command = node.command(&["apply", "-f", "."]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the process `pid` notes `phase`, or ends. Spins: some phases take microseconds.
fn until_phase(node: &Node, pid: u32, phase: Phase, mut ended: impl FnMut() -> bool) {
    let start = Instant::now();
    for turn in 0u32.. {
        if journal(node).is_some_and(|journal| journal.pid == pid && journal.phase >= phase) {
            return;
        }
        if turn.is_multiple_of(1000) && ended() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{phase:?} never came");
    }
}

/// Kills an apply, or for the catch-up an agent, and says where it was hit.
fn kill_once(node: &Node, aim: Option<Phase>, delay: Duration) -> Place {
    let before = sequence(node);
    let pid = if aim == Some(Phase::CatchUp) {
        let mut agent = Agent::spawn(node, &["--catch-up", "1ms"]);
        let pid = agent.pid().as_raw().cast_unsigned();
        until_phase(node, pid, Phase::CatchUp, || !agent.runs());
        thread::sleep(delay);
        agent.murder();
        pid
    } else {
        let mut child = start(node);
        if let Some(phase) = aim {
            until_phase(node, child.id(), phase, || child.try_wait().unwrap().is_some());
        }
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        child.id()
    };
    match journal(node).filter(|journal| journal.pid == pid).map(|journal| journal.phase) {
        None if sequence(node) > before => Place::After,
        None => Place::Before,
        Some(Phase::Stage | Phase::Check) => Place::Stage,
        Some(Phase::Flip) => Place::Flip,
        Some(Phase::Record) => Place::Record,
        Some(Phase::CatchUp) => Place::CatchUp,
        Some(Phase::Settled) => Place::After,
    }
}

/// The newest commit.
fn sequence(node: &Node) -> u64 {
    let history = node.expect(0, &["history", "-o", "json", "--limit", "1"]).json();
    history["commits"][0]["sequence"].as_u64().unwrap_or(0)
}

#[test]
fn a_killed_apply_leaves_nothing_that_the_next_does_not_mend() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        write_set(node, 0);
        node.apply();
        let open = Way { from: "client", to: "web", address: WEB[0], port: 80 };
        let allowed = Stream::start(node, open, Duration::from_millis(1), true);
        let allowed6 = Stream::start(node, Way { address: WEB[1], ..open }, Duration::from_millis(5), true);
        let denied = Stream::start(node, Way { port: 81, ..open }, Duration::from_millis(1), false);

        // How long an apply takes when nobody kills it.
        let mut duration = Duration::ZERO;
        for set in [1, 0, 1] {
            write_set(node, set);
            let begin = Instant::now();
            node.apply();
            duration = begin.elapsed();
        }
        println!("an apply takes {duration:?}");

        let all = rounds(24, 200, 1000);
        let least = if all >= 200 { 10 } else { 1 };
        let aims = [Phase::Stage, Phase::Flip, Phase::Record, Phase::CatchUp].map(Some);
        let mut histogram: BTreeMap<Place, u32> = BTreeMap::new();
        let hit = |histogram: &mut BTreeMap<Place, u32>, round: u32, aim: Option<Phase>| {
            write_set(node, round % 2);
            let delay = match aim {
                None => duration.mul_f64(spread(round) * 1.05),
                Some(Phase::Stage) => duration.mul_f64(spread(round) * 0.1),
                Some(Phase::Flip) => Duration::ZERO,
                _ => Duration::from_micros((spread(round) * 4000.0) as u64),
            };
            let place = kill_once(node, aim, delay);
            *histogram.entry(place).or_default() += 1;

            node.apply();
            let footprint_before = footprint(node);
            let ran = node.apply();
            assert_eq!(footprint(node), footprint_before, "killed in {place:?}; the second run did something: {ran}");
            if round.is_multiple_of(10) {
                node.expect(0, &["diff", "-f", "."]);
            }
        };
        for round in 0..all {
            // Half of them spread over the whole duration, the others where little time is spent.
            let aim = if round.is_multiple_of(2) { None } else { aims[(round / 2 % 4) as usize] };
            hit(&mut histogram, round, aim);
        }
        // A short phase is not always hit.
        for (aim, place) in aims.iter().zip([Place::Stage, Place::Flip, Place::Record, Place::CatchUp]) {
            for extra in 0..20 * least {
                if histogram.get(&place).copied().unwrap_or(0) >= least {
                    break;
                }
                hit(&mut histogram, all + extra, *aim);
            }
        }
        for place in PLACES {
            let count = histogram.get(&place).copied().unwrap_or(0);
            println!(
                "{:>8} {count:>5} {}",
                format!("{place:?}"),
                "#".repeat(count as usize / (all as usize / 60).max(1))
            );
        }
        for place in [Place::Stage, Place::Flip, Place::Record, Place::CatchUp] {
            assert!(histogram.get(&place).copied().unwrap_or(0) >= least, "too few in {place:?}: {histogram:?}");
        }

        let denied = denied.finish();
        assert!(denied.sent > 100);
        assert_eq!(denied.received, 0, "denied throughout: {denied:?}");
        for (family, account) in [("IPv4", allowed.finish()), ("IPv6", allowed6.finish())] {
            println!("{family}: {} sent, {} received", account.sent, account.received);
            assert!(account.lost.is_empty(), "allowed throughout: {} of {} lost", account.lost.len(), account.sent);
        }
    });
}
