//! Label selectors.
use std::{collections::BTreeMap, sync::Arc};

use weir_schema::{LabelSelector, Operator};

/// The label that says which namespace an endpoint is in.
pub(crate) const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// What a namespace's own labels are called on its endpoints.
pub(crate) const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";
pub(crate) const RESERVED_PREFIX: &str = "reserved:";

/// A key without the source that does not matter here: every label of an endpoint is Kubernetes'.
pub(crate) fn plain_key(key: &str) -> &str {
    key.strip_prefix("k8s:").or_else(|| key.strip_prefix("any:")).unwrap_or(key)
}

/// Whether every requirement of `selector` holds for the labels that `get` knows.
pub(crate) fn matches<'a>(selector: &LabelSelector, get: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector.match_labels.iter().all(|(key, value)| get(plain_key(key)) == Some(value))
        && selector.match_expressions.iter().all(|requirement| {
            let value = get(plain_key(&requirement.key));
            let listed = || value.is_some_and(|value| requirement.values.iter().any(|one| one == value));
            match requirement.operator {
                Operator::In => listed(),
                Operator::NotIn => !listed(),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
}

/// [`matches`] over a plain map: nodes and namespaces.
pub(crate) fn matches_plain(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    matches(selector, |key| labels.get(key).map(String::as_str))
}

fn keys(selector: &LabelSelector) -> impl Iterator<Item = &str> {
    let expressions = selector.match_expressions.iter().map(|requirement| &*requirement.key);
    selector.match_labels.keys().map(|key| &**key).chain(expressions)
}

/// Which namespaces a selector of endpoints looks into.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Every,
    One(Arc<str>),
    /// Those whose `Namespace` labels match.
    Matching(LabelSelector),
}

/// A selector of endpoints together with where it looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointSelector {
    pub scope: Scope,
    pub labels: LabelSelector,
    /// Kubernetes': only the endpoint's own labels count, not those that its namespace adds.
    pub own_labels_only: bool,
}

impl EndpointSelector {
    /// A peer of a Cilium rule: in the policy's namespace, unless it says itself which one, by name or by the
    /// namespace's labels, or names something reserved.
    pub fn cilium_peer(namespace: Option<&Arc<str>>, labels: &LabelSelector) -> Self {
        let free = keys(labels).any(|key| {
            let key = plain_key(key);
            key == NAMESPACE_LABEL || key.starts_with(NAMESPACE_LABELS_PREFIX) || key.starts_with(RESERVED_PREFIX)
        });
        let scope = match namespace {
            Some(namespace) if !free => Scope::One(Arc::clone(namespace)),
            _ => Scope::Every,
        };
        Self { scope, labels: labels.clone(), own_labels_only: false }
    }

    /// Whether it speaks of `reserved:` labels, so that it looks beyond endpoints.
    pub fn is_reserved(&self) -> bool {
        !self.own_labels_only && keys(&self.labels).any(|key| plain_key(key).starts_with(RESERVED_PREFIX))
    }
}

#[cfg(test)]
mod tests {
    use weir_schema::Requirement;

    use super::*;

    fn selector(text: &[(&str, &str)], expressions: &[(&str, Operator, &[&str])]) -> LabelSelector {
        LabelSelector {
            match_labels: text.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            match_expressions: expressions
                .iter()
                .map(|(key, operator, values)| Requirement {
                    key: (*key).to_owned(),
                    operator: *operator,
                    values: values.iter().map(|value| (*value).to_owned()).collect(),
                })
                .collect(),
        }
    }

    fn holds(selector: &LabelSelector, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        matches_plain(selector, &labels)
    }

    #[test]
    fn sources_do_not_matter() {
        for key in ["app", "k8s:app", "any:app"] {
            assert!(holds(&selector(&[(key, "web")], &[]), &[("app", "web")]));
            assert!(!holds(&selector(&[(key, "web")], &[]), &[("app", "db")]));
            assert!(!holds(&selector(&[(key, "web")], &[]), &[]));
        }
    }

    #[test]
    fn operators_are_kubernetes() {
        use Operator::{DoesNotExist, Exists, In, NotIn};
        let cases: &[(Operator, &[&str], bool, bool, bool)] = &[
            // app=web, app=db, no app
            (In, &["web", "x"], true, false, false),
            (NotIn, &["web", "x"], false, true, true),
            (Exists, &[], true, true, false),
            (DoesNotExist, &[], false, false, true),
        ];
        for (operator, values, web, db, none) in cases {
            let selector = selector(&[], &[("k8s:app", *operator, values)]);
            assert_eq!(holds(&selector, &[("app", "web")]), *web, "{operator:?}");
            assert_eq!(holds(&selector, &[("app", "db")]), *db, "{operator:?}");
            assert_eq!(holds(&selector, &[("other", "web")]), *none, "{operator:?}");
        }
    }

    #[test]
    fn a_peer_stays_in_its_namespace_unless_it_says_otherwise() {
        let shop: Arc<str> = "shop".into();
        let scope = |labels| EndpointSelector::cilium_peer(Some(&shop), &labels).scope;
        assert_eq!(scope(selector(&[], &[])), Scope::One(Arc::clone(&shop)));
        assert_eq!(scope(selector(&[("app", "web")], &[])), Scope::One(Arc::clone(&shop)));
        assert_eq!(scope(selector(&[("k8s:io.kubernetes.pod.namespace", "x")], &[])), Scope::Every);
        assert_eq!(scope(selector(&[], &[(NAMESPACE_LABEL, Operator::Exists, &[])])), Scope::Every);
        assert_eq!(scope(selector(&[("reserved:host", "")], &[])), Scope::Every);
        assert_eq!(scope(selector(&[("io.cilium.k8s.namespace.labels.team", "blue")], &[])), Scope::Every);
        let everywhere = EndpointSelector::cilium_peer(None, &selector(&[], &[]));
        assert_eq!(everywhere.scope, Scope::Every);
    }
}
