//! One file per hook.
mod endpoint;
mod from_endpoint;
mod from_host;
mod from_network;
mod network;
mod sock_addr;
mod to_endpoint;
mod to_network;
mod xdp_ingress;

use weir_abi::{Reason, next_hook, tc_action};

use aya_ebpf::bindings::__sk_buff;

use crate::{account, case::Case, deliver, hairpin, reject};

/// As [`conclude`], where what may pass may have a shorter way than the stack's, and what is refused may be answered.
#[inline(always)]
fn conclude_or_deliver(skb: *mut __sk_buff, case: &mut Case, verdict: Result<Reason, Reason>) -> i32 {
    let verdict = match verdict {
        Ok(reason) if case.own => {
            account::passed(case, reason, next_hook::NONE);
            return hairpin::turn_around(skb, case.settled());
        }
        Ok(reason) => match deliver::deliver(skb, case) {
            Ok(Some(action)) => {
                account::passed(case.settled(), reason, next_hook::TO_ENDPOINT);
                return action;
            }
            Ok(None) => Ok(reason),
            Err(reason) => Err(reason),
        },
        Err(reason) => Err(reason),
    };
    let case = case.settled();
    match conclude(case, verdict, next_hook::STACK) {
        tc_action::DROP => reject::answer(skb, case.settled()),
        action => action,
    }
}

/// What becomes of the packet: `Ok` says as what it is counted.
#[inline(always)]
fn conclude(case: &mut Case, verdict: Result<Reason, Reason>, next: u8) -> i32 {
    match verdict {
        Ok(reason) => {
            account::passed(case, reason, next);
            tc_action::CONTINUE
        }
        Err(reason) => {
            account::refused(case, reason);
            tc_action::DROP
        }
    }
}
