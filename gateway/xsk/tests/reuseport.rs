//! Which socket gets which datagram, with the kernel as the judge, over loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use landbridge_xsk::reuseport::attach_by_message_type;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn6, bind, setsockopt, socket, sockopt::Ipv6V6Only, sockopt::ReusePort,
};

const LANES: usize = 3;

/// The control task's socket and one of each lane, on one port for both families.
fn group() -> (Vec<UdpSocket>, u16) {
    let mut port = 0;
    let sockets = (0..=LANES)
        .map(|_| {
            let fd: OwnedFd = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
            setsockopt(&fd, ReusePort, &true).unwrap();
            setsockopt(&fd, Ipv6V6Only, &false).unwrap();
            let address = std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
            bind(fd.as_raw_fd(), &SockaddrIn6::from(address)).unwrap();
            let socket = UdpSocket::from(fd);
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            port = socket.local_addr().unwrap().port();
            socket
        })
        .collect();
    (sockets, port)
}

/// Sends `payload` from a fresh port and tells which sockets of the group got it.
fn receivers(sockets: &[UdpSocket], from: &UdpSocket, to: SocketAddr, payload: &[u8]) -> Vec<usize> {
    from.send_to(payload, to).unwrap();
    let mut fds: Vec<PollFd<'_>> = sockets.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
    assert!(poll(&mut fds, 2000_u16).unwrap() > 0, "nobody got {payload:?}");
    let mut buffer = [0; 64];
    let got: Vec<usize> = (0..sockets.len()).filter(|n| fds[*n].any() == Some(true)).collect();
    for n in &got {
        assert_eq!(sockets[*n].recv(&mut buffer).unwrap(), payload.len());
        assert_eq!(&buffer[..payload.len()], payload);
    }
    got
}

#[test]
fn transport_data_goes_to_lanes_and_all_else_to_control_in_both_families() {
    let (sockets, port) = group();
    attach_by_message_type(&sockets[0], LANES as u16).unwrap();
    let mut lanes_used = HashSet::new();
    for target in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        for _ in 0..24 {
            let bind_to: SocketAddr =
                if target.is_ipv4() { (Ipv4Addr::LOCALHOST, 0).into() } else { (Ipv6Addr::LOCALHOST, 0).into() };
            let from = UdpSocket::bind(bind_to).unwrap();
            let first = receivers(&sockets, &from, target, &[4, 0, 0, 0, 1, 2, 3, 4, 9, 9]);
            assert!(first.len() == 1 && first[0] > 0, "transport data went to {first:?}");
            assert_eq!(
                receivers(&sockets, &from, target, &[4, 0, 0, 0, 1, 2, 3, 4, 8, 8]),
                first,
                "a flow changed lanes"
            );
            lanes_used.extend(first);
            for kind in [0, 1, 2, 3, 5, 255] {
                assert_eq!(receivers(&sockets, &from, target, &[kind, 0, 0, 0, 1, 2, 3, 4]), [0]);
            }
            assert_eq!(receivers(&sockets, &from, target, &[1]), [0], "a short datagram");
            assert_eq!(receivers(&sockets, &from, target, &[]), [0], "an empty datagram");
        }
    }
    assert_eq!(lanes_used.len(), LANES, "48 flows used only the lanes {lanes_used:?}");
}

#[test]
fn a_program_without_lanes_is_refused() {
    let (sockets, _) = group();
    assert_eq!(attach_by_message_type(&sockets[0], 0).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused_with_the_step() {
    let (read, _write) = nix::unistd::pipe().unwrap();
    let error = attach_by_message_type(&read, 1).unwrap_err();
    assert!(error.to_string().contains("spreads datagrams"), "{error}");
}
