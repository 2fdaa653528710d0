//! A node that nobody looked at: for a comparison of two revisions away from the machines that they are for.
use std::collections::BTreeSet;

use globset::Glob;
use weir_plan::{Delivery, InterfaceFacts, InterfaceName, NetnsFacts, NodeFacts};
use weir_schema::{Inventory, Spec};

use crate::netns_needed;

/// Every node that the manifests name: by an object of its own, or as the place of an endpoint. Sorted.
pub fn nodes(inventory: &Inventory) -> BTreeSet<String> {
    let name = |object: std::sync::Arc<weir_schema::Object>| match &object.spec {
        Spec::Node(_) => Some(object.key.name.to_string()),
        Spec::Endpoint(spec) => Some(spec.node.clone()),
        _ => None,
    };
    inventory.objects().filter_map(name).collect()
}

/// The node as the manifests want it to be: every namespace and interface that they name exists, and for every pattern
/// of device names there is one device, which bears the pattern itself as its name where that is possible. One set of
/// facts for all revisions that are compared: else a device would come and go with the object that names it.
pub fn assumed_facts(inventories: &[&Inventory], node: &str) -> NodeFacts {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut netns: BTreeSet<String> = BTreeSet::new();
    for inventory in inventories {
        netns.extend(netns_needed(inventory, node));
        for object in inventory.objects() {
            let patterns: &[String] = match &object.spec {
                Spec::Endpoint(spec) if spec.node == node && spec.attach.netns.is_none() => {
                    names.extend(spec.attach.interface.clone());
                    continue;
                }
                Spec::CidrFilter(spec) => &spec.interfaces,
                Spec::NodeConfig(spec) => spec.devices.as_deref().unwrap_or_default(),
                _ => continue,
            };
            names.extend(patterns.iter().map(|pattern| stand_in(pattern)));
        }
    }
    // Whatever the node's own network devices are called.
    names.insert(ANY.to_owned());
    let interface = |(index, name): (usize, String)| InterfaceFacts {
        name: InterfaceName::from(name.as_str()),
        ifindex: index as u32 + 2,
        kind: String::new(),
        loopback: false,
        addresses: Vec::new(),
        ours: false,
        delivery: Delivery::Stack,
    };
    NodeFacts {
        interfaces: names.into_iter().enumerate().map(interface).collect(),
        addresses: Vec::new(),
        netns: netns.into_iter().map(|netns| NetnsFacts { netns, exists: true }).collect(),
        tcx: true,
        cgroup2: true,
    }
}

const ANY: &str = "*";

/// A name that the pattern matches. A pattern that is none stays as it is: compiling says what is wrong with it.
fn stand_in(pattern: &str) -> String {
    let matches = |name: &str| Glob::new(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(name));
    if matches(pattern) {
        return pattern.to_owned();
    }
    // The first of `{a,b}`, a character that is in `[ab]`.
    let mut name = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '{' => {
                let inner: String = characters.by_ref().take_while(|c| *c != '}').collect();
                name.push_str(inner.split(',').next().unwrap_or_default());
            }
            '[' => {
                let inner: String = characters.by_ref().take_while(|c| *c != ']').collect();
                let class = Glob::new(&format!("[{inner}]")).map(|glob| glob.compile_matcher());
                let mut letters = ('a'..='z').chain('0'..='9');
                name.extend(class.ok().and_then(|class| letters.find(|c| class.is_match(c.to_string()))));
            }
            '\\' => name.extend(characters.next()),
            other => name.push(other),
        }
    }
    if matches(&name) { name } else { pattern.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_matches_its_pattern() {
        for (pattern, name) in [
            ("eth0", "eth0"),
            ("eth*", "eth*"),
            ("*", "*"),
            ("en?", "en?"),
            ("{eth,en}*", "eth*"),
            ("eth[1-3]", "eth1"),
            ("eth[!0-9]", "etha"),
            ("bond\\*", "bond*"),
        ] {
            assert_eq!(stand_in(pattern), name, "{pattern}");
            assert!(Glob::new(pattern).unwrap().compile_matcher().is_match(name), "{pattern}");
        }
        assert_eq!(stand_in("eth["), "eth[");
    }
}
