use std::io::{self, Write};

use weir_agent::{DropDocument, Error, Exit, LostDocument};

use crate::{
    args::Format,
    context::Context,
    out::{Ink, Paint},
};

/// Prints drops, or all that is judged for the first time, until it is stopped, or until whoever reads has seen enough.
pub async fn run(context: &Context, flows: bool) -> Result<Exit, Error> {
    let agent = context.need_agent().await?;
    let mut out = io::stdout().lock();
    let format = context.global.output;
    agent
        .monitor(flows, |line| {
            match format {
                Format::Json => out.write_all(line)?,
                Format::Yaml => {
                    let value: serde_json::Value = serde_json::from_slice(line)?;
                    write!(out, "---\n{}", serde_yaml::to_string(&value).map_err(io::Error::other)?)?;
                }
                Format::Text | Format::Name => match serde_json::from_slice::<DropDocument>(line) {
                    Ok(event) => writeln!(out, "{}", text(&event, context.paint))?,
                    Err(_) => {
                        let lost: LostDocument = serde_json::from_slice(line)?;
                        writeln!(out, "… {} events were lost", lost.lost)?;
                    }
                },
            }
            out.flush()
        })
        .await?;
    Ok(Exit::DONE)
}

fn text(event: &DropDocument, paint: Paint) -> String {
    let end = |address: std::net::IpAddr, port: Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let frontend = event.frontend.map(|frontend| format!(" by {frontend}")).unwrap_or_default();
    let ink = if event.verdict == "allow" { Ink::Green } else { Ink::Red };
    let word = if event.verdict == "allow" { &event.verdict } else { &event.reason };
    let mut line = format!(
        "{} {} {} {} -> {}{frontend}, {} bytes, on {} ({})",
        paint.paint(ink, word),
        event.direction,
        event.protocol,
        end(event.source, event.source_port),
        end(event.destination, event.destination_port),
        event.length,
        event.interface,
        event.hook,
    );
    if let Some(endpoint) = &event.endpoint {
        line.push_str(&format!(", {endpoint}"));
    }
    if let Some(rule) = &event.rule {
        line.push_str(&format!(", {} {}", rule.object, rule.path));
        if let (Some(file), Some(number)) = (&rule.file, rule.line) {
            line.push_str(&format!(" {file}:{number}"));
        }
    }
    line
}
