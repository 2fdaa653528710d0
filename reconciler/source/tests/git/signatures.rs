//! Signed commits, by the real ssh-keygen and gpg.
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use weir_source::{GitError, GitOptions, GitSource, SignatureFault, SourceError};

use crate::repo::{OPTIONS, PATIENCE, Repo, until_code, until_id};

/// Runs a program that must succeed; its standard output.
fn tool(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn source(repo: &Repo, signers: &[&Path]) -> GitSource {
    let signers = signers.iter().map(|path| path.to_path_buf()).collect();
    let options = GitOptions { signers, ..GitOptions::default() };
    GitSource::new(&format!("git+file://{}", repo.path.display()), &options).unwrap()
}

/// The id of what is accepted, or what is wrong with it.
fn judged(repo: &Repo, signers: &[&Path]) -> Result<String, SignatureFault> {
    match source(repo, signers).read(PATIENCE) {
        Ok(revision) => Ok(revision.id.clone()),
        Err(SourceError::Git { error: GitError::Signature { commit, author, fault }, .. }) => {
            assert_eq!((commit, author.as_str()), (repo.head(), "Ann <ann@example.org>"));
            Err(fault)
        }
        Err(error) => panic!("{error}"),
    }
}

/// A new SSH key; signs from now on. Its line in a list of allowed signers.
fn ssh_key(repo: &Repo, name: &str) -> String {
    let key = repo.beside(name);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&key);
    tool(command);
    sign_with_ssh(repo, name);
    format!("{name}@example.org {}", fs::read_to_string(key.with_extension("pub")).unwrap().trim())
}

fn sign_with_ssh(repo: &Repo, name: &str) {
    for (key, value) in
        [("gpg.format", "ssh"), ("user.signingkey", repo.beside(name).to_str().unwrap()), ("commit.gpgsign", "true")]
    {
        repo.git(&["config", key, value]);
    }
}

fn list(repo: &Repo, lines: &[&str]) -> PathBuf {
    let path = repo.beside("allowed_signers");
    fs::write(&path, format!("# ours\n{}\n", lines.join("\n"))).unwrap();
    path
}

#[test]
fn ssh_good_unsigned_foreign_and_expired() {
    let repo = Repo::ready();
    let ann = ssh_key(&repo, "ann");
    let signers = list(&repo, &[&ann]);
    assert_eq!(judged(&repo, &[&signers]), Err(SignatureFault::Unsigned), "the first commit");
    let good = repo.change("signed");
    assert_eq!(judged(&repo, &[&signers]), Ok(good.clone()));
    assert_eq!(judged(&repo, &[]), Ok(good.clone()), "nobody asks for signatures");

    let eve = ssh_key(&repo, "eve");
    repo.change("by somebody else");
    let Err(SignatureFault::Foreign { said }) = judged(&repo, &[&signers]) else { panic!("foreign") };
    assert!(said.contains("SHA256:"), "which key: {said}");
    assert!(judged(&repo, &[&list(&repo, &[&ann, &eve])]).is_ok());

    // A key that was valid only before.
    let (name, key) = eve.split_once(' ').unwrap();
    let expired = format!("{name} valid-before=\"20200101\" {key}");
    assert!(matches!(judged(&repo, &[&list(&repo, &[&expired])]), Err(SignatureFault::Expired { .. })));
    // One that may sign files but not commits.
    let files = format!("{name} namespaces=\"file\" {key}");
    assert!(matches!(judged(&repo, &[&list(&repo, &[&files])]), Err(SignatureFault::Foreign { .. })));

    // Only the head must be signed; and it must, whatever came before it.
    sign_with_ssh(&repo, "ann");
    let signers = list(&repo, &[&ann]);
    assert!(judged(&repo, &[&signers]).is_err());
    let merged = repo.change("signed again");
    assert_eq!(judged(&repo, &[&signers]), Ok(merged));
    repo.git(&["commit", "--quiet", "--no-gpg-sign", "--allow-empty", "-m", "unsigned"]);
    assert_eq!(judged(&repo, &[&signers]), Err(SignatureFault::Unsigned));
}

/// A signature of one commit on another, of the same key.
#[test]
fn ssh_tampered() {
    let repo = Repo::ready();
    let signers = list(&repo, &[&ssh_key(&repo, "ann")]);
    repo.change("signed");
    forge(&repo);
    assert!(matches!(judged(&repo, &[&signers]), Err(SignatureFault::Bad { .. })), "{:?}", judged(&repo, &[&signers]));
}

/// The head, with its signature, under another message.
fn forge(repo: &Repo) {
    let commit = repo.git(&["cat-file", "commit", "HEAD"]);
    let forged = repo.beside("forged");
    fs::write(&forged, format!("{commit}, and more\n")).unwrap();
    let id = repo.git(&["hash-object", "-t", "commit", "-w", forged.to_str().unwrap()]);
    repo.git(&["update-ref", "refs/heads/main", &id]);
}

/// The signature is right and so is every name; the bytes under one of them are not.
#[test]
fn an_object_with_other_bytes_than_its_name_says() {
    for target in ["HEAD:a.yaml", "HEAD^{tree}"] {
        let repo = Repo::ready();
        let signers = list(&repo, &[&ssh_key(&repo, "ann")]);
        repo.change("allow nobody");
        assert!(judged(&repo, &[&signers]).is_ok());
        let name = repo.git(&["rev-parse", target]);
        repo.change("allow everybody");
        let other = repo.git(&["rev-parse", target]);
        repo.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
        let loose = |id: &str| repo.path.join(".git/objects").join(&id[..2]).join(&id[2..]);
        fs::set_permissions(loose(&name), fs::Permissions::from_mode(0o600)).unwrap();
        fs::copy(loose(&other), loose(&name)).unwrap();
        let error = source(&repo, &[&signers]).read(PATIENCE).unwrap_err();
        assert_eq!(error.code(), "source-object", "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
}

/// Whoever may write to the repository does not decide who is believed.
#[test]
fn the_repositorys_configuration_accepts_nobody() {
    let repo = Repo::ready();
    let signers = list(&repo, &[&ssh_key(&repo, "ann")]);
    let eve = ssh_key(&repo, "eve");
    repo.change("by eve");
    let own_list = repo.beside("own_list");
    fs::write(&own_list, eve).unwrap();
    let touched = repo.beside("touched");
    let yes = repo.beside("yes");
    let script = format!("#!/bin/sh\ntouch {}\necho 'Good \"git\" signature for ann with x'\n", touched.display());
    fs::write(&yes, script).unwrap();
    fs::set_permissions(&yes, fs::Permissions::from_mode(0o755)).unwrap();
    for (key, value) in [
        ("gpg.ssh.allowedSignersFile", own_list.to_str().unwrap()),
        ("gpg.ssh.program", yes.to_str().unwrap()),
        ("gpg.ssh.defaultKeyCommand", yes.to_str().unwrap()),
        ("gpg.program", yes.to_str().unwrap()),
    ] {
        repo.git(&["config", key, value]);
    }
    assert!(matches!(judged(&repo, &[&signers]), Err(SignatureFault::Foreign { .. })));
    assert!(!touched.exists());
}

#[test]
fn lists_that_cannot_be_used() {
    let repo = Repo::ready();
    let ann = ssh_key(&repo, "ann");
    repo.change("signed");
    let code = |path: &Path| source(&repo, &[path]).read(PATIENCE).unwrap_err().code();
    assert_eq!(code(&repo.beside("absent")), "source-signers");
    assert_eq!(code(&list(&repo, &[])), "source-signers");
    assert_eq!(code(&repo.beside("ann.pub")), "source-signers", "the key alone names nobody");
    let broken = repo.beside("broken.asc");
    fs::write(&broken, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nnonsense\n").unwrap();
    assert_eq!(code(&broken), "source-signers");
    assert!(judged(&repo, &[&list(&repo, &[&ann])]).is_ok());
}

/// A GnuPG home; its agent ends with it.
struct Gpg<'a> {
    repo: &'a Repo,
    home: tempfile::TempDir,
}

impl<'a> Gpg<'a> {
    fn new(repo: &'a Repo) -> Self {
        let home = tempfile::tempdir().unwrap();
        let script = repo.beside("gpg");
        let text = format!("#!/bin/sh\nexec gpg --homedir {} --pinentry-mode loopback \"$@\"\n", home.path().display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let this = Self { repo, home };
        repo.git(&["config", "gpg.format", "openpgp"]);
        repo.git(&["config", "gpg.program", script.to_str().unwrap()]);
        repo.git(&["config", "commit.gpgsign", "true"]);
        this
    }

    fn run(&self, words: &[&str]) -> String {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--homedir"]);
        command.arg(self.home.path()).args(words);
        tool(command)
    }

    /// A new key; signs from now on. With options such as a simulated time.
    fn key(&self, name: &str, options: &[&str], expires: &str) -> String {
        let user = format!("{name} <{name}@example.org>");
        self.run(&[options, &["--quick-generate-key", &user, "ed25519", "sign", expires]].concat());
        let listing = self.run(&["--with-colons", "--list-secret-keys", &user]);
        let line = listing.lines().find(|line| line.starts_with("fpr:")).unwrap();
        let fingerprint = line.split(':').nth(9).unwrap().to_owned();
        self.repo.git(&["config", "user.signingkey", &format!("{fingerprint}!")]);
        fingerprint
    }

    fn export(&self, name: &str, armor: bool, keys: &[&str]) -> PathBuf {
        let path = self.repo.beside(name);
        let output = path.to_str().unwrap();
        let armor = if armor { &["--armor"][..] } else { &[] };
        self.run(&[armor, &["--output", output, "--export"], keys].concat());
        path
    }
}

impl Drop for Gpg<'_> {
    fn drop(&mut self) {
        let mut command = Command::new("gpgconf");
        command.arg("--homedir").arg(self.home.path()).args(["--kill", "all"]);
        let _ = command.output();
    }
}

#[test]
fn gpg_good_unsigned_foreign_tampered_and_revoked() {
    let repo = Repo::ready();
    let gpg = Gpg::new(&repo);
    let ann = gpg.key("ann", &[], "never");
    let armored = gpg.export("ann.asc", true, &[&ann]);
    let binary = gpg.export("ann.gpg", false, &[&ann]);
    assert_eq!(judged(&repo, &[&armored]), Err(SignatureFault::Unsigned));
    let good = repo.change("signed");
    for keys in [&armored, &binary] {
        assert_eq!(judged(&repo, &[keys]), Ok(good.clone()));
    }

    let eve = gpg.key("eve", &[], "never");
    let by_eve = repo.change("by somebody else");
    assert!(matches!(judged(&repo, &[&armored]), Err(SignatureFault::Foreign { .. })));
    let both = gpg.export("both.gpg", false, &[&ann, &eve]);
    assert_eq!(judged(&repo, &[&both]), Ok(by_eve.clone()));
    let eves = gpg.export("eve.asc", true, &[&eve]);
    assert_eq!(judged(&repo, &[&armored, &eves]), Ok(by_eve), "two lists");

    forge(&repo);
    assert!(matches!(judged(&repo, &[&both]), Err(SignatureFault::Bad { .. })));

    repo.git(&["config", "user.signingkey", &format!("{ann}!")]);
    repo.change("signed, and then the key is lost");
    assert!(judged(&repo, &[&armored]).is_ok());
    let certificate = gpg.home.path().join(format!("openpgp-revocs.d/{ann}.rev"));
    let text = fs::read_to_string(&certificate).unwrap().replace(":-----BEGIN", "-----BEGIN");
    fs::write(&certificate, text).unwrap();
    gpg.run(&["--import", certificate.to_str().unwrap()]);
    let revoked = gpg.export("revoked.asc", true, &[&ann]);
    assert!(matches!(judged(&repo, &[&revoked]), Err(SignatureFault::Revoked { .. })));
}

#[test]
fn gpg_expired() {
    let repo = Repo::ready();
    let gpg = Gpg::new(&repo);
    // Made and used long ago; the commit says so, too.
    let then = ["--faked-system-time", "20200101T000000"];
    let ann = gpg.key("ann", &then, "2d");
    let script = repo.beside("gpg");
    let text =
        fs::read_to_string(&script).unwrap().replace("--homedir", "--faked-system-time 20200101T120000 --homedir");
    fs::write(&script, text).unwrap();
    repo.change("signed in time");
    let keys = gpg.export("ann.asc", true, &[&ann]);
    assert!(matches!(judged(&repo, &[&keys]), Err(SignatureFault::Expired { .. })), "{:?}", judged(&repo, &[&keys]));
}

#[test]
fn ssh_and_gpg_side_by_side() {
    let repo = Repo::ready();
    let signers = list(&repo, &[&ssh_key(&repo, "ann")]);
    let by_ssh = repo.change("by ssh");
    let gpg = Gpg::new(&repo);
    let bob = gpg.key("bob", &[], "never");
    let keys = gpg.export("bob.asc", true, &[&bob]);
    assert_eq!(judged(&repo, &[&signers, &keys]), Ok(by_ssh));
    assert!(matches!(judged(&repo, &[&keys]), Err(SignatureFault::Foreign { .. } | SignatureFault::Unchecked { .. })));
    let by_gpg = repo.change("by gpg");
    assert_eq!(judged(&repo, &[&signers, &keys]), Ok(by_gpg));
    assert!(matches!(judged(&repo, &[&signers]), Err(SignatureFault::Foreign { .. })));
}

#[tokio::test]
async fn a_refused_commit_leaves_the_last_good_one_and_lists_are_read_again() {
    let repo = Repo::ready();
    let ann = ssh_key(&repo, "ann");
    let signers = list(&repo, &[&ann]);
    let first = repo.change("signed");
    let mut watch = source(&repo, &[&signers]).follow(OPTIONS).unwrap();
    until_id(&mut watch, &first).await;
    let eve = ssh_key(&repo, "eve");
    let second = repo.change("by eve");
    let error = until_code(&mut watch, "source-signature").await;
    assert!(error.contains(&second) && error.contains("nobody on the list"), "{error}");
    // Eve is let in, without another commit.
    list(&repo, &[&ann, &eve]);
    until_id(&mut watch, &second).await;
    // And out again: what is live is refused at the next look.
    list(&repo, &[&ann]);
    watch.look(false);
    until_code(&mut watch, "source-signature").await;
}
