//! Flows and their states (scenarios 10 to 12).
use weir_abi::{ConntrackEntry, Reason, ct_flags, identity, interface_flags};
use weir_tests::{
    both_families,
    packet::{
        frame::{self, ACK, FIN, RST, SYN, TCP, UDP},
        instance::Size,
        lab::{Hook, Lab},
        world::{DB, DB_DEVICE, Family, Match, NETWORK_DEVICE, OFFICE, WEB, WEB_DEVICE, Way, World, at},
    },
};

/// Web may open connections to port 80 outside; nothing may come in.
fn clients() -> World {
    let mut world = World::new();
    world.enforce(WEB, Way::Ingress);
    world.enforce(WEB, Way::Egress);
    world.allow(WEB, Way::Egress, Match::ANY.port(TCP, 80));
    world
}

both_families! {
    fn scenario_10_the_life_of_a_connection(family) {
        let lab = Lab::new(&clients());
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 80));
        let out = |flags| lab.passes(Hook::FromWeb, &frame::tcp(client, server, flags));
        let back = |flags| lab.passes(Hook::ToWeb, &frame::tcp(server, client, flags));
        let lives = |seconds| lab.lives(&lab.only_entry(true), seconds);

        out(SYN);
        lives(60);
        assert_eq!(lab.only_entry(true).flags & !ct_flags::SOURCE_IS_HIGH, 0);
        // A handshake is not over with its second packet.
        back(SYN | ACK);
        lives(60);
        assert_ne!(lab.only_entry(true).flags & ct_flags::SEEN_REPLY, 0);
        out(ACK);
        lives(8000);
        // An hour without a packet.
        lab.sleep(3600);
        back(ACK);
        lives(8000);
        // Half closed is not closed.
        out(FIN | ACK);
        lives(8000);
        back(ACK);
        back(FIN | ACK);
        lives(10);
        out(ACK);
        lives(10);
        // The same ports again: another connection, which begins at the beginning.
        out(SYN);
        lives(60);
        assert_eq!(lab.only_entry(true).flags & !ct_flags::SOURCE_IS_HIGH, 0);
    }

    fn scenario_10_a_new_syn_on_a_closing_entry_is_judged(family) {
        let lab = Lab::new(&clients());
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 80));
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, SYN));
        lab.passes(Hook::ToWeb, &frame::tcp(server, client, SYN | ACK));
        lab.passes(Hook::ToWeb, &frame::tcp(server, client, RST));
        lab.lives(&lab.only_entry(true), 10);
        // From the other side, which has no permission to open anything.
        lab.drops(Hook::ToWeb, &frame::tcp(server, client, SYN), Reason::PolicyDefaultDeny);
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, SYN));
    }

    fn scenario_10_an_expired_entry_does_not_exist(family) {
        let lab = Lab::new(&clients());
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 80));
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, SYN));
        lab.sleep(30);
        lab.passes(Hook::ToWeb, &frame::tcp(server, client, SYN | ACK));
        lab.sleep(62);
        lab.drops(Hook::ToWeb, &frame::tcp(server, client, ACK), Reason::PolicyDefaultDeny);
    }

    fn scenario_10_other_protocols_live_a_minute(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        let lab = Lab::new(&world);
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 53));
        lab.passes(Hook::FromWeb, &frame::udp(client, server));
        for _ in 0..3 {
            lab.sleep(40);
            lab.passes(Hook::ToWeb, &frame::udp(server, client));
        }
        lab.sleep(61);
        lab.drops(Hook::ToWeb, &frame::udp(server, client), Reason::PolicyDefaultDeny);
    }

    fn scenario_10_timeouts_are_the_settings(family) {
        let mut world = clients();
        world.settings(|settings| {
            settings.tcp_syn = 7;
            settings.tcp_established = 70;
            settings.tcp_closing = 3;
        });
        let lab = Lab::new(&world);
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 80));
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, SYN));
        lab.lives(&lab.only_entry(true), 7);
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, ACK));
        lab.lives(&lab.only_entry(true), 70);
        // A shorter one, committed later, holds from the next packet on.
        world.settings(|settings| settings.tcp_established = 30);
        lab.commit(&world);
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, ACK));
        lab.lives(&lab.only_entry(true), 30);
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, RST));
        lab.lives(&lab.only_entry(true), 3);
    }

    fn scenario_11_a_packet_from_the_middle_is_judged(family) {
        let lab = Lab::new(&clients());
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 80));
        // The answer first: its own direction has no permission.
        lab.drops(Hook::ToWeb, &frame::tcp(server, client, ACK), Reason::PolicyDefaultDeny);
        assert!(lab.conntrack(true).is_empty(), "what is denied makes no entry");
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, ACK));
        lab.lives(&lab.only_entry(true), 8000);
        lab.passes(Hook::ToWeb, &frame::tcp(server, client, ACK));
    }

    /// A table of a few hundred entries, and thousands of flows: each is judged, none slips through or is lost.
    fn scenario_11_a_full_table_forgets_and_never_lets_pass(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.allow(WEB, Way::Ingress, Match::ANY.port(UDP, 80));
        let lab = Lab::with(&world, Size { conntrack: 256, ..Size::default() });
        for port in 1..1200 {
            lab.passes(Hook::ToWeb, &frame::udp(at(family.stranger(), port), at(family.web(), 80)));
            if port % 10 == 0 {
                let denied = frame::udp(at(family.stranger(), port), at(family.web(), 81));
                lab.drops(Hook::ToWeb, &denied, Reason::PolicyDefaultDeny);
            }
        }
        assert!(lab.conntrack(false).len() <= 256);
    }

    fn scenario_12_many_flows_from_one_source(family) {
        let lab = Lab::new(&clients());
        for port in 1000..1300 {
            lab.passes(Hook::FromWeb, &frame::tcp(at(family.web(), port), at(family.stranger(), 80), SYN));
        }
        assert_eq!(lab.conntrack(true).len(), 300);
        for port in 1000..1300 {
            lab.passes(Hook::ToWeb, &frame::tcp(at(family.stranger(), 80), at(family.web(), port), SYN | ACK));
            let other = frame::tcp(at(family.stranger(), 80), at(family.web(), port + 1000), SYN | ACK);
            lab.drops(Hook::ToWeb, &other, Reason::PolicyDefaultDeny);
        }
    }

    fn scenario_12_the_same_port_at_both_ends(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        let lab = Lab::new(&world);
        let (web, stranger) = (at(family.web(), 123), at(family.stranger(), 123));
        lab.drops(Hook::ToWeb, &frame::udp(stranger, web), Reason::PolicyDefaultDeny);
        lab.passes(Hook::FromWeb, &frame::udp(web, stranger));
        lab.passes(Hook::ToWeb, &frame::udp(stranger, web));
        assert_eq!(lab.conntrack(false).len(), 1);
        // And at one address: both ends of the key are the same.
        let loops = frame::udp(web, web);
        lab.passes(Hook::FromWeb, &loops);
    }

    fn scenario_12_simultaneous_open(family) {
        let lab = Lab::new(&clients());
        let (web, peer) = (at(family.web(), 80), at(family.stranger(), 80));
        lab.passes(Hook::FromWeb, &frame::tcp(web, peer, SYN));
        lab.passes(Hook::ToWeb, &frame::tcp(peer, web, SYN));
        lab.passes(Hook::FromWeb, &frame::tcp(web, peer, SYN | ACK));
        lab.passes(Hook::ToWeb, &frame::tcp(peer, web, SYN | ACK));
        lab.passes(Hook::FromWeb, &frame::tcp(web, peer, ACK));
        lab.lives(&lab.only_entry(true), 8000);
    }

    /// Two local endpoints share one entry: each end has its own word.
    fn a_local_flow_has_two_verdicts_and_one_entry(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Egress);
        let egress = world.allow(WEB, Way::Egress, Match::peer(DB));
        world.enforce(DB, Way::Ingress);
        let ingress = world.allow(DB, Way::Ingress, Match::peer(WEB));
        let lab = Lab::new(&world);
        let (client, server) = (at(family.web(), 1234), at(family.db(), 5432));
        assert_eq!(lab.passes(Hook::FromWeb, &frame::tcp(client, server, SYN)).rule, egress);
        assert_eq!(lab.passes(Hook::ToDb, &frame::tcp(client, server, SYN)).rule, ingress);
        assert_eq!(lab.passes(Hook::FromDb, &frame::tcp(server, client, SYN | ACK)).rule, ingress);
        assert_eq!(lab.passes(Hook::ToWeb, &frame::tcp(server, client, SYN | ACK)).rule, egress);
        let entry = lab.only_entry(true);
        assert_eq!((entry.egress.rule(), entry.ingress.rule()), (egress, ingress));
        assert_eq!((entry.source_incarnation, entry.destination_incarnation), (1, 1));
        let epoch = lab.generation().epoch;
        assert_eq!((entry.egress.epoch(), entry.ingress.epoch()), (epoch, epoch));
        assert_eq!((lab.rule(egress).packets, lab.rule(ingress).packets), (2, 2));
    }

    /// What nobody let in answers nothing: the denied end may begin a flow of its own over the same ports.
    fn a_flow_that_was_refused_does_not_stand_in_the_way_of_the_other_direction(family) {
        let mut world = World::new();
        world.enforce(DB, Way::Ingress);
        let lab = Lab::new(&world);
        let (web, db) = (at(family.web(), 500), at(family.db(), 500));
        lab.passes(Hook::FromWeb, &frame::udp(web, db));
        lab.drops(Hook::ToDb, &frame::udp(web, db), Reason::PolicyDefaultDeny);
        lab.passes(Hook::FromDb, &frame::udp(db, web));
        lab.passes(Hook::ToWeb, &frame::udp(db, web));
        // Now it is the answer to a flow that db began.
        lab.passes(Hook::FromWeb, &frame::udp(web, db));
        lab.passes(Hook::ToDb, &frame::udp(web, db));
    }

    /// The endpoint was made anew: flows of the former one are not its own.
    fn entries_of_a_former_endpoint_are_void(family) {
        let mut world = clients();
        let lab = Lab::new(&world);
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 80));
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, SYN));
        lab.passes(Hook::ToWeb, &frame::tcp(server, client, SYN | ACK));
        world.interface(WEB_DEVICE, |info| info.incarnation = 2);
        lab.commit(&world);
        lab.drops(Hook::ToWeb, &frame::tcp(server, client, ACK), Reason::PolicyDefaultDeny);
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, ACK));
        assert_eq!(lab.only_entry(true).source_incarnation, 2);
        lab.passes(Hook::ToWeb, &frame::tcp(server, client, ACK));
    }

    /// Where the source is not checked, another endpoint may send with web's addresses: it is judged by its own labels,
    /// and neither profits from the other's verdict nor changes it.
    fn a_verdict_counts_for_the_device_that_it_was_judged_on(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Egress);
        world.allow(WEB, Way::Egress, Match::ANY.port(UDP, 53));
        world.enforce(DB, Way::Egress);
        let lab = Lab::new(&world);
        let packet = frame::udp(at(family.web(), 4000), at(family.stranger(), 53));
        for _ in 0..3 {
            lab.passes(Hook::FromWeb, &packet);
            lab.drops(Hook::FromDb, &packet, Reason::PolicyDefaultDeny);
        }
    }

    /// Their replies pass, which no rule allows, before user space has copied a single one.
    fn flows_go_on_while_conntrack_moves_to_other_tables(family) {
        // As large as ours; and of versions whose entries are shorter or longer at their end.
        let ours = size_of::<ConntrackEntry>() as u32;
        for entry in [ours, ours - 16, ours + 8, ours + 64] {
            let lab = Lab::with(&clients(), Size { former: Some(entry), ..Size::default() });
            let (client, server) = (at(family.web(), 1234), at(family.stranger(), 80));
            lab.passes(Hook::FromWeb, &frame::tcp(client, server, SYN));
            let before = lab.only_entry(true);
            lab.replace_conntrack();
            assert!(lab.conntrack(true).is_empty());
            lab.passes(Hook::ToWeb, &frame::tcp(server, client, SYN | ACK));
            let after = lab.only_entry(true);
            assert_eq!((after.egress, after.service, after.flags & !ct_flags::SEEN_REPLY), (before.egress, before.service, before.flags));
            assert_ne!(after.flags & ct_flags::SEEN_REPLY, 0);
            // What was never there is as new as ever.
            lab.drops(Hook::ToWeb, &frame::tcp(at(family.stranger(), 81), client, ACK), Reason::PolicyDefaultDeny);
        }
    }

    /// The host firewall: only what goes to or comes from an address of the host.
    fn host_policy_on_network_devices(family) {
        let mut world = World::new();
        world.enforce(identity::HOST, Way::Ingress);
        let ssh = world.allow(identity::HOST, Way::Ingress, Match::peer(OFFICE).port(TCP, 22));
        let lab = Lab::new(&world);
        let host = |port| at(family.host(), port);
        // Without the flag the device's programs look at nothing, and count nothing.
        let before = lab.metrics();
        let stranger = frame::tcp(at(family.stranger(), 1), host(22), SYN);
        assert_eq!(lab.run(Hook::FromNetwork, &stranger, 1).retval, weir_abi::tc_action::CONTINUE as u32);
        assert_eq!(lab.metrics(), before);

        world.host_policy();
        lab.commit(&world);
        lab.drops(Hook::FromNetwork, &stranger, Reason::PolicyDefaultDeny);
        let outcome = lab.passes(Hook::FromNetwork, &frame::tcp(at(family.colleague(), 1), host(22), SYN));
        assert_eq!((outcome.rule, outcome.trace.subject, outcome.trace.peer), (ssh, identity::HOST, OFFICE));
        lab.passes(Hook::ToNetwork, &frame::tcp(host(22), at(family.colleague(), 1), SYN | ACK));
        lab.drops(Hook::FromNetwork, &frame::tcp(at(family.colleague(), 1), host(23), SYN), Reason::PolicyDefaultDeny);
        // The host's own flows and their answers.
        lab.passes(Hook::ToNetwork, &frame::udp(host(999), at(family.stranger(), 53)));
        lab.passes(Hook::FromNetwork, &frame::udp(at(family.stranger(), 53), host(999)));
        // What is only forwarded is none of the host's business.
        lab.passes(Hook::FromNetwork, &frame::tcp(at(family.stranger(), 1), at(family.web(), 22), SYN));
        lab.passes(Hook::ToNetwork, &frame::tcp(at(family.web(), 22), at(family.stranger(), 1), SYN));
        // A device that is not a network device of ours is left alone.
        world.interface(NETWORK_DEVICE, |info| info.flags &= !interface_flags::NETWORK);
        lab.commit(&world);
        assert_eq!(lab.run(Hook::FromNetwork, &stranger, 1).retval, weir_abi::tc_action::CONTINUE as u32);
    }

    /// Between an endpoint and its own host both policies hold, at the endpoint's hooks.
    fn host_policy_at_the_endpoints_hooks(family) {
        let mut world = World::new();
        world.host_policy();
        world.enforce(identity::HOST, Way::Ingress);
        world.enforce(identity::HOST, Way::Egress);
        let dns = world.allow(identity::HOST, Way::Ingress, Match::peer(WEB).port(UDP, 53));
        let check = world.allow(identity::HOST, Way::Egress, Match::peer(DB).port(TCP, 5432));
        let lab = Lab::new(&world);
        let host = |port| at(family.host(), port);
        let query = frame::udp(at(family.web(), 777), host(53));
        lab.passes(Hook::FromWeb, &query);
        lab.passes(Hook::ToWeb, &frame::udp(host(53), at(family.web(), 777)));
        assert_eq!(lab.rule(dns).packets, 2);
        let outcome = lab.drops(Hook::FromDb, &frame::udp(at(family.db(), 777), host(53)), Reason::PolicyDefaultDeny);
        assert_eq!((outcome.trace.subject, outcome.trace.peer), (identity::HOST, DB));
        lab.passes(Hook::ToDb, &frame::tcp(host(40000), at(family.db(), 5432), SYN));
        lab.passes(Hook::FromDb, &frame::tcp(at(family.db(), 5432), host(40000), SYN | ACK));
        assert_eq!(lab.rule(check).packets, 2);
        lab.drops(Hook::ToWeb, &frame::tcp(host(40000), at(family.web(), 80), SYN), Reason::PolicyDefaultDeny);

        // Taken back in the middle of the flow: by the host's policy alone.
        world.revoke(identity::HOST, Way::Ingress, Match::peer(WEB).port(UDP, 53));
        lab.commit(&world);
        lab.drops(Hook::ToWeb, &frame::udp(host(53), at(family.web(), 777)), Reason::PolicyDefaultDeny);
        lab.drops(Hook::FromWeb, &query, Reason::PolicyDefaultDeny);
        world.allow(identity::HOST, Way::Ingress, Match::peer(WEB).port(UDP, 53));
        lab.commit(&world);
        lab.passes(Hook::FromWeb, &query);

        // The endpoint's own policy as well.
        world.enforce(WEB, Way::Egress);
        lab.commit(&world);
        let outcome = lab.drops(Hook::FromWeb, &query, Reason::PolicyDefaultDeny);
        assert_eq!(outcome.trace.subject, WEB);
        // And an address that is the host's no more is judged as what it is now.
        let mut moved = World::new();
        moved.host_policy();
        moved.enforce(identity::HOST, Way::Ingress);
        moved.identify(family.host(), identity::REMOTE_NODE);
        lab.commit(&moved);
        lab.passes(Hook::FromWeb, &query);
    }

    /// A device that is not in the tables of the live side is left alone.
    fn unknown_devices_are_left_alone(family) {
        let mut world = World::new();
        world.enforce(DB, Way::Ingress);
        world.tables.interfaces.remove(&DB_DEVICE.into());
        let lab = Lab::new(&world);
        let before = lab.metrics();
        let packet = frame::udp(at(family.stranger(), 1), at(family.db(), 1));
        assert_eq!(lab.run(Hook::ToDb, &packet, 1).retval, weir_abi::tc_action::CONTINUE as u32);
        assert_eq!(lab.metrics(), before);
    }
}

#[test]
fn scenario_25_a_flood_loses_events_and_says_how_many_and_no_packet() {
    let mut world = World::new();
    world.enforce(WEB, Way::Ingress);
    let lab = Lab::with(&world, Size { tracing: false, ..Size::default() });
    let packet = frame::udp(at(Family::V4.stranger(), 1), at(Family::V4.web(), 1));
    const DROPS: u32 = 100_000;
    let run = lab.run(Hook::ToWeb, &packet, DROPS);
    assert_eq!(run.retval, weir_abi::tc_action::DROP as u32);
    let events = lab.events().len() as u64;
    // Some in each jiffy that it took.
    let jiffies = lab.last_run_jiffies();
    assert!(events >= 32 && events <= 32 * (jiffies + 1), "{events} events in {jiffies} jiffies");
    assert_eq!(events + lab.lost_events(), u64::from(DROPS));
    let slot = weir_abi::metric_slot(Reason::PolicyDefaultDeny, weir_abi::Direction::Egress);
    assert_eq!(lab.metrics()[&slot].packets, u64::from(DROPS));
    // And a full ring, which nobody reads: each jiffy gives a few more, until no more fit.
    let mut lost = lab.lost_events();
    for round in 0.. {
        assert!(round < 4000, "the ring never fills");
        std::thread::sleep(std::time::Duration::from_millis(12));
        lab.run(Hook::ToWeb, &packet, 32);
        if lab.lost_events() == lost + 32 {
            break;
        }
        lost = lab.lost_events();
    }
    assert!(lab.events().len() > 1000);
}
