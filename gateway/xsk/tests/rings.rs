//! AF_XDP sockets on veth pairs, each test in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::xdp::{RedirectAll, if_index};
use common::{in_namespace, sh};
use landbridge_xsk::{Burst, Frame, Memory, MemoryConfig, Pool, Xsk, XskConfig};

const FRAMES: u32 = 512;

fn memory() -> (Memory, Pool) {
    Memory::new(MemoryConfig { frames: FRAMES, frame_size: 2048, jumbo_frames: 2, huge_pages: false }).unwrap()
}

fn config(interface: &str, queue: u32) -> XskConfig {
    XskConfig {
        if_index: if_index(interface),
        queue,
        rx_ring: 128,
        tx_ring: 128,
        fill_ring: 128,
        copy: false,
        busy_poll: None,
    }
}

/// A pair of connected interfaces with two queues each, that say nothing by themselves.
fn pair(one: &str, other: &str) {
    let queues = "numrxqueues 2 numtxqueues 2";
    sh(&format!(
        "ip link add {one} {queues} type veth peer name {other} {queues}
         ip link set {one} addrgenmode none up; ip link set {other} addrgenmode none up"
    ));
}

/// One end of a wire: a socket with its memory, program and pool.
struct End {
    socket: Xsk,
    pool: Pool,
    memory: Memory,
    program: RedirectAll,
}

impl End {
    fn open(interface: &str, queue: u32) -> Self {
        let (memory, mut pool) = memory();
        let mut socket = Xsk::open(&config(interface, queue), &memory).unwrap();
        let program = RedirectAll::attach(if_index(interface));
        program.steer(queue, &socket);
        assert_eq!(socket.receive(&mut pool, &mut Burst::new()), 0);
        Self { socket, pool, memory, program }
    }

    fn send(&mut self, count: usize, first: u32, len: usize) {
        let mut burst = Burst::new();
        for number in 0..count {
            burst.push(packet(&mut self.pool, first + number as u32, len).unwrap());
        }
        assert_eq!(self.socket.transmit(&mut self.pool, &mut burst), count);
        assert!(burst.is_empty());
        self.socket.flush(&mut self.pool).unwrap();
    }

    fn receive(&mut self, count: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(3);
        while frames.len() < count {
            let mut burst = Burst::new();
            self.socket.receive(&mut self.pool, &mut burst);
            frames.extend(burst);
            assert!(Instant::now() < deadline, "{} of {count} packets came", frames.len());
        }
        frames
    }

    fn close(mut self) {
        self.socket.close(&mut self.pool);
        assert_eq!(self.pool.free(), (FRAMES as usize, 2));
    }
}

/// An Ethernet frame of a private EtherType, broadcast, with a number in it.
fn packet(pool: &mut Pool, number: u32, len: usize) -> Option<Frame> {
    let mut frame = pool.take()?;
    let bytes = frame.append(len)?;
    bytes.fill(number as u8);
    bytes[..6].fill(0xff);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    Some(frame)
}

fn number(frame: &Frame) -> u32 {
    u32::from_be_bytes(frame.data()[14..18].try_into().unwrap())
}

#[test]
fn packets_arrive_whole_and_in_order_in_both_directions() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let (mut one, mut other) = (End::open("lbx0", 0), End::open("lbx1", 0));
        for round in 0..20 {
            let len = 60 + round * 70;
            one.send(50, 0, len);
            other.send(50, 1000, len);
            for (end, first) in [(&mut other, 0), (&mut one, 1000)] {
                let frames = end.receive(50);
                assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), (first..first + 50).collect::<Vec<_>>());
                for frame in &frames {
                    assert_eq!(frame.len(), len);
                    assert!(frame.data()[18..].iter().all(|byte| *byte == number(frame) as u8));
                    assert!(frame.headroom() >= Frame::HEADROOM && frame.tailroom() >= 32);
                }
            }
        }
        let statistics = one.socket.statistics().unwrap();
        assert_eq!((statistics.tx_invalid_descs, statistics.rx_dropped), (0, 0));
        assert!(!one.socket.bound().zero_copy && one.socket.bound().need_wakeup);
        one.close();
        other.close();
    });
}
