//! A hint that the node's devices or addresses changed: look again.
use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixDatagram as Datagram},
};

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use tokio::net::UnixDatagram;

const GROUPS: u32 = (libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;

/// A subscription to rtnetlink's link and address messages, whose content is not read: any message, and an overflow
/// as well, means the same.
///
/// The socket is none of the Unix domain. Tokio's type for datagrams is used for it because it only ever polls and
/// receives, which is the same system call for every kind of datagram socket.
#[derive(Debug)]
pub(crate) struct LinkHints(UnixDatagram);

impl LinkHints {
    pub fn subscribe() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self(UnixDatagram::from_std(Datagram::from(fd))?))
    }

    /// Returns when something happened since the last call. Safe to cancel.
    pub async fn changed(&self) -> io::Result<()> {
        self.0.readable().await?;
        let mut buffer = [0; 4096];
        loop {
            match self.0.try_recv(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
