//! Neighbours: the link-layer address of a next hop, which the kernel resolves and keeps fresh for us.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{Netlink, family};

/// A neighbour that is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub if_index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The kernel has not heard of it for some time, and asks only once it is used.
    pub stale: bool,
}

impl Netlink {
    /// All resolved neighbours of all interfaces.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let answer = self.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(answer
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(neighbour) => read_whole(neighbour),
                _ => None,
            })
            .collect())
    }

    /// The neighbour's Ethernet address, when it is resolved.
    ///
    /// # Errors
    /// What the kernel said, but for an unknown neighbour, which is `Ok(None)`.
    pub fn neighbour(&mut self, if_index: u32, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
        let answer = match self.request(RouteNetlinkMessage::GetNeighbour(message(if_index, address)), 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            answer => answer?,
        };
        Ok(answer.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => read(neighbour),
            _ => None,
        }))
    }

    /// Tells the kernel that the neighbour is used: an unknown one is resolved, a stale one is asked again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn use_neighbour(&mut self, if_index: u32, address: IpAddr) -> io::Result<()> {
        let mut message = message(if_index, address);
        message.header.flags = NeighbourFlags::Use;
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE).map(drop)
    }
}

fn message(if_index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = if_index;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}

/// Multicast and broadcast addresses, which the kernel lists as neighbours too, are none.
fn read_whole(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) || message.header.state == NeighbourState::Noarp {
        return None;
    }
    let mac = read(message).filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])?;
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let stale = message.header.state == NeighbourState::Stale;
    Some(Neighbour { if_index: message.header.ifindex, address, mac, stale })
}

fn read(message: &NeighbourMessage) -> Option<[u8; 6]> {
    match message.header.state {
        NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Permanent
        | NeighbourState::Noarp => {}
        _ => return None,
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => address.as_slice().try_into().ok(),
        _ => None,
    })
}
