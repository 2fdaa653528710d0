//! Protocols, ports, ranges, names and ICMP types.
use weir_oracle::FlowProtocol;

use crate::set::*;

#[test]
fn one_identity_and_one_port() {
    let set = on_web(
        "ingress: [{fromEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: '80', protocol: UDP}]}]}]",
    );
    for (source, destination) in [(DB, WEB), (DB6, WEB6)] {
        assert!(set.reaches(source, destination, udp(80)));
        assert!(!set.reaches(source, destination, udp(81)));
        assert!(!set.reaches(source, destination, udp(79)));
        assert!(!set.reaches(source, destination, tcp(80)));
    }
    assert!(!set.reaches(FAR, WEB, udp(80)));
    assert!(!set.reaches(WORLD, WEB, udp(80)));
}

#[test]
fn a_range_holds_exactly_its_ports() {
    for (first, last) in [(80u16, 83u16), (0, 7), (65530, 65535), (1023, 1025), (65535, 65535), (1, 65535)] {
        let set = on_web(&format!(
            "ingress: [{{toPorts: [{{ports: [{{port: '{first}', endPort: {last}, protocol: TCP}}]}}]}}]"
        ));
        for port in [first, last, first.midpoint(last)] {
            assert!(set.reaches(DB, WEB, tcp(port)), "{first}-{last}: {port}");
            assert!(!set.reaches(DB, WEB, udp(port)), "{first}-{last}: udp {port}");
        }
        for outside in [first.checked_sub(1), last.checked_add(1)].into_iter().flatten() {
            assert!(!set.reaches(DB, WEB, tcp(outside)), "{first}-{last}: {outside}");
        }
    }
}

#[test]
fn port_0_is_every_port_of_the_protocol() {
    let set = on_web("ingress: [{toPorts: [{ports: [{port: '0', protocol: UDP}]}]}]");
    assert!(set.reaches(DB, WEB, udp(1)) && set.reaches(DB, WEB, udp(65535)));
    assert!(!set.reaches(DB, WEB, tcp(1)));
}

#[test]
fn any_protocol_is_tcp_udp_and_sctp() {
    let set = on_web("ingress: [{toPorts: [{ports: [{port: '80'}]}]}]");
    assert!(set.reaches(DB, WEB, tcp(80)) && set.reaches(DB, WEB, udp(80)));
    assert!(set.reaches(DB, WEB, FlowProtocol::Sctp { source: 1, destination: 80 }));
    assert!(!set.reaches(DB, WEB, FlowProtocol::Icmp { kind: 80 }));
    assert!(!set.reaches(DB, WEB, FlowProtocol::Other(47)));
}

#[test]
fn no_ports_at_all_is_every_protocol() {
    for ports in ["", ", toPorts: []", ", toPorts: [{}]", ", toPorts: [{ports: []}]", ", icmps: []"] {
        let set = on_web(&format!("ingress: [{{fromEndpoints: [{{}}]{ports}}}]"));
        for protocol in [tcp(0), udp(9), FlowProtocol::Icmp { kind: 8 }, FlowProtocol::Other(47)] {
            assert!(set.reaches(DB, WEB, protocol), "{ports:?} {protocol:?}");
        }
        assert!(!set.reaches(WORLD, WEB, tcp(80)));
    }
}

#[test]
fn a_named_port_is_resolved_where_the_flow_arrives() {
    let ingress = on_web("ingress: [{toPorts: [{ports: [{port: http}]}]}]");
    assert!(ingress.reaches(DB, WEB, tcp(80)));
    assert!(!ingress.reaches(DB, WEB, udp(80)), "web's http is TCP");
    assert!(!ingress.reaches(DB, WEB, tcp(8080)), "that is db's http");
    let egress = on_web("egress: [{toPorts: [{ports: [{port: http}]}]}]");
    assert!(egress.reaches(WEB, DB, tcp(8080)) && egress.reaches(WEB, DB, udp(8080)), "db's http is any protocol");
    assert!(!egress.reaches(WEB, DB, tcp(80)), "that is web's own http");
    assert!(!egress.reaches(WEB, FAR, tcp(80)) && !egress.reaches(WEB, WORLD, tcp(80)), "they have no http");
}

#[test]
fn icmp_by_family_and_type() {
    let set = on_web(
        "ingress: [{icmps: [{fields: [{type: 8}, {family: IPv6, type: EchoRequest}, {family: IPv6, type: 128}]}]}]",
    );
    assert!(set.reaches(DB, WEB, FlowProtocol::Icmp { kind: 8 }));
    assert!(!set.reaches(DB, WEB, FlowProtocol::Icmp { kind: 0 }));
    assert!(!set.reaches(DB, WEB, FlowProtocol::Icmp { kind: 128 }), "the other family's type");
    assert!(set.reaches(DB6, WEB6, FlowProtocol::Icmpv6 { kind: 128 }));
    assert!(!set.reaches(DB6, WEB6, FlowProtocol::Icmpv6 { kind: 129 }));
    assert!(!set.reaches(DB, WEB, tcp(8)));
    assert_eq!(
        set.ingress_rule(DB6, WEB6, FlowProtocol::Icmpv6 { kind: 128 }),
        Some("spec.ingress[0].icmps[0].fields[1]".to_owned())
    );
}
