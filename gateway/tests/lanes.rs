//! Lanes on real sockets, rings and TUN devices: two gateways in network namespaces that vanish with the test. The
//! protocol's side is left out; both hold a session of the same keys.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use landbridge::datapath::lanes::{self, LaneConfig, Lanes, Offloads};
use landbridge::datapath::report::Waker;
use landbridge::datapath::stats::LaneStats;
use landbridge::datapath::tables::{Path, PeerEntry, Published, Tables, Wire};
use landbridge::settings::XdpMode;
use landbridge::steer::{self, Steer};
use landbridge_aead::Key;
use landbridge_proto::session::SessionLimits;
use landbridge_proto::{AllowedIps, DropReason, PeerId, PeerShared, ReceiverIndex, Role, Session};
use landbridge_xsk::{ChecksumOffload, Tun, TunConfig, XskConfig};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};

const PORT: u16 = 51820;
const LANES: usize = 2;
const PEER: PeerId = PeerId { slot: 0, generation: 1 };
const LIMITS: SessionLimits =
    SessionLimits { reject_after: Duration::from_secs(180), reject_after_messages: u64::MAX - 8192 };

/// One gateway's place in the world.
#[derive(Clone, Copy)]
struct Site {
    number: u8,
    peer: u8,
}

const WEST: Site = Site { number: 1, peer: 2 };
const EAST: Site = Site { number: 2, peer: 1 };

impl Site {
    fn mac(number: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, number]
    }

    fn outer(self, v6: bool) -> [IpAddr; 2] {
        let address = |number| match v6 {
            false => format!("192.0.2.{number}").parse().unwrap(),
            true => format!("2001:db8::{number}").parse().unwrap(),
        };
        [address(self.number), address(self.peer)]
    }
}

/// How the two gateways reach each other.
#[derive(Clone, Copy)]
struct Plan {
    xdp: bool,
    v6: bool,
    mtu: u32,
}

struct Gateway {
    lanes: Lanes,
    steer: Option<Steer>,
    published: Published,
    /// Its tables with the path by the ring, and by the socket.
    ways: [Arc<Tables>; 2],
}

fn sh(line: &str) {
    let output = Command::new("sh").arg("-ec").arg(line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    sh("ip link set lo up");
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Runs `work` on a thread that lives in a namespace.
fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Both ends of the session, west's first.
fn sessions() -> [Arc<Session>; 2] {
    let now = Instant::now();
    let end = |role, local, remote, seal: u8, open: u8| {
        let shared = Arc::new(PeerShared::new(now));
        let (local, remote) = (ReceiverIndex(local), ReceiverIndex(remote));
        let (seal, open) = (Key::new(&[seal; 32]), Key::new(&[open; 32]));
        Arc::new(Session::new(PEER, shared, local, remote, role, now, seal, open, LIMITS))
    };
    [end(Role::Initiator, 0x1000_0001, 0x2000_0002, 1, 2), end(Role::Responder, 0x2000_0002, 0x1000_0001, 2, 1)]
}

fn tables(site: Site, plan: Plan, session: &Arc<Session>, if_index: u32) -> Tables {
    let mut tables = Tables::new(plan.mtu);
    let mut routes = AllowedIps::new();
    routes.insert(format!("10.{}.0.0/16", site.peer).parse().unwrap(), PEER);
    routes.insert(format!("fd00:{}::/32", site.peer).parse().unwrap(), PEER);
    tables.routes = Arc::new(routes);
    tables.listen_port = PORT;
    tables.sessions.set(session.local_index.slot(), Some(Arc::clone(session)));
    let [ours, theirs] = site.outer(plan.v6);
    let wire = plan.xdp.then(|| {
        let ethertype: [u8; 2] = if plan.v6 { [0x86, 0xdd] } else { [8, 0] };
        let mut ethernet = arrayvec::ArrayVec::new();
        ethernet.try_extend_from_slice(&Site::mac(site.peer)).unwrap();
        ethernet.try_extend_from_slice(&Site::mac(site.number)).unwrap();
        ethernet.try_extend_from_slice(&ethertype).unwrap();
        Wire { if_index, source: ours, ethernet, mtu: 1500 }
    });
    let path = Path::new(SocketAddr::new(theirs, PORT), Some(ours), None, wire);
    let shared = Arc::clone(&session.shared);
    let entry =
        PeerEntry { session: Some(Arc::clone(session)), path: Some(Arc::new(path)), ..PeerEntry::new(PEER, shared) };
    tables.peers.set(PEER.slot as usize, Some(Arc::new(entry)));
    tables
}

/// Sockets of one port: the control task's and one of each lane.
fn sockets() -> (UdpSocket, Vec<UdpSocket>) {
    let mut sockets = (0..=LANES).map(|_| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_only_v6(false).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([0_u16; 8], PORT)).into()).unwrap();
        UdpSocket::from(socket)
    });
    let control = sockets.next().unwrap();
    let lanes: Vec<_> = sockets.collect();
    landbridge_xsk::reuseport::attach_by_message_type(&control, LANES as u16).unwrap();
    (control, lanes)
}

fn start(site: Site, plan: Plan, session: &Arc<Session>) -> (Gateway, UdpSocket) {
    let wan = steer::interface_by_name("wan").unwrap().index;
    let ways = [plan.xdp, false].map(|xdp| Arc::new(tables(site, Plan { xdp, ..plan }, session, wan)));
    let published: Published = Arc::new(ArcSwap::from(Arc::clone(&ways[0])));
    let tun = Tun::create(&TunConfig { name: "tun".into(), queues: LANES, offloads: true }).unwrap();
    let offloads = Offloads { tso: tun.tso, uso: tun.uso };
    let Site { number, peer } = site;
    sh(&format!(
        "ip addr add 10.{number}.0.1/16 dev tun; ip addr add fd00:{number}::1/32 dev tun nodad
         ip link set tun up mtu {}; ip route add 10.{peer}.0.0/16 dev tun; ip route add fd00:{peer}::/32 dev tun",
        plan.mtu
    ));
    let (control, sockets) = sockets();
    let ring = |queue| XskConfig {
        if_index: wan,
        queue,
        rx_ring: 1024,
        tx_ring: 1024,
        fill_ring: 2048,
        copy: false,
        multi_buffer: false,
        busy_poll: None,
        checksum_offload: ChecksumOffload::default(),
    };
    let config = |(lane, (socket, queue))| LaneConfig {
        cpu: Some(lane % thread::available_parallelism().unwrap().get()),
        frames: 8192,
        frame_size: 2048,
        jumbo_frames: 64,
        huge_pages: false,
        wan_rings: if plan.xdp { vec![ring(lane as u32)] } else { vec![] },
        lan_rings: vec![],
        socket: Some(socket),
        ports: vec![],
        lan: Some(queue),
        offloads,
        stages: None,
    };
    let configs = sockets.into_iter().zip(tun.queues).enumerate().map(config).collect();
    let lanes = lanes::start(configs, Arc::clone(&published), Waker::new().unwrap()).unwrap();
    let steer = plan.xdp.then(|| {
        let mut steer = Steer::load().unwrap();
        steer.set_port(PORT).unwrap();
        steer.set_addresses(&[site.outer(plan.v6)[0]]).unwrap();
        steer.insert_session(session.local_index).unwrap();
        for ring in lanes.handles().iter().flat_map(|handle| &handle.rings) {
            use std::os::fd::AsFd;
            steer.bind_socket(ring.if_index, ring.queue, ring.fd.as_fd()).unwrap();
        }
        steer.attach(wan, "wan", XdpMode::Native).unwrap();
        steer
    });
    (Gateway { lanes, steer, published, ways }, control)
}

impl Gateway {
    fn sum(&self, counter: impl Fn(&LaneStats) -> u64) -> u64 {
        self.lanes.handles().iter().map(|handle| counter(&handle.stats)).sum()
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        let sum = |reason: &DropReason| (*reason, self.sum(|stats| stats.dropped(*reason)));
        DropReason::ALL.iter().map(sum).filter(|(_, packets)| *packets > 0).collect()
    }

    fn stop(self) {
        drop(self.steer);
        assert!(self.lanes.stop(), "a lane ended late or lost frames");
    }
}

/// Builds the two sites, runs `traffic` between them, and takes all down.
fn between_two_gateways(plan: Plan, traffic: impl FnOnce(&File, &File, &Gateway, &Gateway) + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("CI").is_err(), "this test needs root, and CI skips no test");
        eprintln!("skipped: this test needs root");
        return;
    }
    thread::scope(|scope| {
        let test = scope.spawn(move || {
            let east = namespace();
            let west = namespace();
            let fd = std::os::fd::AsRawFd::as_raw_fd(&east);
            let pid = std::process::id();
            sh(&format!(
                "ip link add wan address 02:00:00:00:00:01 numrxqueues 2 numtxqueues 2 type veth \
                 peer name other address 02:00:00:00:00:02 numrxqueues 2 numtxqueues 2
                 ip link set other netns /proc/{pid}/fd/{fd}
                 ip addr add 192.0.2.1/24 dev wan; ip addr add 2001:db8::1/64 dev wan nodad; ip link set wan up"
            ));
            within(&east, || {
                sh("ip link set other name wan; ip addr add 192.0.2.2/24 dev wan
                    ip addr add 2001:db8::2/64 dev wan nodad; ip link set wan up");
            });
            let [ours, theirs] = sessions();
            let (first, _control) = start(WEST, plan, &ours);
            let (second, _other_control) = within(&east, || start(EAST, plan, &theirs));
            traffic(&west, &east, &first, &second);
            first.stop();
            second.stop();
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Sends `len` patterned bytes east over TCP and checks what arrives; returns Gb/s.
fn tcp(west: &File, east: &File, v6: bool, len: usize) -> f64 {
    let address: SocketAddr = if v6 { "[fd00:2::1]:5001" } else { "10.2.0.1:5001" }.parse().unwrap();
    let listener = within(east, || TcpListener::bind(address).unwrap());
    let pattern: Vec<u8> = (0..1 << 16).map(|i: u32| (i * 7 + i / 251) as u8).collect();
    let started = Instant::now();
    thread::scope(|scope| {
        let pattern = &pattern;
        scope.spawn(move || {
            let mut stream = within(west, || TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap());
            stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
            for _ in 0..len / pattern.len() {
                stream.write_all(pattern).unwrap();
            }
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut received = vec![0; pattern.len()];
        for _ in 0..len / pattern.len() {
            stream.read_exact(&mut received).unwrap();
            assert!(received == *pattern, "the bytes that were sent");
        }
    });
    len as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9
}

/// Bounces datagrams of `len` bytes off the other side, one at a time; all must return.
fn bounce(west: &File, east: &File, len: usize, count: usize) {
    let far = within(east, || UdpSocket::bind("10.2.0.1:5002").unwrap());
    let near = within(west, || UdpSocket::bind("10.1.0.1:0").unwrap());
    near.connect("10.2.0.1:5002").unwrap();
    for socket in [&far, &near] {
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    }
    let mut buffer = vec![0; 1 << 16];
    for number in 0..count {
        let sent: Vec<u8> = (0..len).map(|i| (i + number) as u8).collect();
        near.send(&sent).unwrap();
        let (received, from) = far.recv_from(&mut buffer).unwrap();
        far.send_to(&buffer[..received], from).unwrap();
        let returned = near.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..returned], sent[..], "datagram {number}");
    }
}

/// After traffic, lanes sleep.
fn assert_idle(gateway: &Gateway) {
    thread::sleep(Duration::from_millis(100));
    let before = gateway.sum(|stats| stats.loops.value());
    thread::sleep(Duration::from_secs(1));
    let loops = gateway.sum(|stats| stats.loops.value()) - before;
    assert!(loops < 100, "{loops} loops in a second without traffic");
}

#[test]
fn tcp_and_udp_cross_by_kernel_sockets() {
    for v6 in [false, true] {
        between_two_gateways(Plan { xdp: false, v6, mtu: 1420 }, |west, east, first, second| {
            bounce(west, east, 1300, 200);
            let gbps = tcp(west, east, v6, 32 << 20);
            let joined = second.sum(|stats| stats.lan_tx_packets.value()) as f64
                / (second.sum(|stats| stats.loops.value()) as f64).max(1.0);
            eprintln!("udp, IPv6 {v6}: {gbps:.2} Gb/s, {joined:.1} packets a loop");
            eprintln!("  stolen {} {}", first.sum(|s| s.jobs_stolen.value()), second.sum(|s| s.jobs_stolen.value()));
            eprintln!("  drops {:?} {:?}", first.drops(), second.drops());
            assert!(second.sum(|stats| stats.lan_tx_super_packets.value()) > 100, "packets are joined for the TUN");
            assert_idle(first);
        });
    }
}

#[test]
fn tcp_and_udp_cross_by_rings() {
    for v6 in [false, true] {
        between_two_gateways(Plan { xdp: true, v6, mtu: 1420 }, |west, east, first, second| {
            bounce(west, east, 1300, 200);
            let gbps = tcp(west, east, v6, 32 << 20);
            let (rings, sockets) = (
                second.sum(|stats| stats.wan_xdp_rx_packets.value()),
                second.sum(|stats| stats.wan_socket_rx_packets.value()),
            );
            eprintln!("xdp, IPv6 {v6}: {gbps:.2} Gb/s, {rings} packets by rings, {sockets} by sockets");
            eprintln!("  stolen {} {}", first.sum(|s| s.jobs_stolen.value()), second.sum(|s| s.jobs_stolen.value()));
            eprintln!("  drops {:?} {:?}", first.drops(), second.drops());
            assert!(rings > 20_000, "{rings} packets by rings");
            assert!(sockets * 1000 <= rings, "{sockets} packets by sockets");
            assert_idle(first);
            assert_idle(second);
        });
    }
}

#[test]
fn packets_larger_than_the_wan_mtu_cross_in_fragments() {
    for xdp in [false, true] {
        between_two_gateways(Plan { xdp, v6: xdp, mtu: 36_000 }, |west, east, first, second| {
            bounce(west, east, 35_000, 20);
            bounce(west, east, 100, 20);
            tcp(west, east, false, 8 << 20);
            eprintln!("drops {:?} {:?}", first.drops(), second.drops());
            assert!(second.sum(|stats| stats.wan_socket_rx_packets.value()) >= 20);
        });
    }
}

/// As when a neighbour is lost and found again, many times a second. Ends in `stop`, which counts the frames.
#[test]
fn paths_that_change_between_ring_and_socket_under_traffic_cost_no_byte_and_no_frame() {
    between_two_gateways(Plan { xdp: true, v6: false, mtu: 1420 }, |west, east, first, second| {
        let end = Instant::now() + Duration::from_secs(6);
        let mut flips = 0;
        thread::scope(|scope| {
            let traffic = scope.spawn(move || {
                while Instant::now() < end {
                    tcp(west, east, false, 8 << 20);
                }
            });
            while !traffic.is_finished() {
                for gateway in [first, second] {
                    gateway.published.store(Arc::clone(&gateway.ways[flips % 2]));
                    flips += 1;
                    thread::sleep(Duration::from_millis(7));
                }
                // An odd number, so that the two meet in every combination.
                flips += 1;
            }
        });
        for gateway in [first, second] {
            let by = [gateway.sum(|s| s.wan_xdp_tx_packets.value()), gateway.sum(|s| s.wan_socket_tx_packets.value())];
            eprintln!("{flips} flips: {by:?} packets by ring and socket, drops {:?}", gateway.drops());
            assert!(by.iter().all(|packets| *packets > 1000), "{by:?} packets by ring and socket");
            assert_idle(gateway);
        }
    });
}
