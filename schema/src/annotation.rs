//! What `metadata.annotations` says to Weir itself: keys below `weir/`. All others are free text.
use std::collections::BTreeMap;

use crate::{
    Algorithm, Metadata, NoBackends, code,
    problem::{Path, Problems},
    suggest::nearest,
};

const GROUP: &str = "weir/";
const PRUNE: &str = "weir/prune";
const HEAL: &str = "weir/heal";
/// Of `v1 Service` alone: what Kubernetes has no field for.
const ALGORITHM: &str = "weir/algorithm";
const NO_BACKENDS: &str = "weir/no-backends";
const KNOWN: [&str; 2] = [HEAL, PRUNE];
const OF_SERVICES: [&str; 4] = [ALGORITHM, HEAL, NO_BACKENDS, PRUNE];

/// Each value that an annotation can have, with what the help says of them.
fn values(key: &str) -> ([&'static str; 2], &'static str) {
    match key {
        PRUNE => (["true", "false"], "\"false\" keeps the object when it is no longer in the source"),
        ALGORITHM => (["random", "maglev"], "\"maglev\" picks the same backend for a flow on every node"),
        NO_BACKENDS => (["reject", "drop"], "\"drop\" is silent where no backend is there"),
        _ => (["true", "false"], "\"false\" leaves what others change of the object as it is"),
    }
}

impl Metadata {
    /// Whether the object goes when it is no longer in the source. `weir/prune: "false"`: not before that is taken away.
    pub fn prunes(&self) -> bool {
        !self.says_false(PRUNE)
    }

    /// Whether what somebody else did to the object's entries is undone. `weir/heal: "false"`: it is only told.
    pub fn heals(&self) -> bool {
        !self.says_false(HEAL)
    }

    /// Of a `v1 Service`.
    pub fn algorithm(&self) -> Algorithm {
        match self.annotations.get(ALGORITHM).map(String::as_str) {
            Some("maglev") => Algorithm::Maglev,
            _ => Algorithm::Random,
        }
    }

    /// Of a `v1 Service`.
    pub fn no_backends(&self) -> NoBackends {
        match self.annotations.get(NO_BACKENDS).map(String::as_str) {
            Some("drop") => NoBackends::Drop,
            _ => NoBackends::Reject,
        }
    }

    fn says_false(&self, key: &str) -> bool {
        self.annotations.get(key).is_some_and(|value| value == "false")
    }
}

/// `of_service`: they are a `v1 Service`'s.
pub(crate) fn check_annotations(
    annotations: &BTreeMap<String, String>,
    of_service: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) {
    let known = if of_service { &OF_SERVICES[..] } else { &KNOWN[..] };
    for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(GROUP)) {
        let at = at.field(key);
        if !known.contains(&key.as_str()) {
            let names: Vec<_> = known.iter().map(|known| format!("`{known}`")).collect();
            let help = match nearest(key, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if OF_SERVICES.contains(&key.as_str()) => {
                    "it is for `v1 Service` only; Weir's own kind has a field for it".to_owned()
                }
                None => format!("Weir's annotations are {}", names.join(" and ")),
            };
            let message = format!("Weir has no annotation `{key}`");
            let message =
                if OF_SERVICES.contains(&key.as_str()) { format!("`{key}` means nothing here") } else { message };
            problems.push(code::INVALID_ANNOTATION, &at, message).at_key().help(help);
            continue;
        }
        let ([default, other], help) = values(key);
        if value != default && value != other {
            let message = format!("`{key}` is \"{default}\" or \"{other}\", not `{value}`");
            problems.push(code::INVALID_ANNOTATION, &at, message).help(help);
        }
    }
}
