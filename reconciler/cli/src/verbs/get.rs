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
        rows.extend(list.items.iter().map(|item| {
            let cell = |(_, fields): &Column| {
                let parts: Vec<String> =
                    fields.iter().map(|field| text(&item[field])).filter(|t| !t.is_empty()).collect();
                if parts.is_empty() { "-".to_owned() } else { parts.join(":") }
            };
            columns.iter().map(cell).collect()
        }));
        out::columns(&rows, out)
    })?;
    Ok(Exit::DONE)
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
