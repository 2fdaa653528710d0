use std::{fmt, thread};

use tokio::sync::{mpsc, oneshot};

use crate::{Agent, Error};

type Job<D, S> = Box<dyn FnOnce(&mut Agent<D, S>) + Send>;

enum Message<D, S> {
    Do(Job<D, S>),
    End,
}

/// The way to the agent, which lives on a thread of its own: the kernel and the disk block, and one thing is done
/// after the other.
pub struct Handle<D, S> {
    jobs: mpsc::UnboundedSender<Message<D, S>>,
}

impl<D, S> Clone for Handle<D, S> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

impl<D, S> fmt::Debug for Handle<D, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

impl<D: 'static, S: 'static> Handle<D, S> {
    /// Opens the agent on its thread and returns once that has succeeded. The thread ends, and lets go of the store,
    /// when it is told to or the last handle is dropped; the second value then completes.
    pub async fn spawn(
        open: impl FnOnce() -> Result<Agent<D, S>, Error> + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<()>), Error> {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Message<D, S>>();
        let (opened, outcome) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let body = move || {
            let mut agent = match open() {
                Ok(agent) => agent,
                Err(error) => {
                    // Nobody waits any more: nobody cares.
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            let _ = opened.send(Ok(()));
            while let Some(Message::Do(job)) = queue.blocking_recv() {
                job(&mut agent);
            }
            drop(agent);
            let _ = ended.send(());
        };
        thread::Builder::new().name("weir-engine".to_owned()).spawn(body).map_err(|cause| Error::Failed {
            what: "start the engine's thread".to_owned(),
            cause: cause.to_string(),
        })?;
        outcome.await.map_err(|_| died())??;
        Ok((Self { jobs }, end))
    }

    /// Runs `act` on the agent, after what was asked before.
    pub async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Agent<D, S>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (done, outcome) = oneshot::channel();
        let job: Job<D, S> = Box::new(move |agent| {
            // A caller that went away gets no answer; what it asked for is done all the same.
            let _ = done.send(act(agent));
        });
        self.jobs.send(Message::Do(job)).map_err(|_| died())?;
        outcome.await.map_err(|_| died())
    }

    /// Ends the thread once it has done what was asked before, whoever else holds a handle.
    pub fn end(&self) {
        // Ended already is fine.
        let _ = self.jobs.send(Message::End);
    }
}

fn died() -> Error {
    Error::Failed { what: "ask the engine".to_owned(), cause: "its thread has ended".to_owned() }
}
