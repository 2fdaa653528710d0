//! Hand-written keys, as the last event left them.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::EtcdError;
use crate::{MAX_FILES, MAX_TOTAL_BYTES, Revision, SourceError, SourceFile};

#[derive(Clone, Debug, Default)]
pub(super) struct KeySpace {
    files: BTreeMap<Arc<str>, Held>,
    /// Keys that cannot be paths, and why.
    refused: BTreeMap<Vec<u8>, &'static str>,
    /// Of the store, as far as is known.
    revision: i64,
}

#[derive(Clone, Debug)]
struct Held {
    file: SourceFile,
    mod_revision: i64,
}

impl KeySpace {
    /// What `before` holds with the same content keeps its place in memory, and is not hashed again.
    pub fn put(&mut self, path: &str, value: Vec<u8>, mod_revision: i64, before: &Self) {
        let known = before.files.get(path).filter(|held| *held.file.bytes == *value);
        let file = known.map_or_else(|| SourceFile::new(path, value), |held| held.file.clone());
        self.files.insert(file.path.clone(), Held { file, mod_revision });
    }

    pub fn refuse(&mut self, key: &[u8], why: &'static str) {
        self.refused.insert(key.to_vec(), why);
    }

    pub fn reached(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    pub const fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether that changed anything. What is older than what is held is not taken.
    pub fn change(&mut self, path: &str, value: Option<&[u8]>, mod_revision: i64) -> bool {
        if self.files.get(path).is_some_and(|held| held.mod_revision >= mod_revision) {
            return false;
        }
        match value {
            Some(value) => {
                let path = self.files.get_key_value(path).map_or_else(|| path.into(), |(path, _)| path.clone());
                let file = SourceFile::new(path.clone(), value);
                self.files.insert(path, Held { file, mod_revision });
                true
            }
            None => self.files.remove(path).is_some(),
        }
    }

    /// A key that was refused is gone, or has another value. Whether that changed anything.
    pub fn forgive(&mut self, key: &[u8]) -> bool {
        self.refused.remove(key).is_some()
    }

    /// Paths whose mod revision, or whose being there, is not what a listing said.
    pub fn differences(&self, listed: &[(String, i64)]) -> BTreeSet<String> {
        let listed: BTreeMap<&str, i64> = listed.iter().map(|(path, revision)| (path.as_str(), *revision)).collect();
        let changed = listed
            .iter()
            .filter(|(path, revision)| self.files.get(**path).is_none_or(|held| held.mod_revision != **revision));
        let gone = self.files.keys().filter(|path| !listed.contains_key(&***path));
        changed.map(|(path, _)| (*path).to_owned()).chain(gone.map(|path| path.to_string())).collect()
    }

    /// # Errors
    /// No manifest, or a key that cannot be a path.
    pub fn state(&self, spec: &str) -> Result<Revision, SourceError> {
        let spec = || spec.to_owned();
        if let Some((key, why)) = self.refused.first_key_value() {
            let key = String::from_utf8_lossy(key).into_owned();
            return Err(EtcdError::Key { spec: spec(), key, why }.into());
        }
        if !self.files.values().any(|held| held.file.is_manifest()) {
            return Err(EtcdError::Empty { spec: spec() }.into());
        }
        if self.files.len() > MAX_FILES {
            return Err(SourceError::TooManyFiles { path: spec().into(), limit: MAX_FILES });
        }
        if self.files.values().map(|held| held.file.bytes.len() as u64).sum::<u64>() > MAX_TOTAL_BYTES {
            return Err(SourceError::TotalTooLarge { path: spec().into(), limit: MAX_TOTAL_BYTES });
        }
        Ok(Revision::new(self.files.values().map(|held| held.file.clone()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(files: &[(&str, &str, i64)]) -> KeySpace {
        let mut space = KeySpace::default();
        for (path, text, revision) in files {
            space.put(path, text.as_bytes().to_vec(), *revision, &KeySpace::default());
        }
        space
    }

    #[test]
    fn events_are_taken_once_and_in_order() {
        let mut space = space(&[("a.yaml", "1", 5)]);
        let first = space.state("etcd").unwrap();
        assert!(!space.change("a.yaml", Some(b"0"), 4), "older than what is held");
        assert!(!space.change("a.yaml", Some(b"1"), 5), "the same once more");
        assert!(!space.change("b.yaml", None, 6), "was never there");
        assert_eq!(space.state("etcd").unwrap(), first);
        assert!(space.change("a.yaml", Some(b"2"), 6));
        assert_ne!(space.state("etcd").unwrap().id, first.id);
        assert!(space.change("b.yaml", Some(b""), 7));
        assert!(space.change("a.yaml", None, 8));
        assert_eq!(space.state("etcd").unwrap().files.len(), 1);
    }

    #[test]
    fn unchanged_content_keeps_its_place_in_memory() {
        let before = space(&[("a.yaml", "1", 5), ("b.yaml", "1", 5)]);
        let mut after = KeySpace::default();
        after.put("a.yaml", b"1".to_vec(), 9, &before);
        after.put("b.yaml", b"2".to_vec(), 9, &before);
        let (before, after) = (before.state("").unwrap(), after.state("").unwrap());
        assert!(Arc::ptr_eq(&before.files[0].bytes, &after.files[0].bytes));
        assert!(!Arc::ptr_eq(&before.files[1].bytes, &after.files[1].bytes));
    }

    #[test]
    fn nothing_is_an_error_and_never_an_empty_set() {
        assert_eq!(space(&[]).state("etcd").unwrap_err().code(), "source-empty");
        assert_eq!(space(&[("list.txt", "10.0.0.0/8", 1)]).state("etcd").unwrap_err().code(), "source-empty");
        let mut space = space(&[("a.yaml", "", 1)]);
        space.refuse(b"../b.yaml", "leads out of its directory");
        let error = space.state("etcd://h/w/").unwrap_err();
        assert_eq!(error.to_string(), "etcd://h/w/: the key \"../b.yaml\" leads out of its directory");
        assert!(space.forgive(b"../b.yaml"));
        assert!(space.state("etcd").is_ok());
    }

    #[test]
    fn what_a_listing_has_and_the_watch_never_told_is_a_difference() {
        let space = space(&[("a", "1", 1), ("b", "1", 2), ("c", "1", 3)]);
        let listed = [("a".to_owned(), 1), ("b".to_owned(), 9), ("d".to_owned(), 4)];
        let differences: Vec<String> = space.differences(&listed).into_iter().collect();
        assert_eq!(differences, ["b", "c", "d"]);
    }
}
