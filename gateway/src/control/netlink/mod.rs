//! What the control task asks of the kernel's rtnetlink, and hears from it.
//!
//! Enters: questions (routes, links, addresses, neighbours, rules) and changes to them. Leaves: the kernel's
//! answers, and [`Monitor`]'s news. Never does: wait for another machine. The kernel answers a request while
//! it is being sent, so requests are plain calls; that keeps a decision and the facts it rests on together.

pub mod addresses;
pub mod links;
mod monitor;
pub mod neighbours;
pub mod routes;
pub mod rules;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub use monitor::{Monitor, News};

/// A dump that the tables changed under is asked for again this many times.
const DUMP_ATTEMPTS: usize = 4;

/// A conversation with the kernel of the namespace in which it was begun.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // An answer that does not come must not hold up handshakes.
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_secs(2)),
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks one thing and waits for the kernel's acknowledgement.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive().map(|(messages, _)| messages)
    }

    /// Asks for a whole table.
    fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut last = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let (messages, interrupted) = self.receive()?;
            last = messages;
            if !interrupted {
                break;
            }
        }
        Ok(last)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0).map(drop)
    }

    /// Reads up to the end of the answer to the last request. True when the dump was interrupted.
    fn receive(&self) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut messages = Vec::new();
        let mut interrupted = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in Messages(&datagram) {
                let message = message?;
                // What is left of a request that timed out is not the answer to this one.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => messages.push(inner),
                    NetlinkPayload::Done(_) => return Ok((messages, interrupted)),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok((messages, interrupted)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("fd", &self.socket.as_raw_fd()).finish_non_exhaustive()
    }
}

/// The messages of one datagram. One that this program's packages cannot parse is passed over: a newer kernel may send
/// attributes that they do not know.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<NetlinkMessage<RouteNetlinkMessage>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let length = u32::from_ne_bytes(self.0.get(..4)?.try_into().ok()?) as usize;
            if length < 16 || length > self.0.len() {
                let truncated = !self.0.is_empty();
                self.0 = &[];
                return truncated.then(|| Err(io::Error::new(io::ErrorKind::InvalidData, "truncated netlink message")));
            }
            let message = &self.0[..length];
            self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            match NetlinkMessage::deserialize(message) {
                Ok(message) => return Some(Ok(message)),
                Err(error) => tracing::trace!(%error, "a netlink message that cannot be parsed"),
            }
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Runs `work` in another network namespace, on a thread that ends with it.
///
/// # Errors
/// What `setns` or the work said.
pub fn in_namespace<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                rustix::thread::move_into_link_name_space(namespace, Some(rustix::thread::LinkNameSpaceType::Network))?;
                work()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}
