//! etcd as the source: a key below the prefix is a file, or the whole set is pushed at once.
//!
//! Files that are written by hand are followed key by key; each transaction is taken whole, and a burst of them is one
//! revision. A pushed set ([`EtcdSource::push`]) is taken when `<prefix>revision` names it, and proven against its
//! digest. How keys are laid out: `layout.rs`.
//!
//! It promises that what it delivers is a state that etcd held, that a prefix without a manifest or a set that is not
//! whole is an error, and that after any failure it delivers what etcd holds then, older or not.
mod address;
mod backoff;
mod beacon;
mod error;
mod follow;
mod keyspace;
mod layout;
mod link;
mod pull;
mod push;
mod read;
mod set;
mod watcher;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

pub use beacon::{BeaconOptions, EtcdBeacon, Voice};
pub use error::EtcdError;
pub use push::Pushed;

use self::{
    address::Address,
    backoff::Backoff,
    follow::{Asked, Follower},
    keyspace::KeySpace,
    layout::after,
    link::{Link, Session},
    read::{Pager, Want},
};
use crate::{Revision, SourceError, Watch, WatchOptions, follow::News};

/// How etcd is spoken to. Secrets are read from files when a connection is made.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    /// PEM. Without it the system's roots are trusted.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// How long an answer may take. A watch that is silent for so long is asked whether it is there.
    pub timeout: Duration,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            user: None,
            password_file: None,
            ca: None,
            certificate: None,
            key: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// What is below one prefix of an etcd.
#[derive(Clone, Debug)]
pub struct EtcdSource {
    link: Arc<Link>,
}

impl EtcdSource {
    /// `spec` is `etcd://host:2379[,…]/prefix/`. Reaches nothing yet.
    pub fn new(spec: &str, options: &EtcdOptions) -> Result<Self, SourceError> {
        Ok(Self { link: Arc::new(Link::new(Address::parse(spec)?, options)) })
    }

    /// What the prefix holds now. Blocking, `patience` at most.
    pub fn read(&mut self, patience: Duration) -> Result<Arc<Revision>, SourceError> {
        let link = self.link.clone();
        apart(async move || {
            let mut pager = Pager::default();
            attempts(&link, patience, async |session| read(&link, session, &mut pager).await).await.map(Arc::new)
        })?
    }

    /// Puts `revision` in force as a whole. Blocking.
    pub fn push(&self, revision: &Revision) -> Result<Pushed, SourceError> {
        push::check(revision, &self.spec())?;
        let (link, files) = (self.link.clone(), revision.files.clone());
        apart(async move || {
            let keys = link.keys();
            attempts(&link, PATIENCE, async |session| push::push(session, &keys, &files).await).await
        })?
    }

    /// Makes `directory` hold what is in force now, and nothing else. Blocking.
    ///
    /// # Errors
    /// It holds something already, and `replace` does not say that this may go.
    pub fn pull(&mut self, directory: &Path, replace: bool) -> Result<Arc<Revision>, SourceError> {
        let revision = self.read(PATIENCE)?;
        pull::write(&revision, directory, replace)?;
        Ok(revision)
    }

    /// Every key that begins with `prefix`, without it, and its value. Blocking.
    pub fn values(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        let (link, prefix) = (self.link.clone(), prefix.to_owned());
        apart(async move || {
            attempts(&link, PATIENCE, async |session| {
                let mut values = Vec::new();
                let bounds = (prefix.clone().into_bytes(), after(&prefix));
                read::range(session, &mut Pager::default(), bounds, Want::Values, |found| {
                    values.extend(found.into_iter().map(|found| {
                        let (key, value) = found.into_key_value();
                        (String::from_utf8_lossy(&key[prefix.len()..]).into_owned(), value)
                    }));
                    None
                })
                .await?;
                Ok(values)
            })
            .await
        })?
    }

    /// Keeps `key` in the same etcd, over the same connection. Call it on a runtime.
    pub fn beacon(&self, key: String, options: BeaconOptions) -> EtcdBeacon {
        EtcdBeacon::start(self.link.clone(), key, options)
    }

    /// Begins to follow: on the runtime of whoever calls, or where there is none, on a thread of its own.
    pub fn follow(self, options: WatchOptions) -> Result<Watch, SourceError> {
        let (news, outcomes) = News::channel();
        let asked = Arc::new(Asked::default());
        let follower = Follower::new(self.link, options, news, asked.clone());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(follower.run())),
            Err(_) => {
                let runtime = runtime()?;
                let body = move || runtime.block_on(follower.run());
                thread::Builder::new().name("weir-source".to_owned()).spawn(body).map_err(no_thread)?;
            }
        }
        Ok(Watch::new(outcomes, asked))
    }

    pub fn spec(&self) -> String {
        self.link.address.to_string()
    }
}

/// How long a verb tries.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is in force: the set that `revision` names, or else what was written by hand.
async fn read(link: &Link, session: &Session, pager: &mut Pager) -> Result<Revision, SourceError> {
    let keys = link.keys();
    loop {
        if let Some(value) = read::pointer(session, &keys).await?.value {
            return set::load(session, &keys, pager, &value, None).await;
        }
        let (space, pointed) = read::keyspace(session, &keys, pager, &KeySpace::default()).await?;
        if !pointed {
            return space.state(&session.spec);
        }
    }
}

/// Acts on one server after the other, until one does not fail for the way to it.
async fn attempts<T>(
    link: &Link,
    patience: Duration,
    mut act: impl AsyncFnMut(&Session) -> Result<T, SourceError>,
) -> Result<T, SourceError> {
    let start = Instant::now();
    let mut backoff = Backoff::new(link.patience());
    // Each server may fail once more than it has to.
    let mut left = link.address.endpoints.len() * 2;
    loop {
        left -= 1;
        let (serial, result) = match link.session().await {
            Ok(session) => (session.serial, act(&session).await),
            Err(error) => (0, Err(error.into())),
        };
        match result {
            Err(SourceError::Etcd(error)) if error.is_of_the_way() && left > 0 && start.elapsed() < patience => {
                tracing::debug!(%error, "trying again");
                link.broken(serial).await;
                tokio::time::sleep(backoff.wait()).await;
            }
            result => return result,
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, SourceError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)
}

fn no_thread(cause: std::io::Error) -> SourceError {
    SourceError::Unreadable { path: "etcd".into(), cause }
}

/// Runs `work` to its end on a thread of its own: the caller's may be one that must not block on a runtime.
fn apart<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, SourceError> {
    let runtime = runtime()?;
    let body = move || runtime.block_on(work());
    let thread = thread::Builder::new().name("weir-etcd".to_owned()).spawn(body).map_err(no_thread)?;
    thread.join().map_err(|panic| std::panic::resume_unwind(panic))
}
