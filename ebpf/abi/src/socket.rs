use crate::Address;

/// What a [`SocketKey`] names.
pub mod socket_peer {
    /// The backend: the value is the frontend that the socket was given.
    pub const BACKEND: u8 = 0;
    /// The frontend of a socket that sends without being connected: the value is the backend.
    pub const FRONTEND: u8 = 1;
}

/// Key of `sockets`: a socket of the host, and whom it speaks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// The kernel's number of the socket, never used twice until it boots again.
    pub cookie: u64,
    pub address: Address,
    pub port_be: u16,
    pub protocol: u8,
    /// Of [`socket_peer`].
    pub peer: u8,
    pub reserved: u32,
}
const _: () = assert!(size_of::<SocketKey>() == 32);

/// Value of `sockets`: the other one of frontend and backend, and which backend it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketEntry {
    pub address: Address,
    pub backend: u32,
    pub incarnation: u32,
    pub port_be: u16,
    pub reserved: [u16; 3],
}
const _: () = assert!(size_of::<SocketEntry>() == 32);
