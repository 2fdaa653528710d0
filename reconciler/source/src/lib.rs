//! Where manifests come from: a directory, a file, standard input, a git repository, etcd.
//!
//! A source delivers a [`Revision`]: every file below its root as (path, bytes, SHA-256), or an error. It promises that
//! a revision is a state that really existed ([`DirSource::settled`]: two equal looks), and that a root that is
//! missing, unmounted or half listed is an error and never an empty set. [`Watch`] follows a directory: events are
//! only hints, each one means "look again".
//!
//! It must never know a kind or parse a manifest, and it writes only what it is told to publish or to pull.
#![forbid(unsafe_code)]

mod dir;
mod error;
mod etcd;
mod follow;
mod git;
mod hints;
mod mentioned;
mod read;
mod revision;
mod source;
mod spec;
mod stamp;
mod walk;
mod watch;

pub use dir::{DirSource, Effort, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES, Scan};
pub use error::SourceError;
pub use etcd::{BeaconOptions, EtcdBeacon, EtcdError, EtcdOptions, EtcdSource, Pushed, Voice};
pub use follow::{Outcome, Watch};
pub use git::{GitError, GitOptions, GitSource, SignatureFault};
pub use revision::{Authorship, Revision, SourceFile, read_stdin};
pub use source::{Access, Source};
pub use spec::SourceSpec;
pub use watch::WatchOptions;
