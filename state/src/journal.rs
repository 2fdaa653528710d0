//! Where an apply stands.
//!
//! A file of its own beside the database: a note must survive `kill -9` at once and cost microseconds, and sled keeps
//! what is not flushed in the memory of the process.
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use weir_plan::{Journal, StoreError};

use crate::{database::Trouble, record, space};

#[derive(Debug)]
pub(crate) struct JournalFile {
    file: File,
}

impl JournalFile {
    /// For reading alone; `None` where there is none.
    pub fn peek(state: &Path) -> Result<Option<Self>, io::Error> {
        match File::open(state.join("journal")) {
            Ok(file) => Ok(Some(Self { file })),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    pub fn open(state: &Path) -> Result<Self, StoreError> {
        let path = state.join("journal");
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map(|file| Self { file })
            .map_err(|cause| space::explain("opening the journal", &path, cause))
    }

    /// `None` when there is none, or when it cannot be understood: it is only for the report.
    pub fn read(&self) -> Result<Option<Journal>, io::Error> {
        let mut bytes = vec![0; 1 << 16];
        let length = self.file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
        if bytes.is_empty() {
            return Ok(None);
        }
        match record::decode("journal", &bytes) {
            Ok(journal) => Ok(Some(journal)),
            Err(trouble) => {
                tracing::warn!(%trouble, "the journal cannot be read");
                Ok(None)
            }
        }
    }

    pub fn write(&self, journal: &Journal) -> Result<(), Trouble> {
        let bytes = record::encode(journal)?;
        // Killed between the two, the checksum tells.
        self.file.write_all_at(&bytes, 0).and_then(|()| self.file.set_len(bytes.len() as u64)).map_err(Trouble::Io)
    }

    pub fn clear(&self) -> Result<(), io::Error> {
        self.file.set_len(0)
    }
}
