//! Two sites that know each other's key, and an introducer: the link comes up, and stays up. The whole table of NAT kinds is
//! made by `landbridge-bench nat`; here are the pairs that tell most.

use std::time::Duration;

use landbridge::lab::nat::change::leave_and_return;
use landbridge::lab::nat::coming_up::{ComingUp, Patience, come_up};
use landbridge::lab::nat::port_mapper::Protocols;
use landbridge::lab::nat::scene::{Member, Options, Scene};
use landbridge::lab::nat::{Access, Kind};
use landbridge::lab::stop::Stop;
use landbridge::lab::tcp;

use crate::lab::Lab;

/// Generous: what is asked here is whether, and the bench says how soon.
const PATIENCE: Patience = Patience { direct: Duration::from_secs(20), per_second: 100 };
/// Long enough for a search for a port, after which a link that is relayed stays so.
const SHORT: Patience = Patience { direct: Duration::from_secs(6), per_second: 100 };

#[track_caller]
fn comes_up(options: Options, patience: Patience) -> (Scene, ComingUp) {
    let mut scene = Scene::new(options).expect("a scene");
    let seen = come_up(&mut scene, patience, &Stop::default(), |_| {}).expect("gateways that are linked");
    assert!(seen.first_packet.is_some(), "nothing arrived\n{}", scene.logs());
    (scene, seen)
}

#[track_caller]
fn goes_direct(kinds: [Kind; 2]) {
    let Some(lab) = Lab::open() else { return };
    let (scene, seen) = comes_up(lab.scene(kinds), PATIENCE);
    assert!(seen.direct.is_some(), "{:?}\n{}", seen.peers.each_ref().map(|peer| &peer.paths), scene.logs());
}

#[track_caller]
fn is_relayed(kinds: [Kind; 2]) {
    let Some(lab) = Lab::open() else { return };
    let (scene, seen) = comes_up(lab.scene(kinds), SHORT);
    assert_eq!(seen.tier(), Some("relayed"), "{:?}\n{}", seen.peers.each_ref().map(|peer| &peer.paths), scene.logs());
    assert!(seen.lost * 100 <= seen.sent, "{} of {} lost", seen.lost, seen.sent);
}

#[test]
fn two_port_restricted_nats_are_punched() {
    goes_direct([Kind::PortRestricted; 2]);
}

#[test]
fn a_symmetric_nat_reaches_one_that_filters_by_address() {
    goes_direct([Kind::Symmetric, Kind::AddressRestricted]);
}

#[test]
fn two_nats_in_a_row_reach_a_public_address() {
    goes_direct([Kind::Cgnat, Kind::None]);
}

#[test]
fn two_symmetric_nats_are_relayed() {
    is_relayed([Kind::Symmetric; 2]);
}

#[test]
fn a_site_whose_udp_reaches_the_relay_alone_is_relayed() {
    is_relayed([Kind::Blocked, Kind::FullCone]);
}

#[test]
fn a_symmetric_nat_whose_router_maps_a_port_is_reached_by_it() {
    let Some(lab) = Lab::open() else { return };
    let symmetric = Access::new(Kind::Symmetric);
    let options = Options {
        accesses: [vec![symmetric.clone()], vec![symmetric.mappable()]],
        mappers: [None, Some(Protocols::All)],
        ..lab.scene([Kind::Symmetric; 2])
    };
    let (scene, seen) = comes_up(options, PATIENCE);
    assert!(seen.direct.is_some(), "{:?}\n{}", seen.peers.each_ref().map(|peer| &peer.paths), scene.logs());
}

#[test]
fn without_a_relay_the_port_of_a_symmetric_nat_is_searched_for_by_initiations() {
    let Some(lab) = Lab::open() else { return };
    let options = Options { relay: false, ..lab.scene([Kind::Symmetric, Kind::PortRestricted]) };
    // One search in fifty fails, and is made again half a minute later, when both are introduced again.
    let (scene, seen) = comes_up(options, Patience { direct: Duration::from_secs(80), per_second: 20 });
    assert!(seen.direct.is_some(), "{:?}\n{}", seen.peers.each_ref().map(|peer| &peer.paths), scene.logs());
    let stop = Stop::default();
    let moved = tcp::measure(scene.path(), 1, Duration::from_secs(2), &stop, || {}, |_| {}).expect("a connection");
    assert!(moved.bits_per_second > 1e6, "{} bit/s by the port that was found", moved.bits_per_second);
    for at in [0, 1] {
        let peer = scene.peer(Member::Site(at), Member::Site(1 - at)).expect("a status");
        let tier = peer.paths.in_use.and_then(|path| path.tier);
        assert_eq!(tier.as_deref(), Some("direct"), "{}", scene.logs());
    }
}

#[test]
fn sites_without_a_common_protocol_are_relayed_between_them() {
    let Some(lab) = Lab::open() else { return };
    let accesses = [vec![Access::new(Kind::None).ipv6_only()], vec![Access::new(Kind::None)]];
    let (scene, seen) = comes_up(Options { accesses, ..lab.scene([Kind::None; 2]) }, SHORT);
    assert_eq!(seen.tier(), Some("relayed"), "{:?}\n{}", seen.peers.each_ref().map(|peer| &peer.paths), scene.logs());
}

#[test]
fn a_direct_path_that_dies_is_left_for_the_relay_and_taken_again() {
    let Some(lab) = Lab::open() else { return };
    let (mut scene, seen) = comes_up(lab.scene([Kind::PortRestricted; 2]), PATIENCE);
    assert!(seen.direct.is_some(), "{}", scene.logs());
    let changes = leave_and_return(&mut scene, 200, &Stop::default()).expect("gateways that run");
    let [died, back] = changes.changes.as_slice() else { panic!("two changes") };
    assert_eq!(died.tier.as_deref(), Some("relayed"), "{}", scene.logs());
    assert!(back.settled.is_some(), "not direct again\n{}", scene.logs());
    assert_eq!(changes.outside_window, 0);
}
