//! Candidates that two gateways tell each other, in virtual time.

use std::time::Duration;

use landbridge_proto::{Behaviour, Candidate, CandidateKind, DropReason, Nat, PeerConfig};

use crate::world::{Weather, World, address};

const NAT: Nat = Nat { mapping: Behaviour::EndpointIndependent, filtering: Behaviour::AddressDependent };

fn candidate(text: &str) -> Candidate {
    Candidate { kind: CandidateKind::Host, address: text.parse().expect("a place") }
}

fn heard(world: &World, side: usize) -> (Vec<Candidate>, Nat) {
    let side = &world.sides[side];
    let paths = side.endpoint.peer(side.peer).and_then(|peer| peer.paths);
    let paths = paths.expect("a peer that takes part");
    let said = paths.candidates.iter().map(|view| view.candidate).filter(|one| one.kind == CandidateKind::Host);
    (said.collect(), paths.nat)
}

#[test]
fn candidates_are_told_when_a_link_comes_up_and_when_they_change_however_many_messages_are_lost() {
    let mut world = World::new(81);
    let first = [candidate("192.0.2.1:51820"), candidate("198.51.100.7:40000")];
    world.sides[0].endpoint.set_local_candidates(world.now, &first, NAT);
    world.weather = Weather { loss_percent: 30, ..Weather::default() };
    world.send(0, 1);
    world.run_for(Duration::from_secs(20));
    assert_eq!(heard(&world, 1), (first.to_vec(), NAT));
    let second = [candidate("203.0.113.9:51820")];
    world.sides[0].endpoint.set_local_candidates(world.now, &second, Nat::default());
    world.pump();
    world.run_for(Duration::from_secs(10));
    assert_eq!(heard(&world, 1), (second.to_vec(), Nat::default()));
    assert_eq!(heard(&world, 0), (vec![], Nat::default()), "the other side never said any");
}

#[test]
fn candidates_that_lead_nowhere_or_back_are_refused_and_counted() {
    let mut world = World::new(82);
    world.sides[1].endpoint.set_own_addresses(&[address(1).ip()]);
    let bad = ["224.0.0.1:9", "127.0.0.1:9", "0.0.0.0:9", "192.0.2.2:51820", "198.51.100.7:40000"].map(candidate);
    world.sides[0].endpoint.set_local_candidates(world.now, &bad, NAT);
    world.send(0, 1);
    world.run_for(Duration::from_secs(5));
    assert_eq!(heard(&world, 1).0, [candidate("198.51.100.7:40000")]);
    assert_eq!(world.sides[1].drops, [DropReason::CandidateRefused]);
    assert_eq!(world.sides[1].endpoint.channel_counters().candidates_refused, 4);
}

#[test]
fn a_peer_that_may_not_see_us_is_told_nothing() {
    let hidden = PeerConfig { direct: Some(false), ..PeerConfig::default() };
    let mut world = World::with(83, [hidden, PeerConfig::default()]);
    world.sides[0].endpoint.set_local_candidates(world.now, &[candidate("192.0.2.1:51820")], NAT);
    world.send(0, 1);
    world.run_for(Duration::from_secs(5));
    assert_eq!(heard(&world, 1), (vec![], Nat::default()));
}

#[test]
fn a_stock_peer_is_told_nothing_of_paths() {
    let stock = PeerConfig { without_channel: true, ..PeerConfig::default() };
    let mut world = World::with(84, [PeerConfig::default(), stock]);
    world.sides[0].endpoint.set_local_candidates(world.now, &[candidate("192.0.2.1:51820")], NAT);
    world.send(0, 1);
    world.run_for(Duration::from_secs(20));
    assert!(world.sides[0].endpoint.peer(world.sides[0].peer).is_some_and(|peer| peer.paths.is_none()));
    assert!(world.sides[0].sent_of(6).len() <= 3, "hellos alone");
}

#[test]
fn places_of_a_family_that_we_have_no_address_of_are_not_tried_until_we_have_one() {
    let mut world = World::new(85);
    world.sides[1].endpoint.set_families(world.now, [true, false]);
    let both = [candidate("198.51.100.7:40000"), candidate("[2001:db8::7]:51820")];
    world.sides[0].endpoint.set_local_candidates(world.now, &both, NAT);
    world.send(0, 1);
    world.run_for(Duration::from_secs(20));
    assert_eq!(heard(&world, 1).0, both[..1]);
    assert_eq!(world.sides[1].endpoint.channel_counters().candidates_refused, 0, "the peer said nothing wrong");
    assert_eq!(world.sides[1].drops, []);
    world.sides[1].endpoint.set_families(world.now, [true, true]);
    world.run_for(Duration::from_secs(5));
    assert_eq!(heard(&world, 1).0, both);
    world.sides[1].endpoint.set_families(world.now, [false, true]);
    world.run_for(Duration::from_secs(1));
    assert_eq!(heard(&world, 1).0, both[1..]);
}
