//! Crafted frames, frames that lie, and what the template writes read back.

use proptest::prelude::*;

use super::*;
use crate::datapath::checksum::tests::naive;
use crate::datapath::crafted::{Crafted, check_spec, frame, pool};

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

fn framed(ethertypes: &[u8], packet: &[u8]) -> Vec<u8> {
    [&MACS[..], ethertypes, packet].concat()
}

/// An IPv4 packet with its header checksum set right again.
fn checked(mut packet: Vec<u8>) -> Vec<u8> {
    let header_len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let check = naive(&packet[..header_len]).to_be_bytes();
    packet[10..12].copy_from_slice(&check);
    packet
}

fn v6_with(extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let plain = Crafted { v6: true, ..Crafted::udp(1, 0, 32) }.bytes();
    let mut packet = plain[..40].to_vec();
    let mut next_at = 6;
    for (kind, body) in extensions {
        packet[next_at] = *kind;
        next_at = packet.len();
        packet.extend(body);
    }
    packet[next_at] = 17;
    packet.extend(&plain[40..]);
    let len = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet
}

#[test]
fn datagrams_are_found_behind_tags_options_and_extension_headers() {
    let v4 = Crafted::udp(1, 0, 32).bytes();
    let v6 = Crafted { v6: true, ..Crafted::udp(1, 0, 32) }.bytes();
    let mut options = [&v4[..20], &[1; 12], &v4[20..]].concat();
    options[0] = 0x48;
    options[2..4].copy_from_slice(&72_u16.to_be_bytes());
    let option = vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let extended = v6_with(&[(0, vec![0; 8]), (60, option), (43, vec![0; 8])]);
    let table: [(&str, &[u8], Vec<u8>); 8] = [
        ("IPv4", &[8, 0], v4.clone()),
        ("IPv4, padded to 60 bytes and more", &[8, 0], [v4.clone(), vec![0; 30]].concat()),
        ("IPv4 with a tag", &[0x81, 0, 0, 5, 8, 0], v4.clone()),
        ("IPv4 with two tags", &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0], v4),
        ("IPv4 with options", &[8, 0], checked(options)),
        ("IPv6", &[0x86, 0xdd], v6.clone()),
        ("IPv6 with a tag", &[0x81, 0, 0, 5, 0x86, 0xdd], v6),
        ("IPv6 with extension headers", &[0x86, 0xdd], extended),
    ];
    for (what, ethertypes, packet) in table {
        let frame = framed(ethertypes, &packet);
        let datagram = parse(&frame).unwrap_or_else(|reason| panic!("{what}: {reason:?}"));
        let remote =
            if packet[0] >> 4 == 4 { "10.0.0.1:16385" } else { "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fd01]:16385" };
        assert_eq!(datagram.remote.to_string(), remote, "{what}");
        assert_eq!(datagram.local_port, 0x5001, "{what}");
        assert_eq!(frame[datagram.payload], Crafted::udp(1, 0, 32).payload, "{what}");
    }
}

#[test]
fn what_is_no_whole_datagram_has_its_reason() {
    use DropReason::{Malformed, Truncated};
    let v4 = Crafted::udp(1, 0, 32).bytes();
    let v6 = Crafted { v6: true, ..Crafted::udp(1, 0, 32) }.bytes();
    let change = |packet: &[u8], at: usize, bytes: &[u8]| {
        let mut packet = packet.to_vec();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let v4_with = |at, bytes: &[u8]| checked(change(&v4, at, bytes));
    let table: [(&str, &[u8], Vec<u8>, DropReason); 21] = [
        ("three tags", &[0x81, 0, 0, 5, 0x81, 0, 0, 6, 0x81, 0, 0, 6, 8, 0], v4.clone(), Malformed),
        ("ARP", &[8, 6], v4.clone(), Malformed),
        ("version", &[8, 0], change(&v4, 0, &[0x55]), Malformed),
        ("header length", &[8, 0], change(&v4, 0, &[0x44]), Malformed),
        ("header longer than the packet", &[8, 0], change(&v4, 2, &[0, 19]), Malformed),
        ("length more than there is", &[8, 0], change(&v4, 2, &[1, 0]), Truncated),
        ("first fragment", &[8, 0], v4_with(6, &[0x20, 0]), Malformed),
        ("later fragment", &[8, 0], v4_with(6, &[0, 1]), Malformed),
        ("TCP", &[8, 0], v4_with(9, &[6]), Malformed),
        ("header checksum", &[8, 0], change(&v4, 15, &[9]), Malformed),
        ("UDP length below its header", &[8, 0], change(&v4, 24, &[0, 7]), Malformed),
        ("UDP length more than there is", &[8, 0], change(&v4, 24, &[0, 41]), Truncated),
        ("no room for UDP", &[8, 0], v4_with(2, &[0, 27]), Truncated),
        ("IPv6 version", &[0x86, 0xdd], change(&v6, 0, &[0x50]), Malformed),
        ("IPv6 length more than there is", &[0x86, 0xdd], change(&v6, 4, &[1, 0]), Truncated),
        ("IPv6 fragment", &[0x86, 0xdd], v6_with(&[(44, vec![0; 8])]), Malformed),
        ("segments left", &[0x86, 0xdd], v6_with(&[(43, vec![0, 0, 0, 1, 0, 0, 0, 0])]), Malformed),
        ("extension longer than the packet", &[0x86, 0xdd], v6_with(&[(0, vec![0, 200, 0, 0, 0, 0, 0, 0])]), Truncated),
        ("nine extensions", &[0x86, 0xdd], v6_with(&vec![(0, vec![0; 8]); 9]), Malformed),
        ("no next header", &[0x86, 0xdd], change(&v6, 6, &[59]), Malformed),
        ("no room for UDP over IPv6", &[0x86, 0xdd], change(&v6, 4, &[0, 7]), Truncated),
    ];
    for (what, ethertypes, packet, reason) in table {
        assert_eq!(parse(&framed(ethertypes, &packet)), Err(reason), "{what}");
    }
    for frame in [framed(&[8, 0], &v4), framed(&[0x86, 0xdd], &v6), framed(&[0x81, 0, 0, 5, 8, 0], &v4)] {
        for len in 0..frame.len() {
            assert_eq!(parse(&frame[..len]), Err(Truncated), "{len} bytes");
        }
    }
    assert!(parse(&framed(&[0x86, 0xdd], &v6_with(&vec![(0, vec![0; 8]); 8]))).is_ok());
}

fn wire(source: IpAddr, mtu: u32, ethertypes: &[u8]) -> Wire {
    Wire { if_index: 1, source, ethernet: framed(ethertypes, &[]).into_iter().collect(), mtu }
}

#[test]
fn a_path_of_two_families_has_no_headers() {
    let wire = wire("192.0.2.1".parse().expect("an address"), 1500, &[8, 0]);
    assert_eq!(HeaderTemplate::new(&wire, "[2001:db8::1]:9".parse().expect("an address")), None);
    assert!(HeaderTemplate::new(&wire, "[::ffff:192.0.2.9]:9".parse().expect("an address")).is_some());
}

#[test]
fn a_payload_that_does_not_fit_leaves_the_frame_as_it_was() {
    let mut pool = pool(64, 2);
    let wire = wire("192.0.2.1".parse().expect("an address"), 1500, &[8, 0]);
    let template = HeaderTemplate::new(&wire, "192.0.2.2:9".parse().expect("an address")).expect("one family");
    assert_eq!(template.payload_max(), 1472);
    assert_eq!(template.write(&mut frame(&mut pool, &[4; 1472]), 1), Ok(()));
    let mut large = frame(&mut pool, &[4; 1473]);
    assert_eq!(template.write(&mut large, 1), Err(DropReason::Oversized));
    assert_eq!(large.data(), [4; 1473]);
    let mut cramped = frame(&mut pool, &[]);
    cramped.reset(41);
    assert_eq!(template.write(&mut cramped, 1), Err(DropReason::Oversized));
    assert!(cramped.is_empty());
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_with_right_checksums(
        v6 in any::<bool>(),
        hosts in any::<(u16, u16)>(),
        ports in any::<(u16, u16)>(),
        tagged in any::<bool>(),
        offloaded in any::<bool>(),
        ecn in 0..4_u8,
        payload in proptest::collection::vec(any::<u8>(), 0..1400),
    ) {
        let host = |n: u16| -> IpAddr {
            match v6 {
                true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, n, n).into(),
                false => Ipv4Addr::from(0xc000_0000 | u32::from(n)).into(),
            }
        };
        let ethertype: &[u8] = if v6 { &[0x86, 0xdd] } else { &[8, 0] };
        let ethertypes = if tagged { [&[0x81, 0, 0, 9], ethertype].concat() } else { ethertype.to_vec() };
        let remote = SocketAddr::new(host(hosts.1), ports.1);
        let template = HeaderTemplate::new(&wire(host(hosts.0), 1500, &ethertypes), remote);
        let mut frame = frame(&mut pool(64, 0), &payload);
        let by = if offloaded { SummedBy::Device } else { SummedBy::Us };
        prop_assert_eq!(template.expect("one family").write_summed_by(by, &mut frame, ports.0, ecn), Ok(()));
        let mut bytes = frame.data().to_vec();
        if offloaded && v6 {
            // What the device does: from the UDP header on, over what stands in the field.
            let udp = bytes.len() - payload.len() - UDP_LEN;
            let finished = Sum::of(&bytes[udp..]).checksum_nonzero();
            bytes[udp + 6..udp + 8].copy_from_slice(&finished);
        }
        let bytes = &bytes[..];
        let datagram = parse(bytes).expect("a whole datagram");
        // From the receiver's side: what was the source is its remote.
        prop_assert_eq!(datagram.remote, SocketAddr::new(host(hosts.0), ports.0));
        prop_assert_eq!((datagram.local, datagram.local_port, datagram.ecn), (remote.ip(), remote.port(), ecn));
        prop_assert_eq!(&bytes[datagram.payload.clone()], &payload[..]);
        let mut packet = bytes[MACS_LEN + ethertypes.len()..].to_vec();
        prop_assert_eq!(packet.len(), datagram.ip_len);
        if v6 {
            prop_assert_eq!(check_spec(&packet), Ok(()));
        } else {
            prop_assert_eq!(naive(&packet[..20]), 0);
            prop_assert_eq!(&packet[26..28], &[0, 0]);
            let id = payload.get(8..10).map_or(0, |id| u16::from_le_bytes([id[0], id[1]]));
            prop_assert_eq!(&packet[4..8], &[&id.to_be_bytes()[..], &[0, 0]].concat()[..]);
            packet[26] = 1;
            prop_assert!(check_spec(&packet).is_err(), "the check sees a wrong checksum");
        }
    }

    #[test]
    fn any_frame_is_parsed_without_panic_and_its_payload_lies_within(
        v6 in any::<bool>(),
        changes in proptest::collection::vec((0..80_usize, any::<u8>()), 0..8),
        cut in 0..200_usize,
    ) {
        let packet = Crafted { v6, ..Crafted::udp(1, 0, 64) }.bytes();
        let mut frame = framed(if v6 { &[0x86, 0xdd] } else { &[8, 0] }, &packet);
        for (at, value) in changes {
            frame[at] = value;
        }
        frame.truncate(cut);
        if let Ok(datagram) = parse(&frame) {
            prop_assert!(frame.get(datagram.payload).is_some());
        }
    }
}
