//! Policies as users write them, judged by walking the compiled tables.
mod support;

use support::{
    CLUSTER, ICMP, ICMPV6, TCP, UDP, compiled, egress, enters, ingress, leaves, trace, with_policies, with_policy,
};
use weir_compile::Outcome;

#[test]
fn without_a_policy_everything_passes_and_nobody_is_a_subject() {
    let set = compiled(CLUSTER);
    assert!(set.tables.policy.is_empty() && set.tables.subjects.is_empty());
    assert_eq!(ingress(&set, "world", "web", TCP, 80), (Outcome::NotEnforced, None));
}

#[test]
fn selection_denies_by_default_in_its_direction_only() {
    let set = with_policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [{}]}");
    assert_eq!(ingress(&set, "db", "web", TCP, 80), (Outcome::DefaultDeny, None));
    assert_eq!(egress(&set, "web", "db", TCP, 80), (Outcome::NotEnforced, None));
    assert_eq!(ingress(&set, "web", "db", TCP, 80), (Outcome::NotEnforced, None));
    // Whoever is on another node is nobody's subject here.
    assert_eq!(set.tables.subjects.len(), 1);
}

#[test]
fn default_deny_can_be_switched() {
    let off = with_policy(
        "{endpointSelector: {}, enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: db}}]}]}",
    );
    assert_eq!(ingress(&off, "db", "web", TCP, 1).0, Outcome::Deny);
    assert_eq!(ingress(&off, "world", "web", TCP, 1), (Outcome::NotEnforced, None));
    let on = with_policy("{endpointSelector: {}, enableDefaultDeny: {egress: true}, ingress: [{fromEntities: [all]}]}");
    assert!(!leaves(&on, "web", "world", TCP, 1));
    assert!(enters(&on, "world", "web", TCP, 1));
}

#[test]
fn one_identity_and_one_port() {
    let set = with_policy(
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: '80', protocol: UDP}]}]}]}",
    );
    assert_eq!(
        ingress(&set, "db", "web", UDP, 80),
        (Outcome::Allow, Some("spec.ingress[0].toPorts[0].ports[0]".to_owned()))
    );
    for (from, protocol, port) in
        [("db", UDP, 81), ("db", TCP, 80), ("world", UDP, 80), ("x", UDP, 80), ("far", UDP, 80)]
    {
        assert!(!enters(&set, from, "web", protocol, port), "{from} {protocol} {port}");
    }
}

#[test]
fn ranges_hold_at_their_borders() {
    for (first, last) in [(80u16, 83u16), (0, 0), (1, 65535), (65535, 65535), (79, 8081), (32767, 32769), (1, 1)] {
        let set = with_policy(&format!(
            "{{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{{toPorts: [{{ports: [{{port: '{first}', endPort: {last}, protocol: TCP}}]}}]}}]}}"
        ));
        // Port 0 is every port.
        let all = first == 0 && last == 0;
        for port in [0, first.wrapping_sub(1), first, first / 2 + last / 2, last, last.wrapping_add(1), 65535] {
            let inside = all || (first..=last).contains(&port);
            assert_eq!(enters(&set, "world", "web", TCP, port), inside, "{first}-{last}: {port}");
            assert!(!enters(&set, "world", "web", UDP, port));
        }
    }
}

/// Identity or not, port or not, and each as an allow or a deny: deny wins, then the more specific explains.
#[test]
fn deny_wins_and_the_most_specific_explains() {
    let peer = "fromEndpoints: [{matchLabels: {app: db}}]";
    let port = "toPorts: [{ports: [{port: '80', protocol: TCP}]}]";
    let shapes = [
        format!("{{{peer}, {port}}}"),
        format!("{{{port}}}"),
        format!("{{{peer}}}"),
        "{fromEntities: [all]}".to_owned(),
    ];
    for (a, allow) in shapes.iter().enumerate() {
        for (d, deny) in shapes.iter().enumerate() {
            let set = with_policy(&format!(
                "{{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{allow}], ingressDeny: [{deny}]}}"
            ));
            for (from, to_port) in [("db", 80), ("db", 81), ("x", 80), ("x", 81)] {
                let fits = |shape: usize| (shape == 1 || shape == 3 || from == "db") && (shape >= 2 || to_port == 80);
                let expected = match (fits(d), fits(a)) {
                    (true, _) => Outcome::Deny,
                    (_, true) => Outcome::Allow,
                    _ => Outcome::DefaultDeny,
                };
                assert_eq!(ingress(&set, from, "web", TCP, to_port).0, expected, "{allow} {deny} {from} {to_port}");
            }
        }
    }
    let all = with_policy(&format!(
        "{{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{}]}}",
        [&shapes[3], &shapes[2], &shapes[1], &shapes[0]].map(|shape| shape.as_str()).join(", ")
    ));
    let explains = |from, port| ingress(&all, from, "web", TCP, port).1.unwrap();
    assert_eq!(explains("db", 80), "spec.ingress[3].toPorts[0].ports[0]");
    assert_eq!(explains("x", 80), "spec.ingress[2].toPorts[0].ports[0]");
    assert_eq!(explains("db", 81), "spec.ingress[1]");
    assert_eq!(explains("x", 81), "spec.ingress[0]");
}

#[test]
fn of_equal_entries_the_first_object_and_path_explains() {
    let set = with_policies(&[
        ("NetworkPolicy", "{endpointSelector: {}, ingress: [{fromEntities: [all]}, {fromEntities: [all]}]}"),
        ("NetworkPolicy", "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEntities: [all]}]}"),
    ]);
    let decision = trace(&set, "db", "web", TCP, 1).ingress.unwrap();
    let rule = decision.rule.unwrap();
    assert_eq!((&*rule.object.name, &*rule.path), ("p0", "spec.ingress[0]"));
}

#[test]
fn cidrs_with_holes_and_islands() {
    let set = with_policy(
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromCIDRSet: [{cidr: 172.16.0.0/12, except: [172.16.1.0/24]}], fromCIDR: [172.16.1.64/26]}]}",
    );
    for (from, passes) in [
        ("172.16.0.1", true),
        ("172.31.255.255", true),
        ("172.32.0.0", false),
        ("172.16.1.1", false),
        ("172.16.1.63", false),
        ("172.16.1.64", true),
        ("172.16.1.127", true),
        ("172.16.1.128", false),
        ("2001:db8::1", false),
    ] {
        assert_eq!(enters(&set, from, "web", TCP, 1), passes, "{from}");
    }
}

/// The prefix of one policy lies inside the prefix of another: an address has one identity, and both must know it.
#[test]
fn prefixes_of_different_policies_nest() {
    let set = with_policies(&[
        ("NetworkPolicy", "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromCIDR: [172.16.0.0/12]}]}"),
        ("NetworkPolicy", "{endpointSelector: {matchLabels: {app: db}}, ingress: [{fromCIDR: [172.16.5.0/24]}]}"),
        (
            "NetworkPolicy",
            "{endpointSelector: {matchLabels: {app: web}}, ingressDeny: [{fromCIDRSet: [{cidr: 172.16.4.0/22, except: [172.16.5.128/25]}]}]}",
        ),
    ]);
    for (from, web, db) in [
        ("172.17.0.1", true, false),
        ("172.16.4.1", false, false),
        ("172.16.5.1", false, true),
        ("172.16.5.200", true, true),
    ] {
        assert_eq!(enters(&set, from, "web", TCP, 1), web, "{from} web");
        assert_eq!(enters(&set, from, "db", TCP, 1), db, "{from} db");
    }
}

#[test]
fn cidrs_never_match_endpoints_host_or_nodes() {
    let set = with_policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromCIDR: [0.0.0.0/0, '::/0']}]}");
    for (from, passes) in [
        ("203.0.113.9", true),
        ("2001:db8::9", true),
        ("world", true),
        ("db", false),
        ("far", false),
        ("10.0.1.10", false),
        ("fd00:1::10", false),
        ("host", false),
        ("192.0.2.2", false),
    ] {
        assert_eq!(enters(&set, from, "web", TCP, 1), passes, "{from}");
    }
}

#[test]
fn entities() {
    let froms = ["203.0.113.9", "2001:db8::9", "db", "far", "host", "192.0.2.2"];
    for (entity, expected) in [
        ("world", [true, true, false, false, false, false]),
        ("world-ipv4", [true, false, false, false, false, false]),
        ("world-ipv6", [false, true, false, false, false, false]),
        ("all", [true; 6]),
        ("cluster", [false, false, true, true, true, true]),
        ("host", [false, false, false, false, true, false]),
        ("remote-node", [false, false, false, false, false, true]),
        ("health", [false; 6]),
        ("none", [false; 6]),
    ] {
        // Another policy's prefix and node selector must not tear holes into an entity.
        for more in [
            "{endpointSelector: {matchLabels: {app: db}}, ingress: [{fromCIDR: [203.0.113.0/24, '2001:db8::/32']}]}",
            "{endpointSelector: {matchLabels: {app: db}}, egress: [{toNodes: [{matchLabels: {zone: b}}]}]}",
        ] {
            let policy =
                format!("{{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{{fromEntities: [{entity}]}}]}}");
            let set = with_policies(&[("NetworkPolicy", &policy), ("NetworkPolicy", more)]);
            for (from, passes) in froms.iter().zip(expected) {
                assert_eq!(enters(&set, from, "web", TCP, 1), passes, "{entity} {from}");
            }
        }
        if matches!(entity, "none" | "all" | "cluster") {
            // There is no such label.
            continue;
        }
        let label = format!(
            "{{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{{fromEndpoints: [{{matchLabels: {{'reserved:{entity}': ''}}}}]}}]}}"
        );
        let set = with_policy(&label);
        for (from, passes) in froms.iter().zip(expected) {
            assert_eq!(enters(&set, from, "web", TCP, 1), passes, "reserved:{entity} {from}");
        }
    }
}

#[test]
fn the_empty_selector_means_the_namespace_or_the_cluster() {
    let namespaced = with_policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{}]}]}");
    let clusterwide = with_policies(&[(
        "Clusterwide",
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{}]}]}",
    )]);
    for (from, here, anywhere) in
        [("db", true, true), ("far", true, true), ("x", false, true), ("host", false, false), ("world", false, false)]
    {
        assert_eq!(enters(&namespaced, from, "web", TCP, 1), here, "{from}");
        assert_eq!(enters(&clusterwide, from, "web", TCP, 1), anywhere, "{from}");
    }
    let across = with_policy(
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}]}]}",
    );
    assert!(enters(&across, "x", "web", TCP, 1) && !enters(&across, "db", "web", TCP, 1));
    let by_team = with_policies(&[(
        "Clusterwide",
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.namespace.labels.team: blue}}]}]}",
    )]);
    assert!(enters(&by_team, "x", "web", TCP, 1) && !enters(&by_team, "db", "web", TCP, 1));
}

#[test]
fn a_present_and_empty_list_of_peers_is_nobody() {
    for peers in ["fromEndpoints: []", "fromCIDR: []", "fromEntities: []", "fromCIDRSet: []"] {
        let set = with_policy(&format!("{{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{{{peers}}}]}}"));
        assert!(!enters(&set, "db", "web", TCP, 1) && !enters(&set, "world", "web", TCP, 1), "{peers}");
        assert!(set.tables.policy.is_empty());
    }
}

#[test]
fn the_empty_rule_only_makes_its_section_one_that_is_there() {
    let set = with_policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [{}], egressDeny: [{}]}");
    assert!(set.tables.policy.is_empty());
    assert_eq!(ingress(&set, "db", "web", TCP, 1), (Outcome::DefaultDeny, None));
    assert_eq!(egress(&set, "web", "db", TCP, 1), (Outcome::DefaultDeny, None));
    // An empty section is one that is not there.
    let empty = with_policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [], egressDeny: []}");
    assert_eq!(ingress(&empty, "db", "web", TCP, 1), (Outcome::NotEnforced, None));
    assert_eq!(egress(&empty, "web", "db", TCP, 1), (Outcome::NotEnforced, None));
    let ports = with_policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [{toPorts: [{}]}]}");
    assert!(enters(&ports, "world", "web", TCP, 1));
}

#[test]
fn a_namespaced_policy_selects_in_its_own_namespace() {
    let set = with_policy("{endpointSelector: {}, ingress: [{}]}");
    assert!(!enters(&set, "world", "web", TCP, 1) && enters(&set, "world", "x", TCP, 1));
    let everywhere = with_policies(&[("Clusterwide", "{endpointSelector: {}, ingress: [{}]}")]);
    assert!(!enters(&everywhere, "world", "x", TCP, 1));
    assert!(enters(&everywhere, "world", "host", TCP, 1), "the host is selected by nodes only");
}

#[test]
fn icmp_by_type_and_family() {
    let set = with_policy(
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{icmps: [{fields: [{type: 8, family: IPv4}, {type: 128, family: IPv6}]}]}, {toPorts: [{ports: [{port: '53', protocol: UDP}]}]}]}",
    );
    assert!(enters(&set, "10.0.0.11", "10.0.0.10", ICMP, 8) && !enters(&set, "10.0.0.11", "10.0.0.10", ICMP, 0));
    assert!(enters(&set, "fd00::11", "fd00::10", ICMPV6, 128) && !enters(&set, "fd00::11", "fd00::10", ICMPV6, 129));
    assert!(enters(&set, "db", "web", UDP, 53) && !enters(&set, "db", "web", TCP, 53));
    let any_port = with_policy(
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{toPorts: [{ports: [{port: '0', protocol: ANY}]}]}]}",
    );
    assert!(enters(&any_port, "db", "web", TCP, 9) && !enters(&any_port, "db", "web", ICMP, 8));
    let every_protocol =
        with_policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [{toPorts: [{ports: []}]}]}");
    assert!(enters(&every_protocol, "db", "web", ICMP, 8) && enters(&every_protocol, "db", "web", TCP, 9));
}

#[test]
fn named_ports_are_the_destinations() {
    let set = with_policies(&[
        ("NetworkPolicy", "{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]}"),
        ("NetworkPolicy", "{endpointSelector: {}, egress: [{toPorts: [{ports: [{port: sql, protocol: TCP}]}]}]}"),
    ]);
    assert!(enters(&set, "world", "web", TCP, 80), "web's http is 80");
    assert!(!enters(&set, "world", "db", TCP, 80), "db has no http");
    assert!(leaves(&set, "web", "db", TCP, 5432) && !leaves(&set, "web", "far", TCP, 5432));
    assert!(!leaves(&set, "web", "world", TCP, 5432), "nobody knows what the world calls sql");
}

#[test]
fn nodes_are_selected_by_their_labels() {
    let set = with_policies(&[
        (
            "NetworkPolicy",
            "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromNodes: [{matchLabels: {zone: b}}]}]}",
        ),
        (
            "NetworkPolicy",
            "{endpointSelector: {matchLabels: {app: db}}, ingress: [{fromNodes: [{matchLabels: {zone: a}}]}]}",
        ),
        ("NetworkPolicy", "{endpointSelector: {matchLabels: {app: web}}, egress: [{toEntities: [remote-node]}]}"),
    ]);
    assert!(enters(&set, "192.0.2.2", "web", TCP, 1) && !enters(&set, "host", "web", TCP, 1));
    // Node selectors are about other nodes; this one is the entity `host`.
    assert!(!enters(&set, "host", "db", TCP, 1) && !enters(&set, "192.0.2.2", "db", TCP, 1));
    assert!(leaves(&set, "web", "192.0.2.2", TCP, 1) && !leaves(&set, "web", "host", TCP, 1));
}

#[test]
fn the_host_firewall() {
    let set = with_policies(&[(
        "Clusterwide",
        "{nodeSelector: {matchLabels: {zone: a}}, ingress: [{fromEntities: [cluster]}, {toPorts: [{ports: [{port: '22', protocol: TCP}]}]}]}",
    )]);
    assert!(enters(&set, "world", "host", TCP, 22) && !enters(&set, "world", "host", TCP, 23));
    assert!(enters(&set, "web", "host", TCP, 23) && enters(&set, "world", "web", TCP, 23));
    let elsewhere = with_policies(&[("Clusterwide", "{nodeSelector: {matchLabels: {zone: b}}, ingress: [{}]}")]);
    assert!(elsewhere.tables.subjects.is_empty());
}

#[test]
fn several_specs_have_paths_of_their_own() {
    let text = format!(
        "{CLUSTER}apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspecs:\n- {{endpointSelector: {{matchLabels: {{app: db}}}}, ingress: [{{fromEntities: [all]}}]}}\n- {{endpointSelector: {{matchLabels: {{app: web}}}}, egressDeny: [{{toPorts: [{{ports: [{{port: '25'}}]}}]}}]}}\n"
    );
    let set = compiled(&text);
    assert_eq!(ingress(&set, "web", "db", TCP, 1).1.unwrap(), "specs[0].ingress[0]");
    assert_eq!(egress(&set, "web", "db", TCP, 25).1.unwrap(), "specs[1].egressDeny[0].toPorts[0].ports[0]");
}

#[test]
fn kubernetes_policies() {
    let set = with_policies(&[(
        "Kubernetes",
        "{podSelector: {matchLabels: {app: web}}, ingress: [
            {from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 80}]},
            {from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: x}}}], ports: [{port: 90, endPort: 92, protocol: UDP}]},
            {from: [{ipBlock: {cidr: 172.16.0.0/12, except: [172.16.9.0/24]}}], ports: [{protocol: TCP}]},
            {ports: [{port: http}]}]}",
    )]);
    assert_eq!(ingress(&set, "db", "web", TCP, 80).1.unwrap(), "spec.ingress[0].ports[0]");
    assert!(!enters(&set, "db", "web", UDP, 80) && enters(&set, "world", "web", TCP, 80), "http is 80");
    assert!(
        enters(&set, "x", "web", UDP, 92) && !enters(&set, "x", "web", UDP, 93) && !enters(&set, "db", "web", UDP, 92)
    );
    assert!(enters(&set, "172.16.0.1", "web", TCP, 9) && !enters(&set, "172.16.9.1", "web", TCP, 9));
    assert!(leaves(&set, "web", "world", TCP, 1), "only Ingress");

    let egress_only = with_policies(&[(
        "Kubernetes",
        "{podSelector: {}, policyTypes: [Egress], ingress: [{}], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}]}]}",
    )]);
    assert!(enters(&egress_only, "world", "web", TCP, 1), "policyTypes leaves ingress out");
    assert!(leaves(&egress_only, "web", "x", TCP, 1) && !leaves(&egress_only, "web", "db", TCP, 1));
    assert!(!leaves(&egress_only, "web", "host", TCP, 1));

    let both = with_policies(&[("Kubernetes", "{podSelector: {}, policyTypes: [Ingress, Egress]}")]);
    assert!(!enters(&both, "db", "web", TCP, 1) && !leaves(&both, "web", "db", TCP, 1));
    let implied = with_policies(&[("Kubernetes", "{podSelector: {}, egress: [{ports: [{port: 53, protocol: UDP}]}]}")]);
    assert!(!enters(&implied, "db", "web", TCP, 1) && !leaves(&implied, "web", "db", TCP, 1));
    assert!(leaves(&implied, "web", "world", UDP, 53));
    let empty = with_policies(&[("Kubernetes", "{podSelector: {}, egress: []}")]);
    assert!(!enters(&empty, "db", "web", TCP, 1) && leaves(&empty, "web", "db", TCP, 1), "as the API server defaults");
}
