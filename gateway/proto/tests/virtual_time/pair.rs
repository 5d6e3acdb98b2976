//! Two endpoints over a simulated network, in virtual time.

use std::time::Duration;

use crate::world::{KEYS, Weather, World, address, public_key};
use landbridge_proto::constants::{REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES};
use landbridge_proto::session::Role;
use landbridge_proto::{DropReason, Event, PeerConfig, PeerUpdate};

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Without the extensions, whose messages are as good as a keepalive.
fn stock() -> PeerConfig {
    PeerConfig { without_channel: true, ..PeerConfig::default() }
}

#[test]
fn the_first_packet_begins_a_handshake_and_arrives() {
    let mut world = World::new(1);
    world.send(0, 7);
    world.run_to(secs(1));
    assert_eq!(world.sides[1].arrived, [7]);
    let view = world.sides[0].endpoint.peer(world.sides[0].peer).expect("a peer");
    assert_eq!(view.handshake_duration, Some(millis(20)));
    assert!(view.last_handshake.is_some());
    world.send(1, 8);
    world.run_to(secs(2));
    assert_eq!(world.sides[0].arrived, [8], "the responder's session was confirmed");
    assert_eq!(world.sides[0].sent_of(1).len() + world.sides[1].sent_of(1).len(), 1);
    assert!(world.sides.iter().all(|side| side.drops.is_empty()));
}

#[test]
fn reordered_and_duplicated_traffic_of_an_hour_arrives_once_and_whole_across_rekeys() {
    let mut world = World::new(2);
    world.weather = Weather { loss_percent: 0, duplicate_percent: 20, jitter_ms_max: 30 };
    for i in 0..36_000_u64 {
        world.send(0, i);
        if i % 3 == 0 {
            world.send(1, i);
        }
        world.run_for(millis(100));
    }
    world.run_for(secs(1));
    for (side, expected) in [(1, 36_000), (0, 12_000)] {
        assert_eq!(world.sides[side].arrived.len(), expected, "side {side}");
        assert_eq!(world.arrived_set(side).len(), expected, "side {side}");
    }
    let started = |e: &Event| matches!(e, Event::SessionStarted { .. });
    let sessions = world.sides[0].events.iter().filter(|(_, e)| started(e)).count();
    assert!((29..40).contains(&sessions), "{sessions} sessions");
}

#[test]
fn an_hour_of_bad_weather_loses_little_more_than_the_network_does() {
    for seed in 10..13 {
        let mut world = World::new(seed);
        world.weather = Weather { loss_percent: 15, duplicate_percent: 10, jitter_ms_max: 200 };
        for i in 0..18_000_u64 {
            world.send(0, i);
            world.send(1, i);
            world.run_for(millis(200));
        }
        world.run_for(secs(10));
        for side in 0..2 {
            let arrived = world.sides[side].arrived.len();
            assert_eq!(arrived, world.arrived_set(side).len(), "nothing twice");
            assert!(arrived > 18_000 * 80 / 100, "side {side} of seed {seed}: {arrived}");
            assert!(world.sides[side].given_up().is_empty());
            assert!(world.sides[side].sessions.len() <= 3);
        }
    }
}

#[test]
fn when_both_begin_at_once_both_packets_arrive_at_once_and_one_session_remains() {
    for seed in 20..30 {
        let mut world = World::new(seed);
        world.weather.jitter_ms_max = 15;
        world.send(0, 1);
        world.send(1, 2);
        world.run_to(millis(200));
        assert_eq!(world.sides[1].arrived, [1], "seed {seed}");
        assert_eq!(world.sides[0].arrived, [2], "seed {seed}");
        // Every later packet arrives too, over ten minutes of rekeys that also fall together.
        for i in 0..6000 {
            world.send(0, 100 + i);
            world.send(1, 100 + i);
            world.run_for(millis(100));
        }
        world.run_for(secs(1));
        assert_eq!(world.sides[0].arrived.len(), 6001, "seed {seed}");
        assert_eq!(world.sides[1].arrived.len(), 6001, "seed {seed}");
    }
}

#[test]
fn one_packet_is_answered_by_one_keepalive_and_keepalives_by_nothing() {
    let mut world = World::with(3, [stock(), stock()]);
    world.send(0, 1);
    world.run_to(secs(600));
    assert_eq!(world.sides[0].sent_of(5).len(), 1, "the one that confirms the session");
    let answers = world.sides[1].sent_of(5);
    assert_eq!(answers.len(), 1);
    assert!(answers[0] >= secs(10) && answers[0] < millis(10_200), "{answers:?}");
    assert_eq!(world.sides[0].sent_of(1).len(), 1, "nothing began a second handshake");
}

#[test]
fn one_way_traffic_is_answered_every_ten_seconds() {
    let mut world = World::with(4, [stock(), stock()]);
    for i in 0..1000 {
        world.send(0, i);
        world.run_for(millis(100));
    }
    let answers = world.sides[1].sent_of(5).len();
    assert!((9..=10).contains(&answers), "{answers} keepalives in 100 s");
    assert_eq!(world.sides[0].sent_of(1).len(), 1);
}

#[test]
fn the_initiator_renews_after_120_seconds_of_sending_and_the_responder_does_not() {
    let mut world = World::new(5);
    world.send(0, 1_000_000);
    world.run_for(millis(100));
    for i in 0..1300 {
        world.send(0, i);
        world.send(1, i);
        world.run_for(millis(100));
    }
    let initiations = world.sides[0].sent_of(1);
    assert_eq!(initiations.len(), 2);
    assert!(initiations[1] >= secs(120) && initiations[1] <= millis(120_300), "{initiations:?}");
    assert!(world.sides[1].sent_of(1).is_empty());
}

#[test]
fn a_peer_that_falls_silent_is_tried_after_15_seconds_and_given_up_90_seconds_later() {
    let mut world = World::new(6);
    world.send(0, 1);
    world.run_to(secs(20));
    world.cut[1] = true;
    world.send(0, 2);
    world.run_to(secs(300));
    let tries = world.sides[0].sent_of(1);
    assert!(tries[1] >= secs(35) && tries[1] <= millis(35_500), "{tries:?}");
    for pair in tries[1..].windows(2) {
        assert!(pair[1] - pair[0] >= secs(5) && pair[1] - pair[0] <= millis(5334), "{tries:?}");
    }
    assert_eq!(world.sides[0].given_up(), [tries[1] + secs(90)]);
    let retried = world.sides[0].events.iter().filter_map(|(_, event)| match event {
        Event::HandshakeRetried { attempt, .. } => Some(*attempt),
        _ => None,
    });
    assert!(retried.eq(1..tries.len() as u32 - 1));
    // Only data begins again, and then it works.
    let count = tries.len();
    world.run_to(secs(500));
    assert_eq!(world.sides[0].sent_of(1).len(), count);
    world.cut[1] = false;
    world.send(0, 3);
    world.run_for(secs(1));
    assert_eq!(world.sides[1].arrived, [1, 3]);
}

#[test]
fn keys_are_wiped_after_540_seconds() {
    let mut world = World::new(7);
    world.send(0, 1);
    world.run_to(secs(539));
    assert!(world.sides.iter().all(|side| side.sessions.len() == 1));
    world.run_to(secs(541));
    assert!(world.sides.iter().all(|side| side.sessions.is_empty() && side.current.is_none()));
}

#[test]
fn an_expired_session_neither_seals_nor_opens() {
    let mut world = World::new(8);
    world.send(0, 1);
    world.run_to(secs(179));
    let session = world.sides[0].current.clone().expect("a session");
    assert!(!session.is_expired(world.now));
    world.run_to(secs(181));
    assert!(session.is_expired(world.now));
    world.send(0, 2);
    world.run_for(secs(1));
    assert_eq!(world.sides[1].arrived, [1, 2]);
    assert_eq!(world.sides[0].sent_of(1).len(), 2, "with a session of its own");
}

#[test]
fn a_restarted_peer_is_reached_again() {
    let mut world = World::new(9);
    world.send(0, 1);
    world.run_to(secs(10));
    world.restart(1, 99);
    for i in 0..200 {
        world.send(0, 100 + i);
        world.run_for(millis(100));
    }
    let arrived = &world.sides[1].arrived;
    assert!(arrived.contains(&299) && arrived.len() >= 40, "{}", arrived.len());
    // The side that restarted is heard at once when it speaks first.
    world.run_for(secs(6));
    world.restart(0, 98);
    world.send(0, 7);
    world.run_for(secs(1));
    assert_eq!(world.sides[1].arrived.last(), Some(&7));
    world.send(1, 8);
    world.run_for(secs(1));
    assert_eq!(world.sides[0].arrived.last(), Some(&8));
}

#[test]
fn a_peer_that_moves_is_followed_when_it_sends_authentic_data() {
    let mut world = World::new(31);
    world.send(0, 1);
    world.run_to(secs(1));
    let elsewhere = "[2001:db8::7]:4000".parse().expect("an address");
    world.sides[1].address = elsewhere;
    world.send(1, 2);
    world.run_for(secs(1));
    world.send(0, 3);
    world.run_for(secs(1));
    assert_eq!(world.sides[1].arrived, [1, 3]);
    let view = world.sides[0].endpoint.peer(world.sides[0].peer).expect("a peer");
    assert_eq!(view.endpoint, Some(elsewhere));
    let moved = |e: &Event| matches!(e, Event::EndpointChanged { remote, .. } if *remote == elsewhere);
    assert_eq!(world.sides[0].events.iter().filter(|(_, e)| moved(e)).count(), 1);
}

#[test]
fn a_session_is_renewed_and_refused_by_count() {
    let mut world = World::new(32);
    world.send(0, 1);
    world.run_to(secs(6));
    world.sides[0].current.as_ref().expect("a session").set_sent_messages(REKEY_AFTER_MESSAGES);
    world.send(0, 2);
    world.run_for(secs(1));
    assert_eq!(world.sides[0].sent_of(1).len(), 2);
    let session = world.sides[1].current.clone().expect("a session");
    assert_eq!(session.role(), Role::Responder);
    session.set_sent_messages(REKEY_AFTER_MESSAGES);
    world.run_for(secs(6));
    world.send(1, 3);
    world.run_for(secs(1));
    assert_eq!(world.sides[1].sent_of(1).len(), 1, "the responder renews by count too");
    world.run_for(secs(6));
    let session = world.sides[0].current.clone().expect("a session");
    session.set_sent_messages(REJECT_AFTER_MESSAGES - 1);
    assert_eq!(session.take_counters(1), Some(REJECT_AFTER_MESSAGES - 1));
    assert_eq!(session.take_counters(1), None);
    world.send(0, 4);
    world.run_for(secs(1));
    assert_eq!(world.sides[1].arrived, [1, 2, 4], "with a session of its own");
    assert_eq!(world.sides[0].sent_of(1).len(), 3);
}

#[test]
fn an_initiator_that_only_receives_renews_when_its_session_is_165_seconds_old() {
    let mut world = World::with(33, [stock(), stock()]);
    world.send(0, 1);
    // It sends nothing between 120 s and then: the first keepalive that answers would be due at 167 s.
    world.run_to(secs(157));
    let began = world.sides[0].current.as_ref().expect("a session").created - world.start;
    for i in 0..100 {
        world.send(1, i);
        world.run_for(millis(100));
        let renewed = world.sides[0].sent_of(1).len() - 1;
        // News of traffic come with the next tick, and what is under way takes 10 ms.
        if world.elapsed() < began + secs(165) {
            assert_eq!(renewed, 0, "at {:?}", world.elapsed());
        } else if world.elapsed() > began + secs(165) + millis(250) {
            assert_eq!(renewed, 1, "at {:?}", world.elapsed());
        }
    }
    let sent: Vec<_> = world.sides[0].sent.iter().filter(|(at, _)| *at > secs(120)).collect();
    assert_eq!(sent[0].1, 1, "before it sent anything else: {sent:?}");
    assert_eq!(world.sides[0].arrived.len(), 100);
}

#[test]
fn persistent_keepalives_begin_a_session_and_keep_it_without_data() {
    let config = PeerConfig { persistent_keepalive: Some(secs(25)), ..PeerConfig::default() };
    let mut world = World::with(34, [config, PeerConfig::default()]);
    world.run_to(secs(1));
    assert!(world.sides[1].current.is_some(), "nobody sent data");
    world.run_to(secs(119));
    let sent = world.sides[0].sent_of(5);
    assert_eq!(sent.len(), 1 + 4, "{sent:?}");
    world.run_to(secs(1200));
    let gaps: Vec<_> = world.sides[0].sent.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.iter().all(|gap| *gap <= millis(25_100)), "{gaps:?}");
    assert!(world.sides[1].sent_of(5).is_empty(), "keepalives are not answered");
}

#[test]
fn sending_postpones_the_persistent_keepalive() {
    let config = PeerConfig { persistent_keepalive: Some(secs(5)), ..PeerConfig::default() };
    let mut world = World::with(35, [config, PeerConfig::default()]);
    for i in 0..100 {
        world.send(0, i);
        world.run_for(secs(1));
    }
    assert_eq!(world.sides[0].sent_of(5).len(), 1, "the one that confirms the session");
}

#[test]
fn a_wrong_preshared_key_lets_nothing_through_and_the_right_one_does() {
    let psk = |byte| PeerConfig { preshared_key: [byte; 32], ..PeerConfig::default() };
    let mut world = World::with(36, [psk(1), psk(2)]);
    world.send(0, 1);
    world.run_to(secs(4));
    assert!(world.sides.iter().all(|side| side.current.is_none()));
    assert_eq!(world.sides[0].drops, [DropReason::BadHandshake]);
    let peer = world.sides[1].peer;
    let update = PeerUpdate { preshared_key: Some([1; 32]), ..PeerUpdate::default() };
    let now = world.now;
    world.sides[1].endpoint.update_peer(peer, update, now);
    world.run_to(secs(6));
    assert_eq!(world.sides[1].arrived, [1], "by the next attempt");
}

#[test]
fn a_handshake_under_way_does_not_finish_with_a_preshared_key_of_the_past() {
    let mut world = World::new(37);
    world.send(0, 1);
    let (peer, now) = (world.sides[0].peer, world.now);
    let update = PeerUpdate { preshared_key: Some([9; 32]), ..PeerUpdate::default() };
    world.sides[0].endpoint.update_peer(peer, update, now);
    world.run_to(secs(4));
    assert!(world.sides[0].current.is_none());
    assert_eq!(world.sides[0].drops, [DropReason::BadHandshake]);
}

#[test]
fn another_private_key_ends_sessions_and_data_begins_them_again() {
    let mut world = World::new(38);
    world.send(0, 1);
    world.run_to(secs(1));
    let now = world.now;
    let key = [0x33; 32];
    world.sides[0].endpoint.set_private_key(Some(KEYS[0]), now);
    world.pump();
    assert!(world.sides[0].current.is_some(), "the same key changes nothing");
    world.sides[0].endpoint.set_private_key(Some(key), now);
    world.pump();
    assert!(world.sides[0].sessions.is_empty() && world.sides[0].current.is_none());
    let stranger = world.sides[1].peer;
    let config = PeerConfig { endpoint: Some(address(0)), ..PeerConfig::default() };
    world.sides[1].endpoint.remove_peer(stranger, now);
    world.sides[1].peer = world.sides[1].endpoint.add_peer(public_key(key), config, now).expect("room");
    world.send(0, 2);
    world.run_for(secs(1));
    assert_eq!(world.sides[1].arrived, [1, 2]);
    world.sides[1].endpoint.handle_session_wanted(now, stranger);
    world.sides[1].endpoint.handle_active(now, stranger);
    world.sides[1].endpoint.remove_peer(stranger, now);
    assert!(world.sides[1].endpoint.peer(stranger).is_none());
    assert!(world.sides[1].endpoint.peer(world.sides[1].peer).is_some(), "an identifier of the past does no harm");
}

#[test]
fn a_peer_with_our_own_key_is_removed_and_refused() {
    let mut world = World::new(39);
    let now = world.now;
    world.sides[0].endpoint.set_private_key(Some(KEYS[1]), now);
    assert_eq!(world.sides[0].endpoint.peers().count(), 0);
    assert_eq!(world.sides[0].endpoint.add_peer(public_key(KEYS[1]), PeerConfig::default(), now), None);
}

#[test]
fn a_replayed_initiation_is_refused() {
    let mut world = World::new(40);
    world.send(0, 1);
    let first = world.sides[0].last_initiation.clone();
    world.run_to(secs(1));
    world.deliver("203.0.113.9:9".parse().expect("an address"), address(1), &first);
    assert_eq!(world.sides[1].drops, [DropReason::ReplayedHandshake]);
    let view = world.sides[1].endpoint.peer(world.sides[1].peer).expect("a peer");
    assert_eq!(view.endpoint, Some(address(0)), "and moves nothing");
}
