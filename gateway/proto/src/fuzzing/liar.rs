//! A peer with a session that says whatever it likes: seeks, introductions, offers, binds, probes and their answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{address, drain, endpoint};
use crate::candidate::{Candidate, CandidateKind, Nat, is_nowhere};
use crate::channel::message::{Body, Message, WRITTEN_MAX};
use crate::channel::packet;
use crate::endpoint::NatConfig;
use crate::message::{DataHeader, TAG_LEN};
use crate::relay::ALLOCATIONS_PER_PEER;
use crate::{Endpoint, Event, KEY_LEN, PeerConfig, PeerId, Session, WallClock};

/// Datagrams that one step may bring about: the first checks and initiations of a few peers, and what a leap of time makes due.
const STEP_MAX: usize = 400;

/// Types of messages that the bytes choose from: with the highest bit, answers.
const KINDS: [u8; 22] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 12];

struct Scene {
    us: Endpoint,
    liar: PeerId,
    their_key: [u8; KEY_LEN],
    /// What is told to the liar of meetings with peers, and names of none.
    meetings: Vec<[u8; KEY_LEN]>,
    /// The liar's end of the session, if it lasts.
    session: Option<Arc<Session>>,
    /// Request numbers and allocations that it was told.
    requests: Vec<u32>,
    allocations: Vec<u64>,
    now: Instant,
    start: Instant,
}

/// Rows of steps, each a length and that many bytes: what the liar says, and how time passes.
pub fn liar(data: &[u8]) {
    let Some(mut scene) = Scene::new() else { return };
    let mut rest = data;
    for _ in 0..200 {
        let Some((&len, bytes)) = rest.split_first() else { return };
        let (step, behind) = bytes.split_at(usize::from(len).min(bytes.len()));
        rest = behind;
        scene.step(step);
        scene.settle();
    }
}

impl Scene {
    fn new() -> Option<Self> {
        let start = Instant::now();
        let (mut us, mut them) = (endpoint(start, 1), endpoint(start, 2));
        let config = |port: Option<u16>| PeerConfig { endpoint: port.map(address), ..PeerConfig::default() };
        let (our_key, their_key) = (us.public_key()?, them.public_key()?);
        let liar = us.add_peer(their_key, config(Some(2)), start)?;
        let peer = them.add_peer(our_key, config(Some(1)), start)?;
        let mut meetings = vec![our_key, their_key, [0x5a; KEY_LEN]];
        for byte in 3..6 {
            let key = endpoint(start, byte).public_key()?;
            let sought = us.add_peer(key, config(None), start)?;
            meetings.push(us.meeting_with(sought, liar)?.0);
        }
        us.set_own_addresses(&[address(1).ip()]);
        us.set_nat_config(start, NatConfig { introduces: true, relays: true, ..NatConfig::default() });
        let host = Candidate { kind: CandidateKind::Host, address: address(1) };
        us.set_local_candidates(start, &[host], Nat::default());
        them.handle_session_wanted(start, peer);
        let mut scene = Self {
            us,
            liar,
            their_key,
            meetings,
            session: None,
            requests: Vec::new(),
            allocations: Vec::new(),
            now: start,
            start,
        };
        let wall = scene.wall();
        let mut sent = Vec::new();
        drain(&mut them, start, wall, |bytes| sent.push(bytes.to_vec()));
        for bytes in std::mem::take(&mut sent) {
            let _ = scene.us.handle_datagram(start, wall, address(2), None, &bytes);
        }
        let mut index = None;
        let events = drain(&mut scene.us, start, wall, |bytes| sent.push(bytes.to_vec()));
        for event in events {
            if let Event::SessionStarted { session, .. } = event {
                index = Some(session.local_index);
            }
        }
        for bytes in sent {
            let _ = them.handle_datagram(start, wall, address(1), None, &bytes);
        }
        for event in drain(&mut them, start, wall, |_| ()) {
            if let Event::SessionStarted { session, .. } = event {
                scene.session = Some(session);
            }
        }
        scene.us.handle_confirmed(start, index?);
        // Hello: eight bytes of its run, all features, no source ports.
        scene.say(1, &[1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 2, 0, 4, 0, 0, 0, 15, 3, 0, 1, 0]);
        scene.settle();
        assert!(
            scene.session.is_some() && !scene.requests.is_empty(),
            "there is a session, and something was said in it"
        );
        Some(scene)
    }

    fn wall(&self) -> WallClock {
        WallClock(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30) + (self.now - self.start))
    }

    fn step(&mut self, step: &[u8]) {
        let [op, argument, fields @ ..] = step else { return };
        let kind = KINDS[usize::from(*argument) % KINDS.len()];
        match op % 5 {
            0 => self.now += Duration::from_millis(u64::from(*argument) * u64::from(*argument)),
            1 => self.say(kind, fields),
            2 => {
                // With a meeting that means something before the rest.
                let at = usize::from(fields.first().copied().unwrap_or(0));
                let meeting = self.meetings[at % self.meetings.len()];
                self.say(kind, &[&[12, 0, 32][..], &meeting, fields.get(1..).unwrap_or(&[])].concat());
            }
            3 => self.bind(*argument, fields),
            _ => {
                let bit = |at: u8| argument >> at & 1 == 1;
                let before = self.us.nat_config();
                let config = NatConfig { direct: bit(0), introduces: bit(1), relays: bit(2), ..before };
                self.us.set_nat_config(self.now, config);
                let own = [Candidate { kind: CandidateKind::Host, address: address((*argument).into()) }];
                self.us.set_local_candidates(self.now, &own[..usize::from(bit(3))], Nat::default());
            }
        }
    }

    /// A message with these fields. Its number is one that we are waiting for, or any.
    fn message(&self, kind: u8, fields: &[u8]) -> Vec<u8> {
        let choice = usize::from(fields.last().copied().unwrap_or(0));
        let request = self.requests.get(choice % 16).copied().unwrap_or(choice as u32);
        [&[1, kind, 0, 0][..], &request.to_be_bytes(), fields].concat()
    }

    fn say(&mut self, kind: u8, fields: &[u8]) {
        let message = self.message(kind, fields);
        let Some(ours) = self.us.channel_address() else { return };
        let theirs = crate::channel::address_of(&self.their_key);
        let mut wrapped = vec![0; packet::HEADERS_LEN + message.len()];
        wrapped[packet::HEADERS_LEN..].copy_from_slice(&message);
        let len = packet::wrap(&mut wrapped, message.len(), theirs, ours);
        let from = match fields.last() {
            Some(byte @ 240..) => SocketAddr::from(([*byte - 16, 0, 0, *byte], 7)),
            Some(byte @ 200..240) => address((*byte).into()),
            _ => address(2),
        };
        // The verdict is the endpoint's concern; that there is one is ours.
        let _ = self.us.handle_channel(self.now, self.liar, from, None, &wrapped[..len]);
    }

    /// Something to a port of the relay: sealed as it should be, or not.
    fn bind(&mut self, argument: u8, fields: &[u8]) {
        let (Some(session), Some(ours)) = (&self.session, self.us.channel_address()) else { return };
        let Some(counter) = session.take_counters(1) else { return };
        let allocation = self.allocations.last().copied().unwrap_or(7);
        let body = Body::RelayBind { allocation };
        let mut inner = vec![0; packet::HEADERS_LEN + WRITTEN_MAX];
        let len = Message { request: argument.into(), body }.write(&mut inner[packet::HEADERS_LEN..], 0);
        let len = packet::wrap(&mut inner, len, crate::channel::address_of(&self.their_key), ours);
        inner.truncate(len);
        if let Some(byte) = fields.first() {
            inner[usize::from(*byte) % len] ^= argument;
        }
        inner.resize(len + TAG_LEN, 0);
        session.seal_key().seal(counter, &mut inner);
        let mut datagram = vec![4, 0, 0, 0];
        datagram.extend(session.remote_index.0.to_le_bytes());
        datagram.extend(counter.to_le_bytes());
        datagram.extend(inner);
        debug_assert!(datagram.len() > size_of::<DataHeader>());
        let _ = self.us.handle_relay_datagram(self.now, 5000 + u16::from(argument & 1), address(2), None, &datagram);
    }

    /// Takes what we have to say, and holds us to our bounds.
    fn settle(&mut self) {
        let (now, wall) = (self.now, self.wall());
        let mut count = 0;
        for _ in 0..4 {
            self.us.handle_timeout(now, wall);
            let mut buffer = [0; Endpoint::MAX_TRANSMIT];
            while let Some(transmit) = self.us.poll_transmit(now, wall, &mut buffer) {
                assert!(!is_nowhere(transmit.remote), "nothing is sent to {}", transmit.remote);
                count += 1;
                self.read(&buffer[..transmit.len]);
            }
            while let Some(event) = self.us.poll_event() {
                if let Event::RelayAllocate { allocation, .. } = event {
                    self.allocations.push(allocation);
                    self.us.relay_granted(now, allocation, 5000, 5001);
                }
            }
        }
        assert!(count <= STEP_MAX, "{count} datagrams at once");
        assert!(self.us.relay_allocations() <= ALLOCATIONS_PER_PEER);
        assert!(self.us.poll_timeout().is_none_or(|due| due > now), "what was due has run");
        let paths = self.us.peer(self.liar).and_then(|peer| peer.paths);
        assert!(paths.is_none_or(|paths| paths.candidates.len() <= 64), "the table of places is bounded");
    }

    /// The liar reads what it is told, so that it can answer.
    fn read(&mut self, datagram: &[u8]) {
        let Some(session) = self.session.as_ref().filter(|_| datagram[0] == 4 && datagram.len() > 32) else { return };
        let Some((header, sealed)) = datagram.split_at_checked(size_of::<DataHeader>()) else { return };
        let Ok(counter) = header[8..].try_into() else { return };
        let mut inner = sealed.to_vec();
        let Ok(len) = session.open_key().open(u64::from_le_bytes(counter), &mut inner) else { return };
        let Ok(message) = packet::unwrap(&inner[..len]) else { return };
        if let Ok((message, _)) = Message::parse(message) {
            self.requests.insert(0, message.request);
            self.requests.truncate(16);
        }
    }
}
