//! Links whose paths come, go and change, between two gateways that prove them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landbridge_proto::candidate::{Behaviour as Mapping, Candidate, CandidateKind, Nat};
use landbridge_proto::endpoint::NatConfig;
use landbridge_proto::{ChannelConfig, Event, PathReason, PathsView, PeerConfig, PeerId, Tier};

use crate::meet::{millis, secs};
use crate::net::nat::{Behaviour, PORT_RESTRICTED, SYMMETRIC};
use crate::net::{INTERNET, Net};

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
/// A relay, where there is one.
pub(crate) const C: usize = 2;

pub(crate) const RELAY: NatConfig =
    NatConfig { direct: true, introduces: true, relays: true, spray: true, mtu_max: 1500 };

pub(crate) fn public(at: u8) -> [u8; 4] {
    [198, 51, 100, at]
}

pub(crate) fn peer(net: &Net, at: usize, other: usize) -> PeerId {
    net.gateways[at].peer(&net.gateways[other])
}

pub(crate) fn paths(net: &Net, at: usize) -> PathsView {
    let id = peer(net, at, 1 - at);
    net.gateways[at].endpoint.peer(id).and_then(|peer| peer.paths).expect("a peer that takes part")
}

/// The tier in use, when it is proven.
pub(crate) fn tier(net: &Net, at: usize) -> Option<Tier> {
    paths(net, at).in_use.filter(|path| path.proven).map(|path| path.tier)
}

/// Every site sends a packet each millisecond (or the other direction is silent), for a time.
pub(crate) fn stream(net: &mut Net, time: Duration, both: bool) {
    let end = net.now + time;
    while net.now < end {
        for at in if both { vec![A, B] } else { vec![A] } {
            let id = peer(net, at, 1 - at);
            let now = net.now;
            net.gateways[at].send(now, id, 7);
        }
        net.run_for(millis(1));
    }
}

/// The longest time in which nothing arrived at a site, since then.
pub(crate) fn longest_gap(net: &Net, at: usize, since: Instant) -> Duration {
    let times: Vec<_> = net.gateways[at].arrived.iter().map(|(when, ..)| *when).filter(|when| *when >= since).collect();
    let edges = [since].into_iter().chain(times).chain([net.now]).collect::<Vec<_>>();
    edges.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Two sites on the internet that know each other's places, and a relay.
pub(crate) fn with_relay(seed: u8) -> Net {
    let mut net = Net::new(seed);
    for at in 1..=3 {
        net.add_gateway(INTERNET, public(at));
    }
    let now = net.now;
    net.gateways[C].endpoint.set_nat_config(now, RELAY);
    for at in [A, B] {
        net.link(at, C);
        net.acquaint(at, 1 - at, PeerConfig::default());
        net.find_candidates(at);
    }
    let linked = |net: &Net| [A, B].iter().all(|at| net.is_linked(*at, C) && net.is_linked(C, *at));
    net.run_until(secs(2), linked).expect("they are linked to the relay");
    net
}

/// Two sites without anybody else; one knows where the other is.
fn alone(seed: u8) -> Net {
    let mut net = Net::new(seed);
    for at in 1..=2 {
        net.add_gateway(INTERNET, public(at));
    }
    net.link(A, B);
    net
}

pub(crate) fn changes(net: &Net, at: usize, since: Instant) -> Vec<(Duration, Tier, PathReason)> {
    let id = peer(net, at, 1 - at);
    let is_ours = |event: &Event| match event {
        Event::PathChanged { peer, path, reason, .. } if *peer == id => Some((path.tier, *reason)),
        _ => None,
    };
    let events = net.gateways[at].events.iter().filter(|(when, _)| *when >= since);
    events.filter_map(|(when, event)| is_ours(event).map(|(tier, reason)| (*when - since, tier, reason))).collect()
}

#[test]
fn a_dead_direct_path_is_left_for_the_relay_and_taken_again_without_loss() {
    for both in [true, false] {
        let mut net = with_relay(1);
        stream(&mut net, secs(5), both);
        assert_eq!((tier(&net, A), tier(&net, B)), (Some(Tier::Direct), Some(Tier::Direct)));
        let (cut, ends) = (net.now, [A, B].map(|at| net.sites[at].address.ip()));
        net.blocked.push((ends[0], ends[1]));
        stream(&mut net, secs(10), both);
        let gap = longest_gap(&net, B, cut);
        assert!(gap < millis(160), "{gap:?} without a packet, {:?}", changes(&net, A, cut));
        assert!(!both || longest_gap(&net, A, cut) < millis(200), "{:?}", changes(&net, B, cut));
        assert_eq!(tier(&net, A), Some(Tier::Relayed));
        // Back again, without a gap.
        net.blocked.clear();
        let back = net.now;
        let before = net.gateways[B].arrived.len();
        stream(&mut net, millis(2500), both);
        assert_eq!(tier(&net, A), Some(Tier::Direct), "{:?}", changes(&net, A, back));
        stream(&mut net, millis(22_500), both);
        assert_eq!(changes(&net, A, back).len(), 1, "{:?}", changes(&net, A, back));
        let arrived = net.gateways[B].arrived.len() - before;
        assert!(arrived >= 25_000 - 25, "{arrived} of 25,000");
        assert!(longest_gap(&net, B, back) < millis(30));
    }
}

#[test]
fn loss_on_a_direct_path_is_no_reason_to_leave_it() {
    let mut net = with_relay(2);
    stream(&mut net, secs(5), true);
    net.loss_percent = 10;
    let then = net.now;
    stream(&mut net, secs(60), true);
    assert!([A, B].iter().all(|at| changes(&net, *at, then).is_empty()), "{:?}", changes(&net, A, then));
    assert!(paths(&net, A).in_use.is_some_and(|path| path.tier == Tier::Direct));
}

#[test]
fn a_nat_that_forgets_its_bindings_is_followed_within_a_second() {
    let mut net = Net::new(3);
    let realm = net.add_box(INTERNET, public(9), SYMMETRIC);
    net.add_gateway(realm, [10, 1, 0, 2]);
    net.add_gateway(INTERNET, public(2));
    net.link(A, B);
    stream(&mut net, secs(5), true);
    let before = paths(&net, B).in_use.map(|path| path.remote);
    net.boxes[0].nat.forget_all();
    let then = net.now;
    stream(&mut net, secs(5), true);
    let after = paths(&net, B).in_use.map(|path| path.remote);
    assert_ne!(before, after);
    assert!(longest_gap(&net, A, then) < secs(1), "{:?} {:?}", longest_gap(&net, A, then), changes(&net, B, then));
    assert!(longest_gap(&net, B, then) < millis(30));
    assert!(net.gateways.iter().all(|gateway| gateway.sent_of(1) <= 1), "in the same session");
}

/// One side with two uplinks.
fn with_uplinks(seed: u8) -> (Net, [IpAddr; 2]) {
    let mut net = alone(seed);
    let uplinks = [IpAddr::from(public(1)), IpAddr::from(public(11))];
    net.sites[A].uplinks.push(uplinks[1]);
    tell_uplinks(&mut net, &uplinks);
    net.find_candidates(B);
    (net, uplinks)
}

fn tell_uplinks(net: &mut Net, uplinks: &[IpAddr]) {
    let of = |ip: &IpAddr| Candidate { kind: CandidateKind::Host, address: SocketAddr::new(*ip, 51820) };
    let candidates: Vec<_> = uplinks.iter().map(of).collect();
    let (now, nat) = (net.now, Nat { mapping: Mapping::None, filtering: Mapping::None });
    net.gateways[A].endpoint.set_own_addresses(uplinks);
    net.gateways[A].endpoint.set_local_candidates(now, &candidates, nat);
}

#[test]
fn a_failed_uplink_moves_its_link_to_the_other_one_in_both_directions() {
    let (mut net, uplinks) = with_uplinks(4);
    stream(&mut net, secs(15), true);
    let used = paths(&net, A).in_use.and_then(|path| path.local).expect("an uplink");
    let other = if used == uplinks[0] { uplinks[1] } else { uplinks[0] };
    let cut = net.now;
    let far = net.sites[B].address.ip();
    net.blocked.push((used, far));
    stream(&mut net, secs(8), true);
    assert_eq!(paths(&net, A).in_use.and_then(|path| path.local), Some(other));
    assert_eq!(paths(&net, B).in_use.map(|path| path.remote.ip()), Some(other));
    let gaps = [A, B].map(|at| longest_gap(&net, at, cut));
    assert!(gaps.iter().all(|gap| *gap < millis(2000)), "{gaps:?}");
}

#[test]
fn the_uplink_that_the_routes_prefer_is_taken_again_without_loss_and_the_other_side_follows() {
    for (seed, first) in [(14, 0), (15, 1)] {
        let (mut net, uplinks) = with_uplinks(seed);
        stream(&mut net, secs(1), true);
        let id = peer(&net, A, B);
        assert!(net.gateways[A].endpoint.has_uplinks_to(id));
        net.gateways[A].endpoint.prefer_local(id, Some(uplinks[first]));
        let ends = |net: &Net| (paths(net, A).in_use.and_then(|path| path.local), paths(net, B).in_use);
        let are_by = |net: &Net, ip: IpAddr| {
            let (local, other) = ends(net);
            (local, other.map(|path| path.remote.ip())) == (Some(ip), Some(ip))
        };
        stream(&mut net, secs(20), true);
        assert!(are_by(&net, uplinks[first]), "{:?}", ends(&net));
        net.blocked.push((uplinks[first], net.sites[B].address.ip()));
        stream(&mut net, secs(5), true);
        assert!(are_by(&net, uplinks[1 - first]), "{:?}", ends(&net));
        net.blocked.clear();
        let back = net.now;
        stream(&mut net, secs(15), true);
        assert!(are_by(&net, uplinks[first]), "{:?}", ends(&net));
        stream(&mut net, secs(60), true);
        assert!([A, B].iter().all(|at| changes(&net, *at, back).len() == 1), "{:?}", changes(&net, B, back));
        assert!([A, B].iter().all(|at| longest_gap(&net, *at, back) < millis(30)));
    }
}

#[test]
fn an_uplink_whose_address_goes_is_left_at_once() {
    let (mut net, uplinks) = with_uplinks(5);
    stream(&mut net, secs(15), true);
    let used = paths(&net, A).in_use.and_then(|path| path.local).expect("an uplink");
    let other = if used == uplinks[0] { uplinks[1] } else { uplinks[0] };
    net.blocked.push((used, net.sites[B].address.ip()));
    let gone = net.now;
    tell_uplinks(&mut net, &[other]);
    stream(&mut net, secs(3), true);
    assert!(longest_gap(&net, B, gone) < millis(30), "{:?}", longest_gap(&net, B, gone));
    assert_eq!(changes(&net, A, gone).first().map(|change| change.2), Some(PathReason::OtherGone));
}

#[test]
fn the_mtu_of_a_path_is_found_and_told_and_follows_a_narrower_one() {
    let mut net = alone(6);
    net.mtu = 1400;
    stream(&mut net, secs(6), true);
    let told = |net: &Net, at: usize| {
        let events = net.gateways[at].events.iter().rev();
        let mtu = events.into_iter().find_map(|(_, event)| match event {
            Event::PathMtuChanged { mtu, .. } => Some(*mtu),
            _ => None,
        });
        mtu.flatten().expect("an MTU")
    };
    for at in [A, B] {
        let inner = told(&net, at);
        assert!((1400 - 60 - 8..=1400 - 60).contains(&inner), "{inner}");
        assert!(paths(&net, at).in_use.and_then(|path| path.mtu).is_some_and(|mtu| (1392..=1400).contains(&mtu)));
    }
    net.mtu = 1300;
    stream(&mut net, secs(50), true);
    assert!((1300 - 60 - 8..=1300 - 60).contains(&told(&net, A)), "{}", told(&net, A));
}

/// A site behind a NAT whose bindings live so long, and one on the internet.
fn behind(seed: u8, lifetime: Duration, source_ports: u8) -> Net {
    let mut net = Net::new(seed);
    let realm = net.add_box(INTERNET, public(9), Behaviour { lifetime, ..PORT_RESTRICTED });
    net.add_gateway(realm, [10, 1, 0, 2]);
    net.add_gateway(INTERNET, public(2));
    net.gateways[A].endpoint.set_channel(ChannelConfig { source_ports, accepts_ports: 0 });
    net.link(A, B);
    net.find_candidates(A);
    net.find_candidates(B);
    net
}

/// Whether a packet from outside reaches the site behind the NAT.
fn is_reached(net: &mut Net) -> bool {
    let (before, now, id) = (net.gateways[A].arrived.len(), net.now, peer(net, B, A));
    net.gateways[B].send(now, id, 7);
    net.run_for(millis(100));
    net.gateways[A].arrived.len() > before
}

#[test]
fn bindings_are_used_as_seldom_as_their_learned_lifetime_allows_and_never_end() {
    for (lifetime_s, interval_s) in [(20, 14), (45, 21), (100, 42), (300, 126)] {
        let mut net = behind(7, secs(lifetime_s), 4);
        stream(&mut net, millis(500), true);
        net.run_for(secs(1200));
        assert_eq!(paths(&net, A).keepalive, Some(secs(interval_s)), "{lifetime_s} s");
        assert_eq!(paths(&net, B).keepalive, None, "no NAT is before it");
        for _ in 0..5 {
            net.run_for(secs(131));
            assert!(is_reached(&mut net), "{lifetime_s} s");
        }
        let lately = |when: &Instant| net.now - *when <= secs(600);
        let sent = net.gateways[A].sent.iter();
        let kept = sent.filter(|(when, kind, _)| *kind == 5 && lately(when)).count() as u64;
        assert!(kept <= 600 / interval_s + 15, "{kept} keepalives in ten minutes");
    }
}

#[test]
fn without_a_spare_port_bindings_are_used_every_twenty_seconds() {
    let mut net = behind(8, secs(25), 0);
    stream(&mut net, millis(500), true);
    for _ in 0..10 {
        net.run_for(secs(70));
        assert!(is_reached(&mut net));
    }
    assert_eq!(paths(&net, A).keepalive, Some(secs(20)));
}

#[test]
fn between_sites_without_a_nat_an_idle_link_is_silent() {
    let mut net = alone(9);
    net.find_candidates(A);
    net.find_candidates(B);
    stream(&mut net, secs(2), true);
    net.run_for(secs(60));
    let then = net.now;
    net.run_for(secs(1200));
    for gateway in &net.gateways {
        assert!(gateway.sent.iter().all(|(when, ..)| *when <= then), "{:?}", gateway.sent.last());
    }
}
