//! Plans that are refused unless somebody says that they are meant.
use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use weir_plan::{Action, ObjectRef, Session};
use weir_schema::Inventory;

/// What the caller means, however it looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Allow {
    pub mass_delete: bool,
    pub lockout: bool,
    /// Whatever flow tests say.
    pub failed_tests: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The source has no object at all.
    NoObjects { source: String },
    /// Nothing is left of these kinds.
    KindsVanish { kinds: Vec<(String, usize)> },
    /// Over half of ten or more objects.
    MostVanish { deleted: usize, of: usize },
    /// These were let through, and would no longer be.
    Lockout { sessions: Vec<Session> },
}

impl Refusal {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoObjects { .. } => "no-objects",
            Self::KindsVanish { .. } | Self::MostVanish { .. } => "mass-delete",
            Self::Lockout { .. } => "lockout",
        }
    }

    pub const fn help(&self) -> &'static str {
        match self {
            Self::NoObjects { .. } => {
                "put *.yaml or *.yml files there, or name another place; if nothing is what is meant, add --allow-mass-delete"
            }
            Self::KindsVanish { .. } | Self::MostVanish { .. } => {
                "the manifests name the whole desired state: is a directory missing? If it is meant, add --allow-mass-delete"
            }
            Self::Lockout { .. } => {
                "`weir trace` shows the rule that would cut it; if it is meant, add --allow-lockout"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoObjects { source } => write!(f, "{source} has no manifests"),
            Self::KindsVanish { kinds } => {
                f.write_str("this would delete every ")?;
                for (index, (kind, count)) in kinds.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", every " };
                    write!(f, "{separator}{kind} ({count})")?;
                }
                Ok(())
            }
            Self::MostVanish { deleted, of } => write!(f, "this would delete {deleted} of {of} objects"),
            Self::Lockout { sessions } => {
                f.write_str("this would cut established TCP sessions to this host:")?;
                sessions.iter().try_for_each(|session| write!(f, " {session}"))
            }
        }
    }
}

/// Deleting everything of a kind, or over half of ten or more objects. `changes` lead from `applied` to `desired`.
pub fn mass_delete(changes: &[(ObjectRef, Action)], applied: &Inventory, desired: &Inventory) -> Option<Refusal> {
    let gone: Vec<&ObjectRef> =
        changes.iter().filter(|(_, action)| *action == Action::Delete).map(|(object, _)| object).collect();
    if gone.is_empty() {
        return None;
    }
    let mut vanishing: BTreeMap<&str, usize> = BTreeMap::new();
    gone.iter().for_each(|object| *vanishing.entry(&object.kind).or_default() += 1);
    for object in desired.objects() {
        vanishing.remove(&*object.key.kind);
        if vanishing.is_empty() {
            break;
        }
    }
    if !vanishing.is_empty() {
        let kinds = vanishing.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
        return Some(Refusal::KindsVanish { kinds });
    }
    let (deleted, of) = (gone.len(), applied.len());
    (of >= 10 && deleted * 2 > of).then_some(Refusal::MostVanish { deleted, of })
}

/// Established sessions that pass now and would not pass then.
pub fn lockout(
    sessions: &[Session],
    passes_now: impl Fn(&Session) -> bool,
    passes_then: impl Fn(&Session) -> bool,
) -> Option<Refusal> {
    let cut: Vec<_> = sessions.iter().filter(|session| !passes_then(session) && passes_now(session)).copied().collect();
    (!cut.is_empty()).then_some(Refusal::Lockout { sessions: cut })
}

#[cfg(test)]
mod tests {
    use weir_schema::{ContentHash, File, Options};

    use super::*;

    /// Objects of a kind that needs nothing else.
    fn objects(list: &[(&str, std::ops::Range<usize>)]) -> Inventory {
        let mut text = String::new();
        for (kind, names) in list {
            for name in names.clone() {
                let version = if *kind == "Namespace" { "v1" } else { "weir/v1alpha1" };
                text += &format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: n{name}}}\n");
                text += if *kind == "Namespace" { "" } else { "spec: {}\n" };
            }
        }
        let file = File { path: "a.yaml".into(), bytes: text.into_bytes().into(), hash: ContentHash([0; 32]) };
        weir_schema::parse(&[file], &Options::default()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn refusal(applied: &Inventory, desired: &Inventory) -> Option<Refusal> {
        mass_delete(&weir_compile::changed(applied, desired), applied, desired)
    }

    #[test]
    fn everything_of_a_kind() {
        let applied = objects(&[("Node", 0..3), ("Namespace", 0..1)]);
        let found = refusal(&applied, &objects(&[("Node", 0..3)])).unwrap();
        assert_eq!(found.to_string(), "this would delete every Namespace (1)");
        let found = refusal(&applied, &objects(&[])).unwrap();
        assert_eq!(found.to_string(), "this would delete every Namespace (1), every Node (3)");
        assert_eq!(refusal(&objects(&[]), &objects(&[])), None);
        assert_eq!(refusal(&objects(&[]), &applied), None);
    }

    #[test]
    fn over_half_of_ten() {
        let applied = objects(&[("Node", 0..10)]);
        assert_eq!(refusal(&applied, &objects(&[("Node", 0..5)])), None, "half is not over half");
        let most = |deleted, of| Some(Refusal::MostVanish { deleted, of });
        assert_eq!(refusal(&applied, &objects(&[("Node", 0..4)])), most(6, 10));
        assert_eq!(
            refusal(&applied, &objects(&[("Node", 10..20)])),
            most(10, 10),
            "what is added does not make up for what is deleted"
        );
        assert_eq!(refusal(&objects(&[("Node", 0..9)]), &objects(&[("Node", 0..1)])), None, "nine are few");
    }

    #[test]
    fn only_what_passed_can_be_cut() {
        let session =
            |port: u16| Session { local: ([192, 0, 2, 1], port).into(), remote: ([198, 51, 100, 7], 50000).into() };
        let sessions = vec![session(22), session(80), session(443)];
        let refusal = lockout(&sessions, |s| s.local.port() != 443, |s| s.local.port() == 80);
        assert_eq!(refusal, Some(Refusal::Lockout { sessions: vec![session(22)] }));
    }
}
