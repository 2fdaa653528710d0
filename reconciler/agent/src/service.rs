//! What the service manager is told: that the agent is ready, what it is doing, that it is alive, that it ends.
//!
//! Without `NOTIFY_SOCKET` nobody listens, and nothing is said.
use std::time::Duration;

use sd_notify::NotifyState;

/// The way to the service manager that started this process, if one did.
#[derive(Debug)]
pub(crate) struct Service {
    is_ready: bool,
    status: String,
    /// Between two signs of life: half of what it waits for.
    watchdog: Option<Duration>,
    alive: tokio::time::Instant,
}

impl Service {
    pub fn new() -> Self {
        let watchdog = sd_notify::watchdog_enabled().map(|most| most / 2);
        if let Some(every) = watchdog {
            tracing::debug!(?every, "the service manager waits for signs of life");
        }
        Self { is_ready: false, status: String::new(), watchdog, alive: tokio::time::Instant::now() }
    }

    /// The engine did something and came back: it does not hang.
    pub fn is_alive(&mut self) {
        if self.watchdog.is_some_and(|every| self.alive.elapsed() >= every) {
            self.alive = tokio::time::Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// What it came to. The first time, the agent is ready: whatever was to be kept or brought live, it has tried.
    pub fn reconciled(&mut self, status: String) {
        let news = status != self.status;
        if !self.is_ready {
            self.is_ready = true;
            self.alive = tokio::time::Instant::now();
            tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        } else if news {
            tell(&[NotifyState::Status(&status)]);
        }
        self.status = status;
    }

    pub fn stops(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("what is live stays live")]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
