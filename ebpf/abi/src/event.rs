use crate::Address;

/// Size of the `events` ring buffer.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// One packet that was dropped, or that began a flow, as it is reported through the `events` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketEvent {
    /// `bpf_ktime_get_ns`.
    pub time_ns: u64,
    pub source: Address,
    pub destination: Address,
    pub source_port_be: u16,
    pub destination_port_be: u16,
    pub protocol: u8,
    /// [`crate::Reason`].
    pub reason: u8,
    /// [`crate::Direction`].
    pub direction: u8,
    /// Which program, of [`crate::next_hook`].
    pub hook: u8,
    pub ifindex: u32,
    /// Endpoint number of the subject, 0 for none or the host.
    pub endpoint: u32,
    pub subject: u32,
    pub peer: u32,
    pub rule: u32,
    /// Length of the frame.
    pub length: u32,
    pub epoch: u64,
    /// Whom its sender believes to speak to, where a service turned it into another; port 0 for nobody else.
    pub frontend: Address,
    pub frontend_port_be: u16,
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<PacketEvent>() == 104);
