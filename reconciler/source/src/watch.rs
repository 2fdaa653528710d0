use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    DirSource, Revision, SourceError,
    hints::{Hint, Hints, Waker},
};

#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// How long everything must have been at rest.
    pub rest: Duration,
    /// After this long without rest, say so.
    pub patience: Duration,
    /// Look again without any hint: network file systems give none.
    pub resync: Duration,
    /// Read every file again, whatever its stamp says.
    pub reread: Duration,
    /// Look again while the source is in error, or cannot be watched.
    pub retry: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            rest: Duration::from_millis(50),
            patience: Duration::from_secs(10),
            resync: Duration::from_secs(60),
            reread: Duration::from_secs(3600),
            retry: Duration::from_secs(1),
        }
    }
}

/// The latest word of the source: a revision, or why there is none.
pub type Outcome = Result<Arc<Revision>, Arc<SourceError>>;

/// A directory that is followed, by a thread of its own that ends when this is dropped.
///
/// Level, not edge: a reader that was slow gets the latest outcome, and misses only what is no longer true.
#[derive(Debug)]
pub struct Watch {
    outcomes: watch::Receiver<Option<Outcome>>,
    waker: Waker,
    asked: Arc<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    stop: AtomicBool,
    reread: AtomicBool,
}

impl Watch {
    /// Begins to follow; the first outcome comes as soon as the source is at rest.
    pub fn start(source: DirSource, options: WatchOptions) -> Result<Self, SourceError> {
        let path = || source.roots().next().map(Into::into).unwrap_or_default();
        let failed = |cause: std::io::Error| SourceError::Unreadable { path: path(), cause };
        let hints = Hints::new().map_err(|error| failed(std::io::Error::other(error)))?;
        let (sender, outcomes) = watch::channel(None);
        let asked = Arc::new(Asked::default());
        let watch = Self { outcomes, waker: hints.waker(), asked: asked.clone() };
        let name = "weir-source".to_owned();
        let roots = path();
        let follower = Follower { source, options, hints, sender, asked };
        thread::Builder::new()
            .name(name)
            .spawn(move || follower.run())
            .map_err(|cause| SourceError::Unreadable { path: roots, cause })?;
        Ok(watch)
    }

    /// The next outcome that this was not yet called for. Safe to cancel.
    pub async fn changed(&mut self) -> Outcome {
        loop {
            if self.outcomes.changed().await.is_err() {
                // The thread ends only when this is dropped, or by a bug in it.
                let cause = std::io::Error::other("the thread that watches it has died");
                return Err(Arc::new(SourceError::Unreadable { path: "source".into(), cause }));
            }
            if let Some(outcome) = self.outcomes.borrow_and_update().clone() {
                return outcome;
            }
        }
    }

    /// The latest outcome, `None` before the first.
    pub fn latest(&self) -> Option<Outcome> {
        self.outcomes.borrow().clone()
    }

    /// Asks for a look now; with `reread`, one that trusts no stamp. An outcome follows only if it is another one.
    pub fn look(&self, reread: bool) {
        self.asked.reread.fetch_or(reread, Ordering::Relaxed);
        self.waker.wake();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.asked.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

struct Follower {
    source: DirSource,
    options: WatchOptions,
    hints: Hints,
    sender: watch::Sender<Option<Outcome>>,
    asked: Arc<Asked>,
}

impl Follower {
    fn run(mut self) {
        let mut reread = Instant::now();
        while !self.stopped() {
            if self.asked.reread.swap(false, Ordering::Relaxed) || reread.elapsed() >= self.options.reread {
                self.source.forget();
                reread = Instant::now();
            }
            let Some((outcome, watched)) = self.settle() else { return };
            let in_error = outcome.is_err();
            self.publish(outcome);
            let wait = if in_error || !watched { self.options.retry } else { self.options.resync };
            self.hints.wait(wait);
        }
    }

    fn stopped(&self) -> bool {
        self.asked.stop.load(Ordering::Relaxed)
    }

    /// Looks until two looks with `rest` between them agree and no hint came in between. `None`: stopped. The second
    /// value: whether everything that was found is watched.
    fn settle(&mut self) -> Option<(Result<Arc<Revision>, SourceError>, bool)> {
        let start = Instant::now();
        let mut before: Option<Result<String, String>> = None;
        loop {
            // What happened until here is what this look sees.
            self.hints.drain();
            let outcome = self.source.scan();
            let mut watched = true;
            let mut unseen = false;
            match &outcome {
                Ok(scan) => match self.hints.watch(&scan.watched) {
                    Ok(new) => unseen = new,
                    Err(error) => {
                        tracing::warn!(%error, "cannot watch every directory; looking again every {:?}", self.options.retry);
                        watched = false;
                    }
                },
                Err(error) => tracing::debug!(%error, "looked at the source"),
            }
            let summary = match &outcome {
                Ok(scan) => Ok(scan.revision.id.clone()),
                Err(error) => Err(error.to_string()),
            };
            let agrees = before.as_ref() == Some(&summary) && !unseen;
            let transient = matches!(&outcome, Err(error) if error.is_transient());
            if agrees && !transient {
                return Some((outcome.map(|scan| scan.revision), watched));
            }
            if start.elapsed() >= self.options.patience {
                let path = self.source.roots().next().map(Into::into).unwrap_or_default();
                return Some((Err(SourceError::Restless { path, waited: self.options.patience }), watched));
            }
            before = Some(summary);
            // A hint means that the state just seen is already old: begin anew, but not faster than `rest`.
            let rest = Instant::now();
            loop {
                match self.hints.wait(self.options.rest.saturating_sub(rest.elapsed())) {
                    Hint::Timeout => break,
                    Hint::Look => before = None,
                    Hint::Asked if self.stopped() => return None,
                    Hint::Asked => {}
                }
            }
        }
    }

    /// An outcome that says the same as the one before is not news.
    fn publish(&self, outcome: Result<Arc<Revision>, SourceError>) {
        let outcome = outcome.map_err(Arc::new);
        self.sender.send_if_modified(|latest| {
            let same = match (&*latest, &outcome) {
                (Some(Ok(old)), Ok(new)) => old.id == new.id,
                (Some(Err(old)), Err(new)) => old.to_string() == new.to_string(),
                _ => false,
            };
            if !same {
                *latest = Some(outcome);
            }
            !same
        });
    }
}
