//! An endpoint of 65,536 peers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use landbridge_proto::{Endpoint, Event, PeerConfig, PeerId, Session};

use crate::world::{KEYS, address, public_key, wall};

const PEERS: u32 = 1 << 16;
/// Every so many peers there is one that answers.
const STEP: u32 = 1024;

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

/// The private key of a peer that answers.
fn private(i: u32) -> [u8; 32] {
    let mut key = [0x55; 32];
    key[..4].copy_from_slice(&i.to_le_bytes());
    key
}

/// One datagram each way and the keepalive, which is what a lane would open.
fn shake_hands(server: &mut Endpoint, start: Instant, now: Instant, i: u32) -> Event {
    let from = SocketAddr::new([198, 51, 100, 1].into(), 1000 + (i / STEP) as u16);
    let mut client = Endpoint::new(start, private(i));
    client.set_private_key(Some(private(i)), now);
    let config = PeerConfig { endpoint: Some(address(0)), ..PeerConfig::default() };
    let peer = client.add_peer(public_key(KEYS[0]), config, now).expect("room");
    client.handle_session_wanted(now, peer);
    let (wall, mut buffer) = (wall(start, now), [0; Endpoint::MAX_TRANSMIT]);
    let initiation = client.poll_transmit(now, wall, &mut buffer).expect("an initiation");
    assert_eq!(server.handle_datagram(now, wall, from, None, &buffer[..initiation.len]), Ok(()));
    let response = server.poll_transmit(now, wall, &mut buffer).expect("a response");
    assert_eq!(response.remote, from);
    assert_eq!(client.handle_datagram(now, wall, address(0), None, &buffer[..response.len]), Ok(()));
    let keepalive = client.poll_transmit(now, wall, &mut buffer).expect("a keepalive");
    let started = std::iter::from_fn(|| server.poll_event()).find(|e| matches!(e, Event::SessionStarted { .. }));
    let Some(Event::SessionStarted { session, current: false }) = &started else { panic!("{started:?}") };
    open(session, &mut buffer[..keepalive.len]);
    server.handle_confirmed(now, session.local_index);
    let current = std::iter::from_fn(|| server.poll_event()).find(|e| matches!(e, Event::SessionCurrent { .. }));
    current.expect("the session to seal with")
}

fn open(session: &Session, keepalive: &mut [u8]) {
    assert_eq!(keepalive[..8], [&[4, 0, 0, 0][..], &session.local_index.0.to_le_bytes()].concat());
    let counter = u64::from_le_bytes(keepalive[8..16].try_into().expect("8 bytes"));
    assert_eq!(session.open_key().open(counter, &mut keepalive[16..]).ok(), Some(0));
    assert!(session.confirm());
}

#[test]
fn of_sixty_five_thousand_peers_a_spread_sample_shakes_hands_and_time_outs_come_in_order() {
    let start = Instant::now();
    let mut server = Endpoint::new(start, [4; 32]);
    server.set_private_key(Some(KEYS[0]), start);
    let mut sample = Vec::new();
    for i in 0..PEERS {
        let answers = i % STEP == STEP - 1;
        let mut silent = [0x40; 32];
        silent[..4].copy_from_slice(&i.to_le_bytes());
        let key = if answers { public_key(private(i)) } else { silent };
        // Some of them are to be called at times of their own.
        let keepalive = (i % STEP == 7).then(|| Duration::from_secs(u64::from(PEERS - i) % 500 + 20));
        let config = PeerConfig { persistent_keepalive: keepalive, ..PeerConfig::default() };
        let id = server.add_peer(key, config, start).expect("room");
        if answers {
            sample.push((i, id));
        }
    }
    let mut indices = BTreeSet::new();
    let mut expected: Vec<(Instant, PeerId)> = Vec::new();
    for (place, (i, id)) in sample.iter().enumerate() {
        let now = start + Duration::from_millis(37 * place as u64);
        let Event::SessionCurrent { session } = shake_hands(&mut server, start, now, *i) else { unreachable!() };
        assert_eq!(session.peer, *id, "the session is that peer's");
        assert!(indices.insert(session.local_index.slot()), "no two have one slot");
        expected.push((now + Duration::from_secs(540), *id));
    }
    let (mut last, mut ended, mut timeouts) = (start, Vec::new(), 0);
    while ended.len() < sample.len() {
        let due = server.poll_timeout().expect("sessions wait for their end");
        assert!(due > last || timeouts == 0, "time goes on: {:?} after {:?}", due - start, last - start);
        (last, timeouts) = (due, timeouts + 1);
        server.handle_timeout(due, wall(start, due));
        let mut buffer = [0; Endpoint::MAX_TRANSMIT];
        while server.poll_transmit(due, wall(start, due), &mut buffer).is_some() {}
        while let Some(event) = server.poll_event() {
            if let Event::SessionEnded { peer, was_current, .. } = event {
                assert!(was_current);
                ended.push((due, peer));
            }
        }
    }
    assert_eq!(ended, expected, "each in its turn and at its time");
    assert!(timeouts > 2 * sample.len(), "others were due in between: {timeouts}");
}
