//! CIDR rules and entities: who is the world, and who never is.
use crate::set::*;

#[test]
fn an_exception_and_another_cidr_inside_it() {
    let set = on_web(
        "ingress: [{fromCIDRSet: [{cidr: 198.51.0.0/16, except: [198.51.100.0/24]}]}, {fromCIDR: [198.51.100.128/25, 203.0.113.9]}]",
    );
    for (source, reaches) in [
        ("198.50.255.255", false),
        ("198.51.0.0", true),
        ("198.51.99.255", true),
        ("198.51.100.0", false),
        ("198.51.100.127", false),
        ("198.51.100.128", true),
        ("198.51.100.255", true),
        ("198.51.101.0", true),
        ("198.51.255.255", true),
        ("198.52.0.0", false),
        ("203.0.113.8", false),
        ("203.0.113.9", true),
        ("203.0.113.10", false),
    ] {
        assert_eq!(set.reaches(source, WEB, tcp(80)), reaches, "{source}");
    }
}

#[test]
fn an_exception_in_a_deny_rule_is_not_denied() {
    let set = on_web(
        "ingress: [{fromEntities: [all]}], ingressDeny: [{fromCIDRSet: [{cidr: '2001:db8:f00::/40', except: ['2001:db8:f00::/48']}]}]",
    );
    assert!(set.reaches(WORLD6, WEB6, tcp(80)));
    assert!(!set.reaches("2001:db8:f01::7", WEB6, tcp(80)));
    assert!(set.reaches(WORLD, WEB, tcp(80)));
}

#[test]
fn a_cidr_never_matches_endpoints_the_host_or_remote_nodes() {
    for cidr in ["fromCIDR: [0.0.0.0/0, '::/0']", "fromCIDRSet: [{cidr: 0.0.0.0/0}, {cidr: '::/0'}]"] {
        let set = on_web(&format!("ingress: [{{{cidr}}}]"));
        for source in [DB, FAR, SHOP, HOST, "192.0.2.9", REMOTE] {
            assert!(!set.reaches(source, WEB, tcp(80)), "{source}");
        }
        assert!(!set.reaches(DB6, WEB6, tcp(80)) && !set.reaches(REMOTE6, WEB6, tcp(80)));
        assert!(set.reaches(WORLD, WEB, tcp(80)) && set.reaches(WORLD6, WEB6, tcp(80)));
    }
}

#[test]
fn one_family_of_a_cidr_says_nothing_about_the_other() {
    let set = on_web("ingress: [{fromCIDR: [0.0.0.0/0]}]");
    assert!(set.reaches(WORLD, WEB, tcp(80)) && !set.reaches(WORLD6, WEB6, tcp(80)));
}

#[test]
fn entities() {
    const PEERS: [(&str, &str); 8] = [
        ("endpoint", DB),
        ("endpoint of another namespace", SHOP),
        ("endpoint of another node", FAR),
        ("host", HOST),
        ("another address of the host", "192.0.2.9"),
        ("remote node", REMOTE),
        ("world", WORLD),
        ("world6", WORLD6),
    ];
    for (entity, reaching) in [
        ("all", "11111111"),
        ("world", "00000011"),
        ("world-ipv4", "00000010"),
        ("world-ipv6", "00000001"),
        ("cluster", "11111100"),
        ("host", "00011000"),
        ("remote-node", "00000100"),
        ("health", "00000000"),
        ("init", "00000000"),
        ("unmanaged", "00000000"),
        ("kube-apiserver", "00000000"),
        ("ingress", "00000000"),
        ("none", "00000000"),
    ] {
        let set = on_web(&format!("ingress: [{{fromEntities: [{entity}]}}]"));
        for ((who, source), expected) in PEERS.iter().zip(reaching.chars()) {
            let destination = if source.contains(':') { WEB6 } else { WEB };
            assert_eq!(set.reaches(source, destination, tcp(80)), expected == '1', "{entity}: {who}");
        }
    }
}
