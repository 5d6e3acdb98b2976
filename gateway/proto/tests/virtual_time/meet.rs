//! Two gateways that know each other's keys and one common gateway, behind every kind of NAT.

use std::net::SocketAddr;
use std::time::Duration;

use landbridge_proto::PeerConfig;
use landbridge_proto::candidate::{Candidate, CandidateKind, Nat};
use landbridge_proto::endpoint::NatConfig;

use crate::net::nat::{Behaviour, FULL_CONE, PORT_RESTRICTED, RESTRICTED, SYMMETRIC};
use crate::net::{INTERNET, Net, Realm};

const A: usize = 0;
const B: usize = 1;
/// The common gateway.
const C: usize = 2;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn millis(ms: u64) -> Duration {
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

    /// Traffic begins at one site; how long its first packet takes, and by which place it came.
    fn first_packet(&mut self, from: usize) -> Option<(Duration, SocketAddr)> {
        let peer = self.net.gateways[from].peer(&self.net.gateways[1 - from]);
        self.net.gateways[from].send(self.net.now, peer, 7);
        let took = self.net.run_until(secs(30), |net| !net.gateways[1 - from].arrived.is_empty())?;
        Some((took, self.net.gateways[1 - from].arrived[0].2))
    }
}

impl Net {
    /// One gateway knows another one, and where it is.
    fn link(&mut self, at: usize, other: usize) {
        let endpoint = Some(self.sites[other].address);
        self.acquaint(at, other, PeerConfig { endpoint, ..PeerConfig::default() });
        self.acquaint(other, at, PeerConfig::default());
    }

    /// One gateway knows another one's key.
    fn acquaint(&mut self, at: usize, other: usize, config: PeerConfig) {
        let key = self.gateways[other].public_key();
        self.gateways[at].endpoint.add_peer(key, config, self.now).expect("room for a peer");
    }

    /// A gateway knows its own address.
    fn find_candidates(&mut self, at: usize) {
        let own = self.sites[at].address;
        let host = Candidate { kind: CandidateKind::Host, address: own };
        let endpoint = &mut self.gateways[at].endpoint;
        endpoint.set_own_addresses(&[own.ip()]);
        endpoint.set_local_candidates(self.now, &[host], Nat::default());
    }

    fn is_linked(&self, at: usize, other: usize) -> bool {
        let peer = self.gateways[at].peer(&self.gateways[other]);
        self.gateways[at].linked_at(peer).is_some()
    }
}

const INTRODUCER: NatConfig = NatConfig { direct: true, introduces: true, relays: false, spray: true, mtu_max: 1500 };
const RELAY: NatConfig = NatConfig { introduces: false, relays: true, ..INTRODUCER };
const BOTH: NatConfig = NatConfig { relays: true, ..INTRODUCER };

const KINDS: [Before; 5] = [NO_NAT, Some(FULL_CONE), Some(RESTRICTED), Some(PORT_RESTRICTED), Some(SYMMETRIC)];

/// Whether packets of both reach each other without knowing ports beforehand: a box that maps by the remote place meets
/// only one that lets in whoever comes from an address.
fn can_be_punched(first: usize, second: usize) -> bool {
    !(first.max(second) == 4 && first.min(second) >= 3)
}

#[test]
fn sites_meet_at_once_by_what_an_introducer_says_wherever_their_boxes_let_them() {
    for first in 0..KINDS.len() {
        for second in 0..KINDS.len() {
            let mut meeting = Meeting::new(1, [KINDS[first], KINDS[second]], INTRODUCER);
            meeting.link();
            let came = meeting.first_packet(A);
            assert_eq!(came.is_some(), can_be_punched(first, second), "{first} {second}");
            // A round trip to the introducer takes 20 ms, and so does one between the sites.
            assert!(came.is_none_or(|(took, _)| took <= millis(120)), "{first} {second}: {came:?}");
        }
    }
}

#[test]
fn with_a_relay_the_first_packet_takes_no_longer_wherever_the_sites_are() {
    for first in 0..KINDS.len() {
        for second in 0..KINDS.len() {
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
}
