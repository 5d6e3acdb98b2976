//! What the kernel would do with packets of the lan, made into tables for the lanes and the steering program.
//!
//! 1. The routes of the main table (and the default routes of a tunnel's own table), shortest prefix first. Those by a lan
//!    interface with rings lead to hops; all others matter only where they lie inside such a route, and then say "kernel".
//! 2. Likewise for the way out: routes into the tunnel are what the program takes, others inside them what it leaves.
//! 3. Resolved neighbours that a route calls directly connected become hops, and so do gateways.
//! 4. Hops that lanes have used are kept fresh in the kernel, which does not see their packets.
//!
//! Enters: routes, neighbours, interfaces, addresses, as the kernel has them. Leaves: a [`LanTable`], networks for the
//! program. Never does: know better: what it cannot follow is the kernel's, and everything is where there are policy rules
//! that it cannot follow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use ipnet::IpNet;
use landbridge_proto::Prefixes;

use super::lan::Port;
use super::netlink::neighbours::Neighbour;
use super::netlink::routes::{TableRoute, Via};
use super::netlink::rules::Lookup;
use crate::datapath::lan_table::{HopId, LanTable, NextHop};
use crate::datapath::tables::Table;

/// Routes that lanes look up at most; with more, all of them are the kernel's.
pub const ROUTES_MAX: usize = 131_072;
/// Neighbours that lanes send to at most; packets to others are the kernel's.
pub const NEIGHBOURS_MAX: usize = 16_384;
/// Neighbours kept fresh at once.
const REFRESHED_AT_ONCE: usize = 256;
/// The main table.
const MAIN: u32 = 254;

/// A lan interface as it is at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its index, which routes and neighbours name.
    pub link: u32,
    /// The interface with the rings.
    pub if_index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its VLAN.
    pub vlan: Option<u16>,
    /// The largest IP packet that it takes.
    pub mtu: u32,
}

impl Exit {
    /// A port of this address and MTU.
    #[must_use]
    pub fn new(port: &Port, mac: [u8; 6], mtu: u32) -> Self {
        Self { link: port.link, if_index: port.ringed.index, mac, vlan: port.vlan, mtu }
    }
}

/// What a prefix leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Kernel,
    /// The destination is a neighbour there.
    Direct {
        link: u32,
        mtu: Option<u32>,
    },
    Gateway {
        link: u32,
        address: IpAddr,
        mtu: Option<u32>,
    },
}

/// What is known of the kernel's routing, for the lan.
#[derive(Debug, Default)]
pub struct Forwarding {
    exits: Vec<Exit>,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    addresses: BTreeSet<IpAddr>,
    /// By the numbers of [`Forwarding::trie`]; the first is [`Target::Kernel`].
    targets: Vec<Target>,
    trie: Arc<Prefixes<HopId>>,
    /// The hops of the last table, by what they are.
    hops: BTreeMap<(u32, IpAddr, u32), Arc<NextHop>>,
    /// Routes and neighbours that were left out.
    left_out: (usize, usize),
}

/// Networks for the steering program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Behind peers.
    pub tunnel: BTreeSet<IpNet>,
    /// Inside those, but routed elsewhere.
    pub elsewhere: BTreeSet<IpNet>,
}

/// A family's rules and all families' routes as they were read.
#[derive(Debug, Clone, Default)]
pub struct Routed {
    /// All routes.
    pub routes: Vec<TableRoute>,
    /// The rules of IPv4; `None` where they cannot be followed.
    pub rules_v4: Option<Lookup>,
    /// The same of IPv6.
    pub rules_v6: Option<Lookup>,
    /// The tunnel interface.
    pub tunnel: Option<u32>,
}

impl Routed {
    /// The route of each network that a forwarded packet would find, shortest first.
    fn effective(&self) -> Vec<(IpNet, Via)> {
        let mut best: BTreeMap<(u8, IpNet), (u32, Via)> = BTreeMap::new();
        for route in &self.routes {
            let rules = if route.net.addr().is_ipv4() { self.rules_v4 } else { self.rules_v6 };
            let Some(rules) = rules else { continue };
            let is_default = route.net.prefix_len() == 0;
            // With a default route of the tunnel's own, that of the main table is asked last and never reached.
            let looked_up = match (is_default, rules.defaults) {
                (true, Some(table)) => route.table == table,
                (true, None) if rules.main_without_default => false,
                _ => route.table == MAIN,
            };
            if !looked_up {
                continue;
            }
            let key = (route.net.prefix_len(), route.net.trunc());
            let entry = best.entry(key).or_insert((route.metric, route.via));
            match route.metric.cmp(&entry.0) {
                std::cmp::Ordering::Less => *entry = (route.metric, route.via),
                // Two next hops with equal rights: the kernel chooses among them.
                std::cmp::Ordering::Equal if entry.1 != route.via => entry.1 = Via::Kernel,
                _ => {}
            }
        }
        best.into_iter().map(|((_, net), (_, via))| (net, via)).collect()
    }

    /// What the steering program takes and leaves.
    #[must_use]
    pub fn taken(&self) -> Taken {
        let (mut taken, mut covered) = (Taken::default(), Prefixes::new());
        let (tunnel, elsewhere) = (HopId(0), HopId(1));
        for (net, via) in self.effective() {
            let into_tunnel = matches!(via, Via::Link { if_index, .. } if Some(if_index) == self.tunnel);
            let around = covered.lookup(net.addr());
            if into_tunnel {
                taken.tunnel.insert(net);
                covered.insert(net, tunnel);
            } else if around == Some(tunnel) {
                taken.elsewhere.insert(net);
                covered.insert(net, elsewhere);
            }
        }
        taken
    }
}

impl Forwarding {
    /// Takes routes over.
    pub fn set_routes(&mut self, routed: &Routed) {
        let mut targets = vec![Target::Kernel];
        let mut numbers: BTreeMap<Target, HopId> = BTreeMap::from([(Target::Kernel, HopId::KERNEL)]);
        let mut trie = Prefixes::new();
        let mut refused = 0;
        for (net, via) in routed.effective() {
            let target = self.target(via);
            if target == Target::Kernel && trie.lookup(net.addr()).is_none_or(|around| around == HopId::KERNEL) {
                continue;
            }
            if trie.len() >= ROUTES_MAX {
                refused += 1;
                continue;
            }
            let number = *numbers.entry(target).or_insert_with(|| {
                targets.push(target);
                HopId(targets.len() as u32 - 1)
            });
            trie.insert(net, number);
        }
        if refused > 0 {
            // A route left out may have been the exception to one that is in: then all are the kernel's.
            (trie, targets) = (Prefixes::new(), vec![Target::Kernel]);
        }
        self.left_out.0 = refused;
        (self.trie, self.targets) = (Arc::new(trie), targets);
    }

    /// Takes the lan interfaces with rings over; routes have to follow. True when they differ from those before.
    pub fn set_exits(&mut self, exits: Vec<Exit>) -> bool {
        let differ = self.exits != exits;
        self.exits = exits;
        differ
    }

    /// Takes all neighbours over.
    pub fn set_neighbours(&mut self, neighbours: Vec<Neighbour>) {
        let ours = |neighbour: &Neighbour| self.exits.iter().any(|exit| exit.link == neighbour.if_index);
        let keyed = neighbours.into_iter().filter(ours).map(|found| ((found.if_index, found.address), found));
        self.neighbours = keyed.collect();
    }

    /// Takes our own addresses over.
    pub fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.addresses = addresses;
    }

    /// The table for the lanes. Hops that are as they were stay the same, with their marks.
    pub fn table(&mut self) -> LanTable {
        let mut single = Prefixes::new();
        let mut hops = Table::new();
        let mut kept = BTreeMap::new();
        for (number, target) in self.targets.iter().enumerate() {
            if let Target::Gateway { link, address, mtu } = *target
                && let Some(hop) = self.hop(link, address, mtu, &mut kept)
            {
                hops.set(number, Some(hop));
            }
        }
        let mut next = self.targets.len();
        let (mut inserted, mut left_out) = (0, 0);
        for (link, address) in self.neighbours.keys().copied() {
            let Some(number) = self.trie.lookup(address) else { continue };
            let Some(Target::Direct { link: routed, mtu }) = self.targets.get(number.0 as usize).copied() else {
                continue;
            };
            if routed != link {
                continue;
            }
            if inserted >= NEIGHBOURS_MAX {
                left_out += 1;
                continue;
            }
            if let Some(hop) = self.hop(link, address, mtu, &mut kept) {
                hops.set(next, Some(hop));
                single.insert(IpNet::from(address), HopId(next as u32));
                (next, inserted) = (next + 1, inserted + 1);
            }
        }
        for address in &self.addresses {
            single.insert(IpNet::from(*address), HopId::KERNEL);
        }
        self.left_out.1 = left_out;
        self.hops = kept;
        LanTable { routes: Arc::clone(&self.trie), neighbours: Arc::new(single), hops }
    }

    /// Hops that lanes used lately and whose neighbour the kernel holds for stale; they are to be asked.
    pub fn to_refresh(&self) -> Vec<(u32, IpAddr)> {
        let mut asked = Vec::new();
        for ((link, address, _), hop) in &self.hops {
            if asked.len() == REFRESHED_AT_ONCE {
                break;
            }
            if self.neighbours.get(&(*link, *address)).is_some_and(|found| found.stale)
                && hop.used.swap(false, Ordering::Relaxed)
            {
                asked.push((*link, *address));
            }
        }
        asked
    }

    /// How many routes and hops there are, and how many were left out, for people.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (routes_left_out, neighbours_left_out) = self.left_out;
        Counts { routes: self.trie.len(), hops: self.hops.len(), routes_left_out, neighbours_left_out }
    }

    fn target(&self, via: Via) -> Target {
        match via {
            Via::Link { if_index, gateway, mtu } if self.exits.iter().any(|exit| exit.link == if_index) => {
                match gateway {
                    Some(address) => Target::Gateway { link: if_index, address, mtu },
                    None => Target::Direct { link: if_index, mtu },
                }
            }
            Via::Link { .. } | Via::Kernel => Target::Kernel,
        }
    }

    fn hop(
        &self,
        link: u32,
        address: IpAddr,
        mtu: Option<u32>,
        kept: &mut BTreeMap<(u32, IpAddr, u32), Arc<NextHop>>,
    ) -> Option<Arc<NextHop>> {
        let neighbour = self.neighbours.get(&(link, address))?;
        let exit = self.exits.iter().find(|exit| exit.link == link)?;
        let mtu = mtu.map_or(exit.mtu, |mtu| mtu.min(exit.mtu));
        let ethernet = ethernet(neighbour.mac, exit);
        let key = (link, address, mtu);
        let before = kept.get(&key).or_else(|| self.hops.get(&key));
        let hop = match before.filter(|hop| hop.ethernet == ethernet && hop.if_index == exit.if_index) {
            Some(hop) => Arc::clone(hop),
            None => Arc::new(NextHop { if_index: exit.if_index, ethernet, mtu, used: AtomicBool::new(false) }),
        };
        kept.insert(key, Arc::clone(&hop));
        Some(hop)
    }
}

/// Sizes of what the lanes look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Routes.
    pub routes: usize,
    /// Resolved next hops.
    pub hops: usize,
    /// Routes beyond [`ROUTES_MAX`].
    pub routes_left_out: usize,
    /// Neighbours beyond [`NEIGHBOURS_MAX`].
    pub neighbours_left_out: usize,
}

fn ethernet(destination: [u8; 6], exit: &Exit) -> ArrayVec<u8, 22> {
    let mut header = ArrayVec::new();
    header.extend(destination);
    header.extend(exit.mac);
    if let Some(vlan) = exit.vlan {
        header.extend(0x8100_u16.to_be_bytes());
        header.extend(vlan.to_be_bytes());
    }
    header
}

#[cfg(test)]
mod tests;
