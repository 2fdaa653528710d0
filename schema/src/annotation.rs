//! What `metadata.annotations` says to Weir itself: keys below `weir/`. All others are free text.
use std::collections::BTreeMap;

use crate::{
    Metadata, code,
    problem::{Path, Problems},
    suggest::nearest,
};

const GROUP: &str = "weir/";
const PRUNE: &str = "weir/prune";
const HEAL: &str = "weir/heal";
const KNOWN: [&str; 2] = [HEAL, PRUNE];

impl Metadata {
    /// Whether the object goes when it is no longer in the source. `weir/prune: "false"`: not before that is taken away.
    pub fn prunes(&self) -> bool {
        !self.says_false(PRUNE)
    }

    /// Whether what somebody else did to the object's entries is undone. `weir/heal: "false"`: it is only told.
    pub fn heals(&self) -> bool {
        !self.says_false(HEAL)
    }

    fn says_false(&self, key: &str) -> bool {
        self.annotations.get(key).is_some_and(|value| value == "false")
    }
}

pub(crate) fn check_annotations(annotations: &BTreeMap<String, String>, at: &Path<'_>, problems: &mut Problems) {
    for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(GROUP)) {
        let at = at.field(key);
        if !KNOWN.contains(&key.as_str()) {
            let help = match nearest(key, KNOWN) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("Weir's annotations are {}", KNOWN.map(|known| format!("`{known}`")).join(" and ")),
            };
            let message = format!("Weir has no annotation `{key}`");
            problems.push(code::INVALID_ANNOTATION, &at, message).at_key().help(help);
        } else if value != "true" && value != "false" {
            let message = format!("`{key}` is \"true\" or \"false\", not `{value}`");
            let help = match key.as_str() {
                PRUNE => "\"false\" keeps the object when it is no longer in the source",
                _ => "\"false\" leaves what others change of the object as it is",
            };
            problems.push(code::INVALID_ANNOTATION, &at, message).help(help);
        }
    }
}
