//! `weir get flows`
use weir_agent::{Error, Exit, FlowDocument, FlowQuery, FlowVerdictDocument, ObjectDocument};

use crate::{
    args::{FlowArgs, Format},
    context::Context,
    out,
};

/// So many lines are still read; a million are not.
const LIMIT: usize = 1000;

pub async fn run(context: &Context, args: &FlowArgs) -> Result<Exit, Error> {
    let query = FlowQuery {
        limit: args.limit.unwrap_or(LIMIT),
        address: args.address,
        port: args.port,
        protocol: args.protocol,
    };
    let list = match context.agent().await? {
        Some(agent) => agent.flows(&query).await?,
        None => context.engine(true)?.flow_view()?.list(&query)?,
    };
    if context.print(&list)? {
        return Ok(Exit::DONE);
    }
    out::print(|out| {
        if context.global.output == Format::Name {
            return list
                .items
                .iter()
                .try_for_each(|flow| writeln!(out, "flows/{}/{}/{}", flow.protocol, source(flow), destination(flow)));
        }
        let head = ["PROTOCOL", "SOURCE", "DESTINATION", "STATE", "EXPIRES", "EGRESS", "INGRESS"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(list.items.iter().map(|flow| {
            vec![
                flow.protocol.clone(),
                named(source(flow), flow.source_endpoint.as_ref()),
                by_way_of(flow, named(destination(flow), flow.destination_endpoint.as_ref())),
                flow.state.clone(),
                format!("{:.1}s", flow.expires_in),
                verdict(flow.egress.as_ref()),
                verdict(flow.ingress.as_ref()),
            ]
        }));
        out::columns(&rows, out)?;
        if list.more > 0 {
            writeln!(out, "… {} more", list.more)?;
        }
        Ok(())
    })?;
    Ok(Exit::DONE)
}

fn source(flow: &FlowDocument) -> String {
    match (flow.source_port, flow.identifier) {
        (Some(port), _) => std::net::SocketAddr::new(flow.source, port).to_string(),
        (None, Some(identifier)) => format!("{} id {identifier}", flow.source),
        (None, None) => flow.source.to_string(),
    }
}

fn destination(flow: &FlowDocument) -> String {
    match flow.destination_port {
        Some(port) => std::net::SocketAddr::new(flow.destination, port).to_string(),
        None => flow.destination.to_string(),
    }
}

fn named(address: String, endpoint: Option<&ObjectDocument>) -> String {
    match endpoint {
        Some(endpoint) => format!("{address} ({}/{})", endpoint.namespace, endpoint.name),
        None => address,
    }
}

fn by_way_of(flow: &FlowDocument, destination: String) -> String {
    match flow.frontend {
        Some(frontend) => format!("{destination} by {frontend}"),
        None => destination,
    }
}

fn verdict(verdict: Option<&FlowVerdictDocument>) -> String {
    let Some(verdict) = verdict else { return "-".to_owned() };
    let said = &verdict.verdict;
    match &verdict.rule {
        _ if !verdict.current => format!("{said}, in an earlier epoch"),
        None => said.clone(),
        Some(rule) => {
            let place = match (&rule.file, rule.line) {
                (Some(file), Some(line)) => format!(" {file}:{line}"),
                _ => String::new(),
            };
            format!("{said}  {} {}{place}", rule.object, rule.path)
        }
    }
}
