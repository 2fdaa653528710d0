//! Objects of a repository, through one `git cat-file` that is kept: names are resolved afresh at every request, new
//! packs are found by themselves, and no process is started on the way from a commit to its files.
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::memfd::{MFdFlags, memfd_create},
};

use super::{
    error::GitError,
    object_id::ObjectId,
    program::{Deadline, git_in, one_line},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Blob,
    Tree,
    Commit,
    Tag,
}

#[derive(Debug)]
pub(crate) struct Object {
    pub id: ObjectId,
    pub kind: Kind,
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Objects {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
    /// What it says when it dies.
    complaints: File,
    buffer: Vec<u8>,
    at: usize,
    /// Every object's bytes are compared with its name, as `git fsck` does.
    checked: bool,
}

/// Requests that may lie in the pipe: git must never wait for us while we wait for it to take a request. So many of at
/// most 74 bytes fit into a page, which is all that a pipe has for a user with many of them.
const AHEAD: usize = 48;
const WHAT: &str = "reading objects";

impl Objects {
    pub fn open(git_dir: &Path, checked: bool) -> Result<Self, GitError> {
        let failed = |cause: io::Error| GitError::Program { program: "git", cause };
        let complaints: File =
            memfd_create(c"weir-git", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno.into()))?.into();
        let mut child = git_in(git_dir)
            .args(["cat-file", "--batch-command"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(io::Error::other("it has no pipes")));
        };
        Ok(Self { child, requests, answers, complaints, buffer: Vec::new(), at: 0, checked })
    }

    /// What `name` leads to, once it is peeled to a commit. `None`: it leads to none.
    pub fn commit(&mut self, name: &str, deadline: &Deadline) -> Result<Option<Object>, GitError> {
        self.ask(&format!("contents {name}^{{commit}}\n"), deadline)?;
        self.answer(u64::MAX, deadline)
    }

    /// One object, which must be of this kind and at most `limit` bytes.
    pub fn object(&mut self, id: ObjectId, kind: Kind, limit: u64, deadline: &Deadline) -> Result<Vec<u8>, GitError> {
        self.ask(&format!("contents {id}\n"), deadline)?;
        let object = self.answer(limit, deadline)?;
        Self::of_kind(object, id, kind)
    }

    /// Many objects, in the order of `ids`; `each` may refuse one by its size before it is read.
    pub fn blobs<E: From<GitError>>(
        &mut self,
        ids: &[ObjectId],
        deadline: &Deadline,
        mut limit: impl FnMut(usize) -> u64,
        mut each: impl FnMut(usize, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut asked = 0;
        let mut ahead = VecDeque::new();
        while asked < ids.len() || !ahead.is_empty() {
            if ahead.len() <= AHEAD / 2 && asked < ids.len() {
                let mut lines = String::new();
                while ahead.len() < AHEAD && asked < ids.len() {
                    lines.push_str(&format!("contents {}\n", ids[asked]));
                    ahead.push_back(asked);
                    asked += 1;
                }
                self.ask(&lines, deadline)?;
            }
            let Some(at) = ahead.pop_front() else { break };
            let object = self.answer(limit(at), deadline)?;
            each(at, Self::of_kind(object, ids[at], Kind::Blob)?)?;
        }
        Ok(())
    }

    fn of_kind(object: Option<Object>, id: ObjectId, kind: Kind) -> Result<Vec<u8>, GitError> {
        let fault = |fault: String| GitError::Object { object: id.to_string(), fault };
        match object {
            Some(object) if object.id == id && object.kind == kind => Ok(object.bytes),
            Some(object) => Err(fault(format!("is a {:?} where a {kind:?} should be", object.kind).to_lowercase())),
            None => Err(fault("is not in the repository".to_owned())),
        }
    }

    fn ask(&mut self, lines: &str, deadline: &Deadline) -> Result<(), GitError> {
        match self.requests.write_all(lines.as_bytes()) {
            Ok(()) => Ok(()),
            // It has died: its last words are on the other pipe's end.
            Err(_) => Err(self.died(deadline)),
        }
    }

    fn answer(&mut self, limit: u64, deadline: &Deadline) -> Result<Option<Object>, GitError> {
        let line = self.line(deadline)?;
        let odd = |line: &str| GitError::Failed { what: WHAT.to_owned(), said: format!("answered `{line}`") };
        let mut words = line.split(' ');
        let (name, kind, size) = (words.next(), words.next(), words.next());
        let (Some(name), Some(kind)) = (name, kind) else { return Err(odd(&line)) };
        if line.ends_with(" missing") {
            return Ok(None);
        }
        let kind = match kind {
            "blob" => Kind::Blob,
            "tree" => Kind::Tree,
            "commit" => Kind::Commit,
            "tag" => Kind::Tag,
            _ => return Err(odd(&line)),
        };
        let size: u64 = size.and_then(|size| size.parse().ok()).ok_or_else(|| odd(&line))?;
        let id = ObjectId::parse(name).ok_or_else(|| odd(&line))?;
        if size > limit {
            // What follows is not wanted: nobody may read on from here.
            self.end();
            return Err(GitError::Object { object: id.to_string(), fault: TOO_LARGE.to_owned() });
        }
        let bytes = self.exactly(usize::try_from(size).map_err(|_| odd(&line))?, deadline)?;
        if self.exactly(1, deadline)? != b"\n" {
            return Err(odd(&line));
        }
        if self.checked && !id.names(kind.name(), &bytes) {
            return Err(GitError::Object {
                object: id.to_string(),
                fault: "holds other bytes than its name says".to_owned(),
            });
        }
        Ok(Some(Object { id, kind, bytes }))
    }

    fn line(&mut self, deadline: &Deadline) -> Result<String, GitError> {
        let mut from = self.at;
        loop {
            if let Some(end) = self.buffer[from..].iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.buffer[self.at..from + end]).into_owned();
                self.at = from + end + 1;
                return Ok(line);
            }
            from = self.buffer.len() - self.at;
            self.fill(deadline)?;
        }
    }

    fn exactly(&mut self, count: usize, deadline: &Deadline) -> Result<Vec<u8>, GitError> {
        let there = (self.buffer.len() - self.at).min(count);
        let mut bytes = Vec::with_capacity(count);
        bytes.extend_from_slice(&self.buffer[self.at..self.at + there]);
        self.at += there;
        while bytes.len() < count {
            self.wait(deadline)?;
            let start = bytes.len();
            bytes.resize(count, 0);
            let read = self.read(start, &mut bytes);
            match read {
                Ok(0) => return Err(self.died(deadline)),
                Ok(more) => bytes.truncate(start + more),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => bytes.truncate(start),
                Err(_) => return Err(self.died(deadline)),
            }
        }
        Ok(bytes)
    }

    fn read(&mut self, start: usize, bytes: &mut [u8]) -> io::Result<usize> {
        self.answers.read(&mut bytes[start..])
    }

    /// Makes room and reads some more.
    fn fill(&mut self, deadline: &Deadline) -> Result<(), GitError> {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.wait(deadline)?;
        let start = self.buffer.len();
        self.buffer.resize(start + (1 << 16), 0);
        let read = self.answers.read(&mut self.buffer[start..]);
        self.buffer.truncate(start + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => Err(self.died(deadline)),
            Ok(_) => Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(self.died(deadline)),
        }
    }

    /// Until there is something to read, or nobody at the other end.
    fn wait(&mut self, deadline: &Deadline) -> Result<(), GitError> {
        loop {
            let slice = match deadline.slice(WHAT) {
                Ok(slice) => slice.max(Duration::from_millis(1)),
                Err(error) => {
                    // The answer may still come: to another question.
                    self.end();
                    return Err(error);
                }
            };
            let mut fds = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(slice).unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => {
                    return Err(GitError::Failed { what: WHAT.to_owned(), said: errno.desc().to_owned() });
                }
            }
        }
    }

    fn died(&mut self, deadline: &Deadline) -> GitError {
        // It closed its pipes: it has ended, or never will by itself.
        while let Ok(None) = self.child.try_wait() {
            if deadline.slice(WHAT).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        self.end();
        let mut said = String::new();
        // Where it left no word, there is none to repeat.
        let _ = self.complaints.seek(SeekFrom::Start(0)).and_then(|_| self.complaints.read_to_string(&mut said));
        GitError::Failed { what: WHAT.to_owned(), said: one_line(&said, "git cat-file ended") }
    }

    fn end(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Known to whoever set the limit.
pub(crate) const TOO_LARGE: &str = "is too large";

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Tree => "tree",
            Self::Commit => "commit",
            Self::Tag => "tag",
        }
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.end();
    }
}
