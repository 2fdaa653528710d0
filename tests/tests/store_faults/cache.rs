//! What files were parsed into is kept in the state. It may be lost or damaged: that costs a parse, and nothing else.
use std::{fs, time::Duration};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use weir_plan::Store as _;
use weir_state::SledStore;
use weir_tests::node::{Agent, Node, eventually};

use crate::{damage, live::Watch, world};

/// A checksum is what a kept value ends with.
const CHECKSUM: usize = 32;

fn converged(node: &Node) -> (Agent, Value) {
    let agent = Agent::spawn(node, &["--verify", "1h", "--catch-up", "1h"]);
    // Before it listens, a verb would work alone, and keep the agent from the state.
    let socket = node.directory().join("agent.sock");
    eventually("the agent listens", || socket.exists().then_some(()));
    let status = eventually("the agent converges", || {
        let status = agent.status();
        (status["state"] == "converged" && !status["agent"]["revision"].is_null()).then_some(status)
    });
    (agent, status)
}

fn parsed(status: &Value) -> u64 {
    status["agent"]["parsed"].as_u64().unwrap()
}

/// What every file was parsed into is kept, and a start parses nothing.
fn warm(node: &Node) {
    eventually("a start parses nothing", || {
        let (agent, status) = converged(node);
        // It keeps what it parsed when it has nothing else to do.
        std::thread::sleep(Duration::from_millis(300));
        assert!(agent.stop().success());
        (parsed(&status) == 0).then_some(())
    });
}

fn hashes(node: &Node) -> Vec<[u8; 32]> {
    let files = damage::files(&node.manifests());
    files.into_iter().map(|file| Sha256::digest(fs::read(file).unwrap()).into()).collect()
}

fn store(node: &Node) -> SledStore {
    SledStore::open_within(&node.state(), Duration::from_secs(5)).unwrap().0
}

fn sign(value: &mut [u8]) {
    let end = value.len() - CHECKSUM;
    let sum = Sha256::digest(&value[..end]);
    value[end..].copy_from_slice(&sum);
}

#[test]
fn a_start_with_nothing_changed_parses_nothing() {
    Node::run(|node| {
        world::write_documents(node);
        let (agent, status) = converged(node);
        assert!(parsed(&status) > 50, "at first all of it: {status}");
        let watch = Watch::start(node);
        assert!(agent.stop().success());
        warm(node);
        // One file of all: its document alone.
        let filter = fs::read_to_string(node.manifests().join("filters/drop-03.yaml")).unwrap();
        node.write("filters/drop-03.yaml", &format!("# nothing new\n{filter}"));
        let (agent, status) = converged(node);
        // Once as it is, and where the commit before it must be known, never the others.
        assert!((1..=2).contains(&parsed(&status)), "{status}");
        watch.settle("after a comment");
        drop(agent);
    });
}

#[test]
fn what_is_kept_of_a_file_and_is_not_right_is_never_used() {
    type Spoil = fn(&[Vec<u8>], usize) -> Vec<u8>;
    let spoils: [(&str, Spoil); 6] = [
        ("damaged", |all, at| {
            let mut value = all[at].clone();
            let middle = (value.len() - CHECKSUM) * 2 / 3;
            value[middle] ^= 4;
            value
        }),
        ("of another version", |all, at| {
            let mut value = all[at].clone();
            value[0] ^= 0xff;
            sign(&mut value);
            value
        }),
        ("of another file", |all, at| all[(at + 1) % all.len()].clone()),
        ("cut", |all, at| all[at][..all[at].len() / 2].to_vec()),
        ("empty", |_, _| Vec::new()),
        ("longer", |all, at| [&all[at][..], b"more"].concat()),
    ];
    Node::run(move |node| {
        world::write_documents(node);
        let (agent, _) = converged(node);
        let watch = Watch::start(node);
        assert!(agent.stop().success());
        for (what, spoil) in spoils {
            warm(node);
            let mut kept = store(node);
            let hashes = hashes(node);
            let values: Vec<Vec<u8>> = hashes.iter().map(|hash| kept.cached(hash).unwrap().expect(what)).collect();
            let spoilt: Vec<_> = (0..values.len()).map(|at| (hashes[at], spoil(&values, at))).collect();
            kept.cache(&spoilt).unwrap();
            for (hash, value) in &spoilt {
                assert_eq!(kept.cached(hash).unwrap().as_ref(), Some(value), "{what}: the test spoils what is kept");
            }
            drop(kept);
            let (agent, status) = converged(node);
            assert!(parsed(&status) > 50, "{what}: all of it was parsed again: {status}");
            watch.settle(what);
            assert!(agent.stop().success());
        }
    });
}
