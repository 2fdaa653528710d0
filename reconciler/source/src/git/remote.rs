//! A repository elsewhere: asked for its reference, and fetched into a bare clone that holds only what is needed.
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{
    error::GitError,
    object_id::ObjectId,
    program::{Deadline, Ran, git, git_in, run_git},
    spec::Reference,
};

/// The reference that keeps what was fetched from being pruned.
pub(crate) const FETCHED: &str = "refs/weir/source";
/// Where the other process that has the clone is waited for.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Clone {
    url: String,
    directory: PathBuf,
    /// Where the clone may not be kept.
    _temporary: Option<TempDir>,
}

/// The clone belongs to this process as long as this lives.
#[derive(Debug)]
pub(crate) struct Locked(#[expect(dead_code, reason = "held, never read")] Flock<File>);

impl Clone {
    /// One for each reference: what two of them need differs.
    pub fn new(url: &str, reference: &Reference, cache: &Path) -> Result<Self, GitError> {
        let failed = |cause| GitError::Cache { path: cache.into(), cause };
        let digest = Sha256::digest(format!("{url}\0{}", reference.name()));
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(cache).and_then(|()| writable(cache)) {
            Ok(()) => Ok(Self { url: url.to_owned(), directory: cache.join(format!("{name}.git")), _temporary: None }),
            // Somebody who only wants to look, at a pull request say, has no state directory.
            Err(cause)
                if matches!(cause.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                tracing::debug!(cache = %cache.display(), %cause, "the clone is kept for this run only");
                Self::temporary(url)
            }
            Err(cause) => Err(failed(cause)),
        }
    }

    /// Gone with this.
    pub fn temporary(url: &str) -> Result<Self, GitError> {
        let failed = |cause| GitError::Cache { path: std::env::temp_dir(), cause };
        let temporary = tempfile::Builder::new().prefix("weir-git-").tempdir().map_err(failed)?;
        let directory = temporary.path().join("clone.git");
        Ok(Self { url: url.to_owned(), directory, _temporary: Some(temporary) })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The agent and a verb may want the same clone.
    pub fn lock(&self, deadline: &Deadline) -> Result<Locked, GitError> {
        let failed = |cause| GitError::Cache { path: self.directory.clone(), cause };
        let path = self.directory.with_extension("lock");
        let mut file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Locked(lock)),
                Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
                Err((_, errno)) => return Err(failed(errno.into())),
            }
            std::thread::sleep(deadline.slice("waiting for another process that uses the clone")?.min(PAUSE));
        }
    }

    /// What the remote's reference names now: its full name, and the commit.
    pub fn ask(&self, reference: &Reference, deadline: &Deadline) -> Result<(String, ObjectId), GitError> {
        let mut command = git();
        command.args(["ls-remote", "--quiet", "--", self.url.as_str()]);
        let names = reference.candidates();
        for name in &names {
            command.args([name.clone(), format!("{name}^{{}}")]);
        }
        // None of our clone's doing, whatever it is.
        let elsewhere = |error| match error {
            GitError::Failed { said, .. } => GitError::Unreachable { said },
            error => error,
        };
        let ran = classified(run_git(command, "asking the remote", deadline)?).map_err(elsewhere)?;
        let text = String::from_utf8_lossy(&ran.stdout);
        let named = |wanted: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('\t'));
            // A pattern also matches the end of longer names.
            lines.find(|(_, name)| *name == wanted).and_then(|(id, _)| ObjectId::parse(id))
        };
        for name in names {
            // A tag's commit stands under its peeled name.
            if let Some(id) = named(&format!("{name}^{{}}")).or_else(|| named(&name)) {
                return Ok((name, id));
            }
        }
        Err(GitError::NoReference { name: reference.name().to_owned() })
    }

    /// Brings one reference or commit, without what came before it.
    pub fn fetch(&self, wanted: &str, format: &ObjectId, deadline: &Deadline) -> Result<(), GitError> {
        self.prepare(format, deadline)?;
        let refspec = format!("+{wanted}:{FETCHED}");
        let fetch = |depth: Option<&str>| {
            let mut command = self.command();
            command.args([
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-recurse-submodules",
                "--force",
                "--no-write-fetch-head",
            ]);
            command.args(depth);
            command.args(["--", self.url.as_str(), refspec.as_str()]);
            run_git(command, "fetching", deadline)
        };
        let mut ran = fetch(Some("--depth=1"))?;
        // A plain web server has no history to cut.
        if !ran.status.success() && ran.stderr.contains("does not support shallow") {
            ran = fetch(None)?;
        }
        classified(ran).map(drop)
    }

    /// Brings every branch and tag with its history, under the names that a clone has for them.
    pub fn fetch_history(&self, deadline: &Deadline) -> Result<(), GitError> {
        let (_, id) = self.ask(&Reference::Head, deadline)?;
        self.prepare(&id, deadline)?;
        let mut command = self.command();
        command.args(["fetch", "--quiet", "--no-recurse-submodules", "--force", "--"]).arg(&self.url);
        command.args(["+HEAD:refs/remotes/origin/HEAD", "+refs/heads/*:refs/heads/*"]);
        command.args(["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]);
        classified(run_git(command, "fetching", deadline)?)?;
        let mut command = git_in(&self.directory);
        command.args(["update-ref", "--no-deref", "HEAD", "refs/remotes/origin/HEAD"]);
        run_git(command, "fetching", deadline)?.success("fetching").map(drop)
    }

    /// Whatever is wrong with it goes with it.
    pub fn remove(&self) -> Result<(), GitError> {
        match fs::remove_dir_all(&self.directory) {
            Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => fs::remove_file(&self.directory)
                .map_err(|cause| GitError::Cache { path: self.directory.clone(), cause }),
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(GitError::Cache { path: self.directory.clone(), cause })
            }
            _ => Ok(()),
        }
    }

    fn prepare(&self, format: &ObjectId, deadline: &Deadline) -> Result<(), GitError> {
        if self.directory.join("HEAD").exists() {
            return Ok(());
        }
        self.remove()?;
        let format = if format.raw().len() == 32 { "sha256" } else { "sha1" };
        let mut command = git();
        // No template: it might have hooks.
        command
            .args(["init", "--quiet", "--bare", "--template=", "--object-format", format, "--"])
            .arg(&self.directory);
        run_git(command, "making the clone", deadline)?.success("making the clone")?;
        // Whoever may not read the remote may not read it here.
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&self.directory, mode)
            .map_err(|cause| GitError::Cache { path: self.directory.clone(), cause })
    }

    /// git in the clone, with a way to the remote.
    fn command(&self) -> Command {
        let mut command = git();
        command.arg("--git-dir").arg(&self.directory).current_dir("/");
        command
    }
}

/// Directories can be made in it. (Permission bits do not tell: not of root, and not of a read-only file system.)
fn writable(directory: &Path) -> io::Result<()> {
    tempfile::Builder::new().prefix(".probe-").tempdir_in(directory).map(drop)
}

/// Tells the ways in which a remote can fail from each other by what git says, which has no other way to say it.
fn classified(ran: Ran) -> Result<Ran, GitError> {
    const DENIED: [&str; 8] = [
        "Authentication failed",
        "could not read Username",
        "could not read Password",
        "Permission denied (",
        "Host key verification failed",
        "returned error: 401",
        "returned error: 403",
        "HTTP Basic: Access denied",
    ];
    const ABSENT: [&str; 5] = [
        "not found",
        "does not appear to be a git repository",
        "returned error: 404",
        "No such repository",
        "repository does not exist",
    ];
    const WAY: [&str; 14] = [
        "unable to access",
        "Could not resolve host",
        "Failed to connect",
        "Connection refused",
        "Connection reset",
        "Connection timed out",
        "Connection closed",
        "No route to host",
        "Network is unreachable",
        "the remote end hung up",
        "Could not read from remote repository",
        "early EOF",
        "RPC failed",
        "unexpected disconnect",
    ];
    if ran.status.success() {
        return Ok(ran);
    }
    let said = ran.said();
    let says = |signs: &[&str]| signs.iter().any(|sign| ran.stderr.contains(sign));
    let name = || {
        let at = ran.stderr.find("couldn't find remote ref ")?;
        ran.stderr[at..].split_whitespace().nth(4).map(str::to_owned)
    };
    // A refused connection is followed by the same words as a refused key.
    let connected = !says(&["Connection refused", "Connection timed out", "Could not resolve", "Connection closed"]);
    Err(if let Some(name) = name() {
        GitError::NoReference { name }
    } else if says(&["not our ref", "unadvertised object"]) {
        GitError::NoCommit { name: said }
    } else if connected && says(&DENIED) {
        GitError::Denied { said }
    } else if connected && says(&ABSENT) {
        GitError::NoRepository
    } else if says(&WAY) {
        GitError::Unreachable { said }
    } else {
        GitError::Failed { what: "fetching".to_owned(), said }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn what_git_says_of_remotes() {
        let code = |stderr: &str| {
            let ran = Ran {
                status: std::process::ExitStatus::from_raw(128 << 8),
                stdout: Vec::new(),
                stderr: stderr.to_owned(),
            };
            classified(ran).unwrap_err().code()
        };
        let rights = "fatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.\n";
        for (stderr, expected) in [
            ("fatal: could not read Username for 'http://x': terminal prompts disabled\n", "source-denied"),
            ("fatal: Authentication failed for 'http://x/'\n", "source-denied"),
            ("fatal: unable to access 'http://x/': The requested URL returned error: 403\n", "source-denied"),
            (&format!("git@x: Permission denied (publickey).\n{rights}"), "source-denied"),
            (&format!("Host key verification failed.\n{rights}"), "source-denied"),
            ("fatal: repository 'http://x/' not found\n", "source-missing"),
            (&format!("fatal: '/x' does not appear to be a git repository\n{rights}"), "source-missing"),
            (&format!("ssh: connect to host x port 1: Connection refused\n{rights}"), "source-unreachable"),
            ("fatal: unable to access 'http://x/': Failed to connect to x port 1 after 0 ms\n", "source-unreachable"),
            ("fatal: couldn't find remote ref refs/heads/x\n", "source-branch"),
            ("error: Server does not allow request for unadvertised object 00\n", "source-branch"),
            ("fatal: bad object refs/weir/source\n", "source-git"),
        ] {
            assert_eq!(code(stderr), expected, "{stderr}");
        }
    }
}
