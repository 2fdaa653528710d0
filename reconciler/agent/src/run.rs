//! `weir run`: the loop around the agent.
use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{net::UnixListener, sync::watch};
use weir_plan::Store;
use weir_source::{Access, Source, SourceSpec, WatchOptions};

use crate::{
    Agent, Engine, Error, Handle, Inspect, Intervals,
    api::{self, Shared},
    drops,
    exporter::{self, Exporter},
    fleet::{Fleet, FleetOptions},
    links::LinkHints,
    netns::NetnsHints,
    service::Service,
};

#[derive(Clone, Debug)]
pub struct RunOptions {
    pub specs: Vec<SourceSpec>,
    pub access: Access,
    /// As status and history show it.
    pub source: String,
    pub socket: PathBuf,
    /// Called after work that took much memory.
    pub relieve: fn(),
    pub watch: WatchOptions,
    pub intervals: Intervals,
    /// With `false`, what others changed is only reported.
    pub heals: bool,
    pub fleet: FleetOptions,
    /// Where metrics are told, besides the socket.
    pub metrics: Option<SocketAddr>,
}

/// Deadlines are kept to this grain.
const TICK: Duration = Duration::from_millis(250);
/// Drop events that a slow `monitor` may lag behind by.
const DROPS: usize = 4096;
/// How long a stop waits for clients that are still talking.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs until `stop` completes. What is live then stays live.
///
/// # Errors
/// Only at the start: once it runs, the agent reports failures in its status and tries again.
pub async fn run<D: Inspect + 'static, S: Store + 'static>(
    open: impl FnOnce() -> Result<Engine<D, S>, Error> + Send + 'static,
    options: RunOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let RunOptions { specs, access, source, socket, watch, intervals, heals, fleet, relieve, metrics } = options;
    let name = source.clone();
    // The store's lock is what keeps a second agent away: take it before the socket.
    let (handle, ended) = Handle::spawn(move || Ok(Agent::new(open()?, &name, intervals).healing(heals))).await?;
    let scrapes = match metrics {
        Some(address) => Some(exporter::bind(address).await?),
        None => None,
    };
    let listener = listen(&socket)?;
    let opened = Source::open(&specs, &access)?;
    let node = handle.call(|agent| agent.engine().node().to_string()).await?;
    let fleet = Fleet::join(&fleet, &opened, &node, handle.clone());
    let mut watch = opened.follow(watch)?;
    let links = LinkHints::subscribe()
        .map_err(|cause| Error::Failed { what: "subscribe to rtnetlink".to_owned(), cause: cause.to_string() })?;
    let netns = NetnsHints::subscribe();
    let listeners = drops::Listeners::new(DROPS);
    let snapshots = handle.call(|agent| agent.snapshots()).await?;
    let (farewell, stops) = watch::channel(false);
    let source_name = source.as_str().into();
    let shared = Shared {
        handle: handle.clone(),
        specs: specs.into(),
        access: access.into(),
        source: source_name,
        listeners: listeners.clone(),
        stopping: stops.clone(),
    };
    let exporter = Exporter::new(handle.clone());
    if let Some(scrapes) = scrapes {
        let mut told = stops.clone();
        let stop = async move {
            let _ = told.wait_for(|stopping| *stopping).await;
        };
        tokio::spawn(exporter::serve(scrapes, exporter.clone().router(), stop));
    }
    let mut told = stops;
    let server = axum::serve(listener, api::router(shared, exporter)).with_graceful_shutdown(async move {
        // An error means that the sender is gone: then everything ends.
        let _ = told.wait_for(|stopping| *stopping).await;
    });
    let mut server = tokio::spawn(server.into_future());
    tracing::info!(event = "started", source, socket = %socket.display(), "the agent runs");
    let mut service = Service::new();

    let stopping = Arc::new(AtomicBool::new(false));
    let mut reader = None;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            outcome = watch.changed() => {
                handle.call(move |agent| agent.deliver(outcome)).await?;
                fleet.iter().for_each(Fleet::look);
            }
            Ok(()) = links.changed() => handle.call(|agent| agent.hint()).await?,
            () = netns.changed() => handle.call(|agent| agent.hint()).await?,
            _ = ticks.tick() => {
                if handle.call(|agent| agent.tick()).await? {
                    relieve();
                }
            }
        }
        if let Some(word) = handle.call(|agent| agent.word()).await? {
            service.reconciled(word);
        }
        service.is_alive();
        if reader.is_none() {
            // The ring buffer exists once something was applied.
            let events = handle.call(|agent| agent.engine().datapath().events()).await?;
            match events {
                Ok(Some(events)) => {
                    let follow = drops::follow(events, snapshots.clone(), listeners.clone(), stopping.clone());
                    reader = Some(follow.map_err(|cause| Error::Failed {
                        what: "start the reader of drop events".to_owned(),
                        cause: cause.to_string(),
                    })?);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "drop events cannot be read"),
            }
        }
    }

    tracing::info!(event = "stopping", "the agent stops; what is live stays live");
    service.stops();
    farewell.send_replace(true);
    // Who asked gets an answer; who holds a connection open does not hold the agent.
    if tokio::time::timeout(FAREWELL, &mut server).await.is_err() {
        server.abort();
    }
    stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    drop(watch);
    if let Some(fleet) = fleet
        && tokio::time::timeout(FAREWELL, fleet.leave()).await.is_err()
    {
        tracing::warn!("the fleet was not told; the node's word stands until its lease runs out");
    }
    handle.end();
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::warn!(%error, socket = %socket.display(), "the socket is left behind");
    }
    if let Some(reader) = reader {
        let joined = tokio::task::spawn_blocking(move || reader.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::warn!("the reader of drop events died");
        }
    }
    // A request that is still being worked on keeps the engine's thread, and it only that long.
    let _ = ended.await;
    Ok(())
}

/// Binds the socket, mode 0660. What a killed agent left behind is replaced; a living one has the store, so this is
/// never reached.
fn listen(socket: &Path) -> Result<UnixListener, Error> {
    let failed = |what: &str| {
        let what = format!("{what} {}", socket.display());
        move |cause: std::io::Error| Error::Failed { what, cause: cause.to_string() }
    };
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    }
    match std::fs::symlink_metadata(socket) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            std::fs::remove_file(socket).map_err(failed("replace the former"))?;
        }
        Ok(_) => {
            let cause = std::io::Error::other("something else than a socket is there");
            return Err(failed("bind")(cause));
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed("bind"))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660)).map_err(failed("restrict"))?;
    Ok(listener)
}
