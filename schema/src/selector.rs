use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    code,
    label::{check_selector_key, check_value},
    problem::{Path, Problems},
};

/// A Kubernetes label selector. Keys may carry a source prefix: `k8s:`, `any:`, `reserved:`.
/// The empty selector selects everything (within the scope of where it stands).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that must have these values.
    #[serde(default, deserialize_with = "crate::meta::unique_map", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
    /// Non-empty for `In` and `NotIn`, empty for the others (checked).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    In,
    /// Also true where the key is absent, as in Kubernetes.
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        let labels = at.field("matchLabels");
        for (key, value) in &self.match_labels {
            let at = labels.field(key);
            check_selector_key(key, &at, problems);
            check_value(value, &at, problems);
        }
        let expressions = at.field("matchExpressions");
        for (index, requirement) in self.match_expressions.iter().enumerate() {
            requirement.check(&expressions.index(index), problems);
        }
    }
}

impl Requirement {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        check_selector_key(&self.key, &at.field("key"), problems);
        let values = at.field("values");
        for (index, value) in self.values.iter().enumerate() {
            check_value(value, &values.index(index), problems);
        }
        let operator = self.operator;
        match (operator, self.values.is_empty()) {
            (Operator::In | Operator::NotIn, true) => {
                problems
                    .push(code::INVALID_SELECTOR, &at.field("operator"), format!("`{operator:?}` needs `values`"))
                    .help("write `values: [...]`, or use `Exists` or `DoesNotExist`");
            }
            (Operator::Exists | Operator::DoesNotExist, false) => {
                problems
                    .push(code::INVALID_SELECTOR, &values, format!("`{operator:?}` has no `values`"))
                    .help("leave `values` out, or use `In` or `NotIn`");
            }
            _ => {}
        }
    }
}
