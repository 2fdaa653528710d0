//! Whether a packet may pass: what the flow's entry remembers, or else what policy says.
//!
//! An entry has a verdict word for each of the flow's two ends, always about the flow's *original* direction. A hook
//! answers for one end (and, where the other is the host, for that too), so a packet of either direction asks the same
//! word. A word of this run's epoch is the answer; an older one is judged afresh and stored. So a permission that was
//! revoked bites on the next packet of either direction, and a reply needs no rule of its own.
use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use weir_abi::{
    ConntrackEntry, DIRECTION_EGRESS, DIRECTION_INGRESS, Reason, VerdictWord, ct_flags, flow_verdict, identity,
    next_hook, settings_flags,
};

use crate::{
    account,
    case::{Case, Subject},
    conntrack::{self, Entry},
    deliver,
    flow::{Flow, ICMP, ICMPV6, TCP},
    parse::{Part, Shape, TCP_ACK, TCP_SYN, inner_flow},
    policy::{self, What},
    tables, words,
};

/// What is known of the packet's flow before anybody is asked.
#[derive(Clone, Copy)]
pub enum Known {
    /// It was allowed in this epoch, on this very device, and no other end is to be asked. Then no other table has a
    /// say: the device is still the endpoint's, and the address its own.
    Allowed,
    /// It has this entry, or none.
    Entry(Option<Entry>),
    /// It is a client's, for a service, and this entry says where it goes.
    Service(Entry),
    /// The packet does not say which flow is its own, or has none.
    NotAsked,
}

/// The short way: one lookup in conntrack, and no other.
#[inline(always)]
pub fn known(case: &mut Case) -> Known {
    if !is_tracked(case) || case.packet.fragment.of != Part::Whole {
        return Known::NotAsked;
    }
    let now = case.run.now();
    let Some(entry) = conntrack::find(&case.packet.flow.key, now) else { return Known::Entry(None) };
    let reply = entry.is_reply(case.packet.flow.source_is_high);
    if entry.is_service() {
        // Nobody but the service speaks for its frontend.
        return if reply { Known::Entry(None) } else { Known::Service(entry) };
    }
    let original_source = case.near_is_source != reply;
    let (word, ifindex) = entry.word(original_source);
    if ifindex != case.ifindex
        || word.epoch() != case.run.epoch()
        || word.verdict() != flow_verdict::ALLOW
        || entry.flags() & host_bit(!original_source) != 0
        || begins_anew(case, entry, reply)
    {
        return Known::Entry(Some(entry));
    }
    let Some(settings) = tables::settings(case.run.side()) else { return Known::NotAsked };
    entry.touch(case, reply, now, settings);
    case.rule = word.rule();
    case.from_conntrack = true;
    if case.hook == next_hook::FROM_ENDPOINT {
        deliver::foresee(case, entry, original_source, reply);
    } else {
        look_back(case, entry, reply);
    }
    Known::Allowed
}

/// Judges the packet, and tracks its flow when it may pass.
///
/// # Errors
///
/// Why it must be dropped.
#[inline(always)]
pub fn admit(skb: *mut __sk_buff, case: &mut Case, known: Known) -> Result<(), Reason> {
    if case.packet.shape == Shape::IcmpError {
        return match weir_related(skb, case) {
            0 => begin(case, false),
            word => obey(case, VerdictWord(word)),
        };
    }
    if !is_tracked(case) {
        return begin(case, false);
    }
    let now = case.run.now();
    let track = case.packet.shape != Shape::EchoReply;
    let found = match known {
        Known::Entry(entry) => entry,
        _ => conntrack::find(&case.packet.flow.key, now).filter(|entry| !entry.is_service()),
    };
    let Some(entry) = found else { return begin(case, track) };
    let reply = entry.is_reply(case.packet.flow.source_is_high);
    if begins_anew(case, entry, reply) {
        // A ping's identifier is taken by the one that goes the other way: the entry stays that one's.
        return begin(case, case.packet.shape != Shape::EchoRequest);
    }
    let original_source = case.near_is_source != reply;
    let incarnation = entry.incarnation(original_source);
    if incarnation != 0 && incarnation != case.near.incarnation {
        return begin(case, track);
    }
    let (mut word, ifindex) = entry.word(original_source);
    if word.epoch() == case.run.epoch() && ifindex == case.near.ifindex {
        case.from_conntrack = true;
    } else {
        word = VerdictWord(weir_judge_again(case, entry.address(), reply as u32));
    }
    let never_answered = reply && entry.flags() & ct_flags::SEEN_REPLY == 0;
    if word.verdict() == flow_verdict::DENY {
        // Nobody let the flow's first packet in, so this one answers nothing: it begins a flow the other way.
        if never_answered {
            return begin(case, track);
        }
        return obey(case, word);
    }
    case.rule = word.rule();
    if entry.flags() & host_bit(!original_source) != 0 {
        let host = VerdictWord(weir_judge_host(case, entry.address(), reply as u32));
        if host.verdict() != flow_verdict::ALLOW {
            if never_answered || host.verdict() == flow_verdict::NONE {
                return begin(case, track);
            }
            case.by_host = true;
            case.peer = case.near.identity;
            return obey(case, host);
        }
        account::count_rule(host.rule(), case.packet.length);
    }
    let Some(settings) = tables::settings(case.run.side()) else { return Err(Reason::Internal) };
    entry.touch(case, reply, now, settings);
    look_back(case, entry, reply);
    Ok(())
}

/// A backend's answer on its way to the client: it comes from the frontend, as far as the client knows.
#[inline(always)]
pub fn look_back(case: &mut Case, entry: Entry, reply: bool) {
    if reply && matches!(case.hook, next_hook::TO_ENDPOINT | next_hook::TO_NETWORK) {
        let (frontend, port_be) = entry.service();
        case.aim(frontend, port_be);
    }
}

/// Whether such packets find, or make, an entry.
#[inline(always)]
pub fn is_tracked(case: &Case) -> bool {
    matches!(case.packet.shape, Shape::Ports | Shape::NoPorts | Shape::EchoRequest | Shape::EchoReply)
}

/// A packet that cannot belong to the flow that has its key: a request against a ping's direction, or a SYN after the
/// connection's end.
#[inline(always)]
pub fn begins_anew(case: &Case, entry: Entry, reply: bool) -> bool {
    (reply && case.packet.shape == Shape::EchoRequest) || (is_first(case) && entry.is_closing())
}

/// A SYN that opens a connection.
#[inline(always)]
pub fn is_first(case: &Case) -> bool {
    case.packet.flow.protocol() == TCP && case.packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

#[inline(always)]
fn host_bit(original_source: bool) -> u32 {
    if original_source { ct_flags::SOURCE_IS_HOST } else { ct_flags::DESTINATION_IS_HOST }
}

#[inline(always)]
fn obey(case: &mut Case, word: VerdictWord) -> Result<(), Reason> {
    case.rule = word.rule();
    if word.verdict() == flow_verdict::DENY { Err(denial(case, word)) } else { Ok(()) }
}

#[inline(always)]
fn denial(case: &Case, word: VerdictWord) -> Reason {
    if word.rule() != 0 {
        Reason::PolicyDeny
    } else if case.packet.shape == Shape::NoPorts {
        Reason::UnknownProtocol
    } else {
        Reason::PolicyDefaultDeny
    }
}

/// What policy has to say about one end of a flow whose original source is (not) the packet's.
#[inline(always)]
fn ask(case: &Case, subject: u32, peer: u32, reply: bool, is_source: bool) -> VerdictWord {
    policy::judge(case.run, subject, peer, what_of(case, reply, is_source))
}

#[inline(always)]
fn what_of(case: &Case, reply: bool, is_source: bool) -> What {
    let packet = &case.packet;
    let protocol = packet.flow.protocol();
    let port = match packet.shape {
        Shape::Ports | Shape::NoPorts | Shape::LaterFragment => {
            u16::from_be(if reply { packet.flow.source_port_be() } else { packet.flow.destination_port_be() })
        }
        // Of a known flow it is the request's type that was allowed.
        Shape::EchoReply if reply => request_type(protocol),
        _ => packet.icmp_type as u16,
    };
    let direction = if is_source != reply { DIRECTION_EGRESS } else { DIRECTION_INGRESS };
    What::new(direction, protocol, port)
}

#[inline(always)]
fn request_type(protocol: u8) -> u16 {
    if protocol == ICMP { 8 } else { 128 }
}

#[inline(always)]
fn peer_of_near(case: &Case) -> u32 {
    let flow = &case.packet.flow;
    tables::identity_of(case.run.side(), if case.near_is_source { flow.destination() } else { flow.source() })
}

/// The near end's word was judged in another epoch, or never: judges the original direction, and stores the answer.
/// A denial leaves the entry, so that a permission that is granted again lets the flow go on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_judge_again(case: *mut Case, entry: *mut ConntrackEntry, reply: u32) -> u64 {
    // SAFETY: the caller's references; the verifier asks for the comparison with null.
    let (Some(case), Some(entry)) = (unsafe { case.as_mut() }, Entry::new(entry)) else { return 0 };
    let reply = reply != 0;
    let original_source = case.near_is_source != reply;
    let peer = peer_of_near(case);
    case.peer = peer;
    let word = ask(case, case.near.identity, peer, reply, case.near_is_source);
    let first = entry.word(original_source).0.verdict() == flow_verdict::NONE;
    entry.set_word(original_source, word, case.near.incarnation, case.near.ifindex);
    let bit = host_bit(!original_source);
    if (entry.flags() & bit != 0) != (peer == identity::HOST) {
        entry.mark(bit, peer == identity::HOST);
    }
    if first && word.verdict() == flow_verdict::ALLOW {
        // Whom the client believes to speak to; a hook behind the one that translated does not know.
        if !reply {
            (case.frontend, case.frontend_port_be) = entry.service();
        }
        account::began(case, word.rule(), false);
    }
    word.0
}

/// The verdict on the host, which is the far end; no verdict when the entry belongs to a former host endpoint.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_judge_host(case: *mut Case, entry: *mut ConntrackEntry, reply: u32) -> u64 {
    // SAFETY: as above.
    let (Some(case), Some(entry)) = (unsafe { case.as_mut() }, Entry::new(entry)) else { return 0 };
    let reply = reply != 0;
    let epoch = case.run.epoch();
    let Some(incarnation) = host_policy(case) else { return VerdictWord::new(epoch, 0, flow_verdict::ALLOW).0 };
    let original_source = case.near_is_source == reply;
    let judged = entry.incarnation(original_source);
    if judged != 0 && judged != incarnation {
        return VerdictWord::default().0;
    }
    let (word, ifindex) = entry.word(original_source);
    if word.epoch() == epoch && ifindex == 0 {
        return word.0;
    }
    let word = ask(case, identity::HOST, case.near.identity, reply, !case.near_is_source);
    entry.set_word(original_source, word, incarnation, 0);
    word.0
}

/// The incarnation of the host endpoint, when some policy selects it.
#[inline(always)]
fn host_policy(case: &Case) -> Option<u32> {
    let settings = tables::settings(case.run.side())?;
    (settings.flags & settings_flags::HOST_POLICY != 0).then_some(settings.host_incarnation)
}

#[inline(always)]
fn begin(case: &mut Case, track: bool) -> Result<(), Reason> {
    case.from_conntrack = false;
    let word = VerdictWord(weir_new_flow(case, track as u32));
    obey(case, word)
}

/// A flow that is not known, in the direction of this packet: judges it, and makes its entry if it may pass.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_new_flow(case: *mut Case, track: u32) -> u64 {
    // SAFETY: as above.
    let Some(case) = (unsafe { case.as_mut() }) else { return 0 };
    let flow = &case.packet.flow;
    let (high, low) = if case.near_is_source { flow.destination() } else { flow.source() }.halves();
    case.peer = tables::identity_here(case.run.side(), high, low);
    let case = case.settled();
    let peer = case.peer;
    let near = policy::judge_here(case.run, case.near.identity, peer, what_of(case, false, case.near_is_source));
    if near.verdict() == flow_verdict::DENY {
        return near.0;
    }
    let incarnation = if peer == identity::HOST { host_policy(case) } else { None };
    let host = match incarnation {
        Some(_) => ask(case, identity::HOST, case.near.identity, false, !case.near_is_source),
        None => VerdictWord::default(),
    };
    if host.verdict() == flow_verdict::DENY {
        case.by_host = true;
        case.peer = case.near.identity;
        return host.0;
    }
    account::count_rule(host.rule(), case.packet.length);
    if track != 0 {
        make_entry(case, near.0, host.0, incarnation.unwrap_or(0));
        account::began(case, near.rule(), false);
        if incarnation.is_some() {
            account::began(case, host.rule(), true);
        }
    }
    near.0
}

/// Makes the flow's entry, of what its two ends were judged to be: of the far one only if it is the host.
#[inline(always)]
fn make_entry(case: &Case, near: u64, host: u64, host_incarnation: u32) {
    let Some(settings) = tables::settings(case.run.side()) else { return };
    let Some(entry) = conntrack::fresh(case, settings) else { return };
    let Subject { incarnation, ifindex, .. } = case.near;
    if case.near_is_source {
        (entry.egress, entry.ingress) = (VerdictWord(near), VerdictWord(host));
        (entry.source_incarnation, entry.destination_incarnation) = (incarnation, host_incarnation);
        entry.source_ifindex = ifindex;
    } else {
        (entry.ingress, entry.egress) = (VerdictWord(near), VerdictWord(host));
        (entry.destination_incarnation, entry.source_incarnation) = (incarnation, host_incarnation);
        entry.destination_ifindex = ifindex;
    }
    if case.peer == identity::HOST {
        entry.flags |= host_bit(!case.near_is_source);
    }
    conntrack::store(case.packet.flow.key, entry);
}

/// An ICMP error is allowed iff the original direction of the flow that it is about is; it changes neither that flow's
/// state nor its lifetime. 0: it is about no known flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_related(skb: *mut __sk_buff, case: *mut Case) -> u64 {
    // SAFETY: as above.
    let Some(case) = (unsafe { case.as_mut() }) else { return 0 };
    let mut inner = MaybeUninit::<Flow>::uninit();
    // SAFETY: zero is a value of every field.
    let inner = unsafe {
        words::zero(inner.as_mut_ptr());
        inner.assume_init_mut()
    };
    let v4 = case.packet.flow.protocol() == ICMP;
    case.inner = inner_flow(skb, case.packet.transport + 8, v4, inner);
    if case.inner == 0 {
        return 0;
    }
    // An error goes back to whoever sent what it is about.
    if inner.source() != case.packet.flow.destination() {
        return 0;
    }
    let Some(entry) = conntrack::find(&inner.key, case.run.now()) else { return 0 };
    let reply = entry.is_reply(inner.source_is_high);
    // Of the inner packet, the near end is the other one than of the error.
    let is_source = !case.near_is_source;
    let original_source = is_source != reply;
    let incarnation = entry.incarnation(original_source);
    if incarnation != 0 && incarnation != case.near.incarnation {
        return 0;
    }
    // About what the client sent: the client knows of no backend.
    case.inner_protocol = inner.protocol();
    look_back(case, entry, !reply);
    let (word, ifindex) = entry.word(original_source);
    if word.epoch() == case.run.epoch() && ifindex == case.near.ifindex {
        case.from_conntrack = true;
        return word.0;
    }
    let peer = tables::identity_of(case.run.side(), if is_source { inner.destination() } else { inner.source() });
    case.peer = peer;
    let protocol = inner.protocol();
    let port = match protocol {
        ICMP | ICMPV6 => request_type(protocol),
        _ => u16::from_be(if reply { inner.source_port_be() } else { inner.destination_port_be() }),
    };
    let direction = if original_source { DIRECTION_EGRESS } else { DIRECTION_INGRESS };
    let word = policy::judge(case.run, case.near.identity, peer, What::new(direction, protocol, port));
    entry.set_word(original_source, word, case.near.incarnation, case.near.ifindex);
    word.0
}

/// Whether some rule could deny what this packet turns out to be, at the near end or at a host that is the far end.
#[inline(always)]
pub fn may_be_denied(case: &Case) -> bool {
    if policy::may_deny(case.run, &case.near, case.near_is_source) {
        return true;
    }
    let host = Subject { identity: identity::HOST, ..Subject::NOBODY };
    case.near.identity != identity::HOST
        && host_policy(case).is_some()
        && policy::may_deny(case.run, &host, !case.near_is_source)
        && peer_of_near(case) == identity::HOST
}
