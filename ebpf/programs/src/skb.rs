//! A packet at tc: where its bytes are.
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_pull_data};
use weir_abi::Reason;

use crate::{
    case::Case,
    parse::{self, Parsed, Window},
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
    match parse::parse(skb, &window(skb), case) {
        Err(Reason::NoData) => again(weir_parse_pulled(skb, case)),
        result => result,
    }
}

// What the subprogram answers, beside a reason's code.
const PACKET: u32 = 0;
const NEIGHBOUR: u32 = 1;
const UNKNOWN_ETHERTYPE: u32 = 2;

#[inline(always)]
fn again(code: u32) -> Result<Parsed, Reason> {
    match code {
        PACKET => Ok(Parsed::Packet),
        NEIGHBOUR => Ok(Parsed::Neighbour),
        UNKNOWN_ETHERTYPE => Ok(Parsed::UnknownEthertype),
        code => Err(Reason::from_code(code as u8).unwrap_or(Reason::Internal)),
    }
}

/// The second attempt. Not a loop around the first: before Linux 6.2 the verifier refuses one whose end falls through
/// to its head, as the compiler lays it out.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_parse_pulled(skb: *mut __sk_buff, case: *mut Case) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return Reason::Internal as u32 };
    let length = window(skb).length;
    // SAFETY: the context is valid; every pointer into the packet is made anew.
    if unsafe { bpf_skb_pull_data(skb, if length < HEADERS { length } else { HEADERS }) } < 0 {
        return Reason::NoData as u32;
    }
    case.packet.reset();
    match parse::parse(skb, &window(skb), case) {
        Ok(Parsed::Packet) => PACKET,
        Ok(Parsed::Neighbour) => NEIGHBOUR,
        Ok(Parsed::UnknownEthertype) => UNKNOWN_ETHERTYPE,
        Err(reason) => reason as u32,
    }
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

#[inline(always)]
pub fn mark(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context is valid for the whole run.
    unsafe { (*skb).mark }
}
