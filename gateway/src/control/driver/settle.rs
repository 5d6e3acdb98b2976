//! Taking what the endpoint decided into the world.
//!
//! Enters: the endpoint's events and transmits. Leaves: the next snapshot, sessions for the steering program, commands to
//! lanes, datagrams. Never does: send before the snapshot that the answer needs is published.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use landbridge_proto::{DropReason, Event, PathReason, PathView, PeerId, Tier, Transmit, WallClock};

use super::super::paths::uplinks::Uplink;
use super::super::paths::{self, Network};
use super::Driver;
use crate::datapath::report::Command;
use crate::datapath::tables::{MTU_UNKNOWN, Path, PeerEntry};
use crate::datapath::transport::TRANSPORT_DATA;
use crate::nat::kind::Observation;
use crate::settings::PublicKey;

/// Peers that are heard on where they see us: few of them tell as much as all.
const OBSERVERS_MAX: usize = 16;

impl<N: Network> Driver<N> {
    /// Takes what the endpoint decided into the world. Called after every batch of inputs.
    pub fn settle(&mut self, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.tried = None;
        loop {
            while let Some(event) = self.endpoint.poll_event() {
                self.take(event);
            }
            self.publish();
            let wall = WallClock(SystemTime::now());
            let mut sent = false;
            while let Some(transmit) = self.endpoint.poll_transmit(now, wall, &mut buffer) {
                sent = true;
                self.send(&transmit, &buffer[..transmit.len]);
            }
            if !sent {
                break;
            }
        }
        self.buffer = buffer;
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::SessionStarted { session, current } => {
                // Packets that reach the rings before the snapshot would be dropped there, so the program is told in the
                // same batch, before the peer can have heard of the session.
                if let Some(steer) = &mut self.steer
                    && let Err(error) = steer.insert_session(session.local_index)
                {
                    tracing::warn!(%error, "packets of a session will come by the kernel's socket");
                }
                self.tables.sessions.set(session.local_index.slot(), Some(Arc::clone(&session)));
                self.dirty = true;
                if current {
                    self.change_entry(session.peer, |entry| entry.session = Some(session));
                }
            }
            Event::SessionCurrent { session } => {
                self.change_entry(session.peer, |entry| entry.session = Some(session));
            }
            Event::SessionEnded { peer, index, was_current } => {
                if self.tables.session(index).is_some() {
                    self.tables.sessions.set(index.slot(), None);
                    self.dirty = true;
                }
                self.ended.push(index);
                if was_current {
                    self.change_entry(peer, |entry| entry.session = None);
                }
            }
            Event::EndpointChanged { peer, remote, local } => {
                self.locate(peer, remote, local);
            }
            Event::SpreadChanged { peer, spread } => {
                let ports = spread.as_ref().map_or(1, |spread| spread.slots().len());
                tracing::debug!(peer = peer.slot, ports, "source ports in use");
                self.change_entry(peer, |entry| entry.spread = spread);
            }
            Event::AlternatesChanged { peer, alternates } => {
                self.change_entry(peer, |entry| entry.alternates = alternates);
            }
            Event::HandshakeGivenUp { peer } => {
                tracing::debug!(peer = peer.slot, "handshake given up");
                self.tell_lanes(|| Command::Abandon(peer));
                self.want_name(peer);
            }
            Event::HandshakeRetried { peer, .. } => self.want_name(peer),
            Event::PathChanged { peer, path, was, reason } => self.tell_of_path(peer, &path, was, reason),
            Event::Observed { peer, by, observed } => {
                self.note_observed(peer, Observation { observer: by, mapped: observed })
            }
            Event::PathMtuChanged { peer, mtu } => {
                tracing::debug!(peer = peer.slot, ?mtu, "path MTU");
                self.change_entry(peer, |entry| entry.mtu = mtu.map_or(MTU_UNKNOWN, u32::from));
            }
            Event::SprayWanted { peer, remote, sockets } => self.begin_spray(peer, remote, sockets, Instant::now()),
            Event::SprayEnded { peer, keep } => self.end_spray(peer, keep),
            Event::RelayAllocate { allocation, a, b } => self.relay_allocate(allocation, [a, b]),
            Event::RelayBound { allocation, end, remote, local } => self.relay_bound(allocation, end, remote, local),
            Event::RelayFreed { allocation } => self.relay_freed(allocation),
            Event::PeerRemoved { peer } => {
                for beside in [false, true] {
                    self.observations.remove(&(peer, beside));
                }
                self.forget_sprays_of(peer);
                self.peers.remove(&peer);
                self.stale.remove(&peer);
                self.unresolved.remove(&peer);
                if self.tables.peer(peer).is_some() {
                    self.tables.peers.set(peer.slot as usize, None);
                    self.dirty = true;
                }
                self.tell_lanes(|| Command::Abandon(peer));
            }
        }
    }

    fn tell_of_path(&mut self, peer: PeerId, path: &PathView, was: Option<Tier>, reason: PathReason) {
        *self.path_changes.entry(reason).or_default() += 1;
        if self.endpoint.has_uplinks_to(peer) {
            // Which of them the routes to this place prefer is to be found out.
            self.doubt_path(peer);
        }
        let name = match self.peers.get(&peer).and_then(|state| state.name.clone()) {
            Some(name) => name,
            None => self.endpoint.peer(peer).map_or_else(String::new, |view| PublicKey(view.public_key).to_string()),
        };
        let was = was.map_or_else(String::new, |was| format!(" (was {was})"));
        let rtt = path.rtt.map_or_else(String::new, |rtt| format!(", {:.1} ms", rtt.as_secs_f64() * 1000.0));
        // Without addresses: a log that is kept must not tell where somebody was.
        tracing::info!("peer {name}: {}{was}: {reason}{rtt}", path.tier);
    }

    /// Where a peer saw us. Of one that keeps saying the same nothing follows.
    fn note_observed(&mut self, peer: PeerId, seen: Observation) {
        // A relay sees us at the port that it gave us as well as at its own.
        let endpoint = self.peer(peer).and_then(|state| state.endpoint);
        let place = (peer, endpoint.is_some_and(|(endpoint, _)| endpoint != seen.observer));
        let known = self.observations.get(&place) == Some(&seen);
        if !known && (self.observations.len() < OBSERVERS_MAX || self.observations.contains_key(&place)) {
            self.observations.insert(place, seen);
            self.observed_more = true;
        }
    }

    /// The uplink to a place that is being tried, asked for once in a batch whatever the port; `None` when it is refused.
    fn try_out(&mut self, remote: SocketAddr, local: Option<IpAddr>) -> Option<Uplink> {
        let mut host = remote;
        host.set_port(0);
        if let Some((place, found)) = self.tried
            && place == (host, local)
        {
            return found;
        }
        let way = paths::find(&mut self.network, &self.ground, remote, local);
        let found = way.path.map(|path| Uplink { local: path.local, if_index: path.if_index });
        self.tried = Some(((host, local), found));
        found
    }

    fn want_name(&mut self, peer: PeerId) {
        if self.peers.get(&peer).is_some_and(|state| state.host.is_some()) {
            self.unresolved.insert(peer);
        }
    }

    pub(super) fn change_entry(&mut self, peer: PeerId, change: impl FnOnce(&mut PeerEntry)) {
        self.adopt(peer);
        if let Some(entry) = self.tables.peer(peer) {
            let mut entry = PeerEntry::clone(entry);
            change(&mut entry);
            self.tables.peers.set(peer.slot as usize, Some(Arc::new(entry)));
            self.dirty = true;
        }
    }

    fn publish(&mut self) {
        let version = self.endpoint.allowed_ips_version();
        if self.routes_version != Some(version) {
            self.tables.routes = Arc::new(self.endpoint.allowed_ips().clone());
            self.routes_version = Some(version);
            self.dirty = true;
        }
        let channel_address = self.endpoint.channel_address();
        if self.tables.channel_address != channel_address {
            self.tables.channel_address = channel_address;
            self.dirty = true;
        }
        if self.dirty {
            self.published.store(Arc::new(self.tables.clone()));
            self.dirty = false;
        }
        let ended = std::mem::take(&mut self.ended);
        if let Some(steer) = &mut self.steer {
            for index in ended {
                // The slot may belong to another session by this time: the program compares whole indices.
                if let Err(error) = steer.remove_session(index) {
                    tracing::debug!(%error, "an ended session stays with the steering program");
                }
            }
        }
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) {
        let Transmit { peer, remote, local, slot, dont_fragment, .. } = *transmit;
        let state = peer.and_then(|peer| self.peers.get(&peer));
        let is_in_use = state
            .and_then(|state| state.endpoint)
            .is_some_and(|(endpoint, sticky)| endpoint == remote && (local.is_none() || local == sticky));
        let uplink = |path: &Path| Uplink { local: path.local, if_index: path.if_index };
        let by = match state.map(|state| &state.way) {
            // A place that is being tried: it must not lead into the tunnel either.
            Some(_) if !is_in_use => self.try_out(remote, local),
            // The path knows whether the address of ours is still one.
            Some(Some(way)) => way.path.as_ref().map(uplink),
            Some(None) | None => Some(Uplink { local, if_index: None }),
        };
        let Some(by) = by else {
            return self.drops[DropReason::NoEndpoint as usize] += 1;
        };
        // By another uplink, a probe of this one would prove nothing.
        let is_probe = bytes.first() == Some(&TRANSPORT_DATA) && !is_in_use;
        if is_probe && local.is_some() && by.local != local {
            return self.drops[DropReason::NoEndpoint as usize] += 1;
        }
        let kept = peer.map_or(0, |peer| self.sprays.slot_of(peer, remote));
        let socket = self.sprays.socket(peer, remote, slot).or_else(|| match slot.max(u16::from(kept)) {
            0 => Some(&self.socket),
            beside => self.ports.get(usize::from(beside) - 1),
        });
        if let Some(Err(error)) = socket.map(|socket| socket.send_by(remote, by, bytes, dont_fragment)) {
            // That a size does not fit is what such a datagram asks.
            self.drops[DropReason::WanError as usize] += u64::from(!dont_fragment);
            tracing::debug!(%remote, %error, "sending a message of the protocol");
        }
    }
}
