use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{Netlink, NetlinkError, socket::Mode};

/// Which half of a clsact qdisc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    Ingress,
    Egress,
}

/// A BPF filter in a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub half: Half,
    pub priority: u16,
    pub handle: u32,
    pub program: u32,
    pub name: String,
}

/// `ETH_P_ALL`, network order.
const ALL_PROTOCOLS: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;

impl Half {
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

impl Netlink {
    /// Makes sure of a clsact qdisc; whether it was made now.
    pub fn add_clsact(&mut self, ifindex: u32) -> Result<bool, NetlinkError> {
        let doing = format!("adding a clsact qdisc to device {ifindex}");
        match self.request(&doing, RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex)), Mode::Create) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deleting what is not there is fine.
    pub fn delete_clsact(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let doing = format!("deleting the clsact qdisc of device {ifindex}");
        let done = self.request(&doing, RouteNetlinkMessage::DelQueueDiscipline(qdisc(ifindex)), Mode::Plain);
        absent_is_fine(done)
    }

    /// The devices that have a clsact qdisc.
    pub fn clsact_devices(&mut self) -> Result<Vec<u32>, NetlinkError> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let messages = self.dump("listing qdiscs", request)?;
        let mut devices: Vec<u32> = messages
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewQueueDiscipline(message) => {
                    let clsact = message.attributes.contains(&TcAttribute::Kind("clsact".to_owned()));
                    clsact.then_some(message.header.index as u32)
                }
                _ => None,
            })
            .collect();
        devices.sort_unstable();
        devices.dedup();
        Ok(devices)
    }

    /// The BPF filters of one half; none where there is no clsact qdisc.
    pub fn filters(&mut self, ifindex: u32, half: Half) -> Result<Vec<Filter>, NetlinkError> {
        let mut request = TcMessage::with_index(ifindex as i32);
        request.header.parent = half.parent();
        let doing = format!("listing the filters of device {ifindex}");
        let messages = match self.dump(&doing, RouteNetlinkMessage::GetTrafficFilter(request)) {
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENODEV)) => return Ok(Vec::new()),
            messages => messages?,
        };
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewTrafficFilter(message) => filter(half, message),
                _ => None,
            })
            .collect())
    }

    /// Puts a program at (priority, handle), in place of the one that is there.
    pub fn set_filter(
        &mut self,
        ifindex: u32,
        half: Half,
        priority: u16,
        handle: u32,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let mut message = at(ifindex, half, priority, handle);
        message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        let doing = format!("attaching {name} to device {ifindex}");
        self.request(&doing, RouteNetlinkMessage::NewTrafficFilter(message), Mode::Replace)
    }

    /// Deleting what is not there is fine.
    pub fn delete_filter(&mut self, ifindex: u32, half: Half, priority: u16, handle: u32) -> Result<(), NetlinkError> {
        let mut message = at(ifindex, half, priority, handle);
        message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
        let doing = format!("detaching a filter from device {ifindex}");
        absent_is_fine(self.request(&doing, RouteNetlinkMessage::DelTrafficFilter(message), Mode::Plain))
    }
}

fn absent_is_fine(done: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match done {
        Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)) => Ok(()),
        done => done,
    }
}

fn qdisc(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex as i32);
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn at(ifindex: u32, half: Half, priority: u16, handle: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex as i32);
    message.header.parent = half.parent();
    message.header.handle = handle.into();
    message.header.info = (u32::from(priority) << 16) | ALL_PROTOCOLS;
    message
}

fn filter(half: Half, message: &TcMessage) -> Option<Filter> {
    let mut filter = Filter {
        half,
        priority: (message.header.info >> 16) as u16,
        handle: u32::from(message.header.handle),
        program: 0,
        name: String::new(),
    };
    let mut bpf = false;
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => bpf = kind == "bpf",
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = *id,
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name.clone_from(name),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // The first message of a priority describes the priority itself, and has no handle.
    (bpf && filter.handle != 0).then_some(filter)
}
