//! Services for the host's own sockets: the address that a program on the host names becomes a backend's before a
//! packet is made, and is put back where the kernel tells the program whom it speaks to.
//!
//! These programs run in the context of processes of the whole machine, interrupted by the programs of packets. So
//! nothing of theirs lives in a CPU's scratch slot, they pass by every network namespace but the host's, and there is no
//! entry in conntrack: TCP and connected UDP keep their backend for as long as they are connected, and for a socket that
//! sends without being connected `SOCKETS` says which backend it has.
use core::arch::asm;

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
};
use weir_abi::{
    AffinityKey, BackendInfo, Direction, FrontendInfo, FrontendKey, Reason, Settings, SocketEntry, SocketKey,
    backend_flags, frontend_flags, metric_slot, service_flags, settings_flags, socket_peer,
};

use crate::{
    flow::{TCP, UDP},
    maps::{METRICS, RUNTIME, SOCKETS},
    run::Run,
    service::{mix, pick},
    tables, words,
};

/// `EHOSTUNREACH` and `ECONNREFUSED`, as helpers take them.
const UNREACHABLE: i32 = -113;
const REFUSED: i32 = -111;

/// An address as its words are in memory, and a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub address: [u64; 2],
    pub port_be: u16,
}

/// A socket, and the protocol that it speaks.
#[derive(Clone, Copy)]
struct Socket {
    cookie: u64,
    protocol: u8,
}

impl Socket {
    #[inline(always)]
    fn key(self, of: Peer, peer: u8) -> SocketKey {
        let mut key = SocketKey {
            cookie: self.cookie,
            port_be: of.port_be,
            protocol: self.protocol,
            peer,
            ..SocketKey::default()
        };
        words::set(&mut key.address, of.address);
        key
    }
}

#[inline(always)]
fn protocol(context: *mut bpf_sock_addr) -> u8 {
    // SAFETY: the kernel's context; volatile, so that the field is read by one load of its width.
    unsafe { (&raw const (*context).protocol).read_volatile() as u8 }
}

#[inline(always)]
fn socket(context: *mut bpf_sock_addr) -> Socket {
    // SAFETY: the helper takes the program's own context.
    Socket { cookie: unsafe { bpf_get_socket_cookie(context.cast()) }, protocol: protocol(context) }
}

/// Whether the socket is in the network namespace of the host.
#[inline(always)]
fn is_of_the_host(context: *mut bpf_sock_addr) -> bool {
    let Some(runtime) = RUNTIME.get_ptr(0) else { return false };
    // SAFETY: the slot is valid for as long as the map is; the helper takes the program's own context.
    unsafe { (&raw const (*runtime).netns_cookie).read_volatile() == bpf_get_netns_cookie(context.cast()) }
}

/// Before a socket is connected, or sends to somebody without being connected: the backend in place of the frontend.
/// `None`: it speaks to no service.
///
/// # Errors
///
/// The error that the process gets.
#[inline(always)]
pub fn to_backend(context: *mut bpf_sock_addr, to: Peer, connects: bool) -> Result<Option<Peer>, i32> {
    if !is_of_the_host(context) {
        return Ok(None);
    }
    let Some(run) = Run::begin() else { return Ok(None) };
    let side = run.side();
    let Some(settings) = tables::settings(side) else { return Ok(None) };
    let protocol = protocol(context);
    // Nothing can be sent to port 0: whoever connects there asks which address it would have itself.
    if settings.flags & settings_flags::SOCKETS == 0 || !matches!(protocol, TCP | UDP) || to.port_be == 0 {
        return Ok(None);
    }
    let socket = socket(context);
    let Some(frontend) = find_frontend(side, settings, to, protocol) else {
        let own = FrontendKey::of_address(*words::as_address(&to.address));
        if tables::frontend(side, &own).is_some() {
            return Err(refuse(Reason::NoService, UNREACHABLE));
        }
        if connects {
            // What it was given when it was connected by way of a service is over.
            let _ = SOCKETS.remove(&socket.key(to, socket_peer::BACKEND));
        }
        return Ok(None);
    };
    let local = frontend.flags & frontend_flags::INTERNAL_LOCAL != 0;
    if !connects && let Some((number, backend)) = kept(side, socket, to, frontend.service, local) {
        let peer = peer(backend);
        if !is_known(socket, peer, to) {
            remember(socket, socket_peer::BACKEND, peer, to, number, backend.incarnation);
        }
        return Ok(Some(peer));
    }
    let Some(service) = tables::service(side, frontend.service) else {
        return Err(refuse(Reason::NoBackend, UNREACHABLE));
    };
    // All of the host's processes are one client.
    let mut client = AffinityKey { service: frontend.service, ..AffinityKey::default() };
    // SAFETY: the helper takes the program's own context.
    words::set(&mut client.client, [unsafe { bpf_get_netns_cookie(context.cast()) }, 0]);
    // A socket has no port of its own yet: its number is in the place of the client's end.
    let hash = || mix([socket.cookie, to.address[0], to.address[1], (to.port_be as u64) << 16 | protocol as u64]);
    let Some((number, backend)) = pick(run, &client, service, local, hash) else {
        let rejects = service.flags & service_flags::REJECT != 0;
        return Err(refuse(Reason::NoBackend, if rejects { REFUSED } else { UNREACHABLE }));
    };
    let peer = peer(backend);
    remember(socket, socket_peer::BACKEND, peer, to, number, backend.incarnation);
    if !connects {
        remember(socket, socket_peer::FRONTEND, to, peer, number, backend.incarnation);
    }
    Ok(Some(peer))
}

/// When the kernel tells whom a socket got something from, or is connected to: the frontend in place of the backend.
#[inline(always)]
pub fn to_frontend(context: *mut bpf_sock_addr, from: Peer) -> Option<Peer> {
    // A socket's number says whose it is: other namespaces' have no entry.
    if !is_of_the_host(context) {
        return None;
    }
    let entry = SOCKETS.get_ptr(&socket(context).key(from, socket_peer::BACKEND))?;
    // SAFETY: a successful lookup; what is read is plain data.
    Some(unsafe { Peer { address: *words::of_address(&(*entry).address), port_be: (*entry).port_be } })
}

/// The frontend of an address and port. A node port is one of the loopback's addresses too, for who is on the node.
#[inline(always)]
fn find_frontend(side: u32, settings: &Settings, to: Peer, protocol: u8) -> Option<&'static FrontendInfo> {
    let mut key = FrontendKey::new(*words::as_address(&to.address), protocol, u16::from_be(to.port_be));
    if let Some(frontend) = tables::frontend(side, &key) {
        return Some(frontend);
    }
    let node = if words::is_v4(&to.address) {
        ((to.address[1] >> 32) as u8 == 127).then_some(&settings.node_v4)?
    } else {
        (to.address == [0, 1u64.to_be()]).then_some(&settings.node_v6)?
    };
    words::set(&mut key.address, *words::of_address(node));
    tables::frontend(side, &key).filter(|frontend| frontend.flags & frontend_flags::NODE_PORT != 0)
}

#[inline(always)]
fn peer(backend: &BackendInfo) -> Peer {
    Peer { address: *words::of_address(&backend.address), port_be: backend.port_be }
}

/// The backend that an unconnected socket has of a frontend, for as long as it is one: its datagrams go one way.
#[inline(always)]
fn kept(side: u32, socket: Socket, frontend: Peer, service: u32, local: bool) -> Option<(u32, &'static BackendInfo)> {
    let entry = SOCKETS.get_ptr(&socket.key(frontend, socket_peer::FRONTEND))?;
    // SAFETY: a successful lookup; every field is read by one instruction.
    let (number, incarnation) =
        unsafe { ((&raw const (*entry).backend).read_volatile(), (&raw const (*entry).incarnation).read_volatile()) };
    let backend = tables::backend(side, number)?;
    let fits = backend.service == service
        && backend.incarnation == incarnation
        && backend.flags & backend_flags::EXISTS != 0
        && (!local || backend.flags & backend_flags::LOCAL != 0);
    fits.then_some((number, backend))
}

/// Whether what comes from a backend is known to be from this frontend.
#[inline(always)]
fn is_known(socket: Socket, backend: Peer, frontend: Peer) -> bool {
    let Some(entry) = SOCKETS.get_ptr(&socket.key(backend, socket_peer::BACKEND)) else { return false };
    // SAFETY: a successful lookup; what is read is plain data.
    let known = unsafe { Peer { address: *words::of_address(&(*entry).address), port_be: (*entry).port_be } };
    known == frontend
}

/// That the table is full costs the oldest socket its frontend's name, and nobody a datagram.
#[inline(always)]
fn remember(socket: Socket, of: u8, key: Peer, other: Peer, backend: u32, incarnation: u32) {
    let key = socket.key(key, of);
    let mut entry = SocketEntry { backend, incarnation, port_be: other.port_be, ..SocketEntry::default() };
    words::set(&mut entry.address, other.address);
    let _ = SOCKETS.insert(&key, &entry, 0);
}

/// Counts what will not become a packet.
#[inline(always)]
fn refuse(reason: Reason, error: i32) -> i32 {
    if let Some(counter) = METRICS.get_ptr_mut(metric_slot(reason, Direction::Egress)) {
        // SAFETY: an aligned word of the map's cell. By one instruction: a packet's program may interrupt this one and
        // count in the same cell.
        unsafe {
            asm!("lock *(u64 *)({at} + 0) += {one}", at = in(reg) &raw mut (*counter).packets, one = in(reg) 1u64);
        }
    }
    error
}
