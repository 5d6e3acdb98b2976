//! TUN devices against the kernel, each test in network namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{in_namespace, sh};
use landbridge_xsk::tun::VNET_HDR_LEN;
use landbridge_xsk::{Tun, TunConfig, TunQueue};

/// Values of gso_type in a virtio_net_hdr.
const GSO_TCP4: u8 = 1;
const GSO_UDP: u8 = 5;

fn config(name: &str, queues: usize) -> TunConfig {
    TunConfig { name: name.into(), queues, offloads: true }
}

#[test]
fn a_device_has_the_queues_and_offloads_that_were_asked_for() {
    in_namespace(|| {
        let tun = Tun::create(&config("lbt%d", 2)).unwrap();
        assert_eq!((tun.name.as_str(), tun.queues.len()), ("lbt0", 2));
        assert!(tun.tso && tun.uso);
        sh("ip link show lbt0");
        drop(tun);
        sh("! ip link show lbt0 2>/dev/null");
        let plain = Tun::create(&TunConfig { offloads: false, ..config("lbt1", 1) }).unwrap();
        assert!(!plain.tso && !plain.uso);
    });
}

#[test]
fn a_name_in_use_is_refused_whoever_has_it() {
    in_namespace(|| {
        let _first = Tun::create(&config("lbt0", 1)).unwrap();
        sh("ip link add lbv0 type veth peer name lbv1");
        for name in ["lbt0", "lbv0"] {
            let error = Tun::create(&config(name, 1)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("create TUN interface {name}: ")), "{error}");
            assert!(error.contains("the name is in use"), "{error}");
        }
        for name in ["", "a/b", "a b", "sixteen-bytes-xx"] {
            assert_eq!(Tun::create(&config(name, 1)).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(Tun::create(&config("lbt1", 0)).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_deleted_interface_is_told_by_its_code() {
    in_namespace(|| {
        let mut tun = Tun::create(&config("lbt0", 2)).unwrap();
        assert!(tun.queues[0].read(&mut [0; 2000]).unwrap().is_none());
        sh("ip link delete lbt0");
        for queue in &mut tun.queues {
            assert_eq!(queue.read(&mut [0; 2000]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
            assert_eq!(queue.interface_name().unwrap_err().raw_os_error(), Some(libc::EBADFD));
            let packet = [0; VNET_HDR_LEN + 40];
            assert_eq!(queue.write(&[IoSlice::new(&packet)]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
        }
    });
}

/// Reads the next UDP packet to `port` from any of the queues: its header and itself.
fn next_udp(queues: &mut [TunQueue], port: u16) -> (Vec<u8>, Vec<u8>) {
    let mut buffer = vec![0; VNET_HDR_LEN + 65_535];
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        for queue in &mut *queues {
            if let Some(n) = queue.read(&mut buffer).unwrap() {
                let (header, packet) = buffer[..n].split_at(VNET_HDR_LEN);
                if packet[0] == 0x45 && packet[9] == 17 && packet[22..24] == port.to_be_bytes() {
                    return (header.to_vec(), packet.to_vec());
                }
            }
        }
        thread::yield_now();
    }
    panic!("no UDP packet to port {port} came out of the TUN interface");
}

#[test]
fn a_packet_of_the_kernel_comes_out_and_an_answer_goes_in() {
    in_namespace(|| {
        let mut tun = Tun::create(&config("lbt0", 2)).unwrap();
        sh("ip link set lbt0 mtu 1420 up; ip addr add 10.9.0.1/24 dev lbt0");
        let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket.send_to(b"question", "10.9.0.2:5000").unwrap();
        let (header, mut packet) = next_udp(&mut tun.queues, 5000);
        assert_eq!((header[1], &packet[28..]), (0, &b"question"[..]));
        // Swapping addresses and ports leaves the checksums as they are, but the kernel left the one of UDP to us:
        // none.
        let (source, destination) = (packet[12..16].to_vec(), packet[16..20].to_vec());
        packet[12..16].copy_from_slice(&destination);
        packet[16..20].copy_from_slice(&source);
        packet[20..24].rotate_left(2);
        packet[26..28].fill(0);
        let empty = [0; VNET_HDR_LEN];
        let (front, back) = packet.split_at(30);
        assert!(tun.queues[1].write(&[IoSlice::new(&empty), IoSlice::new(front), IoSlice::new(back)]).unwrap());
        let mut answer = [0; 100];
        let (n, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..n], from), (&b"question"[..], "10.9.0.2:5000".parse().unwrap()));
        sh("ip link set lbt0 down");
        let error = tun.queues[0].write(&[IoSlice::new(&empty), IoSlice::new(&packet)]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "writing to an interface that is down");
    });
}

/// What a pump saw on its way.
#[derive(Default)]
struct Seen {
    tcp_super: AtomicUsize,
    udp_super: AtomicUsize,
}

/// Passes packets between two devices as they are, header and all, until told to stop.
fn pump(one: &mut TunQueue, other: &mut TunQueue, seen: &Seen, stop: &AtomicBool) {
    let mut buffer = vec![0; VNET_HDR_LEN + 65_535];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for turn in 0..2 {
            let (from, to) = if turn == 0 { (&mut *one, &mut *other) } else { (&mut *other, &mut *one) };
            while let Some(n) = from.read(&mut buffer).unwrap() {
                idle = false;
                if n > 1500 + VNET_HDR_LEN {
                    seen.tcp_super.fetch_add(usize::from(buffer[1] & 0x7f == GSO_TCP4), Ordering::Relaxed);
                    seen.udp_super.fetch_add(usize::from(buffer[1] == GSO_UDP), Ordering::Relaxed);
                }
                while !to.write(&[IoSlice::new(&buffer[..n])]).unwrap() {}
            }
        }
        if idle {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Two namespaces joined by two TUN devices and a pump. `far` runs in the second with the first's go-ahead.
fn joined(near: impl FnOnce(&mpsc::Receiver<()>) + Send, far: impl FnOnce(&mpsc::Sender<()>) + Send) -> Seen {
    let (seen, stop) = (Seen::default(), AtomicBool::new(false));
    let (queue_sender, queue_receiver) = mpsc::channel();
    let (ready_sender, ready_receiver) = mpsc::channel();
    let (shared, stop) = (&seen, &stop);
    thread::scope(|scope| {
        let far = scope.spawn(move || {
            in_namespace(move || {
                let mut tun = Tun::create(&config("lbt0", 1)).unwrap();
                sh("ip addr add 10.9.0.2/24 dev lbt0; ip link set lbt0 mtu 1420 up");
                queue_sender.send(tun.queues.remove(0)).unwrap();
                far(&ready_sender);
            });
        });
        in_namespace(move || {
            let mut tun = Tun::create(&config("lbt0", 1)).unwrap();
            sh("ip addr add 10.9.0.1/24 dev lbt0; ip link set lbt0 mtu 1420 up");
            let mut other = queue_receiver.recv_timeout(Duration::from_secs(5)).unwrap();
            thread::scope(|inner| {
                inner.spawn(|| pump(&mut tun.queues[0], &mut other, shared, stop));
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| near(&ready_receiver)));
                // The far side needs the pump until it has all it waits for; it has a time limit of its own.
                let far = far.join();
                stop.store(true, Ordering::Relaxed);
                for result in [far, result] {
                    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                }
            });
        });
    });
    seen
}

#[test]
fn tcp_crosses_two_devices_in_super_packets_and_stays_intact() {
    if !nix::unistd::geteuid().is_root() {
        return in_namespace(|| ());
    }
    const BYTES: usize = 8 << 20;
    let pattern = |at: usize| (at % 251) as u8;
    let received = AtomicUsize::new(0);
    let seen = joined(
        |ready| {
            ready.recv_timeout(Duration::from_secs(5)).unwrap();
            let mut stream = TcpStream::connect("10.9.0.2:7000").unwrap();
            let data: Vec<u8> = (0..BYTES).map(pattern).collect();
            stream.write_all(&data).unwrap();
        },
        |ready| {
            let listener = TcpListener::bind("10.9.0.2:7000").unwrap();
            listener.set_nonblocking(true).unwrap();
            ready.send(()).unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            let mut stream = loop {
                match listener.accept() {
                    Ok((stream, _)) => break stream,
                    Err(error) => {
                        assert!(error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline, "{error}")
                    }
                }
                thread::sleep(Duration::from_millis(1));
            };
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut data = Vec::new();
            stream.read_to_end(&mut data).unwrap();
            assert!(data.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
            received.store(data.len(), Ordering::Relaxed);
        },
    );
    assert_eq!(received.into_inner(), BYTES);
    let count = seen.tcp_super.into_inner();
    assert!(count > 20, "{count} TCP super-packets for 8 MiB");
}

#[test]
fn udp_crosses_two_devices_in_super_packets_and_stays_intact() {
    if !nix::unistd::geteuid().is_root() {
        return in_namespace(|| ());
    }
    let (segment, segments, sends) = (1000, 40, 10);
    let datagrams = AtomicUsize::new(0);
    let seen = joined(
        |ready| {
            ready.recv_timeout(Duration::from_secs(5)).unwrap();
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGsoSegment, &segment).unwrap();
            for _ in 0..sends {
                let data: Vec<u8> = (0..segments).flat_map(|n: u8| vec![n; segment as usize]).collect();
                socket.send_to(&data, "10.9.0.2:7000").unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        },
        |ready| {
            let socket = UdpSocket::bind("10.9.0.2:7000").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 2000];
            for n in 0..usize::from(segments) * sends {
                let len = socket.recv(&mut buffer).unwrap();
                assert_eq!(len, segment as usize);
                assert!(buffer[..len].iter().all(|byte| usize::from(*byte) == n % usize::from(segments)));
                datagrams.fetch_add(1, Ordering::Relaxed);
            }
        },
    );
    assert_eq!(datagrams.into_inner(), usize::from(segments) * sends);
    assert_eq!(seen.udp_super.into_inner(), sends, "UDP super-packets");
}

#[test]
fn a_device_is_found_in_the_namespace_it_was_moved_to() {
    in_namespace(|| {
        let tun = Tun::create(&config("lbt0", 1)).unwrap();
        let inode = |fd: OwnedFd| std::fs::File::from(fd).metadata().unwrap().ino();
        let own = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        assert_eq!(inode(tun.queues[0].network_namespace().unwrap()), own);
        let task = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
        thread::scope(|scope| {
            let (path_sender, path_receiver) = mpsc::channel();
            let (done_sender, done_receiver) = mpsc::channel::<()>();
            scope.spawn(move || {
                in_namespace(move || {
                    let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
                    path_sender.send(path).unwrap();
                    done_receiver.recv_timeout(Duration::from_secs(10)).unwrap();
                    sh("ip link set lbt0 name lbt9");
                });
            });
            let other = path_receiver.recv_timeout(Duration::from_secs(5)).unwrap();
            assert_ne!(other, task);
            sh(&format!("ip link set lbt0 netns {other}"));
            let found = inode(tun.queues[0].network_namespace().unwrap());
            assert_eq!(found, std::fs::metadata(&other).unwrap().ino());
            assert_ne!(found, own);
            done_sender.send(()).unwrap();
            let deadline = Instant::now() + Duration::from_secs(3);
            while tun.queues[0].interface_name().is_ok_and(|name| name != "lbt9") && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        });
    });
}

/// Opens a TUN device as another program would, with flags of its choice.
fn foreign(name: &str, flags: i32) -> OwnedFd {
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(flags as u16).to_ne_bytes());
    // SAFETY: the request is an ifreq of 40 bytes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file.into()
}

#[test]
fn a_descriptor_of_another_program_is_taken_over_with_and_without_headers() {
    in_namespace(|| {
        for (name, extra) in [("lbt0", libc::IFF_VNET_HDR), ("lbt1", 0)] {
            let fd = foreign(name, libc::IFF_TUN | libc::IFF_NO_PI | extra);
            let mut tun = Tun::from_fd(fd).unwrap();
            assert_eq!((tun.name.as_str(), tun.tso, tun.uso), (name, extra != 0, extra != 0));
            sh(&format!("ip addr add 10.9.0.1/24 dev {name}; ip link set {name} up"));
            assert!(tun.queues[0].as_fd().as_raw_fd() > 2);
            let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
            socket.send_to(b"hello", "10.9.0.2:5000").unwrap();
            let (header, packet) = next_udp(&mut tun.queues, 5000);
            assert_eq!(&packet[28..], b"hello");
            let wanted = IoSlice::new(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
            if extra == 0 {
                assert_eq!(header, [0; VNET_HDR_LEN]);
                let error = tun.queues[0].write(&[wanted, IoSlice::new(&packet)]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "offloads without IFF_VNET_HDR");
                assert_eq!(tun.queues[0].read(&mut [0; 5]).unwrap_err().kind(), ErrorKind::InvalidInput);
            }
            let joined = [&[0; VNET_HDR_LEN][..], &packet].concat();
            let (front, back) = joined.split_at(3);
            assert!(tun.queues[0].write(&[IoSlice::new(front), IoSlice::new(back)]).unwrap());
            drop(tun);
        }
    });
}

#[test]
fn a_descriptor_that_is_no_tun_is_refused() {
    in_namespace(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = Tun::from_fd(socket.into()).unwrap_err();
        assert!(error.to_string().starts_with("take over TUN descriptor: "), "{error}");
        let tap = foreign("lbt0", libc::IFF_TAP | libc::IFF_NO_PI);
        let error = Tun::from_fd(tap).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("TAP")), (ErrorKind::InvalidInput, true), "{error}");
    });
}
