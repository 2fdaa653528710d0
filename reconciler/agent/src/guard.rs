//! Plans that are refused unless somebody says that they are meant.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use weir_plan::ObjectInfo;

use crate::Session;

/// What the caller means, however it looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Allow {
    pub mass_delete: bool,
    pub lockout: bool,
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

/// Deleting everything of a kind, or over half of ten or more objects.
pub fn mass_delete(applied: &[ObjectInfo], desired: &[ObjectInfo]) -> Option<Refusal> {
    let left: BTreeSet<_> = desired.iter().map(|info| &info.object).collect();
    let left_kinds: BTreeSet<&str> = desired.iter().map(|info| &*info.object.kind).collect();
    let mut vanishing: BTreeMap<&str, usize> = BTreeMap::new();
    for info in applied.iter().filter(|info| !left_kinds.contains(&*info.object.kind)) {
        *vanishing.entry(&info.object.kind).or_default() += 1;
    }
    if !vanishing.is_empty() {
        let kinds = vanishing.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
        return Some(Refusal::KindsVanish { kinds });
    }
    let deleted = applied.iter().filter(|info| !left.contains(&info.object)).count();
    let of = applied.len();
    (of >= 10 && deleted * 2 > of).then_some(Refusal::MostVanish { deleted, of })
}

/// Established sessions that pass now and would not pass then.
pub fn lockout(
    sessions: Vec<Session>,
    passes_now: impl Fn(&Session) -> bool,
    passes_then: impl Fn(&Session) -> bool,
) -> Option<Refusal> {
    let cut: Vec<_> = sessions.into_iter().filter(|session| !passes_then(session) && passes_now(session)).collect();
    (!cut.is_empty()).then_some(Refusal::Lockout { sessions: cut })
}

#[cfg(test)]
mod tests {
    use weir_plan::ObjectRef;

    use super::*;

    fn objects(kind: &str, names: std::ops::Range<usize>) -> Vec<ObjectInfo> {
        let object = |name: usize| ObjectInfo {
            object: ObjectRef {
                api_version: "weir/v1alpha1".into(),
                kind: kind.into(),
                namespace: "default".into(),
                name: name.to_string().into(),
            },
            hash: [0; 32],
            file: "a.yaml".into(),
            line: 1,
        };
        names.map(object).collect()
    }

    #[test]
    fn everything_of_a_kind() {
        let applied = [objects("Endpoint", 0..3), objects("NetworkPolicy", 0..1)].concat();
        let refusal = mass_delete(&applied, &objects("Endpoint", 0..3)).unwrap();
        assert_eq!(refusal.to_string(), "this would delete every NetworkPolicy (1)");
        let refusal = mass_delete(&applied, &[]).unwrap();
        assert_eq!(refusal.to_string(), "this would delete every Endpoint (3), every NetworkPolicy (1)");
        assert_eq!(mass_delete(&[], &[]), None);
        assert_eq!(mass_delete(&[], &applied), None);
    }

    #[test]
    fn over_half_of_ten() {
        let applied = objects("Endpoint", 0..10);
        assert_eq!(mass_delete(&applied, &objects("Endpoint", 0..5)), None, "half is not over half");
        assert_eq!(mass_delete(&applied, &objects("Endpoint", 0..4)), Some(Refusal::MostVanish { deleted: 6, of: 10 }));
        assert_eq!(
            mass_delete(&applied, &objects("Endpoint", 10..20)),
            Some(Refusal::MostVanish { deleted: 10, of: 10 }),
            "what is added does not make up for what is deleted"
        );
        assert_eq!(mass_delete(&objects("Endpoint", 0..9), &objects("Endpoint", 0..1)), None, "nine are few");
    }

    #[test]
    fn only_what_passed_can_be_cut() {
        let session =
            |port: u16| Session { local: ([192, 0, 2, 1], port).into(), remote: ([198, 51, 100, 7], 50000).into() };
        let sessions = vec![session(22), session(80), session(443)];
        let refusal = lockout(sessions, |s| s.local.port() != 443, |s| s.local.port() == 80);
        assert_eq!(refusal, Some(Refusal::Lockout { sessions: vec![session(22)] }));
    }
}
