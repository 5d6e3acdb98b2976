//! The wire format, which must not change under a version, and what is refused of it.

use super::candidates::Candidates;
use super::introduction::{Introduction, Seek, Stop};
use super::probe::{PathProbe, Purpose, Seen};
use super::relay::{Grant, RelayOffer, RelayRefusal};
use super::{Body, Features, Hello, Message, WRITTEN_MAX};
use crate::DropReason;
use crate::candidate::{Behaviour, CANDIDATES_MAX, Candidate, CandidateKind, Nat};
use crate::introduce::MeetingId;

const SAID: Hello = Hello { instance: 0x0102_0304_0506_0708, features: Features(1), accepts_ports: 16 };
const NAT: Nat = Nat { mapping: Behaviour::EndpointIndependent, filtering: Behaviour::AddressAndPortDependent };

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn candidates() -> Candidates {
    let of = |kind, address: &str| Candidate { kind, address: address.parse().expect("an address") };
    let list = [of(CandidateKind::Host, "192.0.2.1:51820"), of(CandidateKind::Mapped, "[2001:db8::1]:51820")];
    Candidates::new(NAT, &list)
}

fn golden() -> Vec<(Message, &'static str)> {
    let observed = |text: &str| text.parse().expect("an address");
    let seen = |text: &str| Seen { slot: 3, observed: observed(text), packets: 258 };
    let of = |request, body| Message { request, body };
    let grant = Grant { allocation: 0x0102_0304_0506_0708, port: 51_900, lifetime_s: 60 };
    let probe = |purpose, delay_ms| Body::PathProbe(PathProbe { purpose, delay_ms });
    let seek = |stop| Seek { meeting: MeetingId([0xab; 32]), stop, generation: 9, candidates: candidates() };
    let introduction = Introduction { meeting: MeetingId([0xab; 32]), delay_ms: 40, candidates: candidates() };
    vec![
        (of(0x0a0b_0c0d, Body::Hello(SAID)), "01010000 0a0b0c0d 010008 0102030405060708 020004 00000001 030001 10"),
        (of(1, Body::HelloAnswer(SAID)), "01810000 00000001 010008 0102030405060708 020004 00000001 030001 10"),
        (of(2, Body::Probe { slot: 3 }), "01020000 00000002 040001 03"),
        (
            of(2, Body::ProbeAnswer(seen("192.0.2.1:51820"))),
            "01820000 00000002 040001 03 050006 c0000201 ca6c 060008 0000000000000102",
        ),
        (
            of(2, Body::ProbeAnswer(seen("[2001:db8::1]:51820"))),
            "01820000 00000002 040001 03 050012 20010db8000000000000000000000001 ca6c 060008 0000000000000102",
        ),
        (of(7, Body::Ask), "01030000 00000007"),
        (of(8, probe(Purpose::Check, 0)), "01040000 00000008 070001 01"),
        (of(8, probe(Purpose::Watch, 0)), "01040000 00000008 070001 02"),
        (of(8, probe(Purpose::Mtu, 0)), "01040000 00000008 070001 03"),
        (of(8, probe(Purpose::Lifetime, 30_000)), "01040000 00000008 070001 04 080004 00007530"),
        (
            of(8, Body::PathProbeAnswer { observed: observed("192.0.2.1:51820") }),
            "01840000 00000008 050006 c0000201 ca6c",
        ),
        (
            of(9, Body::Candidates { generation: 5, candidates: candidates() }),
            "01050000 00000009 090004 00000005 0a0002 0204 0b0007 01 c0000201 ca6c \
             0b0013 04 20010db8000000000000000000000001 ca6c",
        ),
        (of(9, Body::CandidatesAnswer), "01850000 00000009"),
        (
            of(10, Body::Seek(seek(None))),
            "01060000 0000000a 0c0020 abababababababababababababababababababababababababababababababab \
             090004 00000009 0a0002 0204 0b0007 01 c0000201 ca6c 0b0013 04 20010db8000000000000000000000001 ca6c",
        ),
        (
            of(10, Body::Seek(seek(Some(Stop::Met)))),
            "01060000 0000000a 0c0020 abababababababababababababababababababababababababababababababab 0d0001 01 \
             090004 00000009 0a0002 0204 0b0007 01 c0000201 ca6c 0b0013 04 20010db8000000000000000000000001 ca6c",
        ),
        (of(10, Body::SeekAnswer), "01860000 0000000a"),
        (
            of(11, Body::Introduction(introduction)),
            "01070000 0000000b 0c0020 abababababababababababababababababababababababababababababababab 080004 00000028 \
             0a0002 0204 0b0007 01 c0000201 ca6c 0b0013 04 20010db8000000000000000000000001 ca6c",
        ),
        (of(11, Body::IntroductionAnswer), "01870000 0000000b"),
        (
            of(12, Body::RelayRequest { meeting: MeetingId([0xab; 32]) }),
            "01080000 0000000c 0c0020 abababababababababababababababababababababababababababababababab",
        ),
        (
            of(12, Body::RelayRequestAnswer(Ok(grant))),
            "01880000 0000000c 110001 00 0e0008 0102030405060708 0f0002 cabc 100004 0000003c",
        ),
        (of(12, Body::RelayRequestAnswer(Err(RelayRefusal::NotLinked))), "01880000 0000000c 110001 01"),
        (of(12, Body::RelayRequestAnswer(Err(RelayRefusal::NoRoom))), "01880000 0000000c 110001 02"),
        (of(12, Body::RelayRequestAnswer(Err(RelayRefusal::Disabled))), "01880000 0000000c 110001 03"),
        (of(12, Body::RelayRequestAnswer(Err(RelayRefusal::Other(77)))), "01880000 0000000c 110001 4d"),
        (
            of(13, Body::RelayOffer(RelayOffer { meeting: MeetingId([0xab; 32]), grant })),
            "01090000 0000000d 0c0020 abababababababababababababababababababababababababababababababab \
             0e0008 0102030405060708 0f0002 cabc 100004 0000003c",
        ),
        (of(13, Body::RelayOfferAnswer), "01890000 0000000d"),
        (of(14, Body::RelayBind { allocation: 258 }), "010a0000 0000000e 0e0008 0000000000000102"),
        (
            of(14, Body::RelayBindAnswer { observed: observed("192.0.2.1:51820") }),
            "018a0000 0000000e 050006 c0000201 ca6c",
        ),
        (of(15, Body::RelayRelease { allocation: 258 }), "010b0000 0000000f 0e0008 0000000000000102"),
        (of(15, Body::RelayReleaseAnswer), "018b0000 0000000f"),
        (of(16, Body::Spray), "010c0000 00000010"),
        (of(16, Body::SprayAnswer), "018c0000 00000010"),
    ]
}

#[test]
fn every_message_has_its_golden_bytes_and_comes_back_from_them() {
    for (message, hex) in golden() {
        let mut out = [0; WRITTEN_MAX];
        let len = message.write(&mut out, 0);
        assert_eq!(out[..len], bytes(hex), "{message:?}");
        assert_eq!(Message::parse(&out[..len]), Ok((message, 0)));
    }
}

#[test]
fn the_longest_message_fits_into_what_is_set_aside_for_it() {
    let address = "[2001:db8::1]:51820".parse().expect("an address");
    let list = [Candidate { kind: CandidateKind::Host, address }; CANDIDATES_MAX + 3];
    let seek = Seek {
        meeting: MeetingId([1; 32]),
        stop: Some(Stop::Dropped),
        generation: 1,
        candidates: Candidates::new(NAT, &list),
    };
    let message = Message { request: 1, body: Body::Seek(seek) };
    let mut out = [0; WRITTEN_MAX];
    let len = message.write(&mut out, 0);
    let (parsed, _) = Message::parse(&out[..len]).expect("a message");
    assert!(matches!(parsed.body, Body::Seek(seek) if seek.candidates.list.len() == CANDIDATES_MAX));
    // One more is more than a side may have.
    let mut longer = out[..len].to_vec();
    longer.extend(bytes("0b0007 01 c0000201 ca6c"));
    assert_eq!(Message::parse(&longer), Err(DropReason::ChannelMalformed));
}

#[test]
fn padding_makes_a_message_of_any_size_and_says_nothing() {
    let message = Message { request: 8, body: Body::PathProbe(PathProbe { purpose: Purpose::Mtu, delay_ms: 0 }) };
    let mut out = vec![0xff; 1600];
    let short = message.write(&mut out, 0);
    for padded in [short + 3, short + 4, 700, 1392, 1600] {
        assert_eq!(message.write(&mut out, padded), padded);
        assert_eq!(Message::parse(&out[..padded]), Ok((message.clone(), 0)));
    }
    assert_eq!(message.write(&mut out, short + 2), short, "no field is so short");
}

#[test]
fn what_later_versions_add_is_skipped_and_counted() {
    for (message, hex) in golden() {
        let mut longer = bytes(hex);
        longer.extend(bytes("63 0003 aabbcc  ff 0000  00 0002 0000  00 0000"));
        assert_eq!(Message::parse(&longer), Ok((message.clone(), 2)), "{message:?}");
        // Reserved bytes say nothing.
        longer[2] = 9;
        assert_eq!(Message::parse(&longer), Ok((message, 2)));
    }
    for unknown in ["02010000 00000001", "01190000 00000001 ffff", "01830000 00000001", "01000000 00000001"] {
        assert_eq!(Message::parse(&bytes(unknown)), Err(DropReason::ChannelUnknown), "{unknown}");
    }
    // A kind of candidate, and behaviours of a NAT, that are not known yet.
    let later = bytes("01050000 00000009 090004 00000005 0a0002 0909 0b0007 63 c0000201 ca6c 0b0007 01 c0000202 ca6c");
    let candidate = Candidate { kind: CandidateKind::Host, address: "192.0.2.2:51820".parse().expect("an address") };
    let candidates = Candidates::new(Nat::default(), &[candidate]);
    let body = Body::Candidates { generation: 5, candidates };
    assert_eq!(Message::parse(&later), Ok((Message { request: 9, body }, 1)));
}

#[test]
fn what_is_known_is_parsed_strictly() {
    for (message, hex) in golden() {
        let whole = bytes(hex);
        for len in 0..whole.len() {
            // A shorter one may be another message, where a field is optional; it is never the same.
            match Message::parse(&whole[..len]) {
                Err(reason) => assert_eq!(reason, DropReason::ChannelMalformed, "{message:?} {len}"),
                Ok((other, _)) => assert_ne!(other, message, "{len}"),
            }
        }
    }
    for hex in [
        "01020000 00000002",
        "01020000 00000002 040002 0303",
        "01020000 00000002 040001 11",
        "01020000 00000002 040001 03 040001 03",
        "01020000 00000002 040001 03 00",
        "01020000 00000002 040001 03 63ffff 00",
        "01820000 00000002 040001 03 050006 c0000201 0000 060008 0000000000000102",
        "01820000 00000002 040001 03 050007 c0000201 00 ca6c 060008 0000000000000102",
        "01820000 00000002 040001 03 050002 ca6c 060008 0000000000000102",
        "01820000 00000002 040001 03 050006 c0000201 ca6c 060007 00000000000102",
        // A purpose that is none, a delay of the wrong length.
        "01040000 00000008",
        "01040000 00000008 070001 00",
        "01040000 00000008 070001 05",
        "01040000 00000008 070001 04 080002 7530",
        "01840000 00000008 050006 c0000201 0000",
        // Candidates without a generation, without a NAT, of no length, without a port.
        "01050000 00000009 0a0002 0204",
        "01050000 00000009 090004 00000005",
        "01050000 00000009 090004 00000005 0a0002 0204 0b0000",
        "01050000 00000009 090004 00000005 0a0002 0204 0b0001 01",
        "01050000 00000009 090004 00000005 0a0002 0204 0b0007 01 c0000201 0000",
        "01050000 00000009 090004 00000005 0a0002 0204 0b0008 01 c000020100 ca6c",
        "01060000 0000000a 0c001f ababababababababababababababababababababababababababababababab \
         090004 00000009 0a0002 0204",
        "01060000 0000000a 0c0020 abababababababababababababababababababababababababababababababab 0d0002 0101 \
         090004 00000009 0a0002 0204",
        "01080000 0000000c",
        // A grant of nothing, of port 0.
        "01880000 0000000c 110001 00",
        "01880000 0000000c 110001 00 0e0008 0102030405060708 0f0002 0000 100004 0000003c",
        "010a0000 0000000e 0e0007 00000000000102",
        "010b0000 0000000f",
    ] {
        assert_eq!(Message::parse(&bytes(hex)), Err(DropReason::ChannelMalformed), "{hex}");
    }
}
