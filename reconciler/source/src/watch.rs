//! Following a directory.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    DirSource, Revision, SourceError, Watch,
    follow::{Asked, News},
    hints::{Hint, Hints},
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

/// Follows a directory; the first outcome comes as soon as it is at rest.
pub(crate) fn follow(source: DirSource, options: WatchOptions) -> Result<Watch, SourceError> {
    let hints = Hints::new();
    let path = source.roots().next().map(Into::into).unwrap_or_default();
    Watch::start(Asked::new(hints.waker(), Arc::default()), |news, asked| {
        move || Follower { source, options, hints, news, asked }.run()
    })
    .map_err(|cause| SourceError::Unreadable { path, cause })
}

struct Follower {
    source: DirSource,
    options: WatchOptions,
    hints: Hints,
    news: News,
    asked: Arc<Asked>,
}

impl Follower {
    fn run(mut self) {
        let mut reread = Instant::now();
        while !self.asked.stopped() {
            if self.asked.takes_reread() || reread.elapsed() >= self.options.reread {
                self.source.forget();
                reread = Instant::now();
            }
            let Some((outcome, watched)) = self.settle() else { return };
            let in_error = outcome.is_err();
            self.news.publish(outcome);
            let wait = if in_error || !watched { self.options.retry } else { self.options.resync };
            self.hints.wait(wait);
        }
    }

    /// Looks until nothing has moved for `rest`: no hint has come for so long, and none since the look began, where every
    /// change makes one; else two looks with `rest` between them agree. `None`: stopped. The second value: whether
    /// everything that was found is watched.
    fn settle(&mut self) -> Option<(Result<Arc<Revision>, SourceError>, bool)> {
        let start = Instant::now();
        let mut before: Option<Result<String, String>> = None;
        let mut moved = start;
        loop {
            // Who writes a file and renames it, or two files: one look for both.
            while self.hints.wait(BURST) == Hint::Look && moved.elapsed() < self.options.rest {
                moved = Instant::now();
            }
            // What happened until here is what this look sees.
            self.hints.drain();
            let began = Instant::now();
            let outcome = self.source.scan();
            let mut watched = true;
            let mut unseen = false;
            match &outcome {
                Ok(scan) => match self.hints.watch(&scan.watched) {
                    Some(new) => unseen = new,
                    None => watched = false,
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
            let proven = watched && !unseen && self.hints.sees_everything() && outcome.is_ok();
            let rest = self.options.rest;
            match self.rest(if proven { moved } else { began } + rest, began + rest / 2) {
                Rested::Still if proven => return outcome.ok().map(|scan| (Ok(scan.revision), watched)),
                Rested::Still => {}
                // The state just seen is already old.
                Rested::Moved(at) => (before, moved) = (None, at),
                Rested::Stopped => return None,
            }
        }
    }

    /// Waits `until` then, or for a hint, and after one at least until `again`.
    fn rest(&self, until: Instant, again: Instant) -> Rested {
        let mut moved = None;
        loop {
            let end = if moved.is_some() { again } else { until };
            match self.hints.wait(end.saturating_duration_since(Instant::now())) {
                Hint::Timeout => return moved.map_or(Rested::Still, Rested::Moved),
                Hint::Look => moved = Some(Instant::now()),
                Hint::Asked if self.asked.stopped() => return Rested::Stopped,
                Hint::Asked => {}
            }
        }
    }
}

/// How long whoever writes is given to be done with what it began.
const BURST: Duration = Duration::from_millis(2);

/// What came of a rest.
enum Rested {
    Still,
    /// Something moved, last at this time.
    Moved(Instant),
    Stopped,
}
