//! Where a flow goes when services are in its way.
use std::net::IpAddr;

use weir_schema::{FrontendType, ObjectKey, ServiceProtocol};

use crate::{Flow, FlowProtocol, Judgement, World, peer::Peer, service::Frontend};

/// What becomes of the first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// No service is meant: it goes where it is addressed to.
    Direct(Box<Judgement>),
    /// To one of these, which chance or a hash picks: sorted by address and port, never empty.
    Balanced {
        service: ObjectKey,
        backends: Vec<Candidate>,
    },
    Dropped(ServiceDrop),
}

/// A backend that the flow may go to, and what policy makes of it then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub address: IpAddr,
    pub port: u16,
    pub judgement: Judgement,
}

/// Why a service has no backend for a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceDrop {
    /// It is addressed to a service's address, and to no port that this sender may use.
    NoService,
    NoBackend(ObjectKey),
    /// It comes from outside the service's source ranges.
    SourceRange(ObjectKey),
}

impl ServiceDrop {
    /// As counters and events name it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoService => "no_service",
            Self::NoBackend(_) => "no_backend",
            Self::SourceRange(_) => "source_range",
        }
    }

    /// Whose backend or source range is missing.
    pub const fn service(&self) -> Option<&ObjectKey> {
        match self {
            Self::NoService => None,
            Self::NoBackend(service) | Self::SourceRange(service) => Some(service),
        }
    }
}

/// Who sends, as services tell senders apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// An endpoint of this node.
    Endpoint,
    /// The host itself, whose sockets pick the backend before there is a packet.
    Host,
    /// Whoever's packets come in by a network device.
    Outside,
}

impl World<'_> {
    /// The first packet of a flow, which this node sends or forwards: through a service, if it is addressed to one.
    /// The prefilter comes before that.
    pub fn deliver(&self, flow: &Flow) -> Delivery {
        let sender = self.sender(flow.source);
        let is_of_socket = match flow.protocol {
            // Nothing can be sent to port 0.
            FlowProtocol::Tcp { destination, .. } | FlowProtocol::Udp { destination, .. } => destination != 0,
            _ => false,
        };
        let by_none = sender == Sender::Host && !(is_of_socket && self.balances_sockets());
        if by_none || flow.protocol.is_neighbour_discovery() {
            return Delivery::Direct(self.judge(flow).into());
        }
        let frontends = self.frontends();
        let addressed = |frontend: &&Frontend<'_>| {
            frontend.address == flow.destination && Some((frontend.protocol, frontend.port)) == port_of(flow.protocol)
        };
        match frontends.iter().find(addressed) {
            Some(frontend) if sender == Sender::Outside => self.entering(flow, frontend),
            Some(frontend) => self.balanced(flow, frontend, frontend.internal_local),
            None if self.is_service_address(&frontends, flow.destination) => Delivery::Dropped(ServiceDrop::NoService),
            None => Delivery::Direct(self.judge(flow).into()),
        }
    }

    fn entering(&self, flow: &Flow, frontend: &Frontend<'_>) -> Delivery {
        let service = || frontend.service.clone();
        if frontend.kind == FrontendType::Cluster {
            return Delivery::Dropped(ServiceDrop::NoService);
        }
        let ranges = frontend.source_ranges;
        if !ranges.is_empty() && !ranges.iter().any(|range| range.contains(&flow.source)) {
            return Delivery::Dropped(ServiceDrop::SourceRange(service()));
        }
        self.balanced(flow, frontend, frontend.external_local)
    }

    fn balanced(&self, flow: &Flow, frontend: &Frontend<'_>, only_local: bool) -> Delivery {
        let candidates = frontend.backends.iter().filter(|backend| backend.local || !only_local);
        let mut backends: Vec<Candidate> = candidates
            .map(|backend| {
                let (address, port) = (backend.address, backend.port);
                let onward = Flow { destination: address, protocol: flow.protocol.to_port(port), ..*flow };
                // What an endpoint says to itself is nobody else's business.
                let own = address == flow.source && self.sender(address) == Sender::Endpoint;
                Candidate { address, port, judgement: if own { Judgement::UNASKED } else { self.judge(&onward) } }
            })
            .collect();
        backends.sort_by_key(|backend| (backend.address, backend.port));
        match backends.is_empty() {
            true => Delivery::Dropped(ServiceDrop::NoBackend(frontend.service.clone())),
            false => Delivery::Balanced { service: frontend.service.clone(), backends },
        }
    }

    /// Whether it is the address of some frontend.
    pub fn is_frontend(&self, address: IpAddr) -> bool {
        self.frontends().iter().any(|frontend| frontend.address == address)
    }

    /// Whether whoever sends to it means a service, on whatever port.
    fn is_service_address(&self, frontends: &[Frontend<'_>], address: IpAddr) -> bool {
        let mut of_services = frontends.iter().filter(|frontend| frontend.kind != FrontendType::NodePort);
        of_services.any(|frontend| frontend.address == address) && !self.is_anybodys(address)
    }

    /// Who sends from an address, seen from this node.
    pub fn sender(&self, address: IpAddr) -> Sender {
        match self.who(address) {
            Peer::Endpoint(_, spec) if spec.node == self.node() => Sender::Endpoint,
            Peer::Host => Sender::Host,
            Peer::Endpoint(..) | Peer::RemoteNode(..) | Peer::World(_) => Sender::Outside,
        }
    }

    /// Where this sender finds a port of a service: in each family one address, the smallest of several. What is for it comes first: for
    /// whoever is outside external addresses, then the node's; for everybody else cluster addresses, then external
    /// ones, then the node's.
    pub fn addresses_of_service(
        &self,
        service: &ObjectKey,
        protocol: ServiceProtocol,
        port: u16,
        sender: Sender,
    ) -> Vec<IpAddr> {
        use FrontendType::{Cluster, External, NodePort};
        let order = match sender {
            Sender::Outside => [External, NodePort, Cluster],
            Sender::Endpoint | Sender::Host => [Cluster, External, NodePort],
        };
        let frontends = self.frontends();
        let meant: Vec<&Frontend<'_>> = frontends
            .iter()
            .filter(|frontend| *frontend.service == *service)
            .filter(|frontend| (frontend.protocol, frontend.port) == (protocol, port))
            .collect();
        let of_family = |v4: bool| {
            let of_kind = |kind: FrontendType| {
                let these = meant.iter().filter(|frontend| frontend.kind == kind);
                these.map(|frontend| frontend.address).filter(|address| address.is_ipv4() == v4).min()
            };
            order.into_iter().find_map(of_kind)
        };
        [true, false].into_iter().filter_map(of_family).collect()
    }
}

fn port_of(protocol: FlowProtocol) -> Option<(ServiceProtocol, u16)> {
    match protocol {
        FlowProtocol::Tcp { destination, .. } => Some((ServiceProtocol::Tcp, destination)),
        FlowProtocol::Udp { destination, .. } => Some((ServiceProtocol::Udp, destination)),
        FlowProtocol::Sctp { destination, .. } => Some((ServiceProtocol::Sctp, destination)),
        FlowProtocol::Icmp { .. } | FlowProtocol::Icmpv6 { .. } | FlowProtocol::Other(_) => None,
    }
}
