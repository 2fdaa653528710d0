//! Programs and devices on the real kernel: attached, swapped, mended, taken away.
mod node;

use std::{
    net::UdpSocket,
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use node::{apply, attempt, capacity, ip, node, node_alone, observe, open, run, some_tables};
use weir_datapath::{Kernel, Residue};
use weir_plan::{
    Datapath as _, DatapathError, Device, EndpointPair, Hook, HookKey, HookState, InterfaceName, Observed, ROUTER,
    RouterPair, Tables, Wiring, XdpAttach,
};

/// A network namespace with a name, which is gone when this is dropped.
struct Netns(String);

impl Netns {
    fn new(name: &str) -> Self {
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self(name.to_owned())
    }
}

/// The first one may find a link that is still on its way up.
fn pings(line: &str) {
    assert!((0..10).any(|_| attempt(line).0), "{line}: no answer");
}

impl Drop for Netns {
    fn drop(&mut self) {
        attempt(&format!("ip netns del {}", self.0));
    }
}

fn hook(interface: &str, hook: Hook) -> HookKey {
    HookKey::on(interface.into(), hook)
}

fn hooks(hooks: &[(HookKey, HookState)]) -> Wiring {
    Wiring { hooks: hooks.iter().cloned().collect(), ..Wiring::default() }
}

/// The order of an apply.
fn wire(kernel: &mut Kernel, wiring: &Wiring) -> Result<(), DatapathError> {
    let observed = kernel.observe()?;
    let there = observed.map_or_else(Wiring::default, |observed: Observed| observed.wiring);
    let delta = there.diff(wiring);
    kernel.prepare(&Tables::default(), &capacity())?;
    kernel.build(&delta)?;
    kernel.flip()?;
    kernel.grace()?;
    kernel.tear(&delta)
}

fn pair(name: &str) {
    run(&format!("ip link add {name} type veth peer name {name}p"));
    run(&format!("ip link set {name} up"));
    run(&format!("ip link set {name}p up"));
}

fn endpoint(way: HookState, interface: &str) -> Vec<(HookKey, HookState)> {
    vec![(hook(interface, Hook::FromEndpoint), way), (hook(interface, Hook::ToEndpoint), way)]
}

#[test]
fn hooks_are_attached_observed_and_found_again_in_every_way() {
    for way in [HookState::Tcx, HookState::Clsact] {
        node_alone(|| {
            pair("v0");
            pair("v1.5");
            let mut wanted = endpoint(way, "v0");
            wanted.push((hook("v1.5", Hook::FromNetwork), way));
            wanted.push((hook("v1.5", Hook::ToNetwork), way));
            wanted.push((hook("v1.5", Hook::XdpIngress), HookState::Xdp(XdpAttach::Auto)));
            let wanted = hooks(&wanted);
            let mut kernel = open();
            wire(&mut kernel, &wanted).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, wanted);
            drop(kernel);

            let mut again = open();
            let before = again.writes();
            let observed = observe(&mut again);
            assert_eq!(observed.wiring, wanted, "the hooks outlive the process");
            again.build(&observed.wiring.diff(&wanted)).expect("building nothing");
            again.tear(&observed.wiring.diff(&wanted)).expect("tearing nothing");
            assert_eq!(again.writes(), before);
            assert!(again.attachments().expect("attachments").iter().all(|attachment| attachment.current));

            wire(&mut again, &Wiring::default()).expect("unwiring");
            assert_eq!(observe(&mut again).wiring, Wiring::default());
            assert!(!run("tc qdisc show").contains("clsact"), "the qdisc that we made is gone");
            // A process that another test has just forked may hold the link for a moment.
            let gone = || !run("ip -d link show v1.5").contains("xdp");
            let later = || std::thread::sleep(Duration::from_millis(10));
            assert!((0..200).any(|_| gone() || (later(), false).1), "the XDP program is gone");
        });
    }
}

#[test]
fn a_hook_goes_from_clsact_to_tcx_and_back() {
    node(|| {
        pair("v0");
        let mut kernel = open();
        for way in [HookState::Clsact, HookState::Tcx, HookState::Clsact] {
            let wanted = hooks(&endpoint(way, "v0"));
            wire(&mut kernel, &wanted).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, wanted);
        }
    });
}

#[test]
fn both_ways_at_once_is_stale_and_mended() {
    node(|| {
        pair("v0");
        let mut kernel = open();
        let tcx = hooks(&endpoint(HookState::Tcx, "v0"));
        wire(&mut kernel, &tcx).expect("wiring");
        // A change to clsact that was cut short after the new was attached.
        let pins: Vec<_> = std::fs::read_dir(node::pin_dir().join("links")).expect("links").flatten().collect();
        let saved: Vec<_> = pins.iter().map(|pin| (pin.path(), weir_datapath::sys::pin_get(&pin.path()))).collect();
        wire(&mut kernel, &hooks(&endpoint(HookState::Clsact, "v0"))).expect("wiring");
        for (path, link) in &saved {
            let link = link.as_ref().expect("the link, held open");
            weir_datapath::sys::pin_replace(link.as_fd(), path).expect("pinning it again");
        }
        drop(saved);
        let observed = observe(&mut kernel).wiring;
        assert!(observed.hooks.iter().all(|(_, state)| *state == HookState::Stale), "{observed:?}");
        wire(&mut kernel, &tcx).expect("wiring");
        assert_eq!(observe(&mut kernel).wiring, tcx);
    });
}

#[test]
fn every_kind_of_drift_shows_and_is_mended() {
    for way in [HookState::Tcx, HookState::Clsact] {
        node(|| {
            pair("v0");
            let mut all = endpoint(way, "v0");
            all.push((hook("v0", Hook::XdpIngress), HookState::Xdp(XdpAttach::Auto)));
            let wanted = hooks(&all);
            let mut kernel = open();
            wire(&mut kernel, &wanted).expect("wiring");
            std::fs::remove_file(node::pin_dir().join("links/v0=xdp_ingress")).expect("unpinning");
            assert_eq!(observe(&mut kernel).wiring, hooks(&endpoint(way, "v0")));
            wire(&mut kernel, &wanted).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, wanted);
            if way == HookState::Tcx {
                std::fs::remove_file(node::pin_dir().join("links/v0=from_endpoint")).expect("unpinning");
            } else {
                run("tc filter del dev v0 ingress");
            }
            let observed = observe(&mut kernel).wiring;
            let mut left = wanted.clone();
            left.hooks.remove(&hook("v0", Hook::FromEndpoint));
            assert_eq!(observed, left, "one hook is gone");
            wire(&mut kernel, &wanted).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, wanted);

            // Made anew under the same name.
            run("ip link del v0");
            assert_eq!(observe(&mut kernel).wiring, Wiring::default());
            pair("v0");
            assert_eq!(observe(&mut kernel).wiring, Wiring::default());
            wire(&mut kernel, &wanted).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, wanted);

            // Another program in our place.
            if way == HookState::Clsact {
                run("tc filter del dev v0 egress");
                run("tc qdisc del dev v0 clsact");
                assert_eq!(observe(&mut kernel).wiring, hooks(&all[2..]));
                wire(&mut kernel, &wanted).expect("wiring");
                assert_eq!(observe(&mut kernel).wiring, wanted);
            }
        });
    }
}

#[test]
fn a_renamed_device_keeps_its_programs() {
    for way in [HookState::Tcx, HookState::Clsact] {
        node(|| {
            pair("v0");
            let mut kernel = open();
            let all = |name: &str| {
                let mut all = endpoint(way, name);
                all.push((hook(name, Hook::XdpIngress), HookState::Xdp(XdpAttach::Generic)));
                hooks(&all)
            };
            wire(&mut kernel, &all("v0")).expect("wiring");
            run("ip link set v0 down");
            run("ip link set v0 name w0");
            wire(&mut kernel, &all("w0")).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, all("w0"));
            kernel.uninstall().expect("uninstalling");
            // The kernel lets go of a link's program when nobody runs it any more.
            let left = || run("tc qdisc show").contains("clsact") || run("ip -d link show w0").contains("xdp");
            let gone = (0..200).any(|_| {
                let gone = !left();
                if !gone {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                gone
            });
            assert!(gone, "{}{}", run("tc qdisc show"), run("ip -d link show w0"));
        });
    }
}

#[test]
fn xdp_is_attached_as_asked_and_its_reason_is_kept() {
    node(|| {
        pair("v0");
        let mut kernel = open();
        for mode in [XdpAttach::Native, XdpAttach::Generic, XdpAttach::Auto, XdpAttach::Native] {
            let wanted = hooks(&[(hook("v0", Hook::XdpIngress), HookState::Xdp(mode))]);
            wire(&mut kernel, &wanted).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, wanted);
        }
        assert_eq!(kernel.attachments().expect("attachments")[0].way, "xdp native");

        // A bridge has no native XDP.
        run("ip link add br0 type bridge");
        let wanted = hooks(&[(hook("br0", Hook::XdpIngress), HookState::Xdp(XdpAttach::Auto))]);
        wire(&mut kernel, &wanted).expect("wiring");
        drop(kernel);
        let mut again = open();
        assert_eq!(observe(&mut again).wiring, wanted);
        let attachments = again.attachments().expect("attachments");
        assert_eq!(attachments[0].way, "xdp generic");
        assert!(attachments[0].reason.is_some(), "the kernel's reason survives the process");
        let native = hooks(&[(hook("br0", Hook::XdpIngress), HookState::Xdp(XdpAttach::Native))]);
        wire(&mut again, &native).expect_err("native is not possible there");
    });
}

#[test]
fn a_foreign_xdp_program_is_a_conflict_and_left_alone() {
    node(|| {
        pair("v0");
        // Somebody else's program: another Weir's, which for this one is as foreign as any.
        let other = node::pin_dir().with_file_name("other");
        let mut foreign = Kernel::open(weir_datapath::Options::new(&other)).expect("opening");
        let wanted = hooks(&[(hook("v0", Hook::XdpIngress), HookState::Xdp(XdpAttach::Generic))]);
        wire(&mut foreign, &wanted).expect("wiring");
        let id = foreign.loaded_programs().expect("programs")[0].id;
        let mut kernel = open();
        let error = wire(&mut kernel, &wanted).expect_err("the place is taken");
        assert!(
            matches!(&error, DatapathError::ForeignXdp { interface, program } if *interface == "v0".into() && *program == id),
            "{error}"
        );
        assert!(error.to_string().contains("v0"));
        kernel.uninstall().expect("uninstalling");
        assert_eq!(observe(&mut foreign).wiring, wanted, "it is still there");
    });
}

#[test]
fn a_foreign_filter_and_qdisc_are_left_alone() {
    node(|| {
        pair("v0");
        run("tc qdisc add dev v0 clsact");
        // Somebody else's filter: another Weir's program, attached by hand.
        let other = node::pin_dir().with_file_name("other");
        let mut foreign = Kernel::open(weir_datapath::Options::new(&other)).expect("opening");
        apply(&mut foreign, &Tables::default());
        foreign.load_all().expect("loading");
        let pin = run(&format!("find {} -name to_network", other.display()));
        run(&format!("tc filter add dev v0 ingress prio 7 handle 1 bpf da pinned {}", pin.trim()));
        let mut kernel = open();
        wire(&mut kernel, &hooks(&endpoint(HookState::Clsact, "v0"))).expect("wiring");
        kernel.uninstall().expect("uninstalling");
        let left = run("tc filter show dev v0 ingress");
        assert!(left.contains("to_network") && !left.contains("from_endpoint"), "{left}");
        assert!(run("tc qdisc show dev v0").contains("clsact"));
    });
}

#[test]
fn a_missing_interface_or_namespace_is_named() {
    node(|| {
        let mut kernel = open();
        let error = wire(&mut kernel, &hooks(&endpoint(HookState::Tcx, "nowhere"))).expect_err("no such device");
        assert!(matches!(&error, DatapathError::InterfaceMissing { interface } if *interface == "nowhere".into()));
        let error = wire(&mut kernel, &devices(&[("wr0000000001", "nowhere", &["10.1.1.1"])])).expect_err("no netns");
        assert!(matches!(&error, DatapathError::NetnsMissing { netns } if netns == "nowhere"), "{error}");
    });
}

fn devices(list: &[(&str, &str, &[&str])]) -> Wiring {
    let device = |netns: &str, addresses: &[&str]| {
        Device::Endpoint(EndpointPair {
            netns: netns.into(),
            peer: "eth0".into(),
            addresses: addresses.iter().map(|address| ip(address)).collect(),
            router: Vec::new(),
        })
    };
    let devices = list.iter().map(|(name, netns, addresses)| (InterfaceName::from(*name), device(netns, addresses)));
    Wiring { devices: devices.collect(), ..Wiring::default() }
}

const WEB: &str = "wr00000000aa";
const DB: &str = "wr00000000bb";

#[test]
fn endpoints_in_namespaces_reach_each_other_and_every_missing_part_is_mended() {
    node(|| {
        let (_web, _db) = (Netns::new("web"), Netns::new("db"));
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let wanted =
            devices(&[(WEB, "web", &["10.1.0.1", "fd00::1"]), (DB, "/run/netns/db", &["10.1.0.2", "fd00::2"])]);
        let mut kernel = open();
        wire(&mut kernel, &wanted).expect("wiring");
        assert_eq!(observe(&mut kernel).wiring, wanted);
        let reach = || {
            pings("ip netns exec web ping -c1 -W1 10.1.0.2");
            pings("ip netns exec web ping -6 -c1 -W1 fd00::2");
        };
        reach();
        let facts = kernel.facts(&["web".to_owned(), "nowhere".to_owned()]).expect("facts");
        assert!(facts.interfaces.iter().any(|interface| interface.ours && interface.name == WEB.into()));
        assert_eq!(facts.netns.iter().map(|netns| netns.exists).collect::<Vec<_>>(), [true, false]);

        for damage in [
            format!("ip link set {WEB} down"),
            "ip -n web addr del 10.1.0.1/32 dev eth0".to_owned(),
            "ip -n web route del default".to_owned(),
            "ip -n web -6 route del default".to_owned(),
            "ip -n web neigh del 169.254.1.1 dev eth0".to_owned(),
            format!("ip route del 10.1.0.1 dev {WEB}"),
            format!("ip -6 route del fd00::1 dev {WEB}"),
            format!("ip neigh del 10.1.0.1 dev {WEB}"),
            "ip -n web link set eth0 down".to_owned(),
            "ip -n web link del eth0".to_owned(),
            format!("ip link del {DB}"),
        ] {
            run(&damage);
            assert_ne!(observe(&mut kernel).wiring, wanted, "{damage} shows");
            wire(&mut kernel, &wanted).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, wanted, "{damage} is mended");
            reach();
        }

        wire(&mut kernel, &devices(&[(DB, "/run/netns/db", &["10.1.0.3"])])).expect("wiring");
        assert!(!run("ip link").contains(WEB));
        assert!(!run("ip -n db addr").contains("10.1.0.2"));
        assert!(!run("ip route").contains("10.1.0.2"));
        run("ip addr add 10.0.0.1/32 dev lo");
        pings("ping -c1 -W1 10.1.0.3");
    });
}

/// The router, with routes for the endpoints' ranges, beside one endpoint that is routed by it.
fn routed(addresses: [&str; 2], ranges: &[&str]) -> Wiring {
    let mut router: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
    router.sort_unstable();
    let mut routes: Vec<_> = ranges.iter().map(|range| range.parse().expect("a range")).collect();
    routes.sort_unstable();
    let web = EndpointPair {
        netns: "web".into(),
        peer: "eth0".into(),
        addresses: ["10.1.0.1", "fd00::1"].iter().map(|address| ip(address)).collect(),
        router: router.clone(),
    };
    let pair = RouterPair { addresses: router, routes };
    let devices = [(ROUTER.into(), Device::Router(pair)), (WEB.into(), Device::Endpoint(web))];
    let hooks = [(hook(ROUTER, Hook::FromHost), HookState::Tcx)];
    Wiring { devices: devices.into_iter().collect(), hooks: hooks.into_iter().collect() }
}

#[test]
fn the_router_is_made_and_every_missing_part_is_mended() {
    node(|| {
        let _web = Netns::new("web");
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let wanted = routed(["10.1.0.254", "fd00::fe"], &["10.1.0.0/24", "fd00::/64"]);
        let mut kernel = open();
        wire(&mut kernel, &wanted).expect("wiring");
        assert_eq!(observe(&mut kernel).wiring, wanted);
        let reach = |router: [&str; 2]| {
            for (router, to) in router.iter().zip(["10.1.0.1", "fd00::1"]) {
                pings(&format!("ip netns exec web ping -c1 -W1 {router}"));
                pings(&format!("ping -c1 -W1 {to}"));
                assert!(run(&format!("ip route get {to}")).contains(&format!("src {router}")));
            }
        };
        reach(["10.1.0.254", "fd00::fe"]);
        let facts = kernel.facts(&[]).expect("facts");
        assert!(facts.interfaces.iter().filter(|one| one.name.0.starts_with("weir_")).all(|one| one.ours));

        for damage in [
            "ip link set weir_host down".to_owned(),
            "ip link set weir_net down".to_owned(),
            "ip link set weir_host arp on".to_owned(),
            "ip addr del 10.1.0.254/32 dev weir_host".to_owned(),
            "ip -6 addr del fd00::fe/128 dev weir_host".to_owned(),
            "ip route del 10.1.0.0/24 dev weir_host metric 32000".to_owned(),
            format!("ip route replace 10.1.0.1 dev {WEB} scope link"),
            "ip link del weir_net".to_owned(),
        ] {
            run(&damage);
            assert_ne!(observe(&mut kernel).wiring, wanted, "{damage} shows");
            wire(&mut kernel, &wanted).expect("wiring");
            assert_eq!(observe(&mut kernel).wiring, wanted, "{damage} is mended");
            reach(["10.1.0.254", "fd00::fe"]);
        }

        // Another address, fewer ranges; and a route of somebody else's to the same range is the one that counts.
        let other = routed(["10.1.0.253", "fd00::fd"], &["10.1.0.0/24"]);
        wire(&mut kernel, &other).expect("wiring");
        assert_eq!(observe(&mut kernel).wiring, other);
        reach(["10.1.0.253", "fd00::fd"]);
        assert!(!run("ip addr").contains("10.1.0.254") && !run("ip -6 route").contains("fd00::/64"));
        pair("v0");
        run("ip addr add 10.1.0.9/24 dev v0");
        wire(&mut kernel, &other).expect("wiring");
        assert!(run("ip route get 10.1.0.77").contains("dev v0"));
        run("ip addr del 10.1.0.9/24 dev v0");
        assert!(run("ip route get 10.1.0.77").contains("dev weir_host"));

        wire(&mut kernel, &devices(&[(WEB, "web", &["10.1.0.1", "fd00::1"])])).expect("wiring");
        assert!(!run("ip link").contains("weir_") && !run("ip route").contains("10.1.0.0/24"));
        run("ip addr add 10.0.0.1/32 dev lo");
        pings("ping -c1 -W1 10.1.0.1");
    });
}

#[test]
fn a_router_s_name_that_is_taken_is_said() {
    node(|| {
        let _web = Netns::new("web");
        run("ip link add weir_host type veth peer name elsewhere");
        let mut kernel = open();
        let error = wire(&mut kernel, &routed(["10.1.0.254", "fd00::fe"], &[])).expect_err("the name is taken");
        assert!(error.to_string().contains("weir_host") && error.to_string().contains("not ours"), "{error}");
        kernel.uninstall().expect("uninstalling");
        assert!(run("ip link").contains("weir_host"));
    });
}

#[test]
fn a_device_that_is_not_ours_is_never_touched() {
    node(|| {
        let _web = Netns::new("web");
        pair(WEB);
        let mut kernel = open();
        wire(&mut kernel, &devices(&[(WEB, "web", &["10.1.0.1"])])).expect_err("the name is taken");
        assert_eq!(observe(&mut kernel).wiring, Wiring::default());
        kernel.uninstall().expect("uninstalling");
        assert!(run("ip link").contains(WEB));
    });
}

#[test]
fn an_upgrade_to_another_abi_swaps_programs_only_after_the_flip() {
    for way in [HookState::Tcx, HookState::Clsact] {
        node(|| {
            pair("v0");
            let wanted = hooks(&endpoint(way, "v0"));
            let mut kernel = open();
            wire(&mut kernel, &wanted).expect("wiring");
            let ids = |kernel: &mut Kernel| -> Vec<u32> {
                kernel.belongings().expect("belongings");
                kernel.loaded_programs().expect("programs").iter().map(|program| program.id).collect()
            };
            let old = ids(&mut kernel);
            // More epochs than seconds.
            for _ in 0..20 {
                kernel.flip().expect("flipping");
                kernel.grace().expect("grace");
            }
            let last = kernel.generation().expect("reading").expect("a word").epoch;
            drop(kernel);
            // What this build pinned is now another version's.
            let root =
                std::fs::read_dir(node::pin_dir()).expect("the pin directory").map(|e| e.expect("an entry").path());
            let root = root.into_iter().find(|path| !path.ends_with("links")).expect("the ABI's directory");
            let other = root.with_file_name("0123456789abcdef");
            std::fs::rename(&root, &other).expect("renaming");

            let mut kernel = open();
            assert_eq!(kernel.observe().expect("observing"), None, "another ABI's tables are not ours");
            let delta = Wiring::default().diff(&wanted);
            kernel.prepare(&Tables::default(), &capacity()).expect("preparing");
            kernel.build(&delta).expect("building");
            let running = |kernel: &mut Kernel| kernel.attachments().expect("attachments").iter().all(|a| a.current);
            assert!(!running(&mut kernel), "the old programs go on until the new tables are live");
            let first = kernel.generation().expect("reading").expect("a word").epoch;
            let live = kernel.flip().expect("flipping").epoch;
            assert!(last < first && first < live, "on one conntrack no epoch comes twice: {last}, {first}, {live}");
            kernel.grace().expect("grace");
            kernel.tear(&delta).expect("tearing");
            assert!(running(&mut kernel));
            assert!(ids(&mut kernel).iter().all(|id| !old.contains(id)));
            assert_eq!(observe(&mut kernel).wiring, wanted);
            assert!(!other.exists(), "the other version's pins are gone");
        });
    }
}

#[test]
fn what_a_killed_process_left_is_swept() {
    node(|| {
        let mut kernel = open();
        apply(&mut kernel, &Tables::default());
        let root = std::fs::read_dir(node::pin_dir()).expect("the pin directory").map(|e| e.expect("an entry").path());
        let root = root.into_iter().find(|path| !path.ends_with("links")).expect("the ABI's directory");
        let stray = run("bpftool map create /sys/fs/bpf/stray type array key 4 value 4 entries 1 name stray");
        assert_eq!(stray, "");
        std::fs::rename("/sys/fs/bpf/stray", root.join("new-POLICY")).expect("renaming");
        std::fs::create_dir(root.join("check-4194305-0")).expect("no process has that number");
        // Another rule capacity: the programs are loaded anew.
        let more = weir_plan::Capacity { rules: 4096, ..capacity() };
        kernel.prepare(&Tables::default(), &more).expect("preparing");
        assert!(!root.join("new-POLICY").exists() && !root.join("check-4194305-0").exists());
    });
}

#[test]
fn uninstall_leaves_nothing_of_ours_and_everything_else() {
    for way in [HookState::Tcx, HookState::Clsact] {
        node_alone(|| {
            let _web = Netns::new("web");
            pair("v0");
            run("ip link add br0 type bridge");
            let mut wiring = devices(&[(WEB, "web", &["10.1.0.1"])]);
            let mut wanted = endpoint(way, WEB);
            wanted.push((hook("v0", Hook::FromNetwork), way));
            wanted.push((hook("br0", Hook::XdpIngress), HookState::Xdp(XdpAttach::Auto)));
            wiring.hooks = hooks(&wanted).hooks;
            let mut kernel = open();
            wire(&mut kernel, &wiring).expect("wiring");
            apply(&mut kernel, &some_tables());
            let check = kernel.check_instance().expect("a check instance");
            drop(check);
            let ours = kernel.belongings().expect("what is ours");
            assert!(!kernel.residue(&ours).expect("residue").is_empty(), "the scan sees what is there");

            kernel.uninstall().expect("uninstalling");
            let mut residue = Vec::new();
            for _ in 0..200 {
                residue = kernel.residue(&ours).expect("residue");
                if residue.is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(residue, Vec::<Residue>::new());
            assert!(run("ip link").contains("v0") && run("ip link").contains("br0"));
            assert!(!run("tc qdisc show").contains("clsact"));
            assert!(!node::pin_dir().exists());
            kernel.uninstall().expect("uninstalling nothing");
        });
    }
}

#[test]
fn other_programs_in_the_tcx_chain_are_listed_and_stand_behind_ours() {
    node(|| {
        pair("v0");
        let mut foreign =
            Kernel::open(weir_datapath::Options::new(node::pin_dir().with_file_name("other"))).expect("opening");
        wire(&mut foreign, &hooks(&endpoint(HookState::Tcx, "v0"))).expect("wiring");
        let mut kernel = open();
        wire(&mut kernel, &hooks(&endpoint(HookState::Tcx, "v0"))).expect("wiring");
        let attachments = kernel.attachments().expect("attachments");
        assert_eq!(attachments.len(), 2);
        for attachment in attachments {
            assert_eq!(attachment.beside.len(), 1);
        }
    });
}

/// Packets that are sent while something happens, each of which must arrive.
struct Traffic {
    receiver: UdpSocket,
    sender: Child,
}

#[test]
fn tables_grow_and_programs_are_swapped_without_losing_a_packet() {
    for way in [HookState::Tcx, HookState::Clsact] {
        node(|| grow_under_traffic(way));
    }
}

fn grow_under_traffic(way: HookState) {
    let _web = Netns::new("web");
    let mut wiring = devices(&[(WEB, "web", &["10.1.0.1"])]);
    wiring.hooks = hooks(&endpoint(way, WEB)).hooks;
    let mut kernel = open();
    wire(&mut kernel, &wiring).expect("wiring");
    run("ip addr add 10.0.0.1/32 dev lo");
    let traffic = Traffic {
            receiver: UdpSocket::bind("10.0.0.1:9999").expect("a socket"),
            sender: Command::new("ip")
                .args(["netns", "exec", "web", "bash", "-c"])
                .arg("exec 3>/dev/udp/10.0.0.1/9999; for ((n = 0; n < 4000; n++)); do printf '%d' $n >&3; read -t 0.001 <> <(:); done")
                .stderr(Stdio::null())
                .spawn()
                .expect("a sender"),
        };
    let Traffic { receiver, mut sender } = traffic;
    receiver.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let done = AtomicBool::new(false);
    let (received, grown) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let (mut numbers, mut buffer) = (Vec::new(), [0; 16]);
            loop {
                match receiver.recv(&mut buffer) {
                    Ok(length) => {
                        let number = std::str::from_utf8(&buffer[..length]).expect("digits").parse::<u32>();
                        numbers.push(number.expect("a number"));
                    }
                    Err(_) if done.load(Ordering::SeqCst) => return numbers,
                    Err(_) => {}
                }
            }
        });
        let mut grown = 0;
        let mut tables = Tables::default();
        while sender.try_wait().expect("the sender").is_none() && grown < 6 {
            let lines = 1000usize << grown;
            tables.prefilter4 = (0..lines as u32)
                .map(|n| (weir_plan::Prefix4 { bits: n.wrapping_mul(0x9e37_79b1) | 0x8000_0000, length: 32 }, 1))
                .collect();
            apply(&mut kernel, &tables);
            grown += 1;
        }
        sender.wait().expect("the sender");
        done.store(true, Ordering::SeqCst);
        (counting.join().expect("the receiver"), grown)
    });
    assert!(grown >= 3, "only {grown} times grown under traffic");
    assert_eq!(received, (0..4000).collect::<Vec<u32>>(), "every packet, in order");
    assert!(kernel.attachments().expect("attachments").iter().all(|attachment| attachment.current));
}
