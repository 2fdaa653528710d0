//! Following a repository: by its references where it is on this machine, by asking where it is not.
use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{GitError, GitSource, Open, program::Deadline};
use crate::{
    SourceError, Watch, WatchOptions,
    follow::{Asked, News},
    hints::{Hint, Hints},
};

pub(super) fn follow(source: GitSource, options: WatchOptions) -> Result<Watch, SourceError> {
    let hints = Hints::new();
    let spec = source.spec.clone();
    // What ends the watch ends a fetch as well.
    Watch::start(Asked::new(hints.waker(), source.stop.clone()), |news, asked| {
        move || Follower { source, options, hints, news, asked, failures: 0 }.run()
    })
    .map_err(|cause| SourceError::Git { spec, error: GitError::Program { program: "weir-source", cause } })
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
            if self.asked.stopped() {
                return;
            }
            if self.asked.takes_reread() || reread.elapsed() >= self.options.reread {
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
        self.hints.watch(&watched).map_or((false, false), |unseen| (any, unseen))
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
