//! What the node routes to its own router: tc egress of the router's device. Every endpoint that can be reached has a
//! route of its own, so what comes here is for an address that nobody has, and would go nowhere unseen.
use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use weir_abi::{Reason, next_hook, tc_action};

use super::conclude;
use crate::{case::Case, parse::Parsed, run::Run, skb, words};

#[classifier]
fn from_host(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(run) = Run::begin() else { return tc_action::DROP };
    let Some(case) = Case::begin(run, next_hook::FROM_HOST, skb::ifindex(skb)) else { return tc_action::DROP };
    let verdict = judge(skb, case);
    conclude(case.settled(), verdict, next_hook::NONE)
}

#[inline(always)]
fn judge(skb: *mut __sk_buff, case: &mut Case) -> Result<Reason, Reason> {
    match skb::parse(skb, case)? {
        Parsed::Packet => {}
        Parsed::Neighbour | Parsed::UnknownEthertype => return Ok(Reason::ForwardedLink),
    }
    // What the kernel itself tells the link.
    let destination = *words::of_address(case.settled().packet.flow.destination());
    let first = if words::is_v4(&destination) { destination[1] >> 32 } else { destination[0] } as u8;
    let is_multicast = if words::is_v4(&destination) { first >> 4 == 0xe } else { first == 0xff };
    if is_multicast { Ok(Reason::ForwardedLink) } else { Err(Reason::UnknownDestination) }
}
