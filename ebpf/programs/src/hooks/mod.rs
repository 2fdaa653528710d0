//! One file per hook.
mod endpoint;
mod from_endpoint;
mod from_network;
mod network;
mod to_endpoint;
mod to_network;
mod xdp_ingress;

use weir_abi::{Reason, tc_action};

use crate::{account, case::Case};

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
