//! Services: which frontends a set gives this node, and who answers behind each.
mod kubernetes;
mod weir;

use std::net::IpAddr;

use ipnet::IpNet;
use weir_schema::{EndpointSpec, FrontendType, Object, ObjectKey, PortNumber, Protocol, ServiceProtocol, Spec};

use crate::World;

/// An address and port that clients use, and the backends behind it.
#[derive(Clone, Debug)]
pub(crate) struct Frontend<'a> {
    pub service: &'a ObjectKey,
    pub kind: FrontendType,
    pub address: IpAddr,
    pub protocol: ServiceProtocol,
    pub port: u16,
    /// Those that get new flows, of the frontend's family.
    pub backends: Vec<Backend>,
    /// Who may come from outside; empty: everybody.
    pub source_ranges: &'a [IpNet],
    /// What comes from outside goes to this node's backends only.
    pub external_local: bool,
    /// What endpoints of this node send goes to this node's backends only.
    pub internal_local: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub address: IpAddr,
    pub port: u16,
    /// On this node.
    pub local: bool,
}

impl<'a> World<'a> {
    /// Of every service, in the order of their keys and lists.
    pub(crate) fn frontends(&self) -> Vec<Frontend<'a>> {
        let of = |object: &'a Object| match &object.spec {
            Spec::Service(spec) => weir::frontends(self, object, spec),
            Spec::KubernetesService(spec) => kubernetes::frontends(self, object, spec),
            _ => Vec::new(),
        };
        self.objects().iter().flat_map(|object| of(object)).collect()
    }

    /// Where a frontend without an address of its own is: at each address of this node, the smallest first.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let mut all = self.all_host_addresses();
        all.sort();
        all.dedup();
        all
    }

    /// Whether an address is of this node: of one of its endpoints, or of the host.
    fn is_here(&self, address: IpAddr) -> bool {
        self.all_host_addresses().contains(&address)
            || self.endpoints().any(|(_, spec)| spec.node == self.node() && spec.addresses.contains(&address))
    }

    fn backend(&self, address: IpAddr, port: u16) -> Backend {
        Backend { address, port, local: self.is_here(address) }
    }
}

/// The port of an endpoint that a `targetPort` means.
fn port_of_endpoint(target: &PortNumber, endpoint: &EndpointSpec, protocol: ServiceProtocol) -> Option<u16> {
    let wanted = match protocol {
        ServiceProtocol::Tcp => Protocol::Tcp,
        ServiceProtocol::Udp => Protocol::Udp,
        ServiceProtocol::Sctp => Protocol::Sctp,
    };
    match target {
        PortNumber::Number(number) => Some(*number),
        PortNumber::Name(name) => {
            let mut named = endpoint.ports.iter().filter(|port| port.name == *name);
            named.find(|port| port.protocol == Protocol::Any || port.protocol == wanted).map(|port| port.port)
        }
    }
}
