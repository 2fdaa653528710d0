//! Opening what may be damaged.
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use weir_plan::StoreError;

use crate::{
    database::{Database, Trouble},
    quiet, space,
    store::Contents,
};

/// How opening went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    Clean,
    /// Nothing was lost: files that stood in the way were moved to `quarantine`.
    Repaired {
        files: Vec<String>,
        quarantine: PathBuf,
    },
    /// The store begins empty; what was there lies in `quarantine`.
    Quarantined {
        reason: String,
        quarantine: PathBuf,
    },
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("the state was opened"),
            Self::Repaired { files, quarantine } => {
                write!(f, "the state was repaired: moved {} to {}", files.join(", "), quarantine.display())
            }
            Self::Quarantined { reason, quarantine } => write!(
                f,
                "the state was damaged ({reason}) and moved to {}; it begins empty, and history with it",
                quarantine.display()
            ),
        }
    }
}

const OPENING: &str = "opening the state";

/// Opens the database, or repairs it, or begins anew. The lock must be held.
pub(crate) fn open(state: &Path) -> Result<(Contents, Recovery), StoreError> {
    let directory = Database::directory(state);
    if !directory.exists() {
        // An open database touches the disk: say at once that it cannot.
        space::require(state, 0)?;
    }
    // A process that was killed while it wrote a snapshot leaves these, and sled refuses to open beside them.
    let mut quarantine = Quarantine::new(state);
    let strays = snapshots(&directory, |name, length| name.ends_with(".generating") || length == 0)
        .map_err(|cause| space::explain("reading", &directory, cause))?;
    quarantine.take(&strays)?;

    let mut trouble = match attempt(state) {
        Ok(contents) => return Ok((contents, quarantine.repaired())),
        Err(trouble) => trouble,
    };
    if !hopeless(state, &trouble) {
        return Err(failed(OPENING, state, trouble));
    }

    // A snapshot only saves time: without one, sled reads its whole log. Where what it led to is sound, that is read
    // already, and another look could only find less.
    let snapshots = snapshots(&directory, |_, _| true).map_err(|cause| space::explain("reading", &directory, cause))?;
    if !snapshots.is_empty() && !matches!(trouble, Trouble::Format(_)) {
        quarantine.take(&snapshots)?;
        trouble = match attempt(state) {
            Ok(contents) => return Ok((contents, quarantine.repaired())),
            Err(trouble) => trouble,
        };
        if !hopeless(state, &trouble) {
            return Err(failed(OPENING, state, trouble));
        }
    }
    let contents = begin_anew(state, &mut quarantine)?;
    Ok((contents, Recovery::Quarantined { reason: trouble.to_string(), quarantine: quarantine.directory }))
}

/// Moves everything aside.
pub(crate) fn discard(state: &Path, reason: &str) -> Result<(Contents, Recovery), StoreError> {
    let mut quarantine = Quarantine::new(state);
    let contents = begin_anew(state, &mut quarantine)?;
    Ok((contents, Recovery::Quarantined { reason: reason.to_owned(), quarantine: quarantine.directory }))
}

fn begin_anew(state: &Path, quarantine: &mut Quarantine) -> Result<Contents, StoreError> {
    quarantine.take(&[Database::directory(state)])?;
    attempt(state).map_err(|trouble| failed(OPENING, state, trouble))
}

fn attempt(state: &Path) -> Result<Contents, Trouble> {
    let open = || quiet::catch(|| Contents::load(Database::open(state)?)).map_err(Trouble::Panic).flatten();
    // Whoever closed it a moment ago, in this process, may still have a thread that holds it.
    let mut outcome = open();
    for _ in 0..50 {
        match &outcome {
            Err(trouble) if trouble.is_locked() => std::thread::sleep(std::time::Duration::from_millis(20)),
            _ => break,
        }
        outcome = open();
    }
    outcome
}

/// Whether the files must go. Not where the disk is full or closed to us: they may be fine.
fn hopeless(state: &Path, trouble: &Trouble) -> bool {
    trouble.is_damage() && !trouble.is_full() && space::require(state, 0).is_ok()
}

pub(crate) fn failed(doing: &'static str, state: &Path, trouble: Trouble) -> StoreError {
    let path = state.display().to_string();
    if trouble.is_full() || matches!(trouble, Trouble::Panic(_)) && space::require(state, 0).is_err() {
        StoreError::Full { path }
    } else if trouble.is_locked() {
        StoreError::Locked { path, holder: None }
    } else {
        StoreError::Failed { doing, path, cause: trouble.to_string() }
    }
}

/// sled's snapshot files that `wanted` wants, given name and length.
fn snapshots(directory: &Path, wanted: impl Fn(&str, u64) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("snap.")) else { continue };
        if wanted(name, entry.metadata()?.len()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

struct Quarantine {
    state: PathBuf,
    /// Made when it is first needed.
    directory: PathBuf,
    taken: Vec<String>,
}

impl Quarantine {
    fn new(state: &Path) -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let plain = state.join(format!("quarantine-{seconds}"));
        let numbered = (1..).map(|n| state.join(format!("quarantine-{seconds}-{n}")));
        let directory = std::iter::once(plain).chain(numbered).find(|path| !path.exists());
        Self { state: state.into(), directory: directory.unwrap_or_default(), taken: Vec::new() }
    }

    fn take(&mut self, files: &[PathBuf]) -> Result<(), StoreError> {
        for file in files {
            let failed = |cause| space::explain("moving damaged files aside", file, cause);
            let Some(name) = file.file_name() else { continue };
            fs::create_dir_all(&self.directory).map_err(failed)?;
            fs::rename(file, self.directory.join(name)).map_err(failed)?;
            let shown = file.strip_prefix(&self.state).unwrap_or(file);
            self.taken.push(shown.display().to_string());
        }
        Ok(())
    }

    fn repaired(self) -> Recovery {
        if self.taken.is_empty() {
            Recovery::Clean
        } else {
            Recovery::Repaired { files: self.taken, quarantine: self.directory }
        }
    }
}
