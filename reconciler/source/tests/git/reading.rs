//! One look at a repository.
use std::{fs, process::Command};

use weir_source::{GitOptions, GitSource};

use crate::repo::{PATIENCE, Repo, content, git, paths, read, source};

fn one(text: &str) -> Vec<(String, String)> {
    vec![("a.yaml".to_owned(), text.to_owned())]
}

#[test]
fn the_commit_is_read_and_never_the_work_tree() {
    let repo = Repo::ready();
    repo.write("lists/drop.txt", "192.0.2.0/24\n");
    repo.write(".github/workflow.yaml", "hidden");
    let id = repo.commit("two words");
    // A checkout in progress, an edit, a file that nobody added, a staged one.
    repo.write("a.yaml", "an edit");
    repo.write("b.yaml", "new");
    repo.write("c.yaml", "staged");
    repo.git(&["add", "c.yaml"]);
    repo.write(".git/index.lock", "");
    fs::remove_file(repo.path.join("lists/drop.txt")).unwrap();

    let revision = repo.source().read(PATIENCE).unwrap();
    assert_eq!(revision.id, id);
    let by = revision.authorship.as_ref().unwrap();
    assert_eq!((by.author.as_str(), by.subject.as_str()), ("Ann <ann@example.org>", "two words"));
    let wanted = [("a.yaml", "1"), ("lists/drop.txt", "192.0.2.0/24\n")];
    assert_eq!(content(&revision), wanted.map(|(path, text)| (path.to_owned(), text.to_owned())));
}

#[test]
fn a_commit_that_changes_one_file_of_a_thousand_costs_one_object() {
    let repo = Repo::new();
    for n in 0..1000 {
        repo.write(&format!("{}/{n}.yaml", n % 10), format!("{n}"));
    }
    repo.commit("all");
    let mut source = repo.source();
    assert_eq!(source.read(PATIENCE).unwrap().files.len(), 1000);
    assert_eq!(source.effort().read, 1000);

    repo.write("7/7.yaml", "changed");
    let id = repo.commit("one");
    let revision = source.read(PATIENCE).unwrap();
    assert_eq!((revision.id.as_str(), revision.files.len()), (id.as_str(), 1000));
    assert_eq!((source.effort().read, source.effort().bytes_read), (1, 7));
    assert_eq!(&*revision.get("7/7.yaml").unwrap().bytes, b"changed");

    // The same commit, and the same content under another name and in another commit, cost nothing.
    source.read(PATIENCE).unwrap();
    assert_eq!(source.effort().examined, 0);
    repo.git(&["mv", "7/7.yaml", "8/moved.yaml"]);
    repo.commit("moved");
    assert!(source.read(PATIENCE).unwrap().get("8/moved.yaml").is_some());
    assert_eq!(source.effort().read, 0);
}

#[test]
fn every_form_of_a_repository() {
    let repo = Repo::ready();
    let first = repo.head();
    repo.git(&["tag", "-a", "v1", "-m", "annotated"]);
    repo.git(&["branch", "side"]);
    let second = repo.change("2");
    repo.git(&["tag", "light"]);

    let bare = repo.beside("bare.git");
    repo.git(&["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
    let tree = repo.beside("tree");
    repo.git(&["worktree", "add", "--quiet", tree.to_str().unwrap(), "side"]);
    let url = format!("file://{}", repo.path.display());
    let shallow = repo.beside("shallow");
    repo.git(&["clone", "--quiet", "--depth=1", &url, shallow.to_str().unwrap()]);
    assert_eq!(git(&shallow, &["rev-list", "--count", "HEAD"]), "1");
    let packed = repo.beside("packed.git");
    repo.git(&["clone", "--quiet", "--mirror", ".", packed.to_str().unwrap()]);
    git(&packed, &["pack-refs", "--all", "--prune"]);
    assert!(!packed.join("refs/heads/side").exists());

    let dot_git = repo.path.join(".git");
    for (path, fragment, text) in [
        (&repo.path, "", "2"),
        (&repo.path, "#side", "1"),
        (&repo.path, "#v1", "1"),
        (&repo.path, "#light", "2"),
        (&repo.path, "#refs/tags/v1", "1"),
        (&repo.path, &format!("#{first}"), "1"),
        (&repo.path, &format!("#{second}"), "2"),
        (&dot_git, "#main", "2"),
        (&bare, "", "2"),
        (&bare, "#side", "1"),
        (&tree, "", "1"),
        (&tree, "#main", "2"),
        (&shallow, "", "2"),
        (&packed, "#side", "1"),
        (&packed, "#v1", "1"),
    ] {
        let mut source = source(path, fragment, "");
        assert_eq!(read(&mut source).unwrap(), one(text), "{}{fragment}", path.display());
    }
    // A branch and a tag by one name: the branch.
    repo.git(&["tag", "side", "main"]);
    assert_eq!(read(&mut source(&repo.path, "#side", "")).unwrap(), one("1"));
}

#[test]
fn a_repository_in_sha_256() {
    let repo = Repo::with(&["--object-format=sha256"]);
    repo.write("a.yaml", "1");
    let id = repo.commit("one");
    assert_eq!(id.len(), 64);
    assert_eq!(repo.source().read(PATIENCE).unwrap().id, id);
    assert_eq!(read(&mut source(&repo.path, &format!("#{id}"), "")).unwrap(), one("1"));
}

#[test]
fn only_what_is_below_a_path() {
    let repo = Repo::ready();
    repo.write("clusters/a/x.yaml", "x");
    repo.write("clusters/a/deep/y.yaml", "y");
    repo.write("clusters/b/z.yaml", "z");
    repo.write("clusters/.c/z.yaml", "z");
    repo.write("clusters/empty/README", "none");
    repo.commit("two");
    for (below, wanted) in [
        ("clusters/a", &["deep/y.yaml", "x.yaml"][..]),
        ("/clusters//a/", &["deep/y.yaml", "x.yaml"]),
        ("./clusters/b", &["z.yaml"]),
        ("clusters/.c", &["z.yaml"]),
        ("", &["a.yaml", "clusters/a/deep/y.yaml", "clusters/a/x.yaml", "clusters/b/z.yaml", "clusters/empty/README"]),
    ] {
        assert_eq!(paths(&source(&repo.path, "", below).read(PATIENCE).unwrap()), wanted, "{below}");
    }
    for (below, code) in [("clusters/d", "source-path"), ("a.yaml", "source-path"), ("clusters/empty", "source-empty")]
    {
        assert_eq!(read(&mut source(&repo.path, "", below)).unwrap_err().code(), code, "{below}");
    }
    let options = GitOptions { path: "../x".to_owned(), ..GitOptions::default() };
    assert_eq!(GitSource::new("git+file:///x", &options).unwrap_err().code(), "source-unknown");
}

#[test]
fn what_is_not_there_is_an_error_and_never_an_empty_set() {
    let repo = Repo::ready();
    let code = |path: &std::path::Path, fragment: &str| {
        let error = read(&mut source(path, fragment, "")).unwrap_err();
        assert!(!error.help().is_empty());
        (error.code(), error.to_string())
    };
    let absent = "0".repeat(39) + "1";
    assert_eq!(code(&repo.path, "#nope").0, "source-branch");
    assert_eq!(code(&repo.path, &format!("#{absent}")).0, "source-branch");
    assert_eq!(code(&repo.beside("absent"), "").0, "source-missing");
    // A directory inside of a work tree is no repository, and one that is none does not mean the one above it.
    repo.write("below/a.yaml", "1");
    assert_eq!(code(&repo.path.join("below"), "").0, "source-missing");
    assert_eq!(code(repo.path.parent().unwrap(), "").0, "source-missing");
    let unborn = Repo::new();
    assert_eq!(code(&unborn.path, "").0, "source-branch");
    unborn.commit("an empty tree");
    assert_eq!(code(&unborn.path, "").0, "source-empty");
    // A blob is no commit.
    let blob = repo.git(&["rev-parse", "HEAD:a.yaml"]);
    repo.git(&["tag", "blob", &blob]);
    assert_eq!(code(&repo.path, "#blob").0, "source-branch");
}

/// Objects that a partial clone left out are missing; asking its remote would run what its configuration says.
#[test]
fn a_partial_clone_is_an_error_and_nothing_is_fetched() {
    let repo = Repo::ready();
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    let clone = repo.beside("partial");
    let url = format!("file://{}", repo.path.display());
    repo.git(&["clone", "--quiet", "--filter=blob:none", "--no-checkout", &url, clone.to_str().unwrap()]);
    let error = read(&mut source(&clone, "", "")).unwrap_err();
    assert_eq!(error.code(), "source-object", "{error}");
}

/// Whoever may write to the repository, its configuration included, may not run anything as us.
#[test]
fn nothing_that_the_repository_names_is_run() {
    let repo = Repo::ready();
    let touched = repo.beside("touched");
    let script = repo.beside("script");
    fs::write(&script, format!("#!/bin/sh\ntouch {}\n", touched.display())).unwrap();
    Command::new("chmod").arg("+x").arg(&script).status().unwrap();
    let script = script.to_str().unwrap();
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    let clone = repo.beside("partial");
    let url = format!("file://{}", repo.path.display());
    repo.git(&["clone", "--quiet", "--filter=blob:none", "--no-checkout", &url, clone.to_str().unwrap()]);
    for (key, value) in [
        ("core.fsmonitor", script),
        ("core.hooksPath", "/nonexistent"),
        ("core.pager", script),
        ("core.sshCommand", script),
        ("core.gitProxy", script),
        ("gpg.program", script),
        ("gpg.ssh.program", script),
        ("gpg.x509.program", script),
        ("credential.helper", &format!("!{script}")),
        ("protocol.ext.allow", "always"),
        ("diff.external", script),
        ("filter.x.smudge", script),
        ("uploadpack.packObjectsHook", script),
        ("remote.origin.url", &format!("ext::{script}")),
        ("remote.origin.uploadpack", script),
    ] {
        git(&clone, &["config", key, value]);
    }
    assert!(read(&mut source(&clone, "", "")).is_err());
    git(&clone, &["config", "remote.origin.url", "ssh://host/x"]);
    assert!(read(&mut source(&clone, "", "")).is_err());
    assert!(!touched.exists());
}

#[test]
fn a_replacement_does_not_stand_in_for_a_commit() {
    let repo = Repo::ready();
    let first = repo.head();
    let second = repo.change("2");
    repo.git(&["replace", &second, &first]);
    assert_eq!(repo.git(&["show", "main:a.yaml"]), "1", "git itself follows it");
    assert_eq!(read(&mut repo.source()).unwrap(), one("2"));
}

#[test]
fn somebody_elses_repository_is_read() {
    let repo = Repo::ready();
    let status = Command::new("chown").args(["-R", "nobody"]).arg(&repo.path).status().unwrap();
    assert!(status.success(), "needs root");
    assert_eq!(read(&mut repo.source()).unwrap(), one("1"));
}

#[test]
fn any_revision_by_any_name() {
    let repo = Repo::ready();
    let first = repo.head();
    repo.git(&["tag", "-a", "v1", "-m", "one"]);
    repo.write("sub/b.yaml", "b");
    let second = repo.change("2");
    let mut source = repo.source();
    for (rev, id) in [
        ("HEAD", &second),
        ("HEAD~1", &first),
        ("main^", &first),
        ("v1", &first),
        ("v1^{commit}", &first),
        (&first[..10], &first),
        ("main@{0}", &second),
    ] {
        assert_eq!(source.read_at(rev, PATIENCE).unwrap().id, *id, "{rev}");
    }
    for rev in ["nope", "", "--help", "v9", "HEAD~7", "a\nb", "HEAD:a.yaml"] {
        assert_eq!(source.read_at(rev, PATIENCE).unwrap_err().code(), "source-branch", "{rev}");
    }
    // From inside the work tree: what is below that directory.
    let mut around = GitSource::around(&repo.path.join("sub"), &GitOptions::default()).unwrap();
    assert_eq!(paths(&around.read_at("HEAD", PATIENCE).unwrap()), ["b.yaml"]);
    assert_eq!(around.read_at("v1", PATIENCE).unwrap_err().code(), "source-path");
}

#[test]
fn a_process_that_was_killed_and_packs_that_went_are_no_matter() {
    let repo = Repo::ready();
    let mut source = repo.source();
    read(&mut source).unwrap();
    for round in 2..6 {
        let text = round.to_string();
        repo.change(&text);
        repo.git(&["repack", "-a", "-d", "--quiet"]);
        repo.git(&["prune-packed"]);
        assert_eq!(read(&mut source).unwrap(), one(&text));
        kill_readers(&repo);
        repo.change(&format!("{text}, afterwards"));
        assert_eq!(read(&mut source).unwrap(), one(&format!("{text}, afterwards")));
    }
}

/// Ends the `git cat-file` that reads this repository.
fn kill_readers(repo: &Repo) {
    let own = repo.path.to_str().unwrap();
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("cat-file") && line.contains(own) {
            let pid: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            killed += i32::from(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        }
    }
    assert_eq!(killed, 1);
}
