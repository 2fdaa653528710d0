use std::net::IpAddr;

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

    /// The host routes (/32, /128) of the main table without a gateway, each with the device that it goes out of.
    pub fn host_routes(&mut self) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for message in self.dump("listing routes", RouteNetlinkMessage::GetRoute(request))? {
                if let RouteNetlinkMessage::NewRoute(message) = message {
                    found.extend(host_route(&message));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// A route to one address out of a device.
    pub fn add_host_route(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = route(ifindex, address);
        message.header.destination_prefix_length = width(address);
        message.header.scope = RouteScope::Link;
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let doing = format!("routing {address} to device {ifindex}");
        self.request(&doing, RouteNetlinkMessage::NewRoute(message), Mode::Replace)
    }

    pub fn delete_host_route(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = route(ifindex, address);
        message.header.destination_prefix_length = width(address);
        message.header.scope = RouteScope::NoWhere;
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let doing = format!("deleting the route of {address} to device {ifindex}");
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

fn host_route(message: &RouteMessage) -> Option<(u32, IpAddr)> {
    let main = message.header.table == RouteHeader::RT_TABLE_MAIN && message.header.kind == RouteType::Unicast;
    let ifindex = message
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Oif(ifindex) = attribute { Some(*ifindex) } else { None })?;
    let direct = !message.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)));
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let host = message.header.destination_prefix_length == width(address);
    (main && direct && host && !address.is_multicast()).then_some((ifindex, address))
}
