//! What an endpoint sends: tc ingress on the host side of its veth. Services, then its egress policy, then straight on
//! to an endpoint here.
use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_abi::{next_hook, tc_action};

use super::{conclude_or_deliver, endpoint};
use crate::{case::Case, run::Run, skb};

#[classifier]
fn from_endpoint(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(run) = Run::begin() else { return tc_action::DROP };
    let Some(case) = Case::begin(run, next_hook::FROM_ENDPOINT, skb::ifindex(skb)) else { return tc_action::DROP };
    match endpoint::judge(skb, case) {
        Some(verdict) => conclude_or_deliver(skb, case.settled(), verdict),
        None => tc_action::CONTINUE,
    }
}
