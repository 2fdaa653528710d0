//! What the prefilter makes of packets.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use weir_abi::ClassCell;
use weir_plan::{InterfaceName, Prefix4, Prefix6, Tables};

use super::{ChangedFlow, Fate, FlowChange, own_address};
use crate::{Compiled, trace::prefilter_class};

pub(super) fn changes(before: &Compiled, after: &Compiled) -> Vec<FlowChange> {
    let mut seen = BTreeSet::new();
    let mut changes = Vec::new();
    for address in filtered_addresses([before, after]) {
        for destination in [false, true] {
            let decided = [before, after].map(|compiled| {
                let ends = if destination { (None, Some(address)) } else { (Some(address), None) };
                let decisions = compiled.prefilter(ends.0, ends.1);
                decisions.into_iter().map(|one| (one.interface.clone(), one)).collect::<BTreeMap<_, _>>()
            });
            let interfaces: BTreeSet<&InterfaceName> = decided.iter().flat_map(BTreeMap::keys).collect();
            for interface in interfaces {
                let [before, after] = [&decided[0], &decided[1]].map(|decided| {
                    let decision = decided.get(interface);
                    let rule = decision.and_then(|decision| decision.rule.clone());
                    Fate { passes: decision.is_none_or(|decision| !decision.drops), rule, ..Fate::default() }
                });
                let rules = (before.rule.clone(), after.rule.clone(), interface.clone(), destination);
                if before.passes != after.passes && seen.insert(rules) {
                    let flow = ChangedFlow::Prefilter { interface: interface.clone(), address, destination };
                    changes.push(FlowChange { flow, before, after });
                }
            }
        }
    }
    changes
}

/// One address for each pair of classes that a prefix had and has.
fn filtered_addresses(sets: [&Compiled; 2]) -> Vec<IpAddr> {
    let [before, after] = sets.map(|compiled| &*compiled.tables);
    let actions =
        |compiled: &Tables, class: u32| compiled.classes.get(&class).map(|class| class.cells.map(ClassCell::action));
    let changed: BTreeSet<u32> = (before.classes.diff(&after.classes).into_iter())
        .map(|change| change.key)
        .filter(|class| actions(before, *class) != actions(after, *class))
        .collect();
    let wired = sets[0].wiring.hooks != sets[1].wiring.hooks;
    let mut found = Vec::new();
    let both = [before, after];
    let own = |net| own_address(net, &|net| both.iter().any(|tables| is_in_prefilter(tables, net)));
    let v4 = before.prefilter4.diff(&after.prefilter4).into_iter().map(|change| change.key.to_ip_net());
    let v6 = before.prefilter6.diff(&after.prefilter6).into_iter().map(|change| change.key.to_ip_net());
    found.extend(v4.chain(v6).filter_map(own));
    if wired || !changed.is_empty() {
        for tables in both {
            let v4 = tables.prefilter4.iter().map(|(prefix, class)| (prefix.to_ip_net(), *class));
            let v6 = tables.prefilter6.iter().map(|(prefix, class)| (prefix.to_ip_net(), *class));
            let mut left: BTreeSet<u32> = tables.classes.iter().map(|(class, _)| *class).collect();
            left.retain(|class| wired || changed.contains(class));
            for (net, class) in v4.chain(v6) {
                if left.contains(&class)
                    && let Some(address) = own(net)
                {
                    left.remove(&class);
                    found.push(address);
                }
            }
        }
    }
    let mut met = BTreeSet::new();
    found.retain(|address| {
        let classes = (prefilter_class(before, *address), prefilter_class(after, *address));
        (wired || classes.0 != classes.1 || changed.contains(&classes.0)) && met.insert(classes)
    });
    found
}

fn is_in_prefilter(tables: &Tables, net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => tables.prefilter4.get(&Prefix4::from(net)).is_some(),
        IpNet::V6(net) => tables.prefilter6.get(&Prefix6::from(net)).is_some(),
    }
}
