//! Crypto-key routing: which peer an inner address belongs to, by longest prefix (paper, section 2).
//!
//! Enters: prefixes with their owners, and addresses. Leaves: owners. Never does: allocate on lookup. Owners are peers here;
//! whoever routes by other things takes [`Prefixes`] of those.

mod blocks;
mod key;
mod trie;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::PeerId;
use trie::Trie;

/// What prefixes belong to.
pub trait Owner: Copy + Eq + fmt::Debug {
    /// A small number of its own: the list of its prefixes is found by it.
    fn slot(self) -> usize;
}

impl Owner for PeerId {
    #[inline]
    fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Prefixes of both families, each owned by one peer.
pub type AllowedIps = Prefixes<PeerId>;

/// Prefixes of both families, each with one owner. Cloning is how a snapshot is made: it is done once
/// per change of configuration, never per packet.
#[derive(Debug, Clone)]
pub struct Prefixes<O> {
    v4: Trie<u32, O>,
    v6: Trie<u128, O>,
}

impl<O: Owner> Prefixes<O> {
    /// No prefix at all.
    #[must_use]
    pub const fn new() -> Self {
        Self { v4: Trie::new(), v6: Trie::new() }
    }

    /// Gives a prefix (its host bits are ignored) to an owner and returns the one that had it.
    pub fn insert(&mut self, net: IpNet, owner: O) -> Option<O> {
        match net {
            IpNet::V4(net) => self.v4.insert(net.addr().to_bits(), net.prefix_len(), owner),
            IpNet::V6(net) => self.v6.insert(net.addr().to_bits(), net.prefix_len(), owner),
        }
    }

    /// Takes a prefix from an owner; false when it is another's.
    pub fn remove(&mut self, net: IpNet, owner: O) -> bool {
        match net {
            IpNet::V4(net) => self.v4.remove(net.addr().to_bits(), net.prefix_len(), owner),
            IpNet::V6(net) => self.v6.remove(net.addr().to_bits(), net.prefix_len(), owner),
        }
    }

    /// Takes all prefixes from an owner.
    pub fn remove_owner(&mut self, owner: O) {
        while let Some((key, len)) = self.v4.first_of(owner) {
            self.v4.remove(key, len, owner);
        }
        while let Some((key, len)) = self.v6.first_of(owner) {
            self.v6.remove(key, len, owner);
        }
    }

    /// The owner of the longest prefix that holds the address.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<O> {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address),
            IpAddr::V6(address) => self.lookup_v6(address),
        }
    }

    /// [`Prefixes::lookup`] for IPv4.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, address: Ipv4Addr) -> Option<O> {
        self.v4.lookup(address.to_bits())
    }

    /// [`Prefixes::lookup`] for IPv6.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, address: Ipv6Addr) -> Option<O> {
        self.v6.lookup(address.to_bits())
    }

    /// The length of the longest prefix that holds the address.
    #[must_use]
    pub fn prefix_len(&self, address: IpAddr) -> Option<u8> {
        match address {
            IpAddr::V4(address) => self.v4.len_of(address.to_bits()),
            IpAddr::V6(address) => self.v6.len_of(address.to_bits()),
        }
    }

    /// The prefixes of an owner.
    pub fn of_owner(&self, owner: O) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.v4.of(owner).filter_map(|(key, len)| Ipv4Net::new(key.into(), len).ok().map(IpNet::V4));
        let v6 = self.v6.of(owner).filter_map(|(key, len)| Ipv6Net::new(key.into(), len).ok().map(IpNet::V6));
        v4.chain(v6)
    }

    /// How many prefixes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<O: Owner> Default for Prefixes<O> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn peer(slot: u32) -> PeerId {
        PeerId { slot, generation: 7 }
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_longest_prefix_owns_the_address() {
        let mut ips = AllowedIps::new();
        let nets = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "::/0", "fd00::/8"];
        for (i, text) in nets.iter().enumerate() {
            assert_eq!(ips.insert(net(text), peer(i as u32)), None);
        }
        let cases = [("9.9.9.9", 0), ("10.9.9.9", 1), ("10.1.9.9", 2), ("10.1.2.9", 3), ("10.1.2.3", 4)];
        for (text, owner) in cases {
            assert_eq!(ips.lookup(address(text)), Some(peer(owner)), "{text}");
        }
        assert_eq!(ips.lookup(address("2001:db8::1")), Some(peer(5)));
        assert_eq!(ips.lookup(address("fd12::1")), Some(peer(6)));
        assert!(ips.remove(net("0.0.0.0/0"), peer(0)));
        assert_eq!(ips.lookup(address("9.9.9.9")), None);
    }

    #[test]
    fn a_prefix_moves_between_peers_and_only_its_owner_gives_it_up() {
        let mut ips = AllowedIps::new();
        assert_eq!(ips.insert(net("192.168.4.77/24"), peer(1)), None);
        assert_eq!(ips.insert(net("192.168.4.0/24"), peer(2)), Some(peer(1)));
        assert_eq!(ips.of_owner(peer(1)).count(), 0);
        assert_eq!(ips.of_owner(peer(2)).collect::<Vec<_>>(), [net("192.168.4.0/24")]);
        assert!(!ips.remove(net("192.168.4.0/24"), peer(1)));
        assert!(!ips.remove(net("192.168.4.0/25"), peer(2)));
        assert!(ips.remove(net("192.168.4.9/24"), peer(2)));
        assert!(ips.is_empty());
        assert_eq!(ips.lookup(address("192.168.4.1")), None);
    }

    #[test]
    fn one_peer_holds_130_000_prefixes_and_gives_them_all_up() {
        let mut ips = AllowedIps::new();
        for i in 0..130_000_u32 {
            ips.insert(IpNet::V4(Ipv4Net::new((0x0a00_0000 + i).into(), 32).expect("length")), peer(0));
        }
        ips.insert(net("10.0.0.0/8"), peer(1));
        assert_eq!(ips.len(), 130_001);
        assert_eq!(ips.of_owner(peer(0)).count(), 130_000);
        assert_eq!(ips.lookup_v4(Ipv4Addr::from_bits(0x0a00_0000 + 129_999)), Some(peer(0)));
        ips.remove_owner(peer(0));
        assert_eq!(ips.len(), 1);
        assert_eq!(ips.lookup_v4(Ipv4Addr::from_bits(0x0a00_0000 + 129_999)), Some(peer(1)));
    }

    #[test]
    fn an_earlier_peer_of_a_slot_is_not_taken_for_its_successor() {
        let mut ips = AllowedIps::new();
        let successor = PeerId { slot: 1, generation: 8 };
        ips.insert(net("10.0.0.0/24"), peer(1));
        ips.insert(net("10.0.1.0/24"), successor);
        assert_eq!(ips.of_owner(peer(1)).collect::<Vec<_>>(), [net("10.0.0.0/24")]);
        ips.remove_owner(successor);
        assert_eq!(ips.lookup(address("10.0.0.1")), Some(peer(1)));
        assert_eq!(ips.lookup(address("10.0.1.1")), None);
    }

    /// Every prefix in a map; lookups try all lengths.
    #[derive(Default)]
    struct Naive(BTreeMap<IpNet, PeerId>);

    impl Naive {
        fn lookup(&self, address: IpAddr) -> Option<PeerId> {
            self.0.iter().filter(|(net, _)| net.contains(&address)).max_by_key(|(n, _)| n.prefix_len()).map(|(_, p)| *p)
        }
    }

    impl Naive {
        fn prefix_len(&self, address: IpAddr) -> Option<u8> {
            self.0.keys().filter(|net| net.contains(&address)).map(IpNet::prefix_len).max()
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Insert(IpNet, u32),
        Remove(IpNet, u32),
        RemovePeer(u32),
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        // Few distinct bits, so that prefixes nest and collide.
        prop_oneof![
            (0_u32..4, 0_u32..4, 0_u32..8).prop_map(|(a, b, c)| IpAddr::V4((a << 30 | b << 15 | c).into())),
            (0_u128..4, 0_u128..4, 0_u128..8).prop_map(|(a, b, c)| IpAddr::V6((a << 126 | b << 63 | c).into())),
            // Or close together, so that nodes have many children.
            (0_u32..4096).prop_map(|a| IpAddr::V4((a << 9).into())),
            (0_u128..4096).prop_map(|a| IpAddr::V6((a << 61).into())),
        ]
    }

    fn nets() -> impl Strategy<Value = IpNet> {
        (addresses(), 0_u8..=128).prop_map(|(address, len)| {
            let len = if address.is_ipv4() { len % 33 } else { len };
            IpNet::new(address, len).expect("a length of its family")
        })
    }

    proptest! {
        #[test]
        fn the_trie_agrees_with_a_naive_router(
            ops in proptest::collection::vec(prop_oneof![
                12 => (nets(), 0_u32..5).prop_map(|(n, p)| Op::Insert(n, p)),
                8 => (nets(), 0_u32..5).prop_map(|(n, p)| Op::Remove(n, p)),
                1 => (0_u32..5).prop_map(Op::RemovePeer),
            ], 1..250),
            asked in proptest::collection::vec(addresses(), 40),
        ) {
            let (mut ips, mut naive) = (AllowedIps::new(), Naive::default());
            for op in ops {
                match op {
                    Op::Insert(net, p) => {
                        prop_assert_eq!(ips.insert(net, peer(p)), naive.0.insert(net.trunc(), peer(p)));
                    }
                    Op::Remove(net, p) => {
                        let owned = naive.0.get(&net.trunc()) == Some(&peer(p));
                        prop_assert_eq!(ips.remove(net, peer(p)), owned);
                        if owned {
                            naive.0.remove(&net.trunc());
                        }
                    }
                    Op::RemovePeer(p) => {
                        ips.remove_owner(peer(p));
                        naive.0.retain(|_, owner| *owner != peer(p));
                    }
                }
                prop_assert_eq!(ips.len(), naive.0.len());
            }
            for address in asked {
                prop_assert_eq!(ips.lookup(address), naive.lookup(address), "{}", address);
                prop_assert_eq!(ips.prefix_len(address), naive.prefix_len(address), "{}", address);
            }
            for p in 0..5 {
                let mut owned: Vec<IpNet> = ips.of_owner(peer(p)).collect();
                owned.sort();
                let expected: Vec<IpNet> = naive.0.iter().filter(|(_, o)| **o == peer(p)).map(|(n, _)| *n).collect();
                prop_assert_eq!(owned, expected);
            }
            for p in 0..5 {
                ips.remove_owner(peer(p));
            }
            prop_assert!(ips.is_empty());
        }
    }
}
