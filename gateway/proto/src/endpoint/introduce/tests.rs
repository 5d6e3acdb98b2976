//! What peers may say that is not so, or too often: it changes nothing and is counted by its reason.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::channel::{address_of, packet};
use crate::endpoint::{NatConfig, WallClock};
use crate::introduce::WISHES_MAX;
use crate::{Event, KEY_LEN, PeerConfig};

/// A gateway in the middle of its peers, all of which are linked to it.
struct Middle {
    endpoint: Endpoint,
    now: Instant,
}

fn key(n: u8) -> [u8; KEY_LEN] {
    [n; KEY_LEN]
}

/// The private key of the gateway in the middle.
const OURS: [u8; KEY_LEN] = [0x77; KEY_LEN];

/// What two peers call their meeting: any name that they agree on will do here.
fn named(one: u8, other: u8) -> MeetingId {
    let mut name = MeetingId([0x5a; 32]);
    (name.0[0], name.0[1]) = (one.min(other), one.max(other));
    name
}

fn place(n: u8) -> SocketAddr {
    SocketAddr::new([198, 51, 100, n].into(), 51820)
}

impl Middle {
    fn new(config: NatConfig) -> Self {
        let now = Instant::now();
        let mut endpoint = Endpoint::new(now, [5; 32]);
        endpoint.set_private_key(Some(OURS), now);
        endpoint.set_nat_config(now, config);
        endpoint.note_wall(now, WallClock(SystemTime::UNIX_EPOCH));
        Self { endpoint, now }
    }

    fn add(&mut self, n: u8) -> PeerId {
        let config = PeerConfig { endpoint: Some(place(n)), ..PeerConfig::default() };
        self.endpoint.add_peer(key(n), config, self.now).expect("room")
    }

    /// A peer says something.
    fn hear(&mut self, n: u8, body: Body) -> Result<(), DropReason> {
        let peer = self.endpoint.peer_by_key(&key(n)).expect("a peer");
        let mut bytes = [0; 700];
        let len = Message { request: 9, body }.write(&mut bytes[packet::HEADERS_LEN..], 0);
        let ours = self.endpoint.channel_address().expect("a key");
        let len = packet::wrap(&mut bytes, len, address_of(&key(n)), ours);
        self.endpoint.handle_channel(self.now, peer, place(n), None, &bytes[..len])
    }

    fn seek(&mut self, n: u8, of: u8, generation: u32) -> Result<(), DropReason> {
        let seek = Seek { meeting: named(n, of), stop: None, generation, candidates: Candidates::default() };
        self.hear(n, Body::Seek(seek))
    }

    /// What waits to be said to a peer.
    fn said(&mut self, n: u8) -> usize {
        let peer = self.endpoint.peer_by_key(&key(n)).expect("a peer");
        self.endpoint.channel_mut(peer).map_or(0, |channel| std::mem::take(&mut channel.outbox).len())
    }
}

const COMMON: NatConfig = NatConfig { direct: true, introduces: true, relays: true, spray: true, mtu_max: 1500 };

#[test]
fn the_answer_to_a_seek_is_the_same_whoever_is_sought() {
    let mut middle = Middle::new(COMMON);
    for n in 1..=3 {
        middle.add(n);
    }
    assert_eq!(middle.seek(2, 1, 1), Ok(()));
    middle.said(1);
    // Who does not seek back, who is not known, oneself, and us.
    for of in [3, 99, 1] {
        assert_eq!(middle.seek(1, of, 1), Ok(()));
        assert_eq!((middle.said(1), middle.said(3)), (1, 0), "{of}");
    }
    assert_eq!(middle.seek(1, 2, 1), Ok(()));
    assert_eq!(middle.said(1), 2, "an answer, and who 2 is");
}

#[test]
fn a_peer_that_seeks_everybody_uses_up_its_own_share_alone() {
    let mut middle = Middle::new(COMMON);
    middle.add(1);
    middle.add(2);
    let mut refused = 0;
    for i in 0..1000_u32 {
        let mut meeting = named(1, 3);
        meeting.0[4..8].copy_from_slice(&i.to_be_bytes());
        let seek = Seek { meeting, stop: None, generation: 1, candidates: Candidates::default() };
        match middle.hear(1, Body::Seek(seek)) {
            Ok(()) => {}
            Err(reason) => {
                assert_eq!(reason, DropReason::WishRefused);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1000 - WISHES_MAX);
    assert_eq!(middle.seek(2, 1, 1), Ok(()));
}

#[test]
fn what_is_older_or_not_offered_is_refused() {
    let mut middle = Middle::new(COMMON);
    middle.add(1);
    assert_eq!(middle.seek(1, 2, 7), Ok(()));
    assert_eq!(middle.seek(1, 2, 6), Err(DropReason::ChannelStale));
    let mut plain = Middle::new(NatConfig::default());
    plain.add(1);
    assert_eq!(plain.seek(1, 2, 1), Err(DropReason::ChannelUnexpected));
    assert_eq!(plain.hear(1, Body::RelayRequest { meeting: named(1, 2) }), Err(DropReason::ChannelUnexpected));
}

#[test]
fn introductions_and_offers_that_nobody_asked_for_change_nothing() {
    let mut middle = Middle::new(COMMON);
    middle.add(1);
    middle.add(2);
    let candidate = Candidate { kind: CandidateKind::Host, address: place(200) };
    let candidates = Candidates::new(crate::Nat::default(), &[candidate]);
    for of in [1, 2, 99] {
        let known = middle.endpoint.peer_by_key(&key(of)).zip(middle.endpoint.peer_by_key(&key(1)));
        let right = known.and_then(|(of, by)| middle.endpoint.meeting_with(of, by));
        let meeting = right.unwrap_or(named(1, of));
        let introduction = Introduction { meeting, delay_ms: 0, candidates: candidates.clone() };
        assert_eq!(middle.hear(1, Body::Introduction(introduction)), Err(DropReason::ChannelUnexpected));
        let offer = Endpoint::offer_words(meeting, 7, 5000);
        assert_eq!(middle.hear(1, offer), Err(DropReason::ChannelUnexpected));
    }
    for body in [
        Body::SeekAnswer,
        Body::IntroductionAnswer,
        Body::RelayOfferAnswer,
        Body::RelayRequestAnswer(Ok(crate::channel::message::relay::Grant { allocation: 1, port: 1, lifetime_s: 1 })),
        Body::RelayBind { allocation: 1 },
        Body::RelayBindAnswer { observed: place(9) },
        Body::RelayRelease { allocation: 1 },
        Body::Spray,
        Body::SprayAnswer,
    ] {
        assert_eq!(middle.hear(1, body.clone()), Err(DropReason::ChannelUnexpected), "{body:?}");
    }
    assert!(middle.endpoint.meeting.hearsay.is_empty() && middle.endpoint.meeting.punches.is_empty());
    assert_eq!(middle.endpoint.places_of(middle.endpoint.peer_by_key(&key(2)).expect("a peer")), []);
    let told = std::iter::from_fn(|| middle.endpoint.poll_event());
    assert!(told.into_iter().all(|event| matches!(event, Event::EndpointChanged { .. })));
}

#[test]
fn an_introducer_brings_about_few_punches_however_much_it_says() {
    let mut middle = Middle::new(NatConfig::default());
    let (introducer, sought) = (middle.add(1), middle.add(2));
    let (now, key_of) = (middle.now, key(1));
    middle.endpoint.meeting.seeker.opened(now, introducer, key_of, false);
    middle.endpoint.run_meeting(now);
    assert!(middle.endpoint.meeting.seeker.is_known_at(introducer, sought));
    let bad = ["224.0.0.1:9", "127.0.0.1:9", "0.0.0.0:9", "255.255.255.255:9", "203.0.113.9:9"];
    let list: Vec<_> = bad
        .iter()
        .map(|address| Candidate { kind: CandidateKind::Host, address: address.parse().expect("a place") })
        .collect();
    let mut outcomes = Vec::new();
    let meeting = middle.endpoint.meeting_with(sought, introducer).expect("sound keys");
    for _ in 0..100 {
        let candidates = Candidates::new(crate::Nat::default(), &list);
        let introduction = Introduction { meeting, delay_ms: u32::MAX, candidates };
        outcomes.push(middle.hear(1, Body::Introduction(introduction)));
        middle.now += Duration::from_millis(10);
    }
    let taken = outcomes.iter().filter(|outcome| **outcome == Err(DropReason::CandidateRefused)).count();
    assert_eq!((taken, outcomes.len() - taken), (4, 96), "{outcomes:?}");
    assert!(outcomes.contains(&Err(DropReason::ChannelRate)));
    let places: Vec<_> = middle.endpoint.places_of(sought).iter().map(|candidate| candidate.address).collect();
    assert_eq!(places, ["203.0.113.9:9".parse().expect("a place")], "what leads nowhere is never tried");
}

#[test]
fn a_forged_bind_is_none() {
    let mut middle = Middle::new(COMMON);
    middle.add(1);
    let now = middle.now;
    for (bytes, reason) in [
        (vec![4, 0, 0], DropReason::Truncated),
        (vec![1; 148], DropReason::UnknownIndex),
        ([vec![4, 0, 0, 0], vec![9; 44]].concat(), DropReason::UnknownIndex),
    ] {
        let heard = middle.endpoint.handle_relay_datagram(now, 5000, place(1), None, &bytes);
        assert_eq!(heard, Err(reason), "{bytes:?}");
    }
    assert_eq!(middle.endpoint.relay_allocations(), 0);
}
