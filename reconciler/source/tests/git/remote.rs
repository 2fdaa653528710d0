//! A repository elsewhere, over HTTP.
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use weir_source::{GitOptions, GitSource, SourceError, Watch};

use crate::{
    http::{Manner, Server},
    repo::{PATIENCE, Repo, content, follow, git, paths, until, until_code, until_id},
};

/// A work tree that pushes to `origin.git`, which a web server serves; and where clones are kept.
struct World {
    repo: Repo,
    server: Server,
    cache: TempDir,
}

impl World {
    fn new() -> Self {
        let repo = Repo::ready();
        let root = repo.beside("served");
        fs::create_dir(&root).unwrap();
        repo.git(&["clone", "--quiet", "--bare", ".", "../served/origin.git"]);
        git(&root.join("origin.git"), &["config", "receive.denyDeleteCurrent", "ignore"]);
        repo.git(&["remote", "add", "origin", "../served/origin.git"]);
        Self { server: Server::start(&root), repo, cache: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> GitOptions {
        GitOptions {
            cache: self.cache.path().join("git"),
            poll: Duration::from_millis(50),
            timeout: Duration::from_secs(30),
            ..GitOptions::default()
        }
    }

    fn source(&self, fragment: &str) -> GitSource {
        GitSource::new(&format!("{}{fragment}", self.server.url("origin.git")), &self.options()).unwrap()
    }

    fn push(&self, text: &str) -> String {
        let id = self.repo.change(text);
        self.repo.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
        id
    }

    fn clone(&self) -> PathBuf {
        let clones = fs::read_dir(self.cache.path().join("git")).unwrap().map(|entry| entry.unwrap().path());
        let clones: Vec<PathBuf> = clones.filter(|path| path.extension().is_some_and(|end| end == "git")).collect();
        assert_eq!(clones.len(), 1, "{clones:?}");
        clones[0].clone()
    }
}

#[test]
fn a_look_fetches_what_is_needed_and_no_more() {
    let world = World::new();
    for text in ["2", "3", "4"] {
        world.push(text);
    }
    world.repo.git(&["tag", "-a", "v1", "-m", "one", "HEAD~1"]);
    world.repo.git(&["push", "--quiet", "--tags", "origin"]);
    let mut source = world.source("");
    let revision = source.read(PATIENCE).unwrap();
    assert_eq!((&revision.id, content(&revision)[0].1.as_str()), (&world.repo.head(), "4"));
    assert_eq!(git(&world.clone(), &["rev-list", "--count", "--all"]), "1", "no history");
    // Nothing is new: one question, no answer to wait for but the references.
    let before = world.server.requests();
    source.read(PATIENCE).unwrap();
    assert_eq!(world.server.requests() - before, 2, "the capabilities, and the references");

    for (fragment, text) in [("#main", "4"), ("#v1", "3"), ("#refs/tags/v1", "3"), ("#HEAD", "4")] {
        let revision = world.source(fragment).read(PATIENCE).unwrap();
        assert_eq!(content(&revision)[0].1, text, "{fragment}");
    }
    for fragment in ["#nope", "#refs/heads/nope"] {
        assert_eq!(world.source(fragment).read(PATIENCE).unwrap_err().code(), "source-branch");
    }
    let absent = GitSource::new(&world.server.url("absent.git"), &world.options()).unwrap().read(PATIENCE);
    assert_eq!(absent.unwrap_err().code(), "source-missing");
}

#[test]
fn a_commit_is_asked_for_once() {
    let world = World::new();
    let wanted = world.push("2");
    world.push("3");
    let read = || world.source(&format!("#{wanted}")).read(PATIENCE);
    assert_eq!(read().unwrap().id, wanted);
    let before = world.server.requests();
    assert_eq!(read().unwrap().id, wanted);
    assert_eq!(world.server.requests(), before, "a commit never changes");
    let absent = "0".repeat(39) + "1";
    assert_eq!(world.source(&format!("#{absent}")).read(PATIENCE).unwrap_err().code(), "source-branch");
}

#[test]
fn a_plain_web_server_is_enough() {
    let world = World::new();
    world.server.behave(Manner::Files);
    let served = world.repo.beside("served/origin.git");
    for text in ["2", "3"] {
        let id = world.push(text);
        git(&served, &["update-server-info"]);
        assert_eq!(world.source("").read(PATIENCE).unwrap().id, id);
    }
}

#[test]
fn a_remote_in_sha_256() {
    let repo = Repo::with(&["--object-format=sha256"]);
    repo.write("a.yaml", "1");
    let id = repo.commit("one");
    let server = Server::start(repo.path.parent().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let options = GitOptions { cache: cache.path().into(), ..GitOptions::default() };
    let mut source = GitSource::new(&server.url("repo/.git"), &options).unwrap();
    assert_eq!(source.read(PATIENCE).unwrap().id, id);
}

#[test]
fn access_that_is_denied_is_said_and_never_asked_for() {
    let world = World::new();
    world.server.behave(Manner::Deny);
    let error = world.source("").read(PATIENCE).unwrap_err();
    assert_eq!(error.code(), "source-denied", "{error}");
}

#[test]
fn a_remote_that_hangs_is_given_up_on() {
    let world = World::new();
    world.server.behave(Manner::Hang);
    let options = GitOptions { timeout: Duration::from_millis(300), ..world.options() };
    let mut source = GitSource::new(&world.server.url("origin.git"), &options).unwrap();
    let error = source.read(Duration::ZERO).unwrap_err();
    assert_eq!(error.code(), "source-unreachable", "{error}");
    assert!(error.to_string().contains("did not end within 300ms"), "{error}");
    // And nothing of it runs on.
    let own = world.server.url("origin.git");
    let own = own.trim_start_matches("git+");
    let running = || {
        let output = std::process::Command::new("ps").args(["-eo", "args"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line.contains(own))
    };
    while running() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Each is what a crash or a full disk leaves behind.
#[test]
fn a_damaged_clone_is_made_anew() {
    let world = World::new();
    world.source("").read(PATIENCE).unwrap();
    let clone = world.clone();
    let pack = |clone: &Path| {
        let mut found: Vec<PathBuf> = Vec::new();
        let mut look = vec![clone.join("objects")];
        while let Some(directory) = look.pop() {
            for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() { look.push(entry) } else { found.push(entry) }
            }
        }
        found
    };
    type Damage<'a> = (&'a str, Box<dyn Fn()>);
    let file = |name: &str, text: &'static str| {
        let path = clone.join(name);
        Box::new(move || fs::write(&path, text).unwrap()) as Box<dyn Fn()>
    };
    let own = clone.clone();
    let truncated = Box::new(move || {
        for path in pack(&own) {
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let length = fs::metadata(&path).unwrap().len();
            fs::File::options().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
        }
    });
    let own = clone.clone();
    let emptied = Box::new(move || fs::remove_dir_all(own.join("objects")).unwrap());
    let own = clone.clone();
    let no_head = Box::new(move || fs::remove_file(own.join("HEAD")).unwrap());
    let own = clone.clone();
    let a_file = Box::new(move || {
        fs::remove_dir_all(&own).unwrap();
        fs::write(&own, "not a directory").unwrap();
    });
    let damages: [Damage<'_>; 8] = [
        ("a lock of the shallow file", file("shallow.lock", "")),
        ("a lock of the reference", file("refs/weir/source.lock", "")),
        ("a lock of the configuration", file("config.lock", "")),
        ("no HEAD", no_head),
        ("a HEAD of nonsense", file("HEAD", "\0\0\0")),
        ("objects cut short", truncated),
        ("no objects", emptied),
        ("a file in its place", a_file),
    ];
    for (round, (what, damage)) in damages.into_iter().enumerate() {
        damage();
        let id = world.push(&format!("round {round}"));
        let revision = world.source("").read(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(revision.id, id, "{what}");
        // And without anything new.
        world.source("").read(PATIENCE).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    }
}

#[test]
fn damage_under_a_reader_that_has_it_open() {
    let world = World::new();
    let mut source = world.source("");
    source.read(PATIENCE).unwrap();
    fs::remove_dir_all(world.clone()).unwrap();
    assert_eq!(source.read(PATIENCE).unwrap().id, world.repo.head());
    let id = world.push("2");
    fs::remove_dir_all(world.clone().join("objects")).unwrap();
    assert_eq!(source.read(PATIENCE).unwrap().id, id);
}

#[test]
fn two_readers_of_one_clone_do_not_disturb_each_other() {
    let world = World::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let revision = world.source("").read(PATIENCE).unwrap();
                    assert_eq!(paths(&revision), ["a.yaml"]);
                }
            });
        }
        (0..5).for_each(|round| drop(world.push(&format!("round {round}"))));
    });
    assert_eq!(world.source("").read(PATIENCE).unwrap().id, world.repo.head());
}

#[test]
fn any_revision_of_a_remote_by_any_name() {
    let world = World::new();
    let first = world.repo.head();
    world.repo.git(&["tag", "v1"]);
    world.repo.git(&["push", "--quiet", "--tags", "origin"]);
    let second = world.push("2");
    let mut source = world.source("");
    for (rev, id) in
        [("HEAD", &second), ("main", &second), ("origin/main", &second), ("v1", &first), ("main~1", &first)]
    {
        assert_eq!(source.read_at(rev, PATIENCE).unwrap().id, *id, "{rev}");
    }
    assert!(!world.cache.path().join("git").exists(), "whoever compares leaves nothing behind");
}

/// Whoever only looks needs no state directory.
#[test]
fn without_a_place_for_the_clone() {
    let world = World::new();
    let options = GitOptions { cache: "/proc/nobody/can/write/here".into(), ..world.options() };
    let read = GitSource::new(&world.server.url("origin.git"), &options).unwrap().read(PATIENCE);
    let code = read.map(|revision| revision.id.clone()).map_err(|error| error.code());
    assert!(code == Ok(world.repo.head()) || code == Err("source-cache"), "{code:?}");
}

fn followed(world: &World) -> Watch {
    follow(world.source("#main"))
}

#[tokio::test]
async fn pushes_arrive_and_so_does_a_rewritten_branch() {
    let world = World::new();
    let mut watch = followed(&world);
    until_id(&mut watch, &world.repo.head()).await;
    for text in ["2", "3"] {
        until_id(&mut watch, &world.push(text)).await;
    }
    world.repo.git(&["reset", "--quiet", "--hard", "HEAD~2"]);
    let rewritten = world.push("another history");
    until_id(&mut watch, &rewritten).await;
    world.repo.git(&["push", "--quiet", "origin", "HEAD:refs/heads/kept", ":main"]);
    until_code(&mut watch, "source-branch").await;
    let back = world.push("back");
    until_id(&mut watch, &back).await;
}

#[tokio::test]
async fn a_remote_that_goes_away_and_comes_back() {
    let mut world = World::new();
    let mut watch = followed(&world);
    until_id(&mut watch, &world.repo.head()).await;
    for manner in [None, Some(Manner::Deny), Some(Manner::Cut)] {
        match manner {
            Some(manner) => world.server.behave(manner),
            None => world.server.stop(),
        }
        let missed = world.push("while it was away");
        let error = until(&mut watch, Result::is_err).await.unwrap_err();
        assert!(matches!(&*error, SourceError::Git { .. }), "{error}");
        let wanted = if manner == Some(Manner::Deny) { "source-denied" } else { "source-unreachable" };
        assert_eq!(error.code(), wanted, "{error}");
        world.server.restart();
        until_id(&mut watch, &missed).await;
        // It is followed again.
        until_id(&mut watch, &world.push("afterwards")).await;
    }
}

#[tokio::test]
async fn a_look_can_be_asked_for_and_a_stop_does_not_wait() {
    let world = World::new();
    let options = GitOptions { poll: Duration::from_secs(3600), ..world.options() };
    let source = GitSource::new(&world.server.url("origin.git"), &options).unwrap();
    let mut watch = follow(source);
    until_id(&mut watch, &world.repo.head()).await;
    let id = world.push("2");
    watch.look(false);
    until_id(&mut watch, &id).await;
    world.server.behave(Manner::Hang);
    let before = world.server.requests();
    watch.look(false);
    while world.server.requests() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(watch);
}
