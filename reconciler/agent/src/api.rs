//! The local API: HTTP/1.1 and JSON on a Unix socket.
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinError,
};
use weir_plan::Store;
use weir_source::{Access, Source, SourceSpec};

use crate::{
    Allow, Error, Exit, Failure, FlowQuery, FlowView, Handle, Inspect, LostDocument, Manifests, Resource, bundle,
    drops::Listeners, exporter::Exporter,
};

/// What handlers share.
pub(crate) struct Shared<D, S> {
    pub handle: Handle<D, S>,
    /// The agent's own source, for a look on request.
    pub specs: Arc<[SourceSpec]>,
    pub access: Arc<Access>,
    pub source: Arc<str>,
    /// Lines of JSON.
    pub listeners: Listeners,
    /// True once the agent stops: answers without an end come to theirs.
    pub stopping: watch::Receiver<bool>,
}

impl<D, S> Clone for Shared<D, S> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
            specs: self.specs.clone(),
            access: self.access.clone(),
            source: self.source.clone(),
            listeners: self.listeners.clone(),
            stopping: self.stopping.clone(),
        }
    }
}

/// Bodies are manifests, from a client that may write the socket.
const BODY_LIMIT: usize = 1 << 30;

pub(crate) fn router<D: Inspect + 'static, S: Store + 'static>(
    shared: Shared<D, S>,
    exporter: Exporter<D, S>,
) -> Router {
    Router::new()
        .route("/v1/status", get(status::<D, S>))
        .route("/v1/plan", post(plan::<D, S>))
        .route("/v1/apply", post(apply::<D, S>))
        .route("/v1/rollback", post(rollback::<D, S>))
        .route("/v1/history", get(history::<D, S>))
        .route("/v1/suspend", post(suspend::<D, S>))
        .route("/v1/resume", post(resume::<D, S>))
        .route("/v1/get/{resource}", get(list::<D, S>))
        .route("/v1/flows", get(flows::<D, S>))
        .route("/v1/trace", get(trace::<D, S>))
        .route("/v1/test", post(flow_tests::<D, S>))
        .route("/v1/monitor", get(monitor::<D, S>))
        .fallback(|| async { refuse(&Error::Usage { what: "there is no such path".to_owned() }) })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(shared)
        .merge(exporter.router())
}

fn refuse(error: &Error) -> Response {
    let failure = Failure::from(error);
    let status = match failure.exit {
        Exit::INVALID | Exit::SOURCE => StatusCode::UNPROCESSABLE_ENTITY,
        Exit::USAGE => StatusCode::BAD_REQUEST,
        Exit::OTHER_WRITER => StatusCode::CONFLICT,
        Exit::CAPABILITY => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(failure)).into_response()
}

fn answer<T: Serialize>(result: Result<Result<T, Error>, Error>) -> Response {
    match result.flatten() {
        Ok(document) => Json(document).into_response(),
        Err(error) => refuse(&error),
    }
}

async fn status<D: Inspect + 'static, S: Store + 'static>(State(shared): State<Shared<D, S>>) -> Response {
    answer(shared.handle.call(|agent| agent.status()).await)
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct PlanQuery {
    /// Entries of one object, for people; everything otherwise.
    pub limit: Option<usize>,
    /// Say which flows would change their verdict.
    #[serde(default)]
    pub flows: bool,
}

async fn plan<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Query(query): Query<PlanQuery>,
    body: Bytes,
) -> Response {
    let planned = match bundle::decode(&body) {
        Ok(manifests) => {
            let plan = move |agent: &mut crate::Agent<D, S>| {
                let mut planned = agent.plan(&manifests)?;
                if query.flows {
                    planned.show_flows()?;
                }
                Ok(planned)
            };
            shared.handle.call(plan).await.flatten()
        }
        Err(error) => Err(error),
    };
    let planned = match planned {
        Ok(planned) => planned,
        Err(error) => return refuse(&error),
    };
    if let Some(limit) = query.limit {
        return Json(planned.document(limit)).into_response();
    }
    // A plan may have half a million entries: it is written while it is read.
    let (chunks, queue) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(1 << 16, ChunkWriter(chunks));
        // The reader went away.
        let _ = planned.write_json(&mut out).and_then(|()| io::Write::flush(&mut out));
    });
    let body = stream::unfold(queue, |mut queue| async {
        let chunk: Bytes = queue.recv().await?;
        Some((Ok::<_, io::Error>(chunk), queue))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}

struct ChunkWriter(mpsc::Sender<Bytes>);

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.blocking_send(Bytes::copy_from_slice(bytes)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long the source may take to come to rest when somebody asks for an apply now.
const PATIENCE: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_millis(20);

/// With a body, its manifests; without, those of the agent's own source, as it is now.
async fn apply<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Query(allow): Query<Allow>,
    body: Bytes,
) -> Response {
    let start = Instant::now();
    let manifests = if body.is_empty() {
        let (specs, access, source) = (shared.specs.clone(), shared.access.clone(), shared.source.clone());
        let look = tokio::task::spawn_blocking(move || Source::open(&specs, &access)?.read(REST, PATIENCE));
        match look.await {
            Ok(Ok(revision)) => Ok(Manifests::new(&source, &revision)),
            Ok(Err(error)) => Err(Error::Source(error)),
            Err(cause) => Err(Error::Failed { what: "look at the source".to_owned(), cause: cause.to_string() }),
        }
    } else {
        bundle::decode(&body)
    };
    let read_us = start.elapsed().as_micros() as u64;
    match manifests {
        Ok(manifests) => {
            let applied = shared.handle.call(move |agent| agent.apply_now(manifests, allow)).await;
            answer(applied.map(|applied| {
                applied.map(|mut document| {
                    document.timings.read_us = read_us;
                    document
                })
            }))
        }
        Err(error) => refuse(&error),
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RollbackQuery {
    pub sequence: Option<u64>,
    pub mass_delete: bool,
    pub lockout: bool,
    pub failed_tests: bool,
}

async fn rollback<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Query(query): Query<RollbackQuery>,
) -> Response {
    let RollbackQuery { sequence, mass_delete, lockout, failed_tests } = query;
    let allow = Allow { mass_delete, lockout, failed_tests };
    answer(shared.handle.call(move |agent| agent.rollback(sequence, allow)).await)
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct HistoryQuery {
    pub limit: usize,
}

async fn history<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Query(query): Query<HistoryQuery>,
) -> Response {
    answer(shared.handle.call(move |agent| agent.engine().history_document(query.limit)).await)
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SuspendQuery {
    pub reason: String,
    pub for_ms: Option<u64>,
}

async fn suspend<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Query(query): Query<SuspendQuery>,
) -> Response {
    let duration = query.for_ms.map(Duration::from_millis);
    answer(shared.handle.call(move |agent| agent.suspend(&query.reason, duration)).await)
}

async fn resume<D: Inspect + 'static, S: Store + 'static>(State(shared): State<Shared<D, S>>) -> Response {
    answer(shared.handle.call(|agent| agent.resume()).await)
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct ListQuery {
    pub name: Option<String>,
}

async fn list<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Path(resource): Path<String>,
    Query(query): Query<ListQuery>,
) -> Response {
    let Some(resource) = Resource::ALL.into_iter().find(|known| known.name() == resource) else {
        return refuse(&Error::Usage { what: format!("there are no {resource} to list") });
    };
    if resource.counts_flows() {
        return of_flows(&shared, move |view| view.services(resource, query.name.as_deref())).await;
    }
    answer(shared.handle.call(move |agent| agent.engine().list(resource, query.name.as_deref())).await)
}

async fn flows<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Query(query): Query<FlowQuery>,
) -> Response {
    of_flows(&shared, move |view| view.list(&query)).await
}

/// The engine is asked for a view only: reading a million flows takes a while.
async fn of_flows<D: Inspect + 'static, S: Store + 'static, T: Serialize + Send + 'static>(
    shared: &Shared<D, S>,
    list: impl FnOnce(FlowView<D::Flows>) -> Result<T, Error> + Send + 'static,
) -> Response {
    let view = match shared.handle.call(|agent| agent.engine().flow_view()).await.flatten() {
        Ok(view) => view,
        Err(error) => return refuse(&error),
    };
    let listed = tokio::task::spawn_blocking(move || list(view)).await;
    let failed = |cause: JoinError| Error::Failed { what: "list the flows".to_owned(), cause: cause.to_string() };
    answer(listed.map_err(failed))
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TraceQuery {
    pub source: String,
    pub destination: String,
    pub port: String,
}

async fn trace<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Query(query): Query<TraceQuery>,
) -> Response {
    let traced = move |agent: &mut crate::Agent<D, S>| match agent.engine().applied()? {
        Some(applied) => applied.trace(&query.source, &query.destination, &query.port),
        None => Err(Error::NothingApplied),
    };
    answer(shared.handle.call(traced).await)
}

/// Without a body: the tests of what is applied.
async fn flow_tests<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    body: Bytes,
) -> Response {
    let manifests = match body.is_empty() {
        true => None,
        false => match bundle::decode(&body) {
            Ok(manifests) => Some(manifests),
            Err(error) => return refuse(&error),
        },
    };
    answer(shared.handle.call(move |agent| agent.engine().flow_tests_of(manifests.as_ref())).await)
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct MonitorQuery {
    /// Flows that begin, too.
    #[serde(default)]
    pub flows: bool,
}

async fn monitor<D: Inspect + 'static, S: Store + 'static>(
    State(shared): State<Shared<D, S>>,
    Query(query): Query<MonitorQuery>,
) -> Response {
    let Listeners { drops, all } = &shared.listeners;
    let events = if query.flows { all } else { drops }.subscribe();
    let lines = stream::unfold((events, shared.stopping), |(mut events, mut stopping)| async {
        let received = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return None,
            received = events.recv() => received,
        };
        let line = match received {
            Ok(line) => line,
            Err(broadcast::error::RecvError::Lagged(lost)) => line(&LostDocument { lost }),
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        Some((Ok::<_, io::Error>(line), (events, stopping)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// One line of JSON.
pub(crate) fn line(document: &impl Serialize) -> Bytes {
    // The documents are structs of texts and numbers: they always serialize.
    let mut bytes = serde_json::to_vec(document).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}
