use std::{io::Write, time::Instant};

use weir_agent::{Allow, ApplyDocument, Error, Exit, Look, PlanDocument};

use crate::{
    args::{AllowArgs, Format, SourceArgs},
    context::{Context, Source},
    out,
    out::Ink,
    plan_text,
};

impl From<AllowArgs> for Allow {
    fn from(args: AllowArgs) -> Self {
        Self { mass_delete: args.allow_mass_delete, lockout: args.allow_lockout, failed_tests: args.allow_failed_tests }
    }
}

pub async fn run(context: &Context, args: &SourceArgs, allow: AllowArgs) -> Result<Exit, Error> {
    let source = Source::new(&context.global, args)?;
    if let Some(agent) = context.agent().await? {
        let status = agent.status().await?;
        let own = status.agent.is_some_and(|agent| agent.source == source.name);
        // Its own source it reads itself: sync now. What else comes is refused unless it is suspended.
        let manifests = if own && status.suspended.is_none() { None } else { Some(source.read()?) };
        let document = agent.apply(manifests.as_ref(), allow.into()).await?;
        return finish(context, document);
    }
    let start = Instant::now();
    let manifests = source.read()?;
    let read = start.elapsed();
    let mut engine = context.engine(args.ignore_foreign)?;
    let open = start.elapsed() - read;
    let mut document = engine.bring_live(&manifests, Look::Kernel, allow.into())?.document();
    document.timings.read_us = read.as_micros() as u64;
    document.timings.open_us = open.as_micros() as u64;
    finish(context, document)
}

pub async fn rollback(context: &Context, sequence: Option<u64>, allow: AllowArgs) -> Result<Exit, Error> {
    let document = match context.agent().await? {
        Some(agent) => agent.rollback(sequence, allow.into()).await?,
        None => context.engine(true)?.go_back(sequence, Look::Kernel, allow.into())?.document(),
    };
    if context.global.output == Format::Text {
        finish(context, document)?;
        out::print(|out| writeln!(out, "reconciling is suspended until `weir resume`"))?;
        return Ok(Exit::DONE);
    }
    finish(context, document)
}

/// Prints what was done. An object that has to wait is a failure at run time, though the rest is live.
fn finish(context: &Context, document: ApplyDocument) -> Result<Exit, Error> {
    let exit = if document.pending.is_empty() { Exit::DONE } else { Exit::FAILED };
    if context.print(&document)? {
        return Ok(exit);
    }
    out::print(|out| {
        if context.global.output == Format::Name {
            return plan_text::names(&document.changes, out);
        }
        let plan = PlanDocument {
            format_version: document.format_version.clone(),
            node: document.node.clone(),
            source: document.source.clone(),
            drift: Vec::new(),
            more: 0,
            changes: document.changes.clone(),
            kept: document.kept.clone(),
            flows: None,
            summary: document.summary,
            digest: document.digest.clone(),
        };
        plan_text::write(&plan, context.paint, out)?;
        if let Some(commit) = &document.commit {
            let how = if document.flipped { "one flip" } else { "no flip was needed" };
            let took = format!("{:.1} ms", document.timings.live_us as f64 / 1000.0);
            let line =
                format!("applied as commit {} (epoch {}, {how}, live after {took})", commit.sequence, commit.epoch);
            writeln!(out, "{}", context.paint.paint(Ink::Bold, &line))?;
        }
        Ok(())
    })?;
    for pending in &document.pending {
        // The exit code says it too.
        let _ = writeln!(
            std::io::stderr(),
            "pending[{}]: {}: {}; it takes effect when that changes",
            pending.code,
            pending.object,
            pending.message
        );
    }
    Ok(exit)
}
