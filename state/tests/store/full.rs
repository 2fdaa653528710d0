//! A disk that is full, in a mount namespace of the thread's own.
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use weir_plan::{Journal, Phase, Store, StoreError};
use weir_state::{Recovery, SledStore};

use crate::{Blob, blob, commit, numbering, open, text};

fn on_a_disk_of(size: &'static str, act: impl FnOnce(&Path) + Send + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(&*options)).unwrap();
        act(&path);
    })
    .join()
    .unwrap();
}

fn fill(path: &Path) {
    let mut file = File::create(path.join("filler")).unwrap();
    let mut block = vec![0u8; 1 << 20];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
}

fn is_full<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Full { .. }))
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    on_a_disk_of("24m", |disk| {
        let path = disk.join("state");
        let first: Vec<Blob> = (0..5).map(|n| blob(text(100_000, n))).collect();
        let second: Vec<Blob> = (5..10).map(|n| blob(text(100_000, n))).collect();
        let numbers = numbering(1, 0..100);
        let mut store = open(&path);
        store.record(&commit(1, &first), &first, &numbers).unwrap();
        fill(disk);
        let note = Journal { sequence: 2, phase: Phase::Stage, revision: "r".to_owned(), pid: 1 };
        assert!(is_full(store.note(&note)), "said before the first write to the kernel");
        assert!(is_full(store.record(&commit(2, &second), &second, &numbers)));
        assert_eq!(store.head().unwrap(), Some(commit(1, &first)), "it can still be read");
        drop(store);
        // sled itself writes when it opens, so another process may have to wait for room; it must not take that for damage.
        match SledStore::open(&path) {
            Ok((store, recovery)) => {
                assert_eq!(recovery, Recovery::Clean);
                assert_eq!(store.head().unwrap(), Some(commit(1, &first)));
            }
            Err(error) => assert!(matches!(error, StoreError::Full { .. }), "{error}"),
        }
        fs::remove_file(disk.join("filler")).unwrap();

        let mut store = open(&path);
        assert_eq!(store.head().unwrap(), Some(commit(1, &first)));
        store.record(&commit(2, &second), &second, &numbers).unwrap();
        assert_eq!(store.head().unwrap(), Some(commit(2, &second)));
    });
}

/// Without the check beforehand: sled itself meets the end of the disk, at some point or other.
#[test]
fn a_disk_that_runs_full_in_the_middle_of_a_record_is_no_damage() {
    for reserve in [4u64 << 20, 5 << 20, 6 << 20] {
        on_a_disk_of("32m", move |disk| {
            let path = disk.join("state");
            let numbers = numbering(1, 0..100);
            let mut store = open(&path);
            let mut head = 0;
            // Somebody else eats the disk at the same time, so what was there before each record is gone during it.
            let mut refused = false;
            for sequence in 1..200 {
                let blobs: Vec<Blob> = (0..4).map(|n| blob(text(300_000, sequence * 10 + n))).collect();
                let eater = disk.join("eater");
                match store.record(&commit(sequence, &blobs), &blobs, &numbers) {
                    Ok(()) => head = sequence,
                    Err(StoreError::Full { .. }) => {
                        refused = true;
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
                File::create(&eater).unwrap().write_all(&vec![0; (sequence * reserve / 64) as usize]).unwrap_or(());
            }
            assert!(refused);
            assert!(head > 0);
            drop(store);
            fs::remove_file(disk.join("eater")).unwrap();
            let (store, recovery) = SledStore::open(&path).unwrap();
            assert_eq!(recovery, Recovery::Clean);
            assert_eq!(store.head().unwrap().map(|commit| commit.sequence), Some(head));
            for file in store.head().unwrap().unwrap().files {
                assert!(store.blob(&file.hash).unwrap().is_some());
            }
        });
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_with_its_name() {
    on_a_disk_of("1m", |disk| {
        assert!(is_full(SledStore::open(&disk.join("state"))));
        fs::write(disk.join("file"), "").unwrap();
        let error = SledStore::open(&disk.join("file")).unwrap_err();
        assert!(matches!(&error, StoreError::Failed { path, .. } if path.ends_with("file")), "{error}");
    });
}
