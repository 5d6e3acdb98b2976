//! The routes by which packets of a lan are taken or left.
//!
//! Enters: networks that peers have (their allowed IPs) and networks that the kernel routes elsewhere. Leaves:
//! the maps in which the program finds the longest of them. Never does: rewrite what is there already: a
//! change costs the kernel as much as it changes.

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

/// Where routes are kept for the program.
pub(super) trait Table {
    /// Sets the value of a network, or removes it.
    fn put(&mut self, net: IpNet, value: Option<u32>) -> Result<(), MapError>;
}

/// The maps: at most two nodes of 64 bytes for each route.
pub(super) struct Tries {
    pub(super) v4: LpmTrie<MapData, [u8; 4], u32>,
    pub(super) v6: LpmTrie<MapData, [u8; 16], u32>,
}

impl Table for Tries {
    fn put(&mut self, net: IpNet, value: Option<u32>) -> Result<(), MapError> {
        fn put<K: aya::Pod>(
            map: &mut LpmTrie<MapData, K, u32>,
            key: &Key<K>,
            value: Option<u32>,
        ) -> Result<(), MapError> {
            match value {
                Some(value) => map.insert(key, value, 0),
                None => absent_is_fine(map.remove(key)),
            }
        }
        let len = u32::from(net.prefix_len());
        match net.addr() {
            IpAddr::V4(address) => put(&mut self.v4, &Key::new(len, address.octets()), value),
            IpAddr::V6(address) => put(&mut self.v6, &Key::new(len, address.octets()), value),
        }
    }
}

/// The routes, and what the table holds of them: this process alone writes it.
pub(super) struct Routes<T> {
    table: T,
    /// The owners of every network that is in the table.
    present: BTreeMap<IpNet, u8>,
    /// How many of them are IPv4, and how many IPv6.
    count: [usize; 2],
    /// Networks of the kernel are missing: what peers have is not the whole truth.
    incomplete: bool,
}

impl<T: Table> Routes<T> {
    pub(super) const fn new(table: T) -> Self {
        Self { table, present: BTreeMap::new(), count: [0; 2], incomplete: false }
    }

    pub(super) fn len(&self) -> usize {
        self.present.len()
    }

    /// Whether every network of the kernel is known. Where one is missing, a peer's wider one would take what is not its.
    pub(super) const fn is_complete(&self) -> bool {
        !self.incomplete
    }

    /// Makes these the networks of an owner. What is added comes before what is removed, so that a packet for a network
    /// that stays never goes another way in between; when one is refused, the others are set all the same.
    pub(super) fn set(&mut self, owner: Owner, nets: &BTreeSet<IpNet>) -> Result<(), SteerError> {
        // Networks by their own address: the allowed IPs 10.0.0.1/8 and 10.0.0.0/8 are one.
        if nets.iter().any(|net| net.trunc() != *net) {
            return self.set(owner, &nets.iter().map(IpNet::trunc).collect());
        }
        let (missing, gone) = self.difference(owner, nets);
        let mut outcome = Ok(());
        let mut room = self.room(owner, &gone);
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
            outcome = outcome.and(self.change(net, |owners| owners | owner.bit()));
        }
        for net in gone {
            outcome = outcome.and(self.change(net, |owners| owners & !owner.bit()));
        }
        if refused != 0 {
            outcome = Err(SteerError::TooManyRoutes { refused, limit: common::ROUTES_PER_FAMILY });
        }
        if owner == Owner::Kernel {
            self.incomplete = outcome.is_err();
        }
        outcome
    }

    /// Adds one network of an owner.
    pub(super) fn insert(&mut self, owner: Owner, net: IpNet) -> Result<(), SteerError> {
        let net = net.trunc();
        if !self.present.contains_key(&net) && self.room(owner, &[])[family(net)] == 0 {
            return Err(SteerError::TooManyRoutes { refused: 1, limit: common::ROUTES_PER_FAMILY });
        }
        self.change(net, |owners| owners | owner.bit())
    }

    /// Removes one network of an owner; one that is not there is fine.
    pub(super) fn remove(&mut self, owner: Owner, net: IpNet) -> Result<(), SteerError> {
        self.change(net.trunc(), |owners| owners & !owner.bit())
    }

    /// What an owner gets and what it loses: both lists are sorted, so one look at each element is enough.
    fn difference(&self, owner: Owner, nets: &BTreeSet<IpNet>) -> (Vec<IpNet>, Vec<IpNet>) {
        let (mut missing, mut gone) = (Vec::new(), Vec::new());
        let owned = |(net, owners): (&IpNet, &u8)| (owners & owner.bit() != 0).then_some(*net);
        let mut present = self.present.iter().filter_map(owned).peekable();
        for net in nets {
            while let Some(before) = present.next_if(|before| before < net) {
                gone.push(before);
            }
            if present.next_if_eq(net).is_none() {
                missing.push(*net);
            }
        }
        gone.extend(present);
        (missing, gone)
    }

    /// How many networks of each family may be added, once those that go are gone.
    fn room(&self, owner: Owner, gone: &[IpNet]) -> [usize; 2] {
        let mut count = self.count;
        for net in gone {
            if self.present.get(net) == Some(&owner.bit()) {
                count[family(*net)] -= 1;
            }
        }
        count.map(|count| (common::ROUTES_PER_FAMILY as usize).saturating_sub(count))
    }

    /// Brings a network from one set of owners to another.
    fn change(&mut self, net: IpNet, owners: impl Fn(u8) -> u8) -> Result<(), SteerError> {
        let before = self.present.get(&net).copied().unwrap_or(0);
        let after = owners(before);
        if value(before) != value(after) {
            self.table.put(net, value(after)).map_err(error::map("a route"))?;
        }
        let count = &mut self.count[family(net)];
        if after == 0 {
            *count -= usize::from(self.present.remove(&net).is_some());
        } else {
            *count += usize::from(self.present.insert(net, after).is_none());
        }
        Ok(())
    }
}

/// What the table holds of a network with these owners. Where a peer and the kernel both have it, the kernel decides.
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Remembers what it was told, in order; refuses one network.
    #[derive(Default)]
    struct Told {
        puts: Vec<(IpNet, Option<u32>)>,
        refuses: Option<IpNet>,
    }

    impl Table for Told {
        fn put(&mut self, net: IpNet, value: Option<u32>) -> Result<(), MapError> {
            if self.refuses == Some(net) {
                return Err(MapError::ElementNotFound);
            }
            self.puts.push((net, value));
            Ok(())
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn nth(n: u32) -> IpNet {
        IpNet::new(Ipv4Addr::from(n << 8).into(), 24).expect("a network")
    }

    fn told(routes: &mut Routes<Told>) -> Vec<(IpNet, Option<u32>)> {
        std::mem::take(&mut routes.table.puts)
    }

    const PEER: Option<u32> = Some(ROUTE_TO_PEER);
    const ELSEWHERE: Option<u32> = Some(ROUTE_ELSEWHERE);

    #[test]
    fn one_change_among_a_hundred_thousand_is_one_write() {
        let mut routes = Routes::new(Told::default());
        let mut all: BTreeSet<IpNet> = (0..100_000).map(nth).collect();
        routes.set(Owner::Peer, &all).expect("they fit");
        assert_eq!(told(&mut routes).len(), 100_000);
        routes.set(Owner::Peer, &all).expect("they are there");
        assert_eq!(told(&mut routes), []);
        all.insert(net("fd00::/8"));
        routes.set(Owner::Peer, &all).expect("one more fits");
        assert_eq!(told(&mut routes), [(net("fd00::/8"), PEER)]);
        all.remove(&nth(5));
        routes.set(Owner::Peer, &all).expect("one less fits");
        assert_eq!(told(&mut routes), [(nth(5), None)]);
        routes.insert(Owner::Peer, nth(7)).expect("it is there");
        routes.remove(Owner::Peer, nth(5)).expect("it is gone");
        assert_eq!(told(&mut routes), []);
    }

    #[test]
    fn what_is_added_comes_before_what_is_removed() {
        let mut routes = Routes::new(Told::default());
        routes.set(Owner::Peer, &[nth(1), nth(9)].into()).expect("set");
        told(&mut routes);
        routes.set(Owner::Peer, &[nth(5), nth(9), nth(12)].into()).expect("set");
        assert_eq!(told(&mut routes), [(nth(5), PEER), (nth(12), PEER), (nth(1), None)]);
    }

    #[test]
    fn the_kernel_goes_before_a_peer_that_has_the_same_network() {
        let mut routes = Routes::new(Told::default());
        routes.set(Owner::Peer, &[nth(1)].into()).expect("set");
        routes.set(Owner::Kernel, &[nth(1), nth(2)].into()).expect("set");
        routes.set(Owner::Peer, &[nth(1), nth(2)].into()).expect("set");
        assert_eq!(told(&mut routes), [(nth(1), PEER), (nth(1), ELSEWHERE), (nth(2), ELSEWHERE)]);
        routes.set(Owner::Kernel, &[].into()).expect("set");
        assert_eq!(told(&mut routes), [(nth(1), PEER), (nth(2), PEER)]);
        assert_eq!((routes.len(), routes.count), (2, [2, 0]));
        routes.set(Owner::Peer, &[].into()).expect("set");
        assert_eq!((routes.len(), routes.count), (0, [0, 0]));
    }

    #[test]
    fn a_refused_route_is_told_and_tried_again_with_the_next_change() {
        let mut routes = Routes::new(Told { refuses: Some(nth(2)), ..Told::default() });
        let nets = [nth(1), nth(2), nth(3)].into();
        routes.set(Owner::Peer, &nets).expect_err("one is refused");
        assert_eq!(told(&mut routes), [(nth(1), PEER), (nth(3), PEER)]);
        routes.table.refuses = None;
        routes.set(Owner::Peer, &nets).expect("all are set");
        assert_eq!(told(&mut routes), [(nth(2), PEER)]);
    }

    #[test]
    fn the_routes_are_incomplete_while_one_of_the_kernel_is_missing() {
        let mut routes = Routes::new(Told { refuses: Some(nth(2)), ..Told::default() });
        routes.set(Owner::Peer, &[nth(2)].into()).expect_err("refused");
        assert!(routes.is_complete(), "a missing route to a peer leads nothing astray");
        routes.set(Owner::Kernel, &[nth(1), nth(2)].into()).expect_err("refused");
        assert!(!routes.is_complete());
        routes.set(Owner::Kernel, &[nth(1)].into()).expect("set");
        assert!(routes.is_complete());
        routes
            .set(Owner::Kernel, &(0..=common::ROUTES_PER_FAMILY).map(|n| nth(n + 3)).collect())
            .expect_err("too many");
        assert!(!routes.is_complete());
    }

    #[test]
    fn networks_beyond_the_limit_are_left_out_and_counted() {
        let mut routes = Routes::new(Told::default());
        let limit = common::ROUTES_PER_FAMILY;
        routes.set(Owner::Kernel, &(0..limit - 1).map(nth).collect()).expect("they fit");
        let error = routes.set(Owner::Peer, &(limit - 2..limit + 2).map(nth).collect()).expect_err("two too many");
        assert!(matches!(error, SteerError::TooManyRoutes { refused: 2, .. }), "{error}");
        assert_eq!(routes.count, [limit as usize, 0]);
        routes.set(Owner::Kernel, &[].into()).expect("removed");
        routes.set(Owner::Peer, &(limit - 2..limit + 2).map(nth).collect()).expect("there is room");
        assert_eq!(routes.count, [4, 0]);
    }
}
