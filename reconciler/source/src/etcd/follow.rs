//! Following what etcd holds, whatever happens to it.
//!
//! List once, then watch from the revision of that listing. A watch that ended is never resumed: a server that was
//! restored from a backup may have gone past the revision that was seen last, with another history. So everything is
//! listed again; of a pushed set that is one key, and the files that are not known yet.
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    time::{sleep, sleep_until},
};

use super::{
    EtcdError,
    backoff::{Backoff, jittered},
    keyspace::KeySpace,
    layout::{Below, Keys, after, classify},
    link::{Link, Session},
    read::{self, Pager, Pointer},
    set,
    watcher::{Event, Told, Watcher},
};
use crate::{
    Revision, SourceError, WatchOptions,
    follow::{News, Reins},
};

/// Whoever writes key by key without a rest is heard all the same, after so many times the time of rest: unlike a
/// checkout, each of these states was one that somebody wrote.
const RESTLESS: u32 = 10;
/// Before a listing is believed against the watch, the watch has this long to tell what the listing shows.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// Between two listings in a row, should there be a reason for each.
const PAUSE: Duration = Duration::from_millis(20);

/// What the follower is asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    stop: AtomicBool,
    reread: AtomicBool,
    stopped: Notify,
    looked: Notify,
}

impl Reins for Asked {
    fn look(&self, reread: bool) {
        self.reread.fetch_or(reread, Ordering::Relaxed);
        self.looked.notify_one();
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.stopped.notify_one();
    }
}

impl Asked {
    async fn stopped(&self) {
        while !self.stop.load(Ordering::Acquire) {
            self.stopped.notified().await;
        }
    }
}

#[derive(Debug)]
pub(super) struct Follower {
    link: Arc<Link>,
    keys: Keys,
    options: WatchOptions,
    news: News,
    asked: Arc<Asked>,
    pager: Pager,
    space: KeySpace,
    last: Option<Arc<Revision>>,
    /// When etcd last said anything.
    heard: Instant,
    /// Of the connection in use.
    serial: u64,
}

impl Follower {
    pub fn new(link: Arc<Link>, options: WatchOptions, news: News, asked: Arc<Asked>) -> Self {
        let keys = link.keys();
        Self {
            link,
            keys,
            options,
            news,
            asked,
            pager: Pager::default(),
            space: KeySpace::default(),
            last: None,
            heard: Instant::now(),
            serial: 0,
        }
    }

    /// Until it is told to stop.
    pub async fn run(mut self) {
        let asked = self.asked.clone();
        tokio::select! {
            () = asked.stopped() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut backoff = Backoff::new(self.link.patience());
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let error = self.session().await;
            // A connection that has carried for a while was none of those that fail again and again.
            if begun.elapsed() > self.link.patience() * 2 {
                backoff.reset();
                failures = 0;
            }
            failures += 1;
            self.link.broken(self.serial).await;
            self.pager.failed();
            tracing::debug!(%error, "lost etcd");
            let tried_all = failures >= self.link.address.endpoints.len();
            let unheard = match self.last {
                Some(_) => self.heard.elapsed() >= self.options.patience,
                None => tried_all,
            };
            if unheard || !error.is_of_the_way() {
                self.news.publish(Err(error.into()));
            }
            tokio::select! {
                () = sleep(backoff.wait()) => {}
                () = self.asked.looked.notified() => {}
            }
        }
    }

    /// One connection, until it fails.
    async fn session(&mut self) -> EtcdError {
        let link = self.link.clone();
        let session = match link.session().await {
            Ok(session) => session,
            Err(error) => return error,
        };
        self.serial = session.serial;
        loop {
            let round = async {
                let pointer = read::pointer(&session, &self.keys).await?;
                self.heard = Instant::now();
                match pointer.value {
                    Some(_) => self.follow_sets(&session, pointer).await,
                    None => self.follow_keys(&session).await,
                }
            };
            match round.await {
                Ok(()) | Err(EtcdError::Compacted { .. }) => sleep(PAUSE).await,
                Err(error) => return error,
            }
        }
    }

    fn say(&mut self, outcome: Result<Revision, SourceError>) {
        self.news.publish(outcome.map(|revision| {
            let revision = Arc::new(revision);
            self.last = Some(revision.clone());
            revision
        }));
    }

    /// Hand-written keys, until there is a reason to begin anew.
    async fn follow_keys(&mut self, session: &Session) -> Result<(), EtcdError> {
        let (space, pointed) = read::keyspace(session, &self.keys, &mut self.pager, &self.space).await?;
        self.heard = Instant::now();
        self.space = space;
        if pointed {
            return Ok(());
        }
        tracing::debug!(revision = self.space.revision(), "listed");
        self.say(self.space.state(&session.spec));
        let end = after(&self.keys.prefix);
        let mut watcher =
            Watcher::start(session, self.keys.prefix.clone(), Some(end), self.space.revision() + 1).await?;
        let mut settling: Option<Settling> = None;
        let mut resync = Instant::now() + jittered(self.options.resync);
        let reread = Instant::now() + jittered(self.options.reread);
        let mut suspects: Option<BTreeSet<String>> = None;
        let asked = self.asked.clone();
        loop {
            let settled = settling.map_or(reread, |settling| settling.due(self.options.rest));
            tokio::select! {
                told = watcher.told() => {
                    self.heard = Instant::now();
                    match told? {
                        Told::Alive => {}
                        Told::Compacted => return Ok(()),
                        Told::Events(events) => match self.take(&events) {
                            Taken::Pushed => return Ok(()),
                            Taken::Nothing => {}
                            Taken::Changed if self.options.rest.is_zero() => self.say(self.space.state(&session.spec)),
                            Taken::Changed => settling = Some(Settling::again(settling)),
                        },
                    }
                }
                () = sleep_until(settled.into()), if settling.is_some() => {
                    settling = None;
                    self.say(self.space.state(&session.spec));
                }
                () = sleep_until(resync.into()) => {
                    let (listed, revision) = read::versions(session, &self.keys).await?;
                    self.heard = Instant::now();
                    let differences = self.space.differences(&listed);
                    let lost = suspects.take().is_some_and(|suspects| !suspects.is_disjoint(&differences));
                    if lost || revision < self.space.revision() {
                        tracing::warn!(source = %session.spec, "the watch has not told everything; listing again");
                        return Ok(());
                    }
                    let suspicious = !differences.is_empty();
                    resync = Instant::now() + if suspicious { SECOND_LOOK } else { jittered(self.options.resync) };
                    suspects = suspicious.then_some(differences);
                }
                () = sleep_until(reread.into()) => return Ok(()),
                () = asked.looked.notified() => {
                    if asked.reread.swap(false, Ordering::Relaxed) {
                        return Ok(());
                    }
                    resync = Instant::now();
                }
            }
        }
    }

    fn take(&mut self, events: &[Event]) -> Taken {
        let mut changed = false;
        for Event { key, value, mod_revision } in events {
            self.space.reached(*mod_revision);
            let Some(below) = self.keys.below(key) else { continue };
            match classify(below, value.as_deref().unwrap_or_default()) {
                Ok(Below::File(path)) => changed |= self.space.change(path, value.as_deref(), *mod_revision),
                Ok(Below::Revision) => return Taken::Pushed,
                Ok(Below::Pushed { .. }) => {}
                Ok(Below::Nothing) => changed |= self.space.forgive(below),
                Err(_) if value.is_none() => changed |= self.space.forgive(below),
                Err(why) => {
                    self.space.refuse(below, why);
                    changed = true;
                }
            }
        }
        if changed { Taken::Changed } else { Taken::Nothing }
    }

    /// Pushed sets, until none is named any more.
    async fn follow_sets(&mut self, session: &Session, pointer: Pointer) -> Result<(), EtcdError> {
        let Pointer { value: Some(mut value), mut revision, .. } = pointer else { return Ok(()) };
        let mut watcher = Watcher::start(session, self.keys.revision(), None, revision + 1).await?;
        let mut again = Backoff::new(self.options.resync);
        let asked = self.asked.clone();
        loop {
            let whole = self.load(session, &value).await?;
            let mut resync = Instant::now() + jittered(self.options.resync);
            if whole {
                again.reset();
            } else {
                // Somebody may be writing it just now.
                resync = resync.min(Instant::now() + again.wait() + self.options.retry);
            }
            loop {
                tokio::select! {
                    told = watcher.told() => {
                        self.heard = Instant::now();
                        match told? {
                            Told::Alive => continue,
                            Told::Compacted => return Ok(()),
                            Told::Events(events) => {
                                let Some(event) = events.into_iter().next_back() else { continue };
                                revision = revision.max(event.mod_revision);
                                match event.value {
                                    Some(changed) => value = changed,
                                    None => return Ok(()),
                                }
                            }
                        }
                    }
                    () = sleep_until(resync.into()) => {
                        let now = read::pointer(session, &self.keys).await?;
                        self.heard = Instant::now();
                        if now.revision < revision || now.value.as_ref() != Some(&value) {
                            return Ok(());
                        }
                    }
                    () = asked.looked.notified() => {
                        if asked.reread.swap(false, Ordering::Relaxed) {
                            // Nothing is known: every file is fetched and proven.
                            self.last = None;
                        }
                    }
                }
                break;
            }
        }
    }

    /// Says what the set is; whether it is whole.
    async fn load(&mut self, session: &Session, value: &[u8]) -> Result<bool, EtcdError> {
        let last = self.last.clone();
        match set::load(session, &self.keys, &mut self.pager, value, last.as_deref()).await {
            Err(SourceError::Etcd(error)) if error.is_of_the_way() => Err(error),
            outcome => {
                self.heard = Instant::now();
                let whole = outcome.is_ok();
                self.say(outcome);
                Ok(whole)
            }
        }
    }
}

/// What events came to.
enum Taken {
    Nothing,
    Changed,
    /// A set was put in force.
    Pushed,
}

/// Changes that are not delivered yet.
#[derive(Clone, Copy)]
struct Settling {
    first: Instant,
    latest: Instant,
}

impl Settling {
    fn again(before: Option<Self>) -> Self {
        let latest = Instant::now();
        Self { first: before.map_or(latest, |before| before.first), latest }
    }

    fn due(self, rest: Duration) -> Instant {
        (self.latest + rest).min(self.first + rest * RESTLESS)
    }
}
