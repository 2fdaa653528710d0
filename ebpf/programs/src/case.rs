//! What one run knows and has decided about its packet.
use core::arch::asm;

use weir_abi::{Direction, InterfaceInfo, identity, next_hook};

use crate::{maps::SCRATCH, parse::Packet, run::Run, words};

/// Whose policy is asked.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Subject {
    pub identity: u32,
    /// Endpoint number, 0 for the host.
    pub endpoint: u32,
    pub incarnation: u32,
    /// The endpoint's device, 0 for the host.
    pub ifindex: u32,
}

impl Subject {
    pub const NOBODY: Self = Self { identity: 0, endpoint: 0, incarnation: 0, ifindex: 0 };

    #[inline(always)]
    pub fn endpoint(interface: &InterfaceInfo, ifindex: u32) -> Self {
        let InterfaceInfo { identity, endpoint, incarnation, .. } = *interface;
        Self { identity, endpoint, incarnation, ifindex }
    }
}

/// One packet at one hook.
///
/// It lives in this CPU's scratch slot, not on the stack: that is too short for it; and what is read back from a map
/// is any number to the verifier, so that it follows what comes after the parser once, and not once for every way
/// through the parser.
#[repr(C)]
pub struct Case {
    pub run: Run,
    pub packet: Packet,
    /// The end of the packet that this hook answers for, and which end that is.
    pub near: Subject,
    pub ifindex: u32,
    /// What decided: rule and peer are 0 as long as nothing has.
    pub rule: u32,
    pub peer: u32,
    /// Of [`next_hook`]: the program that runs.
    pub hook: u8,
    pub near_is_source: bool,
    /// The subject was not the near end but the host, which is the far one.
    pub by_host: bool,
    pub from_conntrack: bool,
    /// IP, and parsed.
    pub is_packet: bool,
    /// Whoever sent it is told that nobody is there.
    pub reject: bool,
    /// What an end of the packet is to be rewritten to; port 0 for none is.
    pub to: [u64; 2],
    pub to_port_be: u16,
    /// At XDP, where both ends are rewritten at once: what its source becomes.
    pub from_port_be: u16,
    pub from: [u64; 2],
    /// The frontend that the packet was addressed to; port 0 for none.
    pub frontend_port_be: u16,
    pub frontend: [u64; 2],
    /// Of an ICMP error: where the transport layer of the packet that it is about begins, and its protocol.
    pub inner: u32,
    pub inner_protocol: u8,
    /// The backend that was just picked for it, and its incarnation.
    pub backend: u32,
    pub incarnation: u32,
    /// The backend is elsewhere, and must answer to this node.
    pub must_return: bool,
    /// The device of the endpoint here that it is for, where that endpoint's own verdict is known already; the rule that
    /// gave it.
    pub far: u32,
    pub far_rule: u32,
    /// It goes back to the endpoint that it came from.
    pub own: bool,
    /// At XDP: of the IP header, as a route may depend on it.
    pub traffic_class: u8,
    /// Kinds of extension header, while they are followed.
    pub extensions_seen: u32,
    /// Of this CPU, not of the case: the jiffy of its last drop events, and how many.
    pub told_at: u64,
    pub told: u32,
}

impl Case {
    /// The scratch slot, made new. `None` cannot be.
    #[inline(always)]
    pub fn begin(run: Run, hook: u8, ifindex: u32) -> Option<&'static mut Self> {
        let slot = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: the slot is this CPU's own, and no program of ours interrupts another on one CPU: tc and XDP run with
        // softirqs held off. An instance for test runs has a slot of its own.
        let case = unsafe { &mut *slot };
        case.run = run;
        case.packet.reset();
        // SAFETY: nobody is all zero.
        unsafe { words::zero(&raw mut case.near) };
        case.ifindex = ifindex;
        case.rule = 0;
        case.peer = 0;
        case.hook = hook;
        case.near_is_source = matches!(hook, next_hook::FROM_ENDPOINT | next_hook::TO_NETWORK);
        case.by_host = false;
        case.from_conntrack = false;
        case.reject = false;
        case.is_packet = false;
        case.to_port_be = 0;
        case.frontend_port_be = 0;
        case.far = 0;
        case.own = false;
        Some(case)
    }

    /// The same case, of which the compiler has forgotten what it knew: everything is read back from the slot.
    #[inline(always)]
    pub fn settled(&mut self) -> &mut Self {
        let mut address = core::ptr::from_mut(self);
        // SAFETY: a move to itself; that memory could have been written is what it tells the compiler.
        unsafe {
            asm!("{a} = {a}", a = inout(reg) address, options(nostack, preserves_flags));
            &mut *address
        }
    }

    /// In a global function: the caller's case, as a value of its map. Before Linux 6.2 the verifier refuses a key that
    /// lies in the memory that such a function was given.
    #[inline(always)]
    pub fn in_map(case: *mut Self) -> Option<&'static mut Self> {
        let mut given = case;
        // SAFETY: a move to itself. Without a use of its own, the compiler would leave the argument out at the caller,
        // whose memory the function does change.
        unsafe { asm!("{a} = {a}", a = inout(reg) given, options(nostack, preserves_flags)) };
        let _ = given;
        // SAFETY: as in `begin`; the caller lends the same slot for as long as the function runs.
        SCRATCH.get_ptr_mut(0).map(|slot| unsafe { &mut *slot })
    }

    /// What an end of the packet is to become.
    #[inline(always)]
    pub fn aim(&mut self, address: [u64; 2], port_be: u16) {
        self.to = address;
        self.to_port_be = port_be;
    }

    /// Before the packet goes to a backend: what it was addressed to.
    #[inline(always)]
    pub fn remember_frontend(&mut self) {
        self.frontend = *words::of_address(self.packet.flow.destination());
        self.frontend_port_be = self.packet.flow.destination_port_be();
    }

    /// Whose policy decided.
    #[inline(always)]
    pub fn subject(&self) -> u32 {
        if self.by_host { identity::HOST } else { self.near.identity }
    }

    /// Seen from the node's stack.
    #[inline(always)]
    pub fn direction(&self) -> Direction {
        match self.hook {
            next_hook::TO_ENDPOINT | next_hook::TO_NETWORK | next_hook::FROM_HOST => Direction::Egress,
            _ => Direction::Ingress,
        }
    }
}
