//! A source that is followed: the end that listens, and the end that tells.
use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::sync::watch;

use crate::{Revision, SourceError, hints::Waker};

/// The latest word of the source: a revision, or why there is none.
pub type Outcome = Result<Arc<Revision>, Arc<SourceError>>;

/// A source that is followed, by a thread of its own that ends when this is dropped.
///
/// Level, not edge: a reader that was slow gets the latest outcome, and misses only what is no longer true.
#[derive(Debug)]
pub struct Watch {
    outcomes: watch::Receiver<Option<Outcome>>,
    reins: Arc<dyn Reins>,
}

/// How whoever holds a [`Watch`] steers who follows.
pub(crate) trait Reins: fmt::Debug + Send + Sync {
    /// Look now; with `reread`, trust nothing that is remembered.
    fn look(&self, reread: bool);
    fn stop(&self);
}

impl Watch {
    pub(crate) fn new(outcomes: Listening, reins: Arc<dyn Reins>) -> Self {
        Self { outcomes, reins }
    }

    /// Starts the thread that follows, by what `prepare` makes of the two ends that it holds.
    pub(crate) fn start<F: FnOnce() + Send + 'static>(
        asked: Asked,
        prepare: impl FnOnce(News, Arc<Asked>) -> F,
    ) -> io::Result<Self> {
        let (news, outcomes) = News::channel();
        let asked = Arc::new(asked);
        thread::Builder::new().name("weir-source".to_owned()).spawn(prepare(news, asked.clone()))?;
        Ok(Self::new(outcomes, asked))
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

    /// Asks for a look now; with `reread`, one that trusts nothing that is remembered. An outcome follows only if it is
    /// another one.
    pub fn look(&self, reread: bool) {
        self.reins.look(reread);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reins.stop();
    }
}

/// What a thread that waits for hints is asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub stop: Arc<AtomicBool>,
    reread: AtomicBool,
    waker: Waker,
}

impl Asked {
    pub fn new(waker: Waker, stop: Arc<AtomicBool>) -> Self {
        Self { stop, reread: false.into(), waker }
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether nothing that is remembered is to be trusted. Asked once, it is answered once.
    pub fn takes_reread(&self) -> bool {
        self.reread.swap(false, Ordering::Relaxed)
    }
}

impl Reins for Asked {
    fn look(&self, reread: bool) {
        self.reread.fetch_or(reread, Ordering::Relaxed);
        self.waker.wake();
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// What a [`Watch`] listens to.
pub(crate) type Listening = watch::Receiver<Option<Outcome>>;

/// The telling end.
#[derive(Debug)]
pub(crate) struct News {
    outcomes: watch::Sender<Option<Outcome>>,
}

impl News {
    pub fn channel() -> (Self, Listening) {
        let (outcomes, receiver) = watch::channel(None);
        (Self { outcomes }, receiver)
    }

    /// An outcome that says the same as the one before is not news.
    pub fn publish(&self, outcome: Result<Arc<Revision>, SourceError>) {
        let outcome = outcome.map_err(Arc::new);
        self.outcomes.send_if_modified(|latest| {
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
