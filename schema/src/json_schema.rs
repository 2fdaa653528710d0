//! JSON Schema of every kind, for editors and for `weir schema`.
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::kinds::{KINDS, Kind};

/// One schema per kind with the name of its file, as they are kept under `schema/json/`.
pub fn json_schemas() -> Vec<(String, Value)> {
    KINDS.iter().map(|kind| (file_name(kind), of(kind))).collect()
}

/// `endpoint.json`, `networking.k8s.io-networkpolicy.json`: our own kinds go without their group.
fn file_name(kind: &Kind) -> String {
    let name = kind.kind.to_lowercase();
    match kind.group() {
        "weir" => format!("{name}.json"),
        "" => format!("core-{name}.json"),
        group => format!("{group}-{name}.json"),
    }
}

/// The schema of a kind's documents.
pub(crate) fn of(kind: &Kind) -> Value {
    let mut schema = (kind.schema)().to_value();
    schema["title"] = json!(kind.kind);
    schema["properties"]["apiVersion"] = json!({ "const": kind.api_version });
    schema["properties"]["kind"] = json!({ "const": kind.kind });
    schema
}

/// Types that serde reads from text, with what kind of text it is.
pub(crate) fn addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "format": "ip" } })
}

pub(crate) fn cidrs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "format": "cidr" } })
}

pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "format": "humantime" })
}
