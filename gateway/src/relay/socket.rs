//! The sockets of a relay's ports.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

use landbridge_xsk::udp;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::control::sockets;

/// Bytes that a port's socket may queue in either direction.
const BUFFER: usize = 4 << 20;

/// Opens a port for both address families where the host has both. Nobody else may have it.
///
/// # Errors
/// The port is in use, or what the kernel said.
pub fn open(port: u16, fwmark: Option<u32>) -> io::Result<UdpSocket> {
    match bind(Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), fwmark) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
            bind(Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), fwmark)
        }
        result => result,
    }
}

fn bind(domain: Domain, address: SocketAddr, fwmark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    let is_v6 = domain == Domain::IPV6;
    socket.set_nonblocking(true)?;
    if is_v6 {
        socket.set_only_v6(false)?;
    }
    if let Some(mark) = fwmark {
        socket.set_mark(mark)?;
    }
    // As large as wanted where we may, else as large as the system's limit.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, BUFFER));
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, BUFFER));
    udp::tell_details(socket.as_fd(), is_v6)?;
    udp::tell_hops(socket.as_fd(), is_v6)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    // A datagram that is too long for the way onwards is fragmented, as it would be without a relay.
    sockets::allow_fragments(&socket)?;
    if is_v6 {
        udp::allow_ipv6_fragments(socket.as_fd())?;
    }
    Ok(socket)
}
