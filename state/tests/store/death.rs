//! `kill -9` in the middle of a record.
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use weir_plan::{Journal, Phase, Store};
use weir_state::{Recovery, SledStore};

use crate::{Blob, blob, commit, holds, numbering, text};

/// Set: this process is the victim, and this is its store.
const VICTIM: &str = "WEIR_STATE_TEST_VICTIM";

fn blobs(sequence: u64) -> Vec<Blob> {
    // Some of it is shared with other commits, some is its own.
    let own = (0..5).map(|n| blob(text(80_000, sequence * 100 + n)));
    own.chain((0..5).map(|n| blob(text(40_000, sequence % 3 * 7 + n)))).collect()
}

fn keys(sequence: u64) -> std::ops::Range<u32> {
    0..200 + 50 * (sequence as u32 % 13)
}

/// Killed while it opens, sled leaves a half-written snapshot behind, which is moved aside; nothing else may happen.
fn reopen(path: &Path) -> SledStore {
    let (store, recovery) = SledStore::open(path).unwrap();
    if let Recovery::Repaired { files, .. } = &recovery {
        assert!(files.iter().all(|file| file.ends_with(".generating")), "{recovery}");
    } else {
        assert_eq!(recovery, Recovery::Clean);
    }
    store
}

/// Records until it is killed, and says on its standard output which commits it was told are done.
fn record_for_ever(path: &Path) -> ! {
    let mut store = reopen(path);
    let head = store.head().unwrap().map_or(0, |commit| commit.sequence);
    println!("open");
    for sequence in head + 1.. {
        let blobs = blobs(sequence);
        let note = |phase| Journal { sequence, phase, revision: sequence.to_string(), pid: std::process::id() };
        store.note(&note(Phase::Stage)).unwrap();
        store.note(&note(Phase::Record)).unwrap();
        store.record(&commit(sequence, &blobs), &blobs, &numbering(sequence, keys(sequence))).unwrap();
        println!("done {sequence}");
    }
    unreachable!()
}

#[test]
fn a_commit_is_recorded_whole_or_not_at_all() {
    if let Some(path) = std::env::var_os(VICTIM) {
        record_for_ever(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut interrupted = 0;
    for round in 0..50u64 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "death::a_commit_is_recorded_whole_or_not_at_all", "--nocapture"])
            .env(VICTIM, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Some other round in the middle of opening, which sweeps what the last one left.
        if round % 5 != 4 {
            lines.find(|line| line.ends_with("open")).unwrap();
        }
        // Odd and ever different, over what some records take.
        thread::sleep(Duration::from_micros((round * 7919) % 50 * 1500));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let done = lines.filter_map(|line| line.strip_prefix("done ")?.parse::<u64>().ok()).last();

        let store = reopen(dir.path());
        let head = store.head().unwrap();
        let sequence = head.as_ref().map_or(0, |commit| commit.sequence);
        assert!(
            done.is_none_or(|done| sequence == done || sequence == done + 1),
            "{done:?} was done, the head is {sequence}"
        );
        if let Some(journal) = store.journal().unwrap() {
            assert_eq!(journal.sequence, sequence + 1);
            interrupted += 1;
        }
        let Some(head) = head else { continue };
        let expected = blobs(sequence);
        assert_eq!(head, commit(sequence, &expected));
        for blob in &expected {
            assert!(holds(&store, blob), "of commit {sequence}");
        }
        assert_eq!(store.numbering().unwrap(), numbering(sequence, keys(sequence)));
        for commit in store.history(20).unwrap() {
            for file in &commit.files {
                assert!(store.blob(&file.hash).unwrap().is_some(), "{} of commit {}", file.path, commit.sequence);
            }
        }
    }
    println!("{interrupted} of 50 were inside a record");
    assert!(interrupted >= 10, "only {interrupted} were inside a record");
}
