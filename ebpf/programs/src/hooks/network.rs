//! What the two hooks of a network device have in common: the host's own policy, and only for the host's own packets.
use aya_ebpf::bindings::__sk_buff;
use weir_abi::{Reason, Settings, identity, interface_flags, settings_flags};

use crate::{
    admit::{Known, admit},
    case::{Case, Subject},
    fragment,
    parse::{Parsed, Shape},
    run::Run,
    skb, tables,
};

/// The host as a subject, where some policy selects it and the device is ours.
#[inline(always)]
pub fn host(run: Run, ifindex: u32) -> Option<Subject> {
    let settings: &Settings = tables::settings(run.side())?;
    if settings.flags & settings_flags::HOST_POLICY == 0 {
        return None;
    }
    let interface = tables::interface(run, ifindex)?;
    (interface.flags & interface_flags::NETWORK != 0).then_some(Subject {
        identity: identity::HOST,
        incarnation: settings.host_incarnation,
        ..Subject::NOBODY
    })
}

/// Parse, see whether it is the host's, find the flow, decide. What is only forwarded is left to the endpoints' hooks.
#[inline(always)]
pub fn judge(skb: *mut __sk_buff, case: &mut Case) -> Result<Reason, Reason> {
    let parsed = skb::parse(skb, case)?;
    let case = case.settled();
    match parsed {
        Parsed::Packet => {}
        Parsed::Neighbour => return Ok(Reason::ForwardedLink),
        Parsed::UnknownEthertype => return Ok(Reason::Forwarded),
    }
    let flow = &case.packet.flow;
    let own = if case.near_is_source { flow.source() } else { flow.destination() };
    if tables::identity_of(case.run.side(), own) != identity::HOST {
        case.near = Subject::NOBODY;
        return Ok(Reason::Forwarded);
    }
    fragment::resolve(case)?;
    if case.packet.shape != Shape::LaterFragment {
        admit(skb, case, Known::NotAsked)?;
    }
    Ok(Reason::Forwarded)
}
