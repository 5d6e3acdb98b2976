//! The wan side of a lane on real rings and sockets, without the lane: what leaves and comes in which order, by which
//! way and with which marks. Each test lives in namespaces that vanish with it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../xsk/tests/common/mod.rs"]
mod common;
mod starved;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{in_namespace, sh};
use landbridge::datapath::side::{Datagrams, Origin, Outgoing, Wan};
use landbridge::datapath::stats::LaneStats;
use landbridge::datapath::tables::{Path, Wire};
use landbridge::datapath::wan::WanSide;
use landbridge::datapath::wan_udp::WanUdp;
use landbridge::datapath::wan_xdp::{WanXdp, packet_len_max};
use landbridge::settings::XdpMode;
use landbridge::steer::{self, Steer};
use landbridge_proto::ReceiverIndex;
use landbridge_xsk::{BURST, Burst, ChecksumOffload, Frame, Memory, MemoryConfig, Pool, Xsk, XskConfig};
use nix::sched::{CloneFlags, setns, unshare};

const PORT: u16 = 51820;
const OURS: &str = "192.0.2.1";
const THEIRS: &str = "192.0.2.2";
const LIVE: ReceiverIndex = ReceiverIndex(0x1000_0001);

/// A wire to another namespace, in which a plain UDP socket is; this end is `wan`.
fn wire(mtu: u32) -> UdpSocket {
    let here = File::open("/proc/thread-self/ns/net").unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let there = File::open("/proc/thread-self/ns/net").unwrap();
    setns(&here, CloneFlags::CLONE_NEWNET).unwrap();
    let (pid, fd) = (std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&there));
    sh(&format!(
        "ip link add wan address 02:00:00:00:00:01 mtu {mtu} type veth peer name far address 02:00:00:00:00:02 mtu {mtu}
         ip link set far netns /proc/{pid}/fd/{fd}
         ip addr add {OURS}/24 dev wan; ip link set wan up
         ip neigh add {THEIRS} lladdr 02:00:00:00:00:02 dev wan nud permanent"
    ));
    setns(&there, CloneFlags::CLONE_NEWNET).unwrap();
    sh(&format!(
        "ip addr add {THEIRS}/24 dev far; ip link set far up
         ip neigh add {OURS} lladdr 02:00:00:00:00:01 dev far nud permanent"
    ));
    let far = UdpSocket::bind((THEIRS, PORT)).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    setns(&here, CloneFlags::CLONE_NEWNET).unwrap();
    // The carrier needs a moment.
    let limit = Instant::now() + Duration::from_secs(5);
    let mut state = String::new();
    while !state.starts_with("up") && Instant::now() < limit {
        state.clear();
        File::open("/sys/class/net/wan/operstate").and_then(|mut file| file.read_to_string(&mut state)).ok();
        if !state.starts_with("up") {
            // The mount is of the first namespace: the link's own words tell as well.
            let shown = Command::new("ip").args(["-o", "link", "show", "wan"]).output().unwrap();
            if String::from_utf8_lossy(&shown.stdout).contains("state UP") {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    far
}

struct Side {
    wan: WanSide,
    pool: Pool,
    stats: LaneStats,
    steer: Option<Steer>,
    /// A second descriptor of the ring, for the kernel's counters.
    ring: OwnedFd,
}

fn memory() -> (Memory, Pool) {
    Memory::new(MemoryConfig { frames: 2048, frame_size: 2048, jumbo_frames: 8, huge_pages: false }).unwrap()
}

impl Side {
    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// Ring and socket; with `steered`, transport data of the live session comes by the ring.
    fn new(steered: bool) -> Self {
        let (memory, pool) = memory();
        let if_index = steer::interface_by_name("wan").unwrap().index;
        let (copy, multi_buffer, busy_poll) = (false, false, None);
        let checksum_offload = ChecksumOffload::default();
        let (queue, rx_ring, tx_ring, fill_ring) = (0, 512, 256, 512);
        let config =
            XskConfig { if_index, queue, rx_ring, tx_ring, fill_ring, copy, multi_buffer, busy_poll, checksum_offload };
        let ring = Xsk::open(&config, &memory).unwrap();
        let fd = ring.as_fd().try_clone_to_owned().unwrap();
        let wan =
            WanSide::new(vec![WanXdp::new(if_index, ring)], Some(WanUdp::new(Self::socket()).unwrap()), Vec::new());
        let mut side = Self { wan, pool, stats: LaneStats::default(), steer: None, ring: fd };
        // The first look fills the ring.
        side.receive();
        side.steer = steered.then(|| {
            let mut steer = Steer::load().unwrap();
            steer.set_packet_len_max(packet_len_max(2048));
            steer.set_port(PORT).unwrap();
            steer.set_addresses(&[OURS.parse().unwrap()]).unwrap();
            steer.insert_session(LIVE).unwrap();
            steer.bind_socket(if_index, 0, side.ring.as_fd()).unwrap();
            steer.attach(if_index, "wan", XdpMode::Native).unwrap();
            steer
        });
        side
    }

    fn frame(&mut self, bytes: &[u8]) -> Frame {
        let mut frame = self.pool.take_for(bytes.len()).unwrap();
        frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
        frame
    }

    fn send(&mut self, payload: &[u8], path: &Arc<Path>) {
        let mut burst = Burst::new();
        burst.push(self.frame(payload));
        let to = Outgoing { path, source_port: PORT, slot: 0, ecn: 0 };
        self.wan.transmit(&mut self.pool, &mut burst, to, &self.stats);
    }

    /// One call's datagrams.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut datagrams = Datagrams::default();
        self.wan.receive(&mut self.pool, &mut datagrams, &self.stats).unwrap();
        datagrams
            .frames
            .drain(..)
            .map(|frame| {
                let bytes = frame.data().to_vec();
                self.pool.put(frame);
                bytes
            })
            .collect()
    }

    fn close(mut self) {
        drop(self.steer);
        self.wan.close(&mut self.pool);
        assert_eq!(self.pool.free(), self.pool.total());
    }
}

/// The path by the ring, and the same one without it.
fn paths(mtu: u32) -> [Arc<Path>; 2] {
    let remote = SocketAddr::new(THEIRS.parse().unwrap(), PORT);
    let mut ethernet = arrayvec::ArrayVec::new();
    ethernet.try_extend_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]).unwrap();
    let if_index = steer::interface_by_name("wan").unwrap().index;
    let wire = Wire { if_index, source: OURS.parse().unwrap(), ethernet, mtu };
    [Some(wire), None].map(|wire| Arc::new(Path::new(remote, Some(OURS.parse().unwrap()), None, wire)))
}

/// Transport data for a receiver index, numbered.
fn message(index: ReceiverIndex, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[0] = 4;
    bytes[4..8].copy_from_slice(&index.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn number(message: &[u8]) -> u32 {
    u32::from_le_bytes(*message[8..].first_chunk().unwrap())
}

#[test]
fn a_path_that_changes_between_ring_and_socket_reorders_nothing() {
    in_namespace(|| {
        let far = wire(1500);
        let mut side = Side::new(false);
        let [ring, socket] = paths(1500);
        // Runs of both ways within one flush, also such as only a packet's length makes.
        let ways = [&ring, &socket, &socket, &ring, &ring, &socket, &ring];
        let mut next = 0..;
        for way in ways {
            for len in [100, 200, 100] {
                side.send(&message(LIVE, next.next().unwrap(), len), way);
            }
            side.send(&message(LIVE, next.next().unwrap(), 3000), way);
        }
        side.wan.flush(&mut side.pool, &side.stats).unwrap();
        let count = next.next().unwrap();
        let mut buffer = vec![0; 4096];
        let received: Vec<u32> = (0..count)
            .map(|_| {
                let len = far.recv(&mut buffer).unwrap();
                number(&buffer[..len])
            })
            .collect();
        assert_eq!(received, (0..count).collect::<Vec<_>>());
        let sent = [&side.stats.wan_xdp_tx_packets, &side.stats.wan_socket_tx_packets].map(|sent| sent.value());
        assert_eq!(sent, [12, 16]);
        assert_eq!(side.stats.wan_xdp_tx_bytes.value(), 4 * (100 + 200 + 100 + 3 * 28));
        side.close();
    });
}

#[test]
fn a_ring_that_is_never_empty_does_not_keep_the_socket_waiting() {
    in_namespace(|| {
        let far = wire(1500);
        let mut side = Side::new(true);
        for number in 0..6 * BURST as u32 {
            far.send_to(&message(LIVE, number, 64), (OURS, PORT)).unwrap();
        }
        far.send_to(&message(ReceiverIndex(7), 9999, 64), (OURS, PORT)).unwrap();
        thread::sleep(Duration::from_millis(100));
        let first = side.receive();
        assert_eq!(
            first.iter().map(|message| number(message)).collect::<Vec<_>>(),
            (0..BURST as u32).collect::<Vec<_>>()
        );
        let second = side.receive();
        assert!(second.iter().any(|message| number(message) == 9999), "the socket's turn has come");
        assert!(second.len() == BURST, "and the ring goes on");
        side.close();
    });
}

#[test]
fn what_no_frame_of_a_ring_holds_is_left_to_the_kernels_socket() {
    in_namespace(|| {
        let far = wire(3000);
        let mut side = Side::new(true);
        let longest = packet_len_max(2048) - 28;
        for (number, len) in [longest - 1, longest, longest + 1, 1900, 2900].into_iter().enumerate() {
            far.send_to(&message(LIVE, number as u32, len), (OURS, PORT)).unwrap();
        }
        thread::sleep(Duration::from_millis(100));
        let numbers: BTreeSet<u32> = side.receive().iter().map(|message| number(message)).collect();
        assert_eq!(numbers, (0..5).collect());
        let by = [&side.stats.wan_xdp_rx_packets, &side.stats.wan_socket_rx_packets].map(|received| received.value());
        assert_eq!(by, [2, 3], "by the ring, by the socket");
        side.close();
    });
}

#[test]
fn a_new_socket_forgets_nothing_that_the_last_one_brought() {
    in_namespace(|| {
        let far = wire(1500);
        let mut side = Side::new(false);
        // As many as one system call brings.
        for number in 0..8 {
            far.send_to(&message(LIVE, number, 64), (OURS, PORT)).unwrap();
        }
        thread::sleep(Duration::from_millis(50));
        // Room for a few only, so that the rest of what one system call brought is left over within the side.
        let mut few = Datagrams::default();
        for _ in 0..BURST - 3 {
            let frame = side.frame(&[]);
            few.push(frame, Origin { remote: (OURS.parse::<IpAddr>().unwrap(), 1).into(), local: None, slot: 0 }, 0);
        }
        side.wan.receive(&mut side.pool, &mut few, &side.stats).unwrap();
        let mut received: Vec<Vec<u8>> = few.frames.drain(BURST - 3..).map(|frame| frame.data().to_vec()).collect();
        drop(few);
        let other = UdpSocket::bind(("0.0.0.0", PORT + 1)).unwrap();
        other.set_nonblocking(true).unwrap();
        side.wan.replace_socket(other).unwrap();
        received.extend(side.receive());
        far.send_to(&message(LIVE, 8, 64), (OURS, PORT + 1)).unwrap();
        thread::sleep(Duration::from_millis(50));
        received.extend(side.receive());
        let numbers: Vec<u32> = received.iter().map(|message| number(message)).collect();
        assert_eq!(numbers, (0..=8).collect::<Vec<_>>());
        let [_, path] = paths(1500);
        side.send(&message(LIVE, 1, 64), &path);
        side.wan.flush(&mut side.pool, &side.stats).unwrap();
        let (_, from) = far.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(from.port(), PORT + 1);
        side.close();
    });
}

/// Sockets of one family and of both, and the address at which they are reached.
const KINDS: [(&str, &str); 4] = [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1"), ("::", "::1")];

/// Two ends on the loopback interface, each with its pool.
fn loopback(bound: &str, reached: &str) -> ([(WanUdp, Pool); 2], Arc<Path>) {
    let socket = || {
        let socket = UdpSocket::bind((bound, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let (near, far) = (socket(), socket());
    let remote = SocketAddr::new(reached.parse().unwrap(), far.local_addr().unwrap().port());
    let path = Arc::new(Path::new(remote, None, None, None));
    ([near, far].map(|socket| (WanUdp::new(socket).unwrap(), memory().1)), path)
}

/// Sends these payloads and returns what arrives, with its ECN.
fn across(
    ends: &mut [(WanUdp, Pool); 2],
    path: &Arc<Path>,
    messages: &[(usize, u8)],
    stats: &LaneStats,
) -> Vec<(usize, u8)> {
    let [(near, pool), (far, far_pool)] = ends;
    for &(len, ecn) in messages {
        let mut frame = pool.take_for(len).unwrap();
        frame.append(len).unwrap().fill(4);
        near.push(pool, frame, Outgoing { path, source_port: PORT, slot: 0, ecn }, stats);
    }
    near.flush(pool, stats);
    thread::sleep(Duration::from_millis(50));
    let mut datagrams = Datagrams::default();
    far.receive(far_pool, &mut datagrams, stats).unwrap();
    let reached = Some(path.remote.ip());
    let arrivals = || datagrams.arrivals.iter();
    assert!(arrivals().all(|arrivals| arrivals.origin.local == reached), "the address of ours that was used");
    let ecns = arrivals().flat_map(|arrivals| std::iter::repeat_n(arrivals.ecn, arrivals.packets));
    datagrams.frames.iter().map(Frame::len).zip(ecns).collect()
}

#[test]
fn marks_of_congestion_cross_the_socket_in_both_families() {
    in_namespace(|| {
        for (bound, reached) in KINDS {
            let (mut ends, path) = loopback(bound, reached);
            let stats = LaneStats::default();
            // Joined where they are alike, apart where the marks differ.
            let messages = [(500, 0), (500, 2), (500, 2), (500, 2), (300, 2), (500, 1), (500, 3), (500, 0)];
            assert_eq!(across(&mut ends, &path, &messages, &stats), messages, "{bound} {reached}");
            assert_eq!(stats.wan_socket_tx_packets.value(), 8);
        }
    });
}

#[test]
fn segments_that_the_kernel_refuses_go_one_by_one_and_are_not_joined_again() {
    in_namespace(|| {
        sh("ip link set lo mtu 1280");
        for (bound, reached) in KINDS {
            let (mut ends, path) = loopback(bound, reached);
            let stats = LaneStats::default();
            for round in 1..=3 {
                let messages = [(1400, 0); 10];
                assert_eq!(across(&mut ends, &path, &messages, &stats), messages, "{bound} {reached}, round {round}");
                assert_eq!(stats.wan_socket_tx_packets.value(), round * 20 - 10);
                let small = [(600, 0); 10];
                assert_eq!(across(&mut ends, &path, &small, &stats), small, "{bound} {reached}, round {round}");
            }
            assert_eq!(stats.wan_socket_tx_bytes.value(), 3 * 10 * 2000);
        }
    });
}

#[test]
fn datagrams_of_any_sizes_land_whole_and_in_order() {
    in_namespace(|| {
        let ([(mut near, mut pool), (mut far, mut far_pool)], path) = loopback("127.0.0.1", "127.0.0.1");
        let (stats, before) = (LaneStats::default(), far_pool.free());
        // What is foreseen after one of these is wrong for the next: more or fewer, longer or shorter, alone or joined.
        let rounds =
            [(1400, 40), (100, 60), (1400, 1), (1452, 45), (1800, 30), (64, 1), (1452, 45), (5000, 7), (32, 64)];
        let mut numbers = 0..;
        for (len, count) in rounds.into_iter().cycle().take(4 * rounds.len()) {
            // The last one of a send may be shorter.
            let lens = (0..count).map(|i| if i + 1 == count { len - len / 3 } else { len });
            let filled = |len: usize| {
                let number = numbers.next().unwrap();
                let mut bytes = message(LIVE, number, len);
                bytes[12..].iter_mut().zip(number..).for_each(|(byte, value)| *byte = value as u8);
                bytes
            };
            let sent: Vec<Vec<u8>> = lens.map(filled).collect();
            for bytes in &sent {
                let mut frame = pool.take_for(bytes.len()).unwrap();
                frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
                near.push(&mut pool, frame, Outgoing { path: &path, source_port: PORT, slot: 0, ecn: 0 }, &stats);
            }
            near.flush(&mut pool, &stats);
            let mut received: Vec<Vec<u8>> = Vec::new();
            let limit = std::time::Instant::now() + Duration::from_secs(5);
            while received.len() < sent.len() && std::time::Instant::now() < limit {
                let mut datagrams = Datagrams::default();
                far.receive(&mut far_pool, &mut datagrams, &stats).unwrap();
                let packets: usize = datagrams.arrivals.iter().map(|arrivals| arrivals.packets).sum();
                assert_eq!(packets, datagrams.frames.len());
                received.extend(datagrams.frames.drain(..).map(|frame| frame.data().to_vec()));
            }
            assert!(received == sent, "{count} datagrams of {len} bytes");
        }
        far.close(&mut far_pool);
        assert_eq!(far_pool.free(), before, "every frame is home");
    });
}
