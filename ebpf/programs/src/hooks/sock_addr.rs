//! What a process on the host asks of a socket with an address: cgroup. Services, for the host itself.
use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated::bpf_set_retval, macros::cgroup_sock_addr, programs::SockAddrContext,
};

use crate::socket::{Peer, to_backend, to_frontend};

/// What a program answers: the call goes on, or ends with an error.
const GO_ON: i32 = 1;
const END: i32 = 0;

#[cgroup_sock_addr(connect4)]
fn connect4(context: SockAddrContext) -> i32 {
    send(context.sock_addr, peer4, set4, true)
}

#[cgroup_sock_addr(connect6)]
fn connect6(context: SockAddrContext) -> i32 {
    send(context.sock_addr, peer6, set6, true)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(context: SockAddrContext) -> i32 {
    send(context.sock_addr, peer4, set4, false)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(context: SockAddrContext) -> i32 {
    send(context.sock_addr, peer6, set6, false)
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(context: SockAddrContext) -> i32 {
    tell(context.sock_addr, peer4, set4)
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(context: SockAddrContext) -> i32 {
    tell(context.sock_addr, peer6, set6)
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(context: SockAddrContext) -> i32 {
    tell(context.sock_addr, peer4, set4)
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(context: SockAddrContext) -> i32 {
    tell(context.sock_addr, peer6, set6)
}

#[inline(always)]
fn send(
    context: *mut bpf_sock_addr,
    peer: impl FnOnce(*mut bpf_sock_addr) -> Peer,
    set: impl FnOnce(*mut bpf_sock_addr, Peer),
    connects: bool,
) -> i32 {
    match to_backend(context, peer(context), connects) {
        Ok(None) => GO_ON,
        Ok(Some(backend)) => {
            set(context, backend);
            GO_ON
        }
        Err(error) => {
            // SAFETY: the helper takes a number. Linux 6.1.
            unsafe { bpf_set_retval(error) };
            END
        }
    }
}

#[inline(always)]
fn tell(
    context: *mut bpf_sock_addr,
    peer: impl FnOnce(*mut bpf_sock_addr) -> Peer,
    set: impl FnOnce(*mut bpf_sock_addr, Peer),
) -> i32 {
    if let Some(frontend) = to_frontend(context, peer(context)) {
        set(context, frontend);
    }
    GO_ON
}

// SAFETY, for all four: the kernel's context. It takes loads and stores of 32 bits, so each is volatile: one instruction,
// at the field's own place. Which fields there are follows the family that a program is loaded for.

#[inline(always)]
fn peer4(context: *mut bpf_sock_addr) -> Peer {
    // SAFETY: see above.
    let (ip, port) = unsafe {
        ((&raw const (*context).user_ip4).read_volatile(), (&raw const (*context).user_port).read_volatile())
    };
    Peer { address: [0, 0xffff_0000 | (ip as u64) << 32], port_be: port as u16 }
}

#[inline(always)]
fn set4(context: *mut bpf_sock_addr, to: Peer) {
    // SAFETY: see above.
    unsafe {
        (&raw mut (*context).user_ip4).write_volatile((to.address[1] >> 32) as u32);
        (&raw mut (*context).user_port).write_volatile(to.port_be as u32);
    }
}

#[inline(always)]
fn peer6(context: *mut bpf_sock_addr) -> Peer {
    // SAFETY: see above.
    let (a, b, c, d, port) = unsafe {
        (
            (&raw const (*context).user_ip6[0]).read_volatile() as u64,
            (&raw const (*context).user_ip6[1]).read_volatile() as u64,
            (&raw const (*context).user_ip6[2]).read_volatile() as u64,
            (&raw const (*context).user_ip6[3]).read_volatile() as u64,
            (&raw const (*context).user_port).read_volatile(),
        )
    };
    Peer { address: [a | b << 32, c | d << 32], port_be: port as u16 }
}

#[inline(always)]
fn set6(context: *mut bpf_sock_addr, to: Peer) {
    let [first, second] = to.address;
    // SAFETY: see above.
    unsafe {
        (&raw mut (*context).user_ip6[0]).write_volatile(first as u32);
        (&raw mut (*context).user_ip6[1]).write_volatile((first >> 32) as u32);
        (&raw mut (*context).user_ip6[2]).write_volatile(second as u32);
        (&raw mut (*context).user_ip6[3]).write_volatile((second >> 32) as u32);
        (&raw mut (*context).user_port).write_volatile(to.port_be as u32);
    }
}
