//! Segmentation offload and checksums: what a TUN queue costs in user space, system calls apart.

use anyhow::Context;
use arrayvec::ArrayVec;
use landbridge::datapath::checksum::Sum;
use landbridge::datapath::join::{Joiner, Offloads, WriteOutcome};
use landbridge::datapath::segment::split;
use landbridge::datapath::tables::Wire;
use landbridge::datapath::vnet::{GSO_TCPV4, GSO_UDP_L4, VnetHdr};
use landbridge::datapath::wire::{HeaderTemplate, SummedBy};
use landbridge_xsk::{BURST, Burst, Frame, Memory, MemoryConfig, Pool};

use crate::measure::{Case, Sample};

const SEGMENT: usize = 1368;
const SEGMENTS: usize = 45;
const ROUNDS: usize = 40;
const OFFLOADS: Offloads = Offloads { tso: true, uso: true };

/// All cases of this file.
pub(super) fn cases() -> anyhow::Result<Vec<Case>> {
    const GROUP: &str = "TUN offload, per segment";
    let mut cases = Vec::new();
    for (name, tcp) in [("TCP", true), ("UDP", false)] {
        let case = Case::new(GROUP, format!("split {name} {SEGMENTS} x {SEGMENT} B"), splitting(tcp)?);
        cases.push(case.bytes(SEGMENT).without_allocations());
        let case = Case::new(GROUP, format!("join {name} {SEGMENTS} x {SEGMENT} B"), joining(tcp)?);
        cases.push(case.bytes(SEGMENT).without_allocations());
    }
    let case = Case::new(GROUP, format!("join {BURST} flows, one TCP segment each"), joining_nothing()?);
    cases.push(case.without_allocations());
    for len in [40, 1420, 65_520] {
        cases.push(summing(len));
        cases.push(copying(len));
    }
    const HEADERS: &str = "outer headers 1420 B over IPv6";
    let ours = heading(SummedBy::Us)?;
    cases.push(Case::new("checksum", HEADERS, ours).bytes(OUTER_PAYLOAD).without_allocations());
    let device = Case::new("checksum", format!("{HEADERS}, checksum asked for"), heading(SummedBy::Device)?);
    cases.push(device.bytes(OUTER_PAYLOAD).against(HEADERS).without_allocations());
    Ok(cases)
}

/// A packet of 1420 bytes in transport data.
const OUTER_PAYLOAD: usize = 1420 + 32;

/// Writes outer headers before a burst of payloads that are in the cache, as they are after sealing.
fn heading(by: SummedBy) -> anyhow::Result<impl FnMut() -> Sample + 'static> {
    let mut pool = memory()?;
    let mut frames = Burst::new();
    while !frames.is_full() {
        let mut frame = pool.take().context("a frame")?;
        frame.append(OUTER_PAYLOAD).context("room")?.fill(0x5a);
        frames.push(frame);
    }
    let mut ethernet = ArrayVec::new();
    ethernet.try_extend_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd])?;
    let wire = Wire { if_index: 1, source: "fd82::1".parse()?, ethernet, mtu: 1500 };
    let template = HeaderTemplate::new(&wire, "[fd82::2]:51820".parse()?).context("a template")?;
    Ok(move || {
        let mut sample = Sample::default();
        for _ in 0..ROUNDS {
            sample.time(BURST, || {
                for frame in &mut frames {
                    let written = template.write_summed_by(by, frame, 51820, 0);
                    assert_eq!(written, Ok(()));
                }
            });
            frames.iter_mut().for_each(|frame| frame.advance(frame.len() - OUTER_PAYLOAD));
        }
        sample
    })
}

fn memory() -> anyhow::Result<Pool> {
    let config = MemoryConfig { frames: 256, frame_size: 2048, jumbo_frames: 0, huge_pages: true };
    Ok(Memory::new(config).context("packet memory")?.1)
}

/// What a TUN queue returns for `segments` segments of one flow.
fn super_packet(tcp: bool, segments: usize) -> Vec<u8> {
    let transport_len = if tcp { 32 } else { 8 };
    let len = 20 + transport_len + segments * SEGMENT;
    let (kind, check_at, protocol) = if tcp { (GSO_TCPV4, 16, 6) } else { (GSO_UDP_L4, 6, 17) };
    let mut packet = vec![0x5a; len];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 1, 5, 10, 0, 2, 9]);
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    let check = Sum::of(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&check);
    if tcp {
        packet[20..52].fill(1);
        // Data offset of 32 bytes, ACK.
        packet[32..34].copy_from_slice(&[0x80, 0x10]);
    } else {
        packet[24..26].copy_from_slice(&((len - 20) as u16).to_be_bytes());
    }
    let partial = Sum::pseudo(&packet[12..20], protocol).plus_u16((len - 20) as u16).partial();
    packet[20 + check_at..22 + check_at].copy_from_slice(&partial);
    let header = VnetHdr::super_packet(kind, 20 + transport_len as u16, SEGMENT as u16, 20, check_at as u16);
    [header.bytes(), &packet].concat()
}

fn put_all(pool: &mut Pool, frames: &mut Burst) {
    frames.drain(..).for_each(|frame| pool.put(frame));
}

fn splitting(tcp: bool) -> anyhow::Result<impl FnMut() -> Sample + 'static> {
    let (mut pool, mut frames, read) = (memory()?, Burst::new(), super_packet(tcp, SEGMENTS));
    Ok(move || {
        let mut sample = Sample::default();
        for _ in 0..ROUNDS {
            let split = sample.time(SEGMENTS, || split(&read, &mut pool, &mut |frame| frames.push(frame)));
            assert!(split.is_ok_and(|segments| segments.emitted == SEGMENTS));
            put_all(&mut pool, &mut frames);
        }
        sample
    })
}

fn joining(tcp: bool) -> anyhow::Result<impl FnMut() -> Sample + 'static> {
    let (mut pool, mut frames, read) = (memory()?, Burst::new(), super_packet(tcp, SEGMENTS));
    let mut joiner = Joiner::new();
    Ok(move || {
        let mut sample = Sample::default();
        for _ in 0..ROUNDS {
            assert!(split(&read, &mut pool, &mut |frame| frames.push(frame)).is_ok());
            let joined =
                sample.time(SEGMENTS, || joiner.join(&mut frames, OFFLOADS, &mut |_, _| WriteOutcome::Written));
            assert_eq!((joined.packets, joined.super_packets), (SEGMENTS, 1));
            put_all(&mut pool, &mut frames);
        }
        sample
    })
}

fn joining_nothing() -> anyhow::Result<impl FnMut() -> Sample + 'static> {
    let (mut pool, mut frames, mut joiner) = (memory()?, Burst::new(), Joiner::new());
    let read = super_packet(true, 1);
    Ok(move || {
        let mut sample = Sample::default();
        for _ in 0..ROUNDS {
            for flow in 0..BURST as u8 {
                let fill = |mut frame: Frame| {
                    frame.data_mut()[21] = flow;
                    frames.push(frame);
                };
                assert!(split(&read, &mut pool, &mut { fill }).is_ok());
            }
            let joined = sample.time(BURST, || joiner.join(&mut frames, OFFLOADS, &mut |_, _| WriteOutcome::Written));
            assert_eq!((joined.packets, joined.super_packets), (BURST, 0));
            put_all(&mut pool, &mut frames);
        }
        sample
    })
}

const CHECKSUMS: usize = 256;

fn summing(len: usize) -> Case {
    let bytes = vec![0x5a; len];
    let sample = move || {
        let mut sample = Sample::default();
        sample.time(CHECKSUMS, || {
            (0..CHECKSUMS).fold(Sum::ZERO, |sum, _| sum.plus(Sum::of(std::hint::black_box(&bytes))))
        });
        sample
    };
    Case::new("checksum", format!("checksum {len} B"), sample).bytes(len).without_allocations()
}

fn copying(len: usize) -> Case {
    let (bytes, mut to) = (vec![0x5a; len], vec![0; len]);
    let sample = move || {
        let mut sample = Sample::default();
        sample.time(CHECKSUMS, || {
            let copy =
                |sum: Sum, _| sum.plus(Sum::of_copy(std::hint::black_box(&mut to), std::hint::black_box(&bytes)));
            (0..CHECKSUMS).fold(Sum::ZERO, copy)
        });
        sample
    };
    let name = format!("checksum {len} B");
    Case::new("checksum", format!("copy and checksum {len} B"), sample).bytes(len).against(name).without_allocations()
}
