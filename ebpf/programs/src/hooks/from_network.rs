//! What comes from a network device: tc ingress. Services for clients outside, answers to whom the node's address was
//! lent, and the host's ingress policy.
use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_abi::{next_hook, settings_flags, tc_action};

use super::{conclude_or_deliver, network};
use crate::{case::Case, deliver, run::Run, skb};

#[classifier]
fn from_network(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(run) = Run::begin() else { return tc_action::DROP };
    let ifindex = skb::ifindex(skb);
    let Some(settings) = network::settings(run, ifindex) else { return tc_action::CONTINUE };
    let Some(case) = Case::begin(run, next_hook::FROM_NETWORK, ifindex) else { return tc_action::DROP };
    let verdict = network::judge(skb, case, settings);
    if verdict.is_ok() && settings.flags & settings_flags::DELIVER != 0 {
        deliver::look_ahead(case.settled());
    }
    conclude_or_deliver(skb, case.settled(), verdict)
}
