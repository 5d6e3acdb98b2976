//! Peers, introducers and relays that are configured, and lie: what they say is made by hand here, and what it makes an
//! honest gateway do is counted.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use blake2::{Blake2s256, Digest};
use landbridge_proto::candidate::{Candidate, CandidateKind, Nat};
use landbridge_proto::channel::address_of;
use landbridge_proto::endpoint::NatConfig;
use landbridge_proto::{DropReason, Event, PeerConfig, PeerId};

use x25519_dalek::{PublicKey, StaticSecret};

use crate::net::nat::PORT_RESTRICTED;
use crate::net::{INTERNET, Net};

/// The honest gateway, the liar, and a peer that the honest one has no link to.
const US: usize = 0;
const LIAR: usize = 1;
const SOUGHT: usize = 2;

const PURPOSE: u8 = 7;
const DELAY: u8 = 8;
const GENERATION: u8 = 9;
const NAT: u8 = 10;
const CANDIDATE: u8 = 11;
const MEETING: u8 = 12;
const STOP: u8 = 13;
const ALLOCATION: u8 = 14;
const PORT: u8 = 15;
const LIFETIME: u8 = 16;

const PATH_PROBE: u8 = 4;
const CANDIDATES: u8 = 5;
const SEEK: u8 = 6;
const INTRODUCTION: u8 = 7;
const RELAY_REQUEST: u8 = 8;
const RELAY_OFFER: u8 = 9;
const RELAY_RELEASE: u8 = 11;

/// A message of the channel: its type, and its fields as types and values.
fn message(kind: u8, fields: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![1, kind, 0, 0, 9, 9, 9, 9];
    for (field, value) in fields {
        bytes.push(*field);
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(value);
    }
    bytes
}

/// In the inner packet that a session would carry.
fn packet(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let len = (8 + message.len()) as u16;
    let mut udp = [51_821_u16.to_be_bytes(), 51_821_u16.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    udp.extend(message);
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(&from.octets()) + words(&to.octets()) + 17 + u32::from(len) + words(&udp);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    udp[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([17, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(udp);
    packet
}

/// A place of somebody who has nothing to do with all this.
fn victim(at: u32) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, (at % 200) as u8 + 1], 1000 + (at / 200) as u16))
}

fn candidate(kind: CandidateKind, place: SocketAddr) -> (u8, Vec<u8>) {
    let SocketAddr::V4(place) = place else { panic!("IPv4") };
    (CANDIDATE, [&[kind as u8][..], &place.ip().octets(), &place.port().to_be_bytes()].concat())
}

fn candidates(first: u32) -> Vec<(u8, Vec<u8>)> {
    (first..first + 12).map(|at| candidate(CandidateKind::Stun, victim(at))).collect()
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What an honest introducer and relay is.
const COMMON: NatConfig = NatConfig { direct: true, introduces: true, relays: true, spray: true, mtu_max: 1500 };

/// Gateways without NATs.
struct Scene {
    net: Net,
    generation: u32,
}

impl Scene {
    fn new(seed: u8, gateways: usize) -> Self {
        let mut net = Net::new(seed);
        for at in 0..gateways {
            net.add_gateway(INTERNET, [192, 0, 2, at as u8 + 1]);
        }
        Self { net, generation: 0 }
    }

    fn key(&self, at: usize) -> [u8; 32] {
        self.net.gateways[at].public_key()
    }

    /// What two call their meeting at a desk.
    fn meeting(&self, [one, other]: [usize; 2], desk: usize) -> Vec<u8> {
        let secret = StaticSecret::from(self.net.gateways[one].key);
        let agreed = secret.diffie_hellman(&PublicKey::from(self.key(other)));
        let mut keys = [self.key(one), self.key(other)];
        keys.sort_unstable();
        let mut hash = Blake2s256::new();
        for part in [b"landbridge meeting v1", &agreed.as_bytes()[..], &self.key(desk), &keys[0], &keys[1]] {
            hash.update(part);
        }
        hash.finalize().to_vec()
    }

    /// One knows the other.
    fn acquaint(&mut self, at: usize, other: usize, endpoint: bool) -> PeerId {
        let endpoint = endpoint.then(|| self.net.sites[other].address);
        let (key, now) = (self.key(other), self.net.now);
        let config = PeerConfig { endpoint, ..PeerConfig::default() };
        self.net.gateways[at].endpoint.add_peer(key, config, now).expect("room for a peer")
    }

    /// Where a gateway is, as it says itself.
    fn locate(&mut self, at: usize) {
        let own = self.net.sites[at].address;
        let host = Candidate { kind: CandidateKind::Host, address: own };
        let endpoint = &mut self.net.gateways[at].endpoint;
        endpoint.set_own_addresses(&[own.ip()]);
        endpoint.set_local_candidates(self.net.now, &[host], Nat::default());
    }

    fn configure(&mut self, at: usize, config: NatConfig) {
        let now = self.net.now;
        self.net.gateways[at].endpoint.set_nat_config(now, config);
    }

    /// The honest gateway and one that says that it introduces and relays; the former seeks somebody there.
    fn with_liar(seed: u8) -> Self {
        let mut scene = Self::new(seed, 3);
        scene.configure(LIAR, COMMON);
        scene.link(US, LIAR);
        scene.acquaint(US, SOUGHT, false);
        scene.locate(US);
        scene.net.run_for(secs(2));
        scene
    }

    /// Two have a session.
    fn link(&mut self, at: usize, other: usize) {
        self.acquaint(at, other, true);
        self.acquaint(other, at, false);
        let peer = self.peer(at, other);
        self.net.gateways[at].send(self.net.now, peer, 7);
        self.net.run_for(secs(1));
        assert!(self.net.gateways[at].linked_at(peer).is_some());
    }

    fn peer(&self, at: usize, other: usize) -> PeerId {
        self.net.gateways[at].peer(&self.net.gateways[other])
    }

    /// One says something to the other, as if from this place, and what follows from it is sent.
    fn say_from(
        &mut self,
        from: usize,
        to: usize,
        place: SocketAddr,
        kind: u8,
        fields: &[(u8, Vec<u8>)],
    ) -> Result<(), DropReason> {
        let (now, peer) = (self.net.now, self.peer(to, from));
        let packet = packet(address_of(&self.key(from)), address_of(&self.key(to)), &message(kind, fields));
        let local = Some(self.net.sites[to].address.ip());
        let outcome = self.net.gateways[to].endpoint.handle_channel(now, peer, place, local, &packet);
        self.net.pump();
        outcome
    }

    fn say(&mut self, from: usize, to: usize, kind: u8, fields: &[(u8, Vec<u8>)]) -> Result<(), DropReason> {
        let place = self.net.sites[from].address;
        self.say_from(from, to, place, kind, fields)
    }

    /// Candidates of the liar's own, a later generation each time.
    fn say_candidates(&mut self, first: u32) -> Result<(), DropReason> {
        self.generation += 1;
        let mut fields = vec![(GENERATION, self.generation.to_be_bytes().to_vec()), (NAT, vec![0, 0])];
        fields.extend(candidates(first));
        self.say(LIAR, US, CANDIDATES, &fields)
    }

    fn say_introduction(&mut self, by: usize, of: usize, named: Vec<(u8, Vec<u8>)>) -> Result<(), DropReason> {
        self.say_introduction_behind([0, 0], by, of, named)
    }

    fn say_introduction_behind(
        &mut self,
        nat: [u8; 2],
        by: usize,
        of: usize,
        named: Vec<(u8, Vec<u8>)>,
    ) -> Result<(), DropReason> {
        let mut fields = vec![(MEETING, self.meeting([US, of], by)), (DELAY, vec![0; 4]), (NAT, nat.to_vec())];
        fields.extend(named);
        self.say(by, US, INTRODUCTION, &fields)
    }

    fn seek(&mut self, by: usize, at: usize, of: usize, generation: u32, stop: Option<u8>) -> Result<(), DropReason> {
        let generation = generation.to_be_bytes().to_vec();
        let mut fields = vec![(MEETING, self.meeting([by, of], at)), (GENERATION, generation), (NAT, vec![0, 0])];
        fields.extend(stop.map(|stop| (STOP, vec![stop])));
        self.say(by, at, SEEK, &fields)
    }

    /// Datagrams that we sent to victims, by victim.
    fn at_victims(&self) -> BTreeMap<SocketAddr, usize> {
        let mut all = BTreeMap::new();
        for (_, _, to) in &self.net.gateways[US].sent {
            if to.ip().to_string().starts_with("203.0.113.") {
                *all.entry(*to).or_default() += 1;
            }
        }
        all
    }

    fn count_at_victims(&self) -> usize {
        self.at_victims().values().sum()
    }
}

#[test]
fn one_introduction_makes_us_send_few_datagrams_to_the_places_that_it_names() {
    let mut scene = Scene::with_liar(1);
    assert_eq!(scene.say_introduction(LIAR, SOUGHT, candidates(0)), Ok(()));
    let peer = scene.peer(US, SOUGHT);
    for _ in 0..120 {
        // Somebody wants the link all the time.
        scene.net.gateways[US].send(scene.net.now, peer, 7);
        scene.net.run_for(secs(1));
    }
    let at_victims = scene.at_victims();
    assert_eq!(at_victims.len(), 12);
    assert!(at_victims.values().all(|sent| (5..=10).contains(sent)), "{at_victims:?}");
}

#[test]
fn an_introducer_that_names_ever_other_places_has_a_bounded_share_of_what_we_send() {
    let mut scene = Scene::with_liar(2);
    let others: Vec<_> = (0..40).map(|_| scene.net.add_gateway(INTERNET, [192, 0, 2, 99])).collect();
    for other in &others {
        scene.acquaint(US, *other, false);
    }
    scene.net.run_for(secs(10));
    let mut first = 0;
    for _ in 0..100 {
        for _ in 0..10 {
            let other = others[first as usize / 12 % others.len()];
            let _ = scene.say_introduction(LIAR, other, candidates(first));
            first += 12;
            scene.net.run_for(millis(20));
        }
    }
    let begun = scene.count_at_victims();
    assert!(begun <= 8500, "{begun} in twenty seconds");
    for _ in 0..3000 {
        let other = others[first as usize / 12 % others.len()];
        let _ = scene.say_introduction(LIAR, other, candidates(first));
        first += 12;
        scene.net.run_for(millis(20));
    }
    let sent = scene.count_at_victims() - begun;
    assert!(sent <= 60 * 160, "{sent} in a minute");
}

/// Of a NAT that draws ports, and of one that keeps them but lets only known places in.
const DRAWS: [u8; 2] = [4, 4];
const KEEPS: [u8; 2] = [2, 4];

#[test]
fn an_introducer_that_lies_of_nats_brings_about_few_guesses_at_ports() {
    let mut scene = Scene::with_liar(16);
    let others: Vec<_> = (0..40).map(|_| scene.net.add_gateway(INTERNET, [192, 0, 2, 99])).collect();
    for other in &others {
        scene.acquaint(US, *other, false);
    }
    scene.net.run_for(secs(10));
    // What is named has ports below those that are guessed.
    let guessed = |scene: &Scene| {
        let mut by_ip = BTreeMap::new();
        for (place, sent) in scene.at_victims().iter().filter(|(place, _)| place.port() >= 1024) {
            *by_ip.entry(place.ip()).or_insert(0) += sent;
        }
        by_ip
    };
    let mut counts = Vec::new();
    for minute in 0..3 {
        for step in 0..600 {
            let at = minute * 600 + step;
            let named = vec![candidate(CandidateKind::Stun, victim(at as u32 % 40))];
            let _ = scene.say_introduction_behind(DRAWS, LIAR, others[at % 40], named);
            scene.net.run_for(millis(100));
        }
        counts.push(guessed(&scene).values().sum::<usize>());
    }
    assert!(counts[0] >= 3 * 1024 && counts[0] <= 10 * 1024, "{counts:?}");
    assert!(counts[2] - counts[1] <= 7 * 1024, "a search in ten seconds: {counts:?}");
    assert!(guessed(&scene).values().all(|sent| *sent <= 3 * 1024), "three for one peer: {:?}", guessed(&scene));
}

#[test]
fn an_introducer_that_lies_of_nats_makes_us_send_to_one_place_seldom() {
    let mut scene = Scene::with_liar(17);
    let (now, host) = (scene.net.now, scene.net.gateways[US].endpoint.local_candidates().0.to_vec());
    let ours = Nat {
        mapping: landbridge_proto::Behaviour::AddressAndPortDependent,
        filtering: landbridge_proto::Behaviour::AddressAndPortDependent,
    };
    scene.net.gateways[US].endpoint.set_local_candidates(now, &host, ours);
    for _ in 0..1200 {
        let named = vec![candidate(CandidateKind::Stun, victim(0))];
        let _ = scene.say_introduction_behind(KEEPS, LIAR, SOUGHT, named);
        scene.net.run_for(millis(500));
    }
    // Three searches of 256 datagrams, and ordinary initiations all the time.
    let sent = scene.count_at_victims();
    assert!((3 * 256..=3 * 256 + 2000).contains(&sent), "{sent} in ten minutes");
}

#[test]
fn what_one_introducer_says_does_not_keep_an_honest_one_from_being_heard() {
    let mut scene = Scene::with_liar(3);
    let honest = scene.net.add_gateway(INTERNET, [192, 0, 2, 50]);
    scene.configure(honest, COMMON);
    scene.acquaint(US, honest, true);
    scene.acquaint(honest, US, false);
    scene.acquaint(SOUGHT, honest, true);
    scene.acquaint(honest, SOUGHT, false);
    scene.net.run_for(secs(6));
    for first in 0..20 {
        let _ = scene.say_introduction(LIAR, SOUGHT, candidates(first * 12));
        scene.net.run_for(millis(100));
    }
    // It knows us only now, and seeks us.
    scene.acquaint(SOUGHT, US, false);
    scene.locate(SOUGHT);
    let sought = scene.peer(US, SOUGHT);
    let met = |net: &Net| net.gateways[US].linked_at(sought).is_some();
    let took = scene.net.run_until(secs(5), met);
    assert!(took.is_some_and(|took| took < secs(1)), "{took:?}");
    let _ = scene.say_introduction(LIAR, SOUGHT, candidates(500));
    scene.net.run_for(secs(5));
    assert!(met(&scene.net));
}

#[test]
fn candidates_of_a_peer_cost_those_who_have_the_addresses_little() {
    let mut scene = Scene::with_liar(4);
    for step in 0..1000 {
        let _ = scene.say_candidates(step * 12 % 2400);
        scene.net.run_for(millis(20));
    }
    let begun = scene.count_at_victims();
    assert!((12..=160).contains(&begun), "{begun} in twenty seconds");
    for step in 0..3000 {
        // The same ones again and again, and none of them in between.
        let _ = scene.say_candidates(step % 2 * 12);
        scene.net.run_for(millis(20));
    }
    let sent = scene.count_at_victims() - begun;
    assert!(sent <= 130, "{sent} in a minute");
}

#[test]
fn probes_as_if_from_others_are_answered_once_and_lead_to_few_checks() {
    let mut scene = Scene::with_liar(5);
    for step in 0..500 {
        let _ = scene.say_from(LIAR, US, victim(step), PATH_PROBE, &[(PURPOSE, vec![1])]);
        scene.net.run_for(millis(20));
    }
    scene.net.run_for(secs(10));
    let sent = scene.count_at_victims();
    assert!((500..=640).contains(&sent), "an answer each, and a check of some: {sent}");
    let view = scene.net.gateways[US].endpoint.peer(scene.peer(US, LIAR)).and_then(|peer| peer.paths);
    assert!(view.is_some_and(|paths| paths.candidates.len() <= 16), "the table is bounded");
}

#[test]
fn answers_kept_back_for_a_liar_are_few() {
    let mut scene = Scene::with_liar(6);
    let probe = [(PURPOSE, vec![4]), (DELAY, 30_000_u32.to_be_bytes().to_vec())];
    let said = (0..100).filter(|at| scene.say_from(LIAR, US, victim(*at), PATH_PROBE, &probe).is_ok()).count();
    assert!(said <= 2, "{said}");
    let long = [(PURPOSE, vec![4]), (DELAY, u32::MAX.to_be_bytes().to_vec())];
    assert_eq!(scene.say(LIAR, US, PATH_PROBE, &long), Err(DropReason::ChannelUnexpected));
    scene.net.run_for(secs(60));
    assert!(scene.count_at_victims() <= 2);
}

#[test]
fn places_that_nobody_can_have_are_never_sent_to() {
    let mut scene = Scene::with_liar(7);
    let bad = ["224.0.0.1:9", "239.1.2.3:51820", "255.255.255.255:9", "240.0.0.1:9", "0.0.0.1:9", "192.0.2.77:0"];
    let bad = bad.map(|place| place.parse::<SocketAddr>().expect("a place"));
    for place in bad {
        let outcome = scene.say_from(LIAR, US, place, PATH_PROBE, &[(PURPOSE, vec![1])]);
        assert_eq!(outcome, Err(DropReason::CandidateRefused), "{place}");
        let now = scene.net.now;
        let liar = scene.peer(US, LIAR);
        scene.net.run_for(secs(1));
        scene.net.gateways[US].endpoint.handle_roamed(now, liar, place, None);
        scene.net.run_for(secs(1));
    }
    assert!(scene.net.gateways[US].sent.iter().all(|(.., to)| !bad.contains(to)));
    assert!(scene.net.gateways[US].linked_at(scene.peer(US, LIAR)).is_some_and(|place| !bad.contains(&place)));
}

#[test]
fn who_gives_up_and_seeks_again_is_introduced_no_more_often_than_others() {
    // The introducer is the honest one here; two peers are configured with each other, one of them is a nuisance.
    let mut scene = Scene::new(8, 3);
    scene.configure(US, COMMON);
    for at in [LIAR, SOUGHT] {
        scene.link(at, US);
    }
    scene.acquaint(SOUGHT, LIAR, false);
    scene.locate(SOUGHT);
    scene.locate(LIAR);
    scene.net.run_for(secs(3));
    let before = scene.net.gateways[US].endpoint.channel_counters().sent;
    for step in 0..500 {
        let stop = (step % 2 == 1).then_some(2);
        let _ = scene.seek(LIAR, US, SOUGHT, step, stop);
        scene.net.run_for(millis(20));
    }
    let sent = scene.net.gateways[US].endpoint.channel_counters().sent - before;
    // Each of the 500 messages is answered.
    assert!(sent - 500 < 60, "{sent}");
}

#[test]
fn nobody_is_introduced_to_itself() {
    let mut scene = Scene::new(9, 2);
    scene.configure(US, COMMON);
    scene.link(LIAR, US);
    scene.locate(LIAR);
    scene.net.run_for(secs(3));
    let before = scene.net.gateways[US].endpoint.channel_counters().sent;
    assert_eq!(scene.seek(LIAR, US, LIAR, 5, None), Ok(()));
    let meeting = scene.meeting([LIAR, LIAR], US);
    assert_eq!(scene.say(LIAR, US, RELAY_REQUEST, &[(MEETING, meeting)]), Ok(()));
    scene.net.run_for(secs(3));
    assert_eq!(scene.net.gateways[US].endpoint.channel_counters().sent - before, 2, "an answer each");
}

#[test]
fn who_seeks_learns_nothing_of_peers_that_it_is_not_configured_with() {
    let mut scene = Scene::new(10, 3);
    scene.configure(US, COMMON);
    for at in [LIAR, SOUGHT] {
        scene.link(at, US);
        scene.locate(at);
    }
    scene.net.run_for(secs(3));
    let mut answers = Vec::new();
    for meeting in [scene.meeting([LIAR, SOUGHT], US), vec![0x5a; 32]] {
        let before = scene.net.gateways[US].endpoint.channel_counters().sent;
        let fields = [(MEETING, meeting.clone()), (GENERATION, vec![0; 4]), (NAT, vec![0, 0])];
        assert_eq!(scene.say(LIAR, US, SEEK, &fields), Ok(()));
        assert_eq!(scene.say(LIAR, US, RELAY_REQUEST, &[(MEETING, meeting)]), Ok(()));
        scene.net.run_for(secs(5));
        answers.push((scene.net.gateways[US].endpoint.channel_counters().sent - before, scene.net.gateways[US].due()));
    }
    assert_eq!(answers[0].0, answers[1].0, "the same words for one that exists and one that does not");
    assert_eq!(scene.net.gateways[US].forwarder.len(), 0);
}

#[test]
fn a_site_that_hides_does_not_answer_who_guesses_where_it_is() {
    let mut scene = Scene::new(11, 2);
    scene.configure(US, NatConfig { direct: false, ..NatConfig::default() });
    scene.acquaint(US, LIAR, false);
    scene.acquaint(LIAR, US, true);
    let us = scene.peer(LIAR, US);
    for _ in 0..20 {
        scene.net.gateways[LIAR].send(scene.net.now, us, 7);
        scene.net.run_for(secs(1));
    }
    let place = scene.net.sites[LIAR].address;
    assert!(scene.net.gateways[US].sent.iter().all(|(.., to)| *to != place), "{:?}", scene.net.gateways[US].sent);
    assert!(scene.net.gateways[US].drops.contains(&DropReason::NotDirect));
}

#[test]
fn allocations_that_are_given_back_at_once_are_granted_now_and_then() {
    let mut scene = Scene::new(12, 3);
    scene.configure(US, COMMON);
    for at in [LIAR, SOUGHT] {
        scene.link(at, US);
    }
    scene.net.run_for(secs(3));
    let meeting = scene.meeting([LIAR, SOUGHT], US);
    assert_eq!(scene.say(SOUGHT, US, RELAY_REQUEST, &[(MEETING, meeting.clone())]), Ok(()));
    for _ in 0..1000 {
        let _ = scene.say(LIAR, US, RELAY_REQUEST, &[(MEETING, meeting.clone())]);
        let allocation = scene.net.gateways[US].events.iter().rev().find_map(|(_, event)| match event {
            Event::RelayAllocate { allocation, .. } => Some(*allocation),
            _ => None,
        });
        let allocation = allocation.expect("one").to_be_bytes().to_vec();
        let _ = scene.say(LIAR, US, RELAY_RELEASE, &[(ALLOCATION, allocation)]);
        scene.net.run_for(millis(20));
    }
    let granted = |event: &&(_, Event)| matches!(event.1, Event::RelayAllocate { .. });
    let granted = scene.net.gateways[US].events.iter().filter(granted).count();
    assert!((1..=45).contains(&granted), "{granted} in twenty seconds");
}

#[test]
fn a_relay_that_offers_ever_other_ports_is_followed_within_bounds() {
    let mut scene = Scene::with_liar(13);
    // Somebody told us where the peer might be.
    assert_eq!(scene.say_introduction(LIAR, SOUGHT, candidates(0)), Ok(()));
    scene.net.run_for(secs(40));
    let before = scene.net.gateways[US].sent.len();
    for step in 0..1000_u64 {
        let meeting = scene.meeting([US, SOUGHT], LIAR);
        let port = (2000 + step as u16).to_be_bytes().to_vec();
        let fields = [
            (MEETING, meeting),
            (ALLOCATION, step.to_be_bytes().to_vec()),
            (PORT, port),
            (LIFETIME, 60_u32.to_be_bytes().to_vec()),
        ];
        let _ = scene.say(LIAR, US, RELAY_OFFER, &fields);
        scene.net.run_for(millis(20));
    }
    let sent = scene.net.gateways[US].sent.len() - before;
    // Each offer is answered and leads to a bind.
    assert!(sent < 2000 + 400, "{sent}");
    assert!(scene.count_at_victims() <= 120, "{}", scene.count_at_victims());
}

#[test]
fn forged_binds_cost_the_peer_nothing_of_its_share() {
    let mut scene = Scene::new(14, 2);
    scene.configure(US, COMMON);
    scene.link(LIAR, US);
    let liar = scene.peer(US, LIAR);
    let session = scene.net.gateways[US].endpoint.peer(liar).and_then(|peer| peer.session.cloned()).expect("linked");
    let mut forged = vec![4, 0, 0, 0];
    forged.extend(session.local_index.0.to_le_bytes());
    forged.extend(1000_u64.to_le_bytes());
    forged.resize(120, 7);
    let now = scene.net.now;
    let endpoint = &mut scene.net.gateways[US].endpoint;
    for _ in 0..1000 {
        let outcome = endpoint.handle_relay_datagram(now, 52_000, victim(1), None, &forged);
        assert_eq!(outcome, Err(DropReason::BadTag));
    }
    assert!(session.shared.admit_channel(now), "its own messages are heard");
}

#[test]
fn healthy_gateways_count_no_drops() {
    let mut net = Net::new(15);
    for at in [0, 1] {
        let realm = net.add_box(INTERNET, [198, 51, 100, at + 1], PORT_RESTRICTED);
        net.add_gateway(realm, [10, at, 0, 2]);
    }
    net.add_gateway(INTERNET, [192, 0, 2, 1]);
    let mut scene = Scene { net, generation: 0 };
    let common = 2;
    scene.configure(common, COMMON);
    for at in [0, 1] {
        scene.acquaint(at, common, true);
        scene.acquaint(common, at, false);
        scene.acquaint(at, 1 - at, false);
        scene.locate(at);
    }
    scene.locate(common);
    let peer = scene.peer(0, 1);
    for step in 0..150 {
        if step > 2 {
            scene.net.gateways[0].send(scene.net.now, peer, step);
        }
        scene.net.run_for(secs(1));
    }
    for (at, gateway) in scene.net.gateways.iter().enumerate() {
        let is_usual = |drop: &DropReason| match drop {
            // Copies of an initiation by several ways.
            DropReason::ReplayedHandshake => true,
            // What comes to the relay before the other end is there.
            DropReason::UnknownIndex => at == common,
            _ => false,
        };
        let odd: Vec<_> = gateway.drops.iter().filter(|drop| !is_usual(drop)).collect();
        assert!(odd.is_empty(), "{at}: {odd:?}");
    }
}
