//! What an endpoint sends: tc ingress on the host side of its veth.
use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_abi::{interface_flags, next_hook, tc_action};

use super::{conclude, endpoint};
use crate::{
    case::{Case, Subject},
    run::Run,
    skb, tables,
};

#[classifier]
fn from_endpoint(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(run) = Run::begin() else { return tc_action::DROP };
    let ifindex = skb::ifindex(skb);
    let Some(interface) = endpoint::interface(run, ifindex) else { return tc_action::CONTINUE };
    let near = Subject::endpoint(interface);
    let Some(case) = Case::begin(run, next_hook::FROM_ENDPOINT, ifindex, near) else { return tc_action::DROP };
    let check_source = interface.flags & interface_flags::CHECK_SOURCE != 0;
    let verdict = endpoint::judge(skb, case, |case| !check_source || is_its_own(case));
    conclude(case, verdict, next_hook::STACK)
}

/// Whether the source address is one of the endpoint's.
#[inline(always)]
fn is_its_own(case: &Case) -> bool {
    tables::endpoint(case.run.side(), case.packet.flow.source())
        .is_some_and(|owner| owner.endpoint == case.near.endpoint)
}
