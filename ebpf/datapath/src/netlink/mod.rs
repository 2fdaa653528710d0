//! Interfaces, addresses, routes and network namespaces, by rtnetlink.
//!
//! Blocking, one socket, one request at a time: every call here is off the path of packets and of the flip. What is
//! asked of another namespace is asked by a thread that enters it and ends.
mod clsact;
mod error;
mod link;
mod netns;
mod place;
mod socket;
mod sockets;

pub use clsact::{Filter, Half};
pub use error::NetlinkError;
pub use link::Link;
pub use netns::{Netns, exists as netns_exists};
pub use place::{Place, Route, Scope};
pub use socket::Netlink;
pub use sockets::{Connected, SocketState, connected, destroy, sockets};
