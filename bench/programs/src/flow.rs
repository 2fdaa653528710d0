//! What both sides of the benchmark share.
use weir_abi::Address;

/// One flow of the list that a prologue walks through.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    pub source: Address,
    pub destination: Address,
    pub source_port_be: u16,
    pub destination_port_be: u16,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Flow>() == 40);

/// The only value of `CONTROL`: written by user space before a run, the counter by the prologue.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// Packets so far; its low bits pick the flow.
    pub counter: u64,
    /// Flows in use − 1 (a power of two − 1).
    pub mask: u32,
    /// Where in the list they begin.
    pub base: u32,
    /// Program to go on with.
    pub slot: u32,
    /// 1: each pass through the list uses other source ports, so that no flow comes twice.
    pub fresh: u32,
    /// 1: the next packet is the last one, for the program in the slot after this one.
    pub half: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Control>() == 32);

/// Room of the list.
pub const FLOWS: usize = 1 << 20;
/// Places for programs under test.
pub const SLOTS: usize = 32;
