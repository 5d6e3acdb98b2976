//! Checksums that frames ask the device for, on veth pairs, each test in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/xdp.rs"]
mod xdp;

use std::net::{Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use common::{in_namespace, sh};
use landbridge_xsk::{
    Burst, ChecksumOffload, Frame, Memory, MemoryConfig, Pool, Xsk, XskConfig, offloads, tx_metadata,
};
use xdp::{RedirectAll, if_index};

const PORT: u16 = 51820;
const ETHERNET: usize = 14;
const UDP: usize = ETHERNET + 40;
const OURS: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const THEIRS: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// A socket with memory of its own.
fn open(interface: &str, checksum_offload: ChecksumOffload) -> (Xsk, Memory, Pool) {
    let config = MemoryConfig { frames: 64, frame_size: 2048, jumbo_frames: 0, huge_pages: false };
    let (memory, pool) = Memory::new(config).unwrap();
    let config = XskConfig {
        if_index: if_index(interface),
        queue: 0,
        rx_ring: 32,
        tx_ring: 32,
        fill_ring: 32,
        copy: false,
        multi_buffer: false,
        busy_poll: None,
        checksum_offload,
    };
    (Xsk::open(&config, &memory).unwrap(), memory, pool)
}

const ON: ChecksumOffload = ChecksumOffload { zero_copy: true, copy: true };

fn wire() {
    sh("ip link add lbx0 address 02:00:00:00:00:01 type veth peer name lbx1 address 02:00:00:00:00:02
        ip link set lbx0 addrgenmode none up; ip link set lbx1 addrgenmode none up");
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

/// The sum of the pseudo header of what these bytes carry.
fn pseudo(frame: &[u8]) -> u32 {
    words(&frame[ETHERNET + 8..UDP]) + 17 + (frame.len() - UDP) as u32
}

fn is_intact(frame: &[u8]) -> bool {
    fold(pseudo(frame) + words(&frame[UDP..])) == 0xffff
}

/// A datagram over IPv6 whose checksum holds what the device has to add to.
fn datagram(pool: &mut Pool, payload: &[u8]) -> Frame {
    let len = (8 + payload.len()) as u16;
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0];
    bytes.extend(len.to_be_bytes());
    bytes.extend([17, 64]);
    bytes.extend([OURS.octets(), THEIRS.octets()].concat());
    bytes.extend([PORT, PORT, len].map(u16::to_be_bytes).concat());
    bytes.extend([0; 2]);
    bytes.extend(payload);
    let partial = fold(pseudo(&bytes));
    bytes[UDP + 6..UDP + 8].copy_from_slice(&partial.to_be_bytes());
    let mut frame = pool.take().unwrap();
    frame.append(bytes.len()).unwrap().copy_from_slice(&bytes);
    frame
}

fn send(socket: &mut Xsk, pool: &mut Pool, frame: Frame) {
    let mut burst = Burst::new();
    burst.push(frame);
    socket.transmit(pool, &mut burst);
    socket.flush(pool).unwrap();
}

fn receive(socket: &mut Xsk, pool: &mut Pool) -> Vec<u8> {
    let (mut burst, deadline) = (Burst::new(), Instant::now() + Duration::from_secs(3));
    while burst.is_empty() {
        assert!(Instant::now() < deadline, "nothing came");
        socket.receive(pool, &mut burst);
    }
    let bytes = burst[0].data().to_vec();
    burst.drain(..).for_each(|frame| pool.put(frame));
    bytes
}

#[test]
fn the_kernel_finishes_a_checksum_that_the_interface_does_not_and_leaves_it_to_one_that_does() {
    in_namespace(|| {
        wire();
        let (mut socket, _memory, mut pool) = open("lbx0", ON);
        let (mut far, _far_memory, mut far_pool) = open("lbx1", ChecksumOffload::default());
        let program = RedirectAll::attach(if_index("lbx1"), 0);
        program.steer(0, &far);
        far.receive(&mut far_pool, &mut Burst::new());
        assert_eq!((socket.bound().checksum_offload, far.bound().checksum_offload), (true, false));
        let payloads: Vec<Vec<u8>> = [0, 1, 32, 63, 1400].map(|len| (0..len).map(|n| (n * 7) as u8).collect()).into();
        // A virtual link that offers the offload passes the packet on as it is: its other end is to finish it.
        let frame = datagram(&mut pool, &payloads[4]);
        let sent = frame.data().to_vec();
        let mut asking = frame;
        assert!(asking.ask_checksum(UDP as u16, 6));
        assert_eq!(asking.data(), sent, "a request changes nothing of the packet");
        send(&mut socket, &mut pool, asking);
        assert_eq!(receive(&mut far, &mut far_pool), sent);
        offloads::finish_transmitted("lbx0").unwrap();
        for payload in &payloads {
            let mut frame = datagram(&mut pool, payload);
            let mut sent = frame.data().to_vec();
            assert!(!is_intact(&sent));
            assert!(frame.ask_checksum(UDP as u16, 6));
            send(&mut socket, &mut pool, frame);
            let came = receive(&mut far, &mut far_pool);
            assert!(is_intact(&came), "{} bytes", payload.len());
            sent[UDP + 6..UDP + 8].copy_from_slice(&came[UDP + 6..UDP + 8]);
            assert_eq!(came, sent, "{} bytes", payload.len());
        }
        // What asks for nothing is left alone.
        let frame = datagram(&mut pool, &payloads[2]);
        let sent = frame.data().to_vec();
        send(&mut socket, &mut pool, frame);
        assert_eq!(receive(&mut far, &mut far_pool), sent);
        assert_eq!(socket.statistics().unwrap().tx_invalid_descs, 0);
        assert_eq!(socket.unsendable(), 0);
        socket.close(&mut pool);
        far.close(&mut far_pool);
        assert_eq!((pool.free(), far_pool.free()), ((64, 0), (64, 0)));
    });
}

#[test]
fn a_plain_socket_takes_what_was_sent_with_a_request_and_refuses_the_same_bytes_without() {
    in_namespace(|| {
        wire();
        sh("ip addr add fd77::2/64 dev lbx1 nodad");
        let plain = UdpSocket::bind((THEIRS, PORT)).unwrap();
        plain.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let (mut socket, _memory, mut pool) = open("lbx0", ON);
        let unfinished = datagram(&mut pool, b"unfinished");
        send(&mut socket, &mut pool, unfinished);
        for finishes in [false, true] {
            if finishes {
                offloads::finish_transmitted("lbx0").unwrap();
            }
            let mut frame = datagram(&mut pool, b"asked for");
            assert!(frame.ask_checksum(UDP as u16, 6));
            send(&mut socket, &mut pool, frame);
            let mut bytes = [0; 64];
            let len = plain.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], b"asked for");
        }
        socket.close(&mut pool);
    });
}

#[test]
fn requests_that_cannot_be_heard_are_refused_or_dropped_and_counted() {
    in_namespace(|| {
        wire();
        let (mut deaf, memory, mut pool) = open("lbx0", ChecksumOffload { zero_copy: true, copy: false });
        assert!(!deaf.bound().checksum_offload, "asked for with zero-copy only");
        let mut frame = datagram(&mut pool, b"x");
        assert!(!frame.ask_checksum(UDP as u16, 8), "a checksum behind the data");
        assert!(frame.ask_checksum(UDP as u16, 6));
        send(&mut deaf, &mut pool, frame);
        assert_eq!((deaf.unsendable(), deaf.transmitting()), (1, 0));
        // A request is for the data that it was made for.
        let mut frame = datagram(&mut pool, b"x");
        assert!(frame.ask_checksum(UDP as u16, 6));
        frame.advance(2);
        send(&mut deaf, &mut pool, frame);
        assert_eq!(deaf.unsendable(), 1);
        // Its registration has room for requests, so every frame needs the room, whatever it asks for.
        assert!(deaf.bound().tx_metadata);
        for (headroom, dropped) in [(tx_metadata::LEN, 1), (tx_metadata::LEN - 1, 2)] {
            let mut frame = pool.take().unwrap();
            frame.reset(headroom);
            frame.append(64).unwrap().fill(0xff);
            assert_eq!(frame.ask_checksum(14, 0), headroom == tx_metadata::LEN);
            frame.advance(0);
            send(&mut deaf, &mut pool, frame);
            assert_eq!(deaf.unsendable(), dropped, "{headroom} bytes in front");
        }
        assert_eq!(deaf.statistics().unwrap().tx_invalid_descs, 0);
        // A socket beside it shares the registration; what it may ask for is its own affair.
        let beside = XskConfig {
            if_index: if_index("lbx1"),
            queue: 0,
            rx_ring: 32,
            tx_ring: 32,
            fill_ring: 32,
            copy: true,
            multi_buffer: false,
            busy_poll: None,
            checksum_offload: ON,
        };
        let beside = Xsk::open(&beside, &memory).unwrap();
        assert!(beside.bound().checksum_offload && beside.bound().tx_metadata);
        beside.close(&mut pool);
        deaf.close(&mut pool);
    });
}

#[test]
fn what_a_former_packet_left_in_front_of_a_frame_that_asks_for_nothing_is_no_request() {
    in_namespace(|| {
        wire();
        let (mut socket, _memory, mut pool) = open("lbx0", ON);
        // As if a packet had lain there that looks like a request to send it in a hundred years.
        let left = [[4, 0, 0, 0, 0, 0, 0, 0], [0xee; 8], [0x2b; 8]].concat();
        let mut frame = datagram(&mut pool, b"asks for nothing");
        let (headroom, sent) = (frame.headroom(), frame.data().to_vec());
        frame.prepend(tx_metadata::LEN).unwrap().copy_from_slice(&left);
        frame.advance(tx_metadata::LEN);
        send(&mut socket, &mut pool, frame);
        let deadline = Instant::now() + Duration::from_secs(3);
        while socket.transmitting() > 0 {
            assert!(Instant::now() < deadline, "it was not sent");
            socket.flush(&mut pool).unwrap();
        }
        // The frame that came home last is the first to leave.
        let mut frame = pool.take().unwrap();
        frame.reset(headroom);
        frame.append(sent.len()).unwrap();
        assert_eq!(frame.data(), sent, "another frame, or the packet was changed");
        assert_eq!(frame.prepend(tx_metadata::LEN).unwrap()[..8], [0; 8]);
        drop(frame);
        assert_eq!(socket.unsendable(), 0);
        socket.close(&mut pool);
        assert_eq!(pool.free(), (64, 0));
    });
}
