//! The other end of the socket.
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    Allow, ApplyDocument, Error, Failure, FlowQuery, FlowTestsDocument, FlowsDocument, HistoryDocument, ListDocument,
    Manifests, PlanDocument, Resource, StatusDocument, SuspendDocument, TraceDocument,
    api::{HistoryQuery, ListQuery, MonitorQuery, PlanQuery, RollbackQuery, SuspendQuery, TraceQuery},
    bundle,
};

/// A running agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// `None`: no agent listens there.
    pub async fn find(socket: &Path, timeout: Duration) -> Result<Option<Self>, Error> {
        match UnixStream::connect(socket).await {
            Ok(_) => Ok(Some(Self { socket: socket.to_owned(), timeout })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(unreachable(socket, &error)),
        }
    }

    /// As [`Self::find`], where an agent is needed.
    pub async fn connect(socket: &Path, timeout: Duration) -> Result<Self, Error> {
        let missing = || unreachable(socket, &"no agent listens there");
        Self::find(socket, timeout).await?.ok_or_else(missing)
    }

    pub async fn status(&self) -> Result<StatusDocument, Error> {
        self.ask(Method::GET, "/v1/status", &Nothing {}, Bytes::new()).await
    }

    /// A plan for people: at most `limit` entries an object.
    pub async fn plan(&self, manifests: &Manifests, limit: usize, flows: bool) -> Result<PlanDocument, Error> {
        let query = PlanQuery { limit: Some(limit), flows };
        self.ask(Method::POST, "/v1/plan", &query, bundle::encode(manifests).into()).await
    }

    /// A whole plan, as it comes.
    pub async fn plan_json(
        &self,
        manifests: &Manifests,
        flows: bool,
        each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Error> {
        let body = bundle::encode(manifests).into();
        let query = PlanQuery { limit: None, flows };
        let response = self.send(Method::POST, "/v1/plan", &query, body).await?;
        self.stream(response, each).await
    }

    /// Applies `manifests`, or the agent's own source as it is now.
    pub async fn apply(&self, manifests: Option<&Manifests>, allow: Allow) -> Result<ApplyDocument, Error> {
        let body = manifests.map_or_else(Bytes::new, |manifests| bundle::encode(manifests).into());
        self.ask(Method::POST, "/v1/apply", &allow, body).await
    }

    pub async fn rollback(&self, sequence: Option<u64>, allow: Allow) -> Result<ApplyDocument, Error> {
        let Allow { mass_delete, lockout, failed_tests } = allow;
        let query = RollbackQuery { sequence, mass_delete, lockout, failed_tests };
        self.ask(Method::POST, "/v1/rollback", &query, Bytes::new()).await
    }

    pub async fn history(&self, limit: usize) -> Result<HistoryDocument, Error> {
        self.ask(Method::GET, "/v1/history", &HistoryQuery { limit }, Bytes::new()).await
    }

    pub async fn suspend(&self, reason: &str, duration: Option<Duration>) -> Result<SuspendDocument, Error> {
        let for_ms = duration.map(|duration| duration.as_millis() as u64);
        let query = SuspendQuery { reason: reason.to_owned(), for_ms };
        self.ask(Method::POST, "/v1/suspend", &query, Bytes::new()).await
    }

    pub async fn resume(&self) -> Result<SuspendDocument, Error> {
        self.ask(Method::POST, "/v1/resume", &Nothing {}, Bytes::new()).await
    }

    pub async fn list(&self, resource: Resource, name: Option<&str>) -> Result<ListDocument, Error> {
        let query = ListQuery { name: name.map(str::to_owned) };
        self.ask(Method::GET, &format!("/v1/get/{}", resource.name()), &query, Bytes::new()).await
    }

    pub async fn flows(&self, query: &FlowQuery) -> Result<FlowsDocument, Error> {
        self.ask(Method::GET, "/v1/flows", query, Bytes::new()).await
    }

    pub async fn trace(&self, source: &str, destination: &str, port: &str) -> Result<TraceDocument, Error> {
        let query =
            TraceQuery { source: source.to_owned(), destination: destination.to_owned(), port: port.to_owned() };
        self.ask(Method::GET, "/v1/trace", &query, Bytes::new()).await
    }

    /// Runs flow tests on the live tables: those of `manifests`, or of what is applied.
    pub async fn flow_tests(&self, manifests: Option<&Manifests>) -> Result<FlowTestsDocument, Error> {
        let body = manifests.map_or_else(Bytes::new, |manifests| bundle::encode(manifests).into());
        self.ask(Method::POST, "/v1/test", &Nothing {}, body).await
    }

    /// Drops, and with `flows` what begins a flow, one line of JSON each, until `each` fails or the agent stops.
    pub async fn monitor(&self, flows: bool, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Error> {
        let response = self.send(Method::GET, "/v1/monitor", &MonitorQuery { flows }, Bytes::new()).await?;
        let mut partial = Vec::new();
        let lines = |chunk: &[u8]| {
            partial.extend_from_slice(chunk);
            while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = partial.drain(..=end).collect();
                each(&line)?;
            }
            Ok(())
        };
        self.stream(response, lines).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &impl Serialize,
        body: Bytes,
    ) -> Result<T, Error> {
        let answer = async {
            let response = self.send(method, path, query, body).await?;
            let body = response.into_body().collect().await.map_err(|cause| unreachable(&self.socket, &cause))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|cause| unreachable(&self.socket, &cause))
        };
        let late = || unreachable(&self.socket, &format!("no answer within {:?}", self.timeout));
        tokio::time::timeout(self.timeout, answer).await.map_err(|_| late())?
    }

    /// The response, once it is known to be none of failure.
    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &impl Serialize,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let failed = |cause: &dyn std::fmt::Display| unreachable(&self.socket, cause);
        let query = serde_urlencoded::to_string(query).map_err(|cause| failed(&cause))?;
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let stream = UnixStream::connect(&self.socket).await.map_err(|cause| failed(&cause))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|cause| failed(&cause))?;
        // Its end is seen as the end of the response.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "weir")
            .body(Full::new(body))
            .map_err(|cause| failed(&cause))?;
        let response = sender.send_request(request).await.map_err(|cause| failed(&cause))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|cause| failed(&cause))?.to_bytes();
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => Err(Error::Remote(Box::new(failure))),
            Err(_) => Err(failed(&format!("{status}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    async fn stream(
        &self,
        response: Response<Incoming>,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|cause| unreachable(&self.socket, &cause))?;
            let Some(chunk) = frame.data_ref() else { continue };
            match each(chunk) {
                Ok(()) => {}
                // Whoever reads our output has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => {
                    return Err(Error::Failed { what: "write the answer".to_owned(), cause: error.to_string() });
                }
            }
        }
        Ok(())
    }
}

/// No query.
#[derive(Serialize)]
struct Nothing {}

fn unreachable(socket: &Path, cause: &dyn std::fmt::Display) -> Error {
    Error::Unreachable { socket: socket.display().to_string(), cause: cause.to_string() }
}
