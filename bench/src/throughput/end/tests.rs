//! Both programs, frame by frame, without an interface: BPF_PROG_TEST_RUN gives a frame in and an action and a frame
//! out.

use std::time::Duration;

use landbridge_ebpf_common::bench::{UDP_AT_V4, UDP_AT_V6};

use super::super::frame::{FrameSize, IpVersion};
use super::super::ring_source::Maker;
use super::super::stamping::{self, Addresses, Run};
use super::super::trial::{Directions, Trial};
use super::*;

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// Whether the tests can run; in CI they have to.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root, and CI skips nothing");
    if !root {
        eprintln!("skipped: loading XDP programs needs root");
    }
    root
}

fn unattached() -> End {
    End::of(load().expect("both programs load"), 0).expect("the object has all maps")
}

/// What a program does with a frame.
fn pass_through(end: &End, program: &str, frame: &[u8]) -> (u32, Vec<u8>) {
    let xdp: &Xdp = end.ebpf.program(program).expect("in the object").try_into().expect("an XDP program");
    let mut out = vec![0; 4096];
    let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = xdp.test_run(options).expect("the kernel runs the program");
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

fn trial(size: FrameSize, version: IpVersion, flows: u16) -> Trial {
    let (rate_pps, directions) = (15e6, Directions::AToB);
    Trial { size, version, rate_pps, directions, duration: Duration::from_secs(60), flows }
}

/// The first `count` frames of a trial.
fn frames(end: &mut End, trial: &Trial, run: &Run, count: usize) -> Vec<Vec<u8>> {
    let address = |v4: &str, v6: &str| match trial.version {
        IpVersion::V4 => v4.parse().expect("an address"),
        IpVersion::V6 => v6.parse().expect("an address"),
    };
    let addresses = Addresses {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        source: address("10.82.1.2", "fd82:1::2"),
        destination: address("10.82.2.2", "fd82:2::2"),
    };
    let source = stamping::source(&addresses, trial, run).expect("a trial");
    let len = source.sizes.iter().map(|size| size.frame_len).max().expect("sizes") as usize;
    end.source.set(0, source, 0).expect("a map");
    end.progress.set(0, Progress::default(), 0).expect("a map");
    let mut made = Vec::new();
    while made.len() < count {
        // What lay in the memory before, a different thing each time, is not to be seen.
        let (action, frame) = pass_through(end, SOURCE, &dirty(len, trial, made.len()));
        match action {
            TX => made.push(frame),
            _ => assert_eq!(action, DROP, "a frame that is not due is dropped"),
        }
    }
    made
}

/// Memory as an earlier frame leaves it: rubbish in the headers, nothing behind them but an earlier trailer.
fn dirty(len: usize, trial: &Trial, number: usize) -> Vec<u8> {
    let mut memory = vec![0; len];
    memory[..78].fill(0xa0 | number as u8);
    if trial.size == FrameSize::Imix {
        memory[80..84].copy_from_slice(&[1, 2, !1, !2]);
    }
    memory
}

fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    Duration::from(now).as_nanos() as u64
}

fn run(sequence: u32) -> Run {
    Run { magic: 0x1234_5677, sequence, start_ns: now_ns() - 1_000_000 }
}

/// Sum in one's complement of big-endian words.
fn ones_complement(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for word in part.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn source_port(frame: &[u8], udp_at: usize) -> u16 {
    u16::from_be_bytes([frame[udp_at], frame[udp_at + 1]])
}

fn sequence(frame: &[u8], udp_at: usize) -> u32 {
    let [a, b, c, d] = frame[udp_at + 12..udp_at + 16] else { unreachable!("four bytes") };
    u32::from_ne_bytes([a, b, c, d])
}

#[test]
fn every_frame_is_a_packet_with_right_lengths_and_checksums() {
    if !is_root() {
        return;
    }
    let mut end = unattached();
    for size in
        [FrameSize::Bytes(64), FrameSize::Bytes(66), FrameSize::Bytes(68), FrameSize::Bytes(1420), FrameSize::Imix]
    {
        for frame in frames(&mut end, &trial(size, IpVersion::V4, 3), &run(1), 24) {
            assert_eq!(ones_complement(&[&frame[14..34]]), 0xffff, "IPv4 header checksum, {size}");
            let len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            assert_eq!(len + 14, frame.len(), "{size}");
            let udp_len = (len as u16 - 20).to_be_bytes();
            let sum = ones_complement(&[&frame[26..34], &[0, 17], &udp_len, &frame[UDP_AT_V4..]]);
            assert_eq!(sum, 0xffff, "UDP checksum, {size}");
        }
        for frame in frames(&mut end, &trial(size, IpVersion::V6, 3), &run(1), 24) {
            let udp_len = [frame[18], frame[19]];
            assert_eq!(usize::from(u16::from_be_bytes(udp_len)) + 54, frame.len(), "{size}");
            let sum = ones_complement(&[&frame[22..54], &[0, 17], &udp_len, &frame[UDP_AT_V6..]]);
            assert_eq!(sum, 0xffff, "UDP checksum over IPv6, {size}");
        }
    }
}

#[test]
fn a_ring_gets_the_same_frames_to_the_byte() {
    if !is_root() {
        return;
    }
    let mut end = unattached();
    for (version, udp_at) in [(IpVersion::V4, UDP_AT_V4), (IpVersion::V6, UDP_AT_V6)] {
        for size in [FrameSize::Bytes(64), FrameSize::Bytes(66), FrameSize::Bytes(1420), FrameSize::Imix] {
            let (trial, run) = (trial(size, version, 5), run(77));
            let made = frames(&mut end, &trial, &run, 130);
            let mut maker = Maker::new(end.source.get(&0, 0).expect("a map"));
            for (number, mut made) in made.into_iter().enumerate() {
                if trial.size == FrameSize::Imix && made.len() > 84 {
                    // The program leaves what a shorter frame had at its end: no checksum sees it.
                    made[80..84].fill(0);
                }
                let time = made[udp_at + 16..].first_chunk().copied().map(u64::from_ne_bytes).expect("a stamp");
                let size = maker.size().expect("a size");
                let mut frame = vec![0x5a; size.frame_len as usize];
                maker.write(&size, time, &mut frame);
                maker.advance(time);
                assert_eq!(frame, made, "frame {number} of {size:?} over {version:?}");
            }
            let (ours, programs) = (maker.progress, end.progress().expect("a map"));
            assert_eq!(
                (ours.sent, ours.flow, ours.sequence, ours.cycle),
                (programs.sent, programs.flow, programs.sequence, programs.cycle)
            );
        }
    }
}

#[test]
fn flows_take_turns_and_each_counts_for_itself() {
    if !is_root() {
        return;
    }
    let mut end = unattached();
    let made = frames(&mut end, &trial(FrameSize::Imix, IpVersion::V4, 5), &run(1000), 60);
    for (number, frame) in made.iter().enumerate() {
        assert_eq!(usize::from(source_port(frame, UDP_AT_V4) - stamping::PORT), number % 5);
        assert_eq!(sequence(frame, UDP_AT_V4) as usize, 1000 + number / 5);
    }
    let bytes: usize = made.iter().map(|frame| frame.len() - 14).sum();
    assert!((bytes as f64 / 60.0 - FrameSize::Imix.bytes_mean()).abs() < 1e-9, "the mix is exact in each flow");
    assert_eq!(end.progress().expect("a map").sent, 60);
}

#[test]
fn loss_order_duplicates_and_damage_are_counted_exactly() {
    if !is_root() {
        return;
    }
    let mut end = unattached();
    for (version, size) in [(IpVersion::V4, FrameSize::Bytes(128)), (IpVersion::V6, FrameSize::Bytes(64))] {
        // Later than all of the trial before it.
        let run = run(1 + end.counted().expect("counters").tally.received as u32 * 100);
        let trial = trial(size, version, 1);
        let made = frames(&mut end, &trial, &run, 10);
        end.expect(stamping::sink(&trial, &run).expect("a trial")).expect("a map");
        let before = end.counted().expect("counters");
        // 2 never comes; 4 overtakes 3; 3 comes twice; 9 before 7 and 8.
        for number in [0, 1, 4, 3, 3, 5, 6, 9, 7, 8] {
            assert_eq!(pass_through(&end, SINK, &made[number]).0, DROP);
        }
        let (tally, latency) = end.counted().expect("counters").since(&before);
        let seen = (tally.received, tally.duplicated, tally.reordered, tally.corrupted, tally.stale);
        assert_eq!(seen, (9, 1, 3, 0, 0), "{version:?}");
        assert_eq!(latency.count(), 9);
        assert_eq!(tally.jitter_count, 8);
    }
}

#[test]
fn what_is_damaged_or_of_an_earlier_trial_is_told_apart() {
    if !is_root() {
        return;
    }
    let mut end = unattached();
    let (trial, run) = (trial(FrameSize::Bytes(256), IpVersion::V4, 2), run(500));
    let made = frames(&mut end, &trial, &run, 2);
    let old = frames(&mut end, &trial, &Run { sequence: 400, ..run }, 1).remove(0);
    end.expect(stamping::sink(&trial, &run).expect("a trial")).expect("a map");
    let before = end.counted().expect("counters");
    let mut torn = made[0].clone();
    torn.truncate(200);
    let mut wrong_end = made[0].clone();
    *wrong_end.last_mut().expect("a byte") ^= 1;
    let mut strange_flow = made[0].clone();
    strange_flow[UDP_AT_V4..UDP_AT_V4 + 2].copy_from_slice(&(stamping::PORT + 2).to_be_bytes());
    for frame in [&torn, &wrong_end, &strange_flow, &old] {
        assert_eq!(pass_through(&end, SINK, frame).0, DROP);
    }
    let (tally, _) = end.counted().expect("counters").since(&before);
    assert_eq!((tally.received, tally.corrupted, tally.stale), (0, 3, 1));
}

#[test]
fn frames_that_are_not_the_benchs_go_to_the_kernel_untouched() {
    if !is_root() {
        return;
    }
    let mut end = unattached();
    let (trial, run) = (trial(FrameSize::Bytes(128), IpVersion::V4, 1), run(1));
    let good = frames(&mut end, &trial, &run, 1).remove(0);
    assert_eq!(pass_through(&end, SINK, &good).0, PASS, "nothing is expected yet");
    end.expect(stamping::sink(&trial, &run).expect("a trial")).expect("a map");
    let mut arp = good.clone();
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut other_port = good.clone();
    other_port[UDP_AT_V4 + 3] ^= 1;
    let mut other_magic = good.clone();
    other_magic[UDP_AT_V4 + 8] ^= 1;
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    let short = good[..40].to_vec();
    for frame in [arp, other_port, other_magic, fragment, short] {
        assert_eq!(pass_through(&end, SINK, &frame), (PASS, frame));
    }
    assert_eq!(pass_through(&end, SINK, &good).0, DROP);
}

#[test]
fn a_reflected_frame_goes_back_with_its_addresses_changed_about() {
    if !is_root() {
        return;
    }
    let mut end = unattached();
    for (version, udp_at) in [(IpVersion::V4, UDP_AT_V4), (IpVersion::V6, UDP_AT_V6)] {
        let run = run(1 + udp_at as u32 * 1000);
        let trial = trial(FrameSize::Bytes(128), version, 1);
        let frame = frames(&mut end, &trial, &run, 1).remove(0);
        let sink = Sink { reflect: 1, ..stamping::sink(&trial, &run).expect("a trial") };
        end.expect(sink).expect("a map");
        let (action, back) = pass_through(&end, SINK, &frame);
        assert_eq!(action, TX);
        assert_eq!((&back[..6], &back[6..12]), (&frame[6..12], &frame[..6]));
        let (from, to) = match version {
            IpVersion::V4 => (26..30, 30..34),
            IpVersion::V6 => (22..38, 38..54),
        };
        assert_eq!((&back[from.clone()], &back[to.clone()]), (&frame[to], &frame[from]));
        assert_eq!(back[udp_at..], frame[udp_at..], "ports, stamp and checksum stay");
    }
}
