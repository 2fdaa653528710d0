//! A packet at tc: where its bytes are.
use core::arch::asm;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_pull_data};
use weir_abi::Reason;

use crate::{
    case::Case,
    parse::{self, Parsed, Part, Window},
};

/// As far as headers are followed: what is pulled when they are not in the linear part.
const HEADERS: u32 = 768;

/// Parses the packet; headers that lie outside the linear part are pulled into it first.
///
/// # Errors
///
/// Why it must be dropped. [`Reason::NoData`]: the kernel did not give more of it.
#[inline(always)]
pub fn parse(skb: *mut __sk_buff, case: &mut Case) -> Result<Parsed, Reason> {
    let mut attempt = 0u64;
    loop {
        let window = window(skb);
        case.packet.fragment.of = Part::Whole;
        match parse::parse(skb, &window, case) {
            Err(Reason::NoData) if attempt == 0 => {
                let wanted = if window.length < HEADERS { window.length } else { HEADERS };
                // SAFETY: the context is valid; every pointer into the packet is made anew.
                if unsafe { bpf_skb_pull_data(skb, wanted) } < 0 {
                    return Err(Reason::NoData);
                }
                attempt = once_more(attempt);
            }
            result => return result,
        }
    }
}

/// The next attempt's number, which only the verifier knows: the compiler would write the parser out twice.
#[inline(always)]
pub fn once_more(attempt: u64) -> u64 {
    let mut next = attempt + 1;
    // SAFETY: a move to itself.
    unsafe { asm!("{next} = {next}", next = inout(reg) next, options(nomem, nostack, preserves_flags)) };
    next
}

/// What can be read directly.
#[inline(always)]
pub fn window(skb: *mut __sk_buff) -> Window {
    // SAFETY: the context is valid for the whole run.
    unsafe { Window { data: (*skb).data as usize, end: (*skb).data_end as usize, length: (*skb).len } }
}

#[inline(always)]
pub fn ifindex(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context is valid for the whole run.
    unsafe { (*skb).ifindex }
}
