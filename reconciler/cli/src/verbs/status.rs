use std::io::{self, Write};

use weir_agent::{Error, Exit, StatusDocument};

use crate::{
    args::Format,
    context::Context,
    out::{self, Ink},
    verbs::history::time,
};

pub async fn run(context: &Context) -> Result<Exit, Error> {
    let status = match context.agent().await? {
        Some(agent) => agent.status().await?,
        None => context.engine(true)?.status()?,
    };
    if context.print(&status)? {
        return Ok(Exit::DONE);
    }
    out::print(|out| match context.global.output {
        Format::Name => writeln!(out, "{}", status.state),
        _ => write(context, &status, out),
    })?;
    Ok(Exit::DONE)
}

fn write(context: &Context, status: &StatusDocument, out: &mut dyn Write) -> io::Result<()> {
    let ink = match status.state.as_str() {
        "converged" => Ink::Green,
        "failing" => Ink::Red,
        "drifted" => Ink::Magenta,
        _ => Ink::Yellow,
    };
    writeln!(out, "node      {}", status.node)?;
    writeln!(out, "state     {}", context.paint.paint(ink, &status.state))?;
    match &status.agent {
        Some(agent) => {
            writeln!(out, "agent     {} (pid {}), since {}", agent.version, agent.pid, time(agent.started_unix_ms))?;
            let revision = agent.revision.as_deref().unwrap_or("nothing delivered yet");
            writeln!(out, "source    {} @ {revision}", agent.source)?;
            let verified = agent.verified_unix_ms.map_or("not yet".to_owned(), time);
            writeln!(out, "verified  {verified}; {} entries drifted, {} healed", status.drift, agent.healed)?;
        }
        None => writeln!(out, "agent     none runs")?,
    }
    if let Some(commit) = &status.commit {
        writeln!(out, "commit    {} of {}, revision {}", commit.sequence, time(commit.time_unix_ms), commit.revision)?;
        if let Some(author) = &commit.author {
            writeln!(out, "author    {author}  {}", commit.subject.as_deref().unwrap_or_default())?;
        }
    }
    match status.generation {
        Some(live) => {
            let side = if live.side == 0 { "a" } else { "b" };
            writeln!(out, "live      epoch {}, side {side}", live.epoch)?;
        }
        None => writeln!(out, "live      nothing")?,
    }
    if let Some(suspended) = &status.suspended {
        let until =
            suspended.until_unix_ms.map_or("until `weir resume`".to_owned(), |at| format!("until {}", time(at)));
        writeln!(out, "suspended {} (since {}, {until})", suspended.reason, time(suspended.since_unix_ms))?;
    }
    if let Some(agent) = &status.agent
        && let Some(failure) = &agent.failure
    {
        writeln!(out, "\n{}", context.paint.paint(Ink::Red, &failure.to_string()))?;
        if let Some(retry) = agent.retry_in_ms {
            writeln!(out, "  = tried again in {:.1} s", retry as f64 / 1000.0)?;
        }
    }
    for pending in &status.pending {
        writeln!(out, "\npending[{}]: {}: {}", pending.code, pending.object, pending.message)?;
        if let (Some(attempts), Some(next)) = (pending.attempts, pending.next_try_in_ms) {
            writeln!(out, "  = looked for {attempts} times in vain; again in {:.1} s", next as f64 / 1000.0)?;
        }
    }
    if !status.kept.is_empty() {
        writeln!(out)?;
    }
    status.kept.iter().try_for_each(|kept| writeln!(out, "{}  {}", kept.object, kept.note))?;
    if !status.conditions.is_empty() {
        writeln!(out)?;
        let mut rows = vec![["CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"].map(str::to_owned).to_vec()];
        rows.extend(status.conditions.iter().map(|condition| {
            let status = format!("{:?}", condition.status);
            let since = condition.last_transition_time.split('.').next().map_or_else(String::new, |s| format!("{s}Z"));
            // The first line says what it is; the rest stands above.
            let message = condition.message.lines().next().unwrap_or_default();
            vec![condition.kind.clone(), status, since, condition.reason.clone(), message.to_owned()]
        }));
        out::columns(&rows, out)?;
    }
    if !status.attachments.is_empty() {
        writeln!(out)?;
        let mut rows = vec![["INTERFACE", "PROGRAM", "ATTACHED", "NOTE"].map(str::to_owned).to_vec()];
        rows.extend(status.attachments.iter().map(|attachment| {
            let note = attachment.note.clone().unwrap_or_default();
            vec![attachment.interface.clone(), attachment.program.clone(), attachment.mode.clone(), note]
        }));
        out::columns(&rows, out)?;
    }
    if !status.tables.is_empty() {
        writeln!(out)?;
        let mut rows = vec![["TABLE", "ACTIVE", "STANDBY", "LIMIT"].map(str::to_owned).to_vec()];
        rows.extend(status.tables.iter().map(|table| {
            let limit = table.limit.map_or("-".to_owned(), |limit| limit.to_string());
            vec![table.table.clone(), table.active.to_string(), table.standby.to_string(), limit]
        }));
        out::columns(&rows, out)?;
    }
    if !status.notes.is_empty() {
        writeln!(out)?;
    }
    status.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
}
