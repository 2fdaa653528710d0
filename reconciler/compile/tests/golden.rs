//! Small sets and every entry that they give, as plans show them: a change of what is written shows up in review.
//!
//! `WEIR_BLESS=1 cargo test -p weir-compile --test golden` writes the expected files anew.
mod support;

use std::{fs, path::Path};

use support::compiled;
use weir_compile::Compiled;
use weir_plan::{Provenance, Tables, Wiring};

/// One line an entry: table, key, value, and the object that wants it.
fn shown(set: &Compiled) -> String {
    let mut text = String::new();
    let mut line = |entry: String| {
        text.push_str(&entry);
        text.push('\n');
    };
    let (tables, wiring) = (Tables::default().diff(&set.tables), Wiring::default().diff(&set.wiring));
    for change in tables.changes().chain(wiring.changes()) {
        let (key, _, value) = change.show();
        let owner = set.provenance.owner(&change).map(|owner| owner.reference().to_string());
        let owner = owner.unwrap_or_else(|| "the node".to_owned());
        line(format!("{} | {key} | {} | {owner}", change.table(), value.unwrap_or_default()));
    }
    for (number, rule) in set.provenance.rules() {
        line(format!("rule | {number} | {} | {}", rule.path, rule.object));
    }
    for (number, labels) in &set.identities {
        line(format!("identity | {number} | {labels:?}"));
    }
    for one in &set.pending {
        line(format!("pending | {} | {}: {}", one.object, one.code, one.message));
    }
    for one in &set.skipped {
        line(format!("skipped | {} | {}", one.object, one.why));
    }
    text
}

fn check(name: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found = shown(&compiled(&read(&directory.join(format!("{name}.yaml")))));
    let expected = directory.join(format!("{name}.txt"));
    if std::env::var_os("WEIR_BLESS").is_some() {
        fs::write(&expected, &found).unwrap_or_else(|error| panic!("{}: {error}", expected.display()));
    }
    let expected = read(&expected);
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

#[test]
fn services() {
    check("services");
}
