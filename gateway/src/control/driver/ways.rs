//! The peers' paths: found when a peer is somewhere else, doubted when the kernel changed, kept warm while in use.
//!
//! Enters: peers' endpoints, news of the kernel. Leaves: paths in the next snapshot. Never does: find more of them again at
//! once than the handshakes behind them can wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use landbridge_proto::{NatConfig, PeerId};

use super::super::paths::{self, Network};
use super::Driver;

/// Paths found again at once, so that handshakes do not wait for 65,536 of them.
const PATHS_AT_ONCE: usize = 256;
/// The largest outer packets that paths are searched for: jumbo frames.
const MTU_SEARCHED: u16 = 9000;

impl<N: Network> Driver<N> {
    /// Every path may have changed.
    pub fn doubt_paths(&mut self) {
        self.stale.extend(self.peers.iter().filter(|(_, state)| state.endpoint.is_some()).map(|(id, _)| *id));
    }

    /// A peer's path may have changed.
    pub fn doubt_path(&mut self, peer: PeerId) {
        self.stale.insert(peer);
    }

    /// Neighbours may have changed: only paths whose next hop has another Ethernet address than they use are doubted, as
    /// the kernel tells of every state that any neighbour passes through.
    pub fn doubt_next_hops(&mut self) {
        let mut resolved = BTreeMap::new();
        let Self { peers, network, stale, .. } = self;
        for (id, state) in peers.iter() {
            let Some(way) = &state.way else { continue };
            let Some(hop) = way.next_hop else { continue };
            let mac = *resolved.entry(hop).or_insert_with(|| network.neighbour(hop.0, hop.1));
            let wire = way.path.as_ref().and_then(|path| path.wire.as_ref());
            if mac.as_ref().map(|mac| &mac[..]) != wire.and_then(|wire| wire.ethernet.get(..6)) {
                stale.insert(*id);
            }
        }
    }

    /// Whether paths wait to be found again.
    #[must_use]
    pub fn has_doubts(&self) -> bool {
        !self.stale.is_empty()
    }

    /// A peer is here: its path is found at once.
    pub fn locate(&mut self, peer: PeerId, remote: SocketAddr, local: Option<IpAddr>) {
        self.adopt(peer).endpoint = Some((remote, local));
        self.find_path(peer);
    }

    /// Finds paths again that may have changed, a bounded number.
    pub fn find_paths(&mut self) {
        for _ in 0..PATHS_AT_ONCE {
            let Some(peer) = self.stale.pop_first() else { break };
            self.find_path(peer);
        }
    }

    fn find_path(&mut self, peer: PeerId) {
        self.stale.remove(&peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some((remote, local)) = state.endpoint else { return };
        let mut way = paths::find(&mut self.network, &self.ground, remote, local);
        if self.endpoint.has_uplinks_to(peer) {
            let preferred = paths::uplinks::preferred(&mut self.network, &self.ground, remote);
            self.endpoint.prefer_local(peer, preferred);
        }
        if let Some(path) = &mut way.path {
            path.slot = self.sprays.slot_of(peer, remote);
        }
        if state.way.as_ref() == Some(&way) {
            return;
        }
        if way.path.is_none() {
            tracing::warn!(peer = state.name.as_deref().unwrap_or("unnamed"), "{}", way.text);
        } else {
            tracing::debug!(peer = peer.slot, %remote, path = way.text, "path");
        }
        let path = way.path.clone().map(Arc::new);
        let mtu = way.mtu;
        state.way = Some(way);
        self.change_entry(peer, |entry| entry.path = path);
        self.widen_search(mtu);
    }

    /// A wan interface takes larger packets than any before: paths may carry them.
    fn widen_search(&mut self, mtu: u32) {
        let config = self.endpoint.nat_config();
        let mtu_max = u16::try_from(mtu).unwrap_or(u16::MAX).min(MTU_SEARCHED);
        if mtu_max > config.mtu_max {
            self.endpoint.set_nat_config(Instant::now(), NatConfig { mtu_max, ..config });
        }
    }

    /// Keeps the next hops of paths in use resolved: rings do not tell the kernel that a neighbour is used.
    pub fn refresh_neighbours(&mut self) {
        let hops: BTreeSet<_> = self.peers.values().filter_map(|state| state.way.as_ref()?.next_hop).collect();
        for (if_index, address) in hops.into_iter().take(PATHS_AT_ONCE) {
            self.network.use_neighbour(if_index, address);
        }
    }

    /// The smallest MTU among the ways to the peers.
    #[must_use]
    pub fn path_mtu(&self) -> Option<u32> {
        self.peers.values().filter_map(|state| state.way.as_ref().map(|way| way.mtu)).filter(|mtu| *mtu > 0).min()
    }
}
