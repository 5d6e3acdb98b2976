//! Packets longer than a frame, on veth pairs with a large MTU, each test in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/xdp.rs"]
mod xdp;

use std::time::{Duration, Instant};

use common::{in_namespace, sh};
use landbridge_xsk::chain::{CHAIN_MAX, chain_len_max};
use landbridge_xsk::{Burst, ChainsDropped, ChecksumOffload, Frame, Memory, MemoryConfig, Pool, Xsk, XskConfig};
use xdp::{RedirectAll, if_index};

const FRAMES: u32 = 1024;
const JUMBO: u32 = 128;
/// The flag of a program that packets in several buffers may be given to (BPF_F_XDP_HAS_FRAGS).
const XDP_HAS_FRAGS: u32 = 1 << 5;

struct End {
    socket: Xsk,
    pool: Pool,
    _program: RedirectAll,
}

impl End {
    fn open(interface: &str, jumbo_frames: u32, rings: u32, multi_buffer: bool) -> Self {
        let sizes = MemoryConfig { frames: FRAMES, frame_size: 4096, jumbo_frames, huge_pages: false };
        let (memory, mut pool) = Memory::new(sizes).unwrap();
        let config = XskConfig {
            if_index: if_index(interface),
            queue: 0,
            rx_ring: rings,
            tx_ring: rings,
            fill_ring: 256,
            copy: false,
            multi_buffer,
            busy_poll: None,
            checksum_offload: ChecksumOffload::default(),
        };
        let mut socket = Xsk::open(&config, &memory).unwrap();
        let program = RedirectAll::attach(if_index(interface), XDP_HAS_FRAGS);
        program.steer(0, &socket);
        assert_eq!(socket.receive(&mut pool, &mut Burst::new()), 0);
        Self { socket, pool, _program: program }
    }

    /// Sends packets of these lengths, each with its number.
    fn send(&mut self, lens: &[usize]) {
        let mut burst = Burst::new();
        for (number, len) in lens.iter().enumerate() {
            burst.push(packet(&mut self.pool, number as u32, *len));
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        while !burst.is_empty() {
            self.socket.transmit(&mut self.pool, &mut burst);
            self.socket.flush(&mut self.pool).unwrap();
            assert!(Instant::now() < deadline, "{} packets were not sent", burst.len());
        }
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
        assert_eq!((self.socket.unsendable(), self.socket.invalid_descriptors()), (0, 0));
        let statistics = self.socket.statistics().unwrap();
        assert_eq!(statistics.tx_invalid_descs, 0);
        self.socket.close(&mut self.pool);
        assert_eq!(self.pool.free(), self.pool.total(), "frames are missing");
    }
}

fn pair() {
    sh("ip link add lbx0 mtu 32000 type veth peer name lbx1 mtu 32000
        ip link set lbx0 addrgenmode none up; ip link set lbx1 addrgenmode none up");
}

/// The byte at a place of a packet, behind its head.
fn byte(number: u32, at: usize) -> u8 {
    (at.wrapping_mul(31) ^ (at / 509) ^ number as usize) as u8
}

fn packet(pool: &mut Pool, number: u32, len: usize) -> Frame {
    let mut frame = pool.take_for(len).unwrap();
    let bytes = frame.append(len).unwrap();
    bytes.iter_mut().enumerate().for_each(|(at, b)| *b = byte(number, at));
    bytes[..6].fill(0xff);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

#[track_caller]
fn is_whole(frame: &Frame, number: u32, len: usize) {
    let bytes = frame.data();
    assert_eq!((bytes.len(), &bytes[14..18]), (len, &number.to_be_bytes()[..]));
    assert!(bytes.iter().enumerate().skip(18).all(|(at, b)| *b == byte(number, at)), "{len} bytes, not those sent");
}

#[test]
fn packets_of_every_length_arrive_whole_and_in_order_in_both_directions() {
    in_namespace(|| {
        pair();
        let (mut one, mut other) = (End::open("lbx0", JUMBO, 256, true), End::open("lbx1", JUMBO, 256, true));
        assert!(one.socket.bound().multi_buffer && other.socket.bound().multi_buffer);
        assert_eq!(one.socket.len_max(), chain_len_max(4096));
        let edges = [60, 1514, 3500, 3839, 3840, 3841, 3967, 3968, 3969, 4096, 7679, 7680, 7681, 9014, 9018];
        let long = [11_520, 11_521, 16_014, 20_000, 30_000, chain_len_max(4096) - 1, chain_len_max(4096)];
        let lens: Vec<usize> = edges.into_iter().chain(long).chain([64, 9014, 128, 9014]).collect();
        for _ in 0..20 {
            one.send(&lens);
            other.send(&lens);
            for end in [&mut other, &mut one] {
                let frames = end.receive(lens.len());
                for (number, (frame, len)) in frames.iter().zip(&lens).enumerate() {
                    is_whole(frame, number as u32, *len);
                    assert!(frame.headroom() >= Frame::HEADROOM);
                }
                assert_eq!(end.socket.take_chains_dropped(), ChainsDropped::default());
            }
        }
        one.close();
        other.close();
    });
}

#[test]
fn a_ring_that_takes_few_packets_at_a_time_takes_none_in_part() {
    in_namespace(|| {
        pair();
        // Three descriptors each: neither ring has room for a whole number of packets.
        let (mut one, mut other) = (End::open("lbx0", JUMBO, 16, true), End::open("lbx1", JUMBO, 16, true));
        for _ in 0..10 {
            let mut burst: Burst = (0..40).map(|number| packet(&mut one.pool, number, 9014)).collect();
            assert_eq!(one.socket.transmit(&mut one.pool, &mut burst), 5);
            assert_eq!((burst.len(), one.socket.transmitting()), (35, 15));
            let mut arrived = 0;
            let deadline = Instant::now() + Duration::from_secs(3);
            while arrived < 40 {
                one.socket.flush(&mut one.pool).unwrap();
                let mut frames = Burst::new();
                other.socket.receive(&mut other.pool, &mut frames);
                for frame in frames {
                    is_whole(&frame, arrived, 9014);
                    arrived += 1;
                }
                one.socket.transmit(&mut one.pool, &mut burst);
                assert!(Instant::now() < deadline, "{arrived} packets came");
            }
        }
        one.close();
        other.close();
    });
}

#[test]
fn packets_for_which_no_jumbo_frame_is_free_are_dropped_whole_and_counted() {
    in_namespace(|| {
        pair();
        let (mut one, mut other) = (End::open("lbx0", JUMBO, 256, true), End::open("lbx1", 2, 256, true));
        one.send(&[9014, 9014, 9014, 200, 9014, 300]);
        let frames = other.receive(4);
        for (frame, (number, len)) in frames.iter().zip([(0, 9014), (1, 9014), (3, 200), (5, 300)]) {
            is_whole(frame, number, len);
        }
        assert_eq!(other.socket.take_chains_dropped(), ChainsDropped { no_frame: 2, oversized: 0 });
        frames.into_iter().for_each(|frame| other.pool.put(frame));
        one.send(&[9014, 9014]);
        assert_eq!(other.receive(2).len(), 2, "the next ones come");
        one.close();
        other.close();
    });
}

#[test]
fn a_packet_of_more_parts_than_a_chain_may_have_is_refused_by_both_ends() {
    in_namespace(|| {
        pair();
        let (mut one, mut other) = (End::open("lbx0", JUMBO, 256, true), End::open("lbx1", JUMBO, 256, true));
        let mut burst: Burst = [40_000, 100].into_iter().map(|len| packet(&mut one.pool, 1, len)).collect();
        assert_eq!(one.socket.transmit(&mut one.pool, &mut burst), 1);
        one.socket.flush(&mut one.pool).unwrap();
        assert_eq!(one.socket.unsendable(), 1);
        assert_eq!(other.receive(1)[0].len(), 100);
        // What can just be sent comes in nine parts, as the kernel keeps more room in what it receives into.
        one.send(&[3968 * CHAIN_MAX, 100]);
        assert_eq!(other.receive(1)[0].len(), 100);
        assert_eq!(other.socket.take_chains_dropped(), ChainsDropped { no_frame: 0, oversized: 1 });
        for End { socket, mut pool, .. } in [one, other] {
            socket.close(&mut pool);
            assert_eq!(pool.free(), pool.total());
        }
    });
}

#[test]
fn without_multi_buffer_long_packets_are_refused_and_short_ones_come() {
    in_namespace(|| {
        pair();
        let (mut one, mut other) = (End::open("lbx0", JUMBO, 256, true), End::open("lbx1", JUMBO, 256, false));
        assert!(!other.socket.bound().multi_buffer);
        assert_eq!(other.socket.len_max(), 4096);
        one.send(&[9014, 3840, 9014, 100]);
        let frames = other.receive(2);
        is_whole(&frames[0], 1, 3840);
        is_whole(&frames[1], 3, 100);
        assert_eq!(other.socket.statistics().unwrap().rx_dropped, 2);
        drop(frames);
        let mut burst: Burst = [9014, 100].into_iter().map(|len| packet(&mut other.pool, 0, len)).collect();
        assert_eq!(other.socket.transmit(&mut other.pool, &mut burst), 1);
        assert_eq!(other.socket.unsendable(), 1);
        other.socket.flush(&mut other.pool).unwrap();
        assert_eq!(one.receive(1)[0].len(), 100);
        for End { socket, mut pool, .. } in [one, other] {
            socket.close(&mut pool);
            assert_eq!(pool.free(), pool.total());
        }
    });
}

#[test]
fn a_socket_that_is_closed_in_the_middle_of_traffic_keeps_no_frame() {
    in_namespace(|| {
        pair();
        let (mut one, mut other) = (End::open("lbx0", JUMBO, 256, true), End::open("lbx1", JUMBO, 16, true));
        let mut burst: Burst = (0..64).map(|number| packet(&mut one.pool, number, 12_000)).collect();
        one.socket.transmit(&mut one.pool, &mut burst);
        one.socket.flush(&mut one.pool).unwrap();
        let mut frames = Burst::new();
        other.socket.receive(&mut other.pool, &mut frames);
        drop((burst, frames));
        one.close();
        other.close();
    });
}
