//! A small node as tables: a host, two endpoints, and the world outside.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_abi::{
    BackendInfo, ClassCell, DIRECTION_EGRESS, DIRECTION_INGRESS, EndpointInfo, FrontendInfo, FrontendKey,
    InterfaceInfo, PolicyEntry, PolicyKey, PrefilterClass, Settings, SubjectInfo, TupleClass, backend_flags,
    frontend_flags, identity, interface_flags, policy_verdict, settings_flags,
};
use weir_plan::{InterfaceName, Prefix4, Prefix6, Service, Tables, address_of};

/// Identities of the two endpoints, and of a network outside that a CIDR rule names.
pub const WEB: u32 = 256;
pub const DB: u32 = 257;
pub const OFFICE: u32 = 300;

pub const WEB_DEVICE: &str = "lxc_web";
pub const DB_DEVICE: &str = "lxc_db";
pub const NETWORK_DEVICE: &str = "eth_test";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn address(self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(v4).into(),
            Self::V6 => Ipv6Addr::from(v6).into(),
        }
    }

    pub fn web(self) -> IpAddr {
        self.address([10, 0, 1, 1], [0xfd00, 0, 0, 1, 0, 0, 0, 1])
    }

    pub fn db(self) -> IpAddr {
        self.address([10, 0, 1, 2], [0xfd00, 0, 0, 1, 0, 0, 0, 2])
    }

    pub fn host(self) -> IpAddr {
        self.address([10, 0, 0, 1], [0xfd00, 0, 0, 0, 0, 0, 0, 1])
    }

    /// Somebody in the world.
    pub fn stranger(self) -> IpAddr {
        self.address([198, 51, 100, 7], [0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 7])
    }

    /// Somebody in [`OFFICE`].
    pub fn colleague(self) -> IpAddr {
        self.address([192, 0, 2, 33], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x33])
    }

    /// The address of a service.
    pub fn vip(self) -> IpAddr {
        self.address([10, 96, 0, 10], [0xfd00, 0x96, 0, 0, 0, 0, 0, 10])
    }

    /// A machine elsewhere.
    pub fn elsewhere(self) -> IpAddr {
        self.address([10, 0, 2, 9], [0xfd00, 0, 0, 2, 0, 0, 0, 9])
    }

    /// The ICMP types of an echo request and its reply.
    pub const fn echo_types(self) -> (u8, u8) {
        match self {
            Self::V4 => (8, 0),
            Self::V6 => (128, 129),
        }
    }

    pub const fn icmp(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }
}

pub const fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// What a rule matches: the shape of a policy key.
#[derive(Clone, Copy, Debug)]
pub struct Match {
    /// `None`: any.
    pub peer: Option<u32>,
    /// `None`: any protocol, any port.
    pub protocol: Option<u8>,
    /// First port and bits of it that count: 16 for one port, 0 for any.
    pub port: (u16, u8),
}

impl Match {
    pub const ANY: Self = Self { peer: None, protocol: None, port: (0, 0) };

    pub const fn peer(peer: u32) -> Self {
        Self { peer: Some(peer), ..Self::ANY }
    }

    /// Narrowed to one protocol and port; an ICMP type is a port.
    pub const fn port(self, protocol: u8, port: u16) -> Self {
        Self { protocol: Some(protocol), port: (port, 16), ..self }
    }

    pub const fn port_prefix(self, protocol: u8, port: u16, bits: u8) -> Self {
        Self { protocol: Some(protocol), port: (port, bits), ..self }
    }

    pub const fn protocol(self, protocol: u8) -> Self {
        Self { protocol: Some(protocol), port: (0, 0), ..self }
    }

    fn class(&self) -> TupleClass {
        TupleClass::new(self.protocol.map(|_| self.port.1), self.peer.is_none())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Ingress,
    Egress,
}

impl Way {
    const fn index(self) -> usize {
        match self {
            Self::Ingress => DIRECTION_INGRESS as usize,
            Self::Egress => DIRECTION_EGRESS as usize,
        }
    }
}

/// The desired tables, with what a test says about them.
#[derive(Clone, Debug)]
pub struct World {
    pub tables: Tables,
    next_rule: u32,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Nothing enforces.
    pub fn new() -> Self {
        let mut tables = Tables::default();
        tables.settings.insert(0, Settings::default());
        let endpoint = |number: u32, identity: u32| EndpointInfo {
            endpoint: number,
            identity,
            incarnation: 1,
            ..Default::default()
        };
        let interface = |number: u32, identity: u32| InterfaceInfo {
            flags: interface_flags::ENDPOINT,
            endpoint: number,
            identity,
            incarnation: 1,
            ..Default::default()
        };
        tables.interfaces.insert(WEB_DEVICE.into(), interface(1, WEB));
        tables.interfaces.insert(DB_DEVICE.into(), interface(2, DB));
        tables
            .interfaces
            .insert(NETWORK_DEVICE.into(), InterfaceInfo { flags: interface_flags::NETWORK, ..Default::default() });
        let mut world = Self { tables, next_rule: 1 };
        for family in [Family::V4, Family::V6] {
            world.tables.endpoints.insert(family.web(), endpoint(1, WEB));
            world.tables.endpoints.insert(family.db(), endpoint(2, DB));
            world.tables.endpoints.insert(family.host(), endpoint(0, identity::HOST));
            world.identify(family.web(), WEB);
            world.identify(family.db(), DB);
            world.identify(family.host(), identity::HOST);
        }
        world.tables.ipcache4.insert(prefix4([192, 0, 2, 0], 24), OFFICE);
        world.tables.ipcache6.insert(prefix6([0x2001, 0xdb8, 1, 0, 0, 0, 0, 0], 48), OFFICE);
        world
    }

    /// An address of its own in the ipcache.
    pub fn identify(&mut self, address: IpAddr, identity: u32) {
        match address {
            IpAddr::V4(v4) => self.tables.ipcache4.insert(prefix4(v4.octets(), 32), identity),
            IpAddr::V6(v6) => self.tables.ipcache6.insert(prefix6(v6.segments(), 128), identity),
        };
    }

    pub fn forget(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.tables.ipcache4.remove(&prefix4(v4.octets(), 32)),
            IpAddr::V6(v6) => self.tables.ipcache6.remove(&prefix6(v6.segments(), 128)),
        };
    }

    fn subject(&mut self, subject: u32, change: impl FnOnce(&mut SubjectInfo)) {
        let mut info = self.tables.subjects.get(&subject).copied().unwrap_or_default();
        change(&mut info);
        self.tables.subjects.insert(subject, info);
    }

    /// What no rule allows is denied.
    pub fn enforce(&mut self, subject: u32, way: Way) {
        self.subject(subject, |info| info.default_deny[way.index()] = 1);
    }

    /// A new rule; its number.
    pub fn allow(&mut self, subject: u32, way: Way, what: Match) -> u32 {
        self.rule(subject, way, what, policy_verdict::ALLOW)
    }

    pub fn deny(&mut self, subject: u32, way: Way, what: Match) -> u32 {
        self.rule(subject, way, what, policy_verdict::DENY)
    }

    fn rule(&mut self, subject: u32, way: Way, what: Match, verdict: u8) -> u32 {
        let rule = self.next_rule;
        self.next_rule += 1;
        let class = what.class();
        self.subject(subject, |info| {
            let classes =
                if verdict == policy_verdict::DENY { &mut info.deny_classes } else { &mut info.allow_classes };
            classes[way.index()] |= 1 << class.0;
        });
        self.tables.policy.insert(key(subject, way, &what), PolicyEntry { rule, verdict, ..Default::default() });
        rule
    }

    pub fn revoke(&mut self, subject: u32, way: Way, what: Match) {
        self.tables.policy.remove(&key(subject, way, &what)).expect("a rule that is there");
    }

    pub fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.tables.settings.get(&0).copied().unwrap_or_default();
        change(&mut settings);
        self.tables.settings.insert(0, settings);
    }

    pub fn host_policy(&mut self) {
        self.settings(|settings| settings.flags |= settings_flags::HOST_POLICY | settings_flags::HOST_ENDPOINT);
    }

    pub fn interface(&mut self, name: &str, change: impl FnOnce(&mut InterfaceInfo)) {
        let name = InterfaceName::from(name);
        let mut info = self.tables.interfaces.get(&name).copied().unwrap_or_default();
        change(&mut info);
        self.tables.interfaces.insert(name, info);
    }

    /// A prefilter rule for one prefix, at one side and group; its number.
    pub fn filter(&mut self, prefix: &str, class: u32, group: usize, side: usize, action: u8) -> u32 {
        let rule = self.next_rule;
        self.next_rule += 1;
        let mut value = self.tables.classes.get(&class).copied().unwrap_or_default();
        value.cells[group * 2 + side] = ClassCell::new(rule, action);
        self.tables.classes.insert(class, PrefilterClass { ..value });
        match prefix.parse().expect("a prefix") {
            ipnet::IpNet::V4(net) => self.tables.prefilter4.insert(net.into(), class),
            ipnet::IpNet::V6(net) => self.tables.prefilter6.insert(net.into(), class),
        };
        rule
    }

    /// A service: what it is, and its backends with the slots that each has.
    pub fn service(&mut self, number: u32, service: Service, backends: &[(u32, BackendInfo)]) {
        self.settings(|settings| settings.flags |= settings_flags::SERVICES);
        self.tables.services.insert(number, service);
        for (backend, info) in backends {
            self.tables.backends.insert(*backend, BackendInfo { service: number, ..*info });
        }
    }

    pub fn frontend(&mut self, to: SocketAddr, protocol: u8, service: u32, flags: u32) {
        let key = FrontendKey::new(address_of(to.ip()), protocol, to.port());
        self.tables.frontends.insert(key, FrontendInfo { service, flags });
        if flags & frontend_flags::NODE_PORT == 0 {
            self.tables.frontends.insert(FrontendKey::of_address(address_of(to.ip())), FrontendInfo::default());
        }
    }

    /// The network device lends the host's addresses, with these ports.
    pub fn lends(&mut self, ports: std::ops::RangeInclusive<u16>) {
        self.settings(|settings| (settings.nat_first_port, settings.nat_last_port) = ports.into_inner());
        self.interface(NETWORK_DEVICE, |info| {
            info.masquerade_v4 = address_of(Family::V4.host());
            info.masquerade_v6 = address_of(Family::V6.host());
        });
    }

    /// Rule numbers in use, plus one.
    pub fn rules(&self) -> u32 {
        self.next_rule
    }
}

/// A backend, as a service's tables have it.
pub fn backend(at: SocketAddr, incarnation: u32, flags: u16) -> BackendInfo {
    BackendInfo {
        address: address_of(at.ip()),
        incarnation,
        port_be: at.port().to_be(),
        flags: flags | backend_flags::EXISTS,
        ..BackendInfo::default()
    }
}

fn key(subject: u32, way: Way, what: &Match) -> PolicyKey {
    let direction = way.index() as u8;
    PolicyKey::new(subject, what.peer.unwrap_or(0), direction, what.class(), what.protocol.unwrap_or(0), what.port.0)
}

fn prefix4(octets: [u8; 4], length: u8) -> Prefix4 {
    Prefix4 { bits: u32::from_be_bytes(octets), length }
}

fn prefix6(segments: [u16; 8], length: u8) -> Prefix6 {
    Prefix6::from_bits(Ipv6Addr::from(segments).to_bits(), length)
}

/// One test for each family: `name_v4` and `name_v6`.
#[macro_export]
macro_rules! both_families {
    ($($(#[$doc:meta])* fn $name:ident($family:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn check($family: Family) $body

            #[test]
            fn v4() {
                check(Family::V4);
            }

            #[test]
            fn v6() {
                check(Family::V6);
            }
        }
    )*};
}
