use crate::Address;

/// Reserved identities, numbered as Cilium does; the first of the others is [`identity::FIRST_LOCAL`].
///
/// An identity is a number local to the node, at most 24 bits: a value of a prefix tree's bucket holds it.
pub mod identity {
    pub const UNKNOWN: u32 = 0;
    pub const HOST: u32 = 1;
    pub const WORLD: u32 = 2;
    pub const UNMANAGED: u32 = 3;
    pub const HEALTH: u32 = 4;
    pub const INIT: u32 = 5;
    pub const REMOTE_NODE: u32 = 6;
    pub const KUBE_APISERVER: u32 = 7;
    pub const INGRESS: u32 = 8;
    /// World addresses of one family, where a policy tells the families apart.
    pub const WORLD_IPV4: u32 = 9;
    pub const WORLD_IPV6: u32 = 10;
    pub const FIRST_LOCAL: u32 = 256;
    pub const MAX: u32 = (1 << 24) - 1;
}

/// Bits of [`InterfaceInfo::flags`].
pub mod interface_flags {
    /// The host side of an endpoint's veth: `from_endpoint` and `to_endpoint` judge for `identity`.
    pub const ENDPOINT: u32 = 1 << 0;
    /// A network device: `from_network` and `to_network` judge for the host, serve clients outside and lend the node's
    /// addresses.
    pub const NETWORK: u32 = 1 << 1;
    /// Some class has a source cell for this device's group.
    pub const PREFILTER_SOURCE: u32 = 1 << 2;
    /// Some class has a destination cell for this device's group.
    pub const PREFILTER_DESTINATION: u32 = 1 << 3;
    /// Weir owns both ends of the veth: packets from it must carry one of the endpoint's addresses.
    pub const CHECK_SOURCE: u32 = 1 << 4;
    /// What is for this endpoint, and was allowed by both ends, may go to its device without the stack.
    pub const DELIVER: u32 = 1 << 5;
    /// The device's other end is in another network namespace: straight to there.
    pub const PEER: u32 = 1 << 6;
}

/// Value of `interfaces`, keyed by ifindex: what a program must know about the device it runs on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InterfaceInfo {
    pub flags: u32,
    /// Endpoint number, 0 when this is no endpoint's interface.
    pub endpoint: u32,
    pub identity: u32,
    /// Grows when an endpoint is made anew under the same name: conntrack entries of the former are void.
    pub incarnation: u32,
    /// Column of [`crate::PrefilterClass`], below [`crate::CLASS_GROUPS`].
    pub prefilter_group: u32,
    pub reserved: [u32; 3],
    /// What leaves by this device and must not show its own address has one of these, where there is one.
    pub masquerade_v4: Address,
    pub masquerade_v6: Address,
}
const _: () = assert!(size_of::<InterfaceInfo>() == 64);

/// Value of `endpoints`, keyed by [`crate::Address`]: the endpoints of this node, for delivery and for
/// `dropUnknownDestinations`. The host's own addresses stand here too, with identity `HOST`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointInfo {
    pub endpoint: u32,
    pub identity: u32,
    pub incarnation: u32,
    pub reserved: [u32; 5],
}
const _: () = assert!(size_of::<EndpointInfo>() == 32);
