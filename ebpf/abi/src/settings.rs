use crate::Address;

/// Bits of [`Settings::flags`].
pub mod settings_flags {
    /// Some policy selects the host: network devices look for packets from and to host addresses.
    pub const HOST_POLICY: u32 = 1 << 0;
    /// The host endpoint exists.
    pub const HOST_ENDPOINT: u32 = 1 << 1;
    /// There are frontends.
    pub const SERVICES: u32 = 1 << 2;
    /// What endpoints send to the world outside leaves under the node's address.
    pub const MASQUERADE: u32 = 1 << 3;
    /// Some endpoint's device takes what is for it without the stack.
    pub const DELIVER: u32 = 1 << 4;
    /// XDP on network devices sends on what belongs to known flows of clients outside.
    pub const XDP_BALANCER: u32 = 1 << 5;
    /// Sockets of the host reach services by themselves.
    pub const SOCKETS: u32 = 1 << 6;
}

/// The only value of `settings`. Timeouts are whole seconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    pub flags: u32,
    pub host_incarnation: u32,
    pub tcp_syn: u32,
    pub tcp_established: u32,
    pub tcp_closing: u32,
    pub other: u32,
    /// Ports that the node's address is lent with, first and last.
    pub nat_first_port: u16,
    pub nat_last_port: u16,
    pub reserved: u32,
    /// Lengths of the prefixes to which nothing is masqueraded, as a service's source ranges: of service 0.
    pub exempt_v4: u64,
    pub exempt_v6: [u64; 3],
    /// An address of the host of each family, all zero for none: its node ports are the loopback's too, for sockets.
    pub node_v4: Address,
    pub node_v6: Address,
}
const _: () = assert!(size_of::<Settings>() == 96);

impl Default for Settings {
    /// Cilium's lifetimes: `--bpf-ct-timeout-*`.
    fn default() -> Self {
        Self {
            flags: 0,
            host_incarnation: 1,
            tcp_syn: 60,
            tcp_established: 8000,
            tcp_closing: 10,
            other: 60,
            nat_first_port: 61_000,
            nat_last_port: 65_535,
            reserved: 0,
            exempt_v4: 0,
            exempt_v6: [0; 3],
            node_v4: Address::default(),
            node_v6: Address::default(),
        }
    }
}
