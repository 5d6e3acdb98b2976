//! Joining, then cutting again as the kernel does: nothing may differ but the number of writes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::datapath::crafted::{ACK, Crafted, FIN, PSH, any_packet, burst, frame, pool, received};
use crate::datapath::hold::Holder;
use crate::datapath::segment::split;

const ALL: Offloads = Offloads { tso: true, uso: true };

fn run(packets: &[Vec<u8>], offloads: Offloads) -> (Joined, Vec<Vec<u8>>) {
    let mut pool = pool(128, 4);
    let mut writes = Vec::new();
    let joined = Joiner::new().join(&mut burst(&mut pool, packets), offloads, &mut |slices, packets| {
        let write: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(received(&write).len(), packets);
        writes.push(write);
        WriteOutcome::Written
    });
    assert_eq!(joined.packets, packets.len());
    (joined, writes)
}

/// How many packets each write holds.
fn shape(packets: &[Crafted]) -> Vec<usize> {
    let packets: Vec<_> = packets.iter().map(Crafted::bytes).collect();
    let (_, writes) = run(&packets, ALL);
    writes.iter().map(|write| received(write).len()).collect()
}

fn stream(flow: u8, segments: u32, len: usize) -> Vec<Crafted> {
    (0..segments)
        .map(|i| Crafted { id: i as u16, ..Crafted::tcp(flow, (i * len as u32).wrapping_sub(2000), len) })
        .collect()
}

#[test]
fn a_stream_of_full_segments_is_one_write() {
    let mut packets = stream(1, 40, 1000);
    packets.extend(Crafted { id: 40, ..Crafted::tcp(1, 38_000, 7) }.cut(7));
    let bytes: Vec<_> = packets.iter().map(Crafted::bytes).collect();
    let (joined, writes) = run(&bytes, ALL);
    let total = bytes.iter().map(Vec::len).sum();
    assert_eq!(joined, Joined { packets: 41, bytes: total, super_packets: 1, full: 0, failed: 0 });
    assert_eq!(received(&writes[0]), bytes);
}

#[test]
fn a_super_packet_does_not_end_where_a_burst_does() {
    let packets: Vec<_> = stream(1, 5 * BURST as u32, 1368).iter().map(Crafted::bytes).collect();
    let (mut pool, mut holder, mut counts) = (pool(512, 0), Holder::new(), Vec::new());
    let mut write = |_: &[IoSlice<'_>], count| {
        counts.push(count);
        WriteOutcome::Written
    };
    for part in packets.chunks(BURST) {
        let mut burst = burst(&mut pool, part);
        holder.take(&mut burst);
        while !burst.is_empty() {
            holder.write(false, ALL, &mut pool, &mut write);
            holder.take(&mut burst);
        }
    }
    holder.write(true, ALL, &mut pool, &mut write);
    // 47 packets of this length fill 64 KiB.
    assert_eq!(counts, [47, 47, 47, 47, 47, 47, 38]);
    assert_eq!(pool.free(), pool.total());
}

#[test]
fn udp_datagrams_of_one_size_are_one_write() {
    for v6 in [false, true] {
        let packets: Vec<_> = (0..10).map(|i| Crafted { v6, ..Crafted::udp(1, i, 500) }).collect();
        assert_eq!(shape(&packets), [10], "IPv6: {v6}");
    }
}

#[test]
fn what_differs_begins_another_write() {
    type Change = fn(&mut Crafted);
    let table: [(&str, Change); 17] = [
        ("a gap", |p| p.sequence += 1),
        ("a retransmission", |p| p.sequence -= 1000),
        ("another acknowledgement", |p| p.acknowledgement += 1),
        ("another window", |p| p.window += 1),
        ("another timestamp", |p| p.options[7] += 1),
        ("other options", |p| p.options = vec![1; 12]),
        ("fewer options", |p| p.options.truncate(0)),
        ("another TOS", |p| p.tos = 2),
        ("another TTL", |p| p.ttl -= 1),
        ("another id", |p| p.id += 5),
        ("fragmentable", |p| p.dont_fragment = false),
        ("SYN", |p| p.flags |= 2),
        ("FIN", |p| p.flags |= FIN),
        ("RST", |p| p.flags |= 4),
        ("URG", |p| p.flags |= 0x20),
        ("ECE", |p| p.flags |= 0x40),
        ("larger", |p| p.payload.push(1)),
    ];
    assert_eq!(shape(&stream(1, 3, 1000)), [3]);
    for (what, change) in table {
        let mut packets = stream(1, 2, 1000);
        change(&mut packets[1]);
        assert_eq!(shape(&packets), [1, 1], "{what}");
    }
}

#[test]
fn a_short_segment_or_psh_is_the_last_of_its_write() {
    let mut packets = stream(1, 4, 1000);
    packets[1].flags |= PSH;
    assert_eq!(shape(&packets), [2, 2]);
    let mut packets = stream(1, 4, 1000);
    packets[1].payload.truncate(999);
    packets[2].sequence = packets[2].sequence.wrapping_sub(1);
    packets[3].sequence = packets[3].sequence.wrapping_sub(1);
    assert_eq!(shape(&packets), [2, 2]);
    let mut packets = stream(1, 3, 1000);
    packets[0].flags |= PSH;
    assert_eq!(shape(&packets), [1, 2]);
}

#[test]
fn a_pure_acknowledgement_is_never_joined_and_keeps_its_place() {
    let mut packets = stream(1, 4, 1000);
    packets.insert(2, Crafted { id: 9, ..Crafted::tcp(1, 0, 0) });
    assert_eq!(shape(&packets), [2, 1, 2]);
}

#[test]
fn flows_are_joined_side_by_side() {
    let (a, b) = (stream(1, 3, 1000), stream(2, 3, 700));
    let mixed: Vec<_> = a.iter().zip(&b).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    assert_eq!(shape(&mixed), [3, 3]);
}

#[test]
fn equal_ids_are_joined_when_fragments_are_ruled_out() {
    let mut packets = stream(1, 3, 1000);
    packets.iter_mut().for_each(|packet| packet.id = 0);
    let bytes: Vec<_> = packets.iter().map(Crafted::bytes).collect();
    let mut pool = pool(64, 0);
    let joined = Joiner::new().join(&mut burst(&mut pool, &bytes), ALL, &mut |_, _| WriteOutcome::Written);
    assert_eq!(joined.super_packets, 1);
    packets.iter_mut().for_each(|packet| packet.dont_fragment = false);
    assert_eq!(shape(&packets), [1, 1, 1]);
}

#[test]
fn a_super_packet_stays_below_64_kib() {
    let packets: Vec<_> = stream(1, 60, 1500);
    assert_eq!(shape(&packets), [43, 17]);
}

#[test]
fn a_wrong_checksum_is_written_alone_and_unmodified() {
    for wrong in 0..3 {
        for (at, offset) in [("transport", 36), ("payload", 100), ("IPv4 header", 11)] {
            let mut packets: Vec<_> = stream(1, 3, 1000).iter().map(Crafted::bytes).collect();
            packets[wrong][offset] ^= 1;
            let (_, writes) = run(&packets, ALL);
            let alone = [VnetHdr::PLAIN.bytes(), &packets[wrong]].concat();
            assert!(writes.contains(&alone), "{at} of packet {wrong}");
            let expected = if wrong == 1 { 3 } else { 2 };
            assert_eq!(writes.len(), expected, "{at} of packet {wrong}");
        }
    }
    let mut unchecked: Vec<_> = (0..2).map(|i| Crafted::udp(1, i, 500).bytes()).collect();
    unchecked.iter_mut().for_each(|packet| packet[26..28].fill(0));
    assert_eq!(run(&unchecked, ALL).1.len(), 2, "UDP without a checksum");
}

#[test]
fn nothing_is_joined_that_the_device_does_not_cut() {
    let tcp: Vec<_> = stream(1, 2, 1000).iter().map(Crafted::bytes).collect();
    let udp: Vec<_> = (0..2).map(|i| Crafted::udp(1, i, 500).bytes()).collect();
    let packets = [tcp, udp].concat();
    assert_eq!(run(&packets, Offloads { tso: true, uso: false }).1.len(), 3);
    assert_eq!(run(&packets, Offloads { tso: false, uso: true }).1.len(), 3);
    assert_eq!(run(&packets, Offloads::default()).1.len(), 4);
}

#[test]
fn what_may_belong_to_any_flow_is_overtaken_by_none() {
    let mut packets: Vec<_> = stream(1, 4, 1000).iter().map(Crafted::bytes).collect();
    let mut fragment = Crafted::udp(1, 3, 600).bytes();
    fragment[6] = 0x20;
    packets.insert(2, fragment.clone());
    let (_, writes) = run(&packets, ALL);
    assert_eq!(writes.iter().map(|write| received(write).len()).collect::<Vec<_>>(), [2, 1, 2]);
    assert_eq!(received(&writes[1]), [fragment]);
    packets[2] = vec![0x45, 1, 2];
    assert_eq!(run(&packets, ALL).1.len(), 3, "what does not parse may be of any flow");
    packets[2] = Crafted::udp(1, 3, 600).bytes();
    packets[2][9] = 1;
    assert_eq!(run(&packets, ALL).1.len(), 2, "ICMP belongs to none");
}

#[test]
fn padding_behind_a_packet_is_not_written() {
    let mut packets: Vec<_> = stream(1, 3, 1000).iter().map(Crafted::bytes).collect();
    let plain = packets.clone();
    packets.iter_mut().for_each(|packet| packet.extend([0; 9]));
    let (_, writes) = run(&packets, ALL);
    assert_eq!(received(&writes[0]), plain);
    packets.truncate(1);
    assert_eq!(received(&run(&packets, ALL).1[0]), plain[..1]);
}

#[test]
fn a_full_queue_stops_the_burst_and_a_refusal_does_not() {
    let mut pool = pool(64, 0);
    let packets: Vec<_> = [stream(1, 2, 1000), stream(2, 3, 1000), stream(3, 4, 1000)].concat();
    let packets: Vec<_> = packets.iter().map(Crafted::bytes).collect();
    for (outcome, tried, full, failed) in [(WriteOutcome::Full, 2, 7, 0), (WriteOutcome::Failed, 3, 0, 3)] {
        let mut count = 0;
        let mut burst = burst(&mut pool, &packets);
        let joined = Joiner::new().join(&mut burst, ALL, &mut |_, _| {
            count += 1;
            if count == 2 { outcome } else { WriteOutcome::Written }
        });
        assert_eq!((count, joined.full, joined.failed), (tried, full, failed));
        assert_eq!(joined.packets + full + failed, 9);
        assert_eq!(burst.len(), 9, "the frames are left to the caller");
    }
}

/// What tells flows apart; packets without ports by their bytes up to there.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 24 => [&packet[9..10], &packet[12..24]].concat(),
        Some(6) if packet.len() >= 44 => [&packet[6..7], &packet[8..44]].concat(),
        _ => vec![],
    }
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        flows.entry(flow_of(packet)).or_default().push(packet.clone());
    }
    flows
}

/// A run of segments of one of four flows, of which some are lost, changed or damaged.
fn any_run() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let damage = proptest::option::weighted(0.1, (0..1500_usize, 1..=255_u8));
    let fate = (damage, proptest::bool::weighted(0.1), proptest::bool::weighted(0.1));
    (any_packet(1..20_000), 400..1400_usize, 0..4_u8, proptest::collection::vec(fate, 50)).prop_map(
        |(whole, len, flow, fates)| {
            let flags = if whole.flags & 1 == 0 { ACK | PSH } else { whole.flags };
            let parts = Crafted { flow, flags, ..whole }.cut(len).into_iter().zip(fates);
            parts
                .filter(|(_, (_, lost, _))| !lost)
                .map(|(part, (damage, _, pushed))| {
                    let flags = if pushed { part.flags | PSH } else { part.flags };
                    let mut bytes = Crafted { flags, ..part }.bytes();
                    if let Some((at, bits)) = damage {
                        let len = bytes.len();
                        bytes[at % len] ^= bits;
                    }
                    bytes
                })
                .collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_flow_keeps_its_order_and_bytes(
        runs in proptest::collection::vec(any_run(), 1..9),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 5 * BURST),
        cuts in proptest::collection::vec((1..=BURST, any::<bool>()), 5 * BURST),
    ) {
        let mut queues: Vec<_> = runs.into_iter().map(|run| run.into_iter().peekable()).collect();
        let mut packets = Vec::new();
        for index in order {
            queues.retain_mut(|queue| queue.peek().is_some());
            if queues.is_empty() {
                break;
            }
            let queue = index.index(queues.len());
            packets.extend(queues[queue].next());
        }
        let mut pool = pool(512, 0);
        let mut arrived = Vec::new();
        let mut write = |slices: &[IoSlice<'_>], count| {
            let write: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let packets = received(&write);
            assert_eq!(packets.len(), count);
            arrived.extend(packets);
            WriteOutcome::Written
        };
        // In bursts of any length, with flushes in any place.
        let mut holder = Holder::new();
        let (mut rest, mut joined) = (packets.as_slice(), 0);
        for (len, flush) in cuts {
            let (part, after) = rest.split_at(len.min(rest.len()));
            rest = after;
            let mut burst = burst(&mut pool, part);
            holder.take(&mut burst);
            while !burst.is_empty() {
                joined += holder.write(false, ALL, &mut pool, &mut write).packets;
                holder.take(&mut burst);
            }
            if flush {
                joined += holder.write(true, ALL, &mut pool, &mut write).packets;
            }
        }
        joined += holder.write(true, ALL, &mut pool, &mut write).packets;
        prop_assert_eq!(joined, packets.len());
        prop_assert_eq!(pool.free(), pool.total());
        // A packet whose length was damaged to be shorter is written without what follows it, as padding is.
        for packet in &mut packets {
            if let Ok(inner) = crate::datapath::inner::parse(packet) {
                packet.truncate(inner.len);
            }
        }
        prop_assert_eq!(by_flow(&arrived), by_flow(&packets));
    }

    #[test]
    fn what_was_split_is_joined_to_what_it_was(whole in any_packet(2000..60_000), segment_len in 1000..1700_u16) {
        let flags = (whole.flags & 0x40) | ACK | (whole.flags & PSH);
        let whole = Crafted::read(&Crafted { flags, ..whole }.bytes());
        let read = whole.super_packet(segment_len);
        let mut pool = pool(128, 0);
        let mut frames = landbridge_xsk::Burst::new();
        split(&read, &mut pool, &mut |frame| frames.push(frame)).expect("a sound super-packet");
        let mut writes = Vec::new();
        let joined = Joiner::new().join(&mut frames, ALL, &mut |slices, _| {
            writes.push(slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>());
            WriteOutcome::Written
        });
        prop_assert_eq!(joined.super_packets, 1);
        prop_assert_eq!(writes, [read]);
    }

    #[test]
    fn any_bytes_are_written_as_they_are(bytes in proptest::collection::vec(any::<u8>(), 1..100)) {
        let mut pool = pool(64, 0);
        let mut one = landbridge_xsk::Burst::new();
        one.push(frame(&mut pool, &bytes));
        let joined = Joiner::new().join(&mut one, ALL, &mut |slices, count| {
            assert_eq!((slices.len(), count), (2, 1));
            assert!(bytes.starts_with(&slices[1]) && *slices[0] == *VnetHdr::PLAIN.bytes());
            WriteOutcome::Written
        });
        prop_assert_eq!(joined.packets, 1);
    }
}
