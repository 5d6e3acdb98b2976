//! The lan side of a lane on real rings and TUN devices, without the lane: which packets it takes and in which shape,
//! which it sends by the ring, and which it leaves to the kernel. Each test lives in namespaces that vanish with it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../xsk/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{in_namespace, sh};
use landbridge::datapath::join::Offloads;
use landbridge::datapath::lan::LanSide;
use landbridge::datapath::lan_table::{HopId, LanTable, NextHop};
use landbridge::datapath::lan_tun::LanTun;
use landbridge::datapath::lan_xdp::LanXdp;
use landbridge::datapath::side::Lan;
use landbridge::datapath::stats::LaneStats;
use landbridge::datapath::tables::Table;
use landbridge::datapath::wan_xdp::packet_len_max;
use landbridge::settings::XdpMode;
use landbridge::steer::{self, LanInterface, Steer};
use landbridge_proto::{DropReason, Prefixes};
use landbridge_xsk::{Burst, ChecksumOffload, Memory, MemoryConfig, Pool, Tun, TunConfig, Xsk, XskConfig};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const TAG: [u8; 4] = [0x81, 0, 0, 7];
const VLAN: u16 = 7;
/// All protocols, in network byte order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();

fn ring(if_index: u32, memory: &Memory) -> Xsk {
    let (copy, multi_buffer, busy_poll) = (true, false, None);
    let checksum_offload = ChecksumOffload::default();
    let (queue, rx_ring, tx_ring, fill_ring) = (0, 256, 256, 256);
    let config =
        XskConfig { if_index, queue, rx_ring, tx_ring, fill_ring, copy, multi_buffer, busy_poll, checksum_offload };
    Xsk::open(&config, memory).unwrap()
}

fn memory() -> (Memory, Pool) {
    Memory::new(MemoryConfig { frames: 1024, frame_size: 2048, jumbo_frames: 4, huge_pages: false }).unwrap()
}

/// Makes a wire of which this namespace has the end `lan`, and another one the end `far`, where `work` is done. Nothing
/// is on the wire but the test's own frames.
fn there<T>(work: impl FnOnce() -> T) -> T {
    let here = File::open("/proc/thread-self/ns/net").unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let there = File::open("/proc/thread-self/ns/net").unwrap();
    setns(&here, CloneFlags::CLONE_NEWNET).unwrap();
    let (pid, fd) = (std::process::id(), there.as_raw_fd());
    sh(&format!(
        "ip link add lan address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02
         ip link set far netns /proc/{pid}/fd/{fd}
         ip link set lan addrgenmode none
         ip link set lan up arp off"
    ));
    setns(&there, CloneFlags::CLONE_NEWNET).unwrap();
    sh("ip link set far addrgenmode none; ip link set far up arp off");
    let result = work();
    setns(&here, CloneFlags::CLONE_NEWNET).unwrap();
    result
}

/// The other end of the wire, frame by frame.
struct Far {
    ring: Xsk,
    pool: Pool,
    seen: Socket,
}

impl Far {
    fn wired() -> Self {
        there(|| {
            let index = steer::interface_by_name("far").unwrap().index;
            let (memory, pool) = memory();
            let ring = ring(index, &memory);
            let seen = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ALL)))).unwrap();
            seen.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            Self { ring, pool, seen }
        })
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut frame = self.pool.take().unwrap();
        frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
        let mut burst = Burst::new();
        burst.push(frame);
        self.ring.transmit(&mut self.pool, &mut burst);
        self.ring.flush(&mut self.pool).unwrap();
    }

    /// Every frame of ours that comes until none does.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 4096];
        while let Ok(length) = (&self.seen).read(&mut buffer) {
            if buffer[6..12] == OURS {
                frames.push(buffer[..length].to_vec());
            }
        }
        frames
    }
}

struct Side {
    lan: LanSide,
    pool: Pool,
    stats: LaneStats,
    steer: Option<Steer>,
}

impl Side {
    /// The ring of `lan`; with `steered`, packets for 10.2.0.0/16 and fd02::/16 come by it.
    fn new(steered: bool, vlan: Option<u16>) -> Self {
        let nets: &[&str] = if steered { &["10.2.0.0/16", "fd02::/16"] } else { &[] };
        Self::of("lan", OURS, nets, vlan)
    }

    /// The ring of an interface, and packets for some networks by it.
    fn of(name: &str, mac: [u8; 6], nets: &[&str], vlan: Option<u16>) -> Self {
        let (memory, pool) = memory();
        let if_index = steer::interface_by_name(name).unwrap().index;
        let ring = ring(if_index, &memory);
        let fd = ring.as_fd().try_clone_to_owned().unwrap();
        let lan = LanSide::new(vec![LanXdp::new(if_index, ring)], None);
        let mut side = Self { lan, pool, stats: LaneStats::default(), steer: None };
        // The first look fills the ring.
        assert_eq!(side.receive(), Vec::<Vec<u8>>::new());
        side.steer = (!nets.is_empty()).then(|| {
            let mut steer = Steer::load().unwrap();
            steer.set_packet_len_max(packet_len_max(2048));
            steer.set_tunnel_mtu(1420).unwrap();
            let nets: BTreeSet<_> = nets.iter().map(|net| net.parse().unwrap()).collect();
            steer.set_routes(&nets).unwrap();
            steer.set_port(51820).unwrap();
            steer.set_lan_interface(LanInterface { if_index, mac, vlan, wan: false }).unwrap();
            steer.bind_socket(if_index, 0, fd.as_fd()).unwrap();
            steer.attach(if_index, name, XdpMode::Native).unwrap();
            steer
        });
        side
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut burst = Burst::new();
        self.lan.receive(&mut self.pool, &mut burst, &self.stats).unwrap();
        let bytes = |frame: &landbridge_xsk::Frame| frame.data().to_vec();
        let packets = burst.iter().map(bytes).collect();
        burst.drain(..).for_each(|frame| self.pool.put(frame));
        packets
    }

    #[track_caller]
    fn receive_one(&mut self) -> Vec<u8> {
        let limit = Instant::now() + Duration::from_secs(3);
        loop {
            match self.receive().as_slice() {
                [] => assert!(Instant::now() < limit, "nothing came"),
                [one] => return one.clone(),
                more => panic!("{} packets for one", more.len()),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many of these packets the side leaves.
    fn send(&mut self, table: &LanTable, packets: &[Vec<u8>]) -> usize {
        let mut burst = Burst::new();
        for packet in packets {
            let mut frame = self.pool.take_for(packet.len()).unwrap();
            frame.append(packet.len()).unwrap().copy_from_slice(packet);
            burst.push(frame);
        }
        self.lan.transmit(&mut self.pool, &mut burst, table, &self.stats).unwrap();
        self.lan.flush(&mut self.pool, &self.stats).unwrap();
        let left = burst.len();
        burst.drain(..).for_each(|frame| self.pool.put(frame));
        left
    }

    fn counter(&self, name: &str) -> u64 {
        self.stats.fields().find(|(field, _)| *field == name).unwrap().1
    }

    fn close(mut self) {
        drop(self.steer);
        self.lan.close(&mut self.pool);
        assert_eq!(self.pool.free(), self.pool.total());
    }
}

/// A UDP packet of `len` bytes with a right header checksum.
fn packet(source: &str, destination: &str, hops: u8, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
    match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, hops, 17, 0, 0]);
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            bytes[12..16].copy_from_slice(&source.octets());
            bytes[16..20].copy_from_slice(&destination.octets());
            let check = checksum(&bytes[..20]);
            bytes[10..12].copy_from_slice(&check.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 17, hops]);
            bytes[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
            bytes[8..24].copy_from_slice(&source.octets());
            bytes[24..40].copy_from_slice(&destination.octets());
        }
        _ => panic!("two families in one packet"),
    }
    bytes
}

/// RFC 1071, word by word.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ether_type(packet: &[u8]) -> [u8; 2] {
    if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] }
}

/// A frame to us; the shortest that Ethernet has, at least.
fn frame(tag: &[u8], packet: &[u8]) -> Vec<u8> {
    let mut bytes = [&OURS[..], &THEIRS, tag, &ether_type(packet), packet].concat();
    bytes.resize(bytes.len().max(60), 0xee);
    bytes
}

/// 10.1.0.5 and fd01::5 are neighbours behind `lan`.
fn table(vlan: Option<u16>, mtu: u32) -> LanTable {
    let mut ethernet = arrayvec::ArrayVec::new();
    ethernet.try_extend_from_slice(&[THEIRS, OURS].concat()).unwrap();
    if vlan.is_some() {
        ethernet.try_extend_from_slice(&TAG).unwrap();
    }
    let if_index = steer::interface_by_name("lan").unwrap().index;
    let hop = |if_index| NextHop { if_index, ethernet: ethernet.clone(), mtu, used: AtomicBool::new(false) };
    let (mut neighbours, mut hops) = (Prefixes::new(), Table::new());
    hops.set(2, Some(Arc::new(hop(if_index))));
    hops.set(3, Some(Arc::new(hop(if_index + 100))));
    for (net, number) in [("10.1.0.5/32", 2), ("fd01::5/128", 2), ("10.1.0.8/32", 3), ("10.1.0.1/32", 0)] {
        neighbours.insert(net.parse().unwrap(), HopId(number));
    }
    let mut routes = Prefixes::new();
    routes.insert("10.1.0.0/24".parse().unwrap(), HopId(1));
    LanTable { routes: Arc::new(routes), neighbours: Arc::new(neighbours), hops }
}

#[test]
fn packets_for_peers_come_by_the_ring_cut_to_their_length_and_one_hop_older() {
    in_namespace(|| {
        for (vlan, tag) in [(None, &[][..]), (Some(VLAN), &TAG[..])] {
            let mut far = Far::wired();
            let mut side = Side::new(true, vlan);
            for (source, destination) in [("10.1.0.5", "10.2.0.9"), ("fd01::5", "fd02::9")] {
                for len in [48, 1420] {
                    far.send(&frame(tag, &packet(source, destination, 64, len)));
                    assert_eq!(side.receive_one(), packet(source, destination, 63, len), "{source}, {len} bytes");
                }
            }
            // None of these is ours to forward.
            let mut other_mac = frame(tag, &packet("10.1.0.5", "10.2.0.9", 64, 48));
            other_mac[5] = 9;
            far.send(&other_mac);
            let other_tag: &[u8] = if vlan.is_some() { &[] } else { &TAG };
            far.send(&frame(other_tag, &packet("10.1.0.5", "10.2.0.9", 64, 48)));
            far.send(&frame(tag, &packet("10.1.0.5", "10.2.0.9", 1, 48)));
            far.send(&frame(tag, &packet("10.1.0.5", "10.3.0.9", 64, 48)));
            far.send(&frame(tag, &packet("10.1.0.5", "10.2.0.9", 64, 1421)));
            far.send(&frame(tag, &packet("10.1.0.5", "10.2.0.7", 64, 48)));
            assert_eq!(side.receive_one(), packet("10.1.0.5", "10.2.0.7", 63, 48), "the last one alone");
            assert_eq!(side.counter("lan_xdp_rx_packets"), 5);
            assert_eq!(side.counter("lan_rx_bytes"), 2 * (48 + 1420) + 48);
            side.close();
            sh("ip link del lan");
        }
    });
}

#[test]
fn what_is_simply_forwarded_leaves_by_the_ring_and_the_rest_is_left_with_its_reason() {
    in_namespace(|| {
        let far = Far::wired();
        let mut side = Side::new(false, None);
        let table = table(None, 1400);
        let to = |destination: &str, hops, len| packet("10.2.0.9", destination, hops, len);
        let mut options = to("10.1.0.5", 64, 60);
        options[0] = 0x46;
        let mut hop_by_hop = packet("fd02::9", "fd01::5", 64, 60);
        hop_by_hop[6] = 0;
        let left = [
            ("lan_kernel_no_route", to("10.7.0.1", 64, 60)),
            ("lan_kernel_unresolved", to("10.1.0.6", 64, 60)),
            ("lan_kernel_special", to("10.1.0.1", 64, 60)),
            ("lan_kernel_special", to("255.255.255.255", 64, 60)),
            ("lan_kernel_special", packet("127.0.0.1", "10.1.0.5", 64, 60)),
            ("lan_kernel_special", packet("10.1.0.1", "10.1.0.5", 64, 60)),
            ("lan_kernel_special", packet("fe80::9", "fd01::5", 64, 60)),
            ("lan_kernel_hop_limit", to("10.1.0.5", 1, 60)),
            ("lan_kernel_hop_limit", packet("fd02::9", "fd01::5", 0, 60)),
            ("lan_kernel_too_long", to("10.1.0.5", 64, 1401)),
            ("lan_kernel_too_long", to("10.1.0.5", 64, 9000)),
            ("lan_kernel_options", options),
            ("lan_kernel_options", hop_by_hop),
            ("lan_kernel_no_ring", to("10.1.0.8", 64, 60)),
        ];
        for (counter, packet) in &left {
            let before = side.counter(counter);
            assert_eq!(side.send(&table, std::slice::from_ref(packet)), 1, "{counter}");
            assert_eq!(side.counter(counter), before + 1, "{counter}");
        }
        let sent = [to("10.1.0.5", 64, 60), packet("fd02::9", "fd01::5", 2, 1400), to("10.1.0.5", 2, 1400)];
        // Between packets that are the kernel's, in one burst.
        let mixed: Vec<Vec<u8>> = left.iter().map(|(_, packet)| packet.clone()).chain(sent.clone()).collect();
        assert_eq!(side.send(&table, &mixed), left.len());
        let aged = sent.map(|mut packet| {
            let v4 = packet[0] >> 4 == 4;
            packet[if v4 { 8 } else { 7 }] -= 1;
            if v4 {
                packet[10..12].fill(0);
                let check = checksum(&packet[..20]);
                packet[10..12].copy_from_slice(&check.to_be_bytes());
            }
            [&THEIRS[..], &OURS, &ether_type(&packet), &packet].concat()
        });
        assert_eq!(far.frames(), aged);
        assert_eq!(side.counter("lan_xdp_tx_packets"), 3);
        assert_eq!(side.counter("lan_tx_bytes"), 60 + 1400 + 1400);
        assert!(table.hops.at(2).unwrap().used.load(Ordering::Relaxed));
        side.close();
    });
}

#[test]
fn packets_for_a_vlan_carry_its_tag() {
    in_namespace(|| {
        let mut far = there(|| Side::of("far", THEIRS, &["10.1.0.0/16", "fd01::/16"], Some(VLAN)));
        let mut side = Side::new(false, None);
        let table = table(Some(VLAN), 1500);
        for (source, destination) in [("10.2.0.9", "10.1.0.5"), ("fd02::9", "fd01::5")] {
            assert_eq!(side.send(&table, &[packet(source, destination, 64, 1000)]), 0);
            // Two gateways older: that one takes only what bears its tag.
            assert_eq!(far.receive_one(), packet(source, destination, 62, 1000));
        }
        side.close();
        far.close();
    });
}

#[test]
fn rings_that_are_taken_away_give_every_frame_back_and_leave_packets_to_the_kernel() {
    in_namespace(|| {
        let mut far = Far::wired();
        let mut side = Side::new(true, None);
        let table = table(None, 1500);
        let if_index = steer::interface_by_name("lan").unwrap().index;
        for number in 0..40 {
            far.send(&frame(&[], &packet("10.1.0.5", "10.2.0.9", 64, 48 + number)));
        }
        assert_eq!(side.send(&table, &[packet("10.2.0.9", "10.1.0.5", 64, 60)]), 0);
        side.lan.replace_rings(&mut side.pool, if_index, Vec::new());
        assert!(!side.lan.has_rings());
        assert_eq!(side.send(&table, &[packet("10.2.0.9", "10.1.0.5", 64, 60)]), 1);
        assert_eq!(side.pool.free(), side.pool.total());
        side.close();
    });
}

#[test]
fn a_ring_whose_wire_is_down_fills_refuses_the_rest_and_goes_on_when_it_is_up() {
    in_namespace(|| {
        let far = Far::wired();
        let mut side = Side::new(false, None);
        let table = table(None, 1500);
        let packets = |count: usize| vec![packet("10.2.0.7", "10.1.0.5", 64, 100); count];
        sh("ip link set lan down");
        let mut burst = Burst::new();
        for packet in packets(600) {
            let mut frame = side.pool.take_for(packet.len()).unwrap();
            frame.append(packet.len()).unwrap().copy_from_slice(&packet);
            burst.push(frame);
            side.lan.transmit(&mut side.pool, &mut burst, &table, &side.stats).unwrap();
            assert!(burst.is_empty(), "the side took it");
        }
        assert!(side.lan.flush(&mut side.pool, &side.stats).is_err(), "a ring that cannot send says so");
        assert_eq!((side.counter("lan_xdp_tx_packets"), side.stats.dropped(DropReason::LanFull)), (256, 344));
        sh("ip link set lan up");
        let limit = Instant::now() + Duration::from_secs(5);
        while side.lan.flush(&mut side.pool, &side.stats).is_err() {
            assert!(Instant::now() < limit, "the ring sends again");
            thread::sleep(Duration::from_millis(10));
        }
        let forwarded = |frames: Vec<Vec<u8>>| frames.iter().filter(|frame| frame[12..14] == [8, 0]).count();
        assert_eq!(forwarded(far.frames()), 256);
        assert_eq!(side.send(&table, &packets(10)), 0);
        assert_eq!(forwarded(far.frames()), 10);
        assert_eq!((side.counter("lan_xdp_tx_packets"), side.stats.dropped(DropReason::LanFull)), (266, 344));
        side.close();
    });
}

/// A side on the tunnel interface alone, whose host is 10.9.0.1.
fn tunnel() -> Side {
    let mut tun = Tun::create(&TunConfig { name: "tunnel".to_owned(), queues: 1, offloads: false }).unwrap();
    sh("ip link set tunnel addrgenmode none; ip addr add 10.9.0.1/24 dev tunnel; ip link set tunnel up");
    let lan = LanSide::new(Vec::new(), Some(LanTun::new(tun.queues.remove(0), Offloads::default())));
    Side { lan, pool: memory().1, stats: LaneStats::default(), steer: None }
}

#[test]
fn a_tunnel_interface_that_is_down_takes_nothing_which_is_counted_and_takes_all_when_it_is_up() {
    in_namespace(|| {
        let mut side = tunnel();
        let packets = vec![packet("10.2.0.7", "10.9.0.1", 64, 100); 30];
        let transmit = |side: &mut Side| {
            let mut burst = Burst::new();
            for packet in &packets {
                let mut frame = side.pool.take_for(packet.len()).unwrap();
                frame.append(packet.len()).unwrap().copy_from_slice(packet);
                burst.push(frame);
            }
            let sent = side.lan.transmit(&mut side.pool, &mut burst, &LanTable::default(), &side.stats);
            assert!(burst.is_empty(), "the side took them");
            sent.and(side.lan.flush(&mut side.pool, &side.stats))
        };
        for (state, told, taken, lost) in
            [("up", false, 30, 0), ("down", true, 30, 30), ("up", false, 60, 30), ("down", true, 60, 60)]
        {
            sh(&format!("ip link set tunnel {state}"));
            assert_eq!(transmit(&mut side).is_err(), told, "{state}");
            assert_eq!((side.counter("lan_tx_packets"), side.stats.dropped(DropReason::LanError)), (taken, lost));
        }
        side.close();
    });
}

#[test]
fn packets_of_the_host_that_find_no_frame_are_counted_and_those_that_do_come_in_order() {
    in_namespace(|| {
        let mut side = tunnel();
        let host = std::net::UdpSocket::bind(("10.9.0.1", 7)).unwrap();
        let numbers = |side: &mut Side| -> Vec<u8> { side.receive().iter().map(|packet| packet[28]).collect() };
        let mut held: Vec<_> = std::iter::from_fn(|| side.pool.take()).collect();
        held.truncate(held.len() - 5);
        assert_eq!(side.pool.free().0, 5);
        (0..20).for_each(|number| assert_eq!(host.send_to(&[number; 50], ("10.9.0.2", 7)).unwrap(), 50));
        assert_eq!(numbers(&mut side), [0, 1, 2, 3, 4]);
        assert_eq!(side.stats.dropped(DropReason::NoFrame), 15);
        held.into_iter().for_each(|frame| side.pool.put(frame));
        (20..40).for_each(|number| assert_eq!(host.send_to(&[number; 50], ("10.9.0.2", 7)).unwrap(), 50));
        assert_eq!(numbers(&mut side), (20..40).collect::<Vec<_>>());
        assert_eq!(side.stats.dropped(DropReason::NoFrame), 15);
        side.close();
    });
}
