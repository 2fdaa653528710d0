//! A watch that ends when it is dead.
use std::time::Instant;

use etcd_client::{WatchOptions, WatchRequestSender, WatchResponseStream};
use tokio::time::sleep;

use super::{EtcdError, link::Session};

/// One key's change.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub key: Vec<u8>,
    /// `None`: it was deleted.
    pub value: Option<Vec<u8>>,
    pub mod_revision: i64,
}

/// What a watch says.
#[derive(Debug)]
pub(super) enum Told {
    /// Of whole transactions, in order.
    Events(Vec<Event>),
    /// It still speaks.
    Alive,
    /// Some of what it should have told is gone: list again.
    Compacted,
}

#[derive(Debug)]
pub(super) struct Watcher {
    session: Session,
    requests: WatchRequestSender,
    answers: WatchResponseStream,
    /// Of an answer that comes in pieces.
    pieces: Vec<Event>,
    heard: Instant,
    /// When it was asked whether it is there.
    asked: Option<Instant>,
}

impl Watcher {
    /// Watches `[start, end)`, or the one key `start`, from `revision` on.
    pub async fn start(
        session: &Session,
        start: impl Into<Vec<u8>>,
        end: Option<Vec<u8>>,
        revision: i64,
    ) -> Result<Self, EtcdError> {
        // Without fragments, an answer to somebody who was slow may be larger than anything.
        let mut options = WatchOptions::new().with_start_revision(revision).with_fragment();
        if let Some(end) = end {
            options = options.with_range(end);
        }
        let (requests, answers) = session.watch(start, options).await?.split();
        let session = session.clone();
        Ok(Self { session, requests, answers, pieces: Vec::new(), heard: Instant::now(), asked: None })
    }

    /// The next word. Safe to cancel.
    ///
    /// # Errors
    /// The watch is dead: it said so, or it was asked and did not answer in time. A server that was stopped says nothing,
    /// and one behind a proxy is not missed by the connection's own pings.
    pub async fn told(&mut self) -> Result<Told, EtcdError> {
        loop {
            let patience = self.session.patience;
            let since = self.asked.unwrap_or(self.heard);
            let answer = tokio::select! {
                answer = self.answers.message() => answer,
                () = sleep(patience.saturating_sub(since.elapsed())) => {
                    if self.asked.is_some() {
                        return Err(self.session.unreachable(format!("the watch was silent for {:?}", patience * 2)));
                    }
                    self.asked = Some(Instant::now());
                    // The queue is of a hundred, and nothing else is ever asked; a stream that has ended is heard.
                    let _ = tokio::time::timeout(patience, self.requests.request_progress()).await;
                    continue;
                }
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(self.session.unreachable("the watch has ended")),
                Err(error) => return Err(self.session.failed(&error)),
            };
            self.heard = Instant::now();
            self.asked = None;
            if answer.canceled() {
                if answer.compact_revision() > 0 {
                    return Ok(Told::Compacted);
                }
                let cause = match answer.cancel_reason() {
                    "" => "the watch was cancelled".to_owned(),
                    reason => reason.to_owned(),
                };
                return Err(match cause.contains("permission") {
                    true => EtcdError::Refused { spec: self.session.spec.to_string(), cause },
                    false => self.session.unreachable(cause),
                });
            }
            self.pieces.extend(answer.events().iter().filter_map(|event| {
                let found = event.kv()?;
                // Neither kind that a later etcd may know of is taken for a deletion.
                let value = match event.0.r#type {
                    PUT => Some(found.value().to_vec()),
                    DELETE => None,
                    _ => return None,
                };
                Some(Event { key: found.key().to_vec(), value, mod_revision: found.mod_revision() })
            }));
            if answer.0.fragment {
                continue;
            }
            return Ok(match std::mem::take(&mut self.pieces) {
                events if events.is_empty() => Told::Alive,
                events => Told::Events(events),
            });
        }
    }
}

/// `mvccpb.Event.EventType`.
const PUT: i32 = 0;
const DELETE: i32 = 1;
