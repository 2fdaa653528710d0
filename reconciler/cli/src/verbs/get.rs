use std::{borrow::Cow, time::Duration};

use serde_json::Value;
use weir_agent::{Error, Exit, Resource as What};

use crate::{
    args::{FlowArgs, Format, Resource},
    context::Context,
    out,
    verbs::flows,
};

/// `None`: flows, which are asked for in another way.
const fn what(resource: Resource) -> Option<What> {
    match resource {
        Resource::Endpoints => Some(What::Endpoints),
        Resource::Services => Some(What::Services),
        Resource::Backends => Some(What::Backends),
        Resource::Identities => Some(What::Identities),
        Resource::Policies => Some(What::Policies),
        Resource::Filters => Some(What::Filters),
        Resource::Rules => Some(What::Rules),
        Resource::Tables => Some(What::Tables),
        Resource::Metrics => Some(What::Metrics),
        Resource::Flows => None,
    }
}

/// Title and field of each column; several fields are joined, a field that is missing is left out.
type Column = (&'static str, &'static [&'static str]);

const fn columns(what: What) -> &'static [Column] {
    match what {
        What::Endpoints => &[
            ("NAMESPACE", &["namespace"]),
            ("NAME", &["name"]),
            ("NODE", &["node"]),
            ("IDENTITY", &["identity"]),
            ("ADDRESSES", &["addresses"]),
            ("INTERFACE", &["interface"]),
            ("STATE", &["state"]),
        ],
        What::Services => &[
            ("NAMESPACE", &["namespace"]),
            ("NAME", &["name"]),
            ("PROTOCOL", &["protocol"]),
            ("FRONTEND", &["frontend"]),
            ("TYPE", &["type"]),
            ("ALGORITHM", &["algorithm"]),
            ("AFFINITY", &["affinity"]),
            ("BACKENDS", &["answering"]),
            ("FLOWS", &["flows"]),
            ("PLACE", &["file", "line"]),
        ],
        What::Backends => &[
            ("NAMESPACE", &["namespace"]),
            ("SERVICE", &["service"]),
            ("PROTOCOL", &["protocol"]),
            ("BACKEND", &["name"]),
            ("STATE", &["state"]),
            ("LOCAL", &["local"]),
            ("WEIGHT", &["weight"]),
            ("FLOWS", &["flows"]),
        ],
        What::Identities => &[("IDENTITY", &["identity"]), ("LABELS", &["labels"])],
        What::Policies | What::Filters => &[
            ("KIND", &["kind"]),
            ("NAMESPACE", &["namespace"]),
            ("NAME", &["name"]),
            ("RULES", &["rules"]),
            ("PACKETS", &["packets"]),
            ("BYTES", &["bytes"]),
            ("PLACE", &["file", "line"]),
        ],
        What::Rules => &[
            ("RULE", &["rule"]),
            ("PACKETS", &["packets"]),
            ("BYTES", &["bytes"]),
            ("KIND", &["kind"]),
            ("NAMESPACE", &["namespace"]),
            ("NAME", &["name"]),
            ("PATH", &["path"]),
            ("PLACE", &["file", "line"]),
        ],
        What::Tables => &[
            ("TABLE", &["name"]),
            ("SIDE", &["side", "state"]),
            ("ENTRIES", &["entries"]),
            ("ACTIVE", &["active"]),
            ("STANDBY", &["standby"]),
            ("LIMIT", &["limit"]),
            ("FULL %", &["percent"]),
            ("SLOTS", &["maxEntries"]),
            ("BYTES", &["bytes"]),
        ],
        What::Metrics => {
            &[("REASON", &["name"]), ("DIRECTION", &["direction"]), ("PACKETS", &["packets"]), ("BYTES", &["bytes"])]
        }
    }
}

pub async fn run(context: &Context, resource: Resource, name: Option<&str>, filter: &FlowArgs) -> Result<Exit, Error> {
    let refused = |what: &str| Err(Error::Usage { what: what.to_owned() });
    let what = match (what(resource), name) {
        (None, None) => return flows::run(context, filter).await,
        (None, Some(_)) => return refused("flows have no names: say --address, --port or --protocol"),
        (Some(_), _) if *filter != FlowArgs::default() => {
            return refused("--limit, --address, --port and --protocol are for flows");
        }
        (Some(what), _) => what,
    };
    let list = match context.agent().await? {
        Some(agent) => agent.list(what, name).await?,
        None => context.engine(true)?.list(what, name)?,
    };
    if context.print(&list)? {
        return Ok(Exit::DONE);
    }
    out::print(|out| {
        if context.global.output == Format::Name {
            return list.items.iter().try_for_each(|item| {
                let name =
                    ["name", "identity", "rule"].iter().map(|field| text(&item[field])).find(|text| !text.is_empty());
                writeln!(out, "{}/{}", list.resource, name.unwrap_or_default())
            });
        }
        let columns = columns(what);
        let mut rows = vec![columns.iter().map(|(title, _)| (*title).to_owned()).collect::<Vec<_>>()];
        let lines: Cow<'_, [Value]> = match what {
            What::Services => list.items.iter().flat_map(by_frontend).collect(),
            _ => Cow::Borrowed(&list.items),
        };
        rows.extend(lines.iter().map(|item| {
            let cell = |(_, fields): &Column| {
                let parts: Vec<String> =
                    fields.iter().map(|field| text(&item[field])).filter(|t| !t.is_empty()).collect();
                if parts.is_empty() { "-".to_owned() } else { parts.join(":") }
            };
            columns.iter().map(cell).collect()
        }));
        out::columns(&rows, out)?;
        list.skipped.iter().try_for_each(|one| writeln!(out, "skipped: {}: {}", one.object, one.why))
    })?;
    Ok(Exit::DONE)
}

/// A service's lines: one for each frontend, or one where it has none.
fn by_frontend(service: &Value) -> Vec<Value> {
    let list = |field: &str| service[field].as_array().map_or(&[][..], Vec::as_slice);
    let mut common = service.clone();
    common["affinity"] = match service["affinitySeconds"].as_u64() {
        Some(seconds) => humantime::format_duration(Duration::from_secs(seconds)).to_string().into(),
        None => Value::Null,
    };
    let line = |frontend: &Value| {
        let mut line = common.clone();
        for field in ["frontend", "protocol", "type", "flows"] {
            line[field] = frontend[field].clone();
        }
        let own = || list("backends").iter().filter(|one| one["serviceNumber"] == frontend["serviceNumber"]);
        let gets_flows = |one: &&Value| one["state"] == "active" && one["weight"] != 0;
        line["answering"] = format!("{}/{}", own().filter(gets_flows).count(), own().count()).into();
        line
    };
    match list("frontends") {
        [] => vec![common],
        frontends => frontends.iter().map(line).collect(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            let pair = |(key, value): (&String, &Value)| match text(value) {
                value if value.is_empty() => key.clone(),
                value => format!("{key}={value}"),
            };
            fields.iter().map(pair).collect::<Vec<_>>().join(",")
        }
        value => value.to_string(),
    }
}
