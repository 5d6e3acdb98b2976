//! The object on crafted packets, without a wire.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;

use aya::programs::{TestRun, TestRunOptions};
use landbridge::steer::Verdict;
use landbridge_proto::ReceiverIndex;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::may_run;
use crate::packet::{IPV4, IPV6, PROVIDER_VLAN, UDP, VLAN, ethernet, extension, ipv4, ipv6, transport_data, udp};
use crate::rig::{LIVE, LONGEST, LOOPBACK, OURS_4, OURS_6, PORT, Rig, XDP_PASS, model};

/// Transport data of the live session.
fn data() -> Vec<u8> {
    udp(PORT, &transport_data(LIVE, 96))
}

fn v4(body: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV4, &ipv4(OURS_4, UDP, &[], 0x4000, body))
}

fn v6(next: u8, body: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV6, &ipv6(OURS_6, next, body))
}

/// A frame with some bytes overwritten.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// `count` destination options in a row before `body`.
fn options(count: usize, body: Vec<u8>) -> Vec<u8> {
    (0..count).fold(body, |body, position| extension(if position == 0 { UDP } else { 60 }, 0, 0, &body))
}

fn check(cases: Vec<(&str, Vec<u8>, Verdict)>) {
    if !may_run() {
        return;
    }
    let mut rig = Rig::new();
    for (name, frame, expected) in cases {
        assert_eq!(rig.verdict(&frame), expected, "{name}");
    }
}

#[test]
fn every_layer_below_udp_has_its_verdict() {
    use Verdict::{Fragment, Malformed, OtherEtherType, OtherProtocol, Redirected, TooLong, TooManyTags, Truncated};
    let ip = ipv4(OURS_4, UDP, &[], 0, &data());
    let ip6 = ipv6(OURS_6, UDP, &data());
    let padded = [v4(&udp(PORT, &transport_data(LIVE, 32))), vec![0; 18]].concat();
    check(vec![
        ("plain IPv4", v4(&data()), Redirected),
        ("plain IPv6", v6(UDP, &data()), Redirected),
        ("one tag, IPv4", ethernet(&[VLAN], IPV4, &ip), Redirected),
        ("one provider tag, IPv6", ethernet(&[PROVIDER_VLAN], IPV6, &ip6), Redirected),
        ("two tags, IPv4", ethernet(&[PROVIDER_VLAN, VLAN], IPV4, &ip), Redirected),
        ("two tags alike, IPv6", ethernet(&[VLAN, VLAN], IPV6, &ip6), Redirected),
        ("three tags", ethernet(&[VLAN, VLAN, VLAN], IPV4, &ip), TooManyTags),
        ("padding behind the packet", padded, Redirected),
        ("ARP", ethernet(&[], 0x0806, &[0; 46]), OtherEtherType),
        ("ARP in two tags", ethernet(&[PROVIDER_VLAN, VLAN], 0x0806, &[0; 46]), OtherEtherType),
        ("no packet at all", ethernet(&[], IPV4, &[]), Truncated),
        ("a tag cut off", ethernet(&[], VLAN, &[0, 1]), Truncated),
        ("IPv4 with 4 bytes of options", ethernet(&[], IPV4, &ipv4(OURS_4, UDP, &[1; 4], 0, &data())), Redirected),
        (
            "IPv4 with 40 bytes of options",
            ethernet(&[VLAN], IPV4, &ipv4(OURS_4, UDP, &[1; 40], 0, &data())),
            Redirected,
        ),
        ("TCP", ethernet(&[], IPV4, &ipv4(OURS_4, 6, &[], 0, &data())), OtherProtocol),
        ("TCP over IPv6", v6(6, &data()), OtherProtocol),
        ("first fragment", ethernet(&[], IPV4, &ipv4(OURS_4, UDP, &[], 0x2000, &data())), Fragment),
        ("middle fragment", ethernet(&[], IPV4, &ipv4(OURS_4, UDP, &[], 0x2001, &data())), Fragment),
        ("last fragment, low offset", ethernet(&[], IPV4, &ipv4(OURS_4, UDP, &[], 1, &data())), Fragment),
        ("last fragment, high offset", ethernet(&[], IPV4, &ipv4(OURS_4, UDP, &[], 0x1000, &data())), Fragment),
        ("version 6 in IPv4", with(v4(&data()), 14, &[0x65]), Malformed),
        ("version 4 in IPv6", with(v6(UDP, &data()), 14, &[0x40]), Malformed),
        ("header of 16 bytes", with(v4(&data()), 14, &[0x44]), Malformed),
        ("total length below the header's", with(v4(&data()), 16, &[0, 19]), Malformed),
        ("total length without a UDP header", with(v4(&data()), 16, &[0, 27]), Malformed),
        ("total length beyond the frame", with(v4(&data()), 16, &[0, 125]), Truncated),
        ("payload length beyond the frame", with(v6(UDP, &data()), 18, &[0, 105]), Truncated),
        ("total length beyond a page", with(v4(&data()), 16, &[0x0f, 0x01]), TooLong),
        ("total length just within a page", with(v4(&data()), 16, &[0x0f, 0x00]), Truncated),
        ("greatest total length", with(v4(&data()), 16, &[0xff, 0xff]), TooLong),
        ("payload length beyond a page", with(v6(UDP, &data()), 18, &[0x0e, 0xd9]), TooLong),
        ("payload length just within a page", with(v6(UDP, &data()), 18, &[0x0e, 0xd8]), Truncated),
        ("greatest payload length", with(v6(UDP, &data()), 18, &[0xff, 0xff]), TooLong),
        ("payload length zero", with(v6(UDP, &data()), 18, &[0, 0]), Malformed),
    ]);
}

#[test]
fn extension_headers_are_walked_as_far_as_they_end_here() {
    use Verdict::{Fragment, Malformed, OtherProtocol, Redirected, TooManyExtensions};
    let all = extension(60, 0, 0, &extension(43, 1, 0, &extension(60, 2, 0, &extension(UDP, 0, 0, &data()))));
    let long = extension(UDP, 60, 0, &data());
    check(vec![
        ("hop-by-hop options", v6(0, &extension(UDP, 0, 0, &data())), Redirected),
        ("destination options", v6(60, &extension(UDP, 0, 0, &data())), Redirected),
        ("routing header at its end", v6(43, &extension(UDP, 2, 0, &data())), Redirected),
        ("routing header that leads on", v6(43, &extension(UDP, 2, 1, &data())), OtherProtocol),
        ("four in a row, tagged twice", ethernet(&[VLAN, VLAN], IPV6, &ipv6(OURS_6, 0, &all)), Redirected),
        ("options of 488 bytes", v6(60, &long), Redirected),
        ("as many as are walked", v6(60, &options(6, data())), Redirected),
        ("one more than are walked", v6(60, &options(7, data())), TooManyExtensions),
        (
            "hop-by-hop options in second place",
            v6(60, &extension(0, 0, 0, &extension(UDP, 0, 0, &data()))),
            OtherProtocol,
        ),
        ("fragment", v6(44, &extension(UDP, 0, 1, &data())), Fragment),
        ("fragment behind options", v6(0, &extension(44, 0, 0, &extension(UDP, 0, 0, &data()))), Fragment),
        ("fragment behind all that are walked", v6(60, &with(options(6, data()), 40, &[44])), Fragment),
        ("authentication header", v6(51, &extension(UDP, 4, 0, &data())), OtherProtocol),
        ("encapsulating security payload", v6(50, &data()), OtherProtocol),
        ("mobility header", v6(135, &extension(UDP, 0, 0, &data())), OtherProtocol),
        ("no next header", v6(59, &data()), OtherProtocol),
        ("options longer than the packet", v6(60, &extension(UDP, 0, 0, &data()[..40])[..8]), Malformed),
        ("options that swallow UDP", v6(60, &with(extension(UDP, 0, 0, &data()), 1, &[200])), Malformed),
    ]);
}

#[test]
fn only_transport_data_of_a_live_session_to_us_is_taken() {
    use Verdict::{Control, Malformed, OtherAddress, OtherPort, Redirected, TooLong, UnknownSession};
    let message = |kind: u8, len| {
        let mut message = transport_data(LIVE, len);
        message[0] = kind;
        v4(&udp(PORT, &message))
    };
    let index = |index| v4(&udp(PORT, &transport_data(index, 64)));
    let other_6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    check(vec![
        ("a keepalive, the shortest", v4(&udp(PORT, &transport_data(LIVE, 32))), Redirected),
        ("a full packet", v4(&udp(PORT, &transport_data(LIVE, 1452))), Redirected),
        ("the longest packet", v4(&udp(PORT, &transport_data(LIVE, LONGEST - 28))), Redirected),
        ("a longer packet", v4(&udp(PORT, &transport_data(LIVE, LONGEST - 27))), TooLong),
        ("the longest IPv6 packet", v6(UDP, &udp(PORT, &transport_data(LIVE, LONGEST - 48))), Redirected),
        ("a longer IPv6 packet", v6(UDP, &udp(PORT, &transport_data(LIVE, LONGEST - 47))), TooLong),
        ("a longer packet to another port", v4(&udp(PORT + 1, &transport_data(LIVE, LONGEST))), OtherPort),
        ("one byte short of a keepalive", v4(&udp(PORT, &transport_data(LIVE, 31))), Control),
        ("an empty datagram", v4(&udp(PORT, &[])), Control),
        ("seven bytes", v4(&udp(PORT, &[4, 0, 0, 0, 1, 1, 1])), Control),
        ("an initiation", message(1, 148), Control),
        ("a response", message(2, 92), Control),
        ("a cookie reply", message(3, 64), Control),
        ("a type of its own", message(5, 64), Control),
        ("first reserved byte set", with(v4(&data()), 43, &[1]), Control),
        ("last reserved byte set", with(v4(&data()), 45, &[1]), Control),
        ("another port", v4(&udp(PORT + 1, &transport_data(LIVE, 96))), OtherPort),
        ("our port with its bytes swapped", v4(&udp(PORT.swap_bytes(), &transport_data(LIVE, 96))), OtherPort),
        ("another address", with(v4(&data()), 30, &[192, 0, 2, 2]), OtherAddress),
        ("another IPv6 address", ethernet(&[], IPV6, &ipv6(other_6, UDP, &data())), OtherAddress),
        ("our address mapped into IPv6", ethernet(&[], IPV6, &ipv6(OURS_4.to_ipv6_mapped(), UDP, &data())), Redirected),
        ("a free slot", index(LIVE + 1), UnknownSession),
        ("the live slot under another index", index(LIVE ^ 0x0010_0000), UnknownSession),
        ("the index with its bytes swapped", index(LIVE.swap_bytes()), UnknownSession),
        ("index zero", index(0), UnknownSession),
        ("the last slot", index(u32::MAX), UnknownSession),
        ("UDP length of seven", with(v4(&data()), 38, &[0, 7]), Malformed),
        ("UDP length beyond the packet", with(v4(&data()), 38, &[0, 105]), Malformed),
        ("UDP length that leaves a tail", with(v4(&data()), 38, &[0, 40]), Redirected),
        ("UDP length that cuts the header", with(v4(&data()), 38, &[0, 39]), Control),
    ]);
}

#[test]
fn what_the_maps_say_holds_from_the_next_packet_on() {
    if !may_run() {
        return;
    }
    let mut rig = Rig::new();
    let four = v4(&data());
    let six = v6(UDP, &data());
    assert_eq!(rig.verdict(&four), Verdict::Redirected);

    rig.steer.unbind_socket(LOOPBACK, 0).expect("unbound");
    assert_eq!(rig.verdict(&four), Verdict::NoSocket);
    // Another interface takes the lowest number, so that this one's is found anew.
    rig.steer.bind_socket(77, 0, rig.socket.as_fd()).expect("another interface");
    assert_eq!(rig.verdict(&four), Verdict::NoSocket);
    rig.steer.bind_socket(LOOPBACK, 1, rig.socket.as_fd()).expect("another queue");
    assert_eq!(rig.verdict(&four), Verdict::NoSocket);
    rig.steer.bind_socket(LOOPBACK, 0, rig.socket.as_fd()).expect("bound again");
    assert_eq!(rig.verdict(&four), Verdict::Redirected);

    let other = ReceiverIndex(LIVE ^ 0x0010_0000);
    rig.steer.remove_session(other).expect("no session of ours");
    assert_eq!(rig.verdict(&four), Verdict::Redirected, "the slot's own session stays");
    rig.steer.insert_session(other).expect("the slot's next session");
    assert_eq!(rig.verdict(&four), Verdict::UnknownSession);
    rig.steer.remove_session(ReceiverIndex(LIVE)).expect("long gone");
    rig.steer.remove_session(other).expect("removed");
    rig.steer.insert_session(ReceiverIndex(LIVE)).expect("back");
    assert_eq!(rig.verdict(&four), Verdict::Redirected);

    rig.steer.set_addresses(&[IpAddr::V6(OURS_6)]).expect("one address");
    assert_eq!((rig.verdict(&four), rig.verdict(&six)), (Verdict::OtherAddress, Verdict::Redirected));
    rig.steer.set_addresses(&[OURS_4.into()]).expect("the other address");
    assert_eq!((rig.verdict(&four), rig.verdict(&six)), (Verdict::Redirected, Verdict::OtherAddress));

    rig.steer.set_port(PORT + 1).expect("another port");
    assert_eq!(rig.verdict(&four), Verdict::OtherPort);
    rig.steer.disable().expect("disabled");
    assert_eq!(rig.verdict(&four), Verdict::Disabled);

    rig.steer.set_port(PORT).expect("the port");
    drop(rig.socket);
    let options = TestRunOptions { data_in: Some(&four), ..Default::default() };
    let result = rig.steer.program().expect("the program").test_run(options).expect("a run");
    assert_eq!(result.return_value, XDP_PASS, "a closed socket leaves its packets to the kernel");
    rig.steer.unbind_socket(LOOPBACK, 0).expect("what the kernel took out already may be unbound");
}

#[test]
fn a_frame_cut_at_any_length_passes_and_agrees_with_the_model() {
    if !may_run() {
        return;
    }
    let mut rig = Rig::new();
    let model = model();
    let all = extension(60, 0, 0, &extension(43, 1, 0, &extension(UDP, 2, 0, &data())));
    let wholes = [
        v4(&data()),
        v6(UDP, &data()),
        ethernet(&[PROVIDER_VLAN, VLAN], IPV4, &ipv4(OURS_4, UDP, &[1; 40], 0, &data())),
        ethernet(&[VLAN, VLAN], IPV6, &ipv6(OURS_6, 0, &all)),
    ];
    for whole in wholes {
        assert_eq!(rig.verdict(&whole), Verdict::Redirected);
        for len in 14..whole.len() {
            let frame = &whole[..len];
            let verdict = rig.verdict(frame);
            assert_ne!(verdict, Verdict::Redirected, "cut at {len}");
            assert_eq!(verdict, model.verdict(frame), "cut at {len}");
        }
    }
}

/// Frames that reach every depth of the program: whole ones of all kinds, then some bytes changed, then cut or padded.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let tags = vec(prop_oneof![Just(VLAN), Just(PROVIDER_VLAN)], 0..=3);
    let payload = prop_oneof![
        4 => (32usize..200).prop_map(|len| transport_data(LIVE, len)),
        1 => (any::<u32>(), 8usize..64).prop_map(|(index, len)| transport_data(index, len)),
        1 => vec(any::<u8>(), 0..160),
    ];
    let datagram = (prop_oneof![6 => Just(PORT), 1 => any::<u16>()], payload).prop_map(|(port, data)| udp(port, &data));
    let four = (0usize..=10, prop_oneof![6 => Just(0u16), 1 => any::<u16>()], datagram.clone())
        .prop_map(|(words, fragment, body)| (IPV4, ipv4(OURS_4, UDP, &vec![1; words * 4], fragment, &body)));
    let kind = prop_oneof![3 => Just(60u8), 3 => Just(43), 1 => Just(0), 1 => Just(44), 1 => any::<u8>()];
    let extensions = vec((kind, 0u8..4, prop_oneof![6 => Just(0u8), 1 => any::<u8>()]), 0..9);
    let six = (extensions, datagram).prop_map(|(extensions, body)| {
        let chain = extensions
            .into_iter()
            .fold((UDP, body), |(next, body), (kind, len, fourth)| (kind, extension(next, len, fourth, &body)));
        (IPV6, ipv6(OURS_6, chain.0, &chain.1))
    });
    let whole = (tags, prop_oneof![four, six]).prop_map(|(tags, (kind, packet))| ethernet(&tags, kind, &packet));
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let resize = prop_oneof![6 => Just(0i32), 1 => -60..0i32, 1 => 1..40i32];
    (whole, changes, resize).prop_map(|(mut frame, changes, resize)| {
        for (at, byte) in changes {
            // Most changes hit the headers, where they matter.
            let at = at.index(frame.len().min(120));
            frame[at] = byte;
        }
        let len = i32::try_from(frame.len()).expect("a frame's length") + resize;
        frame.resize(usize::try_from(len.max(14)).expect("positive"), 0);
        frame
    })
}

#[test]
fn random_and_damaged_frames_agree_with_the_model() {
    if !may_run() {
        return;
    }
    let rig = RefCell::new(Rig::new());
    let model = model();
    let mut runner = TestRunner::new(Config { cases: 20_000, failure_persistence: None, ..Config::default() });
    runner
        .run(&frames(), |frame| {
            prop_assert_eq!(rig.borrow_mut().verdict(&frame), model.verdict(&frame));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    // The frames above are worth something only if they got everywhere that the wire can lead to.
    let reached = rig.into_inner().before;
    for (verdict, packets) in reached.iter() {
        let by_settings = matches!(verdict, Verdict::Disabled | Verdict::NoSocket) || verdict >= Verdict::LanRedirected;
        assert!(by_settings || packets > 0, "no frame led to {verdict:?}: {reached:?}");
    }
}
