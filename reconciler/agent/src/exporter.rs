//! `/metrics`: on the agent's socket, and where `--metrics` says on an address, which tells nothing else.
use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::{core::Collector as _, process_collector::ProcessCollector};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
};
use weir_plan::Store;

use crate::{Error, FlowSource as _, Handle, Inspect, metrics::CONTENT_TYPE};

/// Collects what a scrape tells.
pub(crate) struct Exporter<D, S> {
    handle: Handle<D, S>,
    process: Arc<ProcessCollector>,
    /// However many ask, the engine has one scrape to do at a time.
    turn: Arc<Mutex<()>>,
}

impl<D, S> Clone for Exporter<D, S> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), process: self.process.clone(), turn: self.turn.clone() }
    }
}

impl<D: Inspect + 'static, S: Store + 'static> Exporter<D, S> {
    pub fn new(handle: Handle<D, S>) -> Self {
        Self { handle, process: Arc::new(ProcessCollector::for_self()), turn: Arc::default() }
    }

    /// Only `/metrics`.
    pub fn router<T: Clone + Send + Sync + 'static>(self) -> Router<T> {
        Router::new().route("/metrics", get(metrics::<D, S>)).with_state(self)
    }

    async fn text(&self) -> Result<String, Error> {
        let _turn = self.turn.lock().await;
        let (mut scrape, flows) = self.handle.call(|agent| agent.scrape()).await?;
        let process = self.process.clone();
        let rest = tokio::task::spawn_blocking(move || {
            if let Some(flows) = flows {
                match flows.count() {
                    Ok(counts) => scrape.flows = counts,
                    Err(error) => tracing::debug!(%error, "a scrape could not count the flows"),
                }
            }
            scrape.text(process.collect())
        });
        let failed = |cause: tokio::task::JoinError| Error::Failed {
            what: "collect the metrics".to_owned(),
            cause: cause.to_string(),
        };
        rest.await.map_err(failed)?
    }
}

async fn metrics<D: Inspect + 'static, S: Store + 'static>(State(exporter): State<Exporter<D, S>>) -> Response {
    match exporter.text().await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Whoever can reach the address must not be able to take all of the agent's descriptors.
const CONNECTIONS: usize = 64;
/// Between one request's header and the next: a scraper that comes later connects anew.
const IDLE: Duration = Duration::from_secs(90);
/// After the kernel had no descriptor or memory for a connection.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let failed = |cause: io::Error| Error::Failed {
        what: format!("listen on {address} for --metrics"),
        cause: cause.to_string(),
    };
    TcpListener::bind(address).await.map_err(failed)
}

/// Answers until `stop` completes.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accept = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answer = answer(stream, router.clone());
                    tokio::spawn(async move {
                        answer.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection for metrics was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that goes away, or talks something else, is no failure of ours.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection for metrics ended");
    }
}
