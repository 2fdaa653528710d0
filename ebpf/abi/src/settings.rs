/// Bits of [`Settings::flags`].
pub mod settings_flags {
    /// Some policy selects the host: network devices look for packets from and to host addresses.
    pub const HOST_POLICY: u32 = 1 << 0;
    /// The host endpoint exists.
    pub const HOST_ENDPOINT: u32 = 1 << 1;
    /// There are frontends.
    pub const SERVICES: u32 = 1 << 2;
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
    pub reserved: [u32; 10],
}
const _: () = assert!(size_of::<Settings>() == 64);

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
            reserved: [0; 10],
        }
    }
}
