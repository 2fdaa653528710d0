//! Services for the host's own sockets: programs at the cgroup, for as long as there is a frontend.
use std::net::IpAddr;

use weir_abi::{Address, Settings, settings_flags};
use weir_plan::{Hook, HookKey, HookState, NodeFacts, Pending, Table, Wiring, address_of};

use crate::{error::code, provenance::Owned};

/// Attaches them, or takes them away. `first` is the owner of the first service, if the host's sockets are to reach any.
/// Whether they do.
pub(crate) fn wire(
    first: Option<&Owned>,
    facts: &NodeFacts,
    wiring: &mut Wiring,
    owners: &mut Table<HookKey, Owned>,
    pending: &mut Vec<Pending>,
) -> bool {
    pending.retain(|one| one.code != code::CGROUP_MISSING);
    let owner = first.filter(|_| facts.cgroup2);
    if let (Some(first), None) = (first, owner) {
        pending.push(Pending {
            object: first.0.reference.clone(),
            code: code::CGROUP_MISSING,
            message: "cgroup2 is not mounted: processes on the host do not reach services".to_owned(),
        });
    }
    for key in Hook::of_sockets().map(HookKey::of_sockets) {
        match owner {
            Some(owner) => {
                if wiring.hooks.get(&key).is_none() {
                    wiring.hooks.insert(key.clone(), HookState::Cgroup);
                }
                if owners.get(&key) != Some(owner) {
                    owners.insert(key, owner.clone());
                }
            }
            None => {
                wiring.hooks.remove(&key);
                owners.remove(&key);
            }
        }
    }
    owner.is_some()
}

/// What programs at the cgroup are told. A node port is one of the loopback's addresses too, and is found by one of the
/// host's.
pub(crate) fn note(settings: &mut Settings, on: bool, host_addresses: &[IpAddr]) {
    settings.flags &= !settings_flags::SOCKETS;
    if on {
        settings.flags |= settings_flags::SOCKETS;
    }
    let first = |v4: bool| {
        let address = host_addresses.iter().find(|address| on && address.is_ipv4() == v4);
        address.map_or(Address::default(), |address| address_of(*address))
    };
    (settings.node_v4, settings.node_v6) = (first(true), first(false));
}
