//! Labels and the selectors that are matched with them.
use std::collections::BTreeMap;

use weir_schema::{LabelSelector, Operator};

/// Label keys without their source prefix, except `reserved:`.
pub(crate) type Labels = BTreeMap<String, String>;

pub(crate) const NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
const RESERVED: &str = "reserved:";

/// `k8s:app`, `any:app` and `app` are the same key.
pub(crate) fn without_source(key: &str) -> &str {
    key.strip_prefix("k8s:").or_else(|| key.strip_prefix("any:")).unwrap_or(key)
}

/// Labels as a user wrote them; nobody can give himself a reserved one.
pub(crate) fn written(labels: &BTreeMap<String, String>) -> Labels {
    labels
        .iter()
        .map(|(key, value)| (without_source(key), value))
        .filter(|(key, _)| !key.starts_with(RESERVED))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

pub(crate) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let all_labels = selector.match_labels.iter().all(|(key, value)| labels.get(without_source(key)) == Some(value));
    let all_expressions = selector.match_expressions.iter().all(|requirement| {
        let value = labels.get(without_source(&requirement.key));
        match requirement.operator {
            Operator::In => value.is_some_and(|value| requirement.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !requirement.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    });
    all_labels && all_expressions
}

fn keys(selector: &LabelSelector) -> impl Iterator<Item = &str> {
    let labels = selector.match_labels.keys();
    let expressions = selector.match_expressions.iter().map(|requirement| &requirement.key);
    labels.chain(expressions).map(|key| without_source(key))
}

/// Whether the selector says something about namespaces by itself.
pub(crate) fn names_a_namespace(selector: &LabelSelector) -> bool {
    keys(selector).any(|key| key == NAMESPACE || key.starts_with(NAMESPACE_LABELS))
}

pub(crate) fn names_a_reserved_label(selector: &LabelSelector) -> bool {
    keys(selector).any(|key| key.starts_with(RESERVED))
}
