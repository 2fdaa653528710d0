//! One file per hook.
mod endpoint;
mod from_endpoint;
mod from_network;
mod network;
mod to_endpoint;
mod to_network;
mod xdp_ingress;

use weir_abi::{Reason, tc_action};

use aya_ebpf::bindings::__sk_buff;

use crate::{account, case::Case, translate};

/// What a service's backend answered leaves as if the frontend had: last of all, for policy knows only the backend.
#[inline(always)]
fn look_back(skb: *mut __sk_buff, case: &mut Case, verdict: Result<Reason, Reason>) -> Result<Reason, Reason> {
    if verdict.is_ok() && case.to_port_be != 0 {
        translate::source(skb, case)?;
    }
    verdict
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
