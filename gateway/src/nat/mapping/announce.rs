//! What a router says unasked: that it has begun anew, or has another address (RFC 6886 section 3.2.1, RFC 6887 section 14.1).
//!
//! Enters: datagrams to the group of all hosts. Leaves: that the router has something to say. Never does: believe more of it
//! than that a renewal is due, or answer it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Router;

/// Where clients listen.
const PORT: u16 = 5350;
/// A router's own port.
const SERVER_PORT: u16 = 5351;
/// The longest message of PCP (RFC 6887 section 7).
const MESSAGE_MAX: usize = 1100;

/// The ear of one host: others may listen at the same port.
#[derive(Debug)]
pub(super) struct Announcements(Option<UdpSocket>);

impl Announcements {
    /// Listens, or hears nothing ever where the port cannot be had: mappings are looked after anyhow.
    pub(super) fn open() -> Self {
        Self(listen().inspect_err(|error| tracing::debug!(%error, "routers' announcements are not heard")).ok())
    }

    /// Resolves when the router has announced itself.
    pub(super) async fn heard(&self, router: Router) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        let mut bytes = [0; MESSAGE_MAX];
        loop {
            match socket.recv_from(&mut bytes).await {
                Ok((len, from)) if is_of(router, from) && is_announcement(&bytes[..len]) => return,
                Ok(_) => {}
                // What a network says of a datagram is not for this socket, which sends none.
                Err(error) => {
                    tracing::debug!(%error, "routers' announcements are not heard any more");
                    return std::future::pending().await;
                }
            }
        }
    }
}

fn listen() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // Every host is a member of the group of all hosts.
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

fn is_of(router: Router, from: SocketAddr) -> bool {
    from.ip() == router.address && from.port() == SERVER_PORT
}

/// Whether this is an answer of NAT-PMP that nobody asked for, with an address, or an announcement of PCP.
fn is_announcement(bytes: &[u8]) -> bool {
    match bytes {
        // Version, opcode with the bit of answers, result.
        [0, 0x80, 0, 0, ..] => bytes.len() == 12,
        [2, 0x80, _, 0, ..] => bytes.len() >= 24,
        _ => false,
    }
}

/// Whether an address is the link's own, so that it says which link it is meant on.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_announcements_of_the_router_itself_are_heard() {
        let mut nat_pmp = [0; 12];
        nat_pmp[1] = 0x80;
        assert!(is_announcement(&nat_pmp));
        let mut pcp = [0; 24];
        (pcp[0], pcp[1]) = (2, 0x80);
        assert!(is_announcement(&pcp));
        for len in 0..12 {
            assert!(!is_announcement(&nat_pmp[..len]));
        }
        assert!(!is_announcement(&pcp[..23]));
        for (at, value) in [(0, 1), (1, 0), (1, 0x81), (3, 1)] {
            let mut other = pcp;
            other[at] = value;
            assert!(!is_announcement(&other), "byte {at}");
        }
        let address = Ipv4Addr::new(192, 168, 1, 1);
        let router = Router { address: address.into(), client: [192, 168, 1, 2].into(), scope: None };
        assert!(is_of(router, (address, 5351).into()));
        assert!(!is_of(router, (address, 5352).into()) && !is_of(router, ([192, 168, 1, 3], 5351).into()));
    }
}
