use std::{net::SocketAddr, time::Duration};

use weir_agent::{Error, Exit, FleetOptions, RunOptions};
use weir_source::{SourceSpec, WatchOptions};

use crate::{
    args::{FleetArgs, Intervals, SourceArgs},
    context::{self, Context, Source},
    memory,
};

/// Whoever writes several keys in a row is waited for so long after each.
const ETCD_REST: Duration = Duration::from_millis(10);

/// The agent, until somebody asks it to stop.
pub fn run(
    context: &Context,
    args: &SourceArgs,
    intervals: Intervals,
    fleet: &FleetArgs,
    metrics: Option<SocketAddr>,
) -> Result<Exit, Error> {
    let source = Source::new(&context.global, args)?;
    if source.specs.is_empty() {
        return Err(Error::Usage { what: "an agent follows a source; standard input is read once".to_owned() });
    }
    let mut access = source.access;
    access.git.poll = intervals.poll;
    let usual = WatchOptions::default();
    let rest = intervals.rest.unwrap_or(match source.specs.as_slice() {
        [SourceSpec::Etcd(_)] => ETCD_REST,
        _ => usual.rest,
    });
    let options = RunOptions {
        relieve: memory::give_back,
        specs: source.specs,
        access,
        source: source.name,
        socket: context.global.socket.clone(),
        watch: WatchOptions { rest, resync: intervals.resync, ..usual },
        intervals: weir_agent::Intervals {
            verify: intervals.verify,
            catch_up: intervals.catch_up,
            ..weir_agent::Intervals::default()
        },
        heals: intervals.heal,
        fleet: FleetOptions {
            prefix: fleet.status_prefix.clone(),
            etcd: fleet.etcd(&args.etcd)?,
            ..FleetOptions::default()
        },
        metrics,
    };
    let (global, node, ignore_foreign) = (context.global.clone(), context.node(), args.ignore_foreign);
    let failed = |cause: std::io::Error| Error::Failed { what: "start".to_owned(), cause: cause.to_string() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        weir_agent::run(move || context::open(&global, node, ignore_foreign), options, stop).await
    })?;
    Ok(Exit::DONE)
}
