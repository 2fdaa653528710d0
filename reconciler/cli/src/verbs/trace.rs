use std::io::{self, Write};

use weir_agent::{Error, Exit, PartyDocument, TraceDocument};

use crate::{
    args::Format,
    context::Context,
    out::{self, Ink},
};

pub async fn run(context: &Context, source: &str, destination: &str, port: &str) -> Result<Exit, Error> {
    // A typing mistake needs no agent and no kernel.
    weir_agent::parse_port(port)?;
    let trace = match context.agent().await? {
        Some(agent) => agent.trace(source, destination, port).await?,
        None => {
            let applied = context.engine(true)?.applied()?.ok_or(Error::NothingApplied)?;
            applied.trace(source, destination, port)?
        }
    };
    if context.print(&trace)? {
        return Ok(Exit::DONE);
    }
    out::print(|out| match context.global.output {
        Format::Name => writeln!(out, "{}", trace.verdict),
        _ => write(context, &trace, out),
    })?;
    Ok(Exit::DONE)
}

fn write(context: &Context, trace: &TraceDocument, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "from  {}", party(&trace.source))?;
    writeln!(out, "to    {}", party(&trace.destination))?;
    writeln!(out, "flow  {}/{}", trace.protocol, trace.port)?;
    let mut rows = Vec::new();
    for step in &trace.steps {
        let what = match &step.interface {
            Some(interface) => format!("{} on {interface}", step.step),
            None => step.step.clone(),
        };
        let (rule, place) = match &step.rule {
            Some(rule) => {
                let place = match (&rule.file, rule.line) {
                    (Some(file), Some(line)) => format!("{file}:{line}"),
                    _ => String::new(),
                };
                (format!("{} {}", rule.object, rule.path), place)
            }
            None => (String::new(), String::new()),
        };
        rows.push(vec![what, step.decision.clone(), rule, place]);
    }
    out::columns(&rows, out)?;
    let ink = if trace.verdict == "allowed" { Ink::Green } else { Ink::Red };
    writeln!(out, "{}", context.paint.paint(ink, &trace.verdict))
}

fn party(party: &PartyDocument) -> String {
    let mut text = match (&party.endpoint, party.address) {
        (Some(endpoint), Some(address)) => format!("{endpoint} ({address})"),
        (Some(endpoint), None) => endpoint.to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "anywhere".to_owned(),
    };
    text.push_str(&format!(", identity {}", party.identity));
    if !party.labels.is_empty() {
        let pair = |(key, value): (&String, &String)| {
            if value.is_empty() { key.clone() } else { format!("{key}={value}") }
        };
        let labels: Vec<String> = party.labels.iter().map(pair).collect();
        text.push_str(&format!(" [{}]", labels.join(" ")));
    }
    text
}
