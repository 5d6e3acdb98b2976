//! What the kernel hands us in pieces of 64 KiB, and what we hand it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use landbridge_xsk::{BURST, Burst, Frame, Memory, MemoryConfig, Pool};

use crate::datapath::inner;
use crate::datapath::join::{Joiner, Offloads, WriteOutcome};
use crate::datapath::segment::{PROTOCOL_TCP, split};
use crate::datapath::vnet::{GSO_NONE, VnetHdr};

const FRAMES: u32 = 128;
const ALL: Offloads = Offloads { tso: true, uso: true };

/// Runs with packet memory of this thread; all of its frames must be back afterwards.
pub(super) fn with_pool<T>(run: impl FnOnce(&mut Pool) -> T) -> T {
    thread_local! {
        static POOL: RefCell<Pool> = RefCell::new({
            let config = MemoryConfig { frames: FRAMES, frame_size: 2048, jumbo_frames: 8, huge_pages: false };
            Memory::new(config).expect("memory of less than a megabyte").1
        });
    }
    POOL.with_borrow_mut(|pool| {
        let before = pool.free();
        let result = run(pool);
        assert_eq!(pool.free(), before, "every frame is back");
        result
    })
}

/// A frame that holds these bytes.
pub(super) fn frame(pool: &mut Pool, bytes: &[u8]) -> Frame {
    let mut frame = pool.take_for(bytes.len()).expect("a free frame");
    frame.append(bytes.len()).expect("room for a packet").copy_from_slice(bytes);
    frame
}

/// Any bytes as a read of a TUN queue. What is cut out of a super-packet has right lengths and checksums and carries
/// its payload; joined again and cut again, it is the same.
pub fn lan_read(read: &[u8]) {
    let Some(packets) = cut(read) else { return };
    let (header, whole) = VnetHdr::parse(read).expect("it was split");
    if header.gso_type == GSO_NONE {
        assert_eq!(packets[0].len(), whole.len());
    } else if packets.len() < FRAMES as usize {
        let payload: Vec<u8> = packets.iter().flat_map(|packet| payload_of(packet)).copied().collect();
        let end = inner::parse(whole).expect("it was split").len;
        assert!(whole[..end].ends_with(&payload), "every byte is in one segment");
        assert!(packets.iter().all(|packet| payload_of(packet).len() <= usize::from(header.segment_len())));
    }
    for burst in packets.chunks(BURST) {
        assert_eq!(joined_and_cut(burst, ALL), own_lengths(burst));
    }
}

/// Any bytes as a burst of opened packets: what the device offloads, then for each packet two bytes of its length and
/// its bytes. What the kernel cuts out of the writes is what was written, in the order of each flow.
pub fn join_burst(data: &[u8]) {
    let Some((offloads, mut rest)) = data.split_first() else { return };
    let offloads = Offloads { tso: offloads & 1 != 0, uso: offloads & 2 != 0 };
    let mut packets = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<2>()
        && packets.len() < BURST
    {
        let len = usize::from(u16::from_be_bytes(*len)).min(after.len()).min(1900);
        packets.push(after[..len].to_vec());
        rest = &after[len..];
    }
    assert_eq!(by_flow(joined_and_cut(&packets, offloads)), by_flow(own_lengths(&packets)));
}

/// The packets that our own segmentation makes of a read, each within its specification if it was cut.
fn cut(read: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    with_pool(|pool| {
        let mut frames = Vec::new();
        let result = split(read, pool, &mut |frame| frames.push(frame));
        packets.extend(frames.iter().map(|frame| frame.data().to_vec()));
        frames.into_iter().for_each(|frame| pool.put(frame));
        match result {
            Ok(segments) => assert_eq!(segments.emitted, packets.len()),
            Err(_) => assert!(packets.is_empty(), "nothing of a malformed read is emitted"),
        }
        result.ok().filter(|segments| segments.emitted > 0)
    })?;
    if read[1] != GSO_NONE {
        packets.iter().for_each(|packet| check(packet));
    }
    Some(packets)
}

fn joined_and_cut(packets: &[Vec<u8>], offloads: Offloads) -> Vec<Vec<u8>> {
    let mut writes = Vec::new();
    with_pool(|pool| {
        let mut burst: Burst = packets.iter().map(|bytes| frame(pool, bytes)).collect();
        let joined = Joiner::new().join(&mut burst, offloads, &mut |slices, count| {
            writes.push((slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>(), count));
            WriteOutcome::Written
        });
        assert_eq!((joined.packets, joined.full, joined.failed), (packets.len(), 0, 0));
        burst.drain(..).for_each(|frame| pool.put(frame));
    });
    let mut cut_again = Vec::new();
    for (write, count) in writes {
        if count == 1 {
            assert_eq!(write[..10], *VnetHdr::PLAIN.bytes(), "one packet is written as it is");
            cut_again.push(write[10..].to_vec());
            continue;
        }
        let packets = cut(&write).expect("a super-packet that we made is sound");
        assert_eq!(packets.len(), count);
        cut_again.extend(packets);
    }
    cut_again.into_iter().map(without_id).collect()
}

/// As they are written: without padding.
fn own_lengths(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let own = |packet: &Vec<u8>| {
        let len = inner::parse(packet).map_or(packet.len(), |inner| inner.len);
        without_id(packet[..len].to_vec())
    };
    packets.iter().map(own).collect()
}

/// Where fragments are ruled out the id of IPv4 has no meaning (RFC 6864): packets that all have the same one may leave
/// with counted ones.
fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= inner::IPV4_LEN && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// Packets by addresses, protocol and ports; what has none by the bytes that stand there.
fn by_flow(packets: Vec<Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let flow = match packet.first().map(|first| first >> 4) {
            Some(4) if packet.len() >= 24 => [&packet[9..10], &packet[12..24]].concat(),
            Some(6) if packet.len() >= 44 => [&packet[6..7], &packet[8..44]].concat(),
            _ => Vec::new(),
        };
        flows.entry(flow).or_default().push(packet);
    }
    flows
}

/// Protocol and place of the transport header, read slowly.
fn transport_of(packet: &[u8]) -> (u8, usize) {
    if packet[0] >> 4 == 4 {
        return (packet[9], usize::from(packet[0] & 15) * 4);
    }
    let (mut next, mut at) = (packet[6], inner::IPV6_LEN);
    while next == 0 || next == 60 {
        next = packet[at];
        at += (usize::from(packet[at + 1]) + 1) * 8;
    }
    (next, at)
}

fn payload_of(packet: &[u8]) -> &[u8] {
    let (protocol, at) = transport_of(packet);
    let header = if protocol == PROTOCOL_TCP { usize::from(packet[at + 12] >> 4) * 4 } else { 8 };
    &packet[at + header..]
}

/// Lengths and checksums of a TCP or UDP packet.
fn check(packet: &[u8]) {
    assert_eq!(inner::parse(packet).map(|inner| inner.len), Ok(packet.len()));
    let (protocol, at) = transport_of(packet);
    let is_v4 = packet[0] >> 4 == 4;
    assert!(!is_v4 || is_intact(&packet[..at]), "the IPv4 header's checksum");
    let addresses = if is_v4 { &packet[12..20] } else { &packet[8..40] };
    let pseudo = [addresses, &((packet.len() - at) as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat();
    assert!(is_intact(&[&pseudo, &packet[at..]].concat()), "the transport checksum");
    if protocol != PROTOCOL_TCP {
        assert_eq!(usize::from(u16::from_be_bytes([packet[at + 4], packet[at + 5]])), packet.len() - at);
    }
}

/// Whether the words' one's complement sum is all ones, as it is over bytes that hold their own checksum.
fn is_intact(bytes: &[u8]) -> bool {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u64 = words.sum();
    sum > 0 && sum.is_multiple_of(0xffff)
}
