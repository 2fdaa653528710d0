//! etcd as the source: a key below the prefix is a file.
use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{Revision, SourceError, Watch, WatchOptions};

/// How etcd is spoken to. Secrets are read from files when a connection is made.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    /// PEM. Without it the system's roots are trusted.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug)]
pub struct EtcdSource {
    spec: String,
}

impl EtcdSource {
    pub fn new(spec: &str, _options: &EtcdOptions) -> Result<Self, SourceError> {
        Ok(Self { spec: spec.to_owned() })
    }

    /// What the prefix holds now. Blocking, `patience` at most.
    pub fn read(&mut self, _patience: Duration) -> Result<Arc<Revision>, SourceError> {
        Err(SourceError::NotSupported { spec: self.spec.clone(), what: "etcd" })
    }

    pub fn follow(self, _options: WatchOptions) -> Result<Watch, SourceError> {
        Err(SourceError::NotSupported { spec: self.spec, what: "etcd" })
    }
}
