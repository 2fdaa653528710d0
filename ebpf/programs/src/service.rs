//! From a frontend to a backend: the packets of a client that are addressed to a service.
//!
//! Conntrack has two entries for such a flow. One says, for the client and the frontend, which backend was picked, and
//! in which epoch that was last seen to be right; in the same epoch nothing else is asked. The other is the flow's own,
//! between client and backend: policy knows only that, and it names the frontend, for the way back.
use core::mem::MaybeUninit;

use weir_abi::{
    Address, AffinityEntry, AffinityKey, BackendInfo, ConntrackKey, FrontendInfo, FrontendKey, Reason, ServiceInfo,
    SourceRangeKey, VerdictWord, backend_flags, ct_flags, flow_verdict, frontend_flags, next_hook, service_flags,
    settings_flags,
};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_get_prandom_u32};

use crate::{
    admit::{is_first, is_tracked, look_back},
    case::Case,
    conntrack::{self, Entry},
    flow::{Ends, Flow, ICMP, TCP},
    fragment, hairpin,
    maps::AFFINITY,
    parse::{Part, Shape, inner_flow},
    run::{Run, jiffies},
    tables, translate, words,
};

/// Sends a client's packet on to its backend. What is not for a service is left as it is: false. `entry` is what the
/// packet's own addresses and ports have in conntrack.
///
/// # Errors
///
/// Why it must be dropped.
#[inline(always)]
pub fn serve(skb: *mut __sk_buff, case: &mut Case, entry: Option<Entry>) -> Result<bool, Reason> {
    if case.packet.fragment.of != Part::Whole {
        fragment::resolve(case)?;
    }
    if case.packet.shape == Shape::IcmpError && about(skb, case, true) {
        translate::error_to_backend(skb, case.settled())?;
        return Ok(true);
    }
    let case = case.settled();
    let served = entry.filter(|entry| entry.is_service() && !entry.is_reply(case.packet.flow.source_is_high));
    // A connection is what it was until it begins anew.
    let stale = entry.is_some() && served.is_none() && !is_first(case) && case.packet.flow.protocol() == TCP;
    let services =
        tables::settings(case.run.side()).is_some_and(|settings| settings.flags & settings_flags::SERVICES != 0);
    if stale || !(services || served.is_some()) {
        return Ok(false);
    }
    if let Some(entry) = served
        && entry.word(true).0.epoch() == case.run.epoch()
        && !is_first(case)
    {
        let now = case.run.now();
        if let Some(settings) = tables::settings(case.run.side()) {
            entry.touch(case, false, now, settings);
        }
        let (address, port_be) = entry.service();
        case.aim(address, port_be);
    } else {
        // Of a whole packet, no entry means that it was looked for.
        let new = entry.is_none() && is_tracked(case) && case.packet.fragment.of == Part::Whole;
        match weir_serve(case, new as u32) {
            NOT_SERVED => return Ok(false),
            SERVED => {}
            // Beside, not inside: the stack is short.
            SERVED_ANEW => drop(weir_remember(case)),
            code => return Err(Reason::from_code(code as u8).unwrap_or(Reason::Internal)),
        }
    }
    let case = case.settled();
    case.remember_frontend();
    translate::destination(skb, case)?;
    Ok(true)
}

/// What the packet's own addresses and ports have in conntrack.
#[inline(always)]
pub fn entry(case: &Case) -> Option<Entry> {
    if !is_tracked(case) || case.packet.fragment.of != Part::Whole {
        return None;
    }
    conntrack::find(&case.packet.flow.key, case.run.now())
}

/// The flow of a packet that came from outside and goes to a backend is kept alive, whoever else meets it.
#[inline(always)]
pub fn keep_alive(case: &Case) {
    let now = case.run.now();
    if let Some(entry) = conntrack::find(&case.packet.flow.key, now)
        && let Some(settings) = tables::settings(case.run.side())
    {
        entry.touch(case, false, now, settings);
    }
}

/// What leaves by a network device: a backend's answer to a client outside is made to come from the frontend, and keeps
/// its flow alive.
#[inline(always)]
pub fn answer(skb: *mut __sk_buff, case: &mut Case) {
    if case.packet.shape == Shape::IcmpError {
        about(skb, case, false);
        return;
    }
    if !is_tracked(case) {
        return;
    }
    let now = case.run.now();
    let Some(entry) = conntrack::find(&case.packet.flow.key, now) else { return };
    let reply = entry.is_reply(case.packet.flow.source_is_high);
    if !reply || entry.is_service() {
        return;
    }
    look_back(case, entry, reply);
    if case.to_port_be != 0
        && let Some(settings) = tables::settings(case.run.side())
    {
        entry.touch(case, reply, now, settings);
    }
}

/// Whom an ICMP error goes to, or comes from, in place of the one that it names. `to_backend`: a client's, about what a
/// frontend sent it; else one to a client, about what that sent to a backend. 1: `case.to` says who.
#[inline(always)]
pub fn about(skb: *mut __sk_buff, case: &mut Case, to_backend: bool) -> bool {
    weir_about(skb, case, to_backend as u32) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_about(skb: *mut __sk_buff, case: *mut Case, to_backend: u32) -> u32 {
    let Some(case) = Case::in_map(case) else { return 0 };
    let mut inner = MaybeUninit::<Flow>::uninit();
    // SAFETY: zero is a value of every field.
    let inner = unsafe {
        words::zero(inner.as_mut_ptr());
        inner.assume_init_mut()
    };
    let v4 = case.packet.flow.protocol() == ICMP;
    case.inner = inner_flow(skb, case.packet.transport + 8, v4, inner);
    case.inner_protocol = inner.protocol();
    if case.inner == 0 || inner.source() != case.packet.flow.destination() {
        return 0;
    }
    let Some(entry) = conntrack::find(&inner.key, case.run.now()) else { return 0 };
    // A frontend's packets to a client are the other direction of what the client sent to it.
    let wanted = to_backend != 0;
    if entry.is_service() != wanted || entry.is_reply(inner.source_is_high) != wanted {
        return 0;
    }
    let (address, port_be) = entry.service();
    case.aim(address, port_be);
    (port_be != 0) as u32
}

// What `weir_serve` answers, beside a reason's code.
const NOT_SERVED: u32 = 0;
const SERVED: u32 = 1;
const SERVED_ANEW: u32 = 2;

/// Finds the packet's backend: the one that it has, if that is still the service's, or another. `new`: it has none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_serve(case: *mut Case, new: u32) -> u32 {
    let Some(case) = Case::in_map(case) else { return Reason::Internal as u32 };
    match find_backend(case, new != 0) {
        Ok(answer) => answer,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn find_backend(case: &mut Case, new: bool) -> Result<u32, Reason> {
    let side = case.run.side();
    let flow = &case.packet.flow;
    let destination = *flow.destination();
    if case.packet.shape != Shape::Ports {
        // An address of services answers nothing but services.
        let own = tables::frontend(side, &FrontendKey::of_address(destination)).is_some();
        return match (own, case.packet.shape) {
            (false, _) => Ok(NOT_SERVED),
            (true, Shape::LaterFragment) => Err(Reason::FragmentNotFound),
            (true, _) => Err(Reason::NoService),
        };
    }
    let port = u16::from_be(flow.destination_port_be());
    let key = FrontendKey::new(destination, flow.protocol(), port);
    let Some(frontend) = tables::frontend(side, &key) else {
        let own = tables::frontend(side, &FrontendKey::of_address(destination)).is_some();
        return if own { Err(Reason::NoService) } else { Ok(NOT_SERVED) };
    };
    let Some(service) = tables::service(side, frontend.service) else { return Err(Reason::NoBackend) };
    let outside = case.hook == next_hook::FROM_NETWORK;
    if outside && frontend.flags & (frontend_flags::NODE_PORT | frontend_flags::EXTERNAL) == 0 {
        return Err(Reason::NoService);
    }
    if outside && frontend.flags & frontend_flags::SOURCE_RANGES != 0 && !in_ranges(case, frontend.service, service) {
        return Err(Reason::SourceRange);
    }
    if !new && keeps(case, frontend) {
        return Ok(SERVED);
    }
    let local_only = if outside { frontend_flags::EXTERNAL_LOCAL } else { frontend_flags::INTERNAL_LOCAL };
    let local = frontend.flags & local_only != 0;
    let key = AffinityKey { client: *case.packet.flow.source(), service: frontend.service, reserved: 0 };
    let Some((number, backend)) = pick(case.run, &key, service, local, || hash(&case.packet.flow)) else {
        case.reject = service.flags & service_flags::REJECT != 0;
        return Err(Reason::NoBackend);
    };
    case.aim(*words::of_address(&backend.address), backend.port_be);
    case.backend = number;
    case.incarnation = backend.incarnation;
    // Another machine's answer would not come back this way.
    case.must_return = outside && backend.flags & backend_flags::LOCAL == 0;
    Ok(SERVED_ANEW)
}

/// Whether the packet's entry names a backend that still is this service's. It is made to say so in this epoch.
#[inline(always)]
fn keeps(case: &mut Case, frontend: &FrontendInfo) -> bool {
    let now = case.run.now();
    let flow = &case.packet.flow;
    let Some(entry) = conntrack::find(&flow.key, now) else { return false };
    if !entry.is_service() || entry.is_reply(flow.source_is_high) {
        return false;
    }
    let number = entry.incarnation(true);
    let Some(backend) = tables::backend(case.run.side(), number) else { return false };
    if backend.service != frontend.service
        || backend.incarnation != entry.incarnation(false)
        || backend.flags & backend_flags::EXISTS == 0
    {
        return false;
    }
    let (address, port_be) = entry.service();
    case.aim(address, port_be);
    if is_first(case) && !is_open(case, now) {
        return false;
    }
    let Some(settings) = tables::settings(case.run.side()) else { return false };
    entry.set_word(true, VerdictWord::new(case.run.epoch(), 0, flow_verdict::ALLOW), number, 0);
    // XDP finds it anew, once for each epoch.
    entry.set_nat_port(0);
    entry.touch(case, false, now, settings);
    true
}

/// Whether the connection to the backend is known, and not at its end: a SYN then is one that was sent again.
#[inline(always)]
fn is_open(case: &Case, now: u64) -> bool {
    conntrack::find(&to_backend(case).key, now).is_some_and(|entry| !entry.is_closing())
}

/// The flow from the packet's source to `case.to`.
#[inline(always)]
pub fn to_backend(case: &Case) -> Flow {
    let flow = &case.packet.flow;
    let mut to = Flow { key: ConntrackKey::default(), source_is_high: false, same_addresses: false };
    let client = *words::of_address(flow.source());
    let own = case.hook == next_hook::FROM_ENDPOINT && client == case.to;
    let source = if own { hairpin::loopback(&client) } else { client };
    to.set_addresses(Ends { source, destination: case.to });
    to.set_ports(flow.source_port_be(), case.to_port_be);
    to.key.protocol = flow.protocol();
    to
}

/// The backend of a client's new flow, with its number. `hash` is of that flow.
#[inline(always)]
pub fn pick(
    run: Run,
    key: &AffinityKey,
    service: &ServiceInfo,
    local: bool,
    hash: impl FnOnce() -> u32,
) -> Option<(u32, &'static BackendInfo)> {
    let side = run.side();
    let (first, count) =
        if local { (service.local_slots, service.local_count) } else { (service.slots, service.slot_count) };
    if count == 0 {
        return None;
    }
    if service.affinity != 0
        && let Some(kept) = favourite(run, key, local)
    {
        befriend(run, key, kept.0, kept.1, service.affinity);
        return Some(kept);
    }
    let at = if service.flags & service_flags::MAGLEV != 0 {
        hash()
    } else {
        // SAFETY: the helper has no arguments.
        unsafe { bpf_get_prandom_u32() }
    } % count;
    let slot = tables::slot(side, first, at)?;
    let backend = tables::backend(side, slot)?;
    if service.affinity != 0 {
        befriend(run, key, slot, backend, service.affinity);
    }
    Some((slot, backend))
}

/// The backend that a client has, if it takes new flows.
#[inline(always)]
fn favourite(run: Run, key: &AffinityKey, local: bool) -> Option<(u32, &'static BackendInfo)> {
    let kept = AFFINITY.get_ptr(key)?;
    // SAFETY: a successful lookup; every field is read by one instruction.
    let (number, incarnation, expires) = unsafe {
        (
            (&raw const (*kept).backend).read_volatile(),
            (&raw const (*kept).incarnation).read_volatile(),
            (&raw const (*kept).expires).read_volatile(),
        )
    };
    let backend = tables::backend(run.side(), number)?;
    let fits = run.now() < expires
        && backend.service == key.service
        && backend.incarnation == incarnation
        && backend.flags & (backend_flags::EXISTS | backend_flags::DRAINING) == backend_flags::EXISTS
        && (!local || backend.flags & backend_flags::LOCAL != 0);
    fits.then_some((number, backend))
}

#[inline(always)]
fn befriend(run: Run, key: &AffinityKey, backend: u32, info: &BackendInfo, seconds: u32) {
    let entry = AffinityEntry { backend, incarnation: info.incarnation, expires: run.now() + jiffies(seconds) };
    // That it is full costs the client its preference, and no packet.
    let _ = AFFINITY.insert(key, &entry, 0);
}

/// Of a flow's two ends and protocol: the same on every node. Multiplication and shifts as in the finalizer of
/// MurmurHash3 (64 bits).
#[inline(always)]
pub fn hash(flow: &Flow) -> u32 {
    let (source, destination) = (words::of_address(flow.source()), words::of_address(flow.destination()));
    let ports =
        (flow.source_port_be() as u64) << 32 | (flow.destination_port_be() as u64) << 16 | flow.protocol() as u64;
    mix([source[0], source[1], destination[0], destination[1], ports])
}

/// A hash of a few words.
#[inline(always)]
pub fn mix<const N: usize>(words: [u64; N]) -> u32 {
    let mut hash = 0x9e37_79b9_7f4a_7c15;
    for word in words {
        hash ^= word;
        hash ^= hash >> 33;
        hash = u64::wrapping_mul(hash, 0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 33;
    }
    (hash >> 32) as u32
}

/// Both entries of a new flow: what its packets are turned into, and which frontend the flow to the backend is of.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_remember(case: *mut Case) -> u32 {
    if let Some(case) = Case::in_map(case) {
        remember(case);
    }
    0
}

#[inline(always)]
fn remember(case: &Case) {
    let Some(settings) = tables::settings(case.run.side()) else { return };
    let Some(entry) = conntrack::fresh(case, settings) else { return };
    entry.egress = VerdictWord::new(case.run.epoch(), 0, flow_verdict::ALLOW);
    entry.source_incarnation = case.backend;
    entry.destination_incarnation = case.incarnation;
    entry.flags |= ct_flags::SERVICE;
    words::set(&mut entry.service, case.to);
    entry.service_port_be = case.to_port_be;
    conntrack::store(case.packet.flow.key, entry);

    let to = to_backend(case);
    let frontend = *words::of_address(case.packet.flow.destination());
    let port_be = case.packet.flow.destination_port_be();
    match conntrack::find(&to.key, case.run.now()) {
        // The same client spoke to this backend by another way.
        Some(flow) if !flow.is_closing() && !flow.is_reply(to.source_is_high) => {
            flow.set_service(frontend, port_be);
            if case.must_return {
                flow.mark(ct_flags::MUST_RETURN, true);
            }
        }
        _ => {
            // Not judged yet: whoever judges it first finds what it needs.
            entry.egress = VerdictWord::default();
            entry.source_incarnation = 0;
            entry.destination_incarnation = 0;
            entry.flags &= !(ct_flags::SERVICE | ct_flags::SOURCE_IS_HIGH);
            if to.source_is_high {
                entry.flags |= ct_flags::SOURCE_IS_HIGH;
            }
            if case.must_return {
                entry.flags |= ct_flags::MUST_RETURN;
            }
            words::set(&mut entry.service, frontend);
            entry.service_port_be = port_be;
            conntrack::store(to.key, entry);
        }
    }
}

#[inline(always)]
fn in_ranges(case: &Case, number: u32, service: &ServiceInfo) -> bool {
    let client = case.packet.flow.source();
    in_prefixes(case.run.side(), number, service.ranges_v4, &service.ranges_v6, client)
}

/// Whether an address is in one of a service's source ranges, of these lengths.
#[inline(always)]
pub fn in_prefixes(side: u32, service: u32, lengths_v4: u64, lengths_v6: &[u64; 3], address: &Address) -> bool {
    let (high, low) = address.halves();
    let v4 = high == 0 && low >> 32 == 0xffff;
    for word in 0..3 {
        let mut lengths = match (v4, word) {
            (true, 0) => lengths_v4,
            (true, _) => 0,
            (false, word) => lengths_v6[word],
        };
        for _ in 0..64 {
            if lengths == 0 {
                break;
            }
            let length = word as u32 * 64 + lengths.trailing_zeros() + if v4 { 96 } else { 0 };
            lengths &= lengths - 1;
            let mask = |bits: u32| if bits == 0 { 0 } else { u64::MAX << (64 - if bits > 64 { 64 } else { bits }) };
            let (high, low) = (high & mask(length), low & mask(length.saturating_sub(64)));
            let mut key = SourceRangeKey { service, length, ..SourceRangeKey::default() };
            words::set(&mut key.address, [high.to_be(), low.to_be()]);
            if tables::source_range(side, &key) {
                return true;
            }
        }
    }
    false
}
