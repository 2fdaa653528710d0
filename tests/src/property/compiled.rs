//! From objects to tables, by the real compiler.
use weir_compile::{Compiled, Input, compile};
use weir_plan::{Delivery, InterfaceFacts, InterfaceName, NodeFacts, Numbering};
use weir_schema::Inventory;

use super::topology::{ENDPOINT_INTERFACES, HOST_ADDRESSES, NETWORK_INTERFACES, NODE, addresses};

/// The machine that sets are compiled for when there is no kernel.
pub fn facts() -> NodeFacts {
    let names = ENDPOINT_INTERFACES.iter().chain(&NETWORK_INTERFACES).copied();
    let interface = |(at, name): (usize, &str)| InterfaceFacts {
        name: InterfaceName::from(name),
        ifindex: at as u32 + 2,
        kind: "veth".to_owned(),
        loopback: false,
        addresses: Vec::new(),
        ours: false,
        delivery: Delivery::Stack,
    };
    let mut interfaces: Vec<InterfaceFacts> = names.enumerate().map(interface).collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    NodeFacts { interfaces, addresses: addresses(&HOST_ADDRESSES), netns: Vec::new(), tcx: true, cgroup2: true }
}

/// `sequence`: of the commit; numbers are kept from one set to the next, as a node does.
pub fn compiled(
    inventory: &Inventory,
    facts: &NodeFacts,
    numbering: &mut Numbering,
    sequence: u64,
) -> Result<Compiled, String> {
    compile(&Input { inventory, node: NODE, facts, sequence }, numbering).map_err(|errors| format!("{errors:?}"))
}
