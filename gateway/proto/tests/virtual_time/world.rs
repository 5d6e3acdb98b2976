//! Two endpoints and the network between them, in virtual time and without a source of chance but a seed.
//!
//! Each side has what a gateway has: an endpoint, and a lane that seals and opens with the sessions it was told of,
//! marks activity, and lets packets wait for a handshake. A tick of 100 ms stands for the control task's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use landbridge_proto::channel::{SPREAD_SLOTS, is_link_local};
use landbridge_proto::{
    Alternates, ChannelConfig, DropReason, Endpoint, Event, KEY_LEN, PeerConfig, PeerId, Pending, Session, Spread,
    WallClock,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

pub(crate) const TICK: Duration = Duration::from_millis(100);
pub(crate) const KEYS: [[u8; KEY_LEN]; 2] = [[0x11; KEY_LEN], [0x22; KEY_LEN]];

pub(crate) fn public_key(private: [u8; KEY_LEN]) -> [u8; KEY_LEN] {
    let mut endpoint = Endpoint::new(Instant::now(), [0; 32]);
    endpoint.set_private_key(Some(private), Instant::now());
    endpoint.public_key().expect("a key was set")
}

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) loss_percent: u32,
    pub(crate) duplicate_percent: u32,
    /// Beyond 10 ms, drawn for each datagram: so they overtake each other.
    pub(crate) jitter_ms_max: u64,
}

/// One gateway.
pub(crate) struct Side {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
    pub(crate) peer: PeerId,
    pub(crate) sessions: BTreeMap<u32, Arc<Session>>,
    pub(crate) current: Option<Arc<Session>>,
    pub(crate) pending: Pending<u64>,
    active: bool,
    /// The source ports in use, and those of the other side.
    pub(crate) spread: Option<Arc<Spread>>,
    pub(crate) alternates: Option<Arc<Alternates>>,
    /// Datagrams sent by source port.
    pub(crate) slots: [u64; SPREAD_SLOTS],
    /// Payloads that arrived.
    pub(crate) arrived: Vec<u64>,
    pub(crate) events: Vec<(Duration, Event)>,
    /// Types of the datagrams that it sent (5: a keepalive, 6: a message of the control channel), with times.
    pub(crate) sent: Vec<(Duration, u8)>,
    pub(crate) drops: Vec<DropReason>,
    pub(crate) last_initiation: Vec<u8>,
}

impl Side {
    pub(crate) fn sent_of(&self, kind: u8) -> Vec<Duration> {
        self.sent.iter().filter(|(_, k)| *k == kind).map(|(at, _)| *at).collect()
    }

    pub(crate) fn given_up(&self) -> Vec<Duration> {
        let given_up = |event: &Event| matches!(event, Event::HandshakeGivenUp { .. });
        self.events.iter().filter(|(_, event)| given_up(event)).map(|(at, _)| *at).collect()
    }
}

pub(crate) struct World {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) sides: [Side; 2],
    pub(crate) weather: Weather,
    /// Datagrams to sides that are cut off vanish.
    pub(crate) cut: [bool; 2],
    /// A side's NAT shows each of its ports as another one, so much higher.
    pub(crate) mapped_by: [u16; 2],
    /// A side's NAT lets nothing in but from where the side has sent to.
    pub(crate) restricted: [bool; 2],
    contacted: [BTreeSet<SocketAddr>; 2],
    under_way: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    count: u64,
    rng: ChaCha20Rng,
    next_tick: Instant,
}

/// Between the source ports of a side.
pub(crate) const PORT_STEP: u16 = 100;

pub(crate) fn address(side: usize) -> SocketAddr {
    SocketAddr::new([192, 0, 2, side as u8 + 1].into(), 51820)
}

impl World {
    pub(crate) fn new(seed: u8) -> Self {
        Self::with(seed, [PeerConfig::default(), PeerConfig::default()])
    }

    /// A world whose sides know each other's endpoints and have these configurations of each other.
    pub(crate) fn with(seed: u8, configs: [PeerConfig; 2]) -> Self {
        let start = Instant::now();
        let [first, second] = configs;
        let sides = [make_side(start, start, seed, 0, first), make_side(start, start, seed, 1, second)];
        let mut world = Self {
            start,
            now: start,
            sides,
            weather: Weather::default(),
            cut: [false; 2],
            mapped_by: [0; 2],
            restricted: [false; 2],
            contacted: Default::default(),
            under_way: BTreeMap::new(),
            count: 0,
            rng: ChaCha20Rng::from_seed([seed; 32]),
            next_tick: start + TICK,
        };
        world.pump();
        world
    }

    /// One side forgets everything but its configuration.
    pub(crate) fn restart(&mut self, side: usize, seed: u8) {
        let address = self.sides[side].address;
        self.sides[side] = make_side(self.start, self.now, seed, side, PeerConfig::default());
        self.sides[side].address = address;
        self.pump();
    }

    pub(crate) fn wall(&self) -> WallClock {
        wall(self.start, self.now)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A packet enters a side's lan.
    pub(crate) fn send(&mut self, from: usize, payload: u64) {
        self.try_seal(from, payload);
        self.pump();
    }

    fn try_seal(&mut self, from: usize, payload: u64) {
        let now = self.now;
        let side = &mut self.sides[from];
        let Some(view) = side.endpoint.peer(side.peer) else { return };
        let (shared, remote) = (Arc::clone(view.shared), view.endpoint);
        let usable = side.current.as_ref().filter(|session| !session.is_expired(now));
        let counter = usable.and_then(|session| Some((Arc::clone(session), session.take_counters(1)?)));
        let (Some((session, counter)), Some(remote)) = (counter, remote) else {
            let _ = side.pending.push(side.peer, payload);
            if shared.want_session() {
                side.endpoint.handle_session_wanted(now, side.peer);
            }
            return;
        };
        let mut packet = vec![4, 0, 0, 0];
        packet.extend(session.remote_index.0.to_le_bytes());
        packet.extend(counter.to_le_bytes());
        packet.extend(payload.to_le_bytes());
        packet.resize(16 + 16 + 16, 0);
        session.seal_key().seal(counter, &mut packet[16..]);
        side.active |= shared.sent(now, 1, packet.len() as u64, true);
        let slot = side.spread.as_ref().map_or(0, |spread| {
            // Each payload is a flow of its own.
            let slot = spread.slot_of((payload as u32).wrapping_mul(0x9e37_79b1));
            spread.note_sent(slot, 1);
            slot
        });
        self.post(from, slot.into(), remote, packet);
    }

    /// Runs until this long after the start.
    pub(crate) fn run_to(&mut self, until: Duration) {
        let until = self.start + until;
        loop {
            let timeouts = self.sides.iter().filter_map(|side| side.endpoint.poll_timeout()).min();
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let next = [timeouts, arrival, Some(self.next_tick)].into_iter().flatten().min().expect("a tick");
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            let wall = self.wall();
            for side in &mut self.sides {
                side.endpoint.handle_timeout(self.now, wall);
            }
            if self.next_tick <= self.now {
                self.next_tick += TICK;
                for side in &mut self.sides {
                    if std::mem::take(&mut side.active) {
                        side.endpoint.handle_active(self.now, side.peer);
                    }
                }
            }
            self.pump();
            while let Some(entry) = self.under_way.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let (from, to, bytes) = entry.remove();
                self.deliver(from, to, &bytes);
            }
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_to(self.elapsed() + time);
    }

    /// Sends and notes whatever the endpoints have.
    pub(crate) fn pump(&mut self) {
        let (now, wall, elapsed) = (self.now, self.wall(), self.elapsed());
        for at in 0..2 {
            loop {
                let side = &mut self.sides[at];
                if let Some(event) = side.endpoint.poll_event() {
                    self.follow(at, event);
                    continue;
                }
                let mut buffer = [0; Endpoint::MAX_TRANSMIT];
                let Some(transmit) = side.endpoint.poll_transmit(now, wall, &mut buffer) else { break };
                let bytes = buffer[..transmit.len].to_vec();
                if bytes[0] == 1 {
                    side.last_initiation.clone_from(&bytes);
                }
                let kind = match (bytes[0], bytes.len()) {
                    (4, 32) => 5,
                    (4, _) => 6,
                    (other, _) => other,
                };
                side.sent.push((elapsed, kind));
                self.post(at, transmit.slot, transmit.remote, bytes);
            }
        }
    }

    fn follow(&mut self, at: usize, event: Event) {
        let elapsed = self.elapsed();
        let side = &mut self.sides[at];
        side.events.push((elapsed, event.clone()));
        match event {
            Event::SessionStarted { session, current } => {
                assert!(side.sessions.insert(session.local_index.0, Arc::clone(&session)).is_none());
                if current {
                    side.current = Some(session);
                    self.flush(at);
                }
            }
            Event::SessionCurrent { session } => {
                assert!(side.sessions.contains_key(&session.local_index.0));
                side.current = Some(session);
                self.flush(at);
            }
            Event::SessionEnded { index, was_current, .. } => {
                assert!(side.sessions.remove(&index.0).is_some(), "ended once");
                let is_current = side.current.as_ref().is_some_and(|session| session.local_index == index);
                assert_eq!(is_current, was_current);
                if was_current {
                    side.current = None;
                }
            }
            Event::HandshakeGivenUp { peer } => while side.pending.pop(peer).is_some() {},
            Event::SpreadChanged { spread, .. } => side.spread = spread,
            Event::AlternatesChanged { alternates, .. } => side.alternates = alternates,
            _ => {}
        }
    }

    fn flush(&mut self, at: usize) {
        let peer = self.sides[at].peer;
        while let Some(payload) = self.sides[at].pending.pop(peer) {
            self.try_seal(at, payload);
        }
    }

    fn post(&mut self, from: usize, slot: u16, to: SocketAddr, bytes: Vec<u8>) {
        let address = self.sides[from].address;
        let source = SocketAddr::new(address.ip(), address.port() - slot * PORT_STEP + self.mapped_by[from]);
        self.contacted[from].insert(to);
        self.sides[from].slots[usize::from(slot)] += 1;
        let copies = 1 + u32::from(self.rng.random_range(0..100) < self.weather.duplicate_percent);
        for _ in 0..copies {
            let delay = 10 + self.rng.random_range(0..=self.weather.jitter_ms_max);
            if self.rng.random_range(0..100) >= self.weather.loss_percent {
                self.count += 1;
                let key = (self.now + Duration::from_millis(delay), self.count);
                self.under_way.insert(key, (source, to, bytes.clone()));
            }
        }
    }

    pub(crate) fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let is_of = |at: usize| {
            let home = self.sides[at].address;
            let from_main = (home.port() + self.mapped_by[at]).checked_sub(to.port());
            to.ip() == home.ip() && from_main.is_some_and(|ports| ports % PORT_STEP == 0)
        };
        let Some(at) = (0..2).find(|at| is_of(*at)) else { return };
        if self.cut[at] || self.restricted[at] && !self.contacted[at].contains(&from) {
            return;
        }
        let (now, wall) = (self.now, self.wall());
        if bytes[0] == 4 {
            self.open(at, from, bytes);
        } else {
            let side = &mut self.sides[at];
            if let Err(reason) = side.endpoint.handle_datagram(now, wall, from, None, bytes) {
                side.drops.push(reason);
            }
        }
        self.pump();
    }

    fn open(&mut self, at: usize, from: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let side = &mut self.sides[at];
        let index = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes"));
        let counter = u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes"));
        let Some(session) = side.sessions.get(&index).cloned() else {
            return side.drops.push(DropReason::UnknownIndex);
        };
        if session.is_expired(now) {
            return side.drops.push(DropReason::SessionExpired);
        }
        let mut packet = bytes[16..].to_vec();
        let opened = session.open_key().open(counter, &mut packet);
        let Ok(len) = opened else { return side.drops.push(DropReason::BadTag) };
        if !session.replay().commit(counter) {
            return side.drops.push(DropReason::Replayed);
        }
        let view = side.endpoint.peer(side.peer).expect("a peer");
        let addresses = (view.channel.map(|channel| channel.address), side.endpoint.channel_address());
        let is_channel = len > 0 && is_channel(&packet, addresses);
        let at_home = view.endpoint == Some(from);
        side.active |= session.shared.received(now, 1, bytes.len() as u64, len > 0 && !is_channel);
        if is_channel && let Err(reason) = side.endpoint.handle_channel(now, side.peer, from, None, &packet[..len]) {
            side.drops.push(reason);
        }
        if !session.is_confirmed() && session.confirm() {
            side.endpoint.handle_confirmed(now, session.local_index);
        }
        let alternates = side.alternates.as_ref().filter(|_| !at_home);
        let alternate = alternates.and_then(|alternates| Some((alternates, alternates.slot_of(from, None)?)));
        match alternate {
            Some((alternates, slot)) => alternates.note_received(slot, 1),
            None if at_home => {
                if let Some(alternates) = &side.alternates {
                    alternates.note_received(0, 1);
                }
            }
            // Messages of the channel say themselves where they came from.
            None if is_channel => {}
            None => side.endpoint.handle_roamed(now, side.peer, from, None),
        }
        if len > 0 && !is_channel {
            side.arrived.push(u64::from_le_bytes(packet[..8].try_into().expect("8 bytes")));
        }
    }

    pub(crate) fn arrived_set(&self, side: usize) -> BTreeSet<u64> {
        self.sides[side].arrived.iter().copied().collect()
    }
}

pub(crate) fn wall(start: Instant, now: Instant) -> WallClock {
    WallClock(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + (now - start))
}

/// What a lane does: exactly the two addresses of the session's peers are the channel.
pub(crate) fn is_channel(packet: &[u8], addresses: (Option<Ipv6Addr>, Option<Ipv6Addr>)) -> bool {
    let (Some(theirs), Some(ours)) = addresses else { return false };
    is_link_local(packet) && packet[8..24] == theirs.octets() && packet[24..40] == ours.octets()
}

fn make_side(epoch: Instant, now: Instant, seed: u8, at: usize, config: PeerConfig) -> Side {
    let mut endpoint = Endpoint::new(epoch, [seed ^ (at as u8) << 7; 32]);
    endpoint.set_private_key(Some(KEYS[at]), now);
    endpoint.set_channel(ChannelConfig { source_ports: 4, accepts_ports: 16 });
    let config = PeerConfig { endpoint: Some(address(1 - at)), ..config };
    let peer = endpoint.add_peer(public_key(KEYS[1 - at]), config, now).expect("room for a peer");
    Side {
        endpoint,
        address: address(at),
        peer,
        sessions: BTreeMap::new(),
        current: None,
        pending: Pending::new(128, 1024),
        active: false,
        spread: None,
        alternates: None,
        slots: [0; SPREAD_SLOTS],
        arrived: Vec::new(),
        events: Vec::new(),
        sent: Vec::new(),
        drops: Vec::new(),
        last_initiation: Vec::new(),
    }
}
