use std::time::Duration;

const LEAST: Duration = Duration::from_millis(100);

/// How long to wait before the next attempt: twice as long each time, and never the same for two nodes that lost their
/// server in the same moment.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    pub const fn new(most: Duration) -> Self {
        Self { next: LEAST, most }
    }

    pub const fn reset(&mut self) {
        self.next = LEAST;
    }

    pub fn wait(&mut self) -> Duration {
        let wait = self.next.min(self.most);
        self.next = (self.next * 2).min(self.most.max(LEAST));
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// `interval`, a tenth more or less: a fleet that was started at once must not ask at once for ever.
pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + fastrand::f64() / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rare_and_never_a_hot_loop() {
        let mut backoff = Backoff::new(Duration::from_secs(5));
        let waits: Vec<Duration> = (0..10).map(|_| backoff.wait()).collect();
        for (at, wait) in waits.iter().enumerate() {
            let whole = (LEAST * (1 << at)).min(Duration::from_secs(5));
            assert!(*wait >= whole / 2 && *wait <= whole, "{waits:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= LEAST);
        assert!(Backoff::new(Duration::ZERO).wait().is_zero());
    }
}
