//! Where everything is pinned: `<pin-dir>/<abi hash>/<TABLE>`, `<pin-dir>/<abi hash>/programs/<n>-<object>/<program>`
//! and `<pin-dir>/links/`. Pins are replaced by rename, never removed first.
//!
//! The symbolic link `<pin-dir>/<abi hash>/layouts` tells a version with another hash which layout each table that traffic
//! fills has: the one thing in a BPF file system that can hold a text.
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use weir_abi::{ABI_VERSION, KernelTable, runtime_tables, sided_tables};
use weir_plan::DatapathError;

use crate::error::{Result, failed};

#[derive(Clone, Debug)]
pub struct Pins {
    base: PathBuf,
    root: PathBuf,
}

/// `BPF_FS_MAGIC`.
const BPF_FS: i64 = 0xcafe_4a11;

impl Pins {
    pub fn new(base: PathBuf) -> Self {
        let root = base.join(abi_hash());
        Self { base, root }
    }

    pub fn base(&self) -> &Path {
        &self.base
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn table(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    pub fn links(&self) -> PathBuf {
        self.base.join("links")
    }

    /// Whether the pin directory, or the nearest directory above it that exists, is in a BPF file system.
    pub fn check(&self) -> Result<()> {
        let mut place = self.base.as_path();
        loop {
            match nix::sys::statfs::statfs(place) {
                Ok(stat) if stat.filesystem_type().0 == BPF_FS => return Ok(()),
                Ok(_) => {
                    let path = self.base.parent().unwrap_or(&self.base).display().to_string();
                    return Err(DatapathError::NoBpffs { path });
                }
                Err(nix::errno::Errno::ENOENT) => {}
                Err(errno) => return Err(failed("looking at", place.display(), errno.into())),
            }
            let Some(parent) = place.parent() else {
                return Err(DatapathError::NoBpffs { path: self.base.display().to_string() });
            };
            place = parent;
        }
    }

    pub fn make(&self) -> Result<()> {
        self.check()?;
        fs::create_dir_all(self.programs()).map_err(|cause| failed("creating", self.programs().display(), cause))?;
        let path = self.root.join(LAYOUTS);
        match symlink(layouts_text(), &path) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed("creating", path.display(), cause))
            }
            _ => Ok(()),
        }
    }

    /// Directories of other ABIs: what an older or newer Weir left.
    pub fn others(&self) -> io::Result<Vec<PathBuf>> {
        let named_by_hash = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
            })
        };
        Ok(entries(&self.base)?.into_iter().filter(|path| *path != self.root && named_by_hash(path)).collect())
    }

    /// Removes what killed processes left: pins under temporary names, and the tables of their test runs.
    pub fn sweep(&self) -> io::Result<()> {
        for path in entries(&self.root)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let owner = name.strip_prefix("check-").and_then(|rest| rest.split('-').next());
            if name.starts_with("new-") {
                fs::remove_file(&path)?;
            } else if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

/// The entries of a directory, sorted; none where it is not there.
pub fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Vec::new(),
        Err(error) => return Err(error),
    };
    found.sort();
    Ok(found)
}

const LAYOUTS: &str = "layouts";

fn layouts_text() -> String {
    let text = runtime_tables().iter().map(|table| format!("{}={}", table.name, table.layout));
    text.collect::<Vec<_>>().join(",")
}

/// The layout of each table that traffic fills, as a version of Weir noted it; none where it did not.
pub fn layouts(directory: &Path) -> BTreeMap<String, u32> {
    let Ok(text) = fs::read_link(directory.join(LAYOUTS)) else { return BTreeMap::new() };
    let each = text.to_str().unwrap_or_default().split(',').filter_map(|table| table.split_once('='));
    each.filter_map(|(name, layout)| Some((name.to_owned(), layout.parse().ok()?))).collect()
}

/// Removes a directory of pins and all that is in it.
pub fn remove_tree(directory: &Path) -> io::Result<()> {
    for path in entries(directory)? {
        if fs::symlink_metadata(&path)?.is_dir() { remove_tree(&path)? } else { fs::remove_file(&path)? }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Changes whenever a program of this build could not work with tables of another.
pub fn abi_hash() -> String {
    let mut hash = Sha256::new();
    hash.update(ABI_VERSION.to_le_bytes());
    let mut table = |table: &KernelTable| {
        hash.update(table.name.as_bytes());
        hash.update([0, table.kind as u8]);
        for number in [table.key_size, table.value_size, table.max_entries, table.layout] {
            hash.update(number.to_le_bytes());
        }
    };
    sided_tables().iter().for_each(&mut table);
    runtime_tables().iter().for_each(&mut table);
    hex(&hash.finalize()[..8])
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
