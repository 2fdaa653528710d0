use std::time::Duration;

use weir_agent::{Error, Exit, SuspendDocument};

use crate::{context::Context, out, verbs::history::time};

pub async fn suspend(context: &Context, reason: &str, duration: Option<Duration>) -> Result<Exit, Error> {
    let document = match context.agent().await? {
        Some(agent) => agent.suspend(reason, duration).await?,
        None => {
            let mut engine = context.engine(true)?;
            engine.suspend(reason, duration)?;
            engine.suspend_document()?
        }
    };
    show(context, &document)
}

pub async fn resume(context: &Context) -> Result<Exit, Error> {
    let document = match context.agent().await? {
        Some(agent) => agent.resume().await?,
        None => {
            let mut engine = context.engine(true)?;
            engine.resume()?;
            engine.suspend_document()?
        }
    };
    show(context, &document)
}

fn show(context: &Context, document: &SuspendDocument) -> Result<Exit, Error> {
    if !context.print(document)? {
        out::print(|out| match &document.suspended {
            Some(suspension) => {
                let until = suspension.until_unix_ms.map_or("`weir resume`".to_owned(), time);
                writeln!(out, "suspended until {until}: {}", suspension.reason)
            }
            None => writeln!(out, "not suspended: the source is followed"),
        })?;
    }
    Ok(Exit::DONE)
}
