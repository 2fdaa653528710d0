use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
    },
};

use super::{Netlink, NetlinkError, socket::Mode};

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix: u8,
    pub scope: Scope,
}

/// A route of the main table that goes straight out of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub ifindex: u32,
    pub to: IpNet,
    /// Where the host's own packets come from.
    pub source: Option<IpAddr>,
    /// 0: none was given.
    pub metric: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Global,
    Link,
    Host,
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl Netlink {
    /// Every address of every device of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<Place>, NetlinkError> {
        let messages = self.dump("listing addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => place(&message),
                _ => None,
            })
            .collect())
    }

    /// A host address (/32 or /128), usable at once: no duplicate address detection.
    pub fn add_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = width(address);
        message.header.index = ifindex;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        let doing = format!("adding {address} to device {ifindex}");
        self.request(&doing, RouteNetlinkMessage::NewAddress(message), Mode::Replace)
    }

    /// Deleting what is not there is fine.
    pub fn delete_address(&mut self, ifindex: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = ifindex;
        message.attributes.push(AddressAttribute::Local(address));
        let doing = format!("deleting {address} from device {ifindex}");
        match self.request(&doing, RouteNetlinkMessage::DelAddress(message), Mode::Plain) {
            Err(error) if matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            done => done,
        }
    }

    /// The routes of the main table without a gateway.
    pub fn device_routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for message in self.dump("listing routes", RouteNetlinkMessage::GetRoute(request))? {
                if let RouteNetlinkMessage::NewRoute(message) = message {
                    found.extend(device_route(&message));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// In the place of one to the same prefix with the same metric.
    pub fn add_device_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut message = to_prefix(route);
        message.header.scope = RouteScope::Link;
        message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
        let doing = format!("routing {} to device {}", route.to, route.ifindex);
        self.request(&doing, RouteNetlinkMessage::NewRoute(message), Mode::Replace)
    }

    pub fn delete_device_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut message = to_prefix(route);
        message.header.scope = RouteScope::NoWhere;
        let doing = format!("deleting the route of {} to device {}", route.to, route.ifindex);
        match self.request(&doing, RouteNetlinkMessage::DelRoute(message), Mode::Plain) {
            Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
            done => done,
        }
    }

    /// The default route by a gateway that is reached on the device itself.
    pub fn add_default_route(&mut self, ifindex: u32, gateway: IpAddr) -> Result<(), NetlinkError> {
        let mut message = route(ifindex, gateway);
        message.header.scope = RouteScope::Universe;
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        let doing = format!("routing everything by {gateway} on device {ifindex}");
        self.request(&doing, RouteNetlinkMessage::NewRoute(message), Mode::Replace)
    }

    /// The gateways of the default routes of the main table that go out of `ifindex`.
    pub fn default_gateways(&mut self, ifindex: u32) -> Result<Vec<IpAddr>, NetlinkError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for message in self.dump("listing routes", RouteNetlinkMessage::GetRoute(request))? {
                if let RouteNetlinkMessage::NewRoute(message) = message
                    && message.header.destination_prefix_length == 0
                    && message.header.table == RouteHeader::RT_TABLE_MAIN
                    && message.attributes.contains(&RouteAttribute::Oif(ifindex))
                {
                    found.extend(message.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
                        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
                        _ => None,
                    }));
                }
            }
        }
        Ok(found)
    }

    /// The neighbours that never expire, each with its device.
    pub fn permanent_neighbours(&mut self) -> Result<Vec<(u32, IpAddr, [u8; 6])>, NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let messages = self.dump("listing neighbours", request)?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message),
                _ => None,
            })
            .collect())
    }

    /// A neighbour that never expires and is never asked for.
    pub fn add_neighbour(&mut self, ifindex: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Permanent;
        let destination = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let doing = format!("noting the neighbour {address} on device {ifindex}");
        self.request(&doing, RouteNetlinkMessage::NewNeighbour(message), Mode::Replace)
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, [u8; 6])> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some((message.header.ifindex, address?, mac?))
}

fn place(message: &AddressMessage) -> Option<Place> {
    // `Local` is ours where both stand (point to point); IPv6 has `Address` alone.
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    let local = find(|attribute| if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None });
    let address =
        find(|attribute| if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None });
    let scope = match message.header.scope {
        AddressScope::Link => Scope::Link,
        AddressScope::Host | AddressScope::Nowhere => Scope::Host,
        _ => Scope::Global,
    };
    let address = local.or(address)?;
    Some(Place { ifindex: message.header.index, address, prefix: message.header.prefix_len, scope })
}

fn route(ifindex: u32, address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(ifindex));
    message
}

fn to_prefix(Route { ifindex, to, metric, .. }: &Route) -> RouteMessage {
    let mut message = route(*ifindex, to.addr());
    message.header.destination_prefix_length = to.prefix_len();
    message.attributes.push(RouteAttribute::Destination(to.addr().into()));
    if *metric != 0 {
        message.attributes.push(RouteAttribute::Priority(*metric));
    }
    message
}

fn device_route(message: &RouteMessage) -> Option<Route> {
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.kind != RouteType::Unicast {
        return None;
    }
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let (mut ifindex, mut to, mut source, mut metric) = (None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(_) => return None,
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Destination(destination) => to = address(destination),
            RouteAttribute::PrefSource(from) => source = address(from),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let to = to.filter(|address| !address.is_multicast())?;
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    Some(Route { ifindex: ifindex?, to, source, metric })
}
