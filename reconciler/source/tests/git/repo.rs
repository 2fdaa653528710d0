//! A repository that a test commits to, with the real git.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;
use weir_source::{GitOptions, GitSource, Outcome, Revision, SourceError, Watch, WatchOptions};

/// A work tree with `main` checked out.
pub struct Repo {
    _directory: TempDir,
    pub path: PathBuf,
}

pub const OPTIONS: WatchOptions = WatchOptions {
    rest: Duration::from_millis(20),
    patience: Duration::from_secs(60),
    // So long that only hints can explain what is seen.
    resync: Duration::from_secs(3600),
    reread: Duration::from_secs(3600),
    retry: Duration::from_millis(50),
};

pub const PATIENCE: Duration = Duration::from_secs(60);

impl Repo {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// `git init` with these options.
    pub fn with(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap().join("repo");
        let repo = Self { _directory: directory, path };
        fs::create_dir(&repo.path).unwrap();
        repo.git(&[&["init", "--quiet", "-b", "main"], options].concat());
        repo
    }

    /// With `a.yaml` committed.
    pub fn ready() -> Self {
        let repo = Self::new();
        repo.write("a.yaml", "1");
        repo.commit("one");
        repo
    }

    /// Beside the work tree.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    pub fn git(&self, words: &[&str]) -> String {
        git(&self.path, words)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn link(&self, name: &str, target: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    /// Everything that is in the work tree. The commit's id.
    pub fn commit(&self, subject: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", subject]);
        self.head()
    }

    /// `a.yaml` with this text, committed.
    pub fn change(&self, text: &str) -> String {
        self.write("a.yaml", text);
        self.commit(text)
    }

    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn source(&self) -> GitSource {
        source(&self.path, "", "")
    }
}

pub fn git(directory: &Path, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(words).current_dir(directory);
    // A clean machine, whoever runs the test.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Ann").env(format!("GIT_{role}_EMAIL"), "ann@example.org");
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    assert!(output.status.success(), "git {words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// `fragment` with its `#`.
pub fn source(path: &Path, fragment: &str, below: &str) -> GitSource {
    let options = GitOptions { path: below.to_owned(), ..GitOptions::default() };
    GitSource::new(&format!("git+file://{}{fragment}", path.display()), &options).unwrap()
}

pub fn read(source: &mut GitSource) -> Result<Vec<(String, String)>, SourceError> {
    source.read(PATIENCE).map(|revision| content(&revision))
}

pub fn content(revision: &Revision) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    revision.files.iter().map(|file| (file.path.to_string(), text(&file.bytes))).collect()
}

pub fn paths(revision: &Revision) -> Vec<&str> {
    revision.files.iter().map(|file| &*file.path).collect()
}

pub fn follow(source: GitSource) -> Watch {
    source.follow(OPTIONS).unwrap()
}

/// Waits until an outcome satisfies `wanted`, past others.
pub async fn until(watch: &mut Watch, wanted: impl Fn(&Outcome) -> bool) -> Outcome {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            let outcome = watch.changed().await;
            if wanted(&outcome) {
                return outcome;
            }
            seen.push(outcome.map(|revision| revision.id.clone()));
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("never came; seen: {seen:?}"),
    }
}

pub async fn until_id(watch: &mut Watch, id: &str) -> std::sync::Arc<Revision> {
    until(watch, |outcome| outcome.as_ref().is_ok_and(|revision| revision.id == id)).await.unwrap()
}

pub async fn until_code(watch: &mut Watch, code: &str) -> String {
    let outcome = until(watch, |outcome| outcome.as_ref().is_err_and(|error| error.code() == code)).await;
    outcome.unwrap_err().to_string()
}
