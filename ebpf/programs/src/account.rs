//! What is counted, reported and traced, for every packet that passes and every one that does not.
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns};
use weir_abi::{
    Counter, Direction, METRIC_SLOTS, PacketEvent, Reason, TraceCell, flow_verdict, identity, metric_slot, next_hook,
};

use crate::{
    case::Case,
    maps::{EVENTS, METRICS, RULE_COUNTERS, RULES, RUNTIME, TRACE, TRACING},
    tables, words,
};

/// Events in one jiffy on one CPU, at most: 8,000 a second where a second has 250. In a flood, what
/// tells user space of a packet (a clock, a lock, 80 bytes) is not to be paid for each.
const EVENTS_AT_ONCE: u32 = 32;

/// The last slot of `METRICS`.
const LOST_EVENTS: u32 = METRIC_SLOTS - 1;

#[inline(always)]
fn add(counter: Option<*mut Counter>, length: u32) {
    if let Some(counter) = counter {
        // SAFETY: the cell is this CPU's own, and programs of one CPU do not interrupt each other here.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += length as u64;
        }
    }
}

#[inline(always)]
fn count(reason: Reason, direction: Direction, length: u32) {
    add(METRICS.get_ptr_mut(metric_slot(reason, direction)), length);
}

/// Rule 0 is no rule.
#[inline(always)]
pub fn count_rule(rule: u32, length: u32) {
    let rules = RULES.load();
    if rule != 0 && rule < rules {
        // SAFETY: the helper has no arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        add(RULE_COUNTERS.get_ptr_mut(cpu * rules + rule), length);
    }
}

/// Whether this is the instance for test runs. The verifier knows the answer, and removes what is not asked for.
#[inline(always)]
pub fn is_tracing() -> bool {
    TRACING.load() == 1
}

/// Writes the trace cell, in the instance that is loaded for test runs.
#[inline(always)]
fn trace(case: &Case, reason: Reason, next_hook: u8) {
    if !is_tracing() {
        return;
    }
    if let Some(cell) = TRACE.get_ptr_mut(0) {
        let value = TraceCell {
            generation: case.run.word,
            rule: case.rule,
            subject: case.subject(),
            peer: case.peer,
            verdict: if reason.is_drop() { flow_verdict::DENY } else { flow_verdict::ALLOW },
            reason: reason as u8,
            next_hook,
            from_conntrack: case.from_conntrack as u8,
        };
        // SAFETY: this CPU's own cell.
        unsafe { cell.write(value) };
    }
}

/// The packet passes. Counts it, and the rule that let it.
#[inline(always)]
pub fn passed(case: &Case, reason: Reason, next: u8) {
    count(reason, case.direction(), case.packet.length);
    count_rule(case.rule, case.packet.length);
    trace(case, reason, next);
}

/// The packet went past the hook of the endpoint that it is for: that is counted as if it had been there.
#[inline(always)]
pub fn delivered(case: &Case) {
    count(Reason::Forwarded, Direction::Egress, case.packet.length);
    count_rule(case.far_rule, case.packet.length);
}

/// The packet came in and went out again. Counts it as the two hooks do that it did not meet.
#[inline(always)]
pub fn balanced(case: &mut Case) {
    count(Reason::Forwarded, Direction::Ingress, case.packet.length);
    count(Reason::Forwarded, Direction::Egress, case.packet.length);
    case.from_conntrack = true;
    trace(case, Reason::Forwarded, next_hook::NONE);
}

/// The packet is dropped. Counts it, and tells user space about it: a full ring buffer loses the event, never the
/// count.
#[inline(always)]
pub fn refused(case: &mut Case, reason: Reason) {
    let tell = may_tell(case);
    refused_telling(case, reason, tell);
}

/// As [`refused`], for who has asked already whether an event may be made.
#[inline(always)]
pub fn refused_telling(case: &mut Case, reason: Reason, tell: bool) {
    weir_refused(case, reason as u32, tell as u32);
}

/// Whether this jiffy may have one more event. A test run's always may: it tells of each packet.
#[inline(always)]
pub fn may_tell(case: &mut Case) -> bool {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_jiffies64() };
    if case.told_at != now {
        case.told_at = now;
        case.told = 0;
    }
    case.told += 1;
    case.told <= EVENTS_AT_ONCE || is_tracing()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_refused(case: *mut Case, reason: u32, tell: u32) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return 0 };
    let Some(reason) = Reason::from_code(reason as u8) else { return 0 };
    let length = case.packet.length;
    count(reason, case.direction(), length);
    count_rule(case.rule, length);
    if tell == 0 {
        add(METRICS.get_ptr_mut(LOST_EVENTS), length);
        return 0;
    }
    if case.peer == 0 && case.near.identity != 0 {
        let flow = &case.packet.flow;
        let far = if case.near_is_source { flow.destination() } else { flow.source() };
        case.peer = tables::identity_of(case.run.side(), far);
    }
    tell_of(case, reason, case.rule, case.by_host);
    trace(case, reason, next_hook::NONE);
    0
}

/// Somebody judged a flow for the first time, and it may pass: at the near end, or for the host at the far one.
#[inline(always)]
pub fn began(case: &mut Case, rule: u32, by_host: bool) {
    if is_tracing() {
        return;
    }
    let Some(runtime) = RUNTIME.get_ptr(0) else { return };
    // SAFETY: an aligned word of the slot; the helper has no arguments.
    let wanted = unsafe {
        let until = (&raw const (*runtime).tell_flows_until).read_volatile();
        until != 0 && bpf_jiffies64() < until
    };
    if wanted {
        weir_began(case, rule, by_host as u32);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_began(case: *mut Case, rule: u32, by_host: u32) -> u32 {
    // SAFETY: as above.
    let Some(case) = (unsafe { case.as_mut() }) else { return 0 };
    if may_tell(case) {
        tell_of(case, Reason::Forwarded, rule, by_host != 0);
    } else {
        add(METRICS.get_ptr_mut(LOST_EVENTS), case.packet.length);
    }
    0
}

/// An event, or one more that is lost.
#[inline(always)]
fn tell_of(case: &Case, reason: Reason, rule: u32, by_host: bool) {
    let length = case.packet.length;
    match EVENTS.reserve(0) {
        Some(mut slot) => {
            let flow = &case.packet.flow;
            slot.write(PacketEvent {
                // SAFETY: the helper has no arguments.
                time_ns: unsafe { bpf_ktime_get_ns() },
                source: *flow.source(),
                destination: *flow.destination(),
                source_port_be: flow.source_port_be(),
                destination_port_be: flow.destination_port_be(),
                protocol: flow.protocol(),
                reason: reason as u8,
                direction: case.direction() as u8,
                hook: case.hook,
                ifindex: case.ifindex,
                endpoint: if by_host { 0 } else { case.near.endpoint },
                subject: if by_host { identity::HOST } else { case.near.identity },
                peer: if by_host { case.near.identity } else { case.peer },
                rule,
                length,
                epoch: case.run.epoch(),
                frontend: *words::as_address(&case.frontend),
                frontend_port_be: case.frontend_port_be,
                reserved: [0; 6],
            });
            slot.submit(0);
        }
        None => add(METRICS.get_ptr_mut(LOST_EVENTS), length),
    }
}
