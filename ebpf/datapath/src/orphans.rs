//! Sockets of the host whose backend is no more: nobody would ever answer them, so they are ended (`SOCK_DESTROY`), and
//! the process is told at once. Those of a backend that drains go on.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
};

use weir_abi::{BackendInfo, SocketEntry, SocketKey, backend_flags, socket_peer};

use crate::{
    hash,
    kernel::Kernel,
    mapped::Mapped,
    netlink::{Connected, connected, destroy},
    stage::ip_of,
    sys,
};

impl Kernel {
    /// Once no program runs on the side that had those backends. What cannot be ended is left: the process finds out.
    pub(crate) fn end_orphans(&mut self) {
        if !std::mem::take(&mut self.orphans) {
            return;
        }
        match self.try_end_orphans() {
            Ok(0) => {}
            Ok(ended) => tracing::info!(event = "sockets-ended", ended, "ended sockets whose backend is no more"),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                tracing::warn!(%error, "this kernel ends no sockets (CONFIG_INET_DIAG_DESTROY); those of a backend that is no more go on");
            }
            Err(error) => tracing::warn!(%error, "sockets whose backend is no more may go on"),
        }
    }

    /// How many were.
    fn try_end_orphans(&mut self) -> io::Result<usize> {
        let Some(live) = &self.live else { return Ok(0) };
        let (Some(sockets), Some(backends)) = (&live.sockets, &live.backends) else { return Ok(0) };
        let backends = backends.side(live.word.get().side);
        let entries = hash::read::<SocketKey, SocketEntry>(sockets)?;
        let orphaned =
            |(key, entry): &(SocketKey, SocketEntry)| key.peer == socket_peer::BACKEND && !exists(backends, entry);
        let mut orphans: BTreeMap<u8, BTreeMap<(u64, SocketAddr), SocketKey>> = BTreeMap::new();
        for (key, _) in entries.into_iter().filter(orphaned) {
            let remote = SocketAddr::new(ip_of(&key.address), u16::from_be(key.port_be));
            orphans.entry(key.protocol).or_default().insert((key.cookie, remote), key);
        }
        let mut ended = BTreeSet::new();
        for (protocol, orphans) in &orphans {
            for socket in connected(*protocol)? {
                let Some(key) = orphans.get(&(socket.cookie, socket.remote)) else { continue };
                if end(&socket)? {
                    ended.insert(socket.cookie);
                }
                sys::delete(sockets.as_fd(), key)?;
            }
        }
        Ok(ended.len())
    }
}

fn exists(backends: &Mapped<BackendInfo>, entry: &SocketEntry) -> bool {
    let index = entry.backend as usize;
    let known = (index < backends.len()).then(|| backends.get(index));
    known.is_some_and(|known| known.flags & backend_flags::EXISTS != 0 && known.incarnation == entry.incarnation)
}

/// False: it had ended by itself.
fn end(socket: &Connected) -> io::Result<bool> {
    match destroy(socket) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
