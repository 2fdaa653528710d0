//! The store as its users see it: round trips, what is kept and what is let go, damage, sudden death, full disks.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod damage;
mod death;
mod full;
mod round_trip;

use std::{path::Path, sync::Arc};

use sha2::{Digest, Sha256};
use weir_plan::{Commit, FileRef, Numbering, Operation, Space};
use weir_state::{Recovery, SledStore};

type Blob = ([u8; 32], Arc<[u8]>);

fn blob(content: impl AsRef<[u8]>) -> Blob {
    (Sha256::digest(&content).into(), content.as_ref().into())
}

/// A commit of these files, named by their number.
fn commit(sequence: u64, blobs: &[Blob]) -> Commit {
    let file = |(n, (hash, _)): (usize, &Blob)| FileRef { path: format!("{n:06}.yaml").into(), hash: *hash };
    Commit {
        sequence,
        time_unix_ms: 1_700_000_000_000 + sequence,
        operation: Operation::Apply,
        node: "node-1".to_owned(),
        source: "dir:/etc/weir".to_owned(),
        revision: format!("{sequence:016x}"),
        authorship: Some(("Ada <ada@example.org>".to_owned(), "A subject".to_owned())),
        files: blobs.iter().enumerate().map(file).collect(),
        boot_id: "5b9c".to_owned(),
        epoch: sequence,
        side: (sequence % 2) as u32,
        created: 1,
        updated: 2,
        deleted: 3,
        drift: 4,
        writes: 5,
        digest: "d1".to_owned(),
        duration_us: 6,
        restores: sequence.checked_sub(10),
        cold: sequence == 1,
    }
}

fn numbering(sequence: u64, keys: impl IntoIterator<Item = u32>) -> Numbering {
    let mut numbering = Numbering::default();
    for key in keys {
        numbering.assign(Space::Identity, &format!("k8s:app=app-{key}"), sequence).unwrap();
        numbering.assign(Space::Rule, &format!("NetworkPolicy default/p{key} spec.ingress[0]"), sequence).unwrap();
    }
    numbering
}

fn open(path: &Path) -> SledStore {
    let (store, recovery) = SledStore::open(path).unwrap();
    assert_eq!(recovery, Recovery::Clean);
    store
}

fn text(length: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 40;
    let mut text = String::with_capacity(length + 20);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("- {}.{}.0.0/16\n", state as u8, state >> 56));
    }
    text
}

/// Whether the store holds exactly this content. Not an `assert_eq`: nobody wants to read the contents.
fn holds(store: &SledStore, (hash, bytes): &Blob) -> bool {
    weir_plan::Store::blob(store, hash).unwrap().as_deref() == Some(&**bytes)
}
