//! Load: cookies and limits per source.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::world::{KEYS, World, address, public_key, wall};
use landbridge_proto::tuning::LOAD_THRESHOLD;
use landbridge_proto::{DropReason, Endpoint, PeerConfig, PeerId};

/// Puts a side under load by repeating an initiation with a right mac1.
fn flood(world: &mut World, side: usize, initiation: &[u8], from: SocketAddr) {
    for _ in 0..=LOAD_THRESHOLD {
        let (now, wall) = (world.now, world.wall());
        let verdict = world.sides[side].endpoint.handle_datagram(now, wall, from, None, initiation);
        assert!(verdict.is_err());
    }
}

#[test]
fn under_load_a_cookie_is_asked_for_and_the_next_attempt_brings_it() {
    let mut world = World::new(50);
    world.send(0, 1);
    let initiation = world.sides[0].last_initiation.clone();
    world.run_to(Duration::from_secs(20));
    world.restart(0, 51);
    world.send(0, 2);
    world.run_for(Duration::from_millis(5));
    let flooder = "203.0.113.5:5".parse().expect("an address");
    flood(&mut world, 1, &initiation, flooder);
    world.pump();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.sides[1].drops, [DropReason::CookieRequired]);
    assert!(world.sides[0].current.is_none());
    let view = world.sides[0].endpoint.peer(world.sides[0].peer).expect("a peer");
    assert_eq!(view.endpoint, Some(address(1)), "a cookie reply moves nothing");
    // Still under load when the attempt is repeated: this time it carries the cookie.
    world.run_to(Duration::from_millis(24_990));
    flood(&mut world, 1, &initiation, flooder);
    world.run_for(Duration::from_millis(600));
    assert_eq!(world.sides[1].arrived, [1, 2]);
    assert_eq!(world.sides[1].drops, [DropReason::CookieRequired]);
    assert_ne!(world.sides[0].last_initiation[132..], [0; 16]);
}

/// A responder and what keeps it busy.
struct Server {
    start: Instant,
    endpoint: Endpoint,
    nonsense: Vec<u8>,
}

/// An initiator that knows the server.
struct Client {
    endpoint: Endpoint,
    server: PeerId,
    address: SocketAddr,
}

/// The datagrams that an endpoint has to send.
fn transmits(endpoint: &mut Endpoint, start: Instant, now: Instant) -> Vec<Vec<u8>> {
    let mut buffer = [0; Endpoint::MAX_TRANSMIT];
    let next = || endpoint.poll_transmit(now, wall(start, now), &mut buffer).map(|t| buffer[..t.len].to_vec());
    std::iter::from_fn(next).collect()
}

impl Server {
    fn new(seed: u8) -> Self {
        let mut stranger = World::new(seed);
        stranger.send(0, 1);
        let start = Instant::now();
        let mut endpoint = Endpoint::new(start, [seed; 32]);
        endpoint.set_private_key(Some(KEYS[1]), start);
        // Of nobody whom the server knows.
        Self { start, endpoint, nonsense: stranger.sides[0].last_initiation.clone() }
    }

    fn client(&mut self, number: u8, address: SocketAddr) -> Client {
        let private = [number; 32];
        let mut endpoint = Endpoint::new(self.start, private);
        endpoint.set_private_key(Some(private), self.start);
        let config = PeerConfig { endpoint: Some(crate::world::address(1)), ..PeerConfig::default() };
        let server = endpoint.add_peer(public_key(KEYS[1]), config, self.start).expect("room");
        self.endpoint.add_peer(public_key(private), PeerConfig::default(), self.start).expect("room");
        Client { endpoint, server, address }
    }

    fn offer(&mut self, after: Duration, from: SocketAddr, datagram: &[u8]) -> Result<(), DropReason> {
        let now = self.start + after;
        self.endpoint.handle_datagram(now, wall(self.start, now), from, None, datagram)
    }

    /// Is under load from here on for a second, and has nothing to send.
    fn load(&mut self, after: Duration) {
        let nonsense = self.nonsense.clone();
        for _ in 0..=LOAD_THRESHOLD {
            assert!(self.offer(after, "203.0.113.5:5".parse().expect("an address"), &nonsense).is_err());
        }
        transmits(&mut self.endpoint, self.start, self.start + after);
    }

    /// Refuses an initiation for want of a cookie, and gives the client one.
    fn give_cookie(&mut self, after: Duration, client: &mut Client) {
        let initiation = client.initiation(self.start, after);
        assert_eq!(initiation[132..], [0; 16], "there is no cookie yet");
        assert_eq!(self.offer(after, client.address, &initiation), Err(DropReason::CookieRequired));
        let now = self.start + after;
        let reply = transmits(&mut self.endpoint, self.start, now).pop().expect("a cookie reply");
        let server = crate::world::address(1);
        let taken = client.endpoint.handle_datagram(now, wall(self.start, now), server, None, &reply);
        assert_eq!(taken, Ok(()));
    }
}

impl Client {
    fn initiation(&mut self, start: Instant, after: Duration) -> Vec<u8> {
        let now = start + after;
        self.endpoint.handle_timeout(now, wall(start, now));
        self.endpoint.handle_session_wanted(now, self.server);
        transmits(&mut self.endpoint, start, now).pop().expect("an initiation is due")
    }
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_cookie_is_no_use_from_another_port_or_address() {
    let mut server = Server::new(60);
    let mut client = server.client(2, address(0));
    server.load(millis(0));
    server.give_cookie(millis(0), &mut client);
    let initiation = client.initiation(server.start, millis(6000));
    assert_ne!(initiation[132..], [0; 16]);
    server.load(millis(6000));
    let mut elsewhere = address(0);
    elsewhere.set_port(address(0).port() + 1);
    assert_eq!(server.offer(millis(6000), elsewhere, &initiation), Err(DropReason::CookieRequired));
    elsewhere = SocketAddr::new([192, 0, 2, 77].into(), address(0).port());
    assert_eq!(server.offer(millis(6000), elsewhere, &initiation), Err(DropReason::CookieRequired));
    assert_eq!(server.offer(millis(6000), client.address, &initiation), Ok(()));
}

#[test]
fn a_forged_cookie_reply_is_refused_and_leaves_no_cookie() {
    let mut world = World::new(52);
    world.send(0, 1);
    let initiation = world.sides[0].last_initiation.clone();
    let (now, wall) = (world.now, world.wall());
    let mut reply = vec![3, 0, 0, 0];
    reply.extend(&initiation[4..8]);
    reply.resize(64, 7);
    let verdict = world.sides[0].endpoint.handle_datagram(now, wall, address(1), None, &reply);
    assert_eq!(verdict, Err(DropReason::BadCookie));
    reply[4] ^= 1;
    let verdict = world.sides[0].endpoint.handle_datagram(now, wall, address(1), None, &reply);
    assert_eq!(verdict, Err(DropReason::UnknownIndex));
    world.cut[1] = true;
    world.run_to(Duration::from_secs(6));
    assert_ne!(world.sides[0].last_initiation, initiation, "it tried again");
    assert_eq!(world.sides[0].last_initiation[132..], [0; 16]);
}

#[test]
fn a_cookie_is_good_for_two_minutes_on_both_sides() {
    let mut server = Server::new(61);
    let mut client = server.client(2, address(0));
    server.load(millis(0));
    server.give_cookie(millis(0), &mut client);
    let late = millis(119_500);
    let initiation = client.initiation(server.start, late);
    assert_ne!(initiation[132..], [0; 16]);
    server.load(late);
    assert_eq!(server.offer(late, client.address, &initiation), Ok(()));
    // The same datagram: admitted by its cookie and refused for its timestamp, then not even admitted.
    for (after, reason) in [(119_999, DropReason::ReplayedHandshake), (120_000, DropReason::CookieRequired)] {
        server.load(millis(after));
        assert_eq!(server.offer(millis(after), client.address, &initiation), Err(reason), "after {after} ms");
    }
    let later = client.initiation(server.start, millis(126_000));
    assert_eq!(later[132..], [0; 16], "the client has forgotten it as well");
}

#[test]
fn under_load_one_address_has_its_share_of_handshakes_and_no_more() {
    let mut server = Server::new(62);
    let mut crowd: Vec<_> =
        (0..8).map(|i| server.client(i + 2, SocketAddr::new([198, 51, 100, 1].into(), 1000 + u16::from(i)))).collect();
    let mut other = server.client(100, "198.51.100.2:1000".parse().expect("an address"));
    server.load(millis(0));
    for client in crowd.iter_mut().chain([&mut other]) {
        server.give_cookie(millis(0), client);
    }
    let start = server.start;
    let again: Vec<_> =
        crowd.iter_mut().map(|client| (client.address, client.initiation(start, millis(6000)))).collect();
    server.load(millis(6000));
    let verdicts: Vec<_> = again.iter().map(|(from, bytes)| server.offer(millis(6000), *from, bytes)).collect();
    let rate = Err(DropReason::HandshakeRate);
    assert_eq!(verdicts, [Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), rate, rate, rate]);
    let initiation = other.initiation(start, millis(6000));
    assert_eq!(
        server.offer(millis(6000), other.address, &initiation),
        Ok(()),
        "another address has a share of its own"
    );
    assert_eq!(server.offer(millis(6049), again[5].0, &again[5].1), rate);
    assert_eq!(server.offer(millis(6050), again[5].0, &again[5].1), Ok(()), "20 in a second");
    assert_eq!(server.offer(millis(6050), again[6].0, &again[6].1), rate);
    assert_eq!(server.offer(millis(7100), again[6].0, &again[6].1), Ok(()));
    assert_eq!(server.offer(millis(7100), again[7].0, &again[7].1), Ok(()), "without load there is no limit");
}

#[test]
fn a_flood_without_cookies_costs_one_short_reply_each_and_starts_nothing() {
    let mut world = World::new(53);
    world.send(0, 1);
    let initiation = world.sides[0].last_initiation.clone();
    world.run_to(Duration::from_secs(1));
    flood(&mut world, 1, &initiation, "203.0.113.5:5".parse().expect("an address"));
    let (now, wall) = (world.now, world.wall());
    let mut buffer = [0; Endpoint::MAX_TRANSMIT];
    while world.sides[1].endpoint.poll_transmit(now, wall, &mut buffer).is_some() {}
    let mut reasons = BTreeSet::new();
    for i in 0..20_000_u32 {
        let from = SocketAddr::new(IpAddr::V4((0x0a00_0000 + i).into()), 7);
        reasons.insert(world.sides[1].endpoint.handle_datagram(now, wall, from, None, &initiation));
    }
    assert_eq!(reasons, [DropReason::CookieRequired, DropReason::HandshakeQueueFull].map(Err).into());
    let mut replies = 0;
    while let Some(transmit) = world.sides[1].endpoint.poll_transmit(now, wall, &mut buffer) {
        assert_eq!((transmit.len, transmit.peer), (64, None));
        replies += 1;
    }
    assert!(replies < 5000, "the queue is bounded: {replies}");
    assert!(world.sides[1].current.is_some());
}

#[test]
fn refused_datagrams_name_their_reason() {
    let start = Instant::now();
    let mut endpoint = Endpoint::new(start, [1; 32]);
    let offer = |endpoint: &mut Endpoint, bytes: &[u8]| {
        endpoint.handle_datagram(start, wall(start, start), address(0), None, bytes)
    };
    let mut initiation = vec![0; 148];
    initiation[0] = 1;
    assert_eq!(offer(&mut endpoint, &initiation), Err(DropReason::NoPrivateKey));
    endpoint.set_private_key(Some(KEYS[0]), start);
    assert_eq!(offer(&mut endpoint, &initiation), Err(DropReason::BadMac1));
    assert_eq!(offer(&mut endpoint, &initiation[..147]), Err(DropReason::Truncated));
    assert_eq!(offer(&mut endpoint, &[9, 0, 0, 0]), Err(DropReason::UnknownType));
    let mut response = vec![0; 92];
    response[0] = 2;
    assert_eq!(offer(&mut endpoint, &response), Err(DropReason::UnknownIndex));
    let mut stranger = World::new(54);
    stranger.send(0, 1);
    let mut server = Endpoint::new(start, [1; 32]);
    server.set_private_key(Some(KEYS[1]), start);
    let initiation = stranger.sides[0].last_initiation.clone();
    assert_eq!(offer(&mut server, &initiation), Err(DropReason::UnknownPeer));
    let config = PeerConfig::default();
    server.add_peer(public_key(KEYS[0]), config, start).expect("room");
    assert_eq!(offer(&mut server, &initiation), Ok(()));
}
