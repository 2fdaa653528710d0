//! Packets that only a wire can make, through live programs on veth pairs: VLAN and QinQ frames (at tc the outermost tag
//! is in the packet's metadata and not in its data), truncated frames, packets in several buffers, jumbo frames.
//!
//! Each frame is sent by a raw socket, one at a time; the counter of the reason that decided goes up by one and no other
//! of its direction does. Nothing else sends: IPv6 is off on these devices, and nobody asks for neighbours.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use weir_abi::{Direction, Reason};
use weir_datapath::{Kernel, Options};
use weir_tests::{
    node::{Node, eventually, tool},
    packet::frame::{self, ETHERNET, Network, UDP, tagged, udp_datagram},
};

const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;

/// `edge0` is filtered at XDP; behind `app0` is an endpoint that may send to udp/53 in two networks, and nothing else.
const MANIFESTS: &str = r"
apiVersion: weir/v1alpha1
kind: NodeConfig
metadata: {name: small}
spec:
  attachMode: MODE
  limits: {conntrackTcp: 8192, conntrackOther: 8192}
---
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node1}
spec:
  addresses: [192.0.2.1, '2001:db8:0:1::1']
  endpointCIDRs: [10.10.0.0/24, 'fd00:10::/64']
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: app, labels: {app: app}}
spec: {node: node1, addresses: [10.10.0.9, 'fd00:10::9'], attach: {interface: app0}}
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: app}
spec:
  endpointSelector: {matchLabels: {app: app}}
  egress:
  - toCIDR: [203.0.113.0/24, '2001:db8:1::/48']
    toPorts: [{ports: [{port: 53, protocol: UDP}]}]
---
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: drop}
spec:
  interfaces: [edge0]
  mode: XDP
  cidrs: [198.51.100.0/24, '2001:db8:bad::/48']
";

const APP: [&str; 2] = ["10.10.0.9", "fd00:10::9"];
const SERVER: [&str; 2] = ["203.0.113.53", "2001:db8:1::53"];
const FILTERED: [&str; 2] = ["198.51.100.7", "2001:db8:bad::7"];
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:0:1::1"];

/// Two veth pairs into the namespace `wire`, silent but for what the test sends.
fn started(node: &Node, mode: &str, xdp: &str) {
    node.ip("netns add wire");
    let quiet = || {
        for when in ["default", "all"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{when}/disable_ipv6"), "1").unwrap();
        }
    };
    quiet();
    node.inside("wire", quiet).join().unwrap();
    for name in ["edge0", "app0"] {
        node.ip(&format!("link add {name} mtu 9000 type veth peer name {name} mtu 9000 netns wire"));
        node.ip(&format!("link set {name} up"));
        node.ip(&format!("-netns wire link set {name} up"));
    }
    node.write("all.yaml", &MANIFESTS.replace("MODE", mode).replace("XDP", xdp));
    node.apply();
    let status = node.expect(0, &["status", "-o", "json"]).json();
    let attached = status["attachments"].as_array().unwrap().clone();
    let mode_of = |program: &str| {
        attached.iter().find(|hook| hook["program"] == program).unwrap()["mode"].as_str().unwrap().to_owned()
    };
    assert_eq!([mode_of("xdp_ingress"), mode_of("from_endpoint")], [format!("xdp {xdp}"), mode.to_owned()]);
}

/// A raw socket on a device, which sends frames as they are.
#[derive(Debug)]
struct Wire {
    socket: OwnedFd,
    ifindex: i32,
}

/// `struct virtio_net_hdr`: how many bytes the kernel is to put beside each other; the rest goes to other buffers.
const LINEAR: [u8; 10] = [0, 0, ETHERNET as u8, 0, 0, 0, 0, 0, 0, 0];

impl Wire {
    fn open(node: &Node, netns: &str, device: &'static str) -> Self {
        node.inside(netns, move || {
            // SAFETY: a plain system call.
            let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(socket >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: a new descriptor that nobody else owns.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            let ifindex = nix::net::if_::if_nametoindex(device).unwrap() as i32;
            Self { socket, ifindex }
        })
        .join()
        .unwrap()
    }

    fn address(&self, protocol: u16) -> libc::sockaddr_ll {
        // SAFETY: a struct of plain integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = self.ifindex;
        address
    }

    fn send(&self, frame: &[u8]) {
        let protocol = u16::from_be_bytes([frame[12], frame[13]]);
        let address = self.address(protocol);
        // SAFETY: buffer and address live through the call, and their sizes are given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }

    /// Only the Ethernet header stays in the linear part. The kernel does so with what is larger than a page.
    fn send_in_buffers(&self, frame: &[u8]) {
        assert!(frame.len() > 4096);
        self.option(libc::PACKET_VNET_HDR, 1);
        let address = self.address(u16::from_be_bytes([frame[12], frame[13]]));
        let whole = [&LINEAR, frame].concat();
        // SAFETY: as in `send`.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                whole.as_ptr().cast(),
                whole.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(sent, whole.len() as isize, "{}", std::io::Error::last_os_error());
        self.option(libc::PACKET_VNET_HDR, 0);
    }

    fn option(&self, option: i32, value: i32) {
        // SAFETY: the kernel reads one integer.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// From now on, receives what the device hands to the stack.
    fn listen(&self) {
        let address = self.address(libc::ETH_P_ALL as u16);
        // SAFETY: the address lives through the call, and its size is given.
        let result = unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// The length of the next frame that has come in, if there is one. (The kernel has taken off a tag.)
    fn received(&self) -> Option<usize> {
        loop {
            let mut buffer = [0u8; 16_384];
            // SAFETY: a struct of plain integers, for which zero is a value.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: the kernel writes at most the buffer's and the address's sizes.
            let got = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            if got < 0 {
                return None;
            }
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Some(got as usize);
            }
        }
    }
}

type Counts = BTreeMap<Reason, u64>;

/// Counters of what came in.
fn counts(kernel: &mut Kernel) -> Counts {
    let metrics = kernel.metrics().unwrap();
    let ingress = metrics.iter().filter(|(_, direction, _)| *direction == Direction::Ingress);
    ingress.map(|(reason, _, counter)| (reason, counter.packets)).collect()
}

/// Sends once; exactly the counter of `reason` goes up, by one.
fn counted(kernel: &mut Kernel, what: &str, reason: Reason, send: impl FnOnce()) {
    let mut expected = counts(kernel);
    *expected.entry(reason).or_default() += 1;
    send();
    let mut seen = Counts::new();
    eventually("the frame is counted", || {
        seen = counts(kernel);
        (seen.values().sum::<u64>() >= expected.values().sum::<u64>()).then_some(())
    });
    assert_eq!(seen, expected, "{what}: {reason:?} was to be counted");
}

fn addresses(from: [&str; 2], to: [&str; 2]) -> [(IpAddr, IpAddr); 2] {
    [0, 1].map(|family: usize| (from[family].parse().unwrap(), to[family].parse().unwrap()))
}

fn datagram((from, to): (IpAddr, IpAddr), port: u16) -> Vec<u8> {
    frame::udp(SocketAddr::new(from, 1024), SocketAddr::new(to, port))
}

/// A datagram of so many bytes of payload.
fn large((from, to): (IpAddr, IpAddr), port: u16, payload: usize) -> Vec<u8> {
    let network = Network::new(from, to);
    network.frame(UDP, &udp_datagram(&network, (1024, port), &vec![0x5a; payload]))
}

const TAGS: [&[u16]; 4] = [&[], &[VLAN], &[QINQ, VLAN], &[VLAN, VLAN]];

fn at_tc(mode: &'static str, test: fn(&mut Kernel, &Wire)) {
    Node::run(move |node| {
        started(node, mode, "native");
        let wire = Wire::open(node, "wire", "app0");
        test(&mut Kernel::open(Options::new(node.pins())).unwrap(), &wire);
    });
}

fn at_tc_in_both_modes(test: fn(&mut Kernel, &Wire)) {
    at_tc("tcx", test);
    at_tc("clsact", test);
}

/// The policy is about the inner packet, whatever tags are around it.
#[test]
fn scenario_23_tagged_frames_at_tc_are_judged_by_the_packet_inside() {
    at_tc_in_both_modes(|kernel, wire| {
        for ends in addresses(APP, SERVER) {
            for tags in TAGS {
                for (port, reason) in [(53, Reason::Forwarded), (54, Reason::PolicyDefaultDeny)] {
                    let frame = tagged(&datagram(ends, port), tags);
                    counted(kernel, &format!("{tags:x?} {ends:?} udp/{port}"), reason, || wire.send(&frame));
                }
            }
            // One tag is in the metadata and two are taken off: the fourth is an ethertype that nobody knows.
            let frame = tagged(&datagram(ends, 53), &[QINQ, VLAN, VLAN, VLAN]);
            counted(kernel, "four tags", Reason::UnknownEthertype, || wire.send(&frame));
        }
    });
}

#[test]
fn scenario_23_truncated_frames_at_tc_are_dropped() {
    at_tc_in_both_modes(|kernel, wire| {
        for ends in addresses(APP, SERVER) {
            let whole = datagram(ends, 53);
            let header = if ends.0.is_ipv4() { 20 } else { 40 };
            for tags in [&[][..], &[VLAN]] {
                // The frame ends inside the network header, after it, and inside the transport header.
                for length in [ETHERNET + 10, ETHERNET + header - 1, ETHERNET + header, ETHERNET + header + 7] {
                    let frame = tagged(&whole[..length], tags);
                    counted(kernel, &format!("{tags:x?} {length} bytes"), Reason::Truncated, || wire.send(&frame));
                }
            }
            // Headers are there, and what they announce is not.
            let frame = &whole[..whole.len() - 1];
            counted(kernel, "one byte is missing", Reason::Truncated, || wire.send(frame));
        }
    });
}

/// 8,000 bytes, in one piece and in several: then the headers are pulled before they are read.
#[test]
fn scenario_23_jumbo_frames_at_tc_are_judged_wherever_their_headers_lie() {
    at_tc_in_both_modes(|kernel, wire| {
        for ends in addresses(APP, SERVER) {
            for (port, reason) in [(53, Reason::Forwarded), (54, Reason::PolicyDefaultDeny)] {
                for tags in TAGS {
                    let frame = tagged(&large(ends, port, 8000), tags);
                    let what = format!("{tags:x?} {ends:?} udp/{port}");
                    counted(kernel, &format!("{what}, linear"), reason, || wire.send(&frame));
                    counted(kernel, &format!("{what}, in buffers"), reason, || wire.send_in_buffers(&frame));
                }
            }
            let frame = large(ends, 53, 8000);
            let cut = &frame[..6000];
            counted(kernel, "cut, in buffers", Reason::Truncated, || wire.send_in_buffers(cut));
        }
    });
}

/// `xdp`: what the filter is attached as. Who passes is handed to the stack whole.
fn at_xdp(xdp: &'static str) {
    Node::run(move |node| {
        started(node, "tcx", xdp);
        let wire = Wire::open(node, "wire", "edge0");
        let inside = Wire::open(node, "node", "edge0");
        inside.listen();
        let kernel = &mut Kernel::open(Options::new(node.pins())).unwrap();
        let passed = |what: &str, sent: usize, tags: usize| {
            let got = eventually("the frame arrives", || inside.received());
            assert_eq!(got, sent - 4 * tags.min(1), "{what} arrives whole");
        };
        for filtered in [false, true] {
            let reason = if filtered { Reason::Prefilter } else { Reason::PrefilterPass };
            for ends in addresses(if filtered { FILTERED } else { SERVER }, HOST) {
                for tags in TAGS {
                    for payload in [8, 1400, 3000, 8000] {
                        let frame = tagged(&large(ends, 53, payload), tags);
                        let what = format!("{tags:x?} {ends:?} {} bytes", frame.len());
                        counted(kernel, &what, reason, || wire.send(&frame));
                        if !filtered {
                            passed(&what, frame.len(), tags.len());
                        }
                        if frame.len() > 4096 {
                            let what = format!("{what}, in buffers");
                            counted(kernel, &what, reason, || wire.send_in_buffers(&frame));
                            if !filtered {
                                passed(&what, frame.len(), tags.len());
                            }
                        }
                    }
                }
                // At XDP all tags are in the data: the third is an ethertype that nobody knows.
                let frame = tagged(&datagram(ends, 53), &[QINQ, VLAN, VLAN]);
                counted(kernel, "three tags", Reason::UnknownEthertype, || wire.send(&frame));
                let header = if ends.0.is_ipv4() { 20 } else { 40 };
                for length in [ETHERNET + 10, ETHERNET + header - 1] {
                    let frame = &datagram(ends, 53)[..length];
                    counted(kernel, &format!("{length} bytes"), Reason::Truncated, || wire.send(frame));
                }
            }
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(inside.received(), None, "nothing else came through");
        assert!(tool("ip", "-d link show edge0").stdout.contains("xdp"));
    });
}

#[test]
fn scenario_23_native_xdp_filters_tagged_truncated_and_jumbo_frames() {
    at_xdp("native");
}

#[test]
fn scenario_23_generic_xdp_filters_tagged_truncated_and_jumbo_frames() {
    at_xdp("generic");
}
