//! Two gateways that know each other's keys and one common gateway, behind every kind of NAT.

use std::net::SocketAddr;
use std::time::Duration;

use landbridge_proto::candidate::{Candidate, CandidateKind, Nat};
use landbridge_proto::endpoint::NatConfig;
use landbridge_proto::{Event, PeerConfig, Tier};

use crate::net::nat::{Behaviour, By, FULL_CONE, PORT_RESTRICTED, RESTRICTED, SYMMETRIC};
use crate::net::{INTERNET, Net, Realm};

const A: usize = 0;
const B: usize = 1;
/// The common gateway.
const C: usize = 2;

pub(crate) fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub(crate) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const NO_NAT: Option<Behaviour> = None;

/// What is between a site and the internet.
type Before = Option<Behaviour>;

/// A realm behind a box of this kind, or the internet.
fn realm(net: &mut Net, at: u8, before: Before) -> (Realm, [u8; 4]) {
    match before {
        Some(behaviour) => (net.add_box(INTERNET, [198, 51, 100, at], behaviour), [10, at, 0, 2]),
        None => (INTERNET, [198, 51, 100, at]),
    }
}

/// Two sites that know where `C` is, and nothing else.
struct Meeting {
    net: Net,
}

impl Meeting {
    fn new(seed: u8, before: [Before; 2], common: NatConfig) -> Self {
        let mut net = Net::new(seed);
        for (at, before) in before.into_iter().enumerate() {
            let (realm, address) = realm(&mut net, at as u8 + 1, before);
            net.add_gateway(realm, address);
        }
        net.add_gateway(INTERNET, [192, 0, 2, 1]);
        Self::of(net, common)
    }

    /// Of a net whose first two gateways are the sites, and the third the common one.
    fn of(mut net: Net, common: NatConfig) -> Self {
        net.gateways[C].endpoint.set_nat_config(net.now, common);
        for at in [A, B] {
            net.link(at, C);
            net.acquaint(at, 1 - at, PeerConfig::default());
            net.find_candidates(at);
        }
        Self { net }
    }

    /// Until both have a session with the common gateway, and how long that took.
    fn link(&mut self) {
        let linked = |net: &Net| [A, B].iter().all(|at| net.is_linked(*at, C) && net.is_linked(C, *at));
        self.net.run_until(secs(2), linked).expect("they are linked to the common gateway");
    }

    /// Traffic begins at one site, five packets a second; how long the first one takes to arrive, and by which place.
    fn first_packet(&mut self, from: usize) -> Option<(Duration, SocketAddr)> {
        let peer = self.net.gateways[from].peer(&self.net.gateways[1 - from]);
        let (begun, before) = (self.net.now, self.net.gateways[1 - from].arrived.len());
        while self.net.now - begun < secs(30) {
            self.net.gateways[from].send(self.net.now, peer, 7);
            let came = |net: &Net| net.gateways[1 - from].arrived.len() > before;
            if self.net.run_until(millis(200), came).is_some() {
                return Some((self.net.now - begun, self.net.gateways[1 - from].arrived[before].2));
            }
        }
        None
    }
}

impl Net {
    /// One gateway knows another one, and where it is.
    pub(crate) fn link(&mut self, at: usize, other: usize) {
        let endpoint = Some(self.sites[other].address);
        self.acquaint(at, other, PeerConfig { endpoint, ..PeerConfig::default() });
        self.acquaint(other, at, PeerConfig::default());
    }

    /// One gateway knows another one's key.
    pub(crate) fn acquaint(&mut self, at: usize, other: usize, config: PeerConfig) {
        let key = self.gateways[other].public_key();
        self.gateways[at].endpoint.add_peer(key, config, self.now).expect("room for a peer");
    }

    /// A gateway knows its own address.
    pub(crate) fn find_candidates(&mut self, at: usize) {
        let own = self.sites[at].address;
        let host = Candidate { kind: CandidateKind::Host, address: own };
        let endpoint = &mut self.gateways[at].endpoint;
        endpoint.set_own_addresses(&[own.ip()]);
        endpoint.set_local_candidates(self.now, &[host], Nat::default());
    }

    /// It finds out what is before it.
    fn find_out(&mut self, at: usize, nat: Nat) {
        let list = self.gateways[at].endpoint.local_candidates().0.to_vec();
        self.gateways[at].endpoint.set_local_candidates(self.now, &list, nat);
    }

    pub(crate) fn is_linked(&self, at: usize, other: usize) -> bool {
        let peer = self.gateways[at].peer(&self.gateways[other]);
        self.gateways[at].linked_at(peer).is_some()
    }
}

const INTRODUCER: NatConfig = NatConfig { direct: true, introduces: true, relays: false, spray: true, mtu_max: 1500 };
const RELAY: NatConfig = NatConfig { introduces: false, relays: true, ..INTRODUCER };
const BOTH: NatConfig = NatConfig { relays: true, ..INTRODUCER };

const KINDS: [Before; 5] = [NO_NAT, Some(FULL_CONE), Some(RESTRICTED), Some(PORT_RESTRICTED), Some(SYMMETRIC)];

/// Both sites' kinds, by their places in [`KINDS`].
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..KINDS.len() * KINDS.len()).map(|pair| (pair / KINDS.len(), pair % KINDS.len()))
}

/// Whether packets of both reach each other without knowing ports beforehand: a box that maps by the remote place meets
/// only one that lets in whoever comes from an address.
fn can_be_punched(first: usize, second: usize) -> bool {
    !(first.max(second) == 4 && first.min(second) >= 3)
}

#[test]
fn sites_meet_at_once_by_what_an_introducer_says_wherever_their_boxes_let_them() {
    for (first, second) in pairs() {
        let mut meeting = Meeting::new(1, [KINDS[first], KINDS[second]], INTRODUCER);
        meeting.link();
        let came = meeting.first_packet(A);
        assert_eq!(came.is_some(), can_be_punched(first, second), "{first} {second}");
        // A round trip to the introducer takes 20 ms, and so does one between the sites.
        assert!(came.is_none_or(|(took, _)| took <= millis(120)), "{first} {second}: {came:?}");
    }
}

#[test]
fn with_a_relay_the_first_packet_takes_no_longer_wherever_the_sites_are() {
    for (first, second) in pairs() {
        for common in [RELAY, BOTH] {
            let mut meeting = Meeting::new(2, [KINDS[first], KINDS[second]], common);
            meeting.link();
            let (took, from) = meeting.first_packet(A).expect("it arrives");
            assert!(took <= millis(120), "{first} {second}: {took:?}");
            let relayed = from.ip() == meeting.net.sites[C].address.ip();
            assert!(relayed || common.introduces, "{from}");
            assert_eq!(meeting.net.gateways[C].forwarder.len(), 1, "one allocation");
        }
    }
}

/// Whether a site sends to the other one directly, by a path that is proven.
fn is_direct(net: &Net, at: usize) -> bool {
    let peer = net.gateways[at].peer(&net.gateways[1 - at]);
    let Some(view) = net.gateways[at].endpoint.peer(peer) else { return false };
    let path = view.paths.and_then(|paths| paths.in_use);
    path.is_some_and(|path| path.proven && path.tier < Tier::Relayed && Some(path.remote) == view.endpoint)
}

#[test]
fn links_that_begin_over_a_relay_go_direct_within_a_second_where_that_can_be() {
    for (first, second) in pairs() {
        let mut meeting = Meeting::new(11, [KINDS[first], KINDS[second]], BOTH);
        meeting.link();
        let begun = meeting.net.now;
        meeting.first_packet(A).expect("it arrives");
        let direct = meeting.net.run_until(secs(10), |net| is_direct(net, A) && is_direct(net, B));
        assert_eq!(direct.is_some(), can_be_punched(first, second), "{first} {second}");
        let took = meeting.net.now - begun;
        assert!(direct.is_none() || took < secs(1), "{first} {second}: {took:?}");
    }
}

/// Sessions that a gateway began or answered with the other site.
fn sessions(net: &Net, at: usize) -> usize {
    let peer = net.gateways[at].peer(&net.gateways[1 - at]);
    let is_ours = |event: &Event| matches!(event, Event::SessionStarted { session, .. } if session.peer == peer);
    net.gateways[at].events.iter().filter(|(_, event)| is_ours(event)).count()
}

#[test]
fn when_both_begin_one_session_comes_of_it_and_copies_of_messages_cost_nothing() {
    for (first, second) in [(3, 3), (0, 3), (2, 4), (1, 1)] {
        let mut meeting = Meeting::new(3, [KINDS[first], KINDS[second]], INTRODUCER);
        meeting.link();
        meeting.first_packet(B).expect("it arrives");
        meeting.net.run_for(secs(4));
        assert_eq!((sessions(&meeting.net, A), sessions(&meeting.net, B)), (1, 1), "{first} {second}");
        for at in [A, B] {
            let gateway = &meeting.net.gateways[at];
            assert!(gateway.sent_of(2) <= 5, "answers to copies are bounded");
            assert!(!gateway.events.iter().any(|(_, event)| matches!(event, Event::HandshakeRetried { .. })));
        }
    }
}

#[test]
fn sites_meet_however_many_datagrams_are_lost() {
    for seed in 0..12 {
        let mut meeting = Meeting::new(seed, [Some(PORT_RESTRICTED); 2], BOTH);
        meeting.link();
        meeting.net.loss_percent = 30;
        let (took, _) = meeting.first_packet(A).unwrap_or_else(|| panic!("nothing arrives, seed {seed}"));
        assert!(took < secs(12), "{took:?}");
    }
}

#[test]
fn behind_one_box_sites_meet_by_their_own_addresses_and_behind_two_in_a_row_by_the_outer_one() {
    let mut net = Net::new(5);
    let carrier = net.add_box(INTERNET, [198, 51, 100, 1], PORT_RESTRICTED);
    let homes = [1, 2].map(|at| net.add_box(carrier, [100, 64, 0, at], PORT_RESTRICTED));
    for (at, realm) in homes.into_iter().enumerate() {
        net.add_gateway(realm, [10, at as u8, 0, 2]);
    }
    net.boxes[0].nat.behaviour.hairpin = true;
    net.add_gateway(INTERNET, [192, 0, 2, 1]);
    let mut meeting = Meeting::of(net, INTRODUCER);
    meeting.link();
    let (_, from) = meeting.first_packet(A).expect("it arrives by the hairpin");
    assert_eq!(from.ip(), meeting.net.boxes[0].nat.address);

    let mut net = Net::new(5);
    let home = net.add_box(INTERNET, [198, 51, 100, 1], SYMMETRIC);
    for at in [1, 2] {
        net.add_gateway(home, [10, 0, 0, at]);
    }
    net.add_gateway(INTERNET, [192, 0, 2, 1]);
    let mut meeting = Meeting::of(net, INTRODUCER);
    meeting.link();
    let (_, from) = meeting.first_packet(A).expect("it arrives within the site");
    assert_eq!(from, meeting.net.sites[A].address);
}

#[test]
fn a_site_that_restarts_is_found_again_by_the_one_that_still_holds_the_link() {
    let mut meeting = Meeting::new(6, [Some(PORT_RESTRICTED); 2], INTRODUCER);
    meeting.link();
    meeting.first_packet(A).expect("it arrives");
    meeting.net.run_for(secs(10));
    let now = meeting.net.now;
    meeting.net.gateways[B].restart(now, 77);
    let endpoint = Some(meeting.net.sites[C].address);
    meeting.net.acquaint(B, C, PeerConfig { endpoint, ..PeerConfig::default() });
    meeting.net.acquaint(B, A, PeerConfig::default());
    meeting.net.find_candidates(B);
    let (took, _) = meeting.first_packet(B).expect("it arrives");
    assert!(took < secs(1), "{took:?}");
}

#[test]
fn who_is_not_sought_stays_unknown_and_learns_nothing() {
    let mut meeting = Meeting::new(7, [NO_NAT, NO_NAT], BOTH);
    // B is configured with A, A is not with B.
    let b = meeting.net.gateways[A].peer(&meeting.net.gateways[B]);
    let now = meeting.net.now;
    meeting.net.gateways[A].endpoint.remove_peer(b, now);
    meeting.link();
    let a = meeting.net.gateways[B].peer(&meeting.net.gateways[A]);
    meeting.net.gateways[B].send(now, a, 7);
    meeting.net.run_for(secs(120));
    let told = |at: usize| meeting.net.gateways[at].endpoint.peer(a).map(|peer| peer.endpoint);
    assert_eq!(told(B), Some(None), "it has learned no place");
    let own = meeting.net.sites[A].address;
    assert!(meeting.net.gateways[B].sent.iter().all(|(.., to)| *to != own), "nothing was sent there");
    assert_eq!(meeting.net.gateways[C].forwarder.len(), 0);
}

#[test]
fn a_site_that_hides_is_reached_by_relay_alone() {
    let mut meeting = Meeting::new(8, [NO_NAT, NO_NAT], BOTH);
    let now = meeting.net.now;
    meeting.net.gateways[A].endpoint.set_nat_config(now, NatConfig { direct: false, ..NatConfig::default() });
    meeting.link();
    let (took, from) = meeting.first_packet(B).expect("it arrives");
    assert!(took <= millis(120), "{took:?}");
    assert_eq!(from.ip(), meeting.net.sites[C].address.ip());
    meeting.net.run_for(secs(30));
    for (at, other) in [(A, B), (B, A)] {
        let hidden = meeting.net.sites[other].address.ip();
        assert!(meeting.net.gateways[at].sent.iter().all(|(.., to)| to.ip() != hidden), "{at} knows {other}");
    }
}

/// Sites with a second common gateway.
fn with_two_common(before: [Before; 2], common: NatConfig) -> (Meeting, usize) {
    let mut meeting = Meeting::new(9, before, common);
    let second = meeting.net.add_gateway(INTERNET, [192, 0, 2, 2]);
    let now = meeting.net.now;
    meeting.net.gateways[second].endpoint.set_nat_config(now, common);
    for at in [A, B] {
        meeting.net.link(at, second);
    }
    (meeting, second)
}

#[test]
fn an_introducer_that_dies_is_replaced_by_another() {
    for at in [0, 1] {
        let (mut meeting, second) = with_two_common([Some(PORT_RESTRICTED); 2], INTRODUCER);
        let both = [C, second];
        meeting.net.sites[both[at]].cut = true;
        let linked = |net: &Net| [A, B].iter().all(|site| net.is_linked(*site, both[1 - at]));
        meeting.net.run_until(secs(10), linked).expect("both are tried");
        let (took, _) = meeting.first_packet(A).expect("it arrives");
        assert!(took <= millis(120), "{took:?}");
    }
}

#[test]
fn a_link_that_is_relayed_has_a_second_relay_to_stand_by() {
    let (mut meeting, second) = with_two_common([Some(SYMMETRIC); 2], BOTH);
    meeting.link();
    meeting.first_packet(A).expect("it arrives");
    meeting.net.run_for(secs(5));
    let standing = |net: &Net| [C, second].iter().all(|at| net.gateways[*at].forwarder.len() == 1);
    meeting.net.run_until(secs(10), standing).expect("both relays stand by");
}

#[test]
fn allocations_last_as_long_as_both_ends_and_are_made_again_after_a_relay_restarts() {
    let mut meeting = Meeting::new(10, [Some(SYMMETRIC); 2], RELAY);
    meeting.link();
    meeting.first_packet(A).expect("it arrives");
    meeting.net.run_for(secs(100));
    assert_eq!(meeting.net.gateways[C].forwarder.len(), 1, "it is bound again and again");
    let now = meeting.net.now;
    meeting.net.gateways[C].restart(now, 99);
    meeting.net.gateways[C].endpoint.set_nat_config(now, RELAY);
    for at in [A, B] {
        meeting.net.acquaint(C, at, PeerConfig::default());
    }
    assert_eq!(meeting.net.gateways[C].forwarder.len(), 0);
    let again = meeting.net.run_until(secs(60), |net| net.gateways[C].forwarder.len() == 1);
    assert!(again.is_some_and(|took| took < secs(40)), "{again:?}");
    meeting.net.sites[B].cut = true;
    let freed = meeting.net.run_until(secs(120), |net| net.gateways[C].forwarder.len() == 0);
    assert!(freed.is_some_and(|took| took < secs(65)), "{freed:?}");
}

impl Meeting {
    /// Traffic in both directions, ten packets a second, until something holds; how long that took.
    fn talk_until(&mut self, at_most: Duration, holds: impl Fn(&Net) -> bool) -> Option<Duration> {
        let begun = self.net.now;
        while self.net.now - begun < at_most {
            for at in [A, B] {
                let peer = self.net.gateways[at].peer(&self.net.gateways[1 - at]);
                self.net.gateways[at].send(self.net.now, peer, 1);
            }
            if self.net.run_until(millis(100), &holds).is_some() {
                return Some(self.net.now - begun);
            }
        }
        None
    }
}

/// What a gateway finds out of the box before it.
fn nat_of(before: Before) -> Nat {
    let by = |by| match by {
        By::Nothing => landbridge_proto::Behaviour::EndpointIndependent,
        By::Address => landbridge_proto::Behaviour::AddressDependent,
        By::AddressAndPort => landbridge_proto::Behaviour::AddressAndPortDependent,
    };
    let none = landbridge_proto::Behaviour::None;
    before.map_or(Nat { mapping: none, filtering: none }, |kind| Nat {
        mapping: by(kind.mapping),
        filtering: by(kind.filtering),
    })
}

#[test]
fn where_one_box_draws_ports_and_the_other_keeps_them_the_port_is_searched_for_and_found() {
    for (seed, (first, second)) in (0..6).flat_map(|seed| [(seed, (3, 4)), (seed, (4, 3))]) {
        let mut meeting = Meeting::new(seed, [KINDS[first], KINDS[second]], BOTH);
        for (at, kind) in [(A, first), (B, second)] {
            meeting.net.find_out(at, nat_of(KINDS[kind]));
        }
        meeting.link();
        let took = meeting.talk_until(secs(5), |net| is_direct(net, A) && is_direct(net, B)).expect("it is found");
        assert!(took < secs(1), "{first} {second} {seed}: {took:?}");
        meeting.talk_until(secs(30), |_| false);
        assert!(is_direct(&meeting.net, A) && is_direct(&meeting.net, B), "it lasts");
        let wanted = |at: usize| {
            let events = meeting.net.gateways[at].events.iter();
            events.filter(|(_, event)| matches!(event, Event::SprayWanted { .. })).count()
        };
        assert_eq!((wanted(A), wanted(B)), (usize::from(first == 4), usize::from(second == 4)));
    }
}

#[test]
fn without_a_relay_the_port_is_searched_for_once_an_introducer_has_told_what_boxes_there_are() {
    for (seed, (first, second)) in (30..36).flat_map(|seed| [(seed, (3, 4)), (seed, (4, 3))]) {
        let mut meeting = Meeting::new(seed, [KINDS[first], KINDS[second]], INTRODUCER);
        for (at, kind) in [(A, first), (B, second)] {
            meeting.net.find_out(at, nat_of(KINDS[kind]));
        }
        meeting.link();
        let took = meeting.talk_until(secs(5), |net| is_direct(net, A) && is_direct(net, B)).expect("it is found");
        assert!(took < secs(1), "{first} {second} {seed}: {took:?}");
        meeting.talk_until(secs(30), |_| false);
        assert!(is_direct(&meeting.net, A) && is_direct(&meeting.net, B), "it lasts");
        assert_eq!((sessions(&meeting.net, A), sessions(&meeting.net, B)), (1, 1), "{first} {second} {seed}");
    }
}

#[test]
fn a_site_that_seeks_several_others_searches_for_the_ports_of_all_of_them() {
    const OTHERS: usize = 5;
    let mut net = Net::new(40);
    for at in 0..=OTHERS {
        let kind = if at == 0 { SYMMETRIC } else { PORT_RESTRICTED };
        let realm = net.add_box(INTERNET, [198, 51, 100, at as u8 + 1], kind);
        net.add_gateway(realm, [10, at as u8, 0, 2]);
    }
    let common = net.add_gateway(INTERNET, [192, 0, 2, 1]);
    net.gateways[common].endpoint.set_nat_config(net.now, INTRODUCER);
    for at in 0..=OTHERS {
        net.link(at, common);
        net.find_candidates(at);
        net.find_out(at, nat_of(Some(if at == 0 { SYMMETRIC } else { PORT_RESTRICTED })));
        if at > 0 {
            net.acquaint(at, 0, PeerConfig::default());
            net.acquaint(0, at, PeerConfig::default());
        }
    }
    let linked = |net: &Net| (1..=OTHERS).all(|at| net.is_linked(0, at) && net.is_linked(at, 0));
    for _ in 0..120 {
        for at in 1..=OTHERS {
            let peer = net.gateways[at].peer(&net.gateways[0]);
            let now = net.now;
            net.gateways[at].send(now, peer, 7);
        }
        net.run_for(secs(1));
    }
    assert!(linked(&net), "all of them within two minutes");
}

#[test]
fn two_boxes_that_both_draw_ports_are_not_searched_and_stay_relayed() {
    let mut meeting = Meeting::new(13, [Some(SYMMETRIC); 2], BOTH);
    for at in [A, B] {
        meeting.net.find_out(at, nat_of(Some(SYMMETRIC)));
    }
    meeting.link();
    let begun = meeting.net.gateways[A].sent.len();
    assert_eq!(meeting.talk_until(secs(60), |net| is_direct(net, A) || is_direct(net, B)), None);
    let sent = meeting.net.gateways[A].sent.len() - begun;
    assert!(sent < 600, "{sent} messages beside the traffic");
    let wanted = |(_, event): &(_, Event)| matches!(event, Event::SprayWanted { .. });
    assert!(!meeting.net.gateways[A].events.iter().any(wanted));
}

#[test]
fn a_direct_path_that_dies_is_left_for_the_relay_and_taken_again_when_it_works() {
    let mut meeting = Meeting::new(12, [Some(PORT_RESTRICTED), Some(RESTRICTED)], BOTH);
    meeting.link();
    let both_direct = |net: &Net| is_direct(net, A) && is_direct(net, B);
    meeting.talk_until(secs(2), both_direct).expect("a direct path");
    meeting.talk_until(secs(100), |_| false);
    assert!(both_direct(&meeting.net), "it lasts");
    assert_eq!(meeting.net.gateways[C].forwarder.len(), 1, "the relay stands by");
    meeting.net.blocked.push(([198, 51, 100, 1].into(), [198, 51, 100, 2].into()));
    let (now, before) = (meeting.net.now, meeting.net.gateways[B].arrived.len());
    let came = |net: &Net| net.gateways[B].arrived.len() > before + 3;
    let took = meeting.talk_until(secs(10), came).expect("the relay carries on");
    assert!(took < secs(3), "{took:?}");
    meeting.talk_until(secs(20), |_| false);
    assert!(!is_direct(&meeting.net, A) && meeting.net.now - now > secs(20));
    meeting.net.blocked.clear();
    let took = meeting.talk_until(secs(300), both_direct).expect("it is taken again");
    assert!(took < secs(120), "{took:?}");
}

#[test]
fn a_relay_that_dies_under_traffic_is_replaced_by_the_one_that_stands_by() {
    let (mut meeting, second) = with_two_common([Some(SYMMETRIC); 2], BOTH);
    meeting.link();
    let standing = |net: &Net| [C, second].iter().all(|at| net.gateways[*at].forwarder.len() == 1);
    meeting.talk_until(secs(20), standing).expect("both relays");
    meeting.talk_until(secs(2), |_| false);
    let peer = meeting.net.gateways[A].peer(&meeting.net.gateways[B]);
    let in_use = meeting.net.gateways[A].linked_at(peer).expect("a link");
    let at = if in_use.ip() == meeting.net.sites[C].address.ip() { C } else { second };
    meeting.net.sites[at].cut = true;
    let before = [A, B].map(|at| meeting.net.gateways[at].arrived.len());
    let came = |net: &Net| [A, B].iter().all(|at| net.gateways[*at].arrived.len() > before[*at] + 3);
    let took = meeting.talk_until(secs(30), came).expect("the other relay carries on");
    assert!(took < secs(5), "{took:?}");
}

#[test]
fn peers_behind_one_introducer_say_next_to_nothing_while_they_are_idle() {
    const SITES: usize = 40;
    let mut net = Net::new(14);
    for at in 0..SITES {
        let realm = net.add_box(INTERNET, [198, 51, 100, at as u8 + 1], PORT_RESTRICTED);
        net.add_gateway(realm, [10, at as u8, 0, 2]);
    }
    let common = net.add_gateway(INTERNET, [192, 0, 2, 1]);
    net.gateways[common].endpoint.set_nat_config(net.now, BOTH);
    for at in 0..SITES {
        net.link(at, common);
        // Each site has one other that it is linked to.
        net.acquaint(at, at ^ 1, PeerConfig::default());
        net.find_candidates(at);
    }
    net.run_for(secs(60));
    for at in 0..SITES {
        let peer = net.gateways[at].peer(&net.gateways[at ^ 1]);
        assert!(net.gateways[at].linked_at(peer).is_some(), "{at}");
    }
    let begun = net.gateways[common].sent.len();
    net.run_for(secs(600));
    let sent = net.gateways[common].sent.len() - begun;
    // A bind is answered every 20 s, and a handshake with a hello and what follows from it happens every two minutes.
    assert!(sent < SITES * 60, "{sent} messages in ten minutes");
}
