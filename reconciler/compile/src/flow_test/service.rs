//! Flow tests of services: where a service is found, and to which backends the tables send a flow.
use std::net::IpAddr;

use weir_plan::ObjectRef;
use weir_schema::{Attach, Expectation, ExpectedBackend, FlowTestSpec, FrontendType, ObjectKey, Spec};

use super::{End, Place, Untestable};
use crate::{
    Compiled,
    delivery::{Delivery, Sender, deliver},
    objects::reference,
};

/// The only backend that a flow may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedBackend {
    addresses: Vec<IpAddr>,
    /// `None`: any.
    port: Option<u16>,
}

impl WantedBackend {
    pub fn is(&self, address: IpAddr, port: u16) -> bool {
        self.addresses.contains(&address) && self.port.is_none_or(|wanted| wanted == port)
    }

    /// The first of these that is not the one.
    pub(super) fn missed_by(&self, reachable: &[(IpAddr, u16)]) -> Option<(IpAddr, u16)> {
        reachable.iter().copied().find(|(address, port)| !self.is(*address, *port))
    }
}

impl Compiled {
    pub(super) fn wanted_backend(&self, expect: &Expectation, namespace: &str) -> Option<WantedBackend> {
        let key = match expect.expected_backend(namespace)? {
            ExpectedBackend::Address(address, port) => return Some(WantedBackend { addresses: vec![address], port }),
            ExpectedBackend::Endpoint(key) => key,
        };
        let object = self.provenance.inventory.get(&key);
        let addresses = match object.as_ref().map(|object| &object.spec) {
            Some(Spec::Endpoint(endpoint)) => match endpoint.attach {
                Attach { host: Some(_), .. } if *endpoint.node == *self.basis.node => self.host_addresses.clone(),
                _ => endpoint.addresses.clone(),
            },
            _ => Vec::new(),
        };
        Some(WantedBackend { addresses, port: None })
    }

    /// Where a sender finds a service: in each family at one address.
    pub(super) fn service_end(&self, from: &End, keys: &[ObjectKey], spec: &FlowTestSpec) -> Result<End, Untestable> {
        use FrontendType::{Cluster, External, NodePort};
        // Its own node picks the backend.
        if from.elsewhere {
            return Err(Untestable::Elsewhere);
        }
        let order = match from.place {
            Place::Host => return Err(Untestable::HostToService),
            Place::Endpoint(_) => [Cluster, External, NodePort],
            Place::Outside => [External, NodePort, Cluster],
        };
        let inventory = &self.provenance.inventory;
        let Some(service) = keys.iter().find_map(|key| inventory.get(key)) else {
            let named = keys.first().map_or_else(Default::default, |key| (key.namespace.clone(), key.name.clone()));
            let (api_version, kind) = ("weir/v1alpha1".into(), "Service".into());
            return Err(Untestable::NoService(ObjectRef { api_version, kind, namespace: named.0, name: named.1 }));
        };
        let port = spec.port.unwrap_or(0);
        // Kind and address; none for a port of the node.
        let places: Vec<(FrontendType, Option<IpAddr>)> = match &service.spec {
            Spec::Service(service) => {
                let on_port = service.frontends.iter().filter(|one| one.port == port);
                let meant = on_port.filter(|one| one.protocol.number() == spec.protocol.number());
                meant.map(|one| (one.kind, one.address)).collect()
            }
            Spec::KubernetesService(service) => {
                let frontends = service.frontends();
                let on_port = frontends.iter().filter(|one| one.port == port);
                let meant = on_port.filter(|one| one.protocol.number() == spec.protocol.number());
                meant.map(|one| (one.kind, one.address)).collect()
            }
            _ => Vec::new(),
        };
        let of_family = |v4: bool| {
            order.into_iter().find_map(|wanted| {
                let these = places.iter().filter(|(kind, _)| *kind == wanted);
                let addresses = these.flat_map(|(_, address)| match address {
                    Some(address) => std::slice::from_ref(address),
                    None => &self.host_addresses[..],
                });
                addresses.copied().filter(|address| address.is_ipv4() == v4).min()
            })
        };
        let addresses: Vec<IpAddr> = [true, false].into_iter().filter_map(of_family).collect();
        match addresses.is_empty() {
            true => Err(Untestable::NoFrontend { service: reference(&service), port }),
            // Untranslated it goes nowhere, and by no program.
            false => Ok(End { addresses, place: Place::Host, elsewhere: false }),
        }
    }

    /// Whether the host's own sockets pick a backend in place of this address, or are refused.
    pub(super) fn is_met_at_sockets(&self, destination: IpAddr, spec: &FlowTestSpec) -> bool {
        let (protocol, port) = (spec.protocol.number(), spec.port.unwrap_or(0));
        deliver(&self.tables, Sender::Host, None, destination, protocol, port) != Delivery::Direct
    }

    /// The backends that new flows to a frontend are sent to, by the tables; none where it is no frontend of theirs.
    pub(super) fn reachable(
        &self,
        from: &Place,
        source: IpAddr,
        destination: IpAddr,
        spec: &FlowTestSpec,
    ) -> Vec<(IpAddr, u16)> {
        let sender = match from {
            Place::Host => return Vec::new(),
            Place::Endpoint(_) => Sender::Endpoint,
            Place::Outside => Sender::Outside,
        };
        let (protocol, port) = (spec.protocol.number(), spec.port.unwrap_or(0));
        match deliver(&self.tables, sender, Some(source), destination, protocol, port) {
            Delivery::Balanced { targets, .. } => targets.iter().map(|one| (one.address, one.port)).collect(),
            Delivery::Direct | Delivery::Dropped(_) => Vec::new(),
        }
    }
}
