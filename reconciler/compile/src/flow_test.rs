//! Flow tests as packets: who the ends are on this node, and which programs the packets meet.
mod service;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weir_plan::{Backends, Hook, HookKey, InterfaceName, ObjectRef, Onward, Probe};
use weir_schema::{Expectation, FlowEnd, FlowTestSpec, Object, Spec};

pub use service::WantedBackend;

use crate::{Compiled, objects::reference};

/// One packet of a test: of one address family, and by one device where it comes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowCase {
    pub test: ObjectRef,
    pub expect: Expectation,
    /// The device by which it comes in.
    pub interface: Option<InterfaceName>,
    pub probe: Probe,
    /// The only backend that it may be sent to.
    pub backend: Option<WantedBackend>,
    /// Another one that new flows are sent to all the same, by the tables.
    pub astray: Option<(IpAddr, u16)>,
}

/// Why a test makes no packet here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untestable {
    #[error("neither end is on this node")]
    Elsewhere,
    #[error("the endpoint {0} is not attached yet")]
    NotAttached(ObjectRef),
    #[error("this node has no network device {0}")]
    NoDevice(InterfaceName),
    #[error("the host picks a backend at the socket, before there is a packet")]
    HostToService,
    #[error("there is no service {0}")]
    NoService(ObjectRef),
    #[error("{service} has no frontend on port {port} of this protocol")]
    NoFrontend { service: ObjectRef, port: u16 },
    #[error("the two ends have no address family in common that the protocol can have")]
    NoFamily,
}

impl Untestable {
    /// Whether it says that the flow cannot be, and not that it is not looked at here and now.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::NoFamily | Self::NoService(_) | Self::NoFrontend { .. })
    }
}

/// The tests of a set, as one node runs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowCases {
    /// In the order of the tests.
    pub cases: Vec<FlowCase>,
    pub untested: Vec<(ObjectRef, Untestable)>,
}

/// Where one end is, seen from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// An endpoint behind this device.
    Endpoint(InterfaceName),
    Host,
    Outside,
}

/// One end with the addresses that it may have.
struct End {
    addresses: Vec<IpAddr>,
    place: Place,
    /// An endpoint of another node: what becomes of its packets is not this node's to say, unless the other end is here.
    elsewhere: bool,
}

impl Compiled {
    /// Of the set that was compiled.
    pub fn flow_cases(&self) -> FlowCases {
        self.flow_cases_of(self.provenance.inventory.of_kind("weir", "FlowTest"))
    }

    /// Of any tests, which may name endpoints that the set does not have.
    pub fn flow_cases_of(&self, tests: impl Iterator<Item = Arc<Object>>) -> FlowCases {
        let mut found = FlowCases::default();
        let mut devices = None;
        for test in tests {
            let Spec::FlowTest(spec) = &test.spec else { continue };
            let devices = devices.get_or_insert_with(|| self.devices_of_endpoints());
            if let Err(why) = self.cases(&test, spec, devices, &mut found.cases) {
                found.untested.push((reference(&test), why));
            }
        }
        found
    }

    fn devices_of_endpoints(&self) -> BTreeMap<u32, InterfaceName> {
        let interfaces = self.tables.interfaces.iter().filter(|(_, info)| info.endpoint != 0);
        interfaces.map(|(name, info)| (info.endpoint, name.clone())).collect()
    }

    fn cases(
        &self,
        test: &Object,
        spec: &FlowTestSpec,
        devices: &BTreeMap<u32, InterfaceName>,
        cases: &mut Vec<FlowCase>,
    ) -> Result<(), Untestable> {
        let namespace = &*test.key.namespace;
        let from = self.end(&spec.from, namespace, devices)?;
        let to = match spec.to.service_keys(namespace) {
            Some(keys) => self.service_end(&from, &keys, spec)?,
            None => self.end(&spec.to, namespace, devices)?,
        };
        let is_outside = |end: &End| end.place == Place::Outside;
        let host_of_another = from.place == Place::Host && to.elsewhere || to.place == Place::Host && from.elsewhere;
        let nobody_here = is_outside(&from) && is_outside(&to) && (from.elsewhere || to.elsewhere);
        // Whose host is meant is said by the other end.
        if nobody_here || host_of_another && (spec.from.host.is_some() || spec.to.host.is_some()) {
            return Err(Untestable::Elsewhere);
        }
        if from.place == Place::Host && to.addresses.iter().any(|address| self.is_met_at_sockets(*address, spec)) {
            return Err(Untestable::HostToService);
        }
        let by_any = self.network_devices();
        let entrances = match (&spec.from.interface, is_outside(&from)) {
            (Some(interface), _) => {
                let interface = InterfaceName(interface.as_str().into());
                if !self.basis.facts.interfaces.iter().any(|there| there.name == interface) {
                    return Err(Untestable::NoDevice(interface));
                }
                vec![Some(interface)]
            }
            (None, true) if !by_any.is_empty() => by_any.iter().cloned().map(Some).collect(),
            (None, _) => vec![None],
        };
        // By which device the answer from outside comes is only known where there is one.
        let only = match &by_any[..] {
            [one] => Some(one),
            _ => None,
        };
        let backend = self.wanted_backend(&spec.expect, namespace);
        let before = cases.len();
        for v4 in [true, false] {
            let of_family = |end: &End| {
                let mut addresses = end.addresses.iter().copied();
                addresses.find(|address| address.is_ipv4() == v4 && spec.protocol.fits(*address))
            };
            let (Some(source), Some(destination)) = (of_family(&from), of_family(&to)) else { continue };
            let reachable = self.reachable(&from.place, source, destination, spec);
            for entrance in &entrances {
                cases.push(FlowCase {
                    test: reference(test),
                    expect: spec.expect.clone(),
                    interface: entrance.clone(),
                    astray: backend.as_ref().and_then(|backend| backend.missed_by(&reachable)),
                    backend: backend.clone(),
                    probe: Probe {
                        source,
                        destination,
                        protocol: spec.protocol.number(),
                        port: spec.port.unwrap_or(0),
                        way: self.way(&from.place, &to.place, entrance.as_ref()),
                        back: self.way(&to.place, &from.place, entrance.as_ref().or(only)),
                        backends: self.ways_to_backends(&reachable, &from.place, devices, entrance.as_ref().or(only)),
                    },
                });
            }
        }
        if cases.len() == before { Err(Untestable::NoFamily) } else { Ok(()) }
    }

    fn end(&self, end: &FlowEnd, namespace: &str, devices: &BTreeMap<u32, InterfaceName>) -> Result<End, Untestable> {
        if let Some(address) = end.address {
            return Ok(End { addresses: vec![address], place: self.place_of(address, devices), elsewhere: false });
        }
        let Some(key) = end.endpoint_key(namespace) else {
            return Ok(End { addresses: self.host_addresses.clone(), place: Place::Host, elsewhere: false });
        };
        let Some(object) = self.provenance.inventory.get(&key) else {
            let name = ObjectRef {
                api_version: "weir/v1alpha1".into(),
                kind: key.kind,
                namespace: key.namespace,
                name: key.name,
            };
            return Err(Untestable::NotAttached(name));
        };
        let Spec::Endpoint(endpoint) = &object.spec else { return Err(Untestable::NotAttached(reference(&object))) };
        let local = *endpoint.node == *self.basis.node;
        let addresses = match local && endpoint.attach.host.is_some() {
            true => self.host_addresses.clone(),
            false => endpoint.addresses.clone(),
        };
        let place = match (local, endpoint.attach.host) {
            (false, _) => Place::Outside,
            (true, Some(_)) => Place::Host,
            (true, None) => {
                let number = addresses.iter().find_map(|address| self.tables.endpoints.get(address));
                let device = number.and_then(|info| devices.get(&info.endpoint));
                Place::Endpoint(device.ok_or_else(|| Untestable::NotAttached(reference(&object)))?.clone())
            }
        };
        Ok(End { addresses, place, elsewhere: !local })
    }

    fn place_of(&self, address: IpAddr, devices: &BTreeMap<u32, InterfaceName>) -> Place {
        let owner = self.tables.endpoints.get(&address).map(|info| info.endpoint);
        match owner.and_then(|owner| devices.get(&owner)) {
            Some(device) => Place::Endpoint(device.clone()),
            None if self.host_addresses.contains(&address) => Place::Host,
            None => Place::Outside,
        }
    }

    /// How a packet goes on to each of these backends, and its answer back.
    fn ways_to_backends(
        &self,
        backends: &[(IpAddr, u16)],
        from: &Place,
        devices: &BTreeMap<u32, InterfaceName>,
        entrance: Option<&InterfaceName>,
    ) -> Backends {
        if backends.is_empty() {
            return Backends::default();
        }
        let onward = |to: &Place| Onward { way: self.arrival(to, entrance), back: self.way(to, from, entrance) };
        let places = backends.iter().map(|(address, _)| (*address, self.place_of(*address, devices)));
        let here = places.filter(|(_, place)| *place != Place::Outside);
        Backends {
            here: here.map(|(address, place)| (address, onward(&place))).collect(),
            elsewhere: onward(&Place::Outside),
        }
    }

    /// Those that a filter watches; else any one, where host policy looks at what comes in.
    fn network_devices(&self) -> Vec<InterfaceName> {
        let with = |hook: Hook| {
            let hooks = self.wiring.hooks.iter().map(|(key, _)| key);
            hooks.filter(move |key| key.hook == hook).filter_map(|key| key.interface().cloned())
        };
        let watched: Vec<_> = with(Hook::XdpIngress).collect();
        if watched.is_empty() { with(Hook::FromNetwork).take(1).collect() } else { watched }
    }

    /// The programs that a packet meets between two places. `entrance`: the device of the end that is outside.
    fn way(&self, from: &Place, to: &Place, entrance: Option<&InterfaceName>) -> Vec<HookKey> {
        let mut way = match (from, entrance) {
            (Place::Endpoint(device), _) => self.hooks(device, &[Hook::FromEndpoint]),
            (Place::Outside, Some(device)) => self.hooks(device, &[Hook::XdpIngress, Hook::FromNetwork]),
            (Place::Outside, None) | (Place::Host, _) => Vec::new(),
        };
        way.extend(self.arrival(to, entrance));
        way
    }

    /// The programs at the end of its way.
    fn arrival(&self, to: &Place, entrance: Option<&InterfaceName>) -> Vec<HookKey> {
        match to {
            Place::Endpoint(device) => self.hooks(device, &[Hook::ToEndpoint]),
            Place::Host => Vec::new(),
            Place::Outside => {
                // All judge alike: where routing sends it is of no matter.
                let mut hooks = self.wiring.hooks.iter().filter(|(key, _)| key.hook == Hook::ToNetwork);
                let any = hooks.next().and_then(|(key, _)| key.interface());
                entrance.or(any).map_or_else(Vec::new, |device| self.hooks(device, &[Hook::ToNetwork]))
            }
        }
    }

    /// Those of a device that are there.
    fn hooks(&self, device: &InterfaceName, hooks: &[Hook]) -> Vec<HookKey> {
        let keys = hooks.iter().map(|hook| HookKey::on(device.clone(), *hook));
        keys.filter(|key| self.wiring.hooks.get(key).is_some()).collect()
    }
}
