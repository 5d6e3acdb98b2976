//! The relay's table and its thread, by direct calls, on addresses of a namespace of the test's own.
//!
//! Needs root; where `CI=true` its absence is a failure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use landbridge::control::relay::LINK_SILENCE;
use landbridge::control::relay::egress::Egress;
use landbridge::control::relay::table::{Id, Relays};
use landbridge::datapath::tables::Tables;
use landbridge::relay::{Place, Relay};
use landbridge::settings::{RelayPorts, RelaySettings};
use landbridge_proto::DropReason;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};

const A: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
const KEYS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

fn ip(command: &str) {
    let output = Command::new("ip").args(command.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a test on a thread whose namespace may be thrown away; it has the three addresses.
fn apart(test: fn()) {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var("CI").as_deref() != Ok("true"), "this test needs root, and CI skips nothing");
    if !root {
        eprintln!("skipped: this test needs root");
        return;
    }
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        ip("link set lo up");
        for address in [A, B, OURS] {
            ip(&format!("addr add {address}/32 dev lo"));
        }
        test();
    };
    thread::spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn relays(first: u16, last: u16, rate_mbps: u32) -> Relays {
    let settings =
        RelaySettings { enabled: true, ports: RelayPorts { first, last }, rate_mbps, ..RelaySettings::default() };
    let tables = Arc::new(ArcSwap::from_pointee(Tables::new(1420)));
    let thread = Relay::start(tables, LINK_SILENCE).expect("a thread");
    let mut relays = Relays::new(&settings, thread, None, Egress::none("a test"));
    relays.set_own(None, &[IpAddr::V4(OURS)].into());
    relays
}

fn host(address: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
    socket
}

fn place(host: &UdpSocket) -> Place {
    Place { remote: host.local_addr().expect("it is bound"), local: OURS.into() }
}

/// Transport data whose content tells it from others.
fn data(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![4, 0, 0, 0];
    bytes.extend(number.to_le_bytes());
    bytes.resize(len, number as u8);
    bytes
}

fn dropped(relays: &Relays, reason: DropReason, count: u64) {
    let end = Instant::now() + Duration::from_secs(5);
    while relays.thread.stats.dropped(reason) < count {
        assert!(Instant::now() < end, "{} of {count} {}", relays.thread.stats.dropped(reason), reason.label());
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(relays.thread.stats.dropped(reason), count, "{}", reason.label());
}

/// Two hosts, and ports of the relay to which they are bound.
fn pair(relays: &mut Relays) -> (UdpSocket, UdpSocket, [SocketAddr; 2]) {
    let (a, b) = (host(A), host(B));
    let ports = relays.open(None, Id::Granted(7), KEYS, None).expect("two ports");
    for (end, host) in [&a, &b].into_iter().enumerate() {
        relays.bind(None, Id::Granted(7), end, Some(place(host))).expect("it is not ours");
    }
    (a, b, ports.map(|port| SocketAddr::new(OURS.into(), port)))
}

#[test]
fn every_datagram_of_a_burst_arrives_as_it_was_and_in_order() {
    apart(|| {
        let mut relays = relays(40_000, 40_010, 0);
        let (a, b, ports) = pair(&mut relays);
        let mut received = [0; 65_536];
        for (from, to, near, far) in [(&a, &b, ports[0], ports[1]), (&b, &a, ports[1], ports[0])] {
            for round in 0..20_u32 {
                let lens = [1400, 1400, 1400, 700, 1400, 32, 32, 9000, 65_000, 1400];
                for (place, len) in lens.into_iter().enumerate() {
                    from.send_to(&data(round * 16 + place as u32, len), near).expect("sent");
                }
                for (place, len) in lens.into_iter().enumerate() {
                    let (came, remote) = to.recv_from(&mut received).expect("relayed");
                    assert_eq!(remote, far, "from the port of the other end");
                    assert_eq!(received[..came], data(round * 16 + place as u32, len));
                }
            }
        }
        for reason in DropReason::ALL {
            assert_eq!(relays.thread.stats.dropped(*reason), 0, "{}", reason.label());
        }
    });
}

#[test]
fn what_is_not_for_the_other_end_goes_nowhere_and_is_counted() {
    apart(|| {
        let mut relays = relays(40_000, 40_010, 1);
        let (a, b, ports) = pair(&mut relays);
        let stranger = host(A);
        for _ in 0..5 {
            stranger.send_to(&data(1, 100), ports[0]).expect("sent");
        }
        dropped(&relays, DropReason::RelayUnbound, 5);
        a.send_to(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", ports[0]).expect("sent");
        a.send_to(&[4, 0, 0, 0], ports[0]).expect("sent");
        a.send_to(&[], ports[0]).expect("sent");
        dropped(&relays, DropReason::RelayNotWireguard, 2);
        // A's bound place at B's port is no place of B's.
        a.send_to(&data(1, 100), ports[1]).expect("sent");
        dropped(&relays, DropReason::RelayUnbound, 6);
        setsockopt(&a, sockopt::Ipv4Ttl, &1).expect("a time to live");
        a.send_to(&data(1, 100), ports[0]).expect("sent");
        dropped(&relays, DropReason::RelayHopLimit, 1);
        setsockopt(&a, sockopt::Ipv4Ttl, &2).expect("a time to live");
        a.send_to(&data(77, 100), ports[0]).expect("sent");
        let mut received = [0; 2000];
        let (came, _) = b.recv_from(&mut received).expect("relayed");
        assert_eq!(received[..came], data(77, 100), "nothing else was relayed before");
        relays.bind(None, Id::Granted(7), 1, None).expect("unbound");
        // The thread may be reading still, by the table before.
        thread::sleep(Duration::from_millis(50));
        a.send_to(&data(1, 100), ports[0]).expect("sent");
        dropped(&relays, DropReason::RelayWaiting, 1);
        relays.bind(None, Id::Granted(7), 1, Some(place(&b))).expect("bound again");
        // At one million bits a second a burst is 64 KiB.
        for _ in 0..200 {
            a.send_to(&data(1, 1000), ports[0]).expect("sent");
        }
        let end = Instant::now() + Duration::from_secs(5);
        while relays.thread.stats.dropped(DropReason::RelayLimited) < 100 {
            assert!(Instant::now() < end, "the end is cut to its rate");
            thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn no_end_is_bound_to_an_address_of_ours() {
    apart(|| {
        let mut relays = relays(40_000, 40_010, 0);
        let (a, b, ports) = pair(&mut relays);
        let id = Id::Granted(7);
        for loops in [ports[0], ports[1], SocketAddr::new(OURS.into(), 51_820), "127.0.0.1:5".parse().expect("one")] {
            let place = Place { remote: loops, local: OURS.into() };
            assert_eq!(relays.bind(None, id, 1, Some(place)), Err(DropReason::RelayLoop), "{loops}");
        }
        a.send_to(&data(1, 100), ports[0]).expect("sent");
        dropped(&relays, DropReason::RelayWaiting, 1);
        relays.bind(None, id, 1, Some(place(&b))).expect("bound");
        // B's address becomes ours.
        relays.set_own(None, &[OURS.into(), B.into()].into());
        a.send_to(&data(1, 100), ports[0]).expect("sent");
        dropped(&relays, DropReason::RelayWaiting, 2);
    });
}

#[test]
fn allocations_end_with_the_ports_and_ports_come_back() {
    apart(|| {
        let mut relays = relays(40_000, 40_005, 0);
        // Somebody else has one of the six.
        let taken = UdpSocket::bind((OURS, 40_002)).expect("a port");
        let mut open = |number| relays.open(None, Id::Granted(number), KEYS, None);
        assert_eq!(open(1), Some([40_000, 40_001]));
        assert_eq!(open(2), Some([40_003, 40_004]));
        assert_eq!(open(3), None, "one port is left");
        assert_eq!(open(2), None, "it is there already");
        relays.close(None, Id::Granted(1));
        assert_eq!(relays.of_number(0), None);
        drop(taken);
        // The thread closes its sockets a moment later.
        let end = Instant::now() + Duration::from_secs(5);
        while relays.open(None, Id::Granted(4), KEYS, None).is_none_or(|ports| ports[0] == 40_002) {
            relays.close(None, Id::Granted(4));
            assert!(Instant::now() < end, "the ports come back");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(relays.of_number(1), Some((Id::Granted(4), 1)));
    });
}
