//! The checked-in JSON Schema files are what the types say.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
use std::{fs, path::Path};

use serde_json::Value;
use weir_schema::json_schemas;

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("json")
}

/// `WEIR_UPDATE=1` writes the files; so does `weir schema`.
#[test]
fn files_are_what_the_types_say() {
    let schemas = json_schemas();
    let text = |schema: &Value| format!("{}\n", serde_json::to_string_pretty(schema).unwrap());
    if std::env::var_os("WEIR_UPDATE").is_some() {
        fs::create_dir_all(directory()).unwrap();
        for (name, schema) in &schemas {
            fs::write(directory().join(name), text(schema)).unwrap();
        }
    }
    for (name, schema) in &schemas {
        let found = fs::read_to_string(directory().join(name)).unwrap_or_default();
        assert!(found == text(schema), "schema/json/{name} is out of date: run the tests with WEIR_UPDATE=1");
    }
    let mut files: Vec<_> =
        fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let mut names: Vec<_> = schemas.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(files, names, "files without a kind, or kinds without a file");
}

/// Every property of every kind says what it is.
#[test]
fn every_field_is_described() {
    fn walk(at: &str, schema: &Value, bare: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                let path = format!("{at}.{name}");
                if property.get("description").is_none() && property.get("const").is_none() {
                    bare.push(path);
                }
            }
        }
    }
    let mut bare = Vec::new();
    for (name, schema) in json_schemas() {
        walk(&name, &schema, &mut bare);
        for (definition, schema) in schema["$defs"].as_object().into_iter().flatten() {
            walk(definition, schema, &mut bare);
        }
    }
    bare.sort();
    bare.dedup();
    assert!(bare.is_empty(), "without a description: {bare:#?}");
}
