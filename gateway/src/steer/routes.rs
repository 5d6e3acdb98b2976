//! The routes by which packets of a lan are taken or left.
//!
//! Enters: networks that peers have (their allowed IPs) and networks that the kernel routes elsewhere. Leaves: the maps
//! in which the program finds the longest of them. Never does: rewrite what is there already: a change costs as much as
//! it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use ipnet::IpNet;
use landbridge_ebpf_common::{self as common, ROUTE_ELSEWHERE, ROUTE_TO_PEER};

use super::{SteerError, absent_is_fine, error};

/// Who has a network; both may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Peer,
    Kernel,
}

impl Owner {
    const fn bit(self) -> u8 {
        match self {
            Self::Peer => 1,
            Self::Kernel => 2,
        }
    }
}

/// The maps of routes, and what they hold: this process alone writes them.
pub(super) struct Routes {
    v4: LpmTrie<MapData, [u8; 4], u32>,
    v6: LpmTrie<MapData, [u8; 16], u32>,
    /// The owners of every network that is in the maps.
    present: BTreeMap<IpNet, u8>,
    /// How many of them are IPv4, and how many IPv6.
    count: [usize; 2],
}

impl Routes {
    pub(super) const fn new(v4: LpmTrie<MapData, [u8; 4], u32>, v6: LpmTrie<MapData, [u8; 16], u32>) -> Self {
        Self { v4, v6, present: BTreeMap::new(), count: [0; 2] }
    }

    pub(super) fn len(&self) -> usize {
        self.present.len()
    }

    /// Makes these the networks of an owner. What is added comes before what is removed, so that a packet for a network
    /// that stays never goes another way in between; when one is refused, the others are set all the same.
    pub(super) fn set(&mut self, owner: Owner, nets: &BTreeSet<IpNet>) -> Result<(), SteerError> {
        // Networks by their own address: the allowed IPs 10.0.0.1/8 and 10.0.0.0/8 are one.
        let wanted: BTreeSet<IpNet> = nets.iter().map(IpNet::trunc).collect();
        let missing: Vec<IpNet> = wanted.iter().filter(|net| !self.has(owner, **net)).copied().collect();
        let gone: Vec<IpNet> = self
            .present
            .iter()
            .filter(|(net, owners)| **owners & owner.bit() != 0 && !wanted.contains(*net))
            .map(|(net, _)| *net)
            .collect();
        let mut outcome = Ok(());
        let mut room = self.room(&gone, owner);
        let mut refused = 0;
        for net in missing {
            if !self.present.contains_key(&net) {
                let room = &mut room[family(net)];
                if *room == 0 {
                    refused += 1;
                    continue;
                }
                *room -= 1;
            }
            outcome = outcome.and(self.add(owner, net));
        }
        for net in gone {
            outcome = outcome.and(self.take(owner, net));
        }
        if refused != 0 {
            return Err(SteerError::TooManyRoutes { refused, limit: common::ROUTES_PER_FAMILY });
        }
        outcome
    }

    /// Adds one network of an owner.
    pub(super) fn insert(&mut self, owner: Owner, net: IpNet) -> Result<(), SteerError> {
        let net = net.trunc();
        if self.has(owner, net) {
            return Ok(());
        }
        if !self.present.contains_key(&net) && self.room(&[], owner)[family(net)] == 0 {
            return Err(SteerError::TooManyRoutes { refused: 1, limit: common::ROUTES_PER_FAMILY });
        }
        self.add(owner, net)
    }

    /// Removes one network of an owner; one that is not there is fine.
    pub(super) fn remove(&mut self, owner: Owner, net: IpNet) -> Result<(), SteerError> {
        let net = net.trunc();
        if self.has(owner, net) { self.take(owner, net) } else { Ok(()) }
    }

    fn has(&self, owner: Owner, net: IpNet) -> bool {
        self.present.get(&net).is_some_and(|owners| owners & owner.bit() != 0)
    }

    /// How many networks of each family may be added, once those that go are gone.
    fn room(&self, gone: &[IpNet], owner: Owner) -> [usize; 2] {
        let mut count = self.count;
        for net in gone {
            if self.present.get(net) == Some(&owner.bit()) {
                count[family(*net)] -= 1;
            }
        }
        count.map(|count| (common::ROUTES_PER_FAMILY as usize).saturating_sub(count))
    }

    fn add(&mut self, owner: Owner, net: IpNet) -> Result<(), SteerError> {
        let before = self.present.get(&net).copied().unwrap_or(0);
        self.write(net, before, before | owner.bit())
    }

    fn take(&mut self, owner: Owner, net: IpNet) -> Result<(), SteerError> {
        let before = self.present.get(&net).copied().unwrap_or(0);
        self.write(net, before, before & !owner.bit())
    }

    /// Brings the map from one set of owners to another.
    fn write(&mut self, net: IpNet, before: u8, after: u8) -> Result<(), SteerError> {
        if value(before) != value(after) {
            let written = match net.addr() {
                IpAddr::V4(address) => put(&mut self.v4, net.prefix_len(), address.octets(), value(after)),
                IpAddr::V6(address) => put(&mut self.v6, net.prefix_len(), address.octets(), value(after)),
            };
            written.map_err(error::map("a route"))?;
        }
        let count = &mut self.count[family(net)];
        if after == 0 {
            self.present.remove(&net);
            *count -= 1;
        } else if self.present.insert(net, after).is_none() {
            *count += 1;
        }
        Ok(())
    }
}

/// What the map holds of a network with these owners. Where a peer and the kernel both have it, the kernel decides.
const fn value(owners: u8) -> Option<u32> {
    if owners & Owner::Kernel.bit() != 0 {
        Some(ROUTE_ELSEWHERE)
    } else if owners & Owner::Peer.bit() != 0 {
        Some(ROUTE_TO_PEER)
    } else {
        None
    }
}

const fn family(net: IpNet) -> usize {
    match net {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1,
    }
}

fn put<K: aya::Pod>(
    map: &mut LpmTrie<MapData, K, u32>,
    prefix_len: u8,
    address: K,
    value: Option<u32>,
) -> Result<(), MapError> {
    let key = Key::new(u32::from(prefix_len), address);
    match value {
        Some(value) => map.insert(&key, value, 0),
        None => absent_is_fine(map.remove(&key)),
    }
}
