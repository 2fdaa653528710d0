//! Any kind of source behind one door.
use std::{sync::Arc, time::Duration};

use crate::{
    DirSource, EtcdOptions, EtcdSource, GitOptions, GitSource, Revision, SourceError, SourceSpec, Watch, WatchOptions,
    watch,
};

/// How each kind is reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub git: GitOptions,
    pub etcd: EtcdOptions,
}

#[derive(Debug)]
pub enum Source {
    Dir(DirSource),
    Git(Box<GitSource>),
    Etcd(EtcdSource),
}

impl Source {
    /// Reaches nothing yet. Directories and files may be several, the others stand alone.
    pub fn open(specs: &[SourceSpec], access: &Access) -> Result<Self, SourceError> {
        match specs {
            [SourceSpec::Git(spec)] => Ok(Self::Git(Box::new(GitSource::new(spec, &access.git)?))),
            [SourceSpec::Etcd(spec)] => Ok(Self::Etcd(EtcdSource::new(spec, &access.etcd)?)),
            specs => SourceSpec::directories(specs).map(Self::Dir),
        }
    }

    /// The revision that the source holds now; a directory's once it was at rest for `rest`. Blocking, `patience` at
    /// most.
    pub fn read(&mut self, rest: Duration, patience: Duration) -> Result<Arc<Revision>, SourceError> {
        match self {
            Self::Dir(source) => Ok(source.settled(rest, patience)?.revision),
            Self::Git(source) => source.read(patience),
            Self::Etcd(source) => source.read(patience),
        }
    }

    /// Begins to follow.
    pub fn follow(self, options: WatchOptions) -> Result<Watch, SourceError> {
        match self {
            Self::Dir(source) => watch::follow(source, options),
            Self::Git(source) => source.follow(options),
            Self::Etcd(source) => source.follow(options),
        }
    }
}
