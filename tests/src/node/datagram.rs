//! Clients that are told what became of their datagrams, and a service that they speak to.
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use super::{ENDPOINTS, Node, WEB, eventually};

pub const VIP: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
pub const EXTERNAL: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];

/// The endpoints, masqueraded, and UDP port 80 of [`VIP`] and [`EXTERNAL`] before port 8080 of web.
pub fn write_service(node: &Node) {
    let masquerade = "spec:\n  masquerade: {enabled: true}\n  limits:";
    node.write("endpoints.yaml", &ENDPOINTS.replace("spec:\n  limits:", masquerade));
    let mut text = "apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {name: app}\nspec:\n  frontends:\n".to_owned();
    for (cluster, external) in VIP.iter().zip(EXTERNAL) {
        text += &format!("  - {{address: '{cluster}', port: 80, protocol: UDP, targetPort: 8080}}\n");
        text += &format!("  - {{address: '{external}', port: 80, protocol: UDP, type: external, targetPort: 8080}}\n");
    }
    node.write("service.yaml", &format!("{text}  backends: [{{address: {}}}, {{address: '{}'}}]\n", WEB[0], WEB[1]));
}

/// A socket at a port of every address of `netns`. Where another had the port just now, a process that another test has
/// just forked may hold it for a moment.
pub fn server(node: &Node, netns: &str, port: u16) -> UdpSocket {
    let listen = move || eventually("the port is free", || UdpSocket::bind(("::", port)).ok());
    let server = node.inside(netns, listen).join().expect("a server");
    server.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    server
}

/// An option of a socket that is one integer.
pub fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) {
    // SAFETY: the kernel reads one integer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// The same, as it is.
pub fn get(socket: &UdpSocket, level: i32, option: i32) -> i32 {
    let (mut value, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the kernel writes one integer.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    value
}

/// A socket in `netns` that speaks to `to` and is told of errors.
pub fn client(node: &Node, netns: &str, to: SocketAddr) -> UdpSocket {
    let dial = move || {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("a socket");
        socket.connect(to).expect("a peer");
        match to {
            SocketAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1),
            SocketAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
        }
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        socket
    };
    node.inside(netns, dial).join().expect("a client")
}
