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
    plain_descriptions(&mut schema);
    schema
}

/// Doc comments link to each other; an editor shows them as they stand.
fn plain_descriptions(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                let plain = text.replace("[`", "`").replace("`]", "`").replace("crate::", "").replace("Self::", "");
                *text = plain.replace('\n', " ");
            }
            fields.values_mut().for_each(plain_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(plain_descriptions),
        _ => {}
    }
}

/// Types that serde reads from text, with what kind of text it is.
pub(crate) fn addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "format": "ip" } })
}

pub(crate) fn optional_address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "format": "ip" })
}

pub(crate) fn cidrs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "format": "cidr" } })
}

pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "format": "humantime" })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{document, marked, structure};

    /// The schema that an example names for editors accepts each of its documents, and refuses a misspelt field.
    #[test]
    fn checked_in_schemas_accept_the_examples_that_name_them() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let mut seen = 0;
        for folder in ["quickstart", "policies", "flow-tests", "services"] {
            for entry in fs::read_dir(examples.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "yaml") {
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                let line = text.lines().next().unwrap_or_default();
                let named = line.strip_prefix("# yaml-language-server: $schema=");
                let named = named.unwrap_or_else(|| panic!("{} names no schema", path.display()));
                let schema = fs::read_to_string(path.parent().unwrap().join(named)).unwrap();
                let schema: Value = serde_json::from_str(&schema).unwrap();
                for document in document::split(&text, 0) {
                    let found = |text: &str| structure::compare(&marked::read(text).unwrap(), &schema).0.len();
                    assert_eq!(found(document.text), 0, "{}", path.display());
                    let misspelt = document.text.replace("\nspec", "\nsepc").replace("\nmetadata", "\nmetdata");
                    assert!(found(&misspelt) > 0, "{}", path.display());
                    seen += 1;
                }
            }
        }
        assert!(seen >= 26, "{seen} documents");
    }
}
