//! What the prefilter does with one side of a packet.
use weir_abi::{
    ACTION_DROP, ACTION_ENDPOINT_RANGE, CLASS_GROUPS, InterfaceInfo, Reason, SIDE_DESTINATION, SIDE_SOURCE,
    interface_flags,
};

use crate::{case::Case, flow::Ends, tables};

/// Why the packet is to be dropped, and by which rule.
pub struct Hit {
    pub reason: Reason,
    pub rule: u32,
}

/// Asks for the source, the destination, or both. Only an address that some prefix covers costs more than the walk of
/// the tree; only then do the addresses go into the case.
#[inline(always)]
pub fn filter(case: &mut Case, interface: &InterfaceInfo, ends: Ends) -> Option<Hit> {
    if interface.flags & interface_flags::PREFILTER_SOURCE != 0
        && let Some(hit) = look_up(case, interface.prefilter_group, SIDE_SOURCE, ends)
    {
        return Some(hit);
    }
    if interface.flags & interface_flags::PREFILTER_DESTINATION != 0 {
        return look_up(case, interface.prefilter_group, SIDE_DESTINATION, ends);
    }
    None
}

#[inline(always)]
fn look_up(case: &mut Case, group: u32, side: usize, ends: Ends) -> Option<Hit> {
    let address = if side == SIDE_SOURCE { ends.source } else { ends.destination };
    match tables::prefilter(case.run.side(), address) {
        0 => None,
        class => {
            case.packet.flow.set_addresses(ends);
            act(case, class, group, side)
        }
    }
}

#[inline(always)]
fn act(case: &Case, class: u32, group: u32, side: usize) -> Option<Hit> {
    let run = case.run;
    let class = tables::prefilter_class(run.side(), class)?;
    let cell = class.cells[(group as usize % CLASS_GROUPS) * 2 + side];
    let flow = &case.packet.flow;
    let address = || if side == SIDE_SOURCE { flow.source() } else { flow.destination() };
    match cell.action() {
        ACTION_DROP => Some(Hit { reason: Reason::Prefilter, rule: cell.rule() }),
        ACTION_ENDPOINT_RANGE if tables::endpoint(run.side(), address()).is_none() => {
            Some(Hit { reason: Reason::UnknownDestination, rule: cell.rule() })
        }
        _ => None,
    }
}
