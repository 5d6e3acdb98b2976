//! Packet memory against a naive model: whatever is done to frames, no two of them share a byte, and all come home.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::sync::mpsc;
use std::thread;

use landbridge_xsk::{Frame, Memory, MemoryConfig, Pool};
use proptest::prelude::*;

const FRAMES: u32 = 12;
const JUMBO: u32 = 3;

fn memory(frame_size: u32) -> (Memory, Pool) {
    let config = MemoryConfig { frames: FRAMES, frame_size, jumbo_frames: JUMBO, huge_pages: false };
    Memory::new(config).unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    Take,
    TakeJumbo,
    TakeFor(usize),
    Put(usize),
    Drop(usize),
    Prepend(usize, usize),
    Append(usize, usize),
    Advance(usize, usize),
    Truncate(usize, usize),
    Reset(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..20_usize;
    let size = prop_oneof![0..200_usize, 0..5000_usize, 60_000..72_000_usize, Just(usize::MAX)];
    prop_oneof![
        3 => Just(Op::Take),
        1 => Just(Op::TakeJumbo),
        2 => size.clone().prop_map(Op::TakeFor),
        1 => which.clone().prop_map(Op::Put),
        1 => which.clone().prop_map(Op::Drop),
        2 => (which.clone(), size.clone()).prop_map(|(w, n)| Op::Prepend(w, n)),
        3 => (which.clone(), size.clone()).prop_map(|(w, n)| Op::Append(w, n)),
        2 => (which.clone(), size.clone()).prop_map(|(w, n)| Op::Advance(w, n)),
        1 => (which.clone(), size.clone()).prop_map(|(w, n)| Op::Truncate(w, n)),
        1 => (which, size).prop_map(|(w, n)| Op::Reset(w, n)),
    ]
}

/// A frame beside what its bytes and room must be.
struct Modelled {
    frame: Frame,
    data: Vec<u8>,
    headroom: usize,
    slot: usize,
}

impl Modelled {
    fn new(frame: Frame, slot: usize) -> Self {
        assert_eq!((frame.len(), frame.headroom()), (0, Frame::HEADROOM));
        assert_eq!(frame.headroom() + frame.tailroom(), slot);
        Self { frame, data: Vec::new(), headroom: Frame::HEADROOM, slot }
    }

    fn room(&self) -> usize {
        self.slot - self.headroom - self.data.len()
    }

    fn apply(&mut self, op: &Op, seed: u8) {
        match *op {
            Op::Prepend(_, n) => match self.frame.prepend(n) {
                Some(bytes) => {
                    assert!(n <= self.headroom && bytes.len() == n);
                    bytes.fill(seed);
                    self.headroom -= n;
                    self.data.splice(0..0, std::iter::repeat_n(seed, n));
                }
                None => assert!(n > self.headroom),
            },
            Op::Append(_, n) => match self.frame.append(n) {
                Some(bytes) => {
                    assert_eq!(bytes.len(), n);
                    bytes.fill(seed);
                    assert!(n <= self.room());
                    self.data.extend(std::iter::repeat_n(seed, n));
                }
                None => assert!(n > self.room()),
            },
            Op::Advance(_, n) => {
                self.frame.advance(n);
                let n = n.min(self.data.len());
                self.data.drain(..n);
                self.headroom += n;
            }
            Op::Truncate(_, n) => {
                self.frame.truncate(n);
                self.data.truncate(n);
            }
            Op::Reset(_, n) => {
                self.frame.reset(n);
                self.data.clear();
                self.headroom = n.min(self.slot);
            }
            Op::Take | Op::TakeJumbo | Op::TakeFor(_) | Op::Put(_) | Op::Drop(_) => {}
        }
        assert_eq!(self.frame.headroom(), self.headroom);
        assert_eq!(self.frame.tailroom(), self.room());
    }
}

fn run(frame_size: u32, ops: &[Op]) {
    const JUMBO_SLOT: usize = 17 * 4096;
    let (_memory, mut pool) = memory(frame_size);
    let small_slot = frame_size as usize;
    let mut live: Vec<Modelled> = Vec::new();
    let count = |live: &[Modelled], jumbo| live.iter().filter(|m| m.frame.is_jumbo() == jumbo).count();
    for (step, op) in ops.iter().enumerate() {
        let small_left = FRAMES as usize - count(&live, false);
        let jumbo_left = JUMBO as usize - count(&live, true);
        match *op {
            Op::Take => match pool.take() {
                Some(frame) => live.push(Modelled::new(frame, small_slot)),
                None => assert_eq!(small_left, 0),
            },
            Op::TakeJumbo => match pool.take_jumbo() {
                Some(frame) => live.push(Modelled::new(frame, JUMBO_SLOT)),
                None => assert_eq!(jumbo_left, 0),
            },
            Op::TakeFor(len) => match pool.take_for(len) {
                Some(frame) => {
                    assert!(frame.tailroom() >= len + Frame::TAILROOM);
                    let slot = if frame.is_jumbo() { JUMBO_SLOT } else { small_slot };
                    live.push(Modelled::new(frame, slot));
                }
                None => assert!(small_left == 0 || jumbo_left == 0 || len > 65_536),
            },
            Op::Put(which) | Op::Drop(which) if !live.is_empty() => {
                let gone = live.swap_remove(which % live.len()).frame;
                if matches!(op, Op::Put(_)) { pool.put(gone) } else { drop(gone) }
            }
            Op::Prepend(which, _)
            | Op::Append(which, _)
            | Op::Advance(which, _)
            | Op::Truncate(which, _)
            | Op::Reset(which, _)
                if !live.is_empty() =>
            {
                let which = which % live.len();
                live[which].apply(op, step as u8);
            }
            _ => {}
        }
        // What one frame wrote, no other may have changed: this is where an overlap would show.
        for modelled in &live {
            assert_eq!(modelled.frame.data(), modelled.data);
        }
    }
    let expected = (FRAMES as usize - count(&live, false), JUMBO as usize - count(&live, true));
    assert_eq!(pool.free(), expected);
    drop(live);
    assert_eq!(pool.free(), (FRAMES as usize, JUMBO as usize));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_behave_as_the_model_and_never_overlap(large in any::<bool>(), ops in prop::collection::vec(op(), 1..80)) {
        run(if large { 4096 } else { 2048 }, &ops);
    }
}

#[test]
fn all_slots_are_disjoint_and_hold_what_was_written_until_they_are_home() {
    let (_memory, mut pool) = memory(2048);
    let mut frames: Vec<Frame> = std::iter::from_fn(|| pool.take()).collect();
    frames.extend(std::iter::from_fn(|| pool.take_jumbo()));
    assert_eq!(frames.len(), (FRAMES + JUMBO) as usize);
    for (number, frame) in frames.iter_mut().enumerate() {
        frame.reset(0);
        let all = frame.tailroom();
        frame.append(all).unwrap().fill(number as u8);
        assert!(frame.append(1).is_none() && frame.prepend(1).is_none());
    }
    for (number, frame) in frames.iter().enumerate() {
        assert!(frame.data().iter().all(|byte| *byte == number as u8));
    }
}

#[test]
fn frames_dropped_by_other_threads_come_home() {
    let (_memory, mut pool) = memory(2048);
    for _ in 0..300 {
        let (senders, threads): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (sender, receiver) = mpsc::channel::<Frame>();
                (sender, thread::spawn(move || receiver.iter().map(|f| f.len()).sum::<usize>()))
            })
            .unzip();
        let mut taken = 0;
        while let Some(mut frame) = if taken % 5 == 0 { pool.take_jumbo().or_else(|| pool.take()) } else { pool.take() }
        {
            frame.append(10).unwrap();
            senders[taken % 3].send(frame).unwrap();
            taken += 1;
            if taken > 40 {
                break;
            }
        }
        drop(senders);
        let bytes: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(bytes, taken * 10);
        assert_eq!(pool.free(), (FRAMES as usize, JUMBO as usize));
    }
}

#[test]
fn a_frame_outlives_its_pool_and_memory() {
    let (memory, mut pool) = memory(4096);
    let mut frame = pool.take().unwrap();
    frame.append(4).unwrap().copy_from_slice(b"kept");
    drop(pool);
    drop(memory);
    assert_eq!(frame.data(), b"kept");
    thread::spawn(move || assert_eq!(frame.data(), b"kept")).join().unwrap();
}

#[test]
fn a_frame_put_into_the_wrong_pool_goes_home_to_its_own() {
    let (_one, mut first) = memory(2048);
    let (_two, mut second) = memory(2048);
    let frame = first.take().unwrap();
    second.put(frame);
    assert_eq!(first.free(), (FRAMES as usize, JUMBO as usize));
    assert_eq!(second.free(), (FRAMES as usize, JUMBO as usize));
    let all: Vec<Frame> = std::iter::from_fn(|| second.take()).collect();
    let slots: HashSet<_> = all.iter().map(|frame| frame.data().as_ptr() as usize).collect();
    assert_eq!(slots.len(), FRAMES as usize);
}

#[test]
fn packet_memory_is_not_resident_before_it_is_used() {
    fn resident_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
    let before = resident_kib();
    let config = MemoryConfig { frames: 1 << 16, frame_size: 4096, jumbo_frames: 1 << 12, huge_pages: false };
    let (_memory, mut pool) = Memory::new(config).unwrap();
    for _ in 0..1000 {
        let mut frame = pool.take().unwrap();
        frame.append(100).unwrap().fill(1);
        pool.put(frame);
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "512 MiB mapped and one frame used: {grown} KiB became resident");
}

#[test]
fn sizes_that_af_xdp_does_not_take_are_refused_by_name() {
    for (frames, frame_size) in [(0, 2048), (16, 1024), (16, 3000), (u32::MAX, 2048)] {
        let config = MemoryConfig { frames, frame_size, jumbo_frames: 0, huge_pages: false };
        let error = Memory::new(config).err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().starts_with("packet memory: "), "{error}");
    }
}
