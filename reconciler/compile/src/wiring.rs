//! Where programs run, and what they must know of the device they run on.
use std::collections::BTreeMap;

use weir_abi::{InterfaceInfo, SIDE_DESTINATION, SIDE_SOURCE, interface_flags};
use weir_plan::{Delivery, Device, Hook, HookKey, HookState, InterfaceFacts, InterfaceName, ROUTER, Table, Wiring};

use weir_schema::LocalDelivery;

use crate::{
    cidr_filter::Placement, config::NodeSettings, endpoint::LocalEndpoints, masquerade, objects::ObjectId,
    router::Router,
};

/// The `interfaces` table, hooks and devices, and the object behind each interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wired {
    pub interfaces: Table<InterfaceName, InterfaceInfo>,
    pub wiring: Wiring,
    pub owners: BTreeMap<HookKey, HookOwner>,
    pub interface_owners: BTreeMap<InterfaceName, HookOwner>,
    pub device_owners: BTreeMap<InterfaceName, ObjectId>,
}

/// What a hook is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookOwner {
    Object(ObjectId),
    /// The first policy that selects the host.
    HostPolicy,
    /// The first service that has a frontend.
    EdgeService,
}

impl HookOwner {
    /// What puts programs on network devices.
    pub const fn at_the_edge(host_policy: bool, service: bool, masquerade: Option<ObjectId>) -> Option<Self> {
        match (host_policy, service, masquerade) {
            (true, ..) => Some(Self::HostPolicy),
            (false, true, _) => Some(Self::EdgeService),
            (false, false, Some(object)) => Some(Self::Object(object)),
            (false, false, None) => None,
        }
    }
}

pub(crate) fn wire(
    endpoints: &LocalEndpoints,
    placement: &Placement,
    used_columns: &[bool],
    network: &[&InterfaceFacts],
    // What programs on network devices are there for.
    at_the_edge: Option<HookOwner>,
    settings: &NodeSettings,
    tc: HookState,
) -> Wired {
    let mut interfaces: BTreeMap<InterfaceName, InterfaceInfo> = BTreeMap::new();
    let mut hooks: Vec<(HookKey, HookState, HookOwner)> = Vec::new();
    let mut owners = BTreeMap::new();
    let mut devices = Vec::new();
    let mut device_owners = BTreeMap::new();
    let mut hook = |interface: &InterfaceName, hook: Hook, state: HookState, owner: HookOwner| {
        hooks.push((HookKey::on(interface.clone(), hook), state, owner));
    };

    if let Some(Router { object, pair }) = &endpoints.router {
        let name = InterfaceName::from(ROUTER);
        devices.push((name.clone(), Device::Router(pair.clone())));
        device_owners.insert(name.clone(), *object);
        hook(&name, Hook::FromHost, tc, HookOwner::Object(*object));
    }
    for endpoint in &endpoints.endpoints {
        let Some(name) = &endpoint.interface else { continue };
        let info = interfaces.entry(name.clone()).or_default();
        info.flags |= interface_flags::ENDPOINT;
        info.endpoint = endpoint.number;
        info.identity = endpoint.identity;
        info.incarnation = endpoint.incarnation;
        if let Some(pair) = &endpoint.pair {
            // Both ends are ours, so nothing but this endpoint's addresses can rightly come from there.
            info.flags |= interface_flags::CHECK_SOURCE;
            devices.push((name.clone(), Device::Endpoint(pair.clone())));
            device_owners.insert(name.clone(), endpoint.object);
        }
        if settings.local_delivery == LocalDelivery::Redirect {
            info.flags |= match endpoint.delivery {
                Delivery::Stack => 0,
                Delivery::Device => interface_flags::DELIVER,
                Delivery::Peer => interface_flags::DELIVER | interface_flags::PEER,
            };
        }
        owners.insert(name.clone(), HookOwner::Object(endpoint.object));
        hook(name, Hook::FromEndpoint, tc, HookOwner::Object(endpoint.object));
        hook(name, Hook::ToEndpoint, tc, HookOwner::Object(endpoint.object));
    }
    for device in &placement.devices {
        let info = interfaces.entry(device.name.clone()).or_default();
        info.prefilter_group = device.group;
        let used = |side| used_columns[device.group as usize * 2 + side];
        if used(SIDE_SOURCE) {
            info.flags |= interface_flags::PREFILTER_SOURCE;
        }
        if used(SIDE_DESTINATION) {
            info.flags |= interface_flags::PREFILTER_DESTINATION;
        }
        owners.entry(device.name.clone()).or_insert(HookOwner::Object(device.object));
        hook(&device.name, Hook::XdpIngress, HookState::Xdp(device.mode), HookOwner::Object(device.object));
    }
    if let Some(owner) = at_the_edge {
        for device in network {
            let info = interfaces.entry(device.name.clone()).or_default();
            info.flags |= interface_flags::NETWORK;
            masquerade::lend(info, device);
            owners.entry(device.name.clone()).or_insert(owner);
            hook(&device.name, Hook::FromNetwork, tc, owner);
            hook(&device.name, Hook::ToNetwork, tc, owner);
            if let Some((object, mode)) = settings.acceleration
                && !placement.devices.iter().any(|filtered| filtered.name == device.name)
            {
                hook(&device.name, Hook::XdpIngress, HookState::Xdp(mode), HookOwner::Object(object));
            }
        }
    }

    Wired {
        interfaces: interfaces.into_iter().collect(),
        wiring: Wiring {
            devices: devices.into_iter().collect(),
            hooks: hooks.iter().map(|(key, state, _)| (key.clone(), *state)).collect(),
        },
        owners: hooks.into_iter().map(|(key, _, owner)| (key, owner)).collect(),
        interface_owners: owners,
        device_owners,
    }
}
