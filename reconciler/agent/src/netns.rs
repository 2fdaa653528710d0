//! A hint that a named network namespace came or went, of which rtnetlink says nothing.
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::ModifyKind};
use tokio::sync::Notify;

/// Where `ip netns` keeps them, and where that directory appears with the first.
const DIRECTORY: &str = "/run/netns";
const PARENT: &str = "/run";

/// A watch on the directory of named namespaces. What happened is not told: the node is looked at again.
#[derive(Debug)]
pub(crate) struct NetnsHints {
    hint: Arc<Notify>,
    /// None where the kernel gives no inotify instance, because others of this user have them all.
    watcher: Option<Mutex<RecommendedWatcher>>,
}

impl NetnsHints {
    pub fn subscribe() -> Self {
        let hint = Arc::new(Notify::new());
        let give = Arc::clone(&hint);
        let watcher = notify::recommended_watcher(move |event| {
            if matters(&event) {
                give.notify_one();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "new namespaces are only found when the node is looked at every now and then");
        }
        let hints = Self { hint, watcher: watcher.ok().map(Mutex::new) };
        hints.watch();
        hints
    }

    /// Watching twice is watching once; and what cannot be watched is looked for every now and then.
    fn watch(&self) {
        let Some(watcher) = &self.watcher else { return };
        let mut watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if watcher.watch(Path::new(DIRECTORY), RecursiveMode::NonRecursive).is_ok() {
            // Not watched any more is fine.
            let _ = watcher.unwatch(Path::new(PARENT));
        } else if let Err(error) = watcher.watch(Path::new(PARENT), RecursiveMode::NonRecursive) {
            tracing::debug!(%error, "nobody tells of new namespaces");
        }
    }

    /// Returns when something happened since the last call. Safe to cancel.
    pub async fn changed(&self) {
        self.hint.notified().await;
        // The directory may be new, or made anew.
        self.watch();
    }
}

/// Our own looking opens what is there: that is no news. An error, an overflow for one, may be.
fn matters(event: &notify::Result<Event>) -> bool {
    match event {
        Ok(event) => matches!(
            event.kind,
            EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Other
        ),
        Err(_) => true,
    }
}
