//! Crypto-key routing: which peer an inner address belongs to, by longest prefix (paper, section 2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::PeerId;

/// Prefixes of both families, each owned by one peer. Cloning is how a snapshot is made: it is done once
/// per change of configuration, never per packet.
#[derive(Debug, Clone, Default)]
pub struct AllowedIps {
    _private: (),
}

impl AllowedIps {
    /// No prefix at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a prefix (its host bits are ignored) to a peer and returns the peer that had it.
    pub fn insert(&mut self, _net: IpNet, _peer: PeerId) -> Option<PeerId> {
        panic!("stub")
    }

    /// Takes a prefix from a peer; false when that peer does not own it.
    pub fn remove(&mut self, _net: IpNet, _peer: PeerId) -> bool {
        panic!("stub")
    }

    /// Takes all prefixes from a peer.
    pub fn remove_peer(&mut self, _peer: PeerId) {
        panic!("stub")
    }

    /// The owner of the longest prefix that holds the address.
    #[inline]
    #[must_use]
    pub fn lookup(&self, _address: IpAddr) -> Option<PeerId> {
        panic!("stub")
    }

    /// [`AllowedIps::lookup`] for IPv4.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, _address: Ipv4Addr) -> Option<PeerId> {
        panic!("stub")
    }

    /// [`AllowedIps::lookup`] for IPv6.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, _address: Ipv6Addr) -> Option<PeerId> {
        panic!("stub")
    }

    /// The prefixes of a peer.
    pub fn of_peer(&self, _peer: PeerId) -> impl Iterator<Item = IpNet> + '_ {
        std::iter::empty()
    }

    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        panic!("stub")
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        panic!("stub")
    }
}
