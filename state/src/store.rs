use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use weir_plan::{Commit, Journal, Numbering, Phase, Store, StoreError, Suspension};

use crate::{
    Recovery,
    blob::{self, BlobInfo, Packed, piece_key},
    database::{Database, Trouble},
    journal::JournalFile,
    lock::Lock,
    numbers::Parts,
    quiet, record, recovery, space,
};

/// Commits that are kept: what `history` shows, and what can be brought back.
pub const KEPT_COMMITS: usize = 100;
/// Compressed contents that are kept: history is shorter where lists are huge. Two commits are kept whatever they take.
pub const KEPT_BYTES: u64 = 256 << 20;

const LOCK_POLL: Duration = Duration::from_millis(10);

// Keys of the records: one letter, then what it names.
const HEAD: &[u8] = b"h";
const SUSPENSION: &[u8] = b"s";
/// `c`, sequence, number of the piece.
const COMMIT: u8 = b'c';
const COMMIT_PIECE: usize = 16 << 10;
/// `b`, hash: a content that some kept commit names.
const BLOB: u8 = b'b';
/// `g`, hash: a content whose pieces may be there and belong to nobody.
const GARBAGE: u8 = b'g';

/// The store on sled, in a directory of its own.
#[derive(Debug)]
pub struct SledStore {
    path: PathBuf,
    journal: JournalFile,
    /// `None` after trouble: the next operation opens it anew.
    contents: Mutex<Option<Contents>>,
    /// What had to be recovered since this process opened it.
    mishap: Mutex<Option<String>>,
    // Last: it is let go when everything else is closed.
    _lock: Lock,
}

impl SledStore {
    /// Opens the store in the directory `path`, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Full`] when the disk is; damage is no
    /// error, see [`Recovery`].
    pub fn open(path: &Path) -> Result<(Self, Recovery), StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|cause| space::explain("making the directory", path, cause))?;
        let lock = Lock::take(path)?;
        let journal = JournalFile::open(path)?;
        let (contents, recovery) = recovery::open(path)?;
        let mishap = (recovery != Recovery::Clean).then(|| recovery.to_string());
        if let Some(mishap) = &mishap {
            tracing::warn!(path = %path.display(), "{mishap}");
        }
        sync_directory(path)?;
        sync_directory(&Database::directory(path))?;
        let (contents, mishap) = (Mutex::new(Some(contents)), Mutex::new(mishap));
        Ok((Self { path: path.into(), journal, contents, mishap, _lock: lock }, recovery))
    }

    /// As [`Self::open`], but waits for another process to be done: most have it open for a moment only.
    pub fn open_within(path: &Path, patience: Duration) -> Result<(Self, Recovery), StoreError> {
        let start = Instant::now();
        loop {
            match Self::open(path) {
                Err(StoreError::Locked { .. }) if start.elapsed() < patience => thread::sleep(LOCK_POLL),
                outcome => return outcome,
            }
        }
    }

    /// What the process that has the store in `path` open, or died with it, noted last. Needs no lock.
    pub fn peek_journal(path: &Path) -> Result<Option<Journal>, StoreError> {
        let read = || JournalFile::peek(path)?.map_or(Ok(None), |journal| journal.read());
        read().map_err(|cause| space::explain("reading the journal", path, cause))
    }

    /// Which of these contents it does not hold.
    pub fn lacks<'a>(&self, hashes: impl IntoIterator<Item = &'a [u8; 32]>) -> Result<Vec<[u8; 32]>, StoreError> {
        self.with("reading the state", |contents| {
            Ok(hashes.into_iter().filter(|hash| !contents.blobs.contains_key(*hash)).copied().collect())
        })
    }

    fn befell(&self, recovery: &Recovery) {
        if *recovery != Recovery::Clean {
            *self.mishap.lock().unwrap_or_else(PoisonError::into_inner) = Some(recovery.to_string());
        }
    }

    /// Whatever sled does, the next operation starts from a store that is open and sound, be it an empty one.
    fn with<T>(
        &self,
        doing: &'static str,
        act: impl FnOnce(&mut Contents) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let mut slot = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let mut contents = match slot.take() {
            Some(contents) => contents,
            None => {
                let (contents, recovery) = recovery::open(&self.path)?;
                tracing::warn!(path = %self.path.display(), "{recovery}");
                self.befell(&recovery);
                contents
            }
        };
        let trouble = match quiet::catch(|| act(&mut contents)).map_err(Trouble::Panic).flatten() {
            Ok(value) => {
                *slot = Some(contents);
                return Ok(value);
            }
            // Refused before anything was touched.
            Err(trouble @ (Trouble::NoRoom | Trouble::Bug(_))) => {
                *slot = Some(contents);
                return Err(recovery::failed(doing, &self.path, trouble));
            }
            Err(trouble) => trouble,
        };
        let closed = quiet::catch(move || drop(contents));
        let path = self.path.display().to_string();
        if trouble.is_full() || space::require(&self.path, 0).is_err() {
            return Err(StoreError::Full { path });
        }
        let mut cause = trouble.to_string();
        if trouble.is_damage() {
            if let Err(panic) = closed {
                tracing::debug!(panic, "closing the damaged state");
            }
            let (contents, recovery) = recovery::discard(&self.path, &cause)?;
            *slot = Some(contents);
            tracing::error!(path, "{recovery}");
            self.befell(&recovery);
            cause = recovery.to_string();
        }
        Err(StoreError::Failed { doing, path, cause })
    }
}

impl Store for SledStore {
    fn head(&self) -> Result<Option<Commit>, StoreError> {
        self.with("reading the last commit", |contents| match contents.head {
            Some(sequence) => contents.commit(sequence),
            None => Ok(None),
        })
    }

    fn history(&self, limit: usize) -> Result<Vec<Commit>, StoreError> {
        self.with("reading history", |contents| {
            let sequences: Vec<u64> = contents.commits.iter().rev().take(limit).copied().collect();
            sequences.into_iter().filter_map(|sequence| contents.commit(sequence).transpose()).collect()
        })
    }

    fn commit(&self, sequence: u64) -> Result<Option<Commit>, StoreError> {
        self.with("reading a commit", |contents| contents.commit(sequence))
    }

    fn blob(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with("reading a file's content", |contents| contents.blob(hash))
    }

    fn numbering(&self) -> Result<Numbering, StoreError> {
        self.with("reading the numbering", |contents| match contents.numbering.take() {
            Some(numbering) => Ok(numbering),
            None => Ok(Parts::load(&contents.database)?.1),
        })
    }

    fn journal(&self) -> Result<Option<Journal>, StoreError> {
        let journal = self.journal.read().map_err(|cause| space::explain("reading the journal", &self.path, cause))?;
        let head = self.with("reading the state", |contents| Ok(contents.head))?;
        // Killed after the record was on the disk, before the journal was cleared.
        let done = |journal: &Journal| head >= Some(journal.sequence) && journal.phase <= Phase::Record;
        Ok(journal.filter(|journal| !done(journal)))
    }

    fn note(&mut self, journal: &Journal) -> Result<(), StoreError> {
        if journal.phase == Phase::Stage {
            // Before the first write to the kernel is the time to refuse, not after the flip.
            space::require(&self.path, 0)?;
        }
        self.journal.write(journal).map_err(|trouble| match trouble {
            Trouble::Io(cause) => space::explain("noting the phase", &self.path, cause),
            other => recovery::failed("noting the phase", &self.path, other),
        })
    }

    fn record(
        &mut self,
        commit: &Commit,
        blobs: &[([u8; 32], Arc<[u8]>)],
        numbering: &Numbering,
    ) -> Result<(), StoreError> {
        let path = &self.path;
        self.with("recording a commit", |contents| contents.record(path, commit, blobs, numbering))?;
        self.journal.clear().map_err(|cause| space::explain("clearing the journal", &self.path, cause))
    }

    fn cached(&self, content: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with("reading what was made of a file", |contents| {
            let Some(bytes) = contents.database.made.get(content)? else { return Ok(None) };
            // Lost is what cannot be read.
            Ok(zstd::bulk::decompress(&bytes, MADE_BYTES).ok())
        })
    }

    fn cache(&mut self, made: &[([u8; 32], Vec<u8>)]) -> Result<(), StoreError> {
        let packed = || -> Result<Vec<_>, std::io::Error> {
            let mut compressor = zstd::bulk::Compressor::new(1)?;
            let small = made.iter().filter(|(_, bytes)| bytes.len() <= MADE_BYTES);
            small.map(|(hash, bytes)| Ok((*hash, compressor.compress(bytes)?))).collect()
        };
        let packed = packed().map_err(|cause| space::explain("keeping what was made of files", &self.path, cause))?;
        space::require(&self.path, packed.iter().map(|(_, bytes)| bytes.len() as u64).sum())?;
        self.with("keeping what was made of files", |contents| {
            for (hash, bytes) in packed.iter().filter(|(hash, _)| contents.blobs.contains_key(hash)) {
                contents.database.made.insert(hash, bytes.as_slice())?;
            }
            Ok(())
        })
    }

    fn mishap(&self) -> Option<String> {
        self.mishap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn suspension(&self) -> Result<Option<Suspension>, StoreError> {
        self.with("reading the suspension", |contents| {
            let bytes = contents.database.records.get(SUSPENSION)?;
            bytes.map(|bytes| record::decode("suspension", &bytes)).transpose()
        })
    }

    fn set_suspension(&mut self, suspension: Option<&Suspension>) -> Result<(), StoreError> {
        self.with("recording the suspension", |contents| {
            match suspension {
                Some(suspension) => contents.database.records.insert(SUSPENSION, record::encode(suspension)?)?,
                None => contents.database.records.remove(SUSPENSION)?,
            };
            contents.database.flush()
        })
    }
}

/// The open database, and what of it is kept in memory.
#[derive(Debug)]
pub(crate) struct Contents {
    database: Database,
    head: Option<u64>,
    commits: BTreeSet<u64>,
    blobs: HashMap<[u8; 32], BlobInfo>,
    /// How many kept commits name a content.
    uses: HashMap<[u8; 32], u32>,
    /// Compressed bytes of `blobs`.
    stored: u64,
    parts: Parts,
    /// As it was read while opening, for the first who asks.
    numbering: Option<Numbering>,
}

impl Contents {
    /// Reads every record but the contents of files: damage is found now, not in the middle of an apply.
    pub fn load(database: Database) -> Result<Self, Trouble> {
        let damaged = |what: &str| Trouble::Damaged(what.to_owned());
        let head: Option<u64> = match database.records.get(HEAD)? {
            Some(bytes) => Some(record::decode("head", &bytes)?),
            None => None,
        };
        let mut commits = BTreeSet::new();
        for entry in database.records.scan_prefix([COMMIT]).keys() {
            let key = entry?;
            let sequence = key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            commits.insert(sequence.ok_or_else(|| damaged("a commit's key"))?);
        }
        if head != commits.last().copied() {
            return Err(damaged("the head is not the last commit"));
        }
        let mut blobs = HashMap::new();
        for entry in database.records.scan_prefix([BLOB]) {
            let (key, value) = entry?;
            let hash: [u8; 32] = key[1..].try_into().map_err(|_| damaged("a content's key"))?;
            blobs.insert(hash, record::decode::<BlobInfo>("a content's record", &value)?);
        }
        let stored = blobs.values().map(|info| info.stored).sum();
        let (parts, numbering) = Parts::load(&database)?;
        let mut contents =
            Self { database, head, commits, blobs, uses: HashMap::new(), stored, parts, numbering: Some(numbering) };
        for sequence in contents.commits.clone() {
            let commit = contents.commit(sequence)?.ok_or_else(|| damaged("a commit has no content"))?;
            contents.count(&commit, 1);
        }
        contents.sweep()?;
        Ok(contents)
    }

    fn commit(&self, sequence: u64) -> Result<Option<Commit>, Trouble> {
        if !self.commits.contains(&sequence) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for entry in self.database.records.scan_prefix(commit_key(sequence)) {
            bytes.extend_from_slice(&entry?.1);
        }
        record::decode("a commit", &bytes).map(Some)
    }

    fn blob(&mut self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(info) = self.blobs.get(hash).copied() else { return Ok(None) };
        let piece = |number| Ok(self.database.blobs.get(piece_key(hash, number))?);
        match blob::unpack(hash, &info, piece) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(trouble @ (Trouble::Sled(_) | Trouble::Panic(_))) => Err(trouble),
            Err(trouble) => {
                // Lost: the next record that brings it writes it again.
                tracing::error!(%trouble, "a file's content is lost");
                self.database.records.remove(blob_key(BLOB, hash))?;
                self.blobs.remove(hash);
                self.stored -= info.stored;
                Ok(None)
            }
        }
    }

    fn count(&mut self, commit: &Commit, by: i32) {
        for hash in commit.files.iter().map(|file| file.hash).collect::<HashSet<_>>() {
            let uses = self.uses.entry(hash).or_default();
            *uses = uses.saturating_add_signed(by);
            if *uses == 0 {
                self.uses.remove(&hash);
            }
        }
    }

    fn record(
        &mut self,
        state: &Path,
        commit: &Commit,
        blobs: &[([u8; 32], Arc<[u8]>)],
        numbering: &Numbering,
    ) -> Result<(), Trouble> {
        if self.head >= Some(commit.sequence) {
            return Err(Trouble::Bug(format!("commit {} is not newer than the last one", commit.sequence)));
        }
        let mut wanted: HashSet<[u8; 32]> = commit.files.iter().map(|file| file.hash).collect();
        wanted.retain(|hash| !self.blobs.contains_key(hash));
        let new = |(hash, _): &&([u8; 32], Arc<[u8]>)| wanted.remove(hash);
        let packed = blob::pack(&blobs.iter().filter(new).cloned().collect::<Vec<_>>())?;
        let bytes = record::encode(commit)?;
        let needed = packed.iter().map(|packed| packed.info.stored).sum::<u64>() + bytes.len() as u64;
        space::require(state, needed).map_err(|_| Trouble::NoRoom)?;

        self.write_contents(&packed)?;

        // From here on one batch: all of it or nothing.
        let mut batch = sled::Batch::default();
        for packed in &packed {
            batch.remove(&blob_key(GARBAGE, &packed.hash)[..]);
            batch.insert(&blob_key(BLOB, &packed.hash)[..], record::encode(&packed.info)?);
            self.blobs.insert(packed.hash, packed.info);
            self.stored += packed.info.stored;
        }
        for (piece, bytes) in (0u32..).zip(bytes.chunks(COMMIT_PIECE)) {
            batch.insert([&commit_key(commit.sequence)[..], &piece.to_be_bytes()].concat(), bytes);
        }
        batch.insert(HEAD, record::encode(&commit.sequence)?);
        let (parts, _) = self.parts.write(numbering, &mut batch)?;
        self.count(commit, 1);
        self.commits.insert(commit.sequence);
        self.forget_old(&mut batch)?;
        self.database.records.apply_batch(batch)?;
        self.database.flush()?;

        self.parts = parts;
        self.numbering = None;
        self.head = Some(commit.sequence);
        self.sweep()
    }

    /// Contents belong to nobody until the batch says otherwise, and are marked so first: killed in between, the next
    /// opening sweeps them.
    fn write_contents(&self, packed: &[Packed]) -> Result<(), Trouble> {
        let mut batch = sled::Batch::default();
        for packed in packed {
            batch.insert(&blob_key(GARBAGE, &packed.hash)[..], record::encode(&packed.info)?);
        }
        if !packed.is_empty() {
            self.database.records.apply_batch(batch)?;
        }
        for packed in packed {
            for (number, piece) in (0u32..).zip(&packed.pieces) {
                self.database.blobs.insert(piece_key(&packed.hash, number), piece.as_slice())?;
            }
        }
        Ok(())
    }

    /// Lets the oldest commits go, and the contents that only they named.
    fn forget_old(&mut self, batch: &mut sled::Batch) -> Result<(), Trouble> {
        while self.commits.len() > KEPT_COMMITS || self.stored > KEPT_BYTES && self.commits.len() > 2 {
            let Some(sequence) = self.commits.first().copied() else { return Ok(()) };
            let Some(commit) = self.commit(sequence)? else { return Ok(()) };
            self.commits.remove(&sequence);
            self.count(&commit, -1);
            for entry in self.database.records.scan_prefix(commit_key(sequence)).keys() {
                batch.remove(entry?);
            }
            for file in commit.files.iter().filter(|file| !self.uses.contains_key(&file.hash)) {
                if let Some(info) = self.blobs.remove(&file.hash) {
                    self.stored -= info.stored;
                    batch.remove(&blob_key(BLOB, &file.hash)[..]);
                    batch.insert(&blob_key(GARBAGE, &file.hash)[..], record::encode(&info)?);
                    self.database.made.remove(file.hash)?;
                }
            }
        }
        Ok(())
    }

    /// Removes contents that belong to nobody. Not flushed: what is left is swept the next time.
    fn sweep(&self) -> Result<(), Trouble> {
        for entry in self.database.records.scan_prefix([GARBAGE]) {
            let (key, value) = entry?;
            let hash: [u8; 32] = key[1..].try_into().map_err(|_| Trouble::Damaged("a content's key".to_owned()))?;
            let info: BlobInfo = record::decode("a content's record", &value)?;
            if !self.blobs.contains_key(&hash) {
                for piece in 0..info.pieces() {
                    self.database.blobs.remove(piece_key(&hash, piece))?;
                }
            }
            self.database.records.remove(key)?;
        }
        Ok(())
    }
}

/// What was made of one file takes no more.
const MADE_BYTES: usize = 64 << 20;

fn commit_key(sequence: u64) -> [u8; 9] {
    let mut key = [COMMIT; 9];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

fn blob_key(letter: u8, hash: &[u8; 32]) -> [u8; 33] {
    let mut key = [letter; 33];
    key[1..].copy_from_slice(hash);
    key
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let sync = || fs::File::open(path)?.sync_all();
    sync().map_err(|cause| space::explain("syncing the directory", path, cause))
}
