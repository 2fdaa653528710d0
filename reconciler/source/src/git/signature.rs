//! Whose commits are accepted.
use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{
    error::{GitError, SignatureFault},
    object_id::ObjectId,
    program::{Deadline, Ran, git_in, run, run_git},
};

/// The lists of signers, and the commit that was last found to be by one of them.
///
/// Only the commit that the reference names must be signed: it names its whole tree, and every object's bytes are
/// compared with its name. What came before is history.
#[derive(Debug)]
pub(crate) struct Signers {
    paths: Vec<PathBuf>,
    prepared: Option<Prepared>,
    accepted: Option<(ObjectId, [u8; 32])>,
}

#[derive(Debug)]
struct Prepared {
    /// Of the lists as they were read.
    digest: [u8; 32],
    /// A GnuPG home that knows the listed keys and no others, and beside them the list of SSH signers.
    home: TempDir,
}

impl Signers {
    pub fn new(paths: &[PathBuf]) -> Self {
        Self { paths: paths.to_vec(), prepared: None, accepted: None }
    }

    pub fn are_named(&self) -> bool {
        !self.paths.is_empty()
    }

    /// An error unless no signers are named, or one of them signed the commit. The lists are read again every time.
    pub fn accept(
        &mut self,
        git_dir: &Path,
        commit: ObjectId,
        signed: bool,
        author: &str,
        deadline: &Deadline,
    ) -> Result<(), GitError> {
        if self.paths.is_empty() {
            return Ok(());
        }
        let digest = self.prepare(deadline)?;
        if self.accepted == Some((commit, digest)) {
            return Ok(());
        }
        let refused = |fault| GitError::Signature { commit: commit.to_string(), author: author.to_owned(), fault };
        if !signed {
            return Err(refused(SignatureFault::Unsigned));
        }
        let Some(prepared) = &self.prepared else { return Err(refused(SignatureFault::Unsigned)) };
        let ran = verify(git_dir, commit, prepared.home.path(), deadline)?;
        judge(&ran).map_err(refused)?;
        self.accepted = Some((commit, digest));
        Ok(())
    }

    fn prepare(&mut self, deadline: &Deadline) -> Result<[u8; 32], GitError> {
        let (mut ssh, mut keys) = (Vec::new(), Vec::new());
        let mut digest = Sha256::new();
        for path in &self.paths {
            let unusable = |cause: String| GitError::Signers { path: path.clone(), cause };
            let bytes = fs::read(path).map_err(|cause| unusable(cause.to_string()))?;
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(&bytes);
            if is_openpgp(&bytes) {
                keys.push(path.clone());
            } else {
                check_allowed_signers(&bytes).map_err(unusable)?;
                ssh.extend_from_slice(&bytes);
                ssh.push(b'\n');
            }
        }
        let digest: [u8; 32] = digest.finalize().into();
        if self.prepared.as_ref().is_some_and(|prepared| prepared.digest == digest) {
            return Ok(digest);
        }
        let failed = |cause: std::io::Error| GitError::Signers { path: std::env::temp_dir(), cause: cause.to_string() };
        let home = tempfile::Builder::new().prefix("weir-signers-").tempdir().map_err(failed)?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).map_err(failed)?;
        // There even where it is empty: git wants one to say that nobody is on it.
        fs::File::create(allowed_signers(home.path())).and_then(|mut file| file.write_all(&ssh)).map_err(failed)?;
        for path in keys {
            let mut command = Command::new("gpg");
            command.args(["--batch", "--quiet", "--no-autostart", "--homedir"]).arg(home.path());
            command.args(["--import", "--"]).arg(&path).env("LC_ALL", "C");
            let ran = run(command, "gpg", "importing signers' keys", deadline)?;
            if !ran.status.success() {
                return Err(GitError::Signers { path, cause: ran.said() });
            }
        }
        self.prepared = Some(Prepared { digest, home });
        Ok(digest)
    }
}

fn allowed_signers(home: &Path) -> PathBuf {
    home.join("allowed_signers")
}

/// Armored, or binary: a packet's first byte has its highest bit set, which no list of names begins with.
fn is_openpgp(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|byte| byte & 0x80 != 0)
        || bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK")
}

/// A list on which nobody is, by mistake or because it is something else, accepts nobody: better said at once.
fn check_allowed_signers(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is neither text nor OpenPGP keys".to_owned())?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    if lines.peek().is_none() {
        return Err("nobody is on it".to_owned());
    }
    let is_key = |word: &str| word.starts_with("ssh-") || word.starts_with("ecdsa-") || word.starts_with("sk-");
    match lines.find(|line| !line.split_whitespace().skip(1).any(is_key)) {
        Some(line) => Err(format!("a line is not `NAME [OPTIONS] KEYTYPE KEY`: `{line}`")),
        None => Ok(()),
    }
}

fn verify(git_dir: &Path, commit: ObjectId, home: &Path, deadline: &Deadline) -> Result<Ran, GitError> {
    let mut command = git_in(git_dir);
    // Before what the repository's own configuration says: it may name any program.
    for setting in [
        "gpg.program=gpg",
        "gpg.openpgp.program=gpg",
        "gpg.ssh.program=ssh-keygen",
        "gpg.x509.program=/bin/false",
        "gpg.minTrustLevel=undefined",
    ] {
        command.args(["-c", setting]);
    }
    let list = format!("gpg.ssh.allowedSignersFile={}", allowed_signers(home).display());
    command.args(["-c", &list]).env("GNUPGHOME", home);
    command.args(["verify-commit", "--raw", &commit.to_string()]);
    run_git(command, "checking a signature", deadline)
}

/// What `git verify-commit --raw` means.
fn judge(ran: &Ran) -> Result<(), SignatureFault> {
    const STATUS: &str = "[GNUPG:] ";
    let text = &ran.stderr;
    let statuses: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(STATUS)).collect();
    if statuses.is_empty() {
        return judge_ssh(ran);
    }
    let status = |word: &str| statuses.iter().find(|line| line.split(' ').next() == Some(word)).copied();
    // Key id and user.
    let said = |line: &str| line.split_once(' ').map_or(line, |(_, rest)| rest).trim().to_owned();
    if let Some(line) = status("BADSIG") {
        return Err(SignatureFault::Bad { said: said(line) });
    }
    if let Some(line) = status("REVKEYSIG") {
        return Err(SignatureFault::Revoked { said: said(line) });
    }
    if let Some(line) = status("EXPKEYSIG").or_else(|| status("EXPSIG")) {
        return Err(SignatureFault::Expired { said: said(line) });
    }
    if let Some(line) = status("NO_PUBKEY") {
        return Err(SignatureFault::Foreign { said: format!("OpenPGP key {}", said(line)) });
    }
    if ran.status.success() && status("GOODSIG").is_some() && status("VALIDSIG").is_some() {
        return Ok(());
    }
    Err(SignatureFault::Unchecked { said: ran.said() })
}

fn judge_ssh(ran: &Ran) -> Result<(), SignatureFault> {
    let text = format!("{}{}", String::from_utf8_lossy(&ran.stdout), ran.stderr);
    let line = |sign: &str| text.lines().find(|line| line.contains(sign)).map(|line| line.trim().to_owned());
    if ran.status.success() && line("Good \"git\" signature for ").is_some() {
        return Ok(());
    }
    // Where it stands in the list is of a directory that is gone tomorrow.
    let reason = |line: String| line.rsplit_once("allowed_signers:").map_or(line.clone(), |(_, rest)| rest.to_owned());
    if let Some(said) = line("key has expired") {
        return Err(SignatureFault::Expired { said: format!("line {}", reason(said)) });
    }
    if let Some(said) = line("key is not ") {
        return Err(SignatureFault::Foreign { said: format!("line {}", reason(said)) });
    }
    // Good, but of a key that stands under no name.
    if let Some(said) = line("Good \"git\" signature with ") {
        let key = said.trim_start_matches("Good \"git\" signature with ").to_owned();
        return Err(SignatureFault::Foreign { said: key });
    }
    if let Some(said) = line("incorrect signature").or_else(|| line("Signature verification failed")) {
        return Err(SignatureFault::Bad { said });
    }
    Err(SignatureFault::Unchecked { said: ran.said() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_told_apart_and_nonsense_is_refused() {
        assert!(is_openpgp(b"\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n") && is_openpgp(&[0x99, 1, 2]));
        let list = b"# ours\n\na@example.org namespaces=\"git\" ssh-ed25519 AAAA x\n*@b cert-authority sk-ssh-ed25519@openssh.com AAAA\n";
        assert!(!is_openpgp(list) && check_allowed_signers(list).is_ok());
        // The public key itself, without a name before it, would mean somebody called `ssh-ed25519`.
        for bytes in [&b""[..], b"# nobody\n", b"ssh-ed25519 AAAA a@example.org\n", b"a b\n", b"x\xff ssh-rsa A\n"] {
            assert!(check_allowed_signers(bytes).is_err());
        }
    }
}
