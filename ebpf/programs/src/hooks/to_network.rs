//! What leaves through a network device: tc egress. The host's egress policy, and the address that the outside sees.
use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_abi::{ANSWER_MARK, next_hook, tc_action};

use super::{conclude, network};
use crate::{case::Case, run::Run, skb};

#[classifier]
fn to_network(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    if skb::mark(skb) == ANSWER_MARK {
        return tc_action::CONTINUE;
    }
    let Some(run) = Run::begin() else { return tc_action::DROP };
    let ifindex = skb::ifindex(skb);
    let Some(settings) = network::settings(run, ifindex) else { return tc_action::CONTINUE };
    let Some(case) = Case::begin(run, next_hook::TO_NETWORK, ifindex) else { return tc_action::DROP };
    let verdict = network::judge(skb, case, settings);
    let case = case.settled();
    let verdict = verdict.and_then(|reason| network::rewrite(skb, case, settings).map(|()| reason));
    conclude(case, verdict, next_hook::NONE)
}
