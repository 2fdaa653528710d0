//! One look at a directory: what is delivered, what is refused, what is not read again.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
use std::{
    fs::{self, File, FileTimes},
    os::unix::{ffi::OsStringExt, fs::symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
    unistd::mkfifo,
};
use weir_source::{DirSource, MAX_FILE_BYTES, Revision, Scan, SourceError};

const REST: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than the grain of the kernel's clock.
fn let_stamps_age() {
    thread::sleep(Duration::from_millis(60));
}

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn source(root: &Path) -> DirSource {
    DirSource::new(&[root.to_path_buf()])
}

fn paths(revision: &Revision) -> Vec<&str> {
    revision.files.iter().map(|file| &*file.path).collect()
}

fn text(revision: &Revision, path: &str) -> String {
    String::from_utf8(revision.get(path).unwrap().bytes.to_vec()).unwrap()
}

fn scan(root: &Path) -> Result<Scan, SourceError> {
    source(root).settled(REST, PATIENCE)
}

#[test]
fn every_visible_file_below_the_root_is_delivered_sorted() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["b.yaml", "a/z.yml", "a/lists/drop.txt", "a-b.yaml", ".hidden.yaml", ".git/config.yaml", "a/.x/y.yaml"]
    {
        write(dir.path(), path, path);
    }
    let scan = scan(dir.path()).unwrap();
    assert_eq!(paths(&scan.revision), ["a-b.yaml", "a/lists/drop.txt", "a/z.yml", "b.yaml"]);
    assert_eq!(scan.revision.manifests().count(), 3);
    assert_eq!(text(&scan.revision, "a/z.yml"), "a/z.yml");
    assert_eq!(source(dir.path()).locate("a/z.yml"), Some(dir.path().join("a/z.yml")));
}

#[test]
fn an_empty_directory_is_an_empty_revision_and_a_missing_one_an_error() {
    let dir = tempfile::tempdir().unwrap();
    assert!(scan(dir.path()).unwrap().revision.files.is_empty());
    for missing in [dir.path().join("no"), dir.path().join("no/deeper")] {
        let error = scan(&missing).unwrap_err();
        assert!(matches!(&error, SourceError::Missing { path } if *path == missing), "{error}");
    }
    write(dir.path(), "file", "");
    let error = scan(&dir.path().join("file/below")).unwrap_err();
    assert_eq!(error.code(), "source-missing");
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    (0..100).for_each(|n| write(dir.path(), &format!("{n}.yaml"), "x"));
    let_stamps_age();
    let mut source = source(dir.path());
    let first = source.scan().unwrap();
    assert!(first.changed);
    assert_eq!((first.effort.examined, first.effort.read), (100, 100));
    let second = source.scan().unwrap();
    assert!(!second.changed);
    assert_eq!((second.effort.examined, second.effort.read), (100, 0));
    assert!(Arc::ptr_eq(&first.revision, &second.revision));

    write(dir.path(), "7.yaml", "y");
    let third = source.scan().unwrap();
    assert!(third.changed);
    assert_eq!(third.effort.read, 1);
    assert!(Arc::ptr_eq(&third.revision.files[0].bytes, &first.revision.files[0].bytes), "one copy in memory");

    source.forget();
    assert_eq!(source.scan().unwrap().effort.read, 100);
}

#[test]
fn a_touched_file_is_read_again_and_nothing_changed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", "x");
    let_stamps_age();
    let mut source = source(dir.path());
    source.scan().unwrap();
    write(dir.path(), "a.yaml", "x");
    let scan = source.scan().unwrap();
    assert_eq!(scan.effort.read, 1);
    assert!(!scan.changed);
}

/// Same size, same tick of the clock, same inode: only reading again can tell.
#[test]
fn a_change_within_the_same_tick_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = source(dir.path());
    for round in 0..2000 {
        let content = format!("{round:08}");
        write(dir.path(), "a.yaml", &content);
        assert_eq!(text(&source.scan().unwrap().revision, "a.yaml"), content);
    }
}

#[test]
fn a_change_that_hides_behind_the_old_mtime_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", "old");
    let path = dir.path().join("a.yaml");
    let old = fs::metadata(&path).unwrap().modified().unwrap();
    let_stamps_age();
    let mut source = source(dir.path());
    source.scan().unwrap();
    let_stamps_age();
    fs::write(&path, "new").unwrap();
    File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(old)).unwrap();
    assert_eq!(text(&source.scan().unwrap().revision, "a.yaml"), "new");
}

#[test]
fn a_file_dated_in_the_future_does_not_hold_things_up() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", "x");
    let future = SystemTime::now() + Duration::from_secs(1 << 20);
    let file = File::options().write(true).open(dir.path().join("a.yaml")).unwrap();
    file.set_times(FileTimes::new().set_modified(future)).unwrap();
    assert_eq!(paths(&scan(dir.path()).unwrap().revision), ["a.yaml"]);
}

#[test]
fn links_are_followed_inside_the_root_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    write(&root, "real/a.yaml", "a");
    write(dir.path(), "secret", "s");
    symlink("real", root.join("alias")).unwrap();
    symlink("real/a.yaml", root.join("b.yaml")).unwrap();
    assert_eq!(paths(&scan(&root).unwrap().revision), ["alias/a.yaml", "b.yaml", "real/a.yaml"]);

    for (target, code) in
        [("../secret", "source-symlink"), ("/etc/hostname", "source-symlink"), ("gone", "source-symlink")]
    {
        symlink(target, root.join("c.txt")).unwrap();
        assert_eq!(scan(&root).unwrap_err().code(), code, "{target}");
        fs::remove_file(root.join("c.txt")).unwrap();
    }
    symlink("../secret", root.join("c.txt")).unwrap();
    let error = scan(&root).unwrap_err();
    assert!(matches!(&error, SourceError::OutsideRoot { target, .. } if target.ends_with("secret")), "{error}");
}

#[test]
fn links_in_a_circle_are_an_error() {
    for (link, target) in [("real/up", ".."), ("real/self", "."), ("x", "x")] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "real/a.yaml", "a");
        symlink(target, dir.path().join(link)).unwrap();
        let error = scan(dir.path()).unwrap_err();
        assert!(matches!(error, SourceError::Loop { .. }), "{link}: {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a/a.yaml", "a");
    write(dir.path(), "b/b.yaml", "b");
    symlink("../b", dir.path().join("a/to-b")).unwrap();
    symlink("../a", dir.path().join("b/to-a")).unwrap();
    assert!(matches!(scan(dir.path()).unwrap_err(), SourceError::Loop { .. }));
}

#[test]
fn what_is_no_file_is_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", "a");
    mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
    assert_eq!(paths(&scan(dir.path()).unwrap().revision), ["a.yaml"]);
    mkfifo(&dir.path().join("pipe.yaml"), Mode::S_IRWXU).unwrap();
    assert!(matches!(scan(dir.path()).unwrap_err(), SourceError::NotAFile { .. }));
}

#[test]
fn a_name_that_is_not_text_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(std::ffi::OsString::from_vec(b"a\xff.yaml".to_vec())), "").unwrap();
    assert!(matches!(scan(dir.path()).unwrap_err(), SourceError::NotUtf8 { .. }));
}

#[test]
fn sizes_are_bounded_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let sparse = |name: &str, size: u64| File::create(dir.path().join(name)).unwrap().set_len(size).unwrap();
    sparse("big", MAX_FILE_BYTES + 1);
    let error = scan(dir.path()).unwrap_err();
    assert!(matches!(&error, SourceError::FileTooLarge { path, .. } if path.ends_with("big")), "{error}");
    assert!(error.to_string().contains("larger than 64 MiB"), "{error}");
    (0..17).for_each(|n| sparse(&format!("{n}"), MAX_FILE_BYTES));
    sparse("big", 0);
    let error = scan(dir.path()).unwrap_err();
    assert!(matches!(error, SourceError::TotalTooLarge { .. }), "{error}");
}

#[test]
fn a_single_file_brings_what_it_mentions_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "filter.yaml", "fromFiles: [lists/drop.txt, ./allow.txt]\n");
    write(dir.path(), "lists/drop.txt", "d");
    write(dir.path(), "lists/other.txt", "o");
    write(dir.path(), "allow.txt", "a");
    write(dir.path(), "unrelated.yaml", "kind: Node");
    let file = dir.path().join("filter.yaml");
    let scan = scan(&file).unwrap();
    assert_eq!(paths(&scan.revision), ["allow.txt", "filter.yaml", "lists/drop.txt"]);
    assert_eq!(source(&file).locate("lists/drop.txt"), Some(dir.path().join("lists/drop.txt")));

    symlink("/etc/hostname", dir.path().join("outside")).unwrap();
    write(dir.path(), "filter.yaml", "fromFiles: [outside]\n");
    assert_eq!(self::scan(&file).unwrap_err().code(), "source-symlink");
}

#[test]
fn several_roots_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["a/x.yaml", "b/x.yaml", "c.yaml", "list.txt"] {
        write(dir.path(), path, if path == "c.yaml" { "list.txt" } else { path });
    }
    let root = dir.path().to_str().unwrap().trim_start_matches('/').to_owned();
    let roots: Vec<PathBuf> = ["a", "b/", "c.yaml", "a"].iter().map(|name| dir.path().join(name)).collect();
    let mut source = DirSource::new(&roots);
    let scan = source.settled(REST, PATIENCE).unwrap();
    let expected: Vec<String> =
        ["a/x.yaml", "b/x.yaml", "c.yaml", "list.txt"].iter().map(|name| format!("{root}/{name}")).collect();
    assert_eq!(paths(&scan.revision), expected);
    assert_eq!(source.roots().count(), 3, "one that is named twice counts once");
    for (path, name) in expected.iter().zip(["a/x.yaml", "b/x.yaml", "c.yaml", "list.txt"]) {
        assert_eq!(source.locate(path), Some(dir.path().join(name)));
    }
    // Through `..`: still apart.
    let climbing = [dir.path().join("a/../b"), dir.path().join("a")];
    let scan = DirSource::new(&climbing).settled(REST, PATIENCE).unwrap();
    assert_eq!(paths(&scan.revision), expected[..2]);

    let nested = [dir.path().join("a"), dir.path().to_path_buf()];
    assert!(matches!(DirSource::new(&nested).scan().unwrap_err(), SourceError::Nested { .. }));
    let missing = [dir.path().join("a"), dir.path().join("gone")];
    assert_eq!(DirSource::new(&missing).scan().unwrap_err().code(), "source-missing");
}

#[test]
fn a_directory_made_anew_and_still_empty_is_no_empty_set() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    write(&root, "a.yaml", "a");
    let mut source = source(&root);
    source.scan().unwrap();
    fs::rename(&root, dir.path().join("old")).unwrap();
    assert!(matches!(source.scan().unwrap_err(), SourceError::Missing { .. }));
    fs::create_dir(&root).unwrap();
    assert!(matches!(source.scan().unwrap_err(), SourceError::Replaced { .. }));
    write(&root, "list.txt", "no manifest");
    assert!(matches!(source.scan().unwrap_err(), SourceError::Replaced { .. }));
    write(&root, "b.yaml", "b");
    assert_eq!(paths(&source.scan().unwrap().revision), ["b.yaml", "list.txt"]);
    // Emptied in place is what it says.
    fs::remove_file(root.join("b.yaml")).unwrap();
    fs::remove_file(root.join("list.txt")).unwrap();
    assert!(source.scan().unwrap().revision.files.is_empty());
}

/// In a mount namespace of this thread's own.
#[test]
fn an_unmounted_directory_is_no_empty_set() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        write(&root, "a.yaml", "a");
        let mut source = source(&root);
        assert_eq!(paths(&source.scan().unwrap().revision), ["a.yaml"]);
        umount2(&root, MntFlags::MNT_DETACH).unwrap();
        let error = source.scan().unwrap_err();
        assert!(matches!(error, SourceError::Replaced { .. }), "{error}");
    })
    .join()
    .unwrap();
}

/// A Kubernetes volume: visible links into `..data`, which is itself a link that is swapped by a rename.
struct Volume {
    root: PathBuf,
}

impl Volume {
    fn swap(&self, generation: u32) {
        let data = format!("..{generation}");
        (0..20).for_each(|n| write(&self.root, &format!("{data}/{n}.yaml"), &generation.to_string()));
        symlink(&data, self.root.join("..data_tmp")).unwrap();
        fs::rename(self.root.join("..data_tmp"), self.root.join("..data")).unwrap();
        if generation == 0 {
            (0..20).for_each(|n| {
                symlink(format!("..data/{n}.yaml"), self.root.join(format!("{n}.yaml"))).unwrap();
            });
        } else {
            fs::remove_dir_all(self.root.join(format!("..{}", generation - 1))).unwrap();
        }
    }
}

#[test]
fn a_volume_that_is_swapped_is_never_a_mixture() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume { root: dir.path().to_path_buf() };
    volume.swap(0);
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = thread::spawn({
        let stop = stop.clone();
        move || {
            for generation in 1.. {
                if stop.load(Ordering::Relaxed) {
                    return generation - 1;
                }
                volume.swap(generation);
                thread::sleep(Duration::from_millis(u64::from(generation % 7)));
            }
            unreachable!()
        }
    });
    let mut source = source(dir.path());
    let mut delivered = 0;
    for _ in 0..40 {
        let Ok(scan) = source.settled(Duration::ZERO, PATIENCE) else { continue };
        assert_eq!(scan.revision.files.len(), 20);
        delivered += 1;
        let first = text(&scan.revision, "0.yaml");
        for file in &scan.revision.files {
            assert_eq!(String::from_utf8_lossy(&file.bytes), first, "{}", file.path);
        }
    }
    assert!(delivered >= 10, "only {delivered} looks came to a result");
    stop.store(true, Ordering::Relaxed);
    let last: u32 = swapper.join().unwrap();
    let scan = source.settled(REST, PATIENCE).unwrap();
    assert_eq!(text(&scan.revision, "19.yaml"), last.to_string());
}

/// Files that are written in place, bit by bit: what comes out is complete.
#[test]
fn a_half_written_file_is_not_delivered() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    let begun = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let begun = begun.clone();
        move || {
            let mut file = File::create(&path).unwrap();
            begun.store(true, Ordering::Release);
            for line in 0..100 {
                writeln!(file, "line {line}").unwrap();
                thread::sleep(Duration::from_millis(2));
            }
            writeln!(file, "end").unwrap();
        }
    });
    while !begun.load(Ordering::Acquire) {
        thread::yield_now();
    }
    let scan = source(dir.path()).settled(Duration::from_millis(500), PATIENCE).unwrap();
    assert!(text(&scan.revision, "a.yaml").ends_with("end\n"));
    writer.join().unwrap();
}

#[test]
fn a_directory_that_never_rests_is_an_error_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let stop = stop.clone();
        move || {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                write(&root, "a.yaml", &n.to_string());
            }
        }
    });
    thread::sleep(Duration::from_millis(50));
    let error = source(dir.path()).settled(Duration::from_secs(5), Duration::from_millis(300)).unwrap_err();
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(matches!(error, SourceError::Restless { .. }), "{error}");
    assert!(error.is_transient());
}

/// It was taken for a change in progress, which never came to rest.
#[test]
fn a_link_through_a_file_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), "x").unwrap();
    symlink("a.yaml/x", dir.path().join("b.yaml")).unwrap();
    let error = DirSource::new(&[dir.path().to_path_buf()]).scan().unwrap_err();
    assert!(matches!(error, SourceError::Dangling { .. }), "{error}");
}
