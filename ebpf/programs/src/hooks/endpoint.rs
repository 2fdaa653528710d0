//! What the two hooks of an endpoint have in common.
use aya_ebpf::bindings::__sk_buff;
use weir_abi::{InterfaceInfo, Reason, interface_flags};

use crate::{
    admit::admit,
    case::Case,
    fragment,
    parse::{Parsed, Shape},
    policy,
    run::Run,
    skb, tables,
};

/// The endpoint whose interface this is. None: the device is not (yet, or no longer) ours on this side, and is left
/// alone.
#[inline(always)]
pub fn interface(run: Run, ifindex: u32) -> Option<&'static InterfaceInfo> {
    let interface = tables::interface(run.side(), ifindex)?;
    (interface.flags & interface_flags::ENDPOINT != 0).then_some(interface)
}

/// Parse, find the flow, decide. `may_come` is asked as soon as the addresses are known.
#[inline(always)]
pub fn judge(skb: *mut __sk_buff, case: &mut Case, may_come: impl Fn(&Case) -> bool) -> Result<Reason, Reason> {
    let parsed = skb::parse(skb, case)?;
    let case = case.settled();
    match parsed {
        Parsed::Packet => {}
        Parsed::Neighbour => return Ok(Reason::ForwardedLink),
        Parsed::UnknownEthertype if policy::may_deny(case.run, &case.near, case.near_is_source) => {
            return Err(Reason::UnknownEthertype);
        }
        Parsed::UnknownEthertype => return Ok(Reason::Forwarded),
    }
    if !may_come(case) {
        return Err(Reason::InvalidSource);
    }
    fragment::resolve(case)?;
    if case.packet.shape != Shape::LaterFragment {
        admit(skb, case)?;
    }
    Ok(Reason::Forwarded)
}
