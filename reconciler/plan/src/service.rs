use std::{fmt, net::IpAddr, sync::Arc};

use weir_abi::{
    Address, BackendInfo, FrontendInfo, FrontendKey, SourceRangeKey, backend_flags, frontend_flags, service_flags,
};

use crate::Show;

/// A service as tables have it: which backends its new flows go to. Where its slots stand in the kernel is the
/// datapath's affair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// Of [`service_flags`].
    pub flags: u32,
    /// Seconds that a client is remembered, 0 for none.
    pub affinity: u32,
    /// Backend numbers, each as often as its weight asks; for Maglev in the table's order.
    pub slots: Arc<[u32]>,
    /// The same of this node's backends only.
    pub local_slots: Arc<[u32]>,
    /// Lengths of its source ranges, as in [`weir_abi::ServiceInfo`].
    pub ranges_v4: u64,
    pub ranges_v6: [u64; 3],
}

/// The address that a table's key or value means.
pub fn ip_of(address: &Address) -> IpAddr {
    if address.is_v4() { IpAddr::from(address.v4_bits().to_be_bytes()) } else { IpAddr::from(address.0) }
}

/// An address as tables have it.
pub fn address_of(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address(v6.octets()),
    }
}

fn protocol(number: u8) -> &'static str {
    match number {
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        _ => "?",
    }
}

/// `[2001:db8::1]:80`, as URLs write it.
struct Socket(IpAddr, u16);

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.0, self.1).fmt(f)
    }
}

impl Show for FrontendKey {
    fn show(&self) -> String {
        let address = ip_of(&self.address);
        if self.is_address() {
            format!("{address} other ports")
        } else {
            format!("{}/{}", Socket(address, self.port), protocol(self.protocol))
        }
    }
}

impl Show for FrontendInfo {
    fn show(&self) -> String {
        if self.service == 0 {
            return "drop".to_owned();
        }
        let mut words = vec![format!("service {}", self.service)];
        for (flag, word) in [
            (frontend_flags::NODE_PORT, "node port"),
            (frontend_flags::EXTERNAL, "external"),
            (frontend_flags::EXTERNAL_LOCAL, "local backends for outside"),
            (frontend_flags::INTERNAL_LOCAL, "local backends for inside"),
            (frontend_flags::SOURCE_RANGES, "source ranges"),
        ] {
            if self.flags & flag != 0 {
                words.push(word.to_owned());
            }
        }
        words.join(", ")
    }
}

impl Show for Service {
    fn show(&self) -> String {
        let algorithm = if self.flags & service_flags::MAGLEV == 0 { "random" } else { "maglev" };
        let mut words = vec![algorithm.to_owned(), format!("backends {}", counted(&self.slots))];
        if self.local_slots != self.slots {
            words.push(format!("local {}", counted(&self.local_slots)));
        }
        if self.affinity != 0 {
            words.push(format!("affinity {}s", self.affinity));
        }
        if self.flags & service_flags::REJECT == 0 {
            words.push("drops without".to_owned());
        }
        words.join(", ")
    }
}

/// The backends of slots, each with its slots where these differ.
fn counted(slots: &[u32]) -> String {
    let mut counts = std::collections::BTreeMap::<u32, usize>::new();
    slots.iter().for_each(|backend| *counts.entry(*backend).or_default() += 1);
    let first = counts.values().next().copied();
    let equal = counts.values().all(|count| Some(*count) == first);
    let shown: Vec<String> = counts
        .iter()
        .take(8)
        .map(|(backend, count)| if equal { backend.to_string() } else { format!("{backend}*{count}") })
        .collect();
    match counts.len() {
        0 => "none".to_owned(),
        len if len > 8 => format!("{} and {} more", shown.join(" "), len - 8),
        _ => shown.join(" "),
    }
}

impl Show for BackendInfo {
    fn show(&self) -> String {
        let mut words = vec![
            Socket(ip_of(&self.address), u16::from_be(self.port_be)).to_string(),
            format!("of service {}", self.service),
        ];
        for (flag, word) in [(backend_flags::LOCAL, "local"), (backend_flags::DRAINING, "draining")] {
            if self.flags & flag != 0 {
                words.push(word.to_owned());
            }
        }
        words.push(format!("incarnation {}", self.incarnation));
        words.join(", ")
    }
}

impl Show for SourceRangeKey {
    fn show(&self) -> String {
        let address = ip_of(&self.address);
        let length = if address.is_ipv4() { self.length.saturating_sub(96) } else { self.length };
        format!("service {} from {address}/{length}", self.service)
    }
}
