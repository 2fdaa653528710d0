use std::io::{self, Write};

use weir_agent::{
    Error, Exit, PartyDocument, StepDocument, TraceDocument, TracedBackendDocument, TracedServiceDocument,
};

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
    out::columns(&steps(&trace.steps), out)?;
    if let Some(service) = &trace.service {
        write_service(service, trace.verdict == "varies", out)?;
    }
    let ink = match &*trace.verdict {
        "allowed" => Ink::Green,
        "varies" => Ink::Yellow,
        _ => Ink::Red,
    };
    let verdict = match &*trace.verdict {
        "varies" => "varies, by the backend",
        verdict => verdict,
    };
    writeln!(out, "{}", context.paint.paint(ink, verdict))
}

fn steps(steps: &[StepDocument]) -> Vec<Vec<String>> {
    steps.iter().map(row).collect()
}

/// With the verdict of each backend where it `varies`.
fn write_service(service: &TracedServiceDocument, varies: bool, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "service  {}", of_service(service))?;
    for alike in alike(&service.backends) {
        for backend in alike.iter().take(SHOWN) {
            let hairpin = if backend.hairpin { ", the client itself: nobody is asked" } else { "" };
            writeln!(out, "backend  port {} of {}{hairpin}", backend.port, party(&backend.backend))?;
        }
        if alike.len() > SHOWN {
            writeln!(out, "backend  and {} more", alike.len() - SHOWN)?;
        }
        let mut rows = steps(&alike[0].steps);
        if varies {
            rows.push(vec![alike[0].verdict.clone()]);
        }
        rows.iter_mut().for_each(|row| row[0].insert_str(0, "  "));
        out::columns(&rows, out)?;
    }
    Ok(())
}

/// Backends of one fate that are named; the rest is counted.
const SHOWN: usize = 8;

fn row(step: &StepDocument) -> Vec<String> {
    let what = match &step.interface {
        Some(interface) => format!("{} on {interface}", step.step),
        None => step.step.clone(),
    };
    let (rule, place) = match &step.rule {
        Some(rule) => (format!("{} {}", rule.object, rule.path), place(rule.file.as_deref(), rule.line)),
        None => (String::new(), String::new()),
    };
    vec![what, step.decision.clone(), rule, place]
}

fn place(file: Option<&str>, line: Option<usize>) -> String {
    file.zip(line).map(|(file, line)| format!("{file}:{line}")).unwrap_or_default()
}

fn of_service(service: &TracedServiceDocument) -> String {
    let object = service.object.as_ref().map_or_else(|| "of no name".to_owned(), ToString::to_string);
    let place = place(service.file.as_deref(), service.line);
    let count = match (&service.reason, service.backends.len()) {
        (Some(reason), _) => reason.clone(),
        (None, 1) => "1 backend".to_owned(),
        (None, count) => format!("one of {count} backends"),
    };
    format!("{object}  {count}  {place}").trim_end().to_owned()
}

/// Those together that meet the same.
fn alike(backends: &[TracedBackendDocument]) -> Vec<Vec<&TracedBackendDocument>> {
    let mut groups: Vec<Vec<&TracedBackendDocument>> = Vec::new();
    for backend in backends {
        match groups.iter_mut().find(|group| group[0].steps == backend.steps) {
            Some(group) => group.push(backend),
            None => groups.push(vec![backend]),
        }
    }
    groups
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
