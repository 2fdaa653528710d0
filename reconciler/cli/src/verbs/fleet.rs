use weir_agent::{Error, Exit, FleetDocument, NodeDocument};
use weir_schema::Options;
use weir_source::{Access, EtcdSource, Source, SourceError, SourceSpec};

use crate::{
    args::{EtcdArgs, FleetArgs, Format},
    context::{Context, PATIENCE, REST},
    out::{self, Ink},
    verbs::history::time,
};

/// `status --all`: what every node says, and who says nothing.
pub fn run(context: &Context, from: Option<&str>, fleet: &FleetArgs, args: &EtcdArgs) -> Result<Exit, Error> {
    let named = fleet.etcd(args)?;
    let spec = from.map(SourceSpec::parse).transpose()?;
    let etcd = match (named, &spec) {
        (Some(etcd), _) => etcd,
        (None, Some(SourceSpec::Etcd(spec))) => EtcdSource::new(spec, &args.options())?,
        (None, Some(_)) => {
            let what = "nodes tell their status to an etcd: name it with --status-to".to_owned();
            return Err(Error::Usage { what });
        }
        (None, None) => return Err(SourceError::Unnamed.into()),
    };
    let known = match spec {
        Some(spec) => nodes(spec, args),
        None => Vec::new(),
    };
    let document = FleetDocument::read(&etcd, &fleet.status_prefix, known)?;
    if context.print(&document)? {
        return Ok(Exit::DONE);
    }
    out::print(|out| {
        if context.global.output == Format::Name {
            return document.nodes.iter().try_for_each(|node| writeln!(out, "node/{}", node.node));
        }
        let head = ["NODE", "STATE", "APPLIED", "SEEN", "VERSION", "CHANGED", "MESSAGE"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(document.nodes.iter().map(row));
        out::columns(&rows, out)?;
        let silent = document.nodes.iter().filter(|node| node.time_unix_ms.is_none()).count();
        match silent {
            0 => Ok(()),
            _ => writeln!(out, "{}", context.paint.paint(Ink::Yellow, &format!("no word from {silent}"))),
        }
    })?;
    Ok(Exit::DONE)
}

fn row(node: &NodeDocument) -> Vec<String> {
    let short = |revision: &Option<String>| revision.as_ref().map_or("-", |id| id.get(..12).unwrap_or(id)).to_owned();
    let failure = node.status.get("failure").and_then(|failure| failure.get("message")).and_then(|text| text.as_str());
    let pending = node.status.get("pending").and_then(|pending| pending.as_array()).map_or(0, Vec::len);
    let message = match (failure, pending) {
        (Some(message), _) => message.lines().next().unwrap_or_default().to_owned(),
        (None, 0) => String::new(),
        (None, pending) => format!("{pending} pending"),
    };
    vec![
        node.node.clone(),
        node.state.clone(),
        short(&node.revision.applied),
        short(&node.revision.seen),
        node.version.clone().unwrap_or_else(|| "-".to_owned()),
        node.time_unix_ms.map_or_else(|| "-".to_owned(), time),
        message,
    ]
}

/// The nodes that have a manifest. Where the manifests cannot be read, those that speak are still shown.
fn nodes(spec: SourceSpec, args: &EtcdArgs) -> Vec<String> {
    let access = Access { etcd: args.options(), ..Access::default() };
    let read = Source::open(&[spec], &access).and_then(|mut source| source.read(REST, PATIENCE));
    let revision = match read {
        Ok(revision) => revision,
        Err(error) => {
            tracing::warn!(%error, "the manifests cannot be read: nodes that say nothing are not shown");
            return Vec::new();
        }
    };
    let files = weir_agent::Manifests::new("", &revision).files;
    match weir_schema::parse(&files, &Options { ignore_foreign: true }) {
        Ok(inventory) => {
            let nodes = inventory.objects().filter(|object| &*object.key.kind == "Node");
            nodes.map(|node| node.key.name.to_string()).collect()
        }
        Err(_) => {
            tracing::warn!("the manifests are invalid: nodes that say nothing are not shown");
            Vec::new()
        }
    }
}
