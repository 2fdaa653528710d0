//! A plan as JSON and as people see it.
use std::sync::Arc;

use serde::{Deserialize, Serialize, ser::SerializeSeq};
use weir_plan::{AnyChange, Delta, ObjectChange, ObjectRef, Plan, Summary};

use crate::{FlowChangeDocument, Place, Snapshot};

pub const FORMAT_VERSION: &str = "1";

/// What a plan is about: the node, and the revision that it would bring there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSource {
    /// `dir`, `git`, `etcd`, `stdin`; `history` for a rollback.
    pub kind: Arc<str>,
    pub revision: Arc<str>,
    /// `Name <address>`, where the source knows who wrote the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Arc<str>>,
}

/// The documented JSON of `diff` and `plan`, written straight from the plan: half a million entries cost no memory.
#[derive(Clone, Copy, Debug)]
pub struct PlanView<'a> {
    pub node: &'a str,
    pub source: &'a PlanSource,
    pub plan: &'a Plan,
    /// At most so many entries of one object, and of the drift; how many were left out is then said as `more`.
    pub limit: Option<usize>,
    /// What is no longer in the source, and stays.
    pub kept: &'a [ObjectRef],
    /// Where an entry's rule stands: for people, who see few entries.
    pub places: Option<Places<'a>>,
    /// Flows that change their verdict, if that was asked for.
    pub flows: Option<&'a [FlowChangeDocument]>,
}

/// The two sides that an entry may come from.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    pub desired: &'a Snapshot,
    pub applied: Option<&'a Snapshot>,
}

impl Places<'_> {
    fn of(&self, change: &AnyChange<'_>) -> Option<Place> {
        match change.action() {
            weir_plan::Action::Delete => self.applied?.place_of_entry(change),
            _ => self.desired.place_of_entry(change),
        }
    }
}

/// [`PlanView`] on the other end of a socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanDocument {
    pub format_version: String,
    pub node: String,
    pub source: PlanSource,
    pub drift: Vec<EntryDocument>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
    pub changes: Vec<ChangeDocument>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptDocument>,
    /// Flows that change their verdict, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<Vec<FlowChangeDocument>>,
    pub summary: SummaryDocument,
    pub digest: String,
}

/// An object that is no longer in the source, and stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDocument {
    pub object: ObjectDocument,
    pub note: String,
}

impl From<&ObjectRef> for KeptDocument {
    fn from(object: &ObjectRef) -> Self {
        let note = "kept: weir/prune is \"false\", and it is no longer in the source".to_owned();
        Self { object: object.into(), note }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeDocument {
    pub object: ObjectDocument,
    pub action: String,
    pub file: String,
    pub line: usize,
    pub entries: Vec<EntryDocument>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDocument {
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl std::fmt::Display for ObjectDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl ObjectDocument {
    /// `endpoint/default/web`
    pub fn name(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.namespace.is_empty() {
            return format!("{kind}/{}", self.name);
        }
        format!("{kind}/{}/{}", self.namespace, self.name)
    }
}

impl From<&weir_plan::ObjectRef> for ObjectDocument {
    fn from(object: &weir_plan::ObjectRef) -> Self {
        Self {
            api_version: object.api_version.clone(),
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryDocument {
    pub table: String,
    pub action: String,
    pub key: String,
    pub from: Option<String>,
    pub to: Option<String>,
    /// Drift only: `active` or `standby`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<String>,
    /// Where the rule behind it stands, in views for people only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryDocument {
    pub create: u32,
    pub update: u32,
    pub delete: u32,
    pub drift: u64,
    pub writes: u64,
}

impl From<Summary> for SummaryDocument {
    fn from(summary: Summary) -> Self {
        let Summary { create, update, delete, drift, writes } = summary;
        Self { create, update, delete, drift, writes }
    }
}

impl SummaryDocument {
    /// Neither change nor drift: what `diff` exits 0 for.
    pub fn is_empty(&self) -> bool {
        self.create == 0 && self.update == 0 && self.delete == 0 && self.drift == 0 && self.writes == 0
    }
}

fn is_zero(more: &usize) -> bool {
    *more == 0
}

impl Serialize for PlanView<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            format_version: &'static str,
            node: &'a str,
            source: &'a PlanSource,
            drift: Drift<'a>,
            #[serde(skip_serializing_if = "is_zero")]
            more: usize,
            changes: Changes<'a>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            kept: Vec<KeptDocument>,
            #[serde(skip_serializing_if = "Option::is_none")]
            flows: Option<&'a [FlowChangeDocument]>,
            summary: SummaryDocument,
            digest: String,
        }
        let drift = self.plan.drift.len() + self.plan.standby_drift.len();
        Document {
            format_version: FORMAT_VERSION,
            node: self.node,
            source: self.source,
            drift: Drift(self),
            more: self.left_out(drift),
            changes: Changes(self),
            kept: self.kept.iter().map(KeptDocument::from).collect(),
            flows: self.flows,
            summary: self.plan.summary.into(),
            digest: hexadecimal(&self.plan.digest),
        }
        .serialize(to)
    }
}

impl PlanView<'_> {
    /// The view as a value.
    pub fn document(&self) -> PlanDocument {
        let changes = self.plan.changes.iter().map(|change| ChangeDocument {
            object: object(change, self.node),
            action: action(change.action).to_owned(),
            file: change.file.to_string(),
            line: change.line,
            entries: change
                .entries
                .changes()
                .take(self.limit())
                .map(|change| {
                    let place = self.places.as_ref().and_then(|places| places.of(&change));
                    entry(change, None, place)
                })
                .collect(),
            more: self.left_out(change.entries.len()),
        });
        let Plan { drift, standby_drift, .. } = self.plan;
        let active = drift.changes().map(|change| entry(change, Some("active"), None));
        let standby = standby_drift.changes().map(|change| entry(change, Some("standby"), None));
        PlanDocument {
            format_version: FORMAT_VERSION.to_owned(),
            node: self.node.to_owned(),
            source: self.source.clone(),
            drift: active.chain(standby).take(self.limit()).collect(),
            more: self.left_out(drift.len() + standby_drift.len()),
            changes: changes.collect(),
            kept: self.kept.iter().map(KeptDocument::from).collect(),
            flows: self.flows.map(<[_]>::to_vec),
            summary: self.plan.summary.into(),
            digest: hexadecimal(&self.plan.digest),
        }
    }

    fn left_out(&self, count: usize) -> usize {
        self.limit.map_or(0, |limit| count.saturating_sub(limit))
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX)
    }
}

struct Drift<'a>(&'a PlanView<'a>);

impl Serialize for Drift<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Plan { drift, standby_drift, .. } = self.0.plan;
        let active = drift.changes().map(|change| entry(change, Some("active"), None));
        let standby = standby_drift.changes().map(|change| entry(change, Some("standby"), None));
        to.collect_seq(active.chain(standby).take(self.0.limit()))
    }
}

struct Changes<'a>(&'a PlanView<'a>);

impl Serialize for Changes<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Change<'a> {
            object: ObjectDocument,
            action: weir_plan::Action,
            file: &'a str,
            line: usize,
            entries: Entries<'a>,
            #[serde(skip_serializing_if = "is_zero")]
            more: usize,
        }
        let mut list = to.serialize_seq(Some(self.0.plan.changes.len()))?;
        for change in &self.0.plan.changes {
            list.serialize_element(&Change {
                object: object(change, self.0.node),
                action: change.action,
                file: &change.file,
                line: change.line,
                entries: Entries { entries: &change.entries, limit: self.0.limit(), places: self.0.places },
                more: self.0.left_out(change.entries.len()),
            })?;
        }
        list.end()
    }
}

struct Entries<'a> {
    entries: &'a Delta,
    limit: usize,
    places: Option<Places<'a>>,
}

impl Serialize for Entries<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let place = |change: &AnyChange<'_>| self.places.as_ref().and_then(|places| places.of(change));
        to.collect_seq(self.entries.changes().take(self.limit).map(|change| entry(change, None, place(&change))))
    }
}

/// What belongs to the node as a whole is shown under the node's own name.
fn object(change: &ObjectChange, node: &str) -> ObjectDocument {
    change.object.as_ref().map_or_else(
        || ObjectDocument {
            api_version: "weir/v1alpha1".into(),
            kind: "Node".into(),
            namespace: "".into(),
            name: node.into(),
        },
        ObjectDocument::from,
    )
}

fn entry(change: AnyChange<'_>, side: Option<&str>, place: Option<Place>) -> EntryDocument {
    let (key, from, to) = change.show();
    EntryDocument {
        table: change.table().to_owned(),
        action: action(change.action()).to_owned(),
        key,
        from,
        to,
        side: side.map(str::to_owned),
        line: place.as_ref().map(|place| place.line),
        file: place.map(|place| place.file.to_string()),
    }
}

const fn action(action: weir_plan::Action) -> &'static str {
    match action {
        weir_plan::Action::Create => "create",
        weir_plan::Action::Update => "update",
        weir_plan::Action::Delete => "delete",
    }
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use weir_plan::{Action, Change, ObjectRef, Prefix4};

    use super::*;

    fn plan() -> Plan {
        let mut entries = Delta::default();
        for octet in 0..12u8 {
            let key = Prefix4 { bits: u32::from_be_bytes([192, 0, octet, 0]), length: 24 };
            entries.push(AnyChange::Prefilter4(&Change { key, from: None, to: Some(1) }));
        }
        let object = ObjectRef {
            api_version: "weir/v1alpha1".into(),
            kind: "CidrFilter".into(),
            namespace: "default".into(),
            name: "drop".into(),
        };
        let change =
            |object, action| ObjectChange { object, action, file: "a.yaml".into(), line: 3, entries: entries.clone() };
        Plan {
            drift: entries.clone(),
            changes: vec![change(None, Action::Update), change(Some(object), Action::Create)],
            summary: Summary { create: 1, drift: 12, writes: 24, ..Summary::default() },
            ..Plan::default()
        }
    }

    fn text(limit: Option<usize>) -> String {
        let source = PlanSource { kind: "dir".into(), revision: "0123".into(), author: None, subject: None };
        serde_json::to_string(&PlanView {
            node: "n1",
            source: &source,
            plan: &plan(),
            limit,
            kept: &[],
            places: None,
            flows: None,
        })
        .unwrap()
    }

    #[test]
    fn the_document_is_what_the_view_writes() {
        for limit in [None, Some(10)] {
            let text = text(limit);
            let document: PlanDocument = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&document).unwrap(), text);
            assert_eq!(document.changes[1].entries.len() + document.changes[1].more, 12);
            assert_eq!(document.drift.len() + document.more, 12);
            let source = PlanSource { kind: "dir".into(), revision: "0123".into(), author: None, subject: None };
            let view =
                PlanView { node: "n1", source: &source, plan: &plan(), limit, kept: &[], places: None, flows: None };
            assert_eq!(view.document(), document);
        }
    }

    #[test]
    fn fields_stand_in_the_documented_order() {
        let text = text(None);
        assert!(text.starts_with(
            r#"{"formatVersion":"1","node":"n1","source":{"kind":"dir","revision":"0123"},"drift":[{"table":"prefilter4","action":"create","key":"192.0.0.0/24","from":null,"to":"1","side":"active"},"#
        ));
        assert!(text.contains(
            r#"{"object":{"apiVersion":"weir/v1alpha1","kind":"CidrFilter","namespace":"default","name":"drop"},"action":"create","file":"a.yaml","line":3,"entries":[{"table":"prefilter4","action":"create","key":"192.0.0.0/24","from":null,"to":"1"},"#
        ));
        assert!(text.contains(r#""summary":{"create":1,"update":0,"delete":0,"drift":12,"writes":24},"digest":"0000"#));
        assert!(!text.contains("more"));
    }
}
