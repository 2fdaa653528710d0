//! One entry per flow: what each end was judged to be, and how long the flow lives.
use core::{arch::asm, ptr::NonNull};

use aya_ebpf::bindings::BPF_NOEXIST;
use weir_abi::{ConntrackEntry, ConntrackKey, Settings, VerdictWord, ct_flags};

use crate::{
    case::Case,
    flow::TCP,
    maps::{CONNTRACK_OTHER, CONNTRACK_TCP, ENTRIES, FORMER, FORMER_OTHER, FORMER_TCP, FRESH, Lru, TAKEN_OVER},
    parse::{TCP_FIN, TCP_RST, TCP_SYN},
    run::jiffies,
    words,
};

const BOTH_FINS: u32 = ct_flags::FIN_ORIGINAL | ct_flags::FIN_REPLY;

/// A live entry. Several CPUs may hold the same one: every field is read and written by single instructions. What was
/// just looked up is the last that the LRU evicts.
#[derive(Clone, Copy)]
pub struct Entry(NonNull<ConntrackEntry>);

#[inline(always)]
fn table(protocol: u8) -> &'static Lru<ConntrackKey, ConntrackEntry> {
    if protocol == TCP { &CONNTRACK_TCP } else { &CONNTRACK_OTHER }
}

/// The entry of a flow, unless it has expired.
#[inline(always)]
pub fn find(key: &ConntrackKey, now: u64) -> Option<Entry> {
    let mut found = look_up(key);
    if found.is_none() && FORMER.load() != 0 && weir_take_over(key) != 0 {
        found = look_up(key);
    }
    let entry = Entry::new(found?)?;
    (now < entry.expires()).then_some(entry)
}

#[inline(always)]
fn look_up(key: &ConntrackKey) -> Option<*mut ConntrackEntry> {
    // Two calls: the verifier inlines a lookup only where it knows the map.
    if key.protocol == TCP { CONNTRACK_TCP.get_ptr_mut(key) } else { CONNTRACK_OTHER.get_ptr_mut(key) }
}

/// Takes a flow over from the table that conntrack was before. 1: it is there now, whoever brought it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_take_over(key: *const ConntrackKey) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // On the stack, as in `store`.
    let mut own = ConntrackKey::default();
    words::copy(key, &mut own);
    let former = if own.protocol == TCP { FORMER_TCP.get_ptr(&own) } else { FORMER_OTHER.get_ptr(&own) };
    let Some(former) = former else { return 0 };
    let Some(entry) = ENTRIES.get_ptr_mut(TAKEN_OVER) else { return 0 };
    // SAFETY: this CPU's own slot, and zero is a value of every field. What both versions know is copied, by words: the
    // pointer came from a lookup that succeeded in a table whose entries have `FORMER` bytes, and what other CPUs write
    // meanwhile is plain data.
    unsafe {
        words::zero(entry);
        let (from, to) = (former.cast::<u64>(), entry.cast::<u64>());
        let mut at = 0;
        while at < size_of::<ConntrackEntry>() / 8 {
            // The loader has set it: the verifier knows which of these there are.
            if at < FORMER.load() as usize / 8 {
                to.add(at).write_volatile(from.add(at).read_volatile());
            }
            at += 1;
        }
        // Another CPU may have been first, and its entry may be newer.
        let _ = table(own.protocol).insert(&own, &*entry, BPF_NOEXIST as u64);
    }
    1
}

/// Makes the entry, or makes it anew. That it fails means that the table has no entry to give, and only costs a
/// judgement of the next packet.
#[inline(always)]
pub fn store(key: ConntrackKey, entry: &ConntrackEntry) {
    // From the stack: before Linux 6.2 a key may not lie in the memory that a global function was given.
    let _ = table(key.protocol).insert(&key, entry, 0);
}

macro_rules! field {
    ($self:ident, $name:ident) => {{
        // SAFETY: the pointer came from a lookup that succeeded, and lookups stay valid until the program ends.
        &raw mut (*$self.0.as_ptr()).$name
    }};
}

impl Entry {
    #[inline(always)]
    pub fn new(address: *mut ConntrackEntry) -> Option<Self> {
        NonNull::new(address).map(Self)
    }

    #[inline(always)]
    pub fn address(self) -> *mut ConntrackEntry {
        self.0.as_ptr()
    }

    #[inline(always)]
    pub fn flags(self) -> u32 {
        // SAFETY: an aligned word of the entry.
        unsafe { field!(self, flags).read_volatile() }
    }

    #[inline(always)]
    fn expires(self) -> u64 {
        // SAFETY: an aligned word of the entry.
        unsafe { field!(self, expires).read_volatile() }
    }

    /// Whether a packet whose source is (not) the key's high end goes against the original direction.
    #[inline(always)]
    pub fn is_reply(self, source_is_high: bool) -> bool {
        (self.flags() & ct_flags::SOURCE_IS_HIGH != 0) != source_is_high
    }

    /// FIN in both directions, or a reset: the next SYN begins another flow.
    #[inline(always)]
    pub fn is_closing(self) -> bool {
        is_closing(self.flags())
    }

    /// The verdict word of one end, and the device that it was judged on.
    #[inline(always)]
    pub fn word(self, original_source: bool) -> (VerdictWord, u32) {
        // SAFETY: aligned words of the entry.
        unsafe {
            if original_source {
                (field!(self, egress).read_volatile(), field!(self, source_ifindex).read_volatile())
            } else {
                (field!(self, ingress).read_volatile(), field!(self, destination_ifindex).read_volatile())
            }
        }
    }

    /// The incarnation of the endpoint that one end's word was judged for, 0 if it never was.
    #[inline(always)]
    pub fn incarnation(self, original_source: bool) -> u32 {
        // SAFETY: aligned words of the entry.
        unsafe {
            if original_source {
                field!(self, source_incarnation).read_volatile()
            } else {
                field!(self, destination_incarnation).read_volatile()
            }
        }
    }

    /// Whether it says what a client's packets to a frontend are turned into.
    #[inline(always)]
    pub fn is_service(self) -> bool {
        self.flags() & ct_flags::SERVICE != 0
    }

    /// The backend of a service's entry, the frontend of a flow; port 0 for none.
    #[inline(always)]
    pub fn service(self) -> ([u64; 2], u16) {
        // SAFETY: aligned words of the entry.
        unsafe {
            let words = field!(self, service).cast::<u64>();
            let address = [words.read_volatile(), words.add(1).read_volatile()];
            (address, field!(self, service_port_be).read_volatile())
        }
    }

    /// 0: it was lent none.
    #[inline(always)]
    pub fn nat_port_be(self) -> u16 {
        // SAFETY: an aligned half-word of the entry.
        unsafe { field!(self, nat_port_be).read_volatile() }
    }

    #[inline(always)]
    pub fn set_nat_port(self, port_be: u16) {
        // SAFETY: an aligned half-word of the entry.
        unsafe { field!(self, nat_port_be).write_volatile(port_be) }
    }

    #[inline(always)]
    pub fn set_service(self, address: [u64; 2], port_be: u16) {
        // SAFETY: aligned words of the entry.
        unsafe {
            let words = field!(self, service).cast::<u64>();
            words.write_volatile(address[0]);
            words.add(1).write_volatile(address[1]);
            field!(self, service_port_be).write_volatile(port_be);
        }
    }

    /// Verdict, rule and epoch in one store, after what they hold for.
    #[inline(always)]
    pub fn set_word(self, original_source: bool, word: VerdictWord, incarnation: u32, ifindex: u32) {
        // SAFETY: aligned words of the entry.
        unsafe {
            if original_source {
                field!(self, source_incarnation).write_volatile(incarnation);
                field!(self, source_ifindex).write_volatile(ifindex);
                field!(self, egress).write_volatile(word);
            } else {
                field!(self, destination_incarnation).write_volatile(incarnation);
                field!(self, destination_ifindex).write_volatile(ifindex);
                field!(self, ingress).write_volatile(word);
            }
        }
    }

    /// Sets or clears bits; other CPUs may set or clear others.
    #[inline(always)]
    pub fn mark(self, bits: u32, on: bool) {
        let flags = self.flags_address();
        // SAFETY: an aligned word of the entry. In assembly, for Rust has no atomic operations on this target.
        unsafe {
            if on {
                asm!("lock *(u32 *)({p} + 0) |= {v}", p = in(reg) flags, v = in(wreg) bits, options(nostack));
            } else {
                asm!("lock *(u32 *)({p} + 0) &= {v}", p = in(reg) flags, v = in(wreg) !bits, options(nostack));
            }
        }
    }

    #[inline(always)]
    fn flags_address(self) -> *mut u32 {
        // SAFETY: as everywhere here.
        unsafe { field!(self, flags) }
    }

    /// A packet was let through: the flow's state and lifetime follow it. Whether either changed.
    #[inline(always)]
    pub fn touch(self, case: &Case, reply: bool, now: u64, settings: &Settings) -> bool {
        let before = self.flags();
        let after = before | seen(case, reply);
        if after != before {
            self.mark(after & !before, true);
        }
        let expires = now + lifetime(case.packet.flow.protocol(), after, settings);
        let expired = self.expires();
        // Within the second it is right enough, and the cache line stays clean.
        let moved = expires < expired || expires > expired + jiffies(1);
        if moved {
            // SAFETY: an aligned word of the entry.
            unsafe { field!(self, expires).write_volatile(expires) };
        }
        moved || after != before
    }
}

/// What the first packet of a flow makes of it, not yet judged. In this CPU's one place for it: the next flow's is made
/// there too.
#[inline(always)]
pub fn fresh(case: &Case, settings: &Settings) -> Option<&'static mut ConntrackEntry> {
    let direction = if case.packet.flow.source_is_high { ct_flags::SOURCE_IS_HIGH } else { 0 };
    let flags = direction | seen(case, false);
    // SAFETY: this CPU's own slot, and zero is a value of every field.
    let entry = unsafe {
        let entry = ENTRIES.get_ptr_mut(FRESH)?;
        words::zero(entry);
        &mut *entry
    };
    entry.expires = case.run.now() + lifetime(case.packet.flow.protocol(), flags, settings);
    entry.flags = flags;
    #[cfg(feature = "next-layout")]
    {
        entry.born = case.run.epoch();
    }
    Some(entry)
}

/// The bits that a packet adds.
#[inline(always)]
fn seen(case: &Case, reply: bool) -> u32 {
    let mut flags = if reply { ct_flags::SEEN_REPLY } else { 0 };
    if case.packet.flow.protocol() == TCP {
        let tcp = case.packet.tcp_flags;
        if tcp & TCP_SYN == 0 {
            flags |= ct_flags::SEEN_NON_SYN;
        }
        if tcp & TCP_FIN != 0 {
            flags |= if reply { ct_flags::FIN_REPLY } else { ct_flags::FIN_ORIGINAL };
        }
        if tcp & TCP_RST != 0 {
            flags |= ct_flags::RST;
        }
    }
    flags
}

#[inline(always)]
fn is_closing(flags: u32) -> bool {
    flags & ct_flags::RST != 0 || flags & BOTH_FINS == BOTH_FINS
}

/// In jiffies.
#[inline(always)]
fn lifetime(protocol: u8, flags: u32, settings: &Settings) -> u64 {
    jiffies(if protocol != TCP {
        settings.other
    } else if is_closing(flags) {
        settings.tcp_closing
    } else if flags & ct_flags::SEEN_NON_SYN != 0 {
        settings.tcp_established
    } else {
        settings.tcp_syn
    })
}
