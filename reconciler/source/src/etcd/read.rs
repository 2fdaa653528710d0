//! Reading what is below the prefix, in pages of one revision.
use std::time::{Duration, Instant};

use etcd_client::{GetOptions, KeyValue};

use super::{
    EtcdError,
    keyspace::KeySpace,
    layout::{Below, Keys, after, classify},
    link::Session,
};

/// Keys of one page at first, and at most. etcd counts keys and not bytes: pages grow as long as they come quickly.
const FIRST_PAGE: i64 = 8;
const LARGEST_PAGE: i64 = 512;
/// A page this large is large enough.
const ENOUGH_BYTES: usize = 1 << 20;
/// Without values, a page may have this many.
const PAGE_OF_KEYS: i64 = 10_000;

/// How many keys a page may have on this way to etcd.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pager(i64);

impl Default for Pager {
    fn default() -> Self {
        Self(FIRST_PAGE)
    }
}

impl Pager {
    fn came(&mut self, bytes: usize, took: Duration, patience: Duration) {
        if took > patience / 4 || bytes > 2 * ENOUGH_BYTES {
            self.0 = (self.0 / 2).max(1);
        } else if bytes < ENOUGH_BYTES && took < patience / 16 {
            self.0 = (self.0 * 2).min(LARGEST_PAGE);
        }
    }

    /// A page did not come in time.
    pub fn failed(&mut self) {
        self.0 = (self.0 / 4).max(1);
    }
}

/// What `<prefix>revision` says.
#[derive(Clone, Debug)]
pub(super) struct Pointer {
    /// `None`: there is no such key.
    pub value: Option<Vec<u8>>,
    /// 0 where there is none.
    pub mod_revision: i64,
    /// Of the store.
    pub revision: i64,
}

pub(super) async fn pointer(session: &Session, keys: &Keys) -> Result<Pointer, EtcdError> {
    let mut answer = session.get(keys.revision(), GetOptions::new()).await?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let found = answer.take_kvs().pop();
    let mod_revision = found.as_ref().map_or(0, KeyValue::mod_revision);
    Ok(Pointer { value: found.map(|found| found.into_key_value().1), mod_revision, revision })
}

/// What a range is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Values,
    Keys,
}

/// Hands every page of the keys in `[start, end)` to `page`, all of one revision, which is returned; `page` may name the
/// key to go on with, past what nobody wants.
pub(super) async fn range(
    session: &Session,
    pager: &mut Pager,
    (start, end): (Vec<u8>, Vec<u8>),
    want: Want,
    mut page: impl FnMut(Vec<KeyValue>) -> Option<Vec<u8>>,
) -> Result<i64, EtcdError> {
    let (mut next, mut revision) = (start, 0);
    loop {
        let mut options = GetOptions::new().with_range(end.clone()).with_revision(revision);
        options = match want {
            Want::Values => options.with_limit(pager.0),
            Want::Keys => options.with_limit(PAGE_OF_KEYS).with_keys_only(),
        };
        let asked = Instant::now();
        let mut answer = session.get(next.clone(), options).await?;
        if revision == 0 {
            revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        }
        let more = answer.more();
        let found = answer.take_kvs();
        if want == Want::Values {
            let bytes = found.iter().map(|found| found.value().len()).sum();
            pager.came(bytes, asked.elapsed(), session.patience);
        }
        if let Some(last) = found.last() {
            next = [last.key(), b"\0"].concat();
        }
        let past = page(found);
        if !more {
            return Ok(revision);
        }
        next = past.filter(|past| *past > next).unwrap_or(next);
    }
}

/// The keys that were written by hand, and whether a pushed set is in force instead.
pub(super) async fn keyspace(
    session: &Session,
    keys: &Keys,
    pager: &mut Pager,
    before: &KeySpace,
) -> Result<(KeySpace, bool), EtcdError> {
    let (mut space, mut pointed) = (KeySpace::default(), false);
    let bounds = (keys.prefix.clone().into_bytes(), after(&keys.prefix));
    let revision = range(session, pager, bounds, Want::Values, |found| {
        let mut past = None;
        for found in found {
            let mod_revision = found.mod_revision();
            let (key, value) = found.into_key_value();
            let Some(below) = keys.below(&key) else { continue };
            match classify(below, &value) {
                Ok(Below::File(path)) => space.put(path, value, mod_revision, before),
                Ok(Below::Revision) => pointed = true,
                // Left behind by a push that never came to its end.
                Ok(Below::Pushed { digest }) => past = Some(after(&keys.set(digest))),
                Ok(Below::Nothing) => {}
                Err(why) => space.refuse(below, why),
            }
        }
        past
    })
    .await?;
    space.reached(revision);
    Ok((space, pointed))
}

/// Every file's mod revision, and the store's revision.
pub(super) async fn versions(session: &Session, keys: &Keys) -> Result<(Vec<(String, i64)>, i64), EtcdError> {
    let mut versions = Vec::new();
    let bounds = (keys.prefix.clone().into_bytes(), after(&keys.prefix));
    let revision = range(session, &mut Pager::default(), bounds, Want::Keys, |found| {
        let mut past = None;
        for found in &found {
            // Without its value, a tool's directory looks like a name that is refused: neither is a file.
            match keys.below(found.key()).map(|below| classify(below, b"")) {
                Some(Ok(Below::File(path))) => versions.push((path.to_owned(), found.mod_revision())),
                Some(Ok(Below::Pushed { digest })) => past = Some(after(&keys.set(digest))),
                _ => {}
            }
        }
        past
    })
    .await?;
    Ok((versions, revision))
}
