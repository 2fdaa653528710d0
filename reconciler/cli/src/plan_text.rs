//! A plan as a tired person reads it.
use std::io::{self, Write};

use weir_agent::{ChangeDocument, EntryDocument, FlowChangeDocument, PlanDocument};

use crate::out::{Ink, Paint};

/// Entries of one object that are shown; the rest is counted.
pub const SHOWN: usize = 10;

pub fn write(document: &PlanDocument, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    if let Some(author) = &document.source.author {
        let subject = document.source.subject.as_deref().unwrap_or_default();
        let line = format!("{}  {author}  {subject}", short(&document.source.revision));
        writeln!(out, "{}", paint.paint(Ink::Dim, &line))?;
    }
    changes(document, paint, out)
}

/// The plan without what it is a plan of.
pub fn changes(document: &PlanDocument, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let drifted = document.drift.len() + document.more;
    if drifted > 0 {
        writeln!(out, "{}", paint.paint(Ink::Magenta, "! drift: the kernel holds something else than was applied"))?;
        entries(&document.drift, document.more, true, paint, out)?;
    }
    let width = document.changes.iter().map(|change| change.object.to_string().chars().count()).max().unwrap_or(0);
    for change in &document.changes {
        let (sign, ink) = sign(&change.action);
        let place = match change.line {
            0 => String::new(),
            line => format!("  {}:{line}", change.file),
        };
        let object = format!("{:width$}", change.object.to_string());
        let line = format!("{sign} {object}{place}");
        writeln!(out, "{}", paint.paint(ink, line.trim_end()))?;
        entries(&change.entries, change.more, false, paint, out)?;
    }
    for kept in &document.kept {
        writeln!(out, "{}", paint.paint(Ink::Dim, &format!("= {}  {}", kept.object, kept.note)))?;
    }
    if let Some(changed) = &document.flows {
        flows(changed, paint, out)?;
    }
    writeln!(out, "{}", paint.paint(Ink::Bold, &summary(document)))
}

fn flows(changed: &[FlowChangeDocument], paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    if changed.is_empty() {
        return writeln!(out, "no flow changes its verdict");
    }
    writeln!(out, "flows that change their verdict:")?;
    for flow in changed {
        let of = flow.test.as_ref().or(flow.service.as_ref());
        let of = of.map(|object| format!("  ({object})")).unwrap_or_default();
        let ink = if flow.after.verdict == "allow" { Ink::Green } else { Ink::Red };
        writeln!(out, "  {}{of}", paint.paint(ink, &flow.to_string()))?;
        writeln!(out, "    - {}", flow.before)?;
        writeln!(out, "    + {}", flow.after)?;
    }
    Ok(())
}

/// As much of a revision's name as tells it from others.
pub fn short(revision: &str) -> String {
    revision.chars().take(12).collect()
}

/// `cidrfilter/default/drop`, one per changed object.
pub fn names(changes: &[ChangeDocument], out: &mut dyn Write) -> io::Result<()> {
    changes.iter().try_for_each(|change| writeln!(out, "{}", change.object.name()))
}

pub fn summary(document: &PlanDocument) -> String {
    let summary = document.summary;
    if summary.is_empty() && document.changes.is_empty() {
        return "nothing to do: the node is as the manifests say".to_owned();
    }
    let plural = |count: u64| if count == 1 { "entry" } else { "entries" };
    format!(
        "{} to create, {} to update, {} to delete; {} drifted {}, {} {} to write",
        summary.create,
        summary.update,
        summary.delete,
        summary.drift,
        plural(summary.drift),
        summary.writes,
        plural(summary.writes),
    )
}

fn sign(action: &str) -> (char, Ink) {
    match action {
        "create" => ('+', Ink::Green),
        "delete" => ('-', Ink::Red),
        _ => ('~', Ink::Yellow),
    }
}

fn entries(entries: &[EntryDocument], more: usize, drift: bool, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let table_of = |entry: &EntryDocument| match &entry.side {
        Some(side) if side == "standby" => format!("{} (standby)", entry.table),
        _ => entry.table.clone(),
    };
    let width = |text: &dyn Fn(&EntryDocument) -> String| {
        entries.iter().map(|entry| text(entry).chars().count()).max().unwrap_or(0)
    };
    let (tables, keys) = (width(&table_of), width(&|entry| entry.key.clone()));
    for entry in entries {
        let (sign, ink) = if drift { ('!', Ink::Magenta) } else { sign(&entry.action) };
        let value = match (&entry.from, &entry.to) {
            (Some(from), Some(to)) => format!("{from} -> {to}"),
            (None, Some(to)) if drift => format!("added: {to}"),
            (Some(from), None) if drift => format!("gone: {from}"),
            (None, Some(value)) | (Some(value), None) => value.clone(),
            (None, None) => String::new(),
        };
        let place = match (&entry.file, entry.line) {
            (Some(file), Some(line)) => format!("  {}", paint.paint(Ink::Dim, &format!("{file}:{line}"))),
            _ => String::new(),
        };
        let line = format!("    {sign} {:tables$}  {:keys$}  {value}", table_of(entry), entry.key);
        writeln!(out, "{}{place}", paint.paint(ink, line.trim_end()))?;
    }
    if more > 0 {
        writeln!(out, "    {}", paint.paint(Ink::Dim, &format!("… {more} more")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> PlanDocument {
        serde_json::from_value(serde_json::json!({
            "formatVersion": "1",
            "node": "n1",
            "source": {"kind": "dir", "revision": "0123"},
            "drift": [
                {"table": "endpoints", "action": "delete", "key": "10.0.0.1", "from": "endpoint 1 identity 256", "to": null, "side": "active"},
                {"table": "hooks", "action": "update", "key": "eth0 xdp_ingress", "from": "xdp", "to": "stale", "side": "standby"},
            ],
            "changes": [
                {"object": {"apiVersion": "weir/v1alpha1", "kind": "CidrFilter", "namespace": "default", "name": "drop"},
                 "action": "create", "file": "a.yaml", "line": 3, "more": 90,
                 "entries": [{"table": "prefilter4", "action": "create", "key": "192.0.2.0/24", "from": null, "to": "1", "file": "a.yaml", "line": 9}]},
                {"object": {"apiVersion": "weir/v1alpha1", "kind": "Node", "namespace": "", "name": "n1"},
                 "action": "update", "file": "", "line": 0, "entries": []},
            ],
            "kept": [{"object": {"apiVersion": "weir/v1alpha1", "kind": "Endpoint", "namespace": "default", "name": "db"},
                      "note": "kept: for a reason"}],
            "summary": {"create": 1, "update": 0, "delete": 0, "drift": 2, "writes": 92},
            "digest": "00",
        }))
        .unwrap()
    }

    #[test]
    fn reads_like_a_plan() {
        let mut out = Vec::new();
        write(&document(), Paint::plain(), &mut out).unwrap();
        let expected = "\
! drift: the kernel holds something else than was applied
    ! endpoints        10.0.0.1          gone: endpoint 1 identity 256
    ! hooks (standby)  eth0 xdp_ingress  xdp -> stale
+ CidrFilter default/drop  a.yaml:3
    + prefilter4  192.0.2.0/24  1  a.yaml:9
    … 90 more
~ Node n1
= Endpoint default/db  kept: for a reason
1 to create, 0 to update, 0 to delete; 2 drifted entries, 92 entries to write
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
