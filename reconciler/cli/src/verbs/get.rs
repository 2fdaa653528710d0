use serde_json::Value;
use weir_agent::{Error, Exit, Resource as What};

use crate::{
    args::{Format, Resource},
    context::Context,
    out,
};

impl From<Resource> for What {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Endpoints => Self::Endpoints,
            Resource::Identities => Self::Identities,
            Resource::Policies => Self::Policies,
            Resource::Filters => Self::Filters,
            Resource::Rules => Self::Rules,
            Resource::Tables => Self::Tables,
            Resource::Metrics => Self::Metrics,
        }
    }
}

/// Title and field of each column; several fields are joined, a field that is missing is left out.
type Column = (&'static str, &'static [&'static str]);

const fn columns(resource: Resource) -> &'static [Column] {
    match resource {
        Resource::Endpoints => &[
            ("NAMESPACE", &["namespace"]),
            ("NAME", &["name"]),
            ("NODE", &["node"]),
            ("IDENTITY", &["identity"]),
            ("ADDRESSES", &["addresses"]),
            ("INTERFACE", &["interface"]),
            ("STATE", &["state"]),
        ],
        Resource::Identities => &[("IDENTITY", &["identity"]), ("LABELS", &["labels"])],
        Resource::Policies | Resource::Filters => &[
            ("KIND", &["kind"]),
            ("NAMESPACE", &["namespace"]),
            ("NAME", &["name"]),
            ("RULES", &["rules"]),
            ("PACKETS", &["packets"]),
            ("BYTES", &["bytes"]),
            ("PLACE", &["file", "line"]),
        ],
        Resource::Rules => &[
            ("RULE", &["rule"]),
            ("PACKETS", &["packets"]),
            ("BYTES", &["bytes"]),
            ("KIND", &["kind"]),
            ("NAMESPACE", &["namespace"]),
            ("NAME", &["name"]),
            ("PATH", &["path"]),
            ("PLACE", &["file", "line"]),
        ],
        Resource::Tables => &[
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
        Resource::Metrics => {
            &[("REASON", &["name"]), ("DIRECTION", &["direction"]), ("PACKETS", &["packets"]), ("BYTES", &["bytes"])]
        }
    }
}

pub async fn run(context: &Context, resource: Resource, name: Option<&str>) -> Result<Exit, Error> {
    let list = match context.agent().await? {
        Some(agent) => agent.list(resource.into(), name).await?,
        None => context.engine(true)?.list(resource.into(), name)?,
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
        let columns = columns(resource);
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
