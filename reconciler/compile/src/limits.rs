//! What each table will hold, against what it may: refused before anything is written.
use std::{collections::BTreeMap, net::IpAddr};

use weir_abi::EndpointInfo;
use weir_plan::{ObjectRef, Tables};

use crate::{
    cidr_filter::PrefilterTables,
    config::Limits,
    entries::PolicyTables,
    error::{CompileError, code},
    ipcache::Ipcache,
    objects::{ObjectId, Objects},
    provenance::Origins,
    rules::Rules,
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

/// How full the tables will be.
pub(crate) fn usage(limits: &Limits, tables: &Tables) -> Vec<Usage> {
    vec![
        Usage { table: "ipcache", used: tables.ipcache4.len() + tables.ipcache6.len(), limit: limits.ipcache as usize },
        Usage { table: "endpoints", used: tables.endpoints.len(), limit: limits.endpoints as usize },
        Usage { table: "policy", used: tables.policy.len(), limit: limits.policy_total as usize },
        Usage {
            table: "prefilter",
            used: tables.prefilter4.len() + tables.prefilter6.len(),
            limit: limits.prefilter as usize,
        },
        Usage { table: "frontends", used: tables.frontends.len(), limit: limits.frontends as usize },
        Usage { table: "services", used: tables.services.len(), limit: limits.services as usize },
        Usage { table: "backends", used: tables.backends.len(), limit: limits.backends as usize },
        Usage { table: "prefilter_classes", used: tables.classes.len(), limit: PREFILTER_CLASSES },
    ]
}

/// What tells who fills which table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled<'f> {
    pub policy: &'f PolicyTables,
    pub prefilter: &'f PrefilterTables,
    pub ipcache: &'f Ipcache,
    pub endpoints: &'f BTreeMap<IpAddr, (EndpointInfo, Option<ObjectId>)>,
    pub rules: &'f Rules,
    /// Whose each service is.
    pub services: &'f Origins,
}

pub(crate) fn check(
    limits: &Limits,
    tables: &Tables,
    filled: &Filled<'_>,
    objects: &Objects<'_>,
) -> Result<Vec<Usage>, Vec<CompileError>> {
    let Filled { policy, prefilter, ipcache, endpoints, rules, services } = *filled;
    let mut errors = Vec::new();
    let usage = usage(limits, tables);
    for one in usage.iter().filter(|one| one.used > one.limit) {
        let (field, counts) = match one.table {
            "ipcache" => (Some("ipcache"), ipcache_counts(ipcache)),
            "endpoints" => (Some("endpoints"), count(endpoints.values().filter_map(|(_, owner)| *owner))),
            "policy" => (Some("policyTotal"), policy_counts(tables, &rules.owners(), None)),
            "prefilter" => (Some("prefilter"), prefilter.counts.clone()),
            "frontends" => (Some("frontends"), count(frontend_owners(tables, services, objects))),
            "services" => {
                (Some("services"), count(owners(tables.services.iter().map(|(number, _)| *number), services, objects)))
            }
            "backends" => (
                Some("backends"),
                count(owners(tables.backends.iter().map(|(_, info)| info.service), services, objects)),
            ),
            _ => (None, count(prefilter.owners.iter().map(|(_, object)| *object))),
        };
        errors.push(full(&format!("table {}", one.table), field, one.used, one.limit, &counts, objects));
    }
    let per_identity = limits.policy_per_identity as usize;
    let over = crate::entries::entries_by_subject(policy).into_iter().filter(|(_, used)| *used > per_identity);
    for (subject, used) in over.take(NAMED) {
        let counts = policy_counts(tables, &rules.owners(), Some(subject));
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

fn owners(
    numbers: impl Iterator<Item = u32>,
    origins: &Origins,
    objects: &Objects<'_>,
) -> impl Iterator<Item = ObjectId> {
    numbers.filter_map(|number| objects.id(&origins.services.get(&number)?.0.reference))
}

fn frontend_owners(tables: &Tables, origins: &Origins, objects: &Objects<'_>) -> impl Iterator<Item = ObjectId> {
    tables.frontends.iter().filter_map(|(key, info)| objects.id(&origins.frontend(key, Some(info))?.0.reference))
}

fn ipcache_counts(ipcache: &Ipcache) -> BTreeMap<ObjectId, usize> {
    count(ipcache.owners4.iter().chain(&ipcache.owners6).copied().flatten())
}

fn policy_counts(tables: &Tables, owners: &BTreeMap<u32, ObjectId>, subject: Option<u32>) -> BTreeMap<ObjectId, usize> {
    let entries = tables.policy.iter().filter(|(key, _)| subject.is_none_or(|subject| subject == key.subject));
    count(entries.filter_map(|(_, entry)| owners.get(&entry.rule).copied()))
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
