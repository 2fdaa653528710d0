//! sled itself: where it lies, how it is opened, what its errors are.
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::space;

/// What went wrong, before it is said to the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(io::Error),
    #[error("{0}")]
    Damaged(String),
    /// Sound, and written by another version.
    #[error("{0}")]
    Format(String),
    #[error("sled panicked: {0}")]
    Panic(String),
    #[error("no space is left")]
    NoRoom,
    #[error("{0}")]
    Bug(String),
}

impl Trouble {
    pub fn is_full(&self) -> bool {
        match self {
            Self::Sled(sled::Error::Io(cause)) | Self::Io(cause) => space::is_full(cause.kind()),
            Self::NoRoom => true,
            Self::Panic(message) => message.contains("No space left") || message.contains("StorageFull"),
            _ => false,
        }
    }

    /// Whether the files are to blame, and not the disk, its rights or us.
    pub fn is_damage(&self) -> bool {
        use io::ErrorKind;
        match self {
            Self::Sled(sled::Error::Io(cause)) | Self::Io(cause) => {
                matches!(
                    cause.kind(),
                    ErrorKind::InvalidData
                        | ErrorKind::InvalidInput
                        | ErrorKind::UnexpectedEof
                        | ErrorKind::IsADirectory
                        | ErrorKind::NotADirectory
                ) || matches!(cause.kind(), ErrorKind::Other) && cause.raw_os_error().is_none()
            }
            Self::Sled(
                sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) | sled::Error::Unsupported(_),
            ) => true,
            Self::Sled(_) | Self::NoRoom | Self::Bug(_) => false,
            Self::Damaged(_) | Self::Format(_) | Self::Panic(_) => !self.is_full(),
        }
    }

    /// Another process holds sled's own lock.
    pub fn is_locked(&self) -> bool {
        match self {
            Self::Sled(sled::Error::Io(cause)) => {
                cause.kind() == io::ErrorKind::WouldBlock || cause.to_string().contains("could not acquire lock")
            }
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Database {
    db: sled::Db,
    file: File,
    /// Small records: commits, numbering, what is known of contents.
    pub records: sled::Tree,
    /// Contents, in pieces. A tree of its own, so that reading records never touches them.
    pub blobs: sled::Tree,
    /// What was made of contents, by their hashes: may be lost.
    pub made: sled::Tree,
}

impl Database {
    pub fn directory(state: &Path) -> PathBuf {
        state.join("sled")
    }

    pub fn open(state: &Path) -> Result<Self, Trouble> {
        let directory = Self::directory(state);
        let db = sled::Config::new()
            .path(&directory)
            .mode(sled::Mode::LowSpace)
            // The default is a gigabyte. What is read is read once.
            .cache_capacity(1 << 20)
            // Whoever records, flushes; nothing else is worth a thread that wakes up twice a second.
            .flush_every_ms(None)
            .open()?;
        let (records, blobs, made) = (db.open_tree("records")?, db.open_tree("blobs")?, db.open_tree("made")?);
        let file = File::open(directory.join("db")).map_err(Trouble::Io)?;
        Ok(Self { db, file, records, blobs, made })
    }

    /// Returns once everything is on the disk. sled's own flush leaves the rest to the kernel (`sync_file_range`).
    pub fn flush(&self) -> Result<(), Trouble> {
        self.db.flush()?;
        self.file.sync_all().map_err(Trouble::Io)
    }
}
