//! What can happen to the files of a state.
use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    Truncated,
    Zeroed,
    Flipped,
    Strays,
    Emptied,
    Missing,
    OldFormat,
    Garbage,
    /// A copy from some rounds ago.
    Backup,
    /// Records, contents and what was made of them, changed behind sled's checksums.
    Records,
    /// A directory where a file should be.
    Directory,
    Journal,
    FullDisk,
    ReadOnly,
    /// Somebody else's.
    Lock,
}

pub const KINDS: [Damage; 15] = [
    Damage::Truncated,
    Damage::FullDisk,
    Damage::Zeroed,
    Damage::ReadOnly,
    Damage::Flipped,
    Damage::Lock,
    Damage::Strays,
    Damage::Emptied,
    Damage::Missing,
    Damage::OldFormat,
    Damage::Garbage,
    Damage::Backup,
    Damage::Records,
    Damage::Directory,
    Damage::Journal,
];

/// Every file below the state, but for what was moved aside and what belongs to nobody.
pub fn files(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(state) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("quarantine-")) {
            continue;
        }
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

/// Everything but the mount point itself.
pub fn clear(state: &Path) {
    for entry in fs::read_dir(state).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
}

fn any<'a>(files: &'a [PathBuf], random: &mut fastrand::Rng) -> &'a Path {
    &files[random.usize(..files.len())]
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

/// The database itself, as soon as sled lets go of it.
fn raw(state: &Path) -> Option<sled::Db> {
    let open = || std::panic::catch_unwind(|| sled::open(state.join("sled"))).ok()?.ok();
    (0..200).find_map(|_| {
        open().or_else(|| {
            thread::sleep(Duration::from_millis(10));
            None
        })
    })
}

/// Does to the files what the name says, somewhere; and says where.
pub fn inflict(damage: Damage, state: &Path, backup: &Path, random: &mut fastrand::Rng) -> String {
    let files = files(state);
    let db = state.join("sled/db");
    let mostly_db = |random: &mut fastrand::Rng| {
        if random.u8(..4) > 0 { db.clone() } else { any(&files, random).to_owned() }
    };
    let shown = |file: &Path| file.strip_prefix(state).unwrap().display().to_string();
    match damage {
        Damage::Truncated => {
            let file = mostly_db(random);
            let length = fs::metadata(&file).unwrap().len();
            let keep = random.u64(..=length);
            OpenOptions::new().write(true).open(&file).unwrap().set_len(keep).unwrap();
            format!("{} cut from {length} to {keep}", shown(&file))
        }
        Damage::Zeroed => {
            let pages = fs::metadata(&db).unwrap().len() / 4096;
            let file = OpenOptions::new().write(true).open(&db).unwrap();
            let zeroed: Vec<u64> = (0..random.usize(1..8)).map(|_| random.u64(..pages.max(1))).collect();
            for page in &zeroed {
                file.write_all_at(&[0; 4096], page * 4096).unwrap();
            }
            format!("zeroed pages {zeroed:?} of {pages}")
        }
        Damage::Flipped => {
            let mut flipped = Vec::new();
            for _ in 0..random.usize(1..16) {
                let file = mostly_db(random);
                change(&file, |bytes| {
                    if !bytes.is_empty() {
                        let at = random.usize(..bytes.len());
                        bytes[at] ^= 1 << random.u8(..8);
                        flipped.push(format!("{} at {at}", shown(&file)));
                    }
                });
            }
            format!("flipped a bit of {}", flipped.join(", "))
        }
        Damage::Strays => {
            let number = random.u64(..1 << 40);
            let bytes: Vec<u8> = (0..random.usize(..2000)).map(|_| random.u8(..)).collect();
            let name = match random.u8(..3) {
                0 => format!("snap.{number:016X}.generating"),
                1 => format!("snap.{number:016X}"),
                _ => format!("snap.{:016X}", u64::MAX),
            };
            fs::write(state.join("sled").join(&name), bytes).unwrap();
            format!("a stray {name}")
        }
        Damage::Emptied => {
            let file = any(&files, random);
            fs::write(file, "").unwrap();
            format!("{} is empty", shown(file))
        }
        Damage::Missing => match random.u8(..4) {
            0 => {
                clear(state);
                "all of it is gone".to_owned()
            }
            1 => {
                fs::remove_dir_all(state.join("sled")).unwrap();
                "the database is gone".to_owned()
            }
            _ => {
                let file = any(&files, random);
                fs::remove_file(file).unwrap();
                format!("{} is gone", shown(file))
            }
        },
        Damage::OldFormat => {
            let records = raw(state).unwrap().open_tree("records").unwrap();
            let mut head = records.get("h").unwrap().unwrap().to_vec();
            head[0] = head[0].wrapping_sub(1);
            records.insert("h", head).unwrap();
            records.flush().unwrap();
            "the head is of the format before".to_owned()
        }
        Damage::Garbage => {
            let file = mostly_db(random);
            change(&file, |bytes| bytes.iter_mut().for_each(|byte| *byte = random.u8(..)));
            format!("{} is noise", shown(&file))
        }
        Damage::Backup => {
            clear(state);
            copy(backup, state);
            "a copy of some rounds ago".to_owned()
        }
        Damage::Records => {
            let db = raw(state).unwrap();
            let tree = ["records", "blobs", "made"][random.usize(..3)];
            let values = db.open_tree(tree).unwrap();
            let keys: Vec<sled::IVec> = values.iter().keys().map(Result::unwrap).collect();
            let mut hit = 0;
            for key in keys.iter().filter(|_| random.u8(..8) == 0).collect::<Vec<_>>() {
                let mut value = values.get(key).unwrap().unwrap().to_vec();
                hit += 1;
                if value.is_empty() || random.bool() {
                    values.remove(key).unwrap();
                } else {
                    let at = random.usize(..value.len());
                    value[at] ^= 1 << random.u8(..8);
                    values.insert(key, value).unwrap();
                }
            }
            values.flush().unwrap();
            format!("{hit} of {} values in {tree} changed or gone", keys.len())
        }
        Damage::Directory => {
            let below: Vec<PathBuf> =
                files.iter().filter(|file| file.starts_with(state.join("sled"))).cloned().collect();
            let file = any(&below, random);
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
            format!("{} is a directory", shown(file))
        }
        Damage::Journal => {
            let bytes: Vec<u8> = (0..random.usize(..5000)).map(|_| random.u8(..)).collect();
            fs::write(state.join("journal"), &bytes).unwrap();
            format!("{} bytes of noise for a journal", bytes.len())
        }
        Damage::FullDisk | Damage::ReadOnly | Damage::Lock => unreachable!("these are no damage of files"),
    }
}

/// Until nothing more fits.
pub fn fill(filler: &Path) {
    let mut file = File::create(filler).unwrap();
    let mut block = vec![0u8; 1 << 20];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
}
