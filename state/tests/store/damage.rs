//! Whatever happened to the files, the store opens, and says what it lost.
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use weir_plan::Store;
use weir_state::{Recovery, SledStore};

use crate::{Blob, blob, commit, holds, numbering, open, text};

/// A store with some history, closed.
fn filled(path: &Path) -> Vec<Blob> {
    let blobs: Vec<Blob> = (0..20).map(|n| blob(text(60_000, n))).collect();
    let mut store = open(path);
    for sequence in 1..=10 {
        let blobs = &blobs[..10 + sequence as usize];
        store.record(&commit(sequence, blobs), blobs, &numbering(1, 0..500)).unwrap();
    }
    blobs
}

fn files(path: &Path, prefix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(path.join("sled")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect()
}

/// The database itself. A thread of sled's may hold it a moment longer than whoever closed it.
fn raw(path: &Path) -> sled::Db {
    let attempts = (0..500).find_map(|_| {
        sled::open(path.join("sled")).inspect_err(|_| std::thread::sleep(std::time::Duration::from_millis(10))).ok()
    });
    attempts.unwrap()
}

fn assert_whole(store: &SledStore, blobs: &[Blob]) {
    assert_eq!(store.head().unwrap(), Some(commit(10, blobs)));
    assert_eq!(store.history(100).unwrap().len(), 10);
    for blob in blobs {
        assert!(holds(store, blob));
    }
    assert_eq!(store.numbering().unwrap(), numbering(10, 0..500));
}

#[test]
fn an_empty_snapshot_is_moved_aside_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = filled(dir.path());
    for snapshot in files(dir.path(), "snap.") {
        fs::write(snapshot, "").unwrap();
    }
    fs::write(dir.path().join("sled/snap.0000000000999999"), "").unwrap();
    let (store, recovery) = SledStore::open(dir.path()).unwrap();
    assert!(matches!(&recovery, Recovery::Repaired { files, .. } if !files.is_empty()), "{recovery}");
    assert_whole(&store, &blobs);
    drop(store);
    assert_whole(&open(dir.path()), &blobs);
}

#[test]
fn a_truncated_snapshot_is_moved_aside_and_nothing_is_lost() {
    for keep in [1, 4, 100] {
        let dir = tempfile::tempdir().unwrap();
        let blobs = filled(dir.path());
        // Close and open until there is one.
        for _ in 0..3 {
            open(dir.path());
        }
        let snapshots = files(dir.path(), "snap.");
        assert!(!snapshots.is_empty(), "sled writes one when it is closed");
        for snapshot in snapshots {
            let file = OpenOptions::new().write(true).open(snapshot).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length * keep / 101).unwrap();
        }
        let (store, recovery) = SledStore::open(dir.path()).unwrap();
        assert!(matches!(recovery, Recovery::Repaired { .. }), "{recovery}");
        assert_whole(&store, &blobs);
    }
}

#[test]
fn a_stray_half_written_snapshot_is_moved_aside_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = filled(dir.path());
    fs::write(dir.path().join("sled/snap.0000000000001234.generating"), "half").unwrap();
    let (store, recovery) = SledStore::open(dir.path()).unwrap();
    let Recovery::Repaired { files, quarantine } = &recovery else { panic!("{recovery}") };
    assert_eq!(files, &["sled/snap.0000000000001234.generating"]);
    assert!(quarantine.join("snap.0000000000001234.generating").exists());
    assert_whole(&store, &blobs);
}

/// Either it opens with all that it had, or with a prefix of history, or it says that it begins anew; never an error,
/// a panic, a wrong content; and it can always be written.
fn assert_survives(path: &Path, blobs: &[Blob], what: &str) -> Recovery {
    let (mut store, recovery) =
        SledStore::open(path).unwrap_or_else(|error| panic!("{what}: cannot be opened: {error}"));
    let mut head = 0;
    // An error here is allowed once: the store then has begun anew.
    let mut errors = 0;
    for _ in 0..2 {
        match store.head() {
            Ok(None) => head = 0,
            Ok(Some(found)) => {
                head = found.sequence;
                assert_eq!(found, commit(head, &blobs[..10 + head as usize]), "{what}");
            }
            Err(_) => errors += 1,
        }
        for (hash, bytes) in blobs {
            match store.blob(hash) {
                Ok(found) => assert!(found.is_none_or(|found| found == **bytes), "{what}: wrong content"),
                Err(_) => errors += 1,
            }
        }
    }
    assert!(errors <= 1, "{what}: {errors} errors");
    if let Recovery::Quarantined { quarantine, .. } = &recovery {
        assert_eq!(head, 0);
        assert!(quarantine.join("sled").is_dir());
    }
    if errors > 0 {
        head = store.head().unwrap().map_or(0, |commit| commit.sequence);
    }
    let result = store.record(&commit(head + 1, blobs), blobs, &numbering(1, 0..10));
    if result.is_err() {
        // Damage that only this write met.
        store.record(&commit(1, blobs), blobs, &numbering(1, 0..10)).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    for blob in blobs {
        assert!(holds(&store, blob), "{what}");
    }
    recovery
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn zeroed_pages_anywhere_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = filled(&dir.path().join("good"));
    let length = fs::metadata(dir.path().join("good/sled/db")).unwrap().len();
    let mut quarantined = 0;
    for round in 0..40 {
        let path = dir.path().join(format!("damaged-{round}"));
        copy(&dir.path().join("good"), &path);
        let offset = length * round / 40 / 4096 * 4096;
        let file = OpenOptions::new().write(true).open(path.join("sled/db")).unwrap();
        file.write_all_at(&[0; 4096], offset).unwrap();
        // Without a snapshot the whole log is read, and the damage met.
        if round % 2 == 0 {
            files(&path, "snap.").iter().for_each(|file| fs::remove_file(file).unwrap());
        }
        let recovery = assert_survives(&path, &blobs, &format!("zeroes at {offset} of {length}"));
        quarantined += usize::from(matches!(recovery, Recovery::Quarantined { .. }));
    }
    println!("{quarantined} of 40 began anew when opened");
}

#[test]
fn flipped_bits_anywhere_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = filled(&dir.path().join("good"));
    let names: Vec<PathBuf> = files(&dir.path().join("good"), "").into_iter().filter(|file| file.is_file()).collect();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for round in 0..40 {
        let path = dir.path().join(format!("damaged-{round}"));
        copy(&dir.path().join("good"), &path);
        for _ in 0..=round % 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Mostly the log, sometimes the rest.
            let name =
                if state.is_multiple_of(4) { &names[(state >> 8) as usize % names.len()] } else { Path::new("db") };
            let file = path.join("sled").join(name.file_name().unwrap());
            let mut bytes = fs::read(&file).unwrap();
            if bytes.is_empty() {
                continue;
            }
            let at = (state >> 16) as usize % bytes.len();
            bytes[at] ^= 1 << (state & 7);
            fs::write(&file, bytes).unwrap();
        }
        assert_survives(&path, &blobs, &format!("round {round}"));
    }
}

#[test]
fn truncated_and_missing_files_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = filled(&dir.path().join("good"));
    for (round, (name, keep)) in
        [("db", 0), ("db", 50), ("db", 99), ("conf", 0), ("conf", 50), ("db", -1), ("conf", -1)].iter().enumerate()
    {
        let path = dir.path().join(format!("damaged-{round}"));
        copy(&dir.path().join("good"), &path);
        let file = path.join("sled").join(name);
        if *keep < 0 {
            fs::remove_file(file).unwrap();
        } else {
            let length = fs::metadata(&file).unwrap().len();
            OpenOptions::new().write(true).open(file).unwrap().set_len(length * *keep as u64 / 100).unwrap();
        }
        assert_survives(&path, &blobs, &format!("{name} cut to {keep} %"));
    }
}

#[test]
fn another_format_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = filled(dir.path());
    {
        let db = raw(dir.path());
        let records = db.open_tree("records").unwrap();
        let mut head = records.get("h").unwrap().unwrap().to_vec();
        head[0] += 1;
        records.insert("h", head).unwrap();
        db.flush().unwrap();
    }
    let (store, recovery) = SledStore::open(dir.path()).unwrap();
    let Recovery::Quarantined { reason, quarantine } = &recovery else { panic!("{recovery}") };
    assert!(reason.contains("format"), "{reason}");
    assert!(quarantine.join("sled/db").exists());
    assert_eq!(store.head().unwrap(), None);
    drop(store);
    assert_survives(dir.path(), &blobs, "the store that began anew");
}

#[test]
fn a_content_that_is_damaged_is_gone_and_the_rest_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = filled(dir.path());
    {
        let db = raw(dir.path());
        let tree = db.open_tree("blobs").unwrap();
        let key = [&blobs[3].0[..], &[0; 4]].concat();
        let mut piece = tree.get(&key).unwrap().unwrap().to_vec();
        let last = piece.len() - 1;
        piece[last] ^= 1;
        tree.insert(&key, piece).unwrap();
        tree.remove([&blobs[4].0[..], &[0; 4]].concat()).unwrap().unwrap();
        db.flush().unwrap();
    }
    let mut store = open(dir.path());
    for damaged in [&blobs[3].0, &blobs[4].0] {
        assert_eq!(store.blob(damaged).unwrap(), None);
        assert_eq!(store.lacks([damaged]).unwrap(), [*damaged]);
    }
    assert!(holds(&store, &blobs[5]));
    assert_eq!(store.head().unwrap(), Some(commit(10, &blobs)));
    store.record(&commit(11, &blobs), &blobs, &numbering(1, 0..500)).unwrap();
    assert!(holds(&store, &blobs[3]), "brought again, kept again");
}
