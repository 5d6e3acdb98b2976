//! Several source ports for one link, and the channel that agrees on them, in virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use landbridge_proto::endpoint::ChannelView;
use landbridge_proto::{Event, PeerConfig};

use crate::world::{PORT_STEP, Weather, World, address};

/// Source ports beside the main one.
const BESIDE: usize = 4;

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn view(world: &World, side: usize) -> ChannelView {
    let side = &world.sides[side];
    side.endpoint.peer(side.peer).and_then(|peer| peer.channel).expect("a peer with the channel on")
}

fn endpoint(world: &World, side: usize) -> Option<SocketAddr> {
    let side = &world.sides[side];
    side.endpoint.peer(side.peer).and_then(|peer| peer.endpoint)
}

/// Side 0 sends 3,000 packets a second; returns how many.
fn flood(world: &mut World, first: u64, time: Duration) -> u64 {
    let packets = time.as_millis() as u64 * 3;
    for number in 0..packets {
        world.send(0, first + number);
        if number % 3 == 2 {
            world.run_for(Duration::from_millis(1));
        }
    }
    first + packets
}

fn spread_world(seed: u8) -> (World, u64) {
    let mut world = World::new(seed);
    let sent = flood(&mut world, 0, secs(3));
    assert_eq!(view(&world, 0).ports_in_use, BESIDE);
    (world, sent)
}

fn handshakes(world: &World) -> usize {
    world.sides.iter().map(|side| side.sent_of(1).len()).sum()
}

#[test]
fn a_busy_link_leaves_by_all_ports_and_stays_one_session_at_one_endpoint() {
    let (mut world, sent) = spread_world(61);
    let before = world.sides[0].slots;
    let sent = flood(&mut world, sent, secs(3));
    world.run_for(secs(1));
    let used: Vec<u64> = (0..=BESIDE).map(|slot| world.sides[0].slots[slot] - before[slot]).collect();
    assert!(used.iter().all(|packets| *packets > 500), "{used:?}");
    assert_eq!(world.sides[0].slots[BESIDE + 1..].iter().sum::<u64>(), 0);
    assert_eq!(world.arrived_set(1).len() as u64, sent);
    assert_eq!((view(&world, 1).ports_heard, view(&world, 1).ports_in_use), (BESIDE, 0));
    assert_eq!((endpoint(&world, 1), handshakes(&world)), (Some(address(0)), 1));
    assert!(world.sides.iter().all(|side| side.drops.is_empty()));
    let moved = |event: &Event| matches!(event, Event::EndpointChanged { .. });
    assert!(!world.sides[1].events.iter().skip(1).any(|(_, event)| moved(event)), "no roaming between ports");
    // Idle again, it goes back to one port, and the other side forgets the others.
    world.run_for(secs(40));
    assert_eq!((view(&world, 0).ports_in_use, view(&world, 1).ports_heard), (0, 0));
}

#[test]
fn a_quiet_link_uses_one_port_and_says_little_more_than_hello() {
    let mut world = World::new(62);
    for number in 0..600 {
        world.send(number as usize % 2, number);
        world.run_for(Duration::from_millis(100));
    }
    // Hellos, the proof of the path and its MTU, and a measurement in ten seconds.
    assert!(world.sides.iter().all(|side| side.sent_of(6).len() <= 30));
    assert!(world.sides.iter().all(|side| side.slots[1..].iter().sum::<u64>() == 0));
    assert_eq!(view(&world, 0).features, view(&world, 1).features);
    assert!(view(&world, 0).features.is_some());
}

#[test]
fn a_hello_wakes_no_idle_link_and_is_no_traffic() {
    let mut world = World::new(63);
    world.send(0, 1);
    world.run_for(secs(600));
    // One handshake, its packet and keepalives, one hello and its answer, and what proves the path; nothing begins a
    // second session, and nothing is said on an idle link.
    assert_eq!(handshakes(&world), 1);
    assert!(world.sides.iter().all(|side| side.sent_of(6).len() <= 10));
    assert!(world.sides.iter().all(|side| side.sent_of(6).iter().all(|at| *at < secs(30))));
    assert!(world.sides.iter().map(|side| side.sent_of(5).len()).sum::<usize>() <= 2);
}

#[test]
fn a_stock_peer_sees_one_port_and_ever_fewer_hellos() {
    let stock = PeerConfig { without_channel: true, ..PeerConfig::default() };
    let mut world = World::with(64, [PeerConfig::default(), stock]);
    flood(&mut world, 0, secs(5));
    assert_eq!(world.sides[0].sent_of(6).len(), 2, "one, and another as the first may have been lost");
    for number in 0..3600 {
        world.send(0, 100_000 + number);
        world.run_for(secs(1));
    }
    let hellos = world.sides[0].sent_of(6);
    assert!(hellos.len() <= 11, "{} hellos in an hour of thirty sessions", hellos.len());
    assert_eq!(world.sides[0].slots[1..].iter().sum::<u64>(), 0);
    assert_eq!((view(&world, 0).features, world.sides[1].sent_of(6).len()), (None, 0));
}

#[test]
fn ports_behind_a_nat_are_followed_where_they_show_up() {
    let mut world = World::new(65);
    world.mapped_by[0] = 7;
    let sent = flood(&mut world, 0, secs(4));
    world.run_for(secs(1));
    assert_eq!((view(&world, 0).ports_in_use, view(&world, 1).ports_heard), (BESIDE, BESIDE));
    let mapped = SocketAddr::new(address(0).ip(), address(0).port() + 7);
    assert_eq!(endpoint(&world, 1), Some(mapped));
    let alternates = world.sides[1].alternates.as_ref().expect("ports that were heard");
    assert_eq!(alternates.slot_of(SocketAddr::new(mapped.ip(), mapped.port() - PORT_STEP), None), Some(1));
    assert_eq!(world.arrived_set(1).len() as u64, sent);
}

#[test]
fn a_nat_that_lets_one_port_in_is_found_out_with_three_probes() {
    let mut world = World::new(66);
    world.restricted[1] = true;
    world.send(1, 0);
    world.run_for(secs(1));
    let sent = flood(&mut world, 0, secs(20));
    world.run_for(secs(1));
    assert_eq!(world.sides[0].slots[1], 3);
    assert_eq!(world.sides[0].slots[2..].iter().sum::<u64>(), 0);
    assert!(view(&world, 0).ports_refused);
    assert_eq!(world.arrived_set(1).len() as u64, sent, "no packet is lost by trying");
    assert_eq!(endpoint(&world, 1), Some(address(0)));
}

#[test]
fn a_nat_that_begins_to_refuse_ports_costs_a_few_seconds_of_their_flows() {
    let (mut world, sent) = spread_world(67);
    world.restricted[1] = true;
    let sent = flood(&mut world, sent, secs(5));
    assert_eq!(view(&world, 0).ports_in_use, 0);
    world.run_for(Duration::from_millis(100));
    let arrived = world.sides[1].arrived.len();
    flood(&mut world, sent, secs(3));
    world.run_for(secs(1));
    assert_eq!(world.sides[1].arrived.len() - arrived, 9_000);
}

#[test]
fn loss_on_the_way_keeps_ports_in_use_and_nothing_arrives_twice() {
    let mut world = World::new(68);
    world.weather = Weather { loss_percent: 5, duplicate_percent: 5, jitter_ms_max: 20 };
    let mut sent = 0;
    let mut ports = 0;
    for _ in 0..10 {
        sent = flood(&mut world, sent, secs(1));
        ports = ports.max(view(&world, 0).ports_in_use);
    }
    world.run_for(secs(1));
    assert!(ports >= BESIDE - 1, "{ports} ports at most");
    let arrived = world.sides[1].arrived.len();
    assert_eq!(world.arrived_set(1).len(), arrived);
    assert!(arrived as u64 * 100 > sent * 93, "{arrived} of {sent}");
}

#[test]
fn a_side_that_moves_is_followed_and_its_ports_are_proven_again() {
    let (mut world, sent) = spread_world(69);
    let elsewhere = SocketAddr::new([198, 51, 100, 7].into(), 40_000);
    world.sides[0].address = elsewhere;
    let sent = flood(&mut world, sent, secs(1));
    assert_eq!(endpoint(&world, 1), Some(elsewhere), "its main port, not one of the others");
    let moved = |event: &Event| matches!(event, Event::EndpointChanged { .. });
    let moves = world.sides[1].events.iter().filter(|(at, event)| *at > secs(3) && moved(event)).count();
    assert!(moves < 200, "{moves} moves within one round trip of 20 ms");
    flood(&mut world, sent, secs(3));
    assert_eq!((view(&world, 0).ports_in_use, view(&world, 1).ports_heard), (BESIDE, BESIDE));
    assert_eq!(handshakes(&world), 1);
}

#[test]
fn a_peer_that_moves_is_sent_to_from_the_main_port_until_the_others_are_proven_there() {
    let (mut world, sent) = spread_world(70);
    let elsewhere = SocketAddr::new([198, 51, 100, 8].into(), 40_000);
    world.sides[1].address = elsewhere;
    world.restricted[1] = true;
    // It was heard from a moment ago where it was: that this is over is asked first.
    for number in 1..=30 {
        world.send(1, number);
        world.run_for(Duration::from_millis(10));
    }
    assert_eq!((endpoint(&world, 0), view(&world, 0).ports_in_use), (Some(elsewhere), 0));
    flood(&mut world, sent, secs(3));
    assert!(view(&world, 0).ports_refused);
}

#[test]
fn a_peer_that_restarts_learns_the_ports_again() {
    let (mut world, sent) = spread_world(71);
    world.restart(1, 99);
    // It begins as it has packets of its own; what it hears meanwhile belongs to no session of its.
    world.send(1, 5);
    let sent = flood(&mut world, sent, secs(1));
    world.run_for(Duration::from_millis(100));
    let arrived = world.sides[1].arrived.len();
    let sent = flood(&mut world, sent, secs(4));
    world.run_for(secs(1));
    assert_eq!(world.sides[1].arrived.len() - arrived, 12_000, "of {sent}");
    assert_eq!(endpoint(&world, 1), Some(address(0)));
    assert_eq!((view(&world, 0).ports_in_use, view(&world, 1).ports_heard), (BESIDE, BESIDE));
}

#[test]
fn ports_stay_in_use_across_rekeys() {
    let (mut world, mut sent) = spread_world(72);
    // Time passes faster than the flood: enough to keep the link busy, and a rekey in between.
    for _ in 0..130 {
        sent = flood(&mut world, sent, Duration::from_millis(250));
        world.run_for(Duration::from_millis(750));
    }
    assert_eq!(handshakes(&world), 2);
    assert_eq!(view(&world, 0).ports_in_use, BESIDE);
    assert_eq!(world.arrived_set(1).len() as u64, sent);
}
