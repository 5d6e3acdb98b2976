//! AF_XDP sockets on veth pairs, each test in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/xdp.rs"]
mod xdp;

use std::time::{Duration, Instant};

use common::{in_namespace, sh};
use landbridge_xsk::{Burst, ChecksumOffload, Frame, Memory, MemoryConfig, Pool, Xsk, XskConfig};
use xdp::{RedirectAll, if_index};

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
        multi_buffer: false,
        busy_poll: None,
        checksum_offload: ChecksumOffload::default(),
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
        let program = RedirectAll::attach(if_index(interface), 0);
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

#[test]
fn frames_are_forwarded_between_two_sockets_of_one_memory_without_a_copy() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        pair("lbx2", "lbx3");
        let (mut source, mut sink) = (End::open("lbx0", 0), End::open("lbx3", 0));
        let mut gateway = End::open("lbx1", 0);
        let mut out = Xsk::open(&config("lbx2", 1), &gateway.memory).unwrap();
        // A program on this end, too, or veth would not hand its peer's packets to a program there.
        let _program = RedirectAll::attach(if_index("lbx2"), 0);
        // Sent from queue 1, they arrive on queue 1.
        let mut sink_queue = Xsk::open(&config("lbx3", 1), &sink.memory).unwrap();
        sink.program.steer(1, &sink_queue);
        sink_queue.receive(&mut sink.pool, &mut Burst::new());

        let mut arrived = Vec::new();
        for round in 0..30 {
            source.send(40, round * 40, 200);
            let frames = gateway.receive(40);
            let slots: Vec<*const u8> = frames.iter().map(|frame| frame.data().as_ptr()).collect();
            let mut burst: Burst = frames.into_iter().collect();
            for frame in &mut burst {
                frame.prepend(8).unwrap().fill(0xee);
            }
            assert!(burst.iter().zip(&slots).all(|(frame, slot)| frame.data().as_ptr() == slot.wrapping_sub(8)));
            assert_eq!(out.transmit(&mut gateway.pool, &mut burst), 40);
            out.flush(&mut gateway.pool).unwrap();
            let deadline = Instant::now() + Duration::from_secs(3);
            while arrived.len() < (round as usize + 1) * 40 {
                let mut burst = Burst::new();
                sink_queue.receive(&mut sink.pool, &mut burst);
                for frame in burst {
                    assert_eq!((frame.len(), &frame.data()[..8]), (208, &[0xee; 8][..]));
                    arrived.push(u32::from_be_bytes(frame.data()[22..26].try_into().unwrap()));
                }
                assert!(Instant::now() < deadline, "{} packets were forwarded", arrived.len());
            }
        }
        assert_eq!(arrived, (0..1200).collect::<Vec<_>>());
        out.close(&mut gateway.pool);
        sink_queue.close(&mut sink.pool);
        for end in [source, sink, gateway] {
            end.close();
        }
    });
}

#[test]
fn the_socket_that_registered_the_memory_may_go_first_and_come_back() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        pair("lbx2", "lbx3");
        let mut far = End::open("lbx3", 0);
        let End { socket: first, mut pool, memory, program } = End::open("lbx1", 0);
        let mut second = Xsk::open(&config("lbx2", 0), &memory).unwrap();
        let program_of_second = RedirectAll::attach(if_index("lbx2"), 0);
        program_of_second.steer(0, &second);
        second.receive(&mut pool, &mut Burst::new());
        drop(program);
        for _ in 0..5 {
            far.send(20, 0, 100);
            let mut burst = Burst::new();
            let deadline = Instant::now() + Duration::from_secs(3);
            while burst.len() < 20 && Instant::now() < deadline {
                second.receive(&mut pool, &mut burst);
            }
            assert_eq!(burst.len(), 20);
        }
        first.close(&mut pool);
        far.send(20, 0, 100);
        let mut burst = Burst::new();
        let deadline = Instant::now() + Duration::from_secs(3);
        while burst.len() < 20 && Instant::now() < deadline {
            second.receive(&mut pool, &mut burst);
        }
        assert_eq!(burst.len(), 20, "the second socket died with the first");
        drop(burst);
        // Whichever is opened again finds the other's registration, and its own queue free.
        for _ in 0..5 {
            let again = Xsk::open(&config("lbx1", 0), &memory).unwrap();
            again.close(&mut pool);
        }
        let again = Xsk::open(&config("lbx1", 0), &memory).unwrap();
        second.close(&mut pool);
        again.close(&mut pool);
        assert_eq!(pool.free(), (FRAMES as usize, 2));
        far.close();
    });
}

#[test]
fn a_burst_larger_than_the_ring_is_sent_in_parts_and_stays_in_order() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let mut one = End::open("lbx0", 0);
        let mut other = End::open("lbx1", 0);
        let small = XskConfig { tx_ring: 16, ..config("lbx0", 1) };
        let mut socket = Xsk::open(&small, &one.memory).unwrap();
        let mut other_queue = Xsk::open(&config("lbx1", 1), &other.memory).unwrap();
        other.program.steer(1, &other_queue);
        other_queue.receive(&mut other.pool, &mut Burst::new());
        let mut burst: Burst = (0..64).map(|n| packet(&mut one.pool, n, 64).unwrap()).collect();
        assert_eq!(socket.transmit(&mut one.pool, &mut burst), 16);
        assert_eq!((burst.len(), number(&burst[0])), (48, 16));
        assert_eq!(socket.transmit(&mut one.pool, &mut burst), 0, "a full ring took more");
        while !burst.is_empty() {
            socket.flush(&mut one.pool).unwrap();
            socket.transmit(&mut one.pool, &mut burst);
        }
        socket.flush(&mut one.pool).unwrap();
        let (mut arrived, deadline) = (Burst::new(), Instant::now() + Duration::from_secs(3));
        while !arrived.is_full() && Instant::now() < deadline {
            other_queue.receive(&mut other.pool, &mut arrived);
        }
        assert_eq!(arrived.iter().map(number).collect::<Vec<_>>(), (0..64).collect::<Vec<_>>());
        drop(arrived);
        socket.close(&mut one.pool);
        other_queue.close(&mut other.pool);
        one.close();
        other.close();
    });
}

#[test]
fn what_no_ring_can_take_is_dropped_and_counted() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let mut one = End::open("lbx0", 0);
        let (_foreign, mut foreign_pool) = memory();
        let mut burst = Burst::new();
        burst.push(one.pool.take().unwrap());
        burst.push(packet(&mut foreign_pool, 1, 64).unwrap());
        let mut jumbo = one.pool.take_jumbo().unwrap();
        jumbo.append(9000).unwrap();
        burst.push(jumbo);
        burst.push(packet(&mut one.pool, 2, 64).unwrap());
        assert_eq!(one.socket.transmit(&mut one.pool, &mut burst), 1);
        one.socket.flush(&mut one.pool).unwrap();
        assert_eq!(one.socket.unsendable(), 3);
        assert_eq!(foreign_pool.free(), (FRAMES as usize, 2));
        assert_eq!(one.socket.receive(&mut foreign_pool, &mut burst), 0, "another memory's pool");
        assert_eq!(foreign_pool.free(), (FRAMES as usize, 2), "frames of another memory were given to the kernel");
        one.close();
    });
}

#[test]
fn the_fill_ring_leaves_a_quarter_of_the_frames_to_the_lane() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let (memory, mut pool) = memory();
        let mut sockets: Vec<Xsk> = [("lbx0", 0), ("lbx0", 1), ("lbx1", 0)]
            .into_iter()
            .map(|(name, queue)| {
                let large = XskConfig { fill_ring: 256, ..config(name, queue) };
                Xsk::open(&large, &memory).unwrap()
            })
            .collect();
        for socket in &mut sockets {
            socket.receive(&mut pool, &mut Burst::new());
        }
        assert_eq!(sockets.iter().map(Xsk::in_flight).collect::<Vec<_>>(), [128, 128, 128], "none goes without");
        assert_eq!(pool.free().0, FRAMES as usize / 4);
        drop(sockets);
        assert_eq!(pool.free().0, FRAMES as usize, "sockets that were dropped, not closed, kept frames");
    });
}

#[test]
fn a_frame_outlives_its_socket_and_goes_home() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let (mut one, mut other) = (End::open("lbx0", 0), End::open("lbx1", 0));
        one.send(1, 7, 100);
        let kept = other.receive(1).pop().unwrap();
        let End { socket, mut pool, memory, .. } = other;
        socket.close(&mut pool);
        assert_eq!(pool.free(), (FRAMES as usize - 1, 2));
        assert_eq!(number(&kept), 7);
        drop(kept);
        assert_eq!(pool.free(), (FRAMES as usize, 2));
        drop(memory);
        one.close();
    });
}

#[test]
fn what_cannot_be_bound_says_which_step_failed_and_the_way_out() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let one = End::open("lbx0", 0);
        let open = |config: &XskConfig, memory: &Memory| {
            let error = Xsk::open(config, memory).unwrap_err();
            (error.to_string(), landbridge_xsk::error::os_code(&error))
        };
        let index = if_index("lbx0");
        let (other, _pool) = memory();
        let cases = [
            (open(&config("lbx0", 0), &one.memory), "this gateway has a socket on that queue", libc::EBUSY),
            (open(&config("lbx0", 0), &other), "another program has an AF_XDP socket on this queue", libc::EBUSY),
            (open(&config("lbx0", 9), &other), "no such queue", libc::EINVAL),
            (open(&XskConfig { if_index: 9999, ..config("lbx0", 0) }, &other), "no such interface", libc::ENODEV),
        ];
        for ((text, code), way_out, expected) in cases {
            assert!(text.starts_with("bind AF_XDP socket to interface ") && text.contains(way_out), "{text}");
            assert_eq!(code, Some(expected), "{text}");
        }
        assert!(open(&config("lbx0", 0), &other).0.contains(&format!("interface {index} queue 0: ")));
        let odd = XskConfig { tx_ring: 100, ..config("lbx0", 1) };
        assert!(open(&odd, &other).0.contains("tx_ring 100 is no power of two"));
        one.close();
    });
}

#[test]
fn busy_polling_and_huge_pages_are_granted_or_told() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let mut one = End::open("lbx0", 0);
        let wanted = MemoryConfig { frames: FRAMES, frame_size: 4096, jumbo_frames: 0, huge_pages: true };
        let (memory, mut pool) = Memory::new(wanted).unwrap();
        println!("huge pages: {}", memory.huge_pages());
        let busy = XskConfig { busy_poll: Some(64), copy: true, ..config("lbx1", 0) };
        let mut socket = Xsk::open(&busy, &memory).unwrap();
        assert!(socket.bound().busy_poll && !socket.bound().zero_copy);
        let program = RedirectAll::attach(if_index("lbx1"), 0);
        program.steer(0, &socket);
        socket.receive(&mut pool, &mut Burst::new());
        one.send(30, 0, 1400);
        let (mut burst, deadline) = (Burst::new(), Instant::now() + Duration::from_secs(3));
        while burst.len() < 30 && Instant::now() < deadline {
            socket.receive(&mut pool, &mut burst);
        }
        assert_eq!(burst.len(), 30);
        drop(burst);
        socket.close(&mut pool);
        assert_eq!(pool.free(), (FRAMES as usize, 0));
        one.close();
    });
}

#[test]
fn a_socket_moves_to_another_thread_with_its_pool() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let (mut one, mut other) = (End::open("lbx0", 0), End::open("lbx1", 0));
        one.send(10, 0, 100);
        let frames = std::thread::spawn(move || {
            let frames = other.receive(10);
            (frames, other)
        });
        let (frames, other) = frames.join().unwrap();
        std::thread::spawn(move || drop(frames)).join().unwrap();
        one.close();
        other.close();
    });
}

#[test]
fn frames_come_home_from_an_interface_that_was_deleted_or_is_down() {
    in_namespace(|| {
        for (how, line) in [("down", "ip link set lbx0 down"), ("deleted", "ip link delete lbx0")] {
            pair("lbx0", "lbx1");
            let mut one = End::open("lbx0", 0);
            one.send(20, 0, 100);
            sh(line);
            let mut burst: Burst = (0..20).map(|n| packet(&mut one.pool, n, 64).unwrap()).collect();
            assert_eq!(one.socket.transmit(&mut one.pool, &mut burst), 20);
            let error = one.socket.flush(&mut one.pool).unwrap_err();
            assert!(error.to_string().starts_with("send through an AF_XDP socket: "), "{error}");
            let code = landbridge_xsk::error::os_code(&error);
            assert!(matches!(code, Some(libc::ENETDOWN | libc::ENXIO)), "{how}: {error}");
            assert_eq!(one.socket.receive(&mut one.pool, &mut burst), 0);
            one.close();
            sh("ip link delete lbx0 2>/dev/null || true");
        }
    });
}

#[test]
fn sockets_of_one_memory_share_its_frames_however_large_their_rings_are() {
    in_namespace(|| {
        pair("lbx0", "lbx1");
        let (memory, mut pool) = memory();
        let open = |queue| Xsk::open(&XskConfig { fill_ring: 1024, ..config("lbx0", queue) }, &memory).unwrap();
        let mut sockets = [open(0), open(1)];
        for socket in &mut sockets {
            socket.receive(&mut pool, &mut Burst::new());
        }
        // A quarter stays with the lane.
        let share = FRAMES as usize / 4 * 3 / 2;
        assert_eq!(sockets.each_ref().map(Xsk::in_flight), [share, share]);
        let [gone, mut left] = sockets;
        gone.close(&mut pool);
        left.receive(&mut pool, &mut Burst::new());
        assert_eq!(left.in_flight(), share * 2, "what the closed one had is the other's");
        left.close(&mut pool);
        assert_eq!(pool.free(), pool.total());
    });
}
