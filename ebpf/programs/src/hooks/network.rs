//! What the two hooks of a network device have in common: services for clients outside, and the host's own policy,
//! which is only for the host's own packets.
use aya_ebpf::bindings::__sk_buff;
use weir_abi::{Reason, Settings, identity, interface_flags, settings_flags};

use crate::{
    admit::{Known, admit},
    case::{Case, Subject},
    fragment, nat,
    parse::{Parsed, Part, Shape},
    run::Run,
    service, skb, tables, translate,
};

const TRANSLATES: u32 = settings_flags::SERVICES | settings_flags::MASQUERADE;
const AT_THE_EDGE: u32 = settings_flags::HOST_POLICY | TRANSLATES;

/// Whether there is anything to do on this device: it is ours, and policy selects the host, or addresses are rewritten.
#[inline(always)]
pub fn settings(run: Run, ifindex: u32) -> Option<&'static Settings> {
    let settings: &Settings = tables::settings(run.side())?;
    if settings.flags & AT_THE_EDGE == 0 {
        return None;
    }
    let interface = tables::interface(run, ifindex)?;
    (interface.flags & interface_flags::NETWORK != 0).then_some(settings)
}

/// What leaves shows the address that it must: a backend's answer the frontend's, and what may not show its own the
/// node's. Last of all, for policy knows who really speaks.
#[inline(always)]
pub fn rewrite(skb: *mut __sk_buff, case: &mut Case, settings: &Settings) -> Result<(), Reason> {
    if settings.flags & TRANSLATES == 0 || !case.is_packet {
        return Ok(());
    }
    if case.packet.fragment.of != Part::Whole {
        fragment::resolve(case)?;
    }
    service::answer(skb, case.settled());
    let case = case.settled();
    if case.to_port_be != 0 { translate::look_back(skb, case) } else { nat::lend(skb, case) }
}

/// Parse, send a client's packet to its backend, see whether it is the host's, find the flow, decide. What is only
/// forwarded is left to the endpoints' hooks.
#[inline(always)]
pub fn judge(skb: *mut __sk_buff, case: &mut Case, settings: &Settings) -> Result<Reason, Reason> {
    let parsed = skb::parse(skb, case)?;
    let case = case.settled();
    match parsed {
        Parsed::Packet => case.is_packet = true,
        Parsed::Neighbour => return Ok(Reason::ForwardedLink),
        Parsed::UnknownEthertype => return Ok(Reason::Forwarded),
    }
    if settings.flags & TRANSLATES != 0 && !case.near_is_source {
        if case.packet.fragment.of != Part::Whole {
            fragment::resolve(case)?;
        }
        if !nat::give_back(skb, case.settled())? {
            let entry = service::entry(case.settled());
            if service::serve(skb, case.settled(), entry)? {
                service::keep_alive(case.settled());
            }
        }
    }
    let case = case.settled();
    if settings.flags & settings_flags::HOST_POLICY == 0 {
        return Ok(Reason::Forwarded);
    }
    let flow = &case.packet.flow;
    let own = if case.near_is_source { flow.source() } else { flow.destination() };
    if tables::identity_of(case.run.side(), own) != identity::HOST {
        return Ok(Reason::Forwarded);
    }
    case.near = Subject { identity: identity::HOST, incarnation: settings.host_incarnation, ..Subject::NOBODY };
    if case.to_port_be == 0 {
        fragment::resolve(case)?;
    }
    if case.packet.shape != Shape::LaterFragment {
        admit(skb, case, Known::NotAsked)?;
    }
    Ok(Reason::Forwarded)
}
