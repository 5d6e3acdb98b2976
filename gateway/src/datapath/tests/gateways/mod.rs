//! Lanes with the protocol beside them, in virtual time: handshakes that packets ask for, rekeys under traffic, and
//! networks that lose, repeat and reorder.

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use landbridge_proto::DropReason;

use world::{Weather, World};

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Both sites send eight packets in every 200 ms. Returns how many each sent.
fn converse(world: &mut World, time: Duration) -> u32 {
    let mut next = 0;
    while u64::from(next) / 8 * 200 < time.as_millis() as u64 {
        for site in 0..2 {
            world.send(site, next..next + 8);
        }
        next += 8;
        world.run_for(millis(200));
    }
    world.run_for(Duration::from_secs(1));
    next
}

#[test]
fn the_first_packets_begin_a_handshake_and_leave_in_order_when_it_is_done() {
    let mut world = World::new(1);
    world.send(0, 0..50);
    world.run_for(millis(9));
    world.send(0, 50..100);
    assert!(world.sites[1].arrived.is_empty());
    world.run_for(millis(31));
    world.send(0, 100..110);
    world.run_for(millis(20));
    assert!(world.sites[1].arrived.iter().copied().eq(0..110), "{:?}", world.sites[1].arrived);
    assert_eq!([world.sites[0].initiations, world.sites[1].initiations], [1, 0]);
    // The way back needs no handshake of its own.
    world.send(1, 0..10);
    world.run_for(millis(10));
    assert!(world.sites[0].arrived.iter().copied().eq(0..10));
    assert_eq!([world.sites[0].sessions.len(), world.sites[1].sessions.len()], [1, 1]);
    assert!(world.sites.iter().all(|site| site.drops().is_empty() && site.refused.is_empty()));
    world.assert_all_frames_are_home();
}

#[test]
fn when_both_begin_at_once_everything_arrives_in_order() {
    let mut world = World::new(2);
    world.send(0, 0..20);
    world.send(1, 0..20);
    world.run_for(Duration::from_secs(1));
    for site in &world.sites {
        assert!(site.arrived.iter().copied().eq(0..20), "{:?}", site.arrived);
        assert_eq!((site.drops(), site.initiations), (vec![], 1));
    }
    world.assert_all_frames_are_home();
}

#[test]
fn traffic_both_ways_crosses_rekeys_whole_and_in_order() {
    let mut world = World::new(3);
    let sent = converse(&mut world, Duration::from_secs(500));
    for site in &world.sites {
        assert!(site.arrived.iter().copied().eq(0..sent), "{} of {sent}", site.arrived.len());
        assert_eq!((site.drops(), &site.refused), (vec![], &vec![]));
        // At the start, and after every 120 s.
        let ages: Vec<u64> = site.sessions.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert!(ages.len() >= 4 && ages[1..].iter().all(|age| *age == 120), "{ages:?}");
    }
    world.assert_all_frames_are_home();
}

#[test]
fn bad_weather_delivers_nothing_twice_and_costs_little_more_than_what_it_takes() {
    let mut world = World::new(4);
    world.weather = Weather { loss_percent: 5, duplicate_percent: 10, jitter_ms_max: 150 };
    let sent = converse(&mut world, Duration::from_secs(500));
    for site in &world.sites {
        let distinct: BTreeSet<u32> = site.arrived.iter().copied().collect();
        assert_eq!(distinct.len(), site.arrived.len(), "nothing twice");
        assert!(distinct.iter().all(|number| *number < sent));
        // Of those that are sent twice, fewer are lost.
        assert!(distinct.len() as u32 > sent / 100 * 94, "{} of {sent}", distinct.len());
        assert!(!site.arrived.is_sorted(), "they did overtake each other");
        assert!(site.sessions.len() >= 5, "{}", site.sessions.len());
        let reasons: Vec<DropReason> = site.drops().iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, [DropReason::Replayed]);
        let harmless = [DropReason::ReplayedHandshake, DropReason::UnknownIndex];
        assert!(site.refused.iter().all(|reason| harmless.contains(reason)), "{:?}", site.refused);
    }
    world.assert_all_frames_are_home();
}

#[test]
fn packets_for_a_peer_that_is_not_there_are_given_up_and_later_ones_arrive_when_it_is() {
    let mut world = World::new(5);
    world.is_cut = true;
    world.send(0, 0..30);
    world.run_for(Duration::from_secs(89));
    assert_eq!(world.sites[0].drops(), []);
    world.run_for(Duration::from_secs(7));
    assert_eq!(world.sites[0].drops(), [(DropReason::HandshakeFailed, 30)]);
    assert!(world.sites[0].initiations >= 16, "{}", world.sites[0].initiations);
    world.is_cut = false;
    world.send(0, 30..40);
    world.run_for(Duration::from_secs(1));
    assert!(world.sites[1].arrived.iter().copied().eq(30..40), "{:?}", world.sites[1].arrived);
    world.assert_all_frames_are_home();
}

#[test]
fn a_gateway_that_moves_is_followed_by_its_peers_packets() {
    let mut world = World::new(6);
    world.send(0, 0..10);
    world.run_for(Duration::from_secs(1));
    world.sites[0].address = "203.0.113.9:4000".parse().expect("an address");
    world.send(1, 0..10);
    world.run_for(Duration::from_secs(1));
    assert!(world.sites[0].arrived.is_empty(), "nobody is where it was");
    world.send(0, 10..20);
    world.run_for(Duration::from_secs(1));
    world.send(1, 10..20);
    world.run_for(Duration::from_secs(1));
    assert!(world.sites[0].arrived.iter().copied().eq(10..20), "{:?}", world.sites[0].arrived);
    assert!(world.sites[1].arrived.iter().copied().eq(0..20));
    assert_eq!(world.sites[0].sessions.len(), 1, "in the same session");
    world.assert_all_frames_are_home();
}
