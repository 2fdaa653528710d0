//! Following a repository on this machine: whatever happens to it, the last outcome is the truth.
use std::{collections::BTreeMap, fs, process::Command};

use crate::repo::{Repo, content, follow, git, source, until, until_code, until_id};

#[tokio::test]
async fn commits_arrive_however_the_branch_moves() {
    let repo = Repo::ready();
    let first = repo.head();
    let mut watch = follow(repo.source());
    until_id(&mut watch, &first).await;
    let second = repo.change("2");
    until_id(&mut watch, &second).await;
    // Rewritten: amended, reset, cherry-picked.
    repo.git(&["commit", "--quiet", "--amend", "-m", "another subject"]);
    let amended = until_id(&mut watch, &repo.head()).await;
    assert_eq!(amended.authorship.as_ref().unwrap().subject, "another subject");
    repo.git(&["reset", "--quiet", "--hard", &first]);
    until_id(&mut watch, &first).await;
    repo.git(&["cherry-pick", &second]);
    until_id(&mut watch, &repo.head()).await;
    // Packed, and committed to again.
    repo.git(&["pack-refs", "--all", "--prune"]);
    let third = repo.change("3");
    until_id(&mut watch, &third).await;
    // Only in the packed file.
    repo.git(&["update-ref", "refs/heads/main", &first]);
    until_id(&mut watch, &first).await;
    repo.git(&["reset", "--quiet", "--hard"]);
    // HEAD names another branch; then a commit itself.
    repo.git(&["checkout", "--quiet", "-b", "feature/x", &second]);
    until_id(&mut watch, &second).await;
    let fourth = repo.change("4");
    until_id(&mut watch, &fourth).await;
    repo.git(&["checkout", "--quiet", "--detach", &third]);
    until_id(&mut watch, &third).await;
}

#[tokio::test]
async fn pushes_arrive_in_a_bare_repository_in_every_format_of_references() {
    // Newer than the oldest git that is supported.
    let version = git("/".as_ref(), &["version"]);
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).unwrap();
    let reftable = minor >= 45;
    for format in if reftable { &["files", "reftable"][..] } else { &["files"] } {
        let repo = Repo::ready();
        let bare = repo.beside("bare.git");
        let option = format!("--ref-format={format}");
        let options: &[&str] = if reftable { &[&option] } else { &[] };
        git(&repo.path, &[&["init", "--quiet", "--bare", "-b", "main"], options, &[bare.to_str().unwrap()]].concat());
        let push = |words: &[&str]| git(&repo.path, &[&["push", "--quiet", bare.to_str().unwrap()], words].concat());
        let mut watch = follow(source(&bare, "#team/main", ""));
        until_code(&mut watch, "source-branch").await;
        push(&["main:refs/heads/team/main"]);
        until_id(&mut watch, &repo.head()).await;
        for text in ["2", "3"] {
            let id = repo.change(text);
            push(&["main:refs/heads/team/main"]);
            until_id(&mut watch, &id).await;
        }
        repo.git(&["reset", "--quiet", "--hard", "HEAD~2"]);
        push(&["--force", "main:refs/heads/team/main"]);
        until_id(&mut watch, &repo.head()).await;
        // Gone, and back: what was good before stays what was delivered last.
        push(&["--delete", "team/main"]);
        until_code(&mut watch, "source-branch").await;
        push(&["main:refs/heads/team/main"]);
        until_id(&mut watch, &repo.head()).await;
    }
}

#[tokio::test]
async fn a_work_tree_of_its_own_follows_its_own_head() {
    let repo = Repo::ready();
    let tree = repo.beside("tree");
    repo.git(&["worktree", "add", "--quiet", "-b", "side", tree.to_str().unwrap()]);
    let mut watch = follow(source(&tree, "", ""));
    until_id(&mut watch, &repo.head()).await;
    fs::write(tree.join("a.yaml"), "side").unwrap();
    git(&tree, &["commit", "--quiet", "-a", "-m", "side"]);
    let id = git(&tree, &["rev-parse", "HEAD"]);
    until_id(&mut watch, &id).await;
}

/// Each revision that comes out is one that was committed, whole; the last one comes out.
#[tokio::test]
async fn a_burst_of_commits_ends_with_the_last_and_invents_none() {
    let repo = Repo::new();
    let write = |text: &str| (0..20).for_each(|n| repo.write(&format!("{n}.yaml"), text));
    write("0");
    let mut committed = BTreeMap::from([(repo.commit("0"), "0".to_owned())]);
    let mut watch = follow(repo.source());
    for round in 1..30 {
        // Half written, and staged, and committed while the follower looks.
        write(&round.to_string());
        committed.insert(repo.commit("x"), round.to_string());
        if round % 7 == 0 {
            repo.git(&["gc", "--quiet", "--prune=now"]);
        }
    }
    let last = repo.head();
    loop {
        let revision = watch.changed().await.unwrap();
        let text = committed.get(&revision.id).expect("only what was committed");
        assert_eq!(revision.files.len(), 20);
        assert!(content(&revision).iter().all(|(_, content)| content == text), "{revision:?}");
        if revision.id == last {
            break;
        }
    }
}

#[tokio::test]
async fn checkouts_and_edits_are_no_news() {
    let repo = Repo::ready();
    let first = repo.head();
    let mut watch = follow(source(&repo.path, "#main", ""));
    until_id(&mut watch, &first).await;
    repo.write("a.yaml", "edited");
    repo.git(&["add", "--all"]);
    repo.git(&["stash", "--quiet"]);
    repo.git(&["checkout", "--quiet", "-b", "other"]);
    repo.change("on another branch");
    repo.git(&["gc", "--quiet", "--prune=now", "--aggressive"]);
    watch.look(true);
    repo.git(&["checkout", "--quiet", "main"]);
    let second = repo.change("2");
    let outcome = watch.changed().await.unwrap();
    assert_eq!(outcome.id, second, "nothing came in between");
}

#[tokio::test]
async fn collected_while_it_is_followed() {
    let repo = Repo::ready();
    let mut watch = follow(repo.source());
    until_id(&mut watch, &repo.head()).await;
    for round in 2..6 {
        let id = repo.change(&round.to_string());
        repo.git(&["reflog", "expire", "--expire=now", "--all"]);
        repo.git(&["gc", "--quiet", "--prune=now"]);
        until_id(&mut watch, &id).await;
        // Everything is read from the new pack.
        watch.look(true);
    }
    let id = repo.change("last");
    let revision = until_id(&mut watch, &id).await;
    assert_eq!(content(&revision), [("a.yaml".to_owned(), "last".to_owned())]);
}

#[tokio::test]
async fn a_repository_that_goes_away_is_an_error_until_it_is_back() {
    let repo = Repo::ready();
    let mut watch = follow(repo.source());
    until_id(&mut watch, &repo.head()).await;
    let away = repo.beside("away");
    for round in 0..3 {
        fs::rename(&repo.path, &away).unwrap();
        until_code(&mut watch, "source-missing").await;
        fs::rename(&away, &repo.path).unwrap();
        let id = repo.change(&format!("back {round}"));
        until_id(&mut watch, &id).await;
    }
    // Another repository takes its place at once.
    let other = Repo::ready();
    let id = other.change("another repository");
    fs::rename(&repo.path, &away).unwrap();
    fs::rename(&other.path, &repo.path).unwrap();
    until_id(&mut watch, &id).await;
}

#[tokio::test]
async fn a_tree_that_is_refused_and_mended() {
    let repo = Repo::ready();
    let mut watch = follow(repo.source());
    until_id(&mut watch, &repo.head()).await;
    repo.link("b.yaml", "/etc/passwd");
    repo.commit("outside");
    until_code(&mut watch, "source-symlink").await;
    repo.git(&["rm", "--quiet", "b.yaml"]);
    until_id(&mut watch, &repo.commit("mended")).await;
}

#[tokio::test]
async fn nothing_is_left_when_the_watch_goes() {
    let repo = Repo::ready();
    let mut watch = follow(repo.source());
    until(&mut watch, Result::is_ok).await.unwrap();
    let readers = || {
        let output = Command::new("ps").args(["-eo", "args"]).output().unwrap();
        let own = repo.path.display().to_string();
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(&own)).count()
    };
    assert_eq!(readers(), 1);
    drop(watch);
    while readers() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
