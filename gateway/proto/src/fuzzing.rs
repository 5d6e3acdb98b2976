//! Bodies of the fuzz targets in `gateway/fuzz`, here so that tests replay the same corpus through them.

mod liar;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::endpoint::NatConfig;
use crate::{Endpoint, Event, KEY_LEN, PeerConfig, PeerId, PeerUpdate, Session, WallClock};

pub use liar::liar;

fn address(port: u16) -> SocketAddr {
    SocketAddr::new([192, 0, 2, 1].into(), port)
}

fn endpoint(start: Instant, byte: u8) -> Endpoint {
    let mut endpoint = Endpoint::new(start, [byte; 32]);
    endpoint.set_private_key(Some([byte; KEY_LEN]), start);
    endpoint
}

fn drain(endpoint: &mut Endpoint, now: Instant, wall: WallClock, mut sent: impl FnMut(&[u8])) -> Vec<Event> {
    let mut buffer = [0; Endpoint::MAX_TRANSMIT];
    while let Some(transmit) = endpoint.poll_transmit(now, wall, &mut buffer) {
        sent(&buffer[..transmit.len]);
    }
    std::iter::from_fn(|| endpoint.poll_event()).collect()
}

/// Any bytes as a datagram, from anybody. mac1 is made right as well, so that what lies behind it is reached.
pub fn datagram(data: &[u8]) {
    let start = Instant::now();
    let wall = WallClock(SystemTime::UNIX_EPOCH);
    let mut endpoint = endpoint(start, 1);
    let config = PeerConfig { endpoint: Some(address(2)), ..PeerConfig::default() };
    if let Some(peer) = endpoint.add_peer([9; KEY_LEN], config, start) {
        endpoint.handle_session_wanted(start, peer);
    }
    drain(&mut endpoint, start, wall, |_| ());
    let mut signed = data.to_vec();
    if signed.len() >= 32
        && let Some(public_key) = endpoint.public_key()
    {
        crate::cookie::MacKeys::new(&public_key).sign(None, &mut signed);
    }
    for bytes in [data, &signed] {
        // The verdict is the endpoint's concern; that there is one is ours.
        let _ = endpoint.handle_datagram(start, wall, address(2), None, bytes);
        let events = drain(&mut endpoint, start, wall, |_| ());
        assert!(!events.iter().any(|e| matches!(e, Event::SessionStarted { .. } | Event::EndpointChanged { .. })));
    }
}

/// Any bytes as what a peer says on the control channel: rows of messages, each after its length, in packets that are made
/// right; and the same bytes as a packet. Without a session, and with one.
pub fn channel(data: &[u8]) {
    channel_unlinked(data);
    channel_linked(data);
}

fn channel_unlinked(data: &[u8]) {
    use crate::channel::message::Message;
    use crate::channel::packet;
    let start = Instant::now();
    let mut endpoint = endpoint(start, 1);
    endpoint.set_channel(crate::ChannelConfig { source_ports: 16, accepts_ports: 16 });
    let nat = NatConfig { introduces: true, relays: true, ..NatConfig::default() };
    endpoint.set_nat_config(start, nat);
    let config = PeerConfig { endpoint: Some(address(2)), ..PeerConfig::default() };
    let Some(peer) = endpoint.add_peer([9; KEY_LEN], config, start) else { return };
    let theirs = crate::channel::address_of(&[9; KEY_LEN]);
    let Some(ours) = endpoint.channel_address() else { return };
    let wall = WallClock(SystemTime::UNIX_EPOCH);
    drain(&mut endpoint, start, wall, |_| ());
    // The verdict is the endpoint's concern; that there is one is ours.
    let _ = endpoint.handle_channel(start, peer, address(2), None, data);
    let mut now = start;
    let mut rest = data;
    while let Some((&len, bytes)) = rest.split_first() {
        let (message, behind) = bytes.split_at(usize::from(len).min(bytes.len()));
        rest = behind;
        if let Ok((parsed, _)) = Message::parse(message) {
            let mut out = [0; crate::channel::message::WRITTEN_MAX];
            let len = parsed.write(&mut out, 0);
            assert_eq!(Message::parse(&out[..len]), Ok((parsed, 0)), "what is written is what was read");
        }
        let mut wrapped = vec![0; packet::HEADERS_LEN + message.len()];
        wrapped[packet::HEADERS_LEN..].copy_from_slice(message);
        let len = packet::wrap(&mut wrapped, message.len(), theirs, ours);
        let from = address(u16::from(message.last().copied().unwrap_or(2)));
        let _ = endpoint.handle_channel(now, peer, from, None, &wrapped[..len]);
        let _ = endpoint.handle_relay_datagram(now, from.port(), from, None, message);
        now += Duration::from_millis(u64::from(len as u8) * 8);
        endpoint.handle_timeout(now, wall);
        // Nothing is sent without a session, and nothing begins one.
        let events = drain(&mut endpoint, now, wall, |bytes| panic!("{} bytes were sent", bytes.len()));
        assert!(events.len() <= 4 && !events.iter().any(|event| matches!(event, Event::SessionStarted { .. })));
        assert!(endpoint.poll_timeout().is_none_or(|due| due > now), "what was due has run");
    }
}

/// The peer of a session says whatever the bytes are, from wherever they say, to a gateway that introduces and relays.
fn channel_linked(data: &[u8]) {
    use crate::channel::packet;
    let start = Instant::now();
    let wall_at = |now: Instant| WallClock(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30) + (now - start));
    let (mut ours, mut theirs) = (endpoint(start, 1), endpoint(start, 2));
    let [Some(our_key), Some(their_key)] = [ours.public_key(), theirs.public_key()] else { return };
    let nat = crate::NatConfig { introduces: true, relays: true, ..crate::NatConfig::default() };
    ours.set_nat_config(start, nat);
    let third = PeerConfig { endpoint: Some(address(4)), ..PeerConfig::default() };
    ours.add_peer([9; KEY_LEN], third, start);
    let config = |port| PeerConfig { endpoint: Some(address(port)), ..PeerConfig::default() };
    let Some(peer) = ours.add_peer(their_key, config(2), start) else { return };
    theirs.add_peer(our_key, config(3), start);
    ours.handle_session_wanted(start, peer);
    let (mut there, mut back) = (Vec::new(), Vec::new());
    drain(&mut ours, start, wall_at(start), |bytes| there.push(bytes.to_vec()));
    for bytes in there {
        let _ = theirs.handle_datagram(start, wall_at(start), address(3), None, &bytes);
        drain(&mut theirs, start, wall_at(start), |bytes| back.push(bytes.to_vec()));
    }
    for bytes in back {
        let _ = ours.handle_datagram(start, wall_at(start), address(2), None, &bytes);
    }
    let events = drain(&mut ours, start, wall_at(start), |_| ());
    assert!(events.iter().any(|event| matches!(event, Event::SessionStarted { .. })), "there is a session");
    let [Some(from), Some(to)] = [theirs.channel_address(), ours.channel_address()] else { return };
    let (mut now, mut rest) = (start, data);
    while let Some((&len, bytes)) = rest.split_first() {
        let (message, behind) = bytes.split_at(usize::from(len).min(bytes.len()));
        rest = behind;
        let mut wrapped = vec![0; packet::HEADERS_LEN + message.len()];
        wrapped[packet::HEADERS_LEN..].copy_from_slice(message);
        let len = packet::wrap(&mut wrapped, message.len(), from, to);
        let place = address(u16::from(message.last().copied().unwrap_or(2)).max(1));
        let _ = ours.handle_channel(now, peer, place, None, &wrapped[..len]);
        now += Duration::from_millis(u64::from(len as u8) * 8);
        let (mut sent, mut events) = (0, 0);
        for _ in 0..3 {
            ours.handle_timeout(now, wall_at(now));
            events += drain(&mut ours, now, wall_at(now), |_| sent += 1).len();
        }
        assert!(sent <= 200 && events <= 100, "{sent} datagrams and {events} events for one message");
        assert!(ours.poll_timeout().is_none_or(|due| due > now), "what was due has run");
    }
}

/// Two endpoints that exchange what they send, or not, in whatever order the bytes say.
pub fn endpoint_ops(data: &[u8]) {
    let start = Instant::now();
    let mut ends = [End::new(start, 1), End::new(start, 2)];
    let keys = [1, 0].map(|other: usize| ends[other].endpoint.public_key());
    for (end, key) in ends.iter_mut().zip(keys) {
        let config = PeerConfig { endpoint: Some(address(3)), ..PeerConfig::default() };
        end.peer = key.and_then(|key| end.endpoint.add_peer(key, config, start));
    }
    let mut now = start;
    for pair in data.chunks_exact(2).take(400) {
        let [op, argument] = [pair[0], pair[1]];
        let (at, other) = if op & 0x80 == 0 { (0, 1) } else { (1, 0) };
        let wall = WallClock(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30) + (now - start));
        if op & 0x7f == 0 {
            now += Duration::from_millis(u64::from(argument) * u64::from(argument));
        } else if op & 0x7f == 1 {
            if let Some(bytes) = take(&mut ends[at].sent, argument) {
                let _ = ends[other].endpoint.handle_datagram(now, wall, address(argument.into()), None, &bytes);
            }
        } else {
            ends[at].apply(op & 0x7f, argument, now, wall);
        }
        for end in &mut ends {
            end.settle(now, wall);
        }
    }
}

fn take(sent: &mut Vec<Vec<u8>>, argument: u8) -> Option<Vec<u8>> {
    let at = usize::from(argument >> 1).min(sent.len().checked_sub(1)?);
    // Odd: the network delivers it again later.
    Some(if argument & 1 == 0 { sent.swap_remove(at) } else { sent[at].clone() })
}

struct End {
    endpoint: Endpoint,
    peer: Option<PeerId>,
    key: [u8; KEY_LEN],
    sessions: Vec<Arc<Session>>,
    sent: Vec<Vec<u8>>,
}

impl End {
    fn new(start: Instant, byte: u8) -> Self {
        let endpoint = endpoint(start, byte);
        Self { endpoint, peer: None, key: [byte; KEY_LEN], sessions: Vec::new(), sent: Vec::new() }
    }

    fn apply(&mut self, op: u8, argument: u8, now: Instant, wall: WallClock) {
        let Some(peer) = self.peer else { return };
        let shared = self.endpoint.peer(peer).map(|view| Arc::clone(view.shared));
        match (op % 10, shared) {
            (2, _) => self.endpoint.handle_session_wanted(now, peer),
            (3, Some(shared)) => _ = shared.sent(now, 1, 96, argument & 1 == 0),
            (4, Some(shared)) => _ = shared.received(now, 1, 96, argument & 1 == 0),
            (5, _) => self.endpoint.handle_active(now, peer),
            (6, _) => {
                if let Some(session) = self.sessions.get(usize::from(argument) % self.sessions.len().max(1)) {
                    self.endpoint.handle_confirmed(now, session.local_index);
                }
            }
            (7, _) => self.endpoint.handle_roamed(now, peer, address(argument.into()), None),
            (8, _) => {
                let keepalive = Duration::from_secs(argument.into());
                let update = PeerUpdate {
                    preshared_key: (argument & 1 == 0).then_some([argument; KEY_LEN]),
                    persistent_keepalive: Some(Some(keepalive)),
                    ..PeerUpdate::default()
                };
                self.endpoint.update_peer(peer, update, now);
            }
            (9, _) => {
                let key = (argument & 1 == 0).then_some(self.key);
                self.endpoint.set_private_key(key, now);
            }
            _ => self.endpoint.handle_timeout(now, wall),
        }
    }

    /// Takes what the endpoint has to say, and holds it to what it said before.
    fn settle(&mut self, now: Instant, wall: WallClock) {
        // Sending can make something due at once, when time has leapt over it: a few rounds must be enough.
        for _ in 0..4 {
            self.endpoint.handle_timeout(now, wall);
            self.follow(now, wall);
        }
        assert!(self.sessions.len() <= 3, "sessions of one peer are bounded");
        assert!(self.endpoint.poll_timeout().is_none_or(|due| due > now), "what was due has run");
        self.sent.truncate(64);
    }

    fn follow(&mut self, now: Instant, wall: WallClock) {
        let sent = &mut self.sent;
        for event in drain(&mut self.endpoint, now, wall, |bytes| sent.push(bytes.to_vec())) {
            match event {
                Event::SessionStarted { session, .. } => {
                    assert!(self.sessions.iter().all(|s| s.local_index.slot() != session.local_index.slot()));
                    self.sessions.push(session);
                }
                Event::SessionEnded { index, .. } => {
                    let before = self.sessions.len();
                    self.sessions.retain(|session| session.local_index != index);
                    assert_eq!(self.sessions.len() + 1, before, "only what began ends, and once");
                }
                Event::SessionCurrent { session } => {
                    assert!(self.sessions.iter().any(|s| s.local_index == session.local_index));
                }
                _ => {}
            }
        }
    }
}
