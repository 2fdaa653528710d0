//! What the two hooks of an endpoint have in common.
use aya_ebpf::bindings::__sk_buff;
use weir_abi::{InterfaceInfo, Reason, interface_flags};

use crate::{
    account,
    admit::{self, Known, admit, is_first, known},
    case::{Case, Subject},
    fragment, hairpin,
    parse::{Parsed, Shape},
    policy,
    run::Run,
    service, skb, tables,
};

/// The endpoint whose interface this is. None: the device is not (yet, or no longer) ours on this side, and is left
/// alone.
#[inline(always)]
pub fn interface(run: Run, ifindex: u32) -> Option<&'static InterfaceInfo> {
    let interface = tables::interface(run, ifindex)?;
    (interface.flags & interface_flags::ENDPOINT != 0).then_some(interface)
}

/// What becomes of a packet of an endpoint's device: parse, find the flow, or else ask everybody who has a say.
///
/// `None`: the device is not ours.
#[inline(always)]
pub fn judge(skb: *mut __sk_buff, case: &mut Case) -> Option<Result<Reason, Reason>> {
    let parsed = skb::parse(skb, case);
    let case = case.settled();
    let known = if parsed == Ok(Parsed::Packet) { known(case) } else { Known::NotAsked };
    if let Known::Allowed = known {
        if account::is_tracing() {
            case.near = Subject::endpoint(interface(case.run, case.ifindex)?, case.ifindex);
        }
        return Some(Ok(Reason::Forwarded));
    }
    let interface = interface(case.run, case.ifindex)?;
    case.near = Subject::endpoint(interface, case.ifindex);
    Some(judge_afresh(skb, case.settled(), parsed, interface.flags, known))
}

#[inline(always)]
fn judge_afresh(
    skb: *mut __sk_buff,
    case: &mut Case,
    parsed: Result<Parsed, Reason>,
    flags: u32,
    known: Known,
) -> Result<Reason, Reason> {
    match parsed? {
        Parsed::Packet => {}
        Parsed::Neighbour => return Ok(Reason::ForwardedLink),
        Parsed::UnknownEthertype if policy::may_deny(case.run, &case.near, case.near_is_source) => {
            return Err(Reason::UnknownEthertype);
        }
        Parsed::UnknownEthertype => return Ok(Reason::Forwarded),
    }
    let checks = case.near_is_source && flags & interface_flags::CHECK_SOURCE != 0;
    // Who goes on with what a service gave it was checked then, and is again where the flow is not allowed as it is.
    let goes_on = matches!(known, Known::Service(_)) && !is_first(case);
    if checks && !goes_on && !comes_from_near(case) {
        return Err(Reason::InvalidSource);
    }
    let mut known = known;
    if case.near_is_source {
        if hairpin::is_answer(case) {
            hairpin::answer(skb, case)?;
            return Ok(Reason::Forwarded);
        }
        let entry = match known {
            Known::Entry(entry) => entry,
            Known::Service(entry) => Some(entry),
            Known::Allowed | Known::NotAsked => None,
        };
        if service::serve(skb, case, entry)? {
            let case = case.settled();
            if hairpin::is_own(case) {
                hairpin::begin(skb, case)?;
                return Ok(Reason::Forwarded);
            }
            known = admit::known(case);
        }
        if let Known::Allowed = known {
            return Ok(Reason::Forwarded);
        }
        if checks && goes_on && !comes_from_near(case) {
            return Err(Reason::InvalidSource);
        }
    }
    let case = case.settled();
    if case.frontend_port_be == 0 {
        fragment::resolve(case)?;
    }
    if case.packet.shape != Shape::LaterFragment {
        admit(skb, case, known)?;
    }
    Ok(Reason::Forwarded)
}

/// Whether the source address is one of the endpoint's.
#[inline(always)]
fn comes_from_near(case: &Case) -> bool {
    tables::endpoint(case.run.side(), case.packet.flow.source())
        .is_some_and(|owner| owner.endpoint == case.near.endpoint)
}
