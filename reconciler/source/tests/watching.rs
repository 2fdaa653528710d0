//! Following a directory: whatever happens to it, the last outcome is the truth.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
use std::{fs, os::unix::fs::symlink, path::Path, sync::Mutex, time::Duration};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tokio::time::timeout;
use weir_source::{DirSource, Outcome, Revision, Source, SourceError, Watch, WatchOptions};

const OPTIONS: WatchOptions = WatchOptions {
    rest: Duration::from_millis(20),
    patience: Duration::from_secs(60),
    // So long that only hints can explain what is seen.
    resync: Duration::from_secs(3600),
    reread: Duration::from_secs(3600),
    retry: Duration::from_millis(100),
};

/// The limit of a queue is read when it is made: tests that make one must not meet the one that shrinks it.
static QUEUE_LIMIT: Mutex<()> = Mutex::new(());

fn follow(root: &Path) -> Watch {
    let _limit = QUEUE_LIMIT.lock().unwrap();
    Source::Dir(DirSource::new(&[root.to_path_buf()])).follow(OPTIONS).unwrap()
}

/// Waits until an outcome satisfies `wanted`, past others.
async fn until(watch: &mut Watch, wanted: impl Fn(&Outcome) -> bool) -> Outcome {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            let outcome = watch.changed().await;
            if wanted(&outcome) {
                return outcome;
            }
            seen.push(outcome);
        }
    };
    match timeout(Duration::from_secs(60), wait).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("never came; seen: {seen:?}"),
    }
}

fn content(revision: &Revision) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    revision.files.iter().map(|file| (file.path.to_string(), text(&file.bytes))).collect()
}

async fn until_content(watch: &mut Watch, wanted: &[(&str, &str)]) {
    let wanted: Vec<(String, String)> = wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    until(watch, |outcome| outcome.as_ref().is_ok_and(|revision| content(revision) == wanted)).await.unwrap();
}

#[tokio::test]
async fn every_way_of_writing_a_file_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a.yaml"), "1").unwrap();
    let mut watch = follow(dir.path());
    until_content(&mut watch, &[("a.yaml", "1")]).await;

    fs::write(at("a.yaml"), "2").unwrap();
    until_content(&mut watch, &[("a.yaml", "2")]).await;

    // An editor: a new file takes the old one's name.
    fs::write(at(".a.yaml.swp"), "3").unwrap();
    fs::rename(at(".a.yaml.swp"), at("a.yaml")).unwrap();
    until_content(&mut watch, &[("a.yaml", "3")]).await;

    // Another editor: the old file becomes a backup, and a new one is made.
    fs::rename(at("a.yaml"), at("a.yaml~")).unwrap();
    fs::write(at("a.yaml"), "4").unwrap();
    until_content(&mut watch, &[("a.yaml", "4"), ("a.yaml~", "3")]).await;

    fs::remove_file(at("a.yaml~")).unwrap();
    until_content(&mut watch, &[("a.yaml", "4")]).await;

    // Files in directories that did not exist when they were looked for.
    fs::create_dir_all(at("x/y/z")).unwrap();
    fs::write(at("x/y/z/b.yaml"), "5").unwrap();
    until_content(&mut watch, &[("a.yaml", "4"), ("x/y/z/b.yaml", "5")]).await;
    fs::write(at("x/y/z/b.yaml"), "6").unwrap();
    until_content(&mut watch, &[("a.yaml", "4"), ("x/y/z/b.yaml", "6")]).await;

    // A directory moves as a whole, and is still followed.
    fs::rename(at("x/y"), at("w")).unwrap();
    until_content(&mut watch, &[("a.yaml", "4"), ("w/z/b.yaml", "6")]).await;
    fs::write(at("w/z/b.yaml"), "7").unwrap();
    until_content(&mut watch, &[("a.yaml", "4"), ("w/z/b.yaml", "7")]).await;
}

#[tokio::test]
async fn a_volume_swap_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("..1")).unwrap();
    fs::write(at("..1/a.yaml"), "1").unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let mut watch = follow(dir.path());
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    for generation in 2..6 {
        let data = at(&format!("..{generation}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("a.yaml"), generation.to_string()).unwrap();
        symlink(format!("..{generation}"), at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        until_content(&mut watch, &[("a.yaml", &generation.to_string())]).await;
    }
}

#[tokio::test]
async fn a_root_that_goes_away_is_an_error_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), "1").unwrap();
    let mut watch = follow(&root);
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    for round in 0..5 {
        fs::remove_dir_all(&root).unwrap();
        let outcome = until(&mut watch, |outcome| outcome.is_err()).await;
        assert!(matches!(&*outcome.unwrap_err(), SourceError::Missing { .. }));

        fs::create_dir(&root).unwrap();
        let outcome = watch.changed().await;
        assert!(matches!(&*outcome.unwrap_err(), SourceError::Replaced { .. }), "never an empty set");

        fs::write(root.join("a.yaml"), round.to_string()).unwrap();
        until_content(&mut watch, &[("a.yaml", &round.to_string())]).await;
    }
}

#[tokio::test]
async fn a_release_directory_is_swapped_by_its_link() {
    let dir = tempfile::tempdir().unwrap();
    for release in ["1", "2"] {
        fs::create_dir(dir.path().join(release)).unwrap();
        fs::write(dir.path().join(release).join("a.yaml"), release).unwrap();
    }
    let current = dir.path().join("current");
    symlink("1", &current).unwrap();
    let mut watch = follow(&current);
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    symlink("2", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), &current).unwrap();
    until_content(&mut watch, &[("a.yaml", "2")]).await;
}

/// Many files are replaced, with time in between; only whole checkouts come out.
#[tokio::test]
async fn a_checkout_in_progress_is_not_a_revision() {
    let dir = tempfile::tempdir().unwrap();
    let checkout = |generation: u32| {
        for n in 0..200 {
            let path = dir.path().join(format!("{n}.yaml"));
            let temporary = dir.path().join(".tmp");
            fs::write(&temporary, generation.to_string()).unwrap();
            fs::rename(&temporary, &path).unwrap();
        }
    };
    checkout(0);
    let _limit = QUEUE_LIMIT.lock().unwrap();
    let options = WatchOptions { rest: Duration::from_millis(500), ..OPTIONS };
    let mut watch = Source::Dir(DirSource::new(&[dir.path().to_path_buf()])).follow(options).unwrap();
    drop(_limit);
    for generation in 0..4 {
        if generation > 0 {
            checkout(generation);
        }
        let outcome = timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap();
        assert_eq!(outcome.files.len(), 200);
        for file in &outcome.files {
            assert_eq!(String::from_utf8_lossy(&file.bytes), generation.to_string(), "{}", file.path);
        }
    }
}

/// By git itself, between two commits that have no file in common but by name.
#[tokio::test]
async fn a_storm_of_5000_files_is_never_a_mixture() {
    const FILES: usize = 5000;
    let dir = tempfile::tempdir().unwrap();
    let git = |words: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.auto=0"]).args(words);
        let status = command.current_dir(dir.path()).env("GIT_CONFIG_GLOBAL", "/dev/null").status().unwrap();
        assert!(status.success(), "git {words:?}");
    };
    git(&["init", "--quiet", "-b", "main"]);
    for generation in ["0", "1"] {
        for n in 0..FILES {
            let path = dir.path().join(format!("{}/{n}.yaml", n % 50));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, generation).unwrap();
        }
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "-m", generation]);
        git(&["tag", &format!("g{generation}")]);
    }
    let watch = {
        let _limit = QUEUE_LIMIT.lock().unwrap();
        let options = WatchOptions { rest: Duration::from_secs(1), ..OPTIONS };
        Source::Dir(DirSource::new(&[dir.path().to_path_buf()])).follow(options)
    };
    let mut watch = watch.unwrap();
    for generation in ["1", "0", "1", "0"] {
        git(&["checkout", "--quiet", &format!("g{generation}")]);
        let revision = timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap();
        assert_eq!(revision.files.len(), FILES);
        let mixed = revision.files.iter().filter(|file| *file.bytes != *generation.as_bytes()).count();
        assert_eq!(mixed, 0);
    }
}

/// In a mount namespace of this thread's own. A mount or its end gives no hint: the periodic look finds out.
#[test]
fn a_directory_that_is_unmounted_while_it_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let mount_it = |content: &str| {
            mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            fs::write(root.join("a.yaml"), content).unwrap();
        };
        mount_it("0");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = WatchOptions { resync: Duration::from_millis(200), ..OPTIONS };
            let mut watch = Source::Dir(DirSource::new(std::slice::from_ref(&root))).follow(options).unwrap();
            until_content(&mut watch, &[("a.yaml", "0")]).await;
            for round in 1..4 {
                umount2(&root, MntFlags::MNT_DETACH).unwrap();
                let error = until(&mut watch, Result::is_err).await.unwrap_err();
                assert!(matches!(&*error, SourceError::Replaced { .. }), "never an empty set: {error}");
                mount_it(&round.to_string());
                until_content(&mut watch, &[("a.yaml", &round.to_string())]).await;
            }
        });
    })
    .join()
    .unwrap();
}

/// In two halves, again and again, with less time between them than the rest that is asked for.
#[tokio::test]
async fn a_file_that_is_being_written_is_not_a_revision() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, "0 begin 0 end").unwrap();
    let watch = {
        let _limit = QUEUE_LIMIT.lock().unwrap();
        let options = WatchOptions { rest: Duration::from_secs(1), ..OPTIONS };
        Source::Dir(DirSource::new(&[dir.path().to_path_buf()])).follow(options)
    };
    let mut watch = watch.unwrap();
    watch.changed().await.unwrap();
    for round in 1..4 {
        let writing = path.clone();
        let writer = std::thread::spawn(move || {
            let mut file = fs::File::create(&writing).unwrap();
            for part in [format!("{round} begin "), format!("{round} en"), "d".to_owned()] {
                std::io::Write::write_all(&mut file, part.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let revision = timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap();
        assert_eq!(content(&revision)[0].1, format!("{round} begin {round} end"));
        writer.join().unwrap();
    }
}

/// With a queue of two events, nearly all are lost.
#[tokio::test]
async fn an_overflow_loses_nothing() {
    const LIMIT: &str = "/proc/sys/fs/inotify/max_queued_events";
    let dir = tempfile::tempdir().unwrap();
    (0..50).for_each(|n| fs::create_dir(dir.path().join(n.to_string())).unwrap());
    let mut watch = {
        let _limit = QUEUE_LIMIT.lock().unwrap();
        let before = fs::read_to_string(LIMIT).unwrap();
        fs::write(LIMIT, "2").expect("needs root");
        let watch = Source::Dir(DirSource::new(&[dir.path().to_path_buf()])).follow(OPTIONS);
        fs::write(LIMIT, before).unwrap();
        watch.unwrap()
    };
    until_content(&mut watch, &[]).await;
    for round in 0..5 {
        let mut wanted = Vec::new();
        for n in 0..50 {
            for m in 0..10 {
                let path = format!("{n}/{m}.yaml");
                fs::write(dir.path().join(&path), round.to_string()).unwrap();
                wanted.push((path, round.to_string()));
            }
        }
        wanted.sort();
        until(&mut watch, |outcome| outcome.as_ref().is_ok_and(|revision| content(revision) == wanted)).await.unwrap();
    }
}

#[tokio::test]
async fn an_equal_revision_is_no_news_and_a_look_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), "1").unwrap();
    let mut watch = follow(dir.path());
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    fs::write(dir.path().join("a.yaml"), "1").unwrap();
    watch.look(true);
    fs::write(dir.path().join("b.yaml"), "2").unwrap();
    let outcome = timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap();
    assert_eq!(content(&outcome).len(), 2, "the first change is the first news");
    assert!(watch.latest().unwrap().is_ok());
}

#[tokio::test]
async fn the_thread_ends_with_the_watch() {
    let dir = tempfile::tempdir().unwrap();
    let mut watch = follow(dir.path());
    until(&mut watch, Result::is_ok).await.unwrap();
    let open = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        let inotify = |path: &std::path::PathBuf| path.to_string_lossy().contains("inotify");
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(inotify).count()
    };
    // Other tests have some open as well: their number must come down to what it was without this one.
    let with = open();
    assert!(with > 0);
    drop(watch);
    let gone = async {
        while open() >= with {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), gone).await.unwrap();
}

/// Others of this user have every inotify instance: then it looks again and again, and says so, but never gives up.
#[tokio::test]
async fn without_inotify_it_looks_every_now_and_then() {
    const INSIDE: &str = "WEIR_WITHOUT_INOTIFY";
    if std::env::var_os(INSIDE).is_none() {
        // The limit is that of a user namespace, of which only a process with one thread can make its own.
        let status = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c"])
            .arg("echo 0 >/proc/sys/user/max_inotify_instances && exec \"$0\" --exact \"$1\"")
            .arg(std::env::current_exe().unwrap())
            .arg("without_inotify_it_looks_every_now_and_then")
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        return;
    }
    nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::empty()).unwrap_err();
    let dir = tempfile::tempdir().unwrap();
    let mut watch = follow(dir.path());
    until_content(&mut watch, &[]).await;
    for round in 0..3 {
        fs::write(dir.path().join("a.yaml"), round.to_string()).unwrap();
        until_content(&mut watch, &[("a.yaml", &round.to_string())]).await;
    }
}
