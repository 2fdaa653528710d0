//! What an engine says of itself: the same for the agent and for a verb that works alone.
use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc};

use serde_json::{Value, json};
use weir_abi::{Counter, Direction};
use weir_plan::{ObjectRef, Observed, Operation, Plan, Store};
use weir_schema::Object;

use crate::{
    Allow, Applied, ApplyDocument, AttachmentDocument, CommitDocument, Engine, Error, FORMAT_VERSION, FlowSource as _,
    GenerationDocument, HistoryDocument, Inspect, KeptDocument, ListDocument, Look, Manifests, PendingDocument, Places,
    PlanDocument, PlanView, Planned, Resource, Snapshot, StatusDocument, SuspendDocument, SuspensionDocument,
    TableDocument, WrittenDocument,
};

/// Entries of one object in an answer that is meant for people.
pub const SHOWN: usize = 10;

impl Planned {
    /// The documented JSON, whole.
    pub fn write_json(&self, out: impl io::Write) -> io::Result<()> {
        let source = self.desired.manifests.plan_source();
        let Self { desired, plan, .. } = self;
        let kept = desired.kept();
        let flows = self.flows.as_deref();
        let view =
            PlanView { node: &desired.node, source: &source, plan, limit: None, kept: &kept, places: None, flows };
        serde_json::to_writer(out, &view).map_err(io::Error::from)
    }

    /// With few of each object's entries, and where their rules stand.
    pub fn document(&self, limit: usize) -> PlanDocument {
        let document = document(&self.plan, &self.desired, self.applied.as_deref(), limit);
        PlanDocument { flows: self.flows.clone(), ..document }
    }

    /// From now on, the views say which flows would change their verdict.
    pub fn show_flows(&mut self) -> Result<(), Error> {
        self.flows = Some(self.desired.flow_changes(self.applied.as_deref())?);
        Ok(())
    }
}

impl Applied {
    /// What was done, with few of each object's entries.
    pub fn document(&self) -> ApplyDocument {
        ApplyDocument::new(document(&self.plan, &self.desired, self.before.as_deref(), SHOWN), self)
    }
}

fn document(plan: &Plan, desired: &Snapshot, applied: Option<&Snapshot>, limit: usize) -> PlanDocument {
    let source = desired.manifests.plan_source();
    let places = Some(Places { desired, applied });
    let kept = desired.kept();
    let (node, limit) = (&desired.node, Some(limit));
    PlanView { node, source: &source, plan, limit, kept: &kept, places, flows: None }.document()
}

impl<D: Inspect, S: Store> Engine<D, S> {
    /// Plans and applies.
    pub fn bring_live(&mut self, manifests: &Manifests, look: Look, allow: Allow) -> Result<Applied, Error> {
        let before = self.written();
        let planned = self.plan_to_apply(manifests, look, allow)?;
        let plan = &planned.plan;
        let healing = plan.changes.is_empty() && plan.summary.drift > 0;
        let operation = if healing { Operation::Heal } else { Operation::Apply };
        self.reset_reused(&planned)?;
        let applied = self.apply(planned, allow, operation)?;
        Ok(Applied { written: self.written().since(before), ..applied })
    }

    /// What this process wrote to the kernel so far.
    pub fn written(&mut self) -> WrittenDocument {
        self.datapath().written()
    }

    pub fn go_back(&mut self, sequence: Option<u64>, look: Look, allow: Allow) -> Result<Applied, Error> {
        let before = self.written();
        let target = self.rollback_target(sequence)?;
        let planned = self.plan_rollback(&target, look)?;
        self.reset_reused(&planned)?;
        let applied = self.rollback(&target, planned, allow)?;
        Ok(Applied { written: self.written().since(before), ..applied })
    }

    /// Counters of numbers that stood for another rule once. Neither side speaks of that one any more.
    fn reset_reused(&mut self, planned: &Planned) -> Result<(), Error> {
        let Some(applied) = planned.applied.as_ref().filter(|_| !planned.is_settled()) else { return Ok(()) };
        let new = planned.desired.compiled.provenance.rules_since(&applied.compiled.provenance);
        Ok(self.datapath().reset_rules(&new)?)
    }

    pub fn history_document(&self, limit: usize) -> Result<HistoryDocument, Error> {
        let commits = self.store().history(limit)?;
        Ok(HistoryDocument {
            format_version: FORMAT_VERSION.to_owned(),
            commits: commits.iter().map(CommitDocument::from).collect(),
        })
    }

    pub fn suspend_document(&self) -> Result<SuspendDocument, Error> {
        let suspended = self.suspension()?.as_ref().map(SuspensionDocument::from);
        Ok(SuspendDocument { format_version: FORMAT_VERSION.to_owned(), suspended })
    }

    /// What the kernel and the store tell, whoever asks.
    pub fn status(&mut self) -> Result<StatusDocument, Error> {
        let applied = self.applied()?;
        let live = self.live(Look::Known)?;
        let suspended = self.suspension()?.as_ref().map(SuspensionDocument::from);
        let pending: Vec<PendingDocument> =
            applied.iter().flat_map(|applied| &applied.compiled.pending).map(PendingDocument::from).collect();
        let state = match (&live, &suspended, pending.is_empty()) {
            (None, ..) => "idle",
            (_, Some(_), _) => "suspended",
            (_, _, false) => "pending",
            _ => "converged",
        };
        let tables = live.iter().flat_map(|live| table_documents(live, applied.as_deref())).collect();
        let attachments = match live {
            Some(_) => self.datapath().attachments()?,
            None => Vec::new(),
        };
        Ok(StatusDocument {
            format_version: FORMAT_VERSION.to_owned(),
            node: self.node().to_string(),
            state: state.to_owned(),
            conditions: Vec::new(),
            agent: None,
            commit: self.head()?.as_ref().map(CommitDocument::from),
            generation: live
                .map(|live| GenerationDocument { side: live.generation.side.index(), epoch: live.generation.epoch }),
            suspended,
            pending,
            kept: applied.iter().flat_map(|applied| applied.kept()).map(|object| KeptDocument::from(&object)).collect(),
            drift: 0,
            tables,
            attachments: attachments
                .into_iter()
                .map(|a| AttachmentDocument { interface: a.interface, program: a.program, mode: a.mode, note: a.note })
                .collect(),
            notes: ["lo is outside policy".to_owned()].into_iter().chain(self.store().mishap()).collect(),
        })
    }

    pub fn list(&mut self, resource: Resource, name: Option<&str>) -> Result<ListDocument, Error> {
        if resource.counts_flows() {
            return self.flow_view()?.services(resource, name);
        }
        let applied = self.applied()?;
        let items = match (resource, &applied) {
            (Resource::Metrics, _) => self.metric_items()?,
            (Resource::Tables, _) => self.table_items()?,
            (_, None) | (Resource::Services | Resource::Backends, _) => Vec::new(),
            (Resource::Endpoints, Some(applied)) => endpoint_items(applied),
            (Resource::Identities, Some(applied)) => identity_items(applied),
            (Resource::Rules, Some(applied)) => self.rule_items(applied)?,
            (Resource::Policies, Some(applied)) => {
                self.object_items(applied, |kind| kind.ends_with("NetworkPolicy"))?
            }
            (Resource::Filters, Some(applied)) => self.object_items(applied, |kind| kind == "CidrFilter")?,
        };
        Ok(ListDocument::new(self.node(), resource, items, name))
    }

    fn counters(&mut self) -> Result<BTreeMap<u32, Counter>, Error> {
        match self.live(Look::Known)? {
            Some(_) => Ok(self.datapath().rule_counters()?.into_iter().collect()),
            None => Ok(BTreeMap::new()),
        }
    }

    fn rule_items(&mut self, applied: &Snapshot) -> Result<Vec<Value>, Error> {
        let counters = self.counters()?;
        let item = |(number, rule): (u32, &weir_plan::RuleRef)| {
            let counter = counters.get(&number).copied().unwrap_or_default();
            let place = applied.place_of_rule(rule, None);
            json!({
                "rule": number,
                "kind": rule.object.kind,
                "namespace": rule.object.namespace,
                "name": rule.object.name,
                "path": rule.path,
                "file": place.as_ref().map(|place| &place.file),
                "line": place.as_ref().map(|place| place.line),
                "packets": counter.packets,
                "bytes": counter.bytes,
            })
        };
        Ok(applied.rules().map(item).collect())
    }

    /// Objects with the sums of their rules.
    fn object_items(&mut self, applied: &Snapshot, wanted: impl Fn(&str) -> bool) -> Result<Vec<Value>, Error> {
        let counters = self.counters()?;
        let mut sums: BTreeMap<&ObjectRef, (usize, Counter)> = BTreeMap::new();
        for (number, rule) in applied.rules() {
            let (rules, sum) = sums.entry(&rule.object).or_default();
            let counter = counters.get(&number).copied().unwrap_or_default();
            *rules += 1;
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
        }
        let mut objects: Vec<(ObjectRef, Arc<Object>)> = applied
            .inventory
            .objects()
            .filter(|object| wanted(&object.key.kind))
            .map(|object| (weir_compile::reference(&object), object))
            .collect();
        objects.sort_by(|a, b| a.0.cmp(&b.0));
        let item = |(reference, object): &(ObjectRef, Arc<Object>)| {
            let (rules, sum) = sums.get(reference).copied().unwrap_or_default();
            json!({
                "apiVersion": reference.api_version,
                "kind": reference.kind,
                "namespace": reference.namespace,
                "name": reference.name,
                "file": object.origin.path,
                "line": object.origin.line,
                "rules": rules,
                "packets": sum.packets,
                "bytes": sum.bytes,
            })
        };
        Ok(objects.iter().map(item).collect())
    }

    fn metric_items(&mut self) -> Result<Vec<Value>, Error> {
        if self.live(Look::Known)?.is_none() {
            return Ok(Vec::new());
        }
        let metrics = self.datapath().metrics()?;
        let item = |(reason, direction, counter): (weir_abi::Reason, Direction, Counter)| {
            json!({
                "name": reason.name(),
                "direction": direction.name(),
                "drop": reason.is_drop(),
                "packets": counter.packets,
                "bytes": counter.bytes,
            })
        };
        let lost = json!({
            "name": "lost_events", "direction": "", "drop": false, "packets": metrics.lost_events, "bytes": 0,
        });
        Ok(metrics.reasons.into_iter().map(item).chain([lost]).collect())
    }

    /// First what manifests say, family by family; then the kernel's tables, side by side.
    fn table_items(&mut self) -> Result<Vec<Value>, Error> {
        let status = self.status()?;
        let tables = &status.tables;
        let whole = |name: &str, side: Held| {
            // Both families are in one table of the kernel, and under one limit.
            let parts = tables.iter().filter(|table| table.table.trim_end_matches(['4', '6']) == name);
            parts.map(side).reduce(|a, b| a + b)
        };
        let (active, standby): (Held, Held) = (|table| table.active, |table| table.standby);
        let entries = tables.iter().map(|table| {
            let used = whole(table.table.trim_end_matches(['4', '6']), active);
            json!({
                "name": table.table, "active": table.active, "standby": table.standby, "limit": table.limit,
                "percent": percent(used.map(|used| used as u64), table.limit.map(|limit| limit as u64)),
            })
        });
        let mut items: Vec<Value> = entries.collect();
        let Some(generation) = status.generation else { return Ok(items) };
        let flows = match self.datapath().flows()? {
            Some(flows) => flows.count()?,
            None => Vec::new(),
        };
        for size in self.datapath().sizes()? {
            let name = size.table.to_lowercase();
            let is_active = size.side.map(|side| side == generation.side);
            let counted = flows.iter().find(|count| count.table == size.table);
            let held = is_active.and_then(|is_active| whole(&name, if is_active { active } else { standby }));
            let entries = counted.map(|count| count.entries).or(held.map(|held| held as u64));
            let limit = tables.iter().find(|table| table.table.trim_end_matches(['4', '6']) == name);
            let limit = limit.and_then(|table| table.limit).map(|limit| limit as u64);
            let limit = limit.or(counted.map(|_| size.max_entries));
            items.push(json!({
                "name": size.table,
                "side": size.side,
                "state": is_active.map(|is_active| if is_active { "active" } else { "standby" }),
                "entries": entries,
                "estimated": counted.is_some_and(|count| count.estimated),
                "limit": limit,
                "percent": percent(entries, limit),
                "maxEntries": size.max_entries,
                "bytes": size.bytes,
            }));
        }
        Ok(items)
    }
}

/// Entries on one side.
type Held = fn(&TableDocument) -> usize;

/// With one digit after the point.
fn percent(used: Option<u64>, limit: Option<u64>) -> Option<f64> {
    let (used, limit) = (used?, limit.filter(|limit| *limit > 0)?);
    Some((used as f64 * 1000.0 / limit as f64).round() / 10.0)
}

/// How full the tables that manifests fill are.
pub(crate) fn table_documents(live: &Observed, applied: Option<&Snapshot>) -> Vec<TableDocument> {
    let limits: BTreeMap<&str, usize> =
        applied.iter().flat_map(|applied| &applied.compiled.usage).map(|usage| (usage.table, usage.limit)).collect();
    let sides = live.active().lengths().into_iter().zip(live.standby().lengths());
    let document = |((table, active), (_, standby)): ((&str, usize), (_, usize))| {
        let limit = limits.get(table.trim_end_matches(['4', '6'])).copied();
        TableDocument { table: table.to_owned(), active, standby, limit }
    };
    sides.map(document).collect()
}

impl ListDocument {
    /// Of `items`, those that have this name.
    pub(crate) fn new(node: &str, resource: Resource, items: Vec<Value>, name: Option<&str>) -> Self {
        let is_named = |item: &Value| name.is_none_or(|name| NAMES.iter().any(|field| text(&item[field]) == name));
        Self {
            format_version: FORMAT_VERSION.to_owned(),
            node: node.to_owned(),
            resource: resource.name().to_owned(),
            items: items.into_iter().filter(is_named).collect(),
            skipped: Vec::new(),
        }
    }
}

/// The fields that `get WHAT NAME` compares; `service` is of a backend.
const NAMES: [&str; 4] = ["name", "identity", "rule", "service"];

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn endpoint_items(applied: &Snapshot) -> Vec<Value> {
    let pending = |object: &ObjectRef| applied.compiled.pending.iter().find(|pending| pending.object == *object);
    let item = |endpoint: &weir_compile::EndpointView| {
        let state = match (pending(&endpoint.object), endpoint.local) {
            (Some(pending), _) => pending.code,
            (None, true) => "ready",
            (None, false) => "remote",
        };
        json!({
            "namespace": endpoint.object.namespace,
            "name": endpoint.object.name,
            "node": endpoint.node,
            "number": endpoint.number,
            "identity": endpoint.identity,
            "addresses": endpoint.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            "interface": endpoint.interface.as_ref().map(ToString::to_string),
            "host": endpoint.host,
            "state": state,
        })
    };
    applied.compiled.endpoints().iter().map(item).collect()
}

fn identity_items(applied: &Snapshot) -> Vec<Value> {
    let identities = applied.compiled.identities.iter();
    identities.map(|(number, labels)| json!({ "identity": number, "labels": **labels })).collect()
}
