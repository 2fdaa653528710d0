use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use weir_plan::{Journal, Phase, Space, Store, StoreError, Suspension};
use weir_state::{KEPT_COMMITS, SledStore};

use crate::{Blob, blob, commit, holds, numbering, open, text};

#[test]
fn an_empty_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("made/on/the/way"));
    assert_eq!(store.head().unwrap(), None);
    assert!(store.history(10).unwrap().is_empty());
    assert_eq!(store.commit(1).unwrap(), None);
    assert_eq!(store.blob(&[0; 32]).unwrap(), None);
    assert_eq!(store.numbering().unwrap(), weir_plan::Numbering::default());
    assert_eq!(store.journal().unwrap(), None);
    assert_eq!(store.suspension().unwrap(), None);
}

#[test]
fn what_was_recorded_is_read_again_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let blobs: Vec<Blob> = [0, 1, 100, 70_000, 3 << 20].iter().map(|length| blob(text(*length, 7))).collect();
    let reason = "rollback to 3".to_owned();
    let suspension = Suspension { since_unix_ms: 1, until_unix_ms: None, reason, heals: true };
    let numbers = numbering(1, 0..1000);
    {
        let mut store = open(dir.path());
        store.record(&commit(1, &blobs), &blobs, &numbers).unwrap();
        store.record(&commit(2, &blobs[..2]), &[], &numbers).unwrap();
        store.set_suspension(Some(&suspension)).unwrap();
    }
    let mut store = open(dir.path());
    assert_eq!(store.head().unwrap(), Some(commit(2, &blobs[..2])));
    assert_eq!(store.history(10).unwrap(), [commit(2, &blobs[..2]), commit(1, &blobs)]);
    assert_eq!(store.history(1).unwrap().len(), 1);
    assert_eq!(store.commit(1).unwrap(), Some(commit(1, &blobs)));
    for blob in &blobs {
        assert!(holds(&store, blob));
    }
    assert_eq!(store.suspension().unwrap(), Some(suspension));
    store.set_suspension(None).unwrap();
    assert_eq!(store.suspension().unwrap(), None);
    assert!(store.record(&commit(2, &[]), &[], &numbers).is_err(), "a sequence is never used twice");
    assert_eq!(store.head().unwrap(), Some(commit(2, &blobs[..2])));
}

#[test]
fn numbers_survive_and_go_on_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = numbering(1, 0..5000);
    {
        let mut store = open(dir.path());
        store.record(&commit(1, &[]), &[], &expected).unwrap();
        // Fewer, more, changed: what is stored follows.
        for (sequence, keys) in [(2, 4000..6000), (3, 0..10), (4, 5..20_000), (5, 19_990..20_010)] {
            for key in keys {
                expected.assign(Space::Identity, &format!("k8s:app=app-{key}"), sequence).unwrap();
            }
            expected.assign(Space::Incarnation, &format!("web {sequence}"), sequence).unwrap();
            expected.release_unseen(sequence);
            expected.retire(sequence);
            store.record(&commit(sequence, &[]), &[], &expected).unwrap();
            assert_eq!(store.numbering().unwrap(), expected);
        }
    }
    let store = open(dir.path());
    assert_eq!(store.numbering().unwrap(), expected);
    assert_eq!(store.numbering().unwrap(), expected, "the second time, too");
    let mut read = store.numbering().unwrap();
    assert_eq!(
        read.assign(Space::Incarnation, "another", 6).unwrap(),
        expected.assign(Space::Incarnation, "another", 6).unwrap()
    );
}

#[test]
fn old_commits_go_and_take_their_contents_along() {
    let dir = tempfile::tempdir().unwrap();
    let shared = blob("shared");
    let own = |sequence: u64| blob(format!("content of {sequence}"));
    let numbers = numbering(1, 0..3);
    let last = KEPT_COMMITS as u64 + 20;
    {
        let mut store = open(dir.path());
        for sequence in 1..=last {
            let blobs = [shared.clone(), own(sequence)];
            store.record(&commit(sequence, &blobs), &blobs, &numbers).unwrap();
        }
    }
    let store = open(dir.path());
    assert_eq!(store.history(1000).unwrap().len(), KEPT_COMMITS);
    assert_eq!(store.commit(20).unwrap(), None);
    assert!(store.commit(21).unwrap().is_some());
    assert_eq!(store.blob(&own(20).0).unwrap(), None);
    assert!(holds(&store, &own(21)));
    assert!(holds(&store, &shared));
    assert_eq!(store.lacks([&shared.0, &own(1).0]).unwrap(), [own(1).0]);
}

#[test]
fn a_content_that_was_let_go_can_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let numbers = numbering(1, 0..3);
    let returning = blob(text(200_000, 5));
    let mut store = open(dir.path());
    store.record(&commit(1, std::slice::from_ref(&returning)), std::slice::from_ref(&returning), &numbers).unwrap();
    for sequence in 2..=KEPT_COMMITS as u64 + 1 {
        store.record(&commit(sequence, &[]), &[], &numbers).unwrap();
    }
    assert_eq!(store.blob(&returning.0).unwrap(), None);
    let sequence = KEPT_COMMITS as u64 + 2;
    store
        .record(&commit(sequence, std::slice::from_ref(&returning)), std::slice::from_ref(&returning), &numbers)
        .unwrap();
    drop(store);
    assert!(holds(&open(dir.path()), &returning));
}

#[test]
fn the_journal_says_where_an_apply_stood() {
    let dir = tempfile::tempdir().unwrap();
    let note = |sequence, phase| Journal { sequence, phase, revision: "r".repeat(sequence as usize), pid: 7 };
    let numbers = numbering(1, 0..3);
    {
        let mut store = open(dir.path());
        store.note(&note(3, Phase::Stage)).unwrap();
        store.note(&note(1, Phase::Flip)).unwrap();
    }
    let mut store = open(dir.path());
    assert_eq!(store.journal().unwrap(), Some(note(1, Phase::Flip)));
    store.record(&commit(1, &[]), &[], &numbers).unwrap();
    assert_eq!(store.journal().unwrap(), None, "recorded is done");
    store.note(&note(1, Phase::CatchUp)).unwrap();
    assert_eq!(SledStore::peek_journal(dir.path()).unwrap(), Some(note(1, Phase::CatchUp)), "while it is open");
    assert_eq!(SledStore::peek_journal(&dir.path().join("nowhere")).unwrap(), None);
    assert_eq!(store.journal().unwrap(), Some(note(1, Phase::CatchUp)));
    // Killed between the record and the clearing of the journal.
    store.note(&note(1, Phase::Record)).unwrap();
    assert_eq!(store.journal().unwrap(), None);
    drop(store);
    std::fs::write(dir.path().join("journal"), b"torn").unwrap();
    assert_eq!(open(dir.path()).journal().unwrap(), None);
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = SledStore::open(dir.path()).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, StoreError::Locked { holder: Some(holder), .. } if holder == pid), "{error}");
    assert!(error.to_string().contains(&format!("(pid {pid})")), "{error}");

    // From another process just the same.
    let flock = Command::new("flock")
        .args(["--nonblock", "--conflict-exit-code", "9"])
        .arg(dir.path().join("lock"))
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(flock.code(), Some(9));
    // Who waits gets it when the other is done.
    let path = dir.path().to_path_buf();
    let waiting = thread::spawn(move || SledStore::open_within(&path, Duration::from_secs(60)).is_ok());
    thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    drop(store);
    assert!(waiting.join().unwrap());
    open(dir.path());
}

#[test]
fn a_content_that_no_file_of_the_commit_names_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let (named, other) = (blob("named"), blob("other"));
    store
        .record(&commit(1, std::slice::from_ref(&named)), &[named.clone(), other.clone()], &numbering(1, 0..1))
        .unwrap();
    assert!(store.blob(&named.0).unwrap().is_some());
    assert_eq!(store.blob(&other.0).unwrap(), None);
}
