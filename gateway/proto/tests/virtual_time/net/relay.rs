//! What forwards at a relay: ports, places, and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use landbridge_proto::endpoint::RelayEnd;

/// Ports of allocations begin here.
const FIRST_PORT: u16 = 52_000;

/// One end of an allocation.
type End = (u64, RelayEnd);

#[derive(Debug, Default)]
pub(crate) struct Forwarder {
    ports: BTreeMap<u16, End>,
    places: BTreeMap<End, SocketAddr>,
    granted: u16,
    /// Datagrams that went on.
    pub(crate) forwarded: u64,
    /// No port is left to grant.
    pub(crate) is_full: bool,
}

impl Forwarder {
    pub(crate) fn owns(&self, port: u16) -> bool {
        port >= FIRST_PORT && port < FIRST_PORT + self.granted
    }

    pub(crate) fn grant(&mut self, allocation: u64) -> Option<[u16; 2]> {
        if self.is_full {
            return None;
        }
        let ports = [FIRST_PORT + self.granted, FIRST_PORT + self.granted + 1];
        self.granted += 2;
        for (end, port) in [RelayEnd::A, RelayEnd::B].into_iter().zip(ports) {
            self.ports.insert(port, (allocation, end));
        }
        Some(ports)
    }

    pub(crate) fn bind(&mut self, allocation: u64, end: RelayEnd, place: SocketAddr) {
        assert!(self.ports.values().any(|known| *known == (allocation, end)), "it was granted");
        self.places.insert((allocation, end), place);
    }

    pub(crate) fn free(&mut self, allocation: u64) {
        self.ports.retain(|_, (of, _)| *of != allocation);
        self.places.retain(|(of, _), _| *of != allocation);
    }

    /// How many allocations there are.
    pub(crate) fn len(&self) -> usize {
        self.ports.len() / 2
    }

    /// A datagram that is for the other end: the port it leaves from, and where to.
    pub(crate) fn forward(&mut self, port: u16, from: SocketAddr) -> Option<(u16, SocketAddr)> {
        let (allocation, end) = *self.ports.get(&port)?;
        if self.places.get(&(allocation, end)) != Some(&from) {
            return None;
        }
        let other = (allocation, if end == RelayEnd::A { RelayEnd::B } else { RelayEnd::A });
        let place = *self.places.get(&other)?;
        let leaves = *self.ports.iter().find(|(_, known)| **known == other)?.0;
        self.forwarded += 1;
        Some((leaves, place))
    }
}
