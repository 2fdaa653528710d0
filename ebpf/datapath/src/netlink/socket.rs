use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::NetlinkError;

/// A socket to rtnetlink, of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a request means when the thing is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Refused with EEXIST.
    Create,
    /// Replaced.
    Replace,
    /// A change or a deletion.
    Plain,
}

/// A dump answers with messages of up to 32 KiB.
const BUFFER: usize = 64 * 1024;

impl Netlink {
    pub fn open() -> Result<Self, NetlinkError> {
        let refused = |cause| NetlinkError::Refused { doing: "opening an rtnetlink socket".to_owned(), cause };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(refused)?;
        socket.bind_auto().map_err(refused)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(refused)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Everything that a dump lists. A dump that a concurrent change interrupted is asked for again.
    pub(super) fn dump(
        &mut self,
        doing: &str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        const INTERRUPTED: u16 = 0x10;
        for _ in 0..16 {
            self.send(doing, request.clone(), NLM_F_DUMP)?;
            let (mut messages, mut whole, mut done) = (Vec::new(), true, false);
            while !done {
                for message in self.receive(doing)? {
                    whole &= message.header.flags & INTERRUPTED == 0;
                    match message.payload {
                        NetlinkPayload::Done(_) => done = true,
                        NetlinkPayload::InnerMessage(inner) => messages.push(inner),
                        NetlinkPayload::Error(error) => return Err(refused(doing, error.to_io())),
                        _ => {}
                    }
                }
            }
            if whole {
                return Ok(messages);
            }
        }
        Err(refused(doing, io::Error::from_raw_os_error(libc::EINTR)))
    }

    /// A request that is answered with an acknowledgement.
    pub(super) fn request(
        &mut self,
        doing: &str,
        request: RouteNetlinkMessage,
        mode: Mode,
    ) -> Result<(), NetlinkError> {
        let flags = match mode {
            Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
            Mode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Mode::Plain => 0,
        };
        crate::sys::counted();
        self.send(doing, request, NLM_F_ACK | flags)?;
        loop {
            for message in self.receive(doing)? {
                if let NetlinkPayload::Error(error) = message.payload {
                    return match error.code {
                        None => Ok(()),
                        Some(_) => Err(refused(doing, error.to_io())),
                    };
                }
            }
        }
    }

    fn send(&mut self, doing: &str, request: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.sequence += 1;
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|cause| refused(doing, cause))?;
        Ok(())
    }

    /// One datagram's messages that answer the last request.
    fn receive(&mut self, doing: &str) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0).map_err(|cause| refused(doing, cause))?;
        let mut messages = Vec::new();
        let mut rest = &self.buffer[..];
        // A header is 16 bytes; its first four are the length.
        while let Some(length) = rest.first_chunk::<4>() {
            let length = u32::from_ne_bytes(*length) as usize;
            if length < 16 || length > rest.len() {
                return Err(NetlinkError::Garbled { doing: doing.to_owned(), cause: format!("length {length}") });
            }
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length])
                .map_err(|cause| NetlinkError::Garbled { doing: doing.to_owned(), cause: cause.to_string() })?;
            if message.header.sequence_number == self.sequence {
                messages.push(message);
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(messages)
    }
}

fn refused(doing: &str, cause: io::Error) -> NetlinkError {
    NetlinkError::Refused { doing: doing.to_owned(), cause }
}
