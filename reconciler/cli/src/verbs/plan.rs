use weir_agent::{Error, Exit, Look, PlanDocument};

use crate::{
    args::{Format, SourceArgs},
    context::{Context, Source},
    out,
    plan_text::{self, SHOWN},
};

/// `diff` and `plan`: the same plan, another exit code.
pub async fn run(context: &Context, args: &SourceArgs, diff: bool, flows: bool) -> Result<Exit, Error> {
    let manifests = Source::new(&context.global, args)?.read()?;
    let exit = |differs: bool| if diff && differs { Exit::FAILED } else { Exit::DONE };
    let format = context.global.output;
    if let Some(agent) = context.agent().await? {
        if let Format::Text | Format::Name = format {
            let limit = if format == Format::Name { 0 } else { SHOWN };
            let document = agent.plan(&manifests, limit, flows).await?;
            show(context, &document)?;
            return Ok(exit(differs(&document)));
        }
        let mut bytes = Vec::new();
        let keep = |chunk: &[u8]| {
            bytes.extend_from_slice(chunk);
            Ok(())
        };
        agent.plan_json(&manifests, flows, keep).await?;
        let broken = |cause: serde_json::Error| Error::Unreachable {
            socket: context.global.socket.display().to_string(),
            cause: cause.to_string(),
        };
        let document: PlanDocument = serde_json::from_slice(&bytes).map_err(broken)?;
        context.print(&document)?;
        return Ok(exit(differs(&document)));
    }
    let mut engine = context.engine(args.ignore_foreign)?;
    let mut planned = engine.plan(&manifests, Look::Kernel)?;
    if flows {
        planned.show_flows()?;
    }
    match format {
        Format::Json => out::print(|out| {
            planned.write_json(&mut *out)?;
            writeln!(out)
        })?,
        Format::Yaml => drop(context.print(&planned.document(usize::MAX))?),
        Format::Text => show(context, &planned.document(SHOWN))?,
        Format::Name => show(context, &planned.document(0))?,
    }
    Ok(exit(!planned.plan.is_empty()))
}

fn differs(document: &PlanDocument) -> bool {
    !document.summary.is_empty() || !document.changes.is_empty()
}

fn show(context: &Context, document: &PlanDocument) -> Result<(), Error> {
    out::print(|out| match context.global.output {
        Format::Name => plan_text::names(&document.changes, out),
        _ => plan_text::write(document, context.paint, out),
    })
}
