//! Random traffic, random drops, sockets closed and opened again: afterwards every frame is home.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/xdp.rs"]
mod xdp;

use std::time::{Duration, Instant};

use common::{in_namespace, sh};
use landbridge_xsk::{Burst, ChecksumOffload, Frame, Memory, MemoryConfig, Pool, Xsk, XskConfig};
use xdp::{RedirectAll, if_index};

const FRAMES: usize = 1024;
const JUMBO: usize = 4;
const PACKETS_MAX: u64 = 2_000_000;
const DURATION_MAX: Duration = Duration::from_secs(8);

/// A small generator of its own (xorshift), so that a failure can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// One memory with a socket on each of two interfaces, as a lane has.
struct Lane {
    memory: Memory,
    pool: Pool,
    sides: Vec<Option<Side>>,
    names: [&'static str; 2],
    kept: Vec<Frame>,
    sent: u64,
    received: u64,
    reopened: u64,
}

struct Side {
    socket: Xsk,
    waiting: Burst,
}

impl Lane {
    fn new(names: [&'static str; 2]) -> Self {
        let config =
            MemoryConfig { frames: FRAMES as u32, frame_size: 2048, jumbo_frames: JUMBO as u32, huge_pages: false };
        let (memory, pool) = Memory::new(config).unwrap();
        let sides = vec![None, None];
        Self { memory, pool, sides, names, kept: Vec::new(), sent: 0, received: 0, reopened: 0 }
    }

    fn open(&mut self, side: usize, program: &RedirectAll) {
        let if_index = if_index(self.names[side]);
        let config = XskConfig {
            if_index,
            queue: 0,
            rx_ring: 256,
            tx_ring: 64,
            fill_ring: 256,
            copy: true,
            multi_buffer: false,
            busy_poll: None,
            checksum_offload: ChecksumOffload::default(),
        };
        let socket = Xsk::open(&config, &self.memory).unwrap();
        program.steer(0, &socket);
        self.sides[side] = Some(Side { socket, waiting: Burst::new() });
        self.reopened += 1;
    }

    /// One random thing.
    fn step(&mut self, random: &mut Random, programs: &[&RedirectAll; 2]) {
        let side = random.below(2) as usize;
        let what = random.below(10_000);
        if self.sides[side].is_none() {
            return self.open(side, programs[side]);
        }
        if what < 10 {
            // With whatever is in its rings and in its waiting burst.
            let Side { socket, waiting } = self.sides[side].take().unwrap();
            if what == 0 {
                drop(socket)
            } else {
                socket.close(&mut self.pool)
            }
            drop(waiting);
            return;
        }
        if what < 40 {
            return self.scatter(random);
        }
        self.generate(side, random);
        let came = self.receive(side, random);
        self.received += came;
    }

    /// Drops kept frames, some of them on another thread.
    fn scatter(&mut self, random: &mut Random) {
        let at = random.below(self.kept.len() as u64 + 1) as usize;
        let gone = self.kept.split_off(at);
        if random.below(2) == 0 {
            std::thread::spawn(move || drop(gone));
        } else {
            gone.into_iter().for_each(|frame| self.pool.put(frame));
        }
    }

    fn generate(&mut self, side: usize, random: &mut Random) {
        let side = self.sides[side].as_mut().unwrap();
        for _ in 0..random.below(65) {
            if side.waiting.is_full() {
                break;
            }
            let Some(mut frame) = self.pool.take_for(if random.below(500) == 0 { 9000 } else { 1500 }) else { break };
            let bytes = frame.append(60 + random.below(1440) as usize).unwrap();
            bytes[..12].fill(0xff);
            bytes[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
            side.waiting.push(frame);
        }
        self.sent += side.socket.transmit(&mut self.pool, &mut side.waiting) as u64;
        if random.below(4) > 0 {
            side.socket.flush(&mut self.pool).unwrap();
        }
    }

    /// Receives a burst: some frames are dropped, some kept for long, some forwarded to the other side.
    fn receive(&mut self, side: usize, random: &mut Random) -> u64 {
        let mut burst = Burst::new();
        let came = self.sides[side].as_mut().unwrap().socket.receive(&mut self.pool, &mut burst) as u64;
        for frame in burst {
            match random.below(8) {
                0 if self.kept.len() < 100 => self.kept.push(frame),
                1 => drop(frame),
                2..5 => {
                    let other = self.sides[1 - side].as_mut();
                    if let Some(Err(full)) = other.map(|other| other.waiting.try_push(frame)) {
                        self.pool.put(full.element());
                    }
                }
                _ => self.pool.put(frame),
            }
        }
        came
    }

    fn finish(mut self) -> (u64, u64, u64) {
        for side in self.sides.drain(..).flatten() {
            side.socket.close(&mut self.pool);
        }
        self.kept.clear();
        // The last frames given to other threads come home when those have run.
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.pool.free() != (FRAMES, JUMBO) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.pool.free(), (FRAMES, JUMBO), "frames were lost or doubled");
        let slots: std::collections::HashSet<usize> = {
            let all: Vec<Frame> = std::iter::from_fn(|| self.pool.take()).collect();
            assert_eq!(all.len(), FRAMES);
            all.iter().map(|frame| frame.data().as_ptr().addr()).collect()
        };
        assert_eq!(slots.len(), FRAMES, "two tokens had the same slot");
        (self.sent, self.received, self.reopened)
    }
}

#[test]
fn after_random_traffic_and_reopenings_every_frame_is_home() {
    in_namespace(|| {
        for (one, other) in [("lbs0", "lbs1"), ("lbs2", "lbs3")] {
            sh(&format!(
                "ip link add {one} type veth peer name {other}
                 ip link set {one} addrgenmode none up; ip link set {other} addrgenmode none up"
            ));
        }
        let programs = ["lbs0", "lbs1", "lbs2", "lbs3"].map(|name| RedirectAll::attach(if_index(name), 0));
        // Two lanes, joined to each other by both wires.
        let mut lanes = [Lane::new(["lbs0", "lbs2"]), Lane::new(["lbs1", "lbs3"])];
        let sides = [[&programs[0], &programs[2]], [&programs[1], &programs[3]]];
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let start = Instant::now();
        while start.elapsed() < DURATION_MAX && lanes.iter().map(|lane| lane.sent).sum::<u64>() < PACKETS_MAX {
            for (lane, programs) in lanes.iter_mut().zip(&sides) {
                lane.step(&mut random, programs);
            }
        }
        let (mut sent, mut received, mut reopened) = (0, 0, 0);
        for lane in lanes {
            let (s, r, o) = lane.finish();
            (sent, received, reopened) = (sent + s, received + r, reopened + o);
        }
        println!("{sent} sent, {received} received, {reopened} sockets opened in {:?}", start.elapsed());
        assert!(sent > 5_000 && received > 2_000 && reopened > 8, "{sent} {received} {reopened}: too little happened");
    });
}
