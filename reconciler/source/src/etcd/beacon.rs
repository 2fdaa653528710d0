//! One key that stands as long as whoever put it lives.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper, PutOptions};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, sleep_until},
};

use super::{
    EtcdError,
    backoff::{Backoff, jittered},
    link::{Link, Session, within},
};

/// How a beacon is kept.
#[derive(Clone, Copy, Debug)]
pub struct BeaconOptions {
    /// Whole seconds: after so long without a word the key is gone.
    pub ttl: Duration,
    /// Between two writes.
    pub least: Duration,
}

impl Default for BeaconOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30), least: Duration::from_secs(1) }
    }
}

/// Keeps one key in etcd, with a lease. Never blocks, and never fails: what cannot be written now is written later.
#[derive(Debug)]
pub struct EtcdBeacon {
    voice: Voice,
    ending: Arc<Notify>,
    task: JoinHandle<()>,
}

/// What a beacon is to say.
#[derive(Clone, Debug)]
pub struct Voice(Arc<watch::Sender<Option<Arc<[u8]>>>>);

impl Voice {
    /// What the key is to hold from now on. The same again is no write.
    pub fn say(&self, value: Vec<u8>) {
        self.0.send_if_modified(|latest| {
            let news = latest.as_deref() != Some(&*value);
            if news {
                *latest = Some(value.into());
            }
            news
        });
    }
}

impl EtcdBeacon {
    pub(super) fn start(link: Arc<Link>, key: String, options: BeaconOptions) -> Self {
        let (latest, values) = watch::channel(None);
        let ending = Arc::new(Notify::new());
        let keeper = Keeper { link, key, options, values, ending: ending.clone(), written: None };
        Self { voice: Voice(Arc::new(latest)), ending, task: tokio::spawn(keeper.run()) }
    }

    pub fn voice(&self) -> Voice {
        self.voice.clone()
    }

    /// Takes the key away.
    pub async fn end(self) {
        self.ending.notify_one();
        // It ends by itself, or panicked.
        let _ = self.task.await;
    }
}

struct Keeper {
    link: Arc<Link>,
    key: String,
    options: BeaconOptions,
    values: watch::Receiver<Option<Arc<[u8]>>>,
    ending: Arc<Notify>,
    written: Option<Instant>,
}

/// A lease, and the stream that keeps it.
struct Lease {
    id: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Keeper {
    async fn run(mut self) {
        let ending = self.ending.clone();
        let mut backoff = Backoff::new(self.options.ttl / 3);
        let mut told = false;
        loop {
            // Nothing to say yet.
            tokio::select! {
                said = self.values.wait_for(Option::is_some) => if said.is_err() { return },
                () = ending.notified() => return,
            }
            let begun = Instant::now();
            let Err((serial, error)) = self.keep().await else { return };
            if begun.elapsed() > self.options.ttl {
                backoff.reset();
                told = false;
            }
            // Once: the source's own trouble is told elsewhere.
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(key = self.key, %error, "the fleet does not hear of this node; trying again");
            }
            if matches!(error, EtcdError::Unreachable { .. }) {
                self.link.broken(serial).await;
            }
            tokio::select! {
                () = sleep(backoff.wait()) => {}
                () = ending.notified() => return,
            }
        }
    }

    /// Until it is to end, or something failed on the connection of that number.
    async fn keep(&mut self) -> Result<(), (u64, EtcdError)> {
        let session = self.link.session().await.map_err(|error| (0, error))?;
        self.on(&session).await.map_err(|error| (session.serial, error))
    }

    async fn on(&mut self, session: &Session) -> Result<(), EtcdError> {
        let mut lease = self.lease(session).await?;
        self.write(session, &lease).await?;
        let beat = self.options.ttl / 3;
        let mut next = Instant::now() + jittered(beat);
        loop {
            let may = self.written.map_or_else(Instant::now, |at| at + jittered(self.options.least));
            let ending = self.ending.clone();
            tokio::select! {
                changed = self.values.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    // Not all of a fleet in the moment in which it sees a new revision.
                    let soon = Instant::now() + self.options.least.mul_f64(fastrand::f64());
                    sleep_until(may.max(soon).into()).await;
                    self.write(session, &lease).await?;
                }
                () = ending.notified() => {
                    within(session.patience, &session.spec, session.lease.clone().revoke(lease.id)).await?;
                    return Ok(());
                }
                () = sleep_until(next.into()) => {
                    lease.beat(session).await?;
                    next = Instant::now() + jittered(beat);
                }
            }
        }
    }

    async fn lease(&self, session: &Session) -> Result<Lease, EtcdError> {
        let ttl = self.options.ttl.as_secs().max(1).cast_signed();
        let granted = within(session.patience, &session.spec, session.lease.clone().grant(ttl, None)).await?;
        let id = granted.id();
        let (keeper, answers) = within(session.patience, &session.spec, session.lease.clone().keep_alive(id)).await?;
        Ok(Lease { id, keeper, answers })
    }

    async fn write(&mut self, session: &Session, lease: &Lease) -> Result<(), EtcdError> {
        let Some(value) = self.values.borrow_and_update().clone() else { return Ok(()) };
        session.put(self.key.as_str(), &*value, PutOptions::new().with_lease(lease.id)).await?;
        self.written = Some(Instant::now());
        Ok(())
    }
}

impl Lease {
    async fn beat(&mut self, session: &Session) -> Result<(), EtcdError> {
        let beat = async {
            self.keeper.keep_alive().await?;
            self.answers.message().await
        };
        match within(session.patience, &session.spec, beat).await? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            _ => Err(session.unreachable("the lease ran out")),
        }
    }
}
