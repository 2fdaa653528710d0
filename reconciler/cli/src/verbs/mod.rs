//! One file per verb, or per few that are one.
mod apply;
mod doctor;
mod fleet;
mod flows;
mod get;
mod history;
mod monitor;
mod plan;
mod push;
mod revisions;
mod run;
mod schema;
mod status;
mod suspend;
mod test;
mod trace;
mod uninstall;
mod validate;

use clap::CommandFactory;
use weir_agent::{Error, Exit};

use crate::{
    args::{Cli, RevisionArgs, Verb},
    context::Context,
    out,
};

pub fn run(context: &Context, verb: Verb) -> Result<Exit, Error> {
    match verb {
        Verb::Validate { source } => validate::run(context, &source),
        Verb::Schema { kind } => schema::run(context, kind.as_deref()),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
            out::print(|out| out.write_all(&script))?;
            Ok(Exit::DONE)
        }
        Verb::Doctor => doctor::run(context),
        Verb::Diff { source, revisions: RevisionArgs { from: Some(from), to, all_nodes }, flows } => {
            revisions::run(context, &source, &revisions::Asked { from, to, all_nodes, flows })
        }
        Verb::Run { source, intervals, fleet, metrics } => run::run(context, &source, intervals, &fleet, metrics),
        Verb::Push { source, to } => push::push(context, &source, &to),
        Verb::Pull { from, directory, replace, etcd } => push::pull(context, &from, &directory, replace, &etcd),
        Verb::Status { all: true, from, fleet, etcd } => fleet::run(context, from.as_deref(), &fleet, &etcd),
        verb => block_on(ask(context, verb))?,
    }
}

/// Verbs that ask the agent first.
async fn ask(context: &Context, verb: Verb) -> Result<Exit, Error> {
    match verb {
        Verb::Diff { source, revisions: RevisionArgs { from: None, .. }, flows } => {
            plan::run(context, &source, true, flows).await
        }
        Verb::Plan { source, flows } => plan::run(context, &source, false, flows).await,
        Verb::Apply { source, allow } => apply::run(context, &source, allow).await,
        Verb::Rollback { sequence, allow } => apply::rollback(context, sequence, allow).await,
        Verb::Status { .. } => status::run(context).await,
        Verb::Get { what, name, flows } => get::run(context, what, name.as_deref(), &flows).await,
        Verb::Trace { source, destination, port } => trace::run(context, &source, &destination, &port).await,
        Verb::Test { source, oracle, live } => test::run(context, &source, test::Judges { oracle, live }).await,
        Verb::Monitor { flows } => monitor::run(context, flows).await,
        Verb::History { limit } => history::run(context, limit).await,
        Verb::Suspend { duration, reason } => suspend::suspend(context, &reason, duration).await,
        Verb::Resume => suspend::resume(context).await,
        Verb::Uninstall { purge } => uninstall::run(context, purge).await,
        Verb::Validate { .. }
        | Verb::Schema { .. }
        | Verb::Completions { .. }
        | Verb::Doctor
        | Verb::Run { .. }
        | Verb::Diff { revisions: RevisionArgs { from: Some(_), .. }, .. }
        | Verb::Push { .. }
        | Verb::Pull { .. } => {
            unreachable!("`run` takes these")
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |cause: std::io::Error| Error::Failed { what: "start".to_owned(), cause: cause.to_string() };
    Ok(runtime.map_err(failed)?.block_on(future))
}
