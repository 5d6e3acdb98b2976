//! Attaching to interfaces of throw-away network namespaces.
//!
//! A namespace lives as long as the thread that made it and the processes which that thread started, so whatever way a
//! test ends, all interfaces in it vanish.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use landbridge::settings::XdpMode;
use landbridge::steer::{self, Hold, LanInterface, Mode, SteerError, Verdict};
use landbridge_proto::ReceiverIndex;
use landbridge_xsk::{Burst, ChecksumOffload, Memory, MemoryConfig, Xsk, XskConfig};
use nix::sched::{CloneFlags, unshare};

use crate::packet::transport_data;
use crate::{load, may_run};

const PORT: u16 = 51_820;
const LIVE: u32 = 0x0070_0042;

/// Runs commands of iproute2, split at spaces, in the namespace of this thread.
fn ip(commands: &[&str]) {
    for command in commands {
        let output = Command::new("ip").args(command.split(' ')).output().expect("iproute2");
        assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A namespace of this thread's own, with a veth pair `lbebpf0`, `lbebpf1` in it. Returns the index of `lbebpf0`.
fn namespace_with_veth() -> u32 {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    ip(&["link add lbebpf0 numrxqueues 2 numtxqueues 2 type veth peer name lbebpf1", "link set lo up"]);
    ip(&["link set lbebpf0 up", "link set lbebpf1 up"]);
    steer::interface_by_name("lbebpf0").expect("the interface").index
}

/// Runs a test on a thread whose namespaces may be thrown away.
fn apart(test: fn()) {
    if may_run() {
        let outcome = thread::spawn(test).join();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

#[test]
fn an_interface_tells_its_driver_and_queues() {
    apart(|| {
        let index = namespace_with_veth();
        let interface = steer::interface(index).expect("the interface");
        assert_eq!((interface.name.as_str(), interface.driver.as_deref()), ("lbebpf0", Some("veth")));
        assert_eq!((interface.rx_queues, interface.mtu), (2, 1500));
        let error = steer::interface_by_name("lbebpf9").expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(19), "{error}");
    });
}

#[test]
fn auto_attaches_natively_where_the_driver_can_and_detaches_on_drop() {
    apart(|| {
        let index = namespace_with_veth();
        let mut steer = load();
        let attached = steer.attach(index, "lbebpf0", XdpMode::Auto).expect("attached");
        assert_eq!((attached.mode, &attached.fallback_reason), (Mode::Native, &None));
        assert_eq!(steer.attach(index, "lbebpf0", XdpMode::Auto).expect("still attached"), attached);
        drop(steer);
        let mut steer = load();
        steer.attach(index, "lbebpf0", XdpMode::Native).expect("the interface is free again");
        steer.detach(index).expect("detached");
        assert_eq!(steer.attached(index), None);
        let generic = steer.attach(index, "lbebpf0", XdpMode::Generic).expect("attached in the other mode");
        assert_eq!(generic.mode, Mode::Generic);
    });
}

#[test]
fn auto_falls_back_to_generic_and_says_why() {
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        // A bridge has no native XDP.
        ip(&["link add lbebpfbr type bridge", "link set lbebpfbr up"]);
        let bridge = steer::interface_by_name("lbebpfbr").expect("the interface");
        let mut steer = load();
        let error = steer.attach(bridge.index, "lbebpfbr", XdpMode::Native).expect_err("no native XDP");
        assert!(matches!(error, SteerError::Attach { mode: Mode::Native, .. }), "{error}");
        let attached = steer.attach(bridge.index, "lbebpfbr", XdpMode::Auto).expect("attached");
        assert_eq!(attached.mode, Mode::Generic);
        assert_eq!(attached.fallback_reason.as_deref(), Some("its driver has no native XDP"));
    });
}

#[test]
fn another_program_on_the_interface_is_never_replaced() {
    apart(|| {
        let index = namespace_with_veth();
        for (theirs, keyword) in [(XdpMode::Native, "xdpdrv"), (XdpMode::Generic, "xdpgeneric")] {
            let mut first = load();
            first.attach(index, "lbebpf0", theirs).expect("attached");
            let mut second = load();
            for ours in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
                let error = second.attach(index, "lbebpf0", ours).expect_err("occupied").to_string();
                let first_id = first.program().expect("the program").info().expect("its info").id();
                assert!(error.contains(&format!("(id {first_id}, ")), "{error}");
                assert!(error.contains(&format!("`ip link set dev lbebpf0 {keyword} off`")), "{error}");
            }
            drop(second);
            assert!(first.attached(index).is_some());
        }
        let error = load().attach(9999, "lbebpf9", XdpMode::Auto).expect_err("no such interface");
        assert!(matches!(error, SteerError::NoInterface { .. }), "{error}");
    });
}

/// Set for the process that attaches and waits to be killed.
const HOLD: &str = "LANDBRIDGE_TEST_HOLD_INTERFACE";

#[test]
fn kill_9_leaves_nothing_attached() {
    if let Some(index) = std::env::var(HOLD).ok().and_then(|index| index.parse().ok()) {
        let mut steer = load();
        steer.attach(index, "lbebpf0", XdpMode::Auto).expect("attached");
        println!("\nattached");
        thread::sleep(Duration::from_secs(60));
        panic!("nobody killed this process");
    }
    apart(|| {
        let index = namespace_with_veth();
        let mut holder = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "attach::kill_9_leaves_nothing_attached", "--nocapture"])
            .env(HOLD, index.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let lines = BufReader::new(holder.stdout.take().expect("its output")).lines();
        let attached = lines.map_while(Result::ok).any(|line| line == "attached");
        assert!(attached, "the process ended before it attached");

        let mut steer = load();
        let error = steer.attach(index, "lbebpf0", XdpMode::Auto).expect_err("held by the process");
        assert!(matches!(error, SteerError::Occupied { .. }), "{error}");
        holder.kill().expect("SIGKILL");
        holder.wait().expect("its end");
        steer.attach(index, "lbebpf0", XdpMode::Auto).expect("the kernel detached what the process held");
    });
}

const MEMORY: MemoryConfig = MemoryConfig { frames: 256, frame_size: 2048, jumbo_frames: 0, huge_pages: false };

fn open(if_index: u32, queue: u32, memory: &Memory) -> Xsk {
    let config = XskConfig {
        if_index,
        queue,
        rx_ring: 64,
        tx_ring: 64,
        fill_ring: 64,
        copy: true,
        multi_buffer: false,
        busy_poll: None,
        checksum_offload: ChecksumOffload::default(),
    };
    Xsk::open(&config, memory).expect("an AF_XDP socket")
}

/// The other end of a veth: a thread in a namespace of its own which sends what it is told to.
fn sender(payloads: Receiver<Vec<u8>>, namespace: &Sender<String>, moved: &Receiver<()>) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let (process, thread) = (std::process::id(), nix::unistd::gettid());
    namespace.send(format!("/proc/{process}/task/{thread}/ns/net")).expect("the test listens");
    moved.recv().expect("the test goes on");
    ip(&["link set lbebpf1 up", "addr add 192.0.2.2/24 dev lbebpf1"]);
    ip(&["neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev lbebpf1 nud permanent"]);
    let socket = UdpSocket::bind("192.0.2.2:40000").expect("a socket");
    for payload in payloads {
        socket.send_to(&payload, ("192.0.2.1", PORT)).expect("sent");
    }
}

#[test]
fn on_a_wire_only_sessions_with_a_socket_leave_the_kernel() {
    apart(|| {
        let index = namespace_with_veth();
        let (namespace_tx, namespace) = channel();
        let (moved, moved_rx) = channel();
        let (payload, payloads) = channel();
        let other_end = thread::spawn(move || sender(payloads, &namespace_tx, &moved_rx));
        let path = namespace.recv().expect("the other end's namespace");
        ip(&["link set lbebpf0 address 02:00:00:00:00:01", "addr add 192.0.2.1/24 dev lbebpf0"]);
        ip(&[&format!("link set lbebpf1 netns {path}")]);
        let kernel = UdpSocket::bind(("192.0.2.1", PORT)).expect("the kernel's socket");
        kernel.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        moved.send(()).expect("the other end waits");

        for mode in [XdpMode::Native, XdpMode::Generic] {
            let mut steer = load();
            steer.set_port(PORT).expect("a port");
            steer.set_addresses(&["192.0.2.1".parse().expect("an address")]).expect("addresses");
            steer.insert_session(ReceiverIndex(LIVE)).expect("a session");
            steer.attach(index, "lbebpf0", mode).expect("attached");
            let send = |message: &[u8]| payload.send(message.to_vec()).expect("the other end listens");
            let arrives = |message: &[u8]| {
                send(message);
                let mut buffer = [0; 2048];
                let len = kernel.recv(&mut buffer).unwrap_or_else(|error| panic!("{mode:?}: {error}"));
                assert_eq!(&buffer[..len], message, "{mode:?}: another message reached the kernel");
            };
            arrives(&[1; 148]);
            arrives(&transport_data(LIVE + 1, 64));
            arrives(&transport_data(LIVE, 64));

            let (memory, mut pool) = Memory::new(MEMORY).expect("packet memory");
            let mut sockets: Vec<Xsk> = (0..2).map(|queue| open(index, queue, &memory)).collect();
            let mut burst = Burst::new();
            for (queue, socket) in (0..).zip(&mut sockets) {
                // The first call fills the fill ring.
                assert_eq!(socket.receive(&mut pool, &mut burst), 0, "nothing was redirected yet");
                steer.bind_socket(index, queue, socket.as_fd()).expect("bound");
            }
            send(&transport_data(LIVE, 96));
            arrives(&[2; 92]);
            let received: usize = sockets.iter_mut().map(|socket| socket.receive(&mut pool, &mut burst)).sum();
            assert_eq!(received, 1, "{mode:?}: frames in the rings");
            assert!(burst[0].data().ends_with(&transport_data(LIVE, 96)), "{mode:?}: {:?}", burst[0].data());

            let counters = steer.counters().expect("counters");
            assert_eq!(counters.packets(Verdict::Control), 2, "{mode:?} {counters:?}");
            assert_eq!(counters.packets(Verdict::UnknownSession), 1, "{mode:?} {counters:?}");
            assert_eq!(counters.packets(Verdict::NoSocket), 1, "{mode:?} {counters:?}");
            assert_eq!(counters.packets(Verdict::Redirected), 1, "{mode:?} {counters:?}");
        }
        drop(payload);
        other_end.join().expect("the other end ends well");
    });
}

#[test]
fn an_interface_tells_whose_program_it_has() {
    apart(|| {
        let index = namespace_with_veth();
        let mut ours = load();
        let mut theirs = load();
        assert_eq!(ours.hold(index), Hold::Nobodys);
        ours.attach(index, "lbebpf0", XdpMode::Native).expect("attached");
        assert_eq!(ours.hold(index), Hold::Ours);
        let program_id = ours.program().expect("the program").info().expect("its info").id();
        assert_eq!(theirs.hold(index), Hold::Anothers { program_id });
        ours.detach(index).expect("detached");
        assert_eq!(ours.hold(index), Hold::Nobodys);
        theirs.attach(index, "lbebpf0", XdpMode::Generic).expect("attached");
        assert!(matches!(ours.hold(index), Hold::Anothers { .. }));
        assert_eq!(ours.hold(9999), Hold::Unknown);
    });
}

/// Commands run in the namespace of a lan host, whose packets go on until the sender of `stop` is gone.
fn lan_host(namespace: &Sender<String>, stop: &Receiver<()>) -> u64 {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let (process, thread) = (std::process::id(), nix::unistd::gettid());
    namespace.send(format!("/proc/{process}/task/{thread}/ns/net")).expect("the test listens");
    stop.recv().expect("the interface is here");
    ip(&["link set lbebpf1 up", "addr add 192.0.2.2/24 dev lbebpf1"]);
    ip(&["neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev lbebpf1 nud permanent"]);
    ip(&["route add 10.2.0.0/16 via 192.0.2.1"]);
    let socket = UdpSocket::bind("192.0.2.2:40000").expect("a socket");
    let mut sent = 0;
    while stop.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
        socket.send_to(b"to a host behind a peer", "10.2.0.9:9").expect("sent");
        sent += 1;
        thread::sleep(Duration::from_micros(200));
    }
    sent
}

#[test]
fn routes_change_under_traffic_and_not_one_packet_goes_another_way() {
    apart(|| {
        let index = namespace_with_veth();
        let (namespace_tx, namespace) = channel();
        let (stop, stop_rx) = channel();
        let host = thread::spawn(move || lan_host(&namespace_tx, &stop_rx));
        let path = namespace.recv().expect("the host's namespace");
        ip(&["link set lbebpf0 address 02:00:00:00:00:01", "addr add 192.0.2.1/24 dev lbebpf0"]);
        ip(&[&format!("link set lbebpf1 netns {path}")]);
        let mut steer = load();
        steer.set_port(PORT).expect("a port");
        steer.set_addresses(&["192.0.2.1".parse().expect("an address")]).expect("addresses");
        steer.set_tunnel_mtu(1420).expect("an MTU");
        let lan = LanInterface { if_index: index, mac: [2, 0, 0, 0, 0, 1], vlan: None, wan: false };
        steer.set_lan_interface(lan).expect("a lan");
        let net = |text: &str| text.parse().expect("a network");
        steer.set_routes(&[net("10.2.0.0/16")].into()).expect("a route");
        let (memory, mut pool) = Memory::new(MEMORY).expect("packet memory");
        let mut sockets: Vec<Xsk> = (0..2).map(|queue| open(index, queue, &memory)).collect();
        let mut burst = Burst::new();
        for (queue, socket) in (0..).zip(&mut sockets) {
            socket.receive(&mut pool, &mut burst);
            steer.bind_socket(index, queue, socket.as_fd()).expect("bound");
        }
        steer.attach(index, "lbebpf0", XdpMode::Native).expect("attached");
        stop.send(()).expect("the host waits");

        let mut received = 0;
        let others: Vec<_> = (0..400u32).map(|n| net(&format!("10.3.{}.{}/32", n / 256, n % 256))).collect();
        let limit = Instant::now() + Duration::from_secs(20);
        // Each of the changes once, and on until enough packets have met them.
        let mut round = 0;
        while round < 400 || (received <= 200 && Instant::now() < limit) {
            // The packets' route becomes another one each time, among others that come and go.
            let len = [16, 24, 32, 8][round % 4];
            let mut routes: std::collections::BTreeSet<_> = others[..round % 400].iter().copied().collect();
            routes.insert(net(&format!("10.2.0.9/{len}")));
            steer.set_routes(&routes).expect("routes");
            let beside = if round % 2 == 0 { "10.2.1.0/24" } else { "10.2.0.8/32" };
            steer.set_kernel_routes(&[net(beside)].into()).expect("routes");
            for socket in &mut sockets {
                received += socket.receive(&mut pool, &mut burst);
                burst.drain(..).for_each(|frame| pool.put(frame));
            }
            round += 1;
        }
        drop(stop);
        let sent = host.join().expect("the host ends well");
        let counters = steer.counters().expect("counters");
        assert_eq!(counters.packets(Verdict::LanRedirected), sent, "{counters:?}");
        assert_eq!(counters.packets(Verdict::NoRoute), 0, "{counters:?}");
        assert!(received > 200, "{received} of {sent} packets reached the rings");
    });
}
