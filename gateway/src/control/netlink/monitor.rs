//! News of links, addresses, routes, rules and neighbours.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::Messages;

/// Multicast groups (RTNLGRP_*) that say how a packet would go.
const GROUPS: [u32; 8] = [
    1,  // links
    3,  // neighbours
    5,  // IPv4 addresses
    7,  // IPv4 routes
    8,  // IPv4 rules
    9,  // IPv6 addresses
    11, // IPv6 routes
    19, // IPv6 rules
];

/// Datagrams read at once, so that a storm of news cannot hold up handshakes.
const BATCH: usize = 64;

/// What has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// An interface.
    pub links: bool,
    /// An address.
    pub addresses: bool,
    /// A route or a rule.
    pub routes: bool,
    /// A neighbour.
    pub neighbours: bool,
}

impl News {
    /// Everything may have changed.
    pub const ALL: Self = Self { links: true, addresses: true, routes: true, neighbours: true };

    /// Whether anything has.
    #[must_use]
    pub fn any(self) -> bool {
        self.links || self.addresses || self.routes || self.neighbours
    }
}

/// A subscription to the kernel's news.
pub struct Monitor(Socket);

impl Monitor {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Reads what waits; true as second when more may wait.
    pub fn read(&self) -> (News, bool) {
        let mut news = News::default();
        for _ in 0..BATCH {
            match self.0.recv_from_full() {
                Ok((datagram, _)) => note(&datagram, &mut news),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (news, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: news were lost, so all of it may have changed.
                Err(_) => return (News::ALL, true),
            }
        }
        (news, true)
    }
}

fn note(datagram: &[u8], news: &mut News) {
    use RouteNetlinkMessage as Message;
    for message in Messages(datagram).flatten() {
        let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
        match message {
            Message::NewLink(_) | Message::DelLink(_) => news.links = true,
            Message::NewAddress(_) | Message::DelAddress(_) => news.addresses = true,
            Message::NewRoute(_) | Message::DelRoute(_) | Message::NewRule(_) | Message::DelRule(_) => {
                news.routes = true;
            }
            Message::NewNeighbour(_) | Message::DelNeighbour(_) => news.neighbours = true,
            _ => {}
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Monitor").field(&self.0.as_raw_fd()).finish()
    }
}
