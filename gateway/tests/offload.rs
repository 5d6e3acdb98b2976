//! Splitting and joining between two kernels: what one stack hands to its TUN device as super-packets is split into
//! packets, joined again, and must be taken whole by the other stack, which checks every checksum.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use landbridge::datapath::join::{Joined, Joiner, Offloads, WriteOutcome};
use landbridge::datapath::segment::split;
use landbridge_xsk::{Burst, Memory, MemoryConfig, Pool, Tun, TunConfig, TunQueue};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};

const STREAM_LEN: usize = 16 << 20;
const DATAGRAM_LEN: usize = 1000;
const DATAGRAMS: usize = 30;
const BATCHES: usize = 40;
const LIMIT: Duration = Duration::from_secs(20);

/// What went through one direction.
#[derive(Debug, Default)]
struct Way {
    reads: usize,
    segments: usize,
    joined: Joined,
    super_packets: usize,
}

/// Runs `work` in a network namespace with a TUN device of its own and returns its result and the device. The namespace
/// vanishes with the thread and the device.
fn stack<T: Send + 'static>(
    host: u8,
    work: impl FnOnce(IpAddr, IpAddr, IpAddr, IpAddr) -> T + Send + 'static,
) -> (thread::JoinHandle<T>, mpsc::Receiver<Tun>) {
    let (send, receive) = mpsc::channel();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let name = "lbpacket0".to_owned();
        let tun = Tun::create(&TunConfig { name: name.clone(), queues: 1, offloads: true }).unwrap();
        sh(&format!(
            "ip link set lo up; ip addr add 10.9.0.{host}/24 dev {name}; \
             ip -6 addr add fd09::{host}/64 dev {name} nodad; ip link set {name} mtu 1420 up"
        ));
        send.send(tun).unwrap();
        let address = |text: String| text.parse().unwrap();
        let other = 3 - host;
        work(
            address(format!("10.9.0.{host}")),
            address(format!("10.9.0.{other}")),
            address(format!("fd09::{host}")),
            address(format!("fd09::{other}")),
        )
    });
    (thread, receive)
}

fn sh(line: &str) {
    let output = Command::new("sh").arg("-ec").arg(line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A counter of this thread's network namespace, such as `TcpInCsumErrors`.
fn snmp(protocol: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(&format!("{protocol}:")));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|field| field == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Carries what waits in `from` over to `to`; false when nothing did.
fn carry(from: &mut TunQueue, to: &mut TunQueue, pool: &mut Pool, joiner: &mut Joiner, way: &mut Way) -> bool {
    let mut read = vec![0; 10 + 65_536];
    let mut packets = Vec::new();
    while let Some(len) = from.read(&mut read).unwrap() {
        let segments = split(&read[..len], pool, &mut |frame| packets.push(frame)).unwrap();
        assert_eq!(segments.without_frame, 0);
        way.reads += 1;
        way.segments += segments.emitted;
        if packets.len() > 500 {
            break;
        }
    }
    let busy = !packets.is_empty();
    let mut packets = packets.into_iter().peekable();
    while packets.peek().is_some() {
        let mut burst: Burst = packets.by_ref().take(landbridge_xsk::BURST).collect();
        let joined =
            joiner.join(&mut burst, Offloads { tso: true, uso: true }, &mut |slices, _| match to.write(slices) {
                Ok(true) => WriteOutcome::Written,
                Ok(false) => WriteOutcome::Full,
                Err(error) => panic!("the kernel refused a packet: {error}"),
            });
        way.joined.packets += joined.packets;
        way.super_packets += joined.super_packets;
        burst.drain(..).for_each(|frame| pool.put(frame));
    }
    busy
}

/// Carries packets both ways until told to stop.
fn carrier(one: Tun, two: Tun, stop: &AtomicBool) -> [Way; 2] {
    assert!(one.tso && one.uso && two.tso && two.uso, "this kernel has all offloads");
    let config = MemoryConfig { frames: 4096, frame_size: 2048, jumbo_frames: 0, huge_pages: false };
    let (_, mut pool) = Memory::new(config).unwrap();
    let (mut one, mut two) = (one.queues, two.queues);
    let (mut joiner, mut ways) = (Joiner::new(), [Way::default(), Way::default()]);
    while !stop.load(Ordering::Relaxed) {
        let forth = carry(&mut one[0], &mut two[0], &mut pool, &mut joiner, &mut ways[0]);
        let back = carry(&mut two[0], &mut one[0], &mut pool, &mut joiner, &mut ways[1]);
        if !forth && !back {
            use std::os::fd::AsFd;
            let mut fds =
                [PollFd::new(one[0].as_fd(), PollFlags::POLLIN), PollFd::new(two[0].as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(20_u8)).unwrap();
        }
    }
    assert_eq!(pool.free(), (4096, 0), "every frame is home");
    ways
}

fn send_stream(to: SocketAddr) {
    let start = Instant::now();
    let mut stream = loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < LIMIT, "connect to {to}: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&pattern(STREAM_LEN)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn receive_stream(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut bytes = Vec::with_capacity(STREAM_LEN);
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes == pattern(STREAM_LEN), "{} bytes came of {STREAM_LEN}, or others", bytes.len());
    stream.write_all(&[1]).unwrap();
}

/// Datagrams that the kernel is told to cut itself, so that they come to the device as one.
fn send_datagrams(socket: &UdpSocket, to: SocketAddr) {
    setsockopt(socket, sockopt::UdpGsoSegment, &(DATAGRAM_LEN as i32)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let batch = pattern(DATAGRAMS * DATAGRAM_LEN - 300);
    for _ in 0..BATCHES {
        socket.send_to(&batch, to).unwrap();
        socket.recv_from(&mut [0; 8]).unwrap();
    }
}

fn receive_datagrams(socket: &UdpSocket) {
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let expected = pattern(DATAGRAMS * DATAGRAM_LEN - 300);
    let mut buffer = [0; 2048];
    for batch in 0..BATCHES {
        for datagram in expected.chunks(DATAGRAM_LEN) {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert!(buffer[..len] == *datagram, "batch {batch}: {len} bytes instead of {}", datagram.len());
            if datagram.len() < DATAGRAM_LEN {
                socket.send_to(&[1], from).unwrap();
            }
        }
    }
}

#[test]
fn two_kernels_exchange_super_packets_as_if_they_were_neighbours() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("CI").is_err(), "this test needs root, and CI skips no test");
        eprintln!("skipped: this test needs root");
        return;
    }
    let (ready, wait) = mpsc::channel();
    let (receiver, receiver_tun) = stack(2, move |v4, _, v6, _| {
        for own in [v4, v6] {
            let listener = TcpListener::bind((own, 9)).unwrap();
            let socket = UdpSocket::bind((own, 9)).unwrap();
            ready.send(()).unwrap();
            receive_stream(&listener);
            receive_datagrams(&socket);
        }
        assert_eq!((snmp("Tcp", "InCsumErrors"), snmp("Udp", "InCsumErrors")), (0, 0));
        assert_eq!(snmp("Ip", "InHdrErrors"), 0);
    });
    let (sender, sender_tun) = stack(1, move |v4, other_v4, v6, other_v6| {
        for (own, other) in [(v4, other_v4), (v6, other_v6)] {
            wait.recv_timeout(LIMIT).unwrap();
            send_stream(SocketAddr::new(other, 9));
            send_datagrams(&UdpSocket::bind((own, 9)).unwrap(), SocketAddr::new(other, 9));
        }
        assert_eq!((snmp("Tcp", "InCsumErrors"), snmp("Udp", "InCsumErrors")), (0, 0));
    });
    let (one, two) = (sender_tun.recv_timeout(LIMIT).unwrap(), receiver_tun.recv_timeout(LIMIT).unwrap());
    static STOP: AtomicBool = AtomicBool::new(false);
    let carrier = thread::spawn(move || carrier(one, two, &STOP));
    let sent = sender.join();
    let received = receiver.join();
    STOP.store(true, Ordering::Relaxed);
    let [forth, _] = carrier.join().unwrap();
    received.unwrap();
    sent.unwrap();
    let least = 2 * (STREAM_LEN / 1420 + DATAGRAMS * BATCHES);
    assert!(forth.segments >= least && forth.joined.packets >= least, "{forth:?}");
    assert!(forth.reads * 4 < forth.segments, "the device gave super-packets: {forth:?}");
    assert!(forth.super_packets >= 2 * BATCHES, "and got them: {forth:?}");
}
