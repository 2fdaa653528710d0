//! What each table will hold, against what it may: refused before anything is written.
use std::collections::BTreeMap;

use weir_plan::{AnyChange, Change, ObjectRef, Provenance, Tables};

use crate::{
    config::Limits,
    entries::PolicyTables,
    error::{CompileError, code},
    objects::{ObjectId, Objects},
    provenance::Origins,
};

/// How full a table will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub table: &'static str,
    pub used: usize,
    pub limit: usize,
}

/// Objects that a message names, and identities that have a message each.
const NAMED: usize = 5;

/// Most combinations of filters that an address can be under: 64 bytes each, twice.
const PREFILTER_CLASSES: usize = 65_536;

pub(crate) fn check(
    limits: &Limits,
    tables: &Tables,
    policy: &PolicyTables,
    prefilter_counts: &BTreeMap<ObjectId, usize>,
    origins: &Origins,
    objects: &Objects<'_>,
) -> Result<Vec<Usage>, Vec<CompileError>> {
    let mut errors = Vec::new();
    let usage = vec![
        Usage { table: "ipcache", used: tables.ipcache4.len() + tables.ipcache6.len(), limit: limits.ipcache as usize },
        Usage { table: "endpoints", used: tables.endpoints.len(), limit: limits.endpoints as usize },
        Usage { table: "policy", used: tables.policy.len(), limit: limits.policy_total as usize },
        Usage {
            table: "prefilter",
            used: tables.prefilter4.len() + tables.prefilter6.len(),
            limit: limits.prefilter as usize,
        },
        Usage { table: "prefilter_classes", used: tables.classes.len(), limit: PREFILTER_CLASSES },
    ];
    for one in usage.iter().filter(|one| one.used > one.limit) {
        let (field, counts) = match one.table {
            "ipcache" => (Some("ipcache"), ipcache_counts(origins)),
            "endpoints" => (Some("endpoints"), count(origins.endpoints.values().copied())),
            "policy" => (Some("policyTotal"), policy_counts(tables, origins, None)),
            "prefilter" => (Some("prefilter"), prefilter_counts.clone()),
            _ => (None, count(origins.classes.iter().map(|(_, object)| *object))),
        };
        errors.push(full(&format!("table {}", one.table), field, one.used, one.limit, &counts, objects));
    }
    let per_identity = limits.policy_per_identity as usize;
    let over = crate::entries::entries_by_subject(policy).into_iter().filter(|(_, used)| *used > per_identity);
    for (subject, used) in over.take(NAMED) {
        let counts = policy_counts(tables, origins, Some(subject));
        let what = format!("table policy, entries of identity {subject}");
        errors.push(full(&what, Some("policyPerIdentity"), used, per_identity, &counts, objects));
    }
    if errors.is_empty() { Ok(usage) } else { Err(errors) }
}

fn count(objects: impl Iterator<Item = ObjectId>) -> BTreeMap<ObjectId, usize> {
    let mut counts = BTreeMap::new();
    objects.for_each(|object| *counts.entry(object).or_default() += 1);
    counts
}

fn ipcache_counts(origins: &Origins) -> BTreeMap<ObjectId, usize> {
    count(origins.ipcache4.iter().map(|(_, object)| *object).chain(origins.ipcache6.iter().map(|(_, object)| *object)))
}

fn policy_counts(tables: &Tables, origins: &Origins, subject: Option<u32>) -> BTreeMap<ObjectId, usize> {
    let entries = tables.policy.iter().filter(|(key, _)| subject.is_none_or(|subject| subject == key.subject));
    count(entries.filter_map(|(key, entry)| {
        let change = Change { key: *key, from: None, to: Some(*entry) };
        origins.owner(&AnyChange::Policy(&change)).map(|index| ObjectId(index as u32))
    }))
}

fn full(
    what: &str,
    field: Option<&str>,
    used: usize,
    limit: usize,
    counts: &BTreeMap<ObjectId, usize>,
    objects: &Objects<'_>,
) -> CompileError {
    let mut sorted: Vec<(usize, &ObjectRef, ObjectId)> =
        counts.iter().map(|(object, count)| (*count, objects.reference(*object), *object)).collect();
    sorted.sort_by(|a, b| b.0.cmp(&a.0).then(a.2.cmp(&b.2)));
    let mut by: Vec<String> =
        sorted.iter().take(NAMED).map(|(count, object, _)| format!("{object} ({count})")).collect();
    if sorted.len() > NAMED {
        by.push(format!("{} more objects", sorted.len() - NAMED));
    }
    let filled = if by.is_empty() { String::new() } else { format!("; filled by {}", by.join(", ")) };
    CompileError {
        code: code::TABLE_FULL,
        object: sorted.first().map(|(_, object, _)| (*object).clone()),
        path: None,
        message: format!("{what}: {used} entries, {limit} is the limit{filled}"),
        help: Some(match field {
            Some(field) => format!("raise `spec.limits.{field}` of the node's NodeConfig, or take entries away"),
            None => "let filters have fewer lists that overlap in different ways".to_owned(),
        }),
    }
}
