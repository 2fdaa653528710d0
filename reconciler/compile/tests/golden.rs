//! Small sets and every entry that they give, as plans show them: a change of what is written shows up in review.
//!
//! `WEIR_BLESS=1 cargo test -p weir-compile --test golden` writes the expected files anew.
mod support;

use std::{fmt::Write, fs, path::Path};

use support::{facts, parse, try_compile};
use weir_compile::Compiled;
use weir_plan::{Provenance, Tables, Wiring};

/// One line an entry: table, key, value, and the object that wants it.
fn shown(set: &Compiled) -> String {
    let mut text = String::new();
    let (tables, wiring) = (Tables::default().diff(&set.tables), Wiring::default().diff(&set.wiring));
    for change in tables.changes().chain(wiring.changes()) {
        let (key, _, value) = change.show();
        let owner = set.provenance.owner(&change).map(|index| set.provenance.objects()[index].object.to_string());
        let owner = owner.unwrap_or_else(|| "the node".to_owned());
        writeln!(text, "{} | {key} | {} | {owner}", change.table(), value.unwrap_or_default()).unwrap();
    }
    for (number, rule) in set.provenance.rules() {
        writeln!(text, "rule | {number} | {} | {}", rule.path, rule.object).unwrap();
    }
    for one in &set.identities {
        writeln!(text, "identity | {} | {:?}", one.number, one.labels).unwrap();
    }
    for one in &set.pending {
        writeln!(text, "pending | {} | {}: {}", one.object, one.code, one.message).unwrap();
    }
    text
}

fn check(name: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let manifests = fs::read_to_string(directory.join(format!("{name}.yaml"))).unwrap();
    let found = shown(&try_compile(&parse(&manifests), &facts()).unwrap());
    let expected = directory.join(format!("{name}.txt"));
    if std::env::var_os("WEIR_BLESS").is_some() {
        fs::write(&expected, &found).unwrap();
    }
    let expected = fs::read_to_string(&expected).unwrap();
    for (line, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{name}.txt:{}", line + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{name}.txt");
}

#[test]
fn filters() {
    check("filters");
}

#[test]
fn policies() {
    check("policies");
}
