use weir_agent::{Error, Exit, RunOptions};
use weir_source::WatchOptions;

use crate::{
    args::{Intervals, SourceArgs},
    context::{self, Context, Source},
};

/// The agent, until somebody asks it to stop.
pub fn run(context: &Context, args: &SourceArgs, intervals: Intervals) -> Result<Exit, Error> {
    let source = Source::new(&context.global, args)?;
    if source.specs.is_empty() {
        return Err(Error::Usage { what: "an agent follows a source; standard input is read once".to_owned() });
    }
    let mut access = source.access;
    access.git.poll = intervals.poll;
    let options = RunOptions {
        specs: source.specs,
        access,
        source: source.name,
        socket: context.global.socket.clone(),
        watch: WatchOptions { rest: intervals.rest, resync: intervals.resync, ..WatchOptions::default() },
        intervals: weir_agent::Intervals {
            verify: intervals.verify,
            catch_up: intervals.catch_up,
            ..weir_agent::Intervals::default()
        },
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
