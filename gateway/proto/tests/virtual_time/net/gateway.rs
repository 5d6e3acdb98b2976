//! A gateway of the simulated network: an endpoint, and lanes that seal and open with the sessions it was told of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use landbridge_proto::{
    Alternates, ChannelConfig, DropReason, Endpoint, Event, KEY_LEN, PeerId, Pending, SPRAY_SLOT, Session, WallClock,
};

use super::relay::Forwarder;
use crate::world::is_channel;

/// The listen port of every gateway.
pub(crate) const PORT: u16 = 51820;

/// The sockets of a search for a NAT's port have these ports, one after the other.
const SPRAY_PORT: u16 = 40_000;

/// A search for a peer's port.
#[derive(Debug, Clone, Copy)]
struct Search {
    remote: SocketAddr,
    heard: Option<u16>,
}

/// A datagram to send.
pub(crate) struct Sent {
    /// From which port, and which address where there are several.
    pub(crate) port: u16,
    pub(crate) local: Option<IpAddr>,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) dont_fragment: bool,
}

impl Sent {
    fn new(port: u16, to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self { port, local: None, to, bytes, dont_fragment: false }
    }
}

pub(crate) struct Gateway {
    pub(crate) endpoint: Endpoint,
    pub(crate) key: [u8; KEY_LEN],
    epoch: Instant,
    sessions: BTreeMap<u32, Arc<Session>>,
    current: BTreeMap<PeerId, Arc<Session>>,
    alternates: BTreeMap<PeerId, Arc<Alternates>>,
    pending: Pending<u64>,
    active: BTreeSet<PeerId>,
    /// Payloads that arrived: when, from whom, from where.
    pub(crate) arrived: Vec<(Instant, PeerId, SocketAddr, u64)>,
    pub(crate) events: Vec<(Instant, Event)>,
    /// Types of the datagrams sent (5: a keepalive, 6: a message of the control channel), with times.
    pub(crate) sent: Vec<(Instant, u8, SocketAddr)>,
    pub(crate) drops: Vec<DropReason>,
    pub(crate) forwarder: Forwarder,
    /// All of them have the same sockets.
    searches: BTreeMap<PeerId, Search>,
    outbox: Vec<Sent>,
}

impl Gateway {
    pub(crate) fn new(epoch: Instant, seed: u8) -> Self {
        let mut endpoint = Endpoint::new(epoch, [seed; 32]);
        let key = [seed; KEY_LEN];
        endpoint.set_private_key(Some(key), epoch);
        endpoint.set_channel(ChannelConfig { source_ports: 0, accepts_ports: 0 });
        Self {
            endpoint,
            key,
            epoch,
            sessions: BTreeMap::new(),
            current: BTreeMap::new(),
            alternates: BTreeMap::new(),
            pending: Pending::new(128, 1024),
            active: BTreeSet::new(),
            arrived: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            drops: Vec::new(),
            forwarder: Forwarder::default(),
            searches: BTreeMap::new(),
            outbox: Vec::new(),
        }
    }

    pub(crate) fn public_key(&self) -> [u8; KEY_LEN] {
        self.endpoint.public_key().expect("a key was set")
    }

    pub(crate) fn peer(&self, other: &Self) -> PeerId {
        self.endpoint.peer_by_key(&other.public_key()).expect("a peer")
    }

    /// Where a peer is reached, if there is a session with it.
    pub(crate) fn linked_at(&self, peer: PeerId) -> Option<SocketAddr> {
        self.current.get(&peer)?;
        self.endpoint.peer(peer)?.endpoint
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.endpoint.poll_timeout()
    }

    pub(crate) fn run(&mut self, now: Instant, wall: WallClock, tick: bool) {
        self.endpoint.handle_timeout(now, wall);
        if tick {
            for peer in std::mem::take(&mut self.active) {
                self.endpoint.handle_active(now, peer);
            }
        }
    }

    /// A packet for a peer comes from the lan.
    pub(crate) fn send(&mut self, now: Instant, peer: PeerId, payload: u64) {
        let Some(view) = self.endpoint.peer(peer) else { return };
        let (shared, remote, local) = (Arc::clone(view.shared), view.endpoint, view.local);
        let usable = self.current.get(&peer).filter(|session| !session.is_expired(now));
        let counter = usable.and_then(|session| Some((Arc::clone(session), session.take_counters(1)?)));
        let (Some((session, counter)), Some(remote)) = (counter, remote) else {
            let _ = self.pending.push(peer, payload);
            if shared.want_session() {
                self.endpoint.handle_session_wanted(now, peer);
            }
            return;
        };
        let mut packet = vec![4, 0, 0, 0];
        packet.extend(session.remote_index.0.to_le_bytes());
        packet.extend(counter.to_le_bytes());
        packet.extend(payload.to_le_bytes());
        packet.resize(16 + 16 + 16, 0);
        session.seal_key().seal(counter, &mut packet[16..]);
        if shared.sent(now, 1, packet.len() as u64, true) {
            self.active.insert(peer);
        }
        let port = self.port_to(peer, remote, 0);
        self.outbox.push(Sent { local, ..Sent::new(port, remote, packet) });
    }

    /// The port that datagrams to a place leave from.
    fn port_to(&self, peer: PeerId, remote: SocketAddr, slot: u16) -> u16 {
        let found = self.searches.get(&peer).filter(|search| search.remote == remote);
        match (slot, found.and_then(|search| search.heard)) {
            (SPRAY_SLOT.., _) => SPRAY_PORT + slot - SPRAY_SLOT,
            (0, Some(heard)) => heard,
            _ => PORT - slot * 100,
        }
    }

    /// Everything that is to be sent, after events were followed.
    pub(crate) fn take_sent(&mut self, now: Instant, wall: WallClock) -> Vec<Sent> {
        loop {
            if let Some(event) = self.endpoint.poll_event() {
                self.follow(now, event);
                continue;
            }
            let mut buffer = [0; Endpoint::MAX_TRANSMIT];
            let Some(transmit) = self.endpoint.poll_transmit(now, wall, &mut buffer) else { break };
            let bytes = buffer[..transmit.len].to_vec();
            let kind = match (bytes[0], bytes.len()) {
                (4, 32) => 5,
                (4, _) => 6,
                (other, _) => other,
            };
            self.sent.push((now, kind, transmit.remote));
            let port = transmit.peer.map_or(PORT, |peer| self.port_to(peer, transmit.remote, transmit.slot));
            let (local, dont_fragment) = (transmit.local, transmit.dont_fragment);
            self.outbox.push(Sent { local, dont_fragment, ..Sent::new(port, transmit.remote, bytes) });
        }
        std::mem::take(&mut self.outbox)
    }

    fn follow(&mut self, now: Instant, event: Event) {
        self.events.push((now, event.clone()));
        match event {
            Event::SessionStarted { session, current } => {
                assert!(self.sessions.insert(session.local_index.0, Arc::clone(&session)).is_none());
                if current {
                    self.take_over(now, session);
                }
            }
            Event::SessionCurrent { session } => {
                assert!(self.sessions.contains_key(&session.local_index.0));
                self.take_over(now, session);
            }
            Event::SessionEnded { peer, index, was_current } => {
                assert!(self.sessions.remove(&index.0).is_some(), "ended once");
                let is_current = self.current.get(&peer).is_some_and(|session| session.local_index == index);
                assert_eq!(is_current, was_current);
                if was_current {
                    self.current.remove(&peer);
                }
            }
            Event::HandshakeGivenUp { peer } => while self.pending.pop(peer).is_some() {},
            Event::AlternatesChanged { peer, alternates } => {
                self.alternates.remove(&peer);
                self.alternates.extend(alternates.map(|alternates| (peer, alternates)));
            }
            Event::RelayAllocate { allocation, .. } => match self.forwarder.grant(allocation) {
                Some([a, b]) => self.endpoint.relay_granted(now, allocation, a, b),
                None => self.endpoint.relay_refused(now, allocation),
            },
            Event::RelayBound { allocation, end, remote, .. } => self.forwarder.bind(allocation, end, remote),
            Event::RelayFreed { allocation } => self.forwarder.free(allocation),
            Event::SprayWanted { peer, remote, .. } => {
                self.searches.insert(peer, Search { remote, heard: None });
            }
            Event::SprayEnded { peer, .. } => {
                self.searches.retain(|of, search| *of != peer || search.heard.is_some());
            }
            _ => {}
        }
    }

    fn take_over(&mut self, now: Instant, session: Arc<Session>) {
        let peer = session.peer;
        self.current.insert(peer, session);
        while let Some(payload) = self.pending.pop(peer) {
            self.send(now, peer, payload);
        }
    }

    /// A datagram arrives.
    pub(crate) fn receive(&mut self, now: Instant, wall: WallClock, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.forwarder.owns(to.port()) {
            return self.relay(now, from, to, bytes);
        }
        if bytes[0] == 4 {
            return self.open(now, from, to, bytes);
        }
        let slot = to.port().checked_sub(SPRAY_PORT).filter(|at| *at < SPRAY_SLOT).map_or(0, |at| SPRAY_SLOT + at);
        match self.endpoint.handle_datagram_at(now, wall, (from, Some(to.ip()), slot), bytes) {
            Ok(()) if slot >= SPRAY_SLOT && bytes[0] == 2 => {
                for search in self.searches.values_mut().filter(|search| search.remote == from) {
                    search.heard.get_or_insert(to.port());
                }
            }
            Ok(()) => {}
            Err(reason) => self.drops.push(reason),
        }
    }

    fn relay(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        match self.endpoint.handle_relay_datagram(now, to.port(), from, Some(to.ip()), bytes) {
            Ok(()) => {}
            Err(DropReason::UnknownIndex) => match self.forwarder.forward(to.port(), from) {
                Some((port, place)) => self.outbox.push(Sent::new(port, place, bytes.to_vec())),
                None => self.drops.push(DropReason::UnknownIndex),
            },
            Err(reason) => self.drops.push(reason),
        }
    }

    fn open(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let index = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes"));
        let counter = u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes"));
        let Some(session) = self.sessions.get(&index).cloned() else {
            return self.drops.push(DropReason::UnknownIndex);
        };
        if session.is_expired(now) {
            return self.drops.push(DropReason::SessionExpired);
        }
        let mut packet = bytes[16..].to_vec();
        let opened = session.open_key().open(counter, &mut packet);
        let Ok(len) = opened else { return self.drops.push(DropReason::BadTag) };
        if !session.replay().commit(counter) {
            return self.drops.push(DropReason::Replayed);
        }
        let peer = session.peer;
        if let Some(search) = self.searches.get_mut(&peer)
            && to.port() != PORT
            && search.remote == from
        {
            search.heard.get_or_insert(to.port());
        }
        let view = self.endpoint.peer(peer).expect("a peer");
        let addresses = (view.channel.map(|channel| channel.address), self.endpoint.channel_address());
        let channel = len > 0 && is_channel(&packet, addresses);
        let (at_home, view_local) = (view.endpoint == Some(from), view.local);
        if session.shared.received(now, 1, bytes.len() as u64, len > 0 && !channel) {
            self.active.insert(peer);
        }
        if channel && let Err(reason) = self.endpoint.handle_channel(now, peer, from, Some(to.ip()), &packet[..len]) {
            self.drops.push(reason);
        }
        if !session.is_confirmed() && session.confirm() {
            self.endpoint.handle_confirmed(now, session.local_index);
        }
        let local = Some(to.ip());
        let at_home = at_home && (view_local.is_none() || view_local == local);
        let alternates = self.alternates.get(&peer);
        let known = if at_home { Some(0) } else { alternates.and_then(|alternates| alternates.slot_of(from, local)) };
        if let (Some(slot), Some(alternates)) = (known, alternates) {
            alternates.note_received(slot, 1);
        }
        if known.is_none() && !channel {
            self.endpoint.handle_roamed(now, peer, from, Some(to.ip()));
        }
        if len > 0 && !channel {
            let payload = u64::from_le_bytes(packet[..8].try_into().expect("8 bytes"));
            self.arrived.push((now, peer, from, payload));
        }
    }

    /// It forgets everything but its key.
    pub(crate) fn restart(&mut self, now: Instant, seed: u8) {
        let key = self.key;
        *self = Self::new(self.epoch, seed);
        self.endpoint.set_private_key(Some(key), now);
        self.key = key;
    }

    /// Datagrams of a type that it has sent.
    pub(crate) fn sent_of(&self, kind: u8) -> usize {
        self.sent.iter().filter(|(_, sent, _)| *sent == kind).count()
    }
}
