//! Splitting against a slow model, and against input that lies.

use proptest::prelude::*;

use super::*;
use crate::datapath::crafted::{ACK, CWR, Crafted, FIN, PSH, any_packet, check_spec, pool};
use crate::datapath::vnet::{GSO_ECN, GSO_UDP};

fn run(read: &[u8], pool: &mut Pool) -> (Result<Segments, DropReason>, Vec<Vec<u8>>) {
    let mut frames = Vec::new();
    let result = split(read, pool, &mut |frame| frames.push(frame));
    let packets = frames.iter().map(|frame| frame.data().to_vec()).collect();
    for frame in frames {
        assert!(frame.headroom() >= Frame::HEADROOM && frame.tailroom() >= PADDING + TAG_LEN);
        pool.put(frame);
    }
    (result, packets)
}

fn expected(whole: &Crafted, segment_len: usize) -> Vec<Vec<u8>> {
    whole.cut(segment_len).iter().map(Crafted::bytes).collect()
}

#[test]
fn a_plain_packet_becomes_one_frame_unchanged() {
    let mut pool = pool(64, 2);
    for len in [0, 1, 1380, 1900, 9000, 65_000] {
        let packet = Crafted::tcp(1, 5, len).bytes();
        let (result, packets) = run(&[VnetHdr::PLAIN.bytes(), &packet].concat(), &mut pool);
        assert_eq!(result, Ok(Segments { emitted: 1, without_frame: 0 }), "{len} bytes");
        assert_eq!(packets, [packet]);
    }
}

#[test]
fn an_unfinished_checksum_is_finished() {
    let mut pool = pool(64, 2);
    for (crafted, offset) in [(Crafted::tcp(1, 5, 100), 16), (Crafted::udp(2, 6, 33), 6)] {
        let mut read = crafted.super_packet(1);
        read[..10].copy_from_slice(VnetHdr::unfinished(20, offset).bytes());
        let (result, packets) = run(&read, &mut pool);
        assert_eq!(result, Ok(Segments { emitted: 1, without_frame: 0 }));
        assert_eq!(packets, [crafted.bytes()]);
    }
}

#[test]
fn a_tcp_super_packet_keeps_fin_and_psh_for_the_last_and_cwr_for_the_first() {
    let whole = Crafted { flags: ACK | FIN | PSH | CWR, id: 65_535, ..Crafted::tcp(1, u32::MAX - 100, 3000) };
    let mut read = whole.super_packet(1400);
    read[1] |= GSO_ECN;
    let (result, packets) = run(&read, &mut pool(64, 2));
    assert_eq!(result, Ok(Segments { emitted: 3, without_frame: 0 }));
    assert_eq!(packets, expected(&whole, 1400));
    let cut: Vec<_> = packets.iter().map(|bytes| Crafted::read(bytes)).collect();
    assert_eq!(cut.iter().map(|p| p.flags).collect::<Vec<_>>(), [ACK | CWR, ACK, ACK | FIN | PSH]);
    assert_eq!(cut.iter().map(|p| p.id).collect::<Vec<_>>(), [65_535, 0, 1]);
    assert_eq!(cut[1].sequence, 1299);
}

#[test]
fn the_largest_super_packet_is_split() {
    for whole in [Crafted::tcp(1, 9, 65_535 - 52), Crafted { v6: true, ..Crafted::udp(1, 9, 65_535 - 8) }] {
        let (result, packets) = run(&whole.super_packet(1368), &mut pool(64, 2));
        assert_eq!(result, Ok(Segments { emitted: 48, without_frame: 0 }));
        let whole = Crafted::read(&whole.bytes());
        assert_eq!(packets, expected(&whole, 1368));
    }
}

#[test]
fn segments_without_a_frame_are_counted_and_the_others_are_whole() {
    let whole = Crafted::tcp(1, 9, 64_000);
    let (result, packets) = run(&whole.super_packet(1000), &mut pool(64, 0));
    assert_eq!(result, Ok(Segments { emitted: 64, without_frame: 0 }));
    assert_eq!(packets.len(), 64);
    let (result, packets) = run(&whole.super_packet(500), &mut pool(64, 0));
    assert_eq!(result, Ok(Segments { emitted: 64, without_frame: 64 }));
    assert_eq!(packets, expected(&whole, 500)[..64]);
    let plain = [VnetHdr::PLAIN.bytes(), &whole.bytes()].concat();
    assert_eq!(run(&plain, &mut pool(64, 0)).0, Ok(Segments { emitted: 0, without_frame: 1 }));
}

#[test]
fn options_headers_of_ipv6_are_repeated_in_every_segment() {
    let inner = Crafted { v6: true, ..Crafted::tcp(1, 9, 300) }.super_packet(100);
    // A destination options header of eight bytes between IPv6 and TCP.
    let mut read = [&inner[..50], &[6, 0, 1, 4, 0, 0, 0, 0], &inner[50..]].concat();
    read[10 + 6] = 60;
    let len = u16::from_be_bytes([read[14], read[15]]) + 8;
    read[14..16].copy_from_slice(&len.to_be_bytes());
    read[6..8].copy_from_slice(&48_u16.to_ne_bytes());
    let (result, packets) = run(&read, &mut pool(64, 2));
    assert_eq!(result, Ok(Segments { emitted: 3, without_frame: 0 }));
    for packet in packets {
        assert_eq!(packet[40..48], [6, 0, 1, 4, 0, 0, 0, 0]);
        check_spec(&packet).expect("a segment within its specification");
    }
}

#[test]
fn what_header_and_packet_disagree_about_is_malformed() {
    type Break = fn(&mut Vec<u8>);
    let table: [(&str, Break); 16] = [
        ("no packet", |read| read.truncate(10)),
        ("segment length zero", |read| read[4..6].fill(0)),
        ("fragments of UDP", |read| read[1] = GSO_UDP),
        ("unknown kind", |read| read[1] = 0x10),
        ("IPv6 kind", |read| read[1] = GSO_TCPV6),
        ("UDP kind", |read| read[1] = GSO_UDP_L4),
        ("checksum elsewhere", |read| read[6..8].copy_from_slice(&21_u16.to_ne_bytes())),
        ("checksum field elsewhere", |read| read[8..10].copy_from_slice(&6_u16.to_ne_bytes())),
        ("version", |read| read[10] = 0x75),
        ("IP header length", |read| read[10] = 0x44),
        ("IP header longer than the packet", |read| read.truncate(10 + 19)),
        ("IP length more than there is", |read| read[12..14].fill(0xff)),
        ("IP length less than its header", |read| read[12..14].copy_from_slice(&19_u16.to_be_bytes())),
        ("a fragment", |read| read[16..18].copy_from_slice(&[0x20, 0])),
        ("TCP header length", |read| read[10 + 32] = 0x40),
        ("TCP header longer than the packet", |read| {
            read[10 + 32] = 0xf0;
            read.truncate(10 + 79);
            read[12..14].copy_from_slice(&79_u16.to_be_bytes());
        }),
    ];
    let mut pool = pool(64, 2);
    let good = Crafted::tcp(1, 9, 300).super_packet(100);
    assert!(run(&good, &mut pool).0.is_ok());
    for (what, destroy) in table {
        let mut read = good.clone();
        destroy(&mut read);
        let (result, packets) = run(&read, &mut pool);
        assert_eq!(result, Err(DropReason::Malformed), "{what}");
        assert!(packets.is_empty(), "{what}");
    }
    for len in 0..10 {
        assert_eq!(run(&good[..len], &mut pool).0, Err(DropReason::Truncated));
    }
    let mut outside = [VnetHdr::unfinished(20, 100).bytes(), &Crafted::tcp(1, 9, 81).bytes()[..121]].concat();
    assert_eq!(run(&outside, &mut pool).0, Err(DropReason::Malformed), "checksum field half outside");
    outside[6..10].fill(0xff);
    assert_eq!(run(&outside, &mut pool).0, Err(DropReason::Malformed), "checksum field far outside");
    assert_eq!(pool.free(), (64, 2), "no frame is lost on the way");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn segments_equal_those_of_the_slow_model(whole in any_packet(1..30_000), segment_len in 300..1700_usize) {
        let (result, packets) = run(&whole.super_packet(segment_len as u16), &mut pool(128, 2));
        let expected = expected(&whole, segment_len);
        prop_assert_eq!(result, Ok(Segments { emitted: expected.len(), without_frame: 0 }));
        prop_assert_eq!(packets, expected);
    }

    #[test]
    fn whatever_is_changed_in_a_read_no_segment_leaves_its_specification(
        whole in any_packet(1..5000),
        segment_len in 1..2000_u16,
        changes in proptest::collection::vec((0..120_usize, any::<u8>()), 0..6),
        cut in proptest::option::of(0..5000_usize),
    ) {
        let mut read = whole.super_packet(segment_len);
        for (at, value) in changes {
            let len = read.len();
            read[at % len] = value;
        }
        read.truncate(cut.unwrap_or(usize::MAX));
        let mut pool = pool(128, 2);
        let (result, packets) = run(&read, &mut pool);
        match result {
            Err(_) => prop_assert!(packets.is_empty()),
            Ok(segments) => {
                prop_assert_eq!(segments.emitted, packets.len());
                // A single packet is passed on as it came; its reader checks it.
                if read[1] != GSO_NONE {
                    for packet in packets {
                        if let Err(what) = check_spec(&packet) {
                            prop_assert!(false, "{what}");
                        }
                    }
                }
            }
        }
        prop_assert_eq!(pool.free(), (128, 2));
    }
}
