//! What comes to an endpoint through the stack: tc egress on the host side of its veth. Its ingress policy, and the
//! address of the service that it asked.
use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_abi::{ANSWER_MARK, next_hook, tc_action};

use super::{conclude, endpoint};
use crate::{case::Case, run::Run, skb, translate};

#[classifier]
fn to_endpoint(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    // Our own answer: it was counted as the drop that it tells of.
    if skb::mark(skb) == ANSWER_MARK {
        return tc_action::CONTINUE;
    }
    let Some(run) = Run::begin() else { return tc_action::DROP };
    let Some(case) = Case::begin(run, next_hook::TO_ENDPOINT, skb::ifindex(skb)) else { return tc_action::DROP };
    match endpoint::judge(skb, case) {
        Some(verdict) => {
            let case = case.settled();
            let verdict = match verdict {
                Ok(reason) if case.to_port_be != 0 => translate::look_back(skb, case).map(|()| reason),
                verdict => verdict,
            };
            conclude(case.settled(), verdict, next_hook::NONE)
        }
        None => tc_action::CONTINUE,
    }
}
