use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp},
};

use super::{Netlink, NetlinkError, Netns, socket::Mode};

/// A network device, as the kernel lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// `veth`, `vlan`, …; empty for hardware and for `lo`.
    pub kind: String,
    /// `ifalias`: by it we know our own.
    pub alias: Option<String>,
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    pub up: bool,
    /// Neighbours are asked for.
    pub arp: bool,
    pub loopback: bool,
    /// The other end's index, in the namespace that it is in (veth).
    pub peer: Option<u32>,
    /// That namespace is another one.
    pub peer_elsewhere: bool,
    pub xdp: Option<XdpProgram>,
}

/// The XDP program of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    pub id: u32,
    /// In the driver; otherwise generic.
    pub native: bool,
}

impl Netlink {
    /// Every device of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let messages = self.dump("listing network devices", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(read(&link)),
                _ => None,
            })
            .collect())
    }

    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// A veth pair, both ends down: `host` here with an alias, `peer` in the other namespace. The peer never exists
    /// here, so its name may be taken here.
    pub fn add_veth(&mut self, host: &str, alias: &str, peer: &str, netns: &Netns) -> Result<(), NetlinkError> {
        self.add_pair(host, peer, Some(netns))?;
        self.set_alias(host, alias)
    }

    /// A veth pair, both ends here and down, each with an alias, and neither asks for neighbours.
    pub fn add_veth_here(&mut self, ends: [(&str, &str); 2]) -> Result<(), NetlinkError> {
        self.add_pair(ends[0].0, ends[1].0, None)?;
        for (name, alias) in ends {
            self.set_alias(name, alias)?;
            if let Some(link) = self.link(name)? {
                self.set_noarp(link.ifindex)?;
            }
        }
        Ok(())
    }

    fn add_pair(&mut self, host: &str, peer: &str, netns: Option<&Netns>) -> Result<(), NetlinkError> {
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        other.attributes.extend(netns.map(|netns| LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd())));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(host.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        self.request(
            &match netns {
                Some(netns) => format!("creating the veth pair {host} and {netns}:{peer}"),
                None => format!("creating the veth pair {host} and {peer}"),
            },
            RouteNetlinkMessage::NewLink(message),
            Mode::Create,
        )
    }

    /// The alias is no part of a creation on every kernel.
    fn set_alias(&mut self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let Some(link) = self.link(name)? else { return Ok(()) };
        self.change(link.ifindex, &format!("naming {name} ours"), |message| {
            message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        })
    }

    pub fn set_noarp(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        self.change(ifindex, &format!("turning off ARP on device {ifindex}"), |message| {
            message.header.flags |= LinkFlags::Noarp;
            message.header.change_mask |= LinkFlags::Noarp;
        })
    }

    pub fn set_up(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        self.change(ifindex, &format!("bringing up device {ifindex}"), |message| {
            message.header.flags |= LinkFlags::Up;
            message.header.change_mask |= LinkFlags::Up;
        })
    }

    /// Deleting what is not there is fine.
    pub fn delete_link(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let done =
            self.request(&format!("deleting device {ifindex}"), RouteNetlinkMessage::DelLink(message), Mode::Plain);
        match done {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
            done => done,
        }
    }

    fn change(&mut self, ifindex: u32, doing: &str, edit: impl FnOnce(&mut LinkMessage)) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        edit(&mut message);
        self.request(doing, RouteNetlinkMessage::SetLink(message), Mode::Plain)
    }
}

fn read(message: &LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        arp: !message.header.flags.contains(LinkFlags::Noarp),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            LinkAttribute::Xdp(parts) => link.xdp = xdp(parts),
            _ => {}
        }
    }
    link
}

fn xdp(parts: &[LinkXdp]) -> Option<XdpProgram> {
    let (mut any, mut driver) = (None, None);
    for part in parts {
        match part {
            LinkXdp::ProgId(id) | LinkXdp::SkbProgId(id) => any = any.or(Some(*id)),
            LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => driver = Some(*id),
            _ => {}
        }
    }
    let id = driver.or(any).filter(|id| *id != 0)?;
    Some(XdpProgram { id, native: driver.is_some() })
}
