//! What a node is like, in the words of kubectl and Flux: conditions that are true, false or not known yet, each with
//! a reason and since when.
//!
//! [`judge`] is a pure function of what the agent knows; [`Conditions`] adds the times.
use serde::{Deserialize, Serialize};

use crate::{Exit, Failure, SuspensionDocument, clock};

/// What there are, in the order that they are shown in.
const TYPES: [&str; 7] = ["Ready", "Reconciling", "Stalled", "Drifted", "Degraded", "SourceStale", "Suspended"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    True,
    False,
    /// Not before the source was read, or the live tables verified.
    Unknown,
}

/// One of a node's conditions, as Kubernetes writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionDocument {
    /// `Ready`, `Reconciling`, `Stalled`, `Drifted`, `Degraded`, `SourceStale` or `Suspended`.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: ConditionStatus,
    /// One word, for machines.
    pub reason: String,
    pub message: String,
    /// When the status became what it is: RFC 3339.
    pub last_transition_time: String,
}

/// What the agent knows of its node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knowledge<'a> {
    /// What the source delivered last.
    pub wanted: Option<&'a str>,
    /// What the source delivered last is what was applied last.
    pub wanted_is_applied: bool,
    /// The revision that was applied last.
    pub applied: Option<&'a str>,
    /// The source's last word, if it was an error.
    pub source_failure: Option<&'a Failure>,
    /// Why the last attempt failed.
    pub failure: Option<&'a Failure>,
    pub suspended: Option<&'a SuspensionDocument>,
    /// The live tables were compared with what was applied.
    pub verified: bool,
    /// Entries that differ from it.
    pub drift: u64,
    /// They are left as they are.
    pub reports_only: bool,
    /// All of these are of objects that are not healed.
    pub spared: bool,
    /// Object and what it waits for.
    pub pending: Vec<(String, &'a str)>,
    /// Programs that are attached in another way than was wanted.
    pub attachments: Vec<String>,
}

type Verdict = (ConditionStatus, String, String);

/// The verdict on each of [`TYPES`].
fn judge(node: &Knowledge<'_>) -> [Verdict; 7] {
    use ConditionStatus::{False, True, Unknown};
    let say = |status, reason: &str, message: &str| (status, reason.to_owned(), message.to_owned());
    let of = |status, failure: &Failure| (status, camel_case(&failure.code), failure.line());
    let starting = node.wanted.is_none() && node.source_failure.is_none();
    let stuck = node.failure.filter(|failure| needs_somebody(failure));

    let suspended = match node.suspended {
        Some(suspension) => say(True, "Suspended", &suspension.reason),
        None => say(False, "Following", "the source is followed"),
    };
    let source_stale = match (node.source_failure, node.wanted) {
        (Some(failure), _) => of(True, failure),
        (None, Some(revision)) => say(False, "Delivered", &format!("revision {revision}")),
        (None, None) => say(Unknown, "Starting", "the source has not been read yet"),
    };
    let stalled = match (stuck, node.failure) {
        (Some(failure), _) => of(True, failure),
        (None, Some(_)) => say(False, "Retrying", "it may pass by itself"),
        (None, None) => say(False, "NothingWrong", "nothing waits for somebody"),
    };
    let drifted = match (node.drift, node.verified) {
        (0, false) => say(Unknown, "NotVerified", "the live tables have not been compared yet"),
        (0, true) => say(False, "Verified", "live is what was applied"),
        (count, _) if node.spared => {
            let what = format!("{} differ from what was applied; `weir/heal` leaves them", entries(count));
            say(True, "LeftAsChanged", &what)
        }
        (count, _) => say(True, "ChangedByOthers", &format!("{} differ from what was applied", entries(count))),
    };
    let degraded = match (node.pending.first(), node.attachments.first()) {
        (Some((object, what)), _) => {
            let more = match node.pending.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            say(True, "ObjectsPending", &format!("{object}: {what}{more}"))
        }
        (None, Some(attachment)) => say(True, "AttachedOtherwise", attachment),
        (None, None) => say(False, "AsWanted", "everything is attached as it should be"),
    };
    let behind = node.wanted.is_some() && !node.wanted_is_applied;
    let reconciling = match (stuck, node.failure) {
        (Some(_), _) => say(False, "Stalled", "nothing is tried that could help"),
        (None, Some(failure)) => of(True, failure),
        (None, None) if starting => say(True, "Starting", "the source is being read"),
        (None, None) if node.suspended.is_some() => say(False, "Suspended", "the source is not followed"),
        (None, None) if behind => say(True, "Progressing", "what the source delivered is on its way"),
        (None, None) if node.drift > 0 && node.reports_only => {
            say(False, "ReportsOnly", "what others changed is shown and left as it is")
        }
        (None, None) if node.drift > 0 && !node.spared => say(True, "Healing", "what others changed is written again"),
        (None, None) => say(False, "Idle", "there is nothing to do"),
    };
    let ready = match () {
        () if node.failure.is_some() => {
            let (_, reason, message) = if stuck.is_some() { &stalled } else { &reconciling };
            (False, reason.clone(), message.clone())
        }
        () if starting => say(Unknown, "Starting", "the source has not been read yet"),
        () if node.wanted.is_none() => (Unknown, source_stale.1.clone(), source_stale.2.clone()),
        () if behind && node.suspended.is_some() => {
            say(False, "Suspended", "what the source delivered is not applied while suspended")
        }
        () if behind => say(Unknown, "Progressing", "what the source delivered is on its way"),
        () if node.drift > 0 && !node.spared => (False, drifted.1.clone(), drifted.2.clone()),
        () if !node.pending.is_empty() => (False, degraded.1.clone(), degraded.2.clone()),
        () => say(True, "Live", &format!("revision {} is live", node.applied.or(node.wanted).unwrap_or_default())),
    };
    [ready, reconciling, stalled, drifted, degraded, source_stale, suspended]
}

/// Trying again does not help: the manifests, the command line or the machine must change.
fn needs_somebody(failure: &Failure) -> bool {
    let exits = [Exit::INVALID, Exit::USAGE, Exit::OTHER_WRITER, Exit::CAPABILITY, Exit::KERNEL];
    exits.contains(&failure.exit) || failure.code == "flow-test"
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// `invalid-manifests` as Kubernetes writes reasons: `InvalidManifests`.
fn camel_case(code: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    code.split('-').map(capital).collect()
}

/// The conditions, and since when they are what they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    list: Vec<ConditionDocument>,
}

impl Conditions {
    pub fn list(&self) -> &[ConditionDocument] {
        &self.list
    }

    /// Takes note of what is known now; gives what came to be true or false. A new reason or message alone is no
    /// transition, as in Kubernetes.
    pub fn update(&mut self, node: &Knowledge<'_>, now_unix_ms: u64) -> Vec<ConditionDocument> {
        let now = clock::rfc3339(now_unix_ms);
        let mut changed = Vec::new();
        let former = std::mem::take(&mut self.list);
        for (kind, (status, reason, message)) in TYPES.into_iter().zip(judge(node)) {
            let same = former.iter().find(|condition| condition.kind == kind && condition.status == status);
            let since = same.map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone());
            let condition =
                ConditionDocument { kind: kind.to_owned(), status, reason, message, last_transition_time: since };
            if same.is_none() {
                changed.push(condition.clone());
            }
            self.list.push(condition);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &str, exit: Exit) -> Failure {
        Failure { code: code.to_owned(), message: format!("what {code} says"), help: None, exit, errors: Vec::new() }
    }

    fn live() -> Knowledge<'static> {
        Knowledge {
            wanted: Some("r2"),
            wanted_is_applied: true,
            applied: Some("r2"),
            verified: true,
            ..Knowledge::default()
        }
    }

    /// `Ready=True/Live`, for those that are true or not known.
    fn told(node: &Knowledge<'_>) -> Vec<String> {
        let mut conditions = Conditions::default();
        conditions.update(node, 0);
        let of = |condition: &ConditionDocument| match condition.status {
            ConditionStatus::True => Some(format!("{}/{}", condition.kind, condition.reason)),
            ConditionStatus::Unknown => Some(format!("?{}/{}", condition.kind, condition.reason)),
            ConditionStatus::False if condition.kind == "Ready" => Some(format!("!Ready/{}", condition.reason)),
            ConditionStatus::False => None,
        };
        conditions.list().iter().filter_map(of).collect()
    }

    #[test]
    fn each_state_has_its_conditions() {
        let suspension = SuspensionDocument { since_unix_ms: 0, until_unix_ms: None, reason: "by hand".to_owned() };
        let invalid = failure("invalid-manifests", Exit::INVALID);
        let write = failure("table-write", Exit::FAILED);
        let gone = failure("source-unreadable", Exit::SOURCE);
        let foreign = failure("foreign-xdp", Exit::OTHER_WRITER);
        let waits = || vec![("Endpoint default/web".to_owned(), "there is no interface `w0`")];
        for (node, expected) in [
            (live(), vec!["Ready/Live"]),
            (
                Knowledge::default(),
                vec!["?Ready/Starting", "Reconciling/Starting", "?Drifted/NotVerified", "?SourceStale/Starting"],
            ),
            (
                Knowledge { wanted_is_applied: false, failure: Some(&invalid), ..live() },
                vec!["!Ready/InvalidManifests", "Stalled/InvalidManifests"],
            ),
            (Knowledge { failure: Some(&foreign), ..live() }, vec!["!Ready/ForeignXdp", "Stalled/ForeignXdp"]),
            (
                Knowledge { wanted_is_applied: false, failure: Some(&write), ..live() },
                vec!["!Ready/TableWrite", "Reconciling/TableWrite"],
            ),
            (Knowledge { wanted_is_applied: false, ..live() }, vec!["?Ready/Progressing", "Reconciling/Progressing"]),
            // What was delivered last is live all the same.
            (Knowledge { source_failure: Some(&gone), ..live() }, vec!["Ready/Live", "SourceStale/SourceUnreadable"]),
            (
                Knowledge { wanted: None, source_failure: Some(&gone), ..live() },
                vec!["?Ready/SourceUnreadable", "SourceStale/SourceUnreadable"],
            ),
            (
                Knowledge { drift: 2, ..live() },
                vec!["!Ready/ChangedByOthers", "Reconciling/Healing", "Drifted/ChangedByOthers"],
            ),
            (
                Knowledge { drift: 2, reports_only: true, ..live() },
                vec!["!Ready/ChangedByOthers", "Drifted/ChangedByOthers"],
            ),
            (
                Knowledge { drift: 2, suspended: Some(&suspension), ..live() },
                vec!["!Ready/ChangedByOthers", "Drifted/ChangedByOthers", "Suspended/Suspended"],
            ),
            (Knowledge { drift: 2, spared: true, ..live() }, vec!["Ready/Live", "Drifted/LeftAsChanged"]),
            (Knowledge { pending: waits(), ..live() }, vec!["!Ready/ObjectsPending", "Degraded/ObjectsPending"]),
            (
                Knowledge { attachments: vec!["xdp on eth0: generic".to_owned()], ..live() },
                vec!["Ready/Live", "Degraded/AttachedOtherwise"],
            ),
            (Knowledge { suspended: Some(&suspension), ..live() }, vec!["Ready/Live", "Suspended/Suspended"]),
            (
                Knowledge { suspended: Some(&suspension), wanted_is_applied: false, ..live() },
                vec!["!Ready/Suspended", "Suspended/Suspended"],
            ),
        ] {
            assert_eq!(told(&node), expected, "{node:?}");
        }
    }

    #[test]
    fn times_are_those_of_the_status() {
        let mut conditions = Conditions::default();
        assert_eq!(conditions.update(&live(), 0).len(), TYPES.len());
        assert!(conditions.update(&live(), 1000).is_empty());
        let invalid = failure("invalid-manifests", Exit::INVALID);
        let changed = conditions.update(&Knowledge { failure: Some(&invalid), ..live() }, 2000);
        let changed: Vec<_> = changed.iter().map(|condition| (&*condition.kind, condition.status)).collect();
        assert_eq!(changed, [("Ready", ConditionStatus::False), ("Stalled", ConditionStatus::True)]);
        let other = failure("mass-delete", Exit::INVALID);
        assert!(conditions.update(&Knowledge { failure: Some(&other), ..live() }, 3000).is_empty());
        let of = |kind: &str| conditions.list().iter().find(|condition| condition.kind == kind).unwrap().clone();
        assert_eq!(of("Ready").last_transition_time, "1970-01-01T00:00:02.000Z");
        assert_eq!(of("Ready").reason, "MassDelete");
        assert_eq!(of("Drifted").last_transition_time, "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn of_several_errors_the_first_is_told_with_its_place_in_one_line() {
        let problem = |line| crate::Problem {
            code: "missing-header".to_owned(),
            object: None,
            file: Some("a.yaml".to_owned()),
            line: Some(line),
            column: Some(1),
            message: "`apiVersion` is missing".to_owned(),
            help: None,
        };
        let mut failure = failure("invalid-manifests", Exit::INVALID);
        failure.message = "the manifests are invalid:\nerror: and so on\n2 errors".to_owned();
        assert_eq!(failure.line(), "the manifests are invalid:");
        failure.errors = vec![problem(3), problem(9)];
        let said = judge(&Knowledge { failure: Some(&failure), ..live() });
        let told = "a.yaml:3: `apiVersion` is missing, and 1 more";
        assert!(said.iter().filter(|(_, _, message)| message == told).count() >= 2, "{said:?}");
        assert!(said.iter().all(|(_, _, message)| !message.contains('\n')));
    }
}
