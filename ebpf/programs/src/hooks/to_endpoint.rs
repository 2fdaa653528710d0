//! What comes to an endpoint through the stack: tc egress on the host side of its veth.
use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_abi::{next_hook, tc_action};

use super::{conclude, endpoint};
use crate::{
    case::{Case, Subject},
    run::Run,
    skb,
};

#[classifier]
fn to_endpoint(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(run) = Run::begin() else { return tc_action::DROP };
    let ifindex = skb::ifindex(skb);
    let Some(interface) = endpoint::interface(run, ifindex) else { return tc_action::CONTINUE };
    let near = Subject::endpoint(interface);
    let Some(case) = Case::begin(run, next_hook::TO_ENDPOINT, ifindex, near) else { return tc_action::DROP };
    let verdict = endpoint::judge(skb, case, |_| true);
    conclude(case, verdict, next_hook::NONE)
}
