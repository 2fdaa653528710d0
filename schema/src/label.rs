//! Labels: what can be a key and a value, and where a key says that it comes from.
use std::collections::BTreeMap;

use crate::{
    code,
    problem::{Path, Problems},
    suggest::nearest,
};

/// Where a selector's key looks, by its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelSource {
    /// No prefix, or `any:`: wherever the label comes from.
    Any,
    /// `k8s:`: the labels of manifests.
    K8s,
    /// `reserved:`: what Weir itself knows of a peer: `host`, `world`, …
    Reserved,
}

/// A selector's key without its source prefix: `k8s:app` is `app` of [`LabelSource::K8s`].
pub fn split_prefix(key: &str) -> (LabelSource, &str) {
    match key.split_once(':') {
        Some(("any", name)) => (LabelSource::Any, name),
        Some(("k8s", name)) => (LabelSource::K8s, name),
        Some(("reserved", name)) => (LabelSource::Reserved, name),
        _ => (LabelSource::Any, key),
    }
}

/// The names after `reserved:`.
const RESERVED: &[&str] = &[
    "host",
    "world",
    "world-ipv4",
    "world-ipv6",
    "remote-node",
    "health",
    "init",
    "unmanaged",
    "kube-apiserver",
    "ingress",
];

/// The labels of an object.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>, at: &Path<'_>, problems: &mut Problems) {
    for (key, value) in labels {
        let at = at.field(key);
        if is_key(key) {
            check_value(value, &at, problems);
            continue;
        }
        let problem = problems.push(code::INVALID_LABEL, &at, format!("`{key}` cannot be the key of a label"));
        problem.at_key().help(match split_prefix(key) {
            (LabelSource::Reserved, _) => {
                "`reserved:` labels are given by Weir; select by them, but do not set them".to_owned()
            }
            (_, name) if name != key => format!("write `{name}`; only selectors have a source prefix"),
            _ => KEY_HELP.to_owned(),
        });
    }
}

const KEY_HELP: &str = "a key is `name` or `prefix/name`: letters, digits, `-`, `_` and `.`, at most 63 in the name; \
                        the prefix is a domain name in lower case";

/// A key as selectors write it.
pub(crate) fn check_selector_key(key: &str, at: &Path<'_>, problems: &mut Problems) {
    let (source, name) = split_prefix(key);
    if source == LabelSource::Reserved {
        if !RESERVED.contains(&name) {
            let help = match nearest(name, RESERVED.iter().copied()) {
                Some(near) => format!("did you mean `reserved:{near}`?"),
                None => format!("the reserved labels are {}", RESERVED.join(", ")),
            };
            problems.push(code::INVALID_LABEL, at, format!("there is no reserved label `{name}`")).at_key().help(help);
        }
    } else if !is_key(name) {
        let help = match key.split_once(':') {
            Some((source, _)) if name == key => {
                format!("`{source}:` is not a label source: it is `k8s:`, `any:`, `reserved:` or nothing")
            }
            _ => KEY_HELP.to_owned(),
        };
        problems.push(code::INVALID_LABEL, at, format!("`{key}` cannot be the key of a label")).at_key().help(help);
    }
}

pub(crate) fn check_value(value: &str, at: &Path<'_>, problems: &mut Problems) {
    if !value.is_empty() && !is_name(value) {
        problems.push(code::INVALID_LABEL, at, format!("`{value}` cannot be the value of a label")).help(
            "a value is empty, or letters, digits, `-`, `_` and `.`, at most 63, with a letter or digit at both ends",
        );
    }
}

/// `name` or `prefix/name`, as in Kubernetes.
fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_name(key),
        Some((prefix, name)) => {
            let part = |part: &str| {
                let inside = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                !part.is_empty() && inside && !part.starts_with('-') && !part.ends_with('-')
            };
            prefix.len() <= 253 && prefix.split('.').all(part) && is_name(name)
        }
    }
}

fn is_name(name: &str) -> bool {
    let inside = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 63 && inside && edge(name.bytes().next()) && edge(name.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values() {
        for (key, good) in [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("io.kubernetes.pod.namespace", true),
            ("App_1", true),
            ("", false),
            ("a/b/c", false),
            ("/a", false),
            ("a/", false),
            ("-a", false),
            ("Ex.com/a", false),
            ("k8s:app", false),
            ("a b", false),
        ] {
            assert_eq!(is_key(key), good, "{key:?}");
        }
    }

    #[test]
    fn prefixes() {
        assert_eq!(split_prefix("k8s:io.kubernetes.pod.namespace"), (LabelSource::K8s, "io.kubernetes.pod.namespace"));
        assert_eq!(split_prefix("any:app"), (LabelSource::Any, "app"));
        assert_eq!(split_prefix("reserved:host"), (LabelSource::Reserved, "host"));
        assert_eq!(split_prefix("app"), (LabelSource::Any, "app"));
        assert_eq!(split_prefix("container:app"), (LabelSource::Any, "container:app"));
    }
}
