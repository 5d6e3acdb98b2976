//! Load: cookies, limits per source, and many peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::world::{KEYS, World, address, public_key, wall};
use landbridge_proto::tuning::LOAD_THRESHOLD;
use landbridge_proto::{DropReason, Endpoint, Event, PeerConfig};

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

#[test]
fn a_cookie_of_another_port_or_a_forged_one_is_no_use() {
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

#[test]
fn sixty_five_thousand_peers_begin_handshakes_and_give_them_up() {
    const PEERS: u32 = 1 << 16;
    let start = Instant::now();
    let mut endpoint = Endpoint::new(start, [3; 32]);
    endpoint.set_private_key(Some(KEYS[0]), start);
    let mut ids = Vec::new();
    for i in 0..PEERS {
        let mut key = [0x40; 32];
        key[..4].copy_from_slice(&i.to_le_bytes());
        let config = PeerConfig {
            endpoint: Some(address(1)),
            allowed_ips: vec![format!("10.{}.{}.0/24", i >> 8, i & 255).parse().expect("a prefix")],
            ..PeerConfig::default()
        };
        ids.push(endpoint.add_peer(key, config, start).expect("room"));
    }
    assert!(endpoint.peers().eq(ids.iter().copied()), "in the order in which they were added");
    assert_eq!(endpoint.allowed_ips().lookup([10, 255, 255, 1].into()), ids.last().copied());
    let mut buffer = [0; Endpoint::MAX_TRANSMIT];
    // Of all peers, a few thousand want a session: agreements of keys are what costs.
    for id in ids.iter().step_by(16) {
        endpoint.handle_session_wanted(start, *id);
    }
    let mut indices = BTreeSet::new();
    while let Some(transmit) = endpoint.poll_transmit(start, wall(start, start), &mut buffer) {
        assert_eq!(transmit.len, 148);
        indices.insert(u32::from_le_bytes(buffer[4..8].try_into().expect("4 bytes")) & 0xf_ffff);
    }
    assert_eq!(indices.len() as u32, PEERS / 16);
    let due = endpoint.poll_timeout().expect("retries");
    assert!(due >= start + Duration::from_secs(5) && due < start + Duration::from_millis(5334));
    let end = start + Duration::from_secs(91);
    endpoint.handle_timeout(end, wall(start, end));
    let given_up = std::iter::from_fn(|| endpoint.poll_event()).filter(|e| matches!(e, Event::HandshakeGivenUp { .. }));
    assert_eq!(given_up.count() as u32, PEERS / 16);
    for id in ids {
        endpoint.remove_peer(id, end);
    }
    assert_eq!((endpoint.peers().count(), endpoint.allowed_ips().len()), (0, 0));
}
