//! Publishing a whole set at once.
//!
//! Whoever pushes claims the set, writes its files and its index under its digest, and puts it in force in one
//! transaction that fails if another set was put in force meanwhile, or somebody else claimed or removed this one. So
//! what a push that died leaves behind is never in force, and the next push finishes or removes it.
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};

use super::{
    EtcdError,
    layout::{Keys, after, check_path},
    link::Session,
    read::{Pager, Want, pointer, range},
    set,
};
use crate::{Revision, SourceError, SourceFile};

/// What etcd takes as one request by default is 1.5 MiB; the key and the transaction around it need some of that.
pub(super) const LARGEST_VALUE: usize = (3 << 19) - (8 << 10);
/// Of one transaction, unless a single value is larger.
const BATCH_BYTES: usize = 1 << 20;
/// etcd's `--max-txn-ops`.
const BATCH: usize = 128;
/// Former sets that are kept, so that going back is one transaction.
const KEPT: usize = 3;

/// What a push did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    pub digest: String,
    pub files: usize,
    pub bytes: u64,
    /// Whether another set was in force before.
    pub changed: bool,
    /// Keys that were put or deleted for the set.
    pub written: usize,
    /// Digests of former sets, and of what dead pushes left, that were deleted.
    pub removed: Vec<String>,
}

/// Refuses what etcd could not hold, before anything is written.
pub(super) fn check(revision: &Revision, spec: &str) -> Result<(), SourceError> {
    if revision.manifests().next().is_none() {
        return Err(EtcdError::Empty { spec: spec.to_owned() }.into());
    }
    for file in &revision.files {
        let why = check_path(&file.path).err().or_else(|| file.path.contains('\n').then_some("has a line break in it"));
        if let Some(why) = why {
            return Err(EtcdError::Key { spec: spec.to_owned(), key: file.path.to_string(), why }.into());
        }
        if file.bytes.len() + file.path.len() > LARGEST_VALUE {
            return Err(EtcdError::ValueTooLarge { path: file.path.to_string(), limit: LARGEST_VALUE }.into());
        }
    }
    Ok(())
}

pub(super) async fn push(session: &Session, keys: &Keys, files: &[SourceFile]) -> Result<Pushed, SourceError> {
    let index = set::index_of(files);
    let digest = set::digest_of(&index);
    let bytes = files.iter().map(|file| file.bytes.len() as u64).sum();
    let mut pushed = Pushed { digest: digest.clone(), files: files.len(), bytes, ..Pushed::default() };

    let before = pointer(session, keys).await?;
    let wanted = wanted(keys, &digest, files, &index);
    let changes = changes(session, keys, &digest, wanted).await?;
    let in_force = before.value.as_deref() == Some(digest.as_bytes());
    let mut in_force_since = before.mod_revision;
    if !in_force || !changes.is_empty() {
        let claimed = session.put(keys.claim(&digest), now(), PutOptions::new()).await?;
        let ours = Compare::mod_revision(keys.claim(&digest), CompareOp::Equal, claimed);
        for batch in batches(&changes) {
            let operations: Vec<TxnOp> = batch.iter().map(Change::operation).collect();
            commit(session, vec![ours.clone()], operations).await?;
        }
        let unmoved = Compare::mod_revision(keys.revision(), CompareOp::Equal, before.mod_revision);
        let operations = vec![
            TxnOp::put(keys.revision(), digest.as_str(), None),
            TxnOp::put(keys.published(&digest), now(), None),
            TxnOp::delete(keys.claim(&digest), None),
        ];
        in_force_since = commit(session, vec![ours, unmoved], operations).await?;
        pushed.written = changes.len();
        pushed.changed = !in_force;
    }
    pushed.removed = clean(session, keys, &digest, in_force_since).await?;
    Ok(pushed)
}

/// Every key that the set is to have. The index comes last: a set with an index is one that was written to its end.
fn wanted<'a>(keys: &Keys, digest: &str, files: &'a [SourceFile], index: &set::Index) -> Vec<(String, Cow<'a, [u8]>)> {
    let set = keys.set(digest);
    let files = files.iter().map(|file| (format!("{set}{}", file.path), Cow::Borrowed(&*file.bytes)));
    let pieces = set::write_index(index).into_iter().enumerate();
    let pieces = pieces.map(|(at, piece)| (set::piece_key(keys, digest, at), Cow::Owned(piece.into_bytes())));
    files.chain(pieces).collect()
}

/// A key of the set that is not as it should be.
struct Change<'a> {
    key: Vec<u8>,
    /// `None`: it should not be there.
    value: Option<Cow<'a, [u8]>>,
}

impl Change<'_> {
    fn operation(&self) -> TxnOp {
        match &self.value {
            Some(value) => TxnOp::put(self.key.as_slice(), value.as_ref(), None),
            None => TxnOp::delete(self.key.as_slice(), None),
        }
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.len())
    }
}

/// What has to be written: nothing, where the same set was pushed before and nobody touched it.
async fn changes<'a>(
    session: &Session,
    keys: &Keys,
    digest: &str,
    wanted: Vec<(String, Cow<'a, [u8]>)>,
) -> Result<Vec<Change<'a>>, EtcdError> {
    let mut there: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for prefix in [keys.set(digest), keys.index(digest)] {
        let bounds = (prefix.clone().into_bytes(), after(&prefix));
        range(session, &mut Pager::default(), bounds, Want::Values, |found| {
            there.extend(found.into_iter().map(etcd_client::KeyValue::into_key_value));
            None
        })
        .await?;
    }
    let mut changes = Vec::new();
    for (key, value) in wanted {
        let key = key.into_bytes();
        if there.remove(&key).is_none_or(|found| found != *value) {
            changes.push(Change { key, value: Some(value) });
        }
    }
    let surplus = there.into_keys().map(|key| Change { key, value: None });
    Ok(surplus.chain(changes).collect())
}

/// As many changes at a time as one transaction takes.
fn batches<'a, 'b>(changes: &'b [Change<'a>]) -> Vec<&'b [Change<'a>]> {
    let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, change) in changes.iter().enumerate() {
        if at > start && (at - start == BATCH || bytes + change.bytes() > BATCH_BYTES) {
            batches.push(&changes[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += change.bytes();
    }
    if start < changes.len() {
        batches.push(&changes[start..]);
    }
    batches
}

/// The revision of the store that the transaction made.
async fn commit(session: &Session, when: Vec<Compare>, then: Vec<TxnOp>) -> Result<i64, EtcdError> {
    let answer = session.txn(Txn::new().when(when).and_then(then)).await?;
    if !answer.succeeded() {
        return Err(EtcdError::Concurrent { spec: session.spec.to_string() });
    }
    Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
}

/// Deletes every set but `digest` and the last that were in force before it, as long as nobody pushes another.
async fn clean(session: &Session, keys: &Keys, digest: &str, in_force_since: i64) -> Result<Vec<String>, EtcdError> {
    let (mut found, mut published): (BTreeSet<String>, BTreeMap<i64, String>) = Default::default();
    let bounds = (keys.prefix.clone().into_bytes(), after(&keys.prefix));
    range(session, &mut Pager::default(), bounds, Want::Keys, |page| {
        let mut past = None;
        for key in &page {
            let Some(digest) = keys.digest_of(key.key()) else { continue };
            if key.key() == keys.published(digest).as_bytes() {
                published.insert(key.mod_revision(), digest.to_owned());
            }
            if key.key().starts_with(keys.set(digest).as_bytes()) {
                past = Some(after(&keys.set(digest)));
            }
            found.insert(digest.to_owned());
        }
        past
    })
    .await?;
    let kept: BTreeSet<&str> = published
        .values()
        .rev()
        .map(String::as_str)
        .filter(|former| *former != digest)
        .take(KEPT)
        .chain([digest])
        .collect();
    let mut removed = Vec::new();
    for digest in found.iter().filter(|found| !kept.contains(found.as_str())) {
        let all = |prefix: String| {
            let end = after(&prefix);
            TxnOp::delete(prefix, Some(DeleteOptions::new().with_range(end)))
        };
        // The claim with the rest: whoever is writing this set finds out.
        let operations = vec![
            TxnOp::delete(keys.claim(digest), None),
            TxnOp::delete(keys.published(digest), None),
            all(keys.index(digest)),
            all(keys.set(digest)),
        ];
        let unmoved = Compare::mod_revision(keys.revision(), CompareOp::Equal, in_force_since);
        match commit(session, vec![unmoved], operations).await {
            Ok(_) => removed.push(digest.clone()),
            // Somebody pushed since: it is theirs to clean.
            Err(EtcdError::Concurrent { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// For whoever looks with etcdctl; nothing reads it.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{{\"timeUnixMs\":{}}}", now.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(files: &[(&str, usize)]) -> Revision {
        Revision::new(files.iter().map(|(path, size)| SourceFile::new(*path, vec![b'x'; *size])).collect())
    }

    #[test]
    fn what_etcd_cannot_hold_is_refused_by_its_path() {
        let code = |files: &[(&str, usize)]| check(&revision(files), "etcd").map_err(|error| error.code());
        assert_eq!(code(&[("a.yaml", 1), ("list.txt", 1_500_000)]), Ok(()));
        assert_eq!(code(&[("list.txt", 1)]), Err("source-empty"));
        assert_eq!(code(&[("a.yaml", 1), ("b\nc", 1)]), Err("etcd-key"));
        assert_eq!(code(&[("a.yaml", 1), ("../b", 1)]), Err("etcd-key"));
        let error = check(&revision(&[("a.yaml", 1), ("lists/drop.txt", 3 << 19)]), "etcd").unwrap_err();
        assert_eq!(error.code(), "etcd-value-too-large");
        assert!(error.to_string().starts_with("lists/drop.txt: is larger than 1528 KiB"), "{error}");
    }

    #[test]
    fn a_batch_is_what_one_transaction_takes() {
        let sizes = [vec![10; 300], vec![LARGEST_VALUE, 10, 600_000, 600_000, 10]].concat();
        let changes: Vec<Change<'_>> =
            sizes.iter().map(|size| Change { key: Vec::new(), value: Some(Cow::Owned(vec![0; *size])) }).collect();
        let lengths: Vec<usize> = batches(&changes).into_iter().map(<[_]>::len).collect();
        assert_eq!(lengths, [128, 128, 44, 1, 2, 2]);
        assert!(batches(&[]).is_empty());
    }
}
