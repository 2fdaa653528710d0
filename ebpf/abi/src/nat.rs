use crate::Address;

/// Key of `nat`: what the outside knows of a flow whose source was rewritten to an address of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NatKey {
    /// The node's address.
    pub node: Address,
    pub remote: Address,
    /// Of an ICMP echo the identifier stands in both.
    pub node_port_be: u16,
    pub remote_port_be: u16,
    pub protocol: u8,
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<NatKey>() == 40);

/// Value of `nat`: whose flow it is. The entry counts for as long as conntrack knows that flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatEntry {
    pub source: Address,
    pub source_port_be: u16,
    pub reserved: [u16; 3],
}
const _: () = assert!(size_of::<NatEntry>() == 24);
