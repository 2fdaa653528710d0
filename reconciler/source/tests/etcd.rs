//! etcd as the source, against a real one: whatever happens to it, what is delivered is what it held, and in the end what
//! it holds.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[allow(dead_code, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../../../tests/src/etcd.rs"]
mod etcd;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use etcd::{Etcd, PREFIX};
use etcd_client::{Client, Txn, TxnOp};
use tokio::time::timeout;
use weir_source::{EtcdOptions, EtcdSource, Outcome, Revision, SourceFile, Watch, WatchOptions};

const OPTIONS: WatchOptions = WatchOptions {
    rest: Duration::from_millis(5),
    patience: Duration::from_secs(2),
    // So long that only the watch can explain what is seen.
    resync: Duration::from_secs(3600),
    reread: Duration::from_secs(3600),
    retry: Duration::from_millis(100),
};

/// For whoever follows: it comes back by itself.
fn impatient() -> EtcdOptions {
    EtcdOptions { timeout: Duration::from_millis(500), ..EtcdOptions::default() }
}

/// For what is done once: a busy machine may take its time.
fn access() -> EtcdOptions {
    EtcdOptions { timeout: PATIENCE, ..EtcdOptions::default() }
}

const PATIENCE: Duration = Duration::from_secs(30);

fn source(etcd: &Etcd) -> EtcdSource {
    EtcdSource::new(&etcd.source(), &access()).unwrap()
}

fn follow(etcd: &Etcd) -> Watch {
    EtcdSource::new(&etcd.source(), &impatient()).unwrap().follow(OPTIONS).unwrap()
}

fn revision(files: &[(&str, &str)]) -> Revision {
    Revision::new(files.iter().map(|(path, text)| SourceFile::new(*path, text.as_bytes())).collect())
}

/// Waits until an outcome satisfies `wanted`, past others.
async fn until(watch: &mut Watch, what: &str, wanted: impl Fn(&Outcome) -> bool) -> Outcome {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            let outcome = watch.changed().await;
            if wanted(&outcome) {
                return outcome;
            }
            seen.push(outcome.map(|revision| content(&revision)));
        }
    };
    match timeout(Duration::from_secs(60), wait).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: never came; seen: {seen:?}"),
    }
}

fn content(revision: &Revision) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    revision.files.iter().map(|file| (file.path.to_string(), text(&file.bytes))).collect()
}

async fn until_content(watch: &mut Watch, wanted: &[(&str, &str)]) -> Arc<Revision> {
    let all: Vec<(String, String)> = wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let what = format!("{wanted:?}");
    until(watch, &what, |outcome| outcome.as_ref().is_ok_and(|revision| content(revision) == all)).await.unwrap()
}

async fn until_code(watch: &mut Watch, code: &str) -> String {
    let outcome = until(watch, code, |outcome| outcome.as_ref().is_err_and(|error| error.code() == code)).await;
    outcome.unwrap_err().to_string()
}

#[tokio::test]
async fn keys_are_followed_one_by_one() {
    let etcd = Etcd::start();
    etcd.put("node.yaml", "1");
    etcd.ctl(&["put", "/weir/manifestsx", "elsewhere"]);
    etcd.put(".hidden.yaml", "x");
    etcd.put("lists/.hidden/a.yaml", "x");
    let mut watch = follow(&etcd);
    let first = until_content(&mut watch, &[("node.yaml", "1")]).await;
    assert_eq!(first.id, revision(&[("node.yaml", "1")]).id, "as of any source with this content");
    etcd.put("lists/drop.txt", "10.0.0.0/8");
    let second = until_content(&mut watch, &[("lists/drop.txt", "10.0.0.0/8"), ("node.yaml", "1")]).await;
    assert!(Arc::ptr_eq(&first.files[0].bytes, &second.files[1].bytes), "what did not change keeps its place");
    etcd.put("node.yaml", "2");
    until_content(&mut watch, &[("lists/drop.txt", "10.0.0.0/8"), ("node.yaml", "2")]).await;
    etcd.delete("lists/drop.txt");
    until_content(&mut watch, &[("node.yaml", "2")]).await;
    assert_eq!(source(&etcd).read(PATIENCE).unwrap().id, revision(&[("node.yaml", "2")]).id);
}

#[tokio::test]
async fn nothing_is_an_error_and_never_an_empty_set() {
    let etcd = Etcd::start();
    let mut watch = follow(&etcd);
    until_code(&mut watch, "source-empty").await;
    etcd.put("a.txt", "no manifest");
    etcd.put("a.yaml", "1");
    until_content(&mut watch, &[("a.txt", "no manifest"), ("a.yaml", "1")]).await;
    etcd.delete("a.yaml");
    until_code(&mut watch, "source-empty").await;
    assert_eq!(source(&etcd).read(PATIENCE).unwrap_err().code(), "source-empty");
    assert_eq!(source(&etcd).push(&revision(&[("a.txt", "1")])).unwrap_err().code(), "source-empty");
}

#[tokio::test]
async fn a_key_that_is_no_path_is_named_and_not_skipped() {
    let etcd = Etcd::start();
    etcd.put("a.yaml", "1");
    let mut watch = follow(&etcd);
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    etcd.put("../../etc/passwd", "x");
    let message = until_code(&mut watch, "etcd-key").await;
    assert!(message.contains("../../etc/passwd"), "{message}");
    assert_eq!(source(&etcd).read(PATIENCE).unwrap_err().code(), "etcd-key");
    etcd.delete("../../etc/passwd");
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    // What browsers of etcd leave in a directory's place.
    etcd.put("lists/", "");
    etcd.put("b.yaml", "2");
    until_content(&mut watch, &[("a.yaml", "1"), ("b.yaml", "2")]).await;
}

/// Forty keys in one transaction, again and again: no outcome mixes two of them, and with answers in fragments neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_taken_whole() {
    // So small that forty values take several fragments.
    let etcd = Etcd::with(&["--max-request-bytes", "8192"]);
    let mut client = Client::connect([etcd.host()], None).await.unwrap();
    let mut write = async |round: usize| {
        let put = |key: usize| TxnOp::put(format!("{PREFIX}{key:02}.yaml"), format!("{round:0128}"), None);
        client.txn(Txn::new().and_then((0..40).map(put).collect::<Vec<_>>())).await.unwrap();
    };
    write(0).await;
    let mut watch = EtcdSource::new(&etcd.source(), &impatient())
        .unwrap()
        .follow(WatchOptions { rest: Duration::ZERO, ..OPTIONS })
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let done = done.clone();
        tokio::spawn(async move {
            let (mut seen, mut last) = (0, String::new());
            loop {
                let revision = watch.changed().await.unwrap();
                let texts: Vec<&[u8]> = revision.files.iter().map(|file| &*file.bytes).collect();
                assert_eq!(texts.len(), 40);
                assert!(texts.iter().all(|text| *text == texts[0]), "a mixture");
                let text = String::from_utf8(texts[0].to_vec()).unwrap();
                assert!(text >= last, "never back");
                last = text;
                seen += 1;
                if done.load(Ordering::Relaxed) && last.ends_with("0500") {
                    return seen;
                }
            }
        })
    };
    for round in 1..500 {
        write(round).await;
    }
    done.store(true, Ordering::Relaxed);
    write(500).await;
    let seen = timeout(Duration::from_secs(60), reader).await.unwrap().unwrap();
    assert!(seen > 5, "{seen} states of 500 were seen");
}

#[tokio::test]
async fn a_pushed_set_is_in_force_as_a_whole() {
    let etcd = Etcd::start();
    etcd.put("hand.yaml", "x");
    let mut watch = follow(&etcd);
    until_content(&mut watch, &[("hand.yaml", "x")]).await;
    let pushed = source(&etcd).push(&revision(&[("a.yaml", "1"), ("lists/b.txt", "2")])).unwrap();
    assert!(pushed.changed && pushed.written == 3, "{pushed:?}");
    let followed = until_content(&mut watch, &[("a.yaml", "1"), ("lists/b.txt", "2")]).await;
    assert_eq!(followed.id, pushed.digest);
    assert_eq!(etcd.get("revision"), pushed.digest);
    assert_eq!(etcd.get(&format!("{}/lists/b.txt", pushed.digest)), "2");

    // Only what changed is fetched: the rest is the very memory.
    let next = source(&etcd).push(&revision(&[("a.yaml", "2"), ("lists/b.txt", "2")])).unwrap();
    let second = until_content(&mut watch, &[("a.yaml", "2"), ("lists/b.txt", "2")]).await;
    assert_eq!(second.id, next.digest);
    assert!(Arc::ptr_eq(&followed.files[1].bytes, &second.files[1].bytes));

    // Files by hand are not looked at any more, until no set is in force.
    etcd.put("hand.yaml", "y");
    etcd.delete("revision");
    until_content(&mut watch, &[("hand.yaml", "y")]).await;
    // Going back is one key.
    etcd.put("revision", &pushed.digest);
    until_content(&mut watch, &[("a.yaml", "1"), ("lists/b.txt", "2")]).await;
}

#[test]
fn the_same_set_again_is_no_write() {
    let etcd = Etcd::start();
    let set = revision(&[("a.yaml", "1"), ("lists/b.txt", "2")]);
    source(&etcd).push(&set).unwrap();
    let before = etcd.revision();
    let again = source(&etcd).push(&set).unwrap();
    assert!(!again.changed && again.written == 0 && again.removed.is_empty(), "{again:?}");
    assert_eq!(etcd.revision(), before);
}

#[test]
fn the_last_three_sets_are_kept_and_what_a_dead_push_left_is_not() {
    let etcd = Etcd::start();
    let digests: Vec<String> = (0..6)
        .map(|number| source(&etcd).push(&revision(&[("a.yaml", &format!("{number}"))])).unwrap().digest)
        .collect();
    let held = || -> Vec<String> {
        let sets = etcd.keys().into_iter().filter_map(|key| key.strip_suffix("/a.yaml").map(str::to_owned));
        sets.collect()
    };
    let mut wanted = digests[2..].to_vec();
    wanted.sort();
    assert_eq!(held(), wanted);

    // One that was kept is in force again, and is now the newest.
    let back = source(&etcd).push(&revision(&[("a.yaml", "2")])).unwrap();
    assert_eq!((back.written, back.changed), (0, true));
    assert_eq!(etcd.get("revision"), digests[2]);
    // A push died here: its claim and half of its files.
    let dead = "d".repeat(64);
    etcd.put(&format!("{dead}/a.yaml"), "half");
    etcd.put(&format!(".weir/claim/{dead}"), "");
    let next = source(&etcd).push(&revision(&[("a.yaml", "new")])).unwrap();
    let mut removed = vec![digests[3].clone(), dead.clone()];
    removed.sort();
    assert_eq!(next.removed, removed, "the oldest publication, and the dead one");
    assert!(etcd.keys().iter().all(|key| !key.contains(&dead) && !key.contains(&digests[3])));

    // Two that died half way: the set itself is finished, not begun anew.
    let set = revision(&[("a.yaml", "1"), ("b.yaml", "2"), ("c.yaml", "3")]);
    let digest = source(&etcd).push(&set).unwrap().digest;
    source(&etcd).push(&revision(&[("a.yaml", "other")])).unwrap();
    etcd.delete(&format!("{digest}/b.yaml"));
    etcd.put(&format!("{digest}/surplus.yaml"), "x");
    let finished = source(&etcd).push(&set).unwrap();
    assert_eq!(finished.written, 2, "{finished:?}");
    assert_eq!(source(&etcd).read(PATIENCE).unwrap().files, set.files);
}

/// Pushers in a race: whatever comes of each, what is in force at any moment is one whole set.
#[test]
fn pushes_at_the_same_time_never_put_a_mixture_in_force() {
    let etcd = Etcd::start();
    source(&etcd).push(&revision(&[("a.yaml", "first")])).unwrap();
    let spec = etcd.source();
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (spec, done) = (spec.clone(), done.clone());
        thread::spawn(move || {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let read = EtcdSource::new(&spec, &access()).unwrap().read(PATIENCE);
                match read {
                    Ok(revision) => assert!(revision.files.iter().all(|file| file.bytes == revision.files[0].bytes)),
                    // The set that was named when it looked was cleaned away before it was read.
                    Err(error) => assert_eq!(error.code(), "etcd-incomplete", "{error}"),
                }
                reads += 1;
            }
            reads
        })
    };
    let pushers: Vec<_> = (0..3)
        .map(|pusher| {
            let spec = spec.clone();
            thread::spawn(move || {
                let source = EtcdSource::new(&spec, &access()).unwrap();
                let mut refused = 0;
                for round in 0..30 {
                    let text = format!("{pusher} {round}");
                    let files: Vec<(String, String)> = (0..5).map(|n| (format!("{n}.yaml"), text.clone())).collect();
                    let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                    match source.push(&revision(&files)) {
                        Ok(pushed) => assert!(pushed.changed),
                        Err(error) => {
                            assert_eq!(error.code(), "etcd-concurrent-push", "{error}");
                            refused += 1;
                        }
                    }
                }
                refused
            })
        })
        .collect();
    let refused: usize = pushers.into_iter().map(|pusher| pusher.join().unwrap()).sum();
    done.store(true, Ordering::Relaxed);
    let reads = reader.join().unwrap();
    assert!(refused > 0 && reads > 10, "{refused} pushes of 90 were refused, {reads} reads");
    // Once more, alone: everything is cleaned.
    source(&etcd).push(&revision(&[("a.yaml", "last")])).unwrap();
    assert!(!etcd.keys().iter().any(|key| key.contains(".weir/claim/")), "{:?}", etcd.keys());
}

#[tokio::test]
async fn a_set_that_is_not_whole_is_an_error() {
    let etcd = Etcd::start();
    let mut watch = follow(&etcd);
    let set = [("a.yaml", "1"), ("b.yaml", "2")];
    let digest = source(&etcd).push(&revision(&set)).unwrap().digest;
    until_content(&mut watch, &set).await;
    let other = source(&etcd).push(&revision(&[("c.yaml", "3")])).unwrap().digest;
    until_content(&mut watch, &[("c.yaml", "3")]).await;

    etcd.put(&format!("{digest}/b.yaml"), "tampered with");
    etcd.put("revision", &digest);
    let message = until_code(&mut watch, "etcd-incomplete").await;
    assert!(message.contains("b.yaml is missing, or is not what was pushed"), "{message}");
    assert_eq!(source(&etcd).read(PATIENCE).unwrap_err().code(), "etcd-incomplete");
    // Mended: it is taken without a push.
    etcd.put(&format!("{digest}/b.yaml"), "2");
    until_content(&mut watch, &set).await;

    etcd.put("revision", &other);
    until_content(&mut watch, &[("c.yaml", "3")]).await;
    etcd.put(&format!(".weir/index/{digest}/0000"), "another");
    etcd.put("revision", &digest);
    until_code(&mut watch, "etcd-incomplete").await;
    // Without an index, as somebody with etcdctl and sha256sum would push: all files prove the digest.
    etcd.delete(&format!(".weir/index/{digest}/0000"));
    until_content(&mut watch, &set).await;
    etcd.put("revision", &other);
    until_content(&mut watch, &[("c.yaml", "3")]).await;
    etcd.put(&format!("{digest}/surplus.yaml"), "4");
    etcd.put("revision", &digest);
    until_code(&mut watch, "etcd-incomplete").await;
    etcd.put("revision", "main");
    until_code(&mut watch, "etcd-revision").await;
}

#[tokio::test]
async fn a_killed_server_is_found_again() {
    let mut etcd = Etcd::start();
    etcd.put("a.yaml", "1");
    let mut watch = follow(&etcd);
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    etcd.restart();
    etcd.put("a.yaml", "2");
    until_content(&mut watch, &[("a.yaml", "2")]).await;

    etcd.kill();
    until_code(&mut watch, "etcd-unreachable").await;
    etcd.restart();
    // The same as before the error is news.
    until_content(&mut watch, &[("a.yaml", "2")]).await;
}

#[tokio::test]
async fn a_frozen_server_is_noticed() {
    let etcd = Etcd::start();
    etcd.put("a.yaml", "1");
    let mut watch = follow(&etcd);
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    etcd.freeze();
    until_code(&mut watch, "etcd-unreachable").await;
    etcd.thaw();
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    etcd.put("a.yaml", "2");
    until_content(&mut watch, &[("a.yaml", "2")]).await;
}

/// Behind a frozen one, others are tried.
#[tokio::test]
async fn every_server_is_tried() {
    let (frozen, etcd) = (Etcd::start(), Etcd::start());
    etcd.put("a.yaml", "1");
    frozen.freeze();
    let hosts = [frozen.host(), "127.0.0.1:1".to_owned(), etcd.host()].join(",");
    let spec = format!("etcd://{hosts}{PREFIX}");
    for _ in 0..3 {
        let mut watch = EtcdSource::new(&spec, &impatient()).unwrap().follow(OPTIONS).unwrap();
        until_content(&mut watch, &[("a.yaml", "1")]).await;
    }
    EtcdSource::new(&spec, &impatient()).unwrap().read(Duration::from_secs(20)).unwrap();
    let error = EtcdSource::new(&format!("etcd://127.0.0.1:1{PREFIX}"), &impatient()).unwrap();
    let error = error.clone().read(Duration::from_secs(20)).unwrap_err();
    assert_eq!(error.code(), "etcd-unreachable");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_restored_backup_is_accepted_even_when_it_went_past_what_was_seen() {
    let mut etcd = Etcd::start();
    etcd.put("a.yaml", "1");
    etcd.put("b.yaml", "1");
    let mut watch = follow(&etcd);
    until_content(&mut watch, &[("a.yaml", "1"), ("b.yaml", "1")]).await;
    let backup = etcd.backup();
    etcd.put("a.yaml", "2");
    etcd.put("b.yaml", "2");
    until_content(&mut watch, &[("a.yaml", "2"), ("b.yaml", "2")]).await;
    etcd.restore(&backup);
    until_content(&mut watch, &[("a.yaml", "1"), ("b.yaml", "1")]).await;
    // The same keys at the same revisions of another history.
    etcd.put("a.yaml", "2");
    etcd.put("b.yaml", "2");
    until_content(&mut watch, &[("a.yaml", "2"), ("b.yaml", "2")]).await;
    etcd.restore(&backup);
    etcd.put("a.yaml", "3");
    etcd.put("c.yaml", "3");
    etcd.put("d.yaml", "3");
    until_content(&mut watch, &[("a.yaml", "3"), ("b.yaml", "1"), ("c.yaml", "3"), ("d.yaml", "3")]).await;
}

/// Pages of a listing are of one revision; when that is compacted away between two pages, it begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_under_compaction_comes_to_its_end() {
    let etcd = Etcd::start();
    let mut client = Client::connect([etcd.host()], None).await.unwrap();
    let mut write = async |round: usize| {
        for half in 0..5 {
            let put = |key: usize| TxnOp::put(format!("{PREFIX}{key:03}.yaml"), format!("{round:02000}"), None);
            let keys = half * 100..half * 100 + 100;
            client.txn(Txn::new().and_then(keys.map(put).collect::<Vec<_>>())).await.unwrap();
        }
        let header = client.get("x", None).await.unwrap();
        // Whoever lists at an earlier one has lost it.
        client.compact(header.header().unwrap().revision(), None).await.unwrap();
    };
    write(0).await;
    let mut watches: Vec<Watch> = (0..4).map(|_| follow(&etcd)).collect();
    for round in 1..60 {
        write(round).await;
    }
    for watch in &mut watches {
        until(watch, "the last round", |outcome| {
            outcome.as_ref().is_ok_and(|revision| {
                revision.files.len() == 500 && revision.files.iter().all(|file| file.bytes.ends_with(b"0059"))
            })
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn another_leader_is_followed() {
    let mut members = Etcd::cluster();
    let hosts: Vec<String> = members.iter().map(Etcd::host).collect();
    let spec = format!("etcd://{}{PREFIX}", hosts.join(","));
    members[0].put("a.yaml", "0");
    let mut watches: Vec<Watch> =
        (0..6).map(|_| EtcdSource::new(&spec, &impatient()).unwrap().follow(OPTIONS).unwrap()).collect();
    for round in 0..3 {
        members[round].kill();
        let other = (round + 1) % 3;
        let text = format!("{}", round + 1);
        // Until there is a leader again.
        let start = Instant::now();
        while !members[other].try_ctl(&["put", &format!("{PREFIX}a.yaml"), &text]).0 {
            assert!(start.elapsed() < Duration::from_secs(30));
        }
        for watch in &mut watches {
            until_content(watch, &[("a.yaml", &text)]).await;
        }
        members[round].restart();
    }
    // Without a majority nobody says that all is well.
    members[0].kill();
    members[1].kill();
    for watch in &mut watches {
        until_code(watch, "etcd-unreachable").await;
    }
    members[0].restart();
    for watch in &mut watches {
        until_content(watch, &[("a.yaml", "3")]).await;
    }
}

/// A server that closes every connection is not asked in a hot loop.
#[tokio::test]
async fn failures_are_not_a_hot_loop() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut watch =
        EtcdSource::new(&format!("etcd://{address}{PREFIX}"), &impatient()).unwrap().follow(OPTIONS).unwrap();
    until_code(&mut watch, "etcd-unreachable").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let accepted = accepted.load(Ordering::Relaxed);
    // At most each 100, 200, 400, 500, 500, … ms, halved by jitter; the client itself may try twice.
    assert!((2..60).contains(&accepted), "{accepted} connections in four seconds");
}

#[tokio::test]
async fn secrets_are_read_anew_and_a_token_that_ran_out_is_replaced() {
    let etcd = Etcd::with(&["--auth-token-ttl", "2", "--bcrypt-cost", "4"]);
    etcd.put("a.yaml", "1");
    for words in ["user add root:secret", "user grant-role root root", "auth enable"] {
        etcd.ctl(&words.split(' ').collect::<Vec<_>>());
    }
    let root = ["--user", "root:secret"];
    let put = |text: &str| etcd.ctl(&[&["put", &format!("{PREFIX}a.yaml"), text], &root[..]].concat());
    let password = etcd.directory().join("password");
    fs::write(&password, "wrong\n").unwrap();
    let options = EtcdOptions { user: Some("root".to_owned()), password_file: Some(password.clone()), ..access() };
    let open = |options: &EtcdOptions| EtcdSource::new(&etcd.source(), options).unwrap();
    let mut watch = open(&options).follow(OPTIONS).unwrap();
    let message = until_code(&mut watch, "etcd-refused").await;
    assert!(message.contains("authentication failed") && !message.contains("wrong"), "{message}");
    fs::write(&password, "secret\n").unwrap();
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    // The token of this connection runs out; the watch stands, and a look is answered.
    tokio::time::sleep(Duration::from_secs(5)).await;
    put("2");
    until_content(&mut watch, &[("a.yaml", "2")]).await;
    watch.look(true);
    put("3");
    until_content(&mut watch, &[("a.yaml", "3")]).await;

    assert_eq!(open(&access()).read(PATIENCE).unwrap_err().code(), "etcd-refused", "no user at all");
    let missing = EtcdOptions { password_file: Some("/nowhere".into()), ..options };
    assert_eq!(open(&missing).read(PATIENCE).unwrap_err().code(), "etcd-secret");
}

fn openssl(directory: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, a server that is 127.0.0.1, and a client.
fn certificates(directory: &Path) {
    fs::write(directory.join("server.ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n").unwrap();
    fs::write(directory.join("client.ext"), "subjectAltName=DNS:node1\nextendedKeyUsage=clientAuth\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(directory, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    for name in ["server", "client"] {
        openssl(directory, &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2";
        openssl(directory, &format!("x509 -req -in {name}.csr {sign} -extfile {name}.ext -out {name}.pem"));
    }
}

#[tokio::test]
async fn tls_both_ways() {
    let own = tempfile::tempdir().unwrap();
    let foreign = tempfile::tempdir().unwrap();
    certificates(own.path());
    certificates(foreign.path());
    let at = |name: &str| own.path().join(name);
    let etcd = Etcd::with_tls(&at("server.pem"), &at("server.key"), &at("ca.pem"), &[]);
    let options = EtcdOptions {
        ca: Some(at("ca.pem")),
        certificate: Some(at("client.pem")),
        key: Some(at("client.key")),
        ..access()
    };
    let open = |options: &EtcdOptions| EtcdSource::new(&etcd.source(), options).unwrap();
    open(&options).push(&revision(&[("a.yaml", "1")])).unwrap();
    let mut watch = open(&options).follow(OPTIONS).unwrap();
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    let code = |options: EtcdOptions| open(&options).read(PATIENCE).unwrap_err();
    let foreign = |name: &str| foreign.path().join(name);
    let error = code(EtcdOptions { ca: Some(foreign("ca.pem")), ..options.clone() });
    assert_eq!(error.code(), "etcd-unreachable");
    assert!(error.to_string().contains("certificate"), "{error}");
    for wrong in [
        EtcdOptions { ca: None, ..options.clone() },
        EtcdOptions { certificate: None, key: None, ..options.clone() },
        EtcdOptions { certificate: Some(foreign("client.pem")), key: Some(foreign("client.key")), ..options.clone() },
    ] {
        assert_eq!(code(wrong).code(), "etcd-unreachable");
    }
    let plain = EtcdSource::new(&etcd.source().replace("etcds:", "etcd:"), &options).unwrap();
    assert_eq!(plain.clone().read(PATIENCE).unwrap_err().code(), "etcd-unreachable");
}

/// A full disk refuses writes with an alarm. What is there is still followed.
#[tokio::test]
async fn a_full_etcd_refuses_a_push_and_is_followed_all_the_same() {
    let etcd = Etcd::with(&["--quota-backend-bytes", "4194304"]);
    etcd.put("a.yaml", "1");
    let mut watch = follow(&etcd);
    until_content(&mut watch, &[("a.yaml", "1")]).await;
    // Its size is what its last write to disk says, a tenth of a second ago: fill it before anything is expected.
    let mut client = Client::connect([etcd.host()], None).await.unwrap();
    while client.put(format!("{PREFIX}ballast"), vec![0; 1_000_000], None).await.is_ok() {}
    client.delete(format!("{PREFIX}ballast"), None).await.unwrap();
    let files = vec![SourceFile::new("c.yaml", *b"3")];
    let error = source(&etcd).push(&Revision::new(files)).unwrap_err();
    assert_eq!(error.code(), "etcd-full", "{error}");
    assert_eq!(source(&etcd).read(PATIENCE).unwrap().id, revision(&[("a.yaml", "1")]).id);
    // As the error's help says; the half set is removed by the next push.
    etcd.ctl(&["del", "--prefix", PREFIX]);
    etcd.compact();
    etcd.ctl(&["alarm", "disarm"]);
    source(&etcd).push(&revision(&[("b.yaml", "2")])).unwrap();
    until_content(&mut watch, &[("b.yaml", "2")]).await;
}

/// 1,000 files of 45 KB: the whole set is larger than any message, and is read in pages.
fn large() -> Vec<SourceFile> {
    let line = |n: usize| format!("- 10.{}.{}.0/24\n", n / 250, n % 250);
    let text: String = (0..3000).map(line).collect::<String>()[..45_000].to_owned();
    (0..1000).map(|n| SourceFile::new(format!("lists/{n:04}.yaml"), format!("# {n}\n{text}").into_bytes())).collect()
}

/// The figures are printed, not judged: machines differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_a_thousand_files_costs_one_file() {
    let etcd = Etcd::start();
    let mut client = Client::connect([etcd.host()], None).await.unwrap();
    let files = large();
    for file in &files {
        client.put(format!("{PREFIX}{}", file.path), &*file.bytes, None).await.unwrap();
    }
    let start = Instant::now();
    let mut watch = EtcdSource::new(&etcd.source(), &impatient())
        .unwrap()
        .follow(WatchOptions { rest: Duration::ZERO, ..OPTIONS })
        .unwrap();
    let first = until(&mut watch, "all", |outcome| outcome.is_ok()).await.unwrap();
    assert_eq!(first.files.len(), 1000);
    let listed = start.elapsed();
    assert_eq!(first.id, Revision::new(files.clone()).id);
    let mut times = Vec::new();
    for round in 0..50 {
        let (start, text) = (Instant::now(), format!("# {round}\n{}", "x".repeat(45_000)));
        let key = format!("{PREFIX}{}", files[round * 20].path);
        let put = tokio::spawn({
            let mut client = client.clone();
            async move { client.put(key, text, None).await.unwrap() }
        });
        let changed = watch.changed().await.unwrap();
        times.push(start.elapsed());
        put.await.unwrap();
        let others = changed.files.iter().zip(&first.files).filter(|(a, b)| !Arc::ptr_eq(&a.bytes, &b.bytes)).count();
        assert_eq!(others, round + 1, "the others were not touched");
    }
    times.sort();
    println!("1,000 keys of 45 KB: listed in {listed:?}; put to revision: median {:?}, p90 {:?}", times[25], times[45]);

    let start = Instant::now();
    let pushed = source(&etcd).push(&Revision::new(files.clone())).unwrap();
    println!("pushed in {:?}", start.elapsed());
    until(&mut watch, "the set", |outcome| outcome.as_ref().is_ok_and(|revision| revision.id == pushed.digest))
        .await
        .unwrap();
    let mut changed = files;
    changed[7] = SourceFile::new("lists/0007.yaml", *b"other");
    let start = Instant::now();
    let pushed = source(&etcd).push(&Revision::new(changed)).unwrap();
    let took = start.elapsed();
    until(&mut watch, "the next", |outcome| outcome.as_ref().is_ok_and(|revision| revision.id == pushed.digest))
        .await
        .unwrap();
    println!("one file changed: pushed in {took:?}, followed {:?} after its start", start.elapsed());
}
