//! Following a repository: by its references where it is on this machine, by asking where it is not.
use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{GitError, GitSource, Open, program::Deadline};
use crate::{
    SourceError, Watch, WatchOptions,
    follow::{News, Reins},
    hints::{Hint, Hints, Waker},
};

pub(super) fn follow(source: GitSource, options: WatchOptions) -> Result<Watch, SourceError> {
    let failed = |spec: &str, cause| SourceError::Git {
        spec: spec.to_owned(),
        error: GitError::Program { program: "weir-source", cause },
    };
    let hints = Hints::new().map_err(|error| failed(&source.spec, io::Error::other(error)))?;
    let (news, outcomes) = News::channel();
    let asked = Arc::new(Asked { stop: source.stop.clone(), reread: false.into(), waker: hints.waker() });
    let spec = source.spec.clone();
    let follower = Follower { source, options, hints, news, asked: asked.clone(), failures: 0 };
    thread::Builder::new()
        .name("weir-source".to_owned())
        .spawn(move || follower.run())
        .map_err(|cause| failed(&spec, cause))?;
    Ok(Watch::new(outcomes, asked))
}

/// What the following thread is asked for.
#[derive(Debug)]
struct Asked {
    /// Ends a fetch as well.
    stop: Arc<AtomicBool>,
    reread: AtomicBool,
    waker: Waker,
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

struct Follower {
    source: GitSource,
    options: WatchOptions,
    hints: Hints,
    news: News,
    asked: Arc<Asked>,
    /// In a row.
    failures: u32,
}

impl Follower {
    fn run(mut self) {
        let mut reread = Instant::now();
        loop {
            if self.asked.stop.load(Ordering::Relaxed) {
                return;
            }
            if self.asked.reread.swap(false, Ordering::Relaxed) || reread.elapsed() >= self.options.reread {
                self.source.forget();
                reread = Instant::now();
            }
            // What happened until here is what this look sees. No rest: a reference changes in one step.
            self.hints.drain();
            let remote = self.source.is_remote();
            let patience = if remote { self.source.options.timeout } else { self.options.patience };
            let outcome = self.source.look(&Deadline::new(patience, self.asked.stop.clone()));
            self.failures = if outcome.is_ok() { 0 } else { self.failures.saturating_add(1) };
            if let Err(error) = &outcome {
                tracing::debug!(%error, "looked at the source");
            }
            let stopped = matches!(&outcome, Err(SourceError::Git { error: GitError::Stopped, .. }));
            if !stopped {
                self.news.publish(outcome);
            }
            let (watched, unseen) = self.watch();
            if unseen {
                // It may have changed before it was watched.
                continue;
            }
            let wait = match (remote, self.failures) {
                (true, 0) => jittered(self.source.options.poll),
                (true, failures) => jittered(backoff(self.options.retry, failures, self.source.options.poll)),
                (false, 0) if watched => self.options.resync,
                (false, _) => self.options.retry,
            };
            // A neighbour's event is none of ours, and no reason to look.
            while self.hints.wait(wait) == Hint::Look && remote {}
        }
    }

    /// Watches the references. Whether all are watched, and whether one was not until now.
    fn watch(&mut self) -> (bool, bool) {
        let watched = match (&self.source.open, self.source.is_remote()) {
            (Some(Open { repository, .. }), false) => repository.watched(&self.source.reference),
            _ => BTreeMap::new(),
        };
        let any = !watched.is_empty();
        match self.hints.watch(&watched) {
            Ok(unseen) => (any, unseen),
            Err(error) => {
                tracing::warn!(%error, "cannot watch the repository; looking again every {:?}", self.options.retry);
                (false, false)
            }
        }
    }
}

/// Between 0.9 and 1.1 times: a thousand nodes that were started together must not ask together for ever.
fn jittered(interval: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    interval.mul_f64(0.9 + 0.2 * (random as f64 / u64::MAX as f64))
}

/// Twice as long after every failure, up to the usual interval.
fn backoff(first: Duration, failures: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_differ_and_grow() {
        let minute = Duration::from_secs(60);
        let some: Vec<Duration> = (0..100).map(|_| jittered(minute)).collect();
        assert!(some.iter().all(|one| (54.0..=66.0).contains(&one.as_secs_f64())));
        assert!(some.iter().any(|one| *one != some[0]));
        let second = Duration::from_secs(1);
        let waits: Vec<u64> = (1..9).map(|failures| backoff(second, failures, minute).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(second, 40, Duration::from_millis(10)), second);
    }
}
