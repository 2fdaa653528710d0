//! What the prefilter does with one side of a packet.
use weir_abi::{
    ACTION_DROP, ACTION_ENDPOINT_RANGE, CLASS_GROUPS, InterfaceInfo, Reason, SIDE_DESTINATION, SIDE_SOURCE,
    interface_flags,
};

use crate::{flow::Ends, run::Run, tables, words};

/// Why the packet is to be dropped, and by which rule.
pub struct Hit {
    pub reason: Reason,
    pub rule: u32,
}

/// Asks for the source, the destination, or both. Only an address that some prefix covers costs more than the walk of
/// the tree.
#[inline(always)]
pub fn filter(run: Run, interface: &InterfaceInfo, ends: Ends) -> Option<Hit> {
    let group = interface.prefilter_group;
    if interface.flags & interface_flags::PREFILTER_SOURCE != 0 {
        let class = tables::prefilter(run.side(), ends.source);
        if class != 0
            && let Some(hit) = act(run, class, group, SIDE_SOURCE, ends.source)
        {
            return Some(hit);
        }
    }
    if interface.flags & interface_flags::PREFILTER_DESTINATION != 0 {
        let class = tables::prefilter_called(run.side(), ends.destination);
        if class != 0 {
            return act(run, class, group, SIDE_DESTINATION, ends.destination);
        }
    }
    None
}

#[inline(always)]
fn act(run: Run, class: u32, group: u32, side: usize, address: [u64; 2]) -> Option<Hit> {
    let class = tables::prefilter_class(run.side(), class)?;
    let cell = class.cells[(group as usize % CLASS_GROUPS) * 2 + side];
    match cell.action() {
        ACTION_DROP => Some(Hit { reason: Reason::Prefilter, rule: cell.rule() }),
        ACTION_ENDPOINT_RANGE => {
            // A copy has its address taken, so that what every packet has stays in registers.
            let key = address;
            match tables::endpoint(run.side(), words::as_address(&key)) {
                None => Some(Hit { reason: Reason::UnknownDestination, rule: cell.rule() }),
                Some(_) => None,
            }
        }
        _ => None,
    }
}
