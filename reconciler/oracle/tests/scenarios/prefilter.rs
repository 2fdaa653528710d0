//! `CidrFilter`.
use weir_oracle::World;

use crate::set::*;

fn dropped(set: &Set, interface: &str, source: &str, destination: &str) -> Option<String> {
    let address = |text: &str| text.parse().expect("an address");
    World::new(&set.objects, "n1", &set.host)
        .prefilter(interface, address(source), address(destination))
        .map(|rule| format!("{} {}", rule.object.name, rule.path))
}

const FILTERS: &str = "
{apiVersion: weir/v1alpha1, kind: NodeConfig, metadata: {name: c}, spec: {devices: ['eth*']}}
---
{apiVersion: weir/v1alpha1, kind: CidrFilter, metadata: {name: src}, spec: {cidrs: [198.51.0.0/16, '2001:db8:f00::/40'], allow: [198.51.100.0/24]}}
---
{apiVersion: weir/v1alpha1, kind: CidrFilter, metadata: {name: dst}, spec: {interfaces: [wan0], match: destination, cidrs: [203.0.113.0/24]}}
---
{apiVersion: weir/v1alpha1, kind: CidrFilter, metadata: {name: unknown}, spec: {dropUnknownDestinations: true, allow: [10.0.1.200/32]}}
";

#[test]
fn sources_exceptions_and_interfaces() {
    let set = set(FILTERS);
    assert_eq!(dropped(&set, "eth0", "198.51.99.255", HOST), Some("src spec.cidrs".to_owned()));
    assert_eq!(dropped(&set, "eth0", "198.51.100.255", HOST), None);
    assert_eq!(dropped(&set, "eth0", "198.51.101.0", HOST), Some("src spec.cidrs".to_owned()));
    assert_eq!(dropped(&set, "eth0", "198.52.0.0", HOST), None);
    assert_eq!(dropped(&set, "wan0", "198.51.0.1", HOST), None, "another device");
    assert_eq!(dropped(&set, "eth0", WORLD6, WEB6), Some("src spec.cidrs".to_owned()));
    assert_eq!(dropped(&set, "eth0", HOST, "198.51.0.1"), None, "the source is meant");
}

#[test]
fn destinations() {
    let set = set(FILTERS);
    assert_eq!(dropped(&set, "wan0", WORLD, "203.0.113.5"), Some("dst spec.cidrs".to_owned()));
    assert_eq!(dropped(&set, "eth0", WORLD, "203.0.113.5"), None);
    assert_eq!(dropped(&set, "wan0", "203.0.113.5", HOST), None, "the destination is meant");
}

#[test]
fn unknown_destinations_inside_the_endpoint_range() {
    let set = set(FILTERS);
    assert_eq!(dropped(&set, "eth0", REMOTE, "10.0.1.77"), Some("unknown spec.dropUnknownDestinations".to_owned()));
    assert_eq!(dropped(&set, "eth0", REMOTE, WEB), None);
    assert_eq!(dropped(&set, "eth0", REMOTE, FAR), None, "another node's range");
    assert_eq!(dropped(&set, "eth0", REMOTE, "10.0.1.200"), None, "an exception");
    assert_eq!(dropped(&set, "wan0", REMOTE, "10.0.1.77"), None);
}
