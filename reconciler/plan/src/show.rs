use std::net::IpAddr;

use weir_abi::{
    ACTION_DROP, ACTION_ENDPOINT_RANGE, Address, DIRECTION_INGRESS, EndpointInfo, InterfaceInfo, PolicyEntry,
    PolicyKey, PrefilterClass, Settings, SubjectInfo, interface_flags, policy_verdict,
};

use crate::{
    Device, EndpointPair, Hook, HookKey, HookState, InterfaceName, Prefix4, Prefix6, RouterPair, XdpAttach, ip_of,
};

/// Keys and values as plans and JSON show them: stable text, no numbers that a reader cannot look up.
pub trait Show {
    fn show(&self) -> String;
}

macro_rules! by_display {
    ($($type:ty),*) => { $(impl Show for $type { fn show(&self) -> String { self.to_string() } })* };
}
by_display!(u32, IpAddr, Prefix4, Prefix6, InterfaceName);

impl Show for Settings {
    fn show(&self) -> String {
        format!(
            "tcp syn {}s, established {}s, closing {}s; other {}s; flags {:#x}",
            self.tcp_syn, self.tcp_established, self.tcp_closing, self.other, self.flags
        )
    }
}

impl Show for InterfaceInfo {
    fn show(&self) -> String {
        let mut words = Vec::new();
        if self.flags & interface_flags::ENDPOINT != 0 {
            words.push(format!("endpoint {} identity {}", self.endpoint, self.identity));
        }
        if self.flags & interface_flags::PEER != 0 {
            words.push("redirect to peer".to_owned());
        } else if self.flags & interface_flags::DELIVER != 0 {
            words.push("redirect".to_owned());
        }
        if self.flags & interface_flags::NETWORK != 0 {
            words.push("network".to_owned());
            for lent in [&self.masquerade_v4, &self.masquerade_v6] {
                if *lent != Address::default() {
                    words.push(format!("lends {}", ip_of(lent)));
                }
            }
        }
        if self.flags & (interface_flags::PREFILTER_SOURCE | interface_flags::PREFILTER_DESTINATION) != 0 {
            words.push(format!("prefilter group {}", self.prefilter_group));
        }
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }
}

impl Show for EndpointInfo {
    fn show(&self) -> String {
        format!("endpoint {} identity {}", self.endpoint, self.identity)
    }
}

impl Show for SubjectInfo {
    fn show(&self) -> String {
        let side = |index: usize| {
            format!(
                "{} ({} allow, {} deny classes)",
                if self.default_deny[index] != 0 { "default deny" } else { "default allow" },
                self.allow_classes[index].count_ones(),
                self.deny_classes[index].count_ones()
            )
        };
        format!("ingress {}, egress {}", side(0), side(1))
    }
}

impl Show for PolicyKey {
    fn show(&self) -> String {
        let class = self.class();
        let port = match (class.any_protocol(), class.port_mask()) {
            (true, _) => "any".to_owned(),
            (_, mask) => {
                let name = match self.protocol {
                    1 => "icmp",
                    6 => "tcp",
                    17 => "udp",
                    58 => "icmpv6",
                    132 => "sctp",
                    _ => "protocol",
                };
                match mask {
                    0 => name.to_owned(),
                    0xffff => format!("{name}/{}", self.port),
                    mask => format!("{name}/{}-{}", self.port, self.port | !mask),
                }
            }
        };
        let peer = if class.any_peer() { "any".to_owned() } else { self.peer.to_string() };
        let (from, to) = if self.direction() == DIRECTION_INGRESS {
            (peer, self.subject.to_string())
        } else {
            (self.subject.to_string(), peer)
        };
        let direction = if self.direction() == DIRECTION_INGRESS { "ingress" } else { "egress" };
        format!("{direction} {from} -> {to} {port}")
    }
}

impl Show for PolicyEntry {
    fn show(&self) -> String {
        let verdict = match self.verdict {
            policy_verdict::ALLOW => "allow",
            policy_verdict::DENY => "deny",
            policy_verdict::REDIRECT => "redirect",
            _ => "?",
        };
        format!("{verdict} (rule {})", self.rule)
    }
}

impl Show for PrefilterClass {
    fn show(&self) -> String {
        let cells: Vec<String> = self
            .cells
            .iter()
            .enumerate()
            .filter(|(_, cell)| cell.action() != 0)
            .map(|(index, cell)| {
                let what = match cell.action() {
                    ACTION_DROP => "drop",
                    ACTION_ENDPOINT_RANGE => "endpoints only",
                    _ => "?",
                };
                let side = if index % 2 == 0 { "source" } else { "destination" };
                format!("group {} {side}: {what} (rule {})", index / 2, cell.rule())
            })
            .collect();
        cells.join(", ")
    }
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Show for Device {
    fn show(&self) -> String {
        match self {
            Self::Endpoint(EndpointPair { netns, peer, addresses, router }) => {
                let by = if router.is_empty() { String::new() } else { format!(" by {}", list(router)) };
                format!("veth to {netns}:{peer} with {}{by}", list(addresses))
            }
            Self::Router(RouterPair { addresses, routes }) => {
                format!("router {} for {}", list(addresses), list(routes))
            }
        }
    }
}

impl Show for HookKey {
    fn show(&self) -> String {
        format!("{} {}", self.place, self.hook.program())
    }
}

impl Show for HookState {
    fn show(&self) -> String {
        match self {
            Self::Xdp(XdpAttach::Auto) => "xdp",
            Self::Xdp(XdpAttach::Native) => "xdp native",
            Self::Xdp(XdpAttach::Generic) => "xdp generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Cgroup => "cgroup",
            Self::Stale => "stale",
        }
        .to_owned()
    }
}

impl Show for Hook {
    fn show(&self) -> String {
        self.program().to_owned()
    }
}
