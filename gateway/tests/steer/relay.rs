//! The relay's part of the object, on crafted datagrams in a namespace whose routes and neighbours are known.
//!
//! ```text
//! A 192.0.2.10 ----- lbrelay0 192.0.2.1  relay  198.51.100.1 lbrelay2 ----- B 198.51.100.20
//!   2001:db8::10               2001:db8::1        2001:db8:1::1             2001:db8:1::20
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions};
use landbridge::steer::relay::{RelayKey, RelayOnward, RelayPlan, RelayRate, RelayTally};
use landbridge::steer::{self, Steer, Verdict};
use landbridge_proto::ReceiverIndex;
use nix::sched::{CloneFlags, unshare};

use crate::packet::{IPV4, IPV6, UDP, VLAN, ethernet, extension, transport_data};
use crate::{load, may_run};

const PORT: u16 = 51_820;
const PORT_A: u16 = 51_900;
const PORT_B: u16 = 51_901;
const FROM: u16 = 40_000;
const TO: u16 = 41_000;
const A4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OURS_A4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
const OURS_B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const OURS_A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x20);
const OURS_B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const MAC_B: [u8; 6] = [2, 0xbb, 0, 0, 0, 9];
const MAC_A: [u8; 6] = [2, 0xaa, 0, 0, 0, 9];
const PLAN: RelayPlan = RelayPlan { first: PORT_A, count: 2, native: true, back: true };
const OWN: u32 = 0x0070_0042;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

fn ip(command: &str) {
    let output = Command::new("ip").args(command.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The relay with both ends bound, in each family.
struct Rig {
    steer: Steer,
    ingress: u32,
    egress: u32,
}

impl Rig {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        for (one, other) in [("lbrelay0", "lbrelay1"), ("lbrelay2", "lbrelay3")] {
            ip(&format!("link add {one} type veth peer name {other}"));
            ip(&format!("link set {one} up"));
            ip(&format!("link set {other} up"));
        }
        for (address, interface) in [(format!("{OURS_A4}/24"), "lbrelay0"), (format!("{OURS_B4}/24"), "lbrelay2")] {
            ip(&format!("addr add {address} dev {interface}"));
        }
        for (address, interface) in [(format!("{OURS_A6}/64"), "lbrelay0"), (format!("{OURS_B6}/64"), "lbrelay2")] {
            ip(&format!("addr add {address} dev {interface} nodad"));
        }
        let neighbours: [(IpAddr, [u8; 6], &str); 4] = [
            (A4.into(), MAC_A, "lbrelay0"),
            (A6.into(), MAC_A, "lbrelay0"),
            (B4.into(), MAC_B, "lbrelay2"),
            (B6.into(), MAC_B, "lbrelay2"),
        ];
        for (address, mac, interface) in neighbours {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            ip(&format!("neigh add {address} lladdr {mac} dev {interface}"));
        }
        for setting in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").expect("forwarding");
        }
        let ingress = steer::interface_by_name("lbrelay0").expect("the interface").index;
        let egress = steer::interface_by_name("lbrelay2").expect("the interface").index;
        let mut steer = load();
        steer.set_port(PORT).expect("a port");
        steer.set_relay(PLAN).expect("ports");
        for interface in [ingress, egress] {
            steer.set_relay_egress(interface, true).expect("an interface");
        }
        steer.insert_session(ReceiverIndex(OWN)).expect("a session");
        let mut rig = Self { steer, ingress, egress };
        rig.bind(0, RelayRate::of_mbps(0));
        rig
    }

    /// Binds A's end in both families, so that what it sends goes to B.
    fn bind(&mut self, end: u32, rate: RelayRate) {
        let ends: [(IpAddr, IpAddr, IpAddr, IpAddr); 2] = [
            (A4.into(), OURS_A4.into(), B4.into(), OURS_B4.into()),
            (A6.into(), OURS_A6.into(), B6.into(), OURS_B6.into()),
        ];
        for (from, at, to, by) in ends {
            let key = RelayKey::new(SocketAddr::new(from, FROM), at, PORT_A);
            let onward = RelayOnward { remote: SocketAddr::new(to, TO), local: by, port: PORT_B };
            assert!(self.steer.bind_relay(key, onward, end, rate).expect("bound"), "one family");
        }
    }

    /// Runs the program on a frame that came by `lbrelay0`: its verdict, the action, and the frame that it left.
    fn run(&mut self, frame: &[u8]) -> (Verdict, u32, Vec<u8>) {
        let before = self.steer.counters().expect("counters");
        let mut out = vec![0; frame.len() + 64];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, self.ingress, 0, 0].map(u32::to_ne_bytes).concat();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..Default::default()
        };
        let result = self.steer.program().expect("the program").test_run(options).expect("a run");
        out.truncate(result.data_size_out as usize);
        let after = self.steer.counters().expect("counters");
        let mut moved = after.iter().filter(|(verdict, packets)| *packets != before.packets(*verdict));
        let (verdict, _) = moved.next().expect("a verdict");
        assert_eq!(moved.next(), None, "one verdict per packet");
        (verdict, result.return_value, out)
    }

    /// What has to become of a frame that is not relayed: it stays as it is.
    fn refused(&mut self, name: &str, frame: &[u8], expected: Verdict) {
        let dropped = matches!(expected, Verdict::RelayNotWireguard | Verdict::RelayLimited);
        let action = if dropped { XDP_DROP } else { XDP_PASS };
        assert_eq!(self.run(frame), (expected, action, frame.to_vec()), "{name}");
    }
}

fn apart(test: fn()) {
    if may_run() {
        let outcome = thread::spawn(test).join();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// The Internet checksum, as plainly as it can be said.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    !((sum >> 16) as u16).wrapping_add(sum as u16)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// What a datagram's checksum may be.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    Whole,
    None,
    Partial,
}

/// A datagram in its packet and frame, all checksums right.
fn datagram(from: SocketAddr, to: SocketAddr, hops: u8, payload: &[u8], sum: Sum) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("short").to_be_bytes();
    let mut udp = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &len, &[0, 0], payload].concat();
    let pseudo = [octets(from.ip()), octets(to.ip()), vec![0, UDP], len.to_vec()].concat();
    let value = match sum {
        Sum::Whole => checksum(&[&pseudo, &udp]).max(1),
        Sum::None => 0,
        Sum::Partial => !checksum(&[&pseudo]),
    };
    let value = if sum == Sum::Whole && checksum(&[&pseudo, &udp]) == 0 { 0xffff } else { value };
    udp[6..8].copy_from_slice(&value.to_be_bytes());
    match from.ip() {
        IpAddr::V4(_) => {
            let total = u16::try_from(20 + udp.len()).expect("short").to_be_bytes();
            let mut header = [0x45, 2, total[0], total[1], 0x12, 0x34, 0x40, 0, hops, UDP, 0, 0].to_vec();
            header.extend(octets(from.ip()));
            header.extend(octets(to.ip()));
            let sum = checksum(&[&header]).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            ethernet(&[], IPV4, &[header, udp].concat())
        }
        IpAddr::V6(_) => {
            let mut header = vec![0x60, 0x20, 0, 7, len[0], len[1], UDP, hops];
            header.extend(octets(from.ip()));
            header.extend(octets(to.ip()));
            ethernet(&[], IPV6, &[header, udp].concat())
        }
    }
}

fn a4() -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(A4.into(), FROM), SocketAddr::new(OURS_A4.into(), PORT_A))
}

fn a6() -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(A6.into(), FROM), SocketAddr::new(OURS_A6.into(), PORT_A))
}

/// The frame that leaves to B for a datagram of A.
fn onward(v4: bool, hops: u8, payload: &[u8], sum: Sum, own: [u8; 6]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = if v4 { (OURS_B4.into(), B4.into()) } else { (OURS_B6.into(), B6.into()) };
    let mut frame = datagram(SocketAddr::new(from, PORT_B), SocketAddr::new(to, TO), hops, payload, sum);
    frame[..6].copy_from_slice(&MAC_B);
    frame[6..12].copy_from_slice(&own);
    frame
}

fn mac_of(interface: &str) -> [u8; 6] {
    let output = Command::new("ip").args(["-o", "link", "show", interface]).output().expect("iproute2");
    let text = String::from_utf8(output.stdout).expect("text");
    let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a hardware address");
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

#[test]
fn a_bound_peers_datagrams_leave_for_the_other_peer_with_checksums_that_hold() {
    apart(|| {
        let mut rig = Rig::new();
        let own = mac_of("lbrelay2");
        for len in [32, 33, 96, 1423] {
            for hops in [2, 64, 255] {
                for index in [1u32, 0xffff_ffff, 0x1234_5678] {
                    let payload = transport_data(index, len);
                    for sum in [Sum::Whole, Sum::None] {
                        let frame = datagram(a4().0, a4().1, hops, &payload, sum);
                        let expected = onward(true, hops - 1, &payload, sum, own);
                        assert_eq!(
                            rig.run(&frame),
                            (Verdict::RelayRedirected, XDP_REDIRECT, expected),
                            "IPv4, {len} bytes"
                        );
                    }
                    let frame = datagram(a6().0, a6().1, hops, &payload, Sum::Whole);
                    let expected = onward(false, hops - 1, &payload, Sum::Whole, own);
                    assert_eq!(
                        rig.run(&frame),
                        (Verdict::RelayRedirected, XDP_REDIRECT, expected),
                        "IPv6, {len} bytes"
                    );
                }
            }
        }
        let RelayTally { packets, limited, last_ns, .. } = rig.steer.relay_tally(0).expect("a tally");
        assert_eq!((packets, limited), (4 * 3 * 3 * 3, 0));
        assert!(steer::relay::since(last_ns).as_secs() < 60, "the clocks are the same");
        rig.steer.reset_relay(0).expect("reset");
        assert_eq!(rig.steer.relay_tally(0).expect("a tally"), RelayTally::default());
    });
}

#[test]
fn handshakes_are_relayed_and_what_is_no_message_is_dropped() {
    apart(|| {
        let mut rig = Rig::new();
        let message = |kind: u8, len: usize| {
            let mut message = transport_data(7, len);
            message[0] = kind;
            message
        };
        for (kind, len) in [(1, 148), (2, 92), (3, 64), (4, 32)] {
            let frame = datagram(a4().0, a4().1, 64, &message(kind, len), Sum::Whole);
            assert_eq!(rig.run(&frame).1, XDP_REDIRECT, "type {kind}");
        }
        let mut reserved = message(4, 64);
        reserved[2] = 1;
        let cases = [message(1, 147), message(1, 149), message(2, 93), message(3, 63), message(4, 31), message(0, 64)];
        for payload in cases.into_iter().chain([message(5, 64), reserved, Vec::new(), vec![4, 0, 0]]) {
            let (from, to) = a4();
            rig.refused("IPv4", &datagram(from, to, 64, &payload, Sum::Whole), Verdict::RelayNotWireguard);
            let (from, to) = a6();
            rig.refused("IPv6", &datagram(from, to, 64, &payload, Sum::Whole), Verdict::RelayNotWireguard);
        }
    });
}

#[test]
fn what_the_program_may_not_relay_is_left_to_the_kernel_as_it_came() {
    apart(|| {
        let mut rig = Rig::new();
        let data = transport_data(7, 96);
        let (a, at) = a4();
        let whole = |from, to| datagram(from, to, 64, &data, Sum::Whole);
        let elsewhere = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 11).into(), FROM);
        rig.refused("another address", &whole(elsewhere, at), Verdict::RelayUnbound);
        rig.refused("another port", &whole(SocketAddr::new(a.ip(), FROM + 1), at), Verdict::RelayUnbound);
        rig.refused("to B's port", &whole(a, SocketAddr::new(at.ip(), PORT_B)), Verdict::RelayUnbound);
        rig.refused("to our other address", &whole(a, SocketAddr::new(OURS_B4.into(), PORT_A)), Verdict::RelayUnbound);
        rig.refused("beyond the relay's ports", &whole(a, SocketAddr::new(at.ip(), PORT_B + 1)), Verdict::OtherPort);
        let own = datagram(a, at, 64, &transport_data(OWN, 96), Sum::Whole);
        rig.refused("a message for ourselves", &own, Verdict::RelayOwn);
        let (a6, at6) = a6();
        for hops in [0, 1] {
            rig.refused("no hop", &datagram(a, at, hops, &data, Sum::Whole), Verdict::RelayHopLimit);
            rig.refused("no hop", &datagram(a6, at6, hops, &data, Sum::Whole), Verdict::RelayHopLimit);
        }
        let tagged = ethernet(&[VLAN], IPV4, &whole(a, at)[14..]);
        rig.refused("a tag", &tagged, Verdict::RelayHeaders);
        let mut options = whole(a, at);
        options[14] = 0x46;
        options[17] += 4;
        options.splice(34..34, [1; 4]);
        rig.refused("options", &options, Verdict::RelayHeaders);
        let mut packet = whole(a6, at6)[14..].to_vec();
        let udp = packet.split_off(40);
        packet[6] = 60;
        packet[5] += 8;
        packet.extend(extension(UDP, 0, 0, &udp));
        rig.refused("an extension header", &ethernet(&[], IPV6, &packet), Verdict::RelayHeaders);
        let mut fragment = whole(a, at);
        fragment[20] = 0x20;
        rig.refused("a fragment", &fragment, Verdict::Fragment);
        rig.refused("too long", &datagram(a, at, 64, &transport_data(7, 1473), Sum::Whole), Verdict::RelayTooLong);
        rig.refused("too long", &datagram(a6, at6, 64, &transport_data(7, 1453), Sum::Whole), Verdict::RelayTooLong);
        rig.refused("IPv6 without checksum", &datagram(a6, at6, 64, &data, Sum::None), Verdict::RelayChecksum);
    });
}

#[test]
fn a_partial_checksum_becomes_none_in_drivers_and_is_the_kernels_elsewhere() {
    apart(|| {
        let mut rig = Rig::new();
        let own = mac_of("lbrelay2");
        let data = transport_data(7, 96);
        let (a, at) = a4();
        let partial = datagram(a, at, 64, &data, Sum::Partial);
        let expected = onward(true, 63, &data, Sum::None, own);
        assert_eq!(rig.run(&partial), (Verdict::RelayRedirected, XDP_REDIRECT, expected));
        let (a6, at6) = a6();
        rig.refused("IPv6", &datagram(a6, at6, 64, &data, Sum::Partial), Verdict::RelayChecksum);
        rig.steer.set_relay(RelayPlan { native: false, ..PLAN }).expect("generic mode");
        rig.refused("generic mode", &partial, Verdict::RelayChecksum);
    });
}

#[test]
fn routes_neighbours_and_egress_decide_by_which_interface_a_datagram_leaves() {
    apart(|| {
        let mut rig = Rig::new();
        let (a, at) = a4();
        let frame = datagram(a, at, 64, &transport_data(7, 96), Sum::Whole);
        ip(&format!("neigh del {B4} dev lbrelay2"));
        rig.refused("no neighbour", &frame, Verdict::RelayNoNeighbour);
        // B has moved behind A's interface.
        ip(&format!("route add {B4}/32 via {A4}"));
        let (verdict, action, out) = rig.run(&frame);
        assert_eq!((verdict, action), (Verdict::RelayTransmitted, XDP_TX));
        assert_eq!((&out[..6], &out[6..12]), (&MAC_A[..], &mac_of("lbrelay0")[..]));
        rig.steer.set_relay(RelayPlan { back: false, ..PLAN }).expect("a veth");
        assert_eq!(rig.run(&frame).0, Verdict::RelayRedirected, "to the interface that it came by");
        rig.steer.set_relay(PLAN).expect("any other");
        rig.steer.set_relay_egress(rig.ingress, false).expect("removed");
        rig.refused("not by this interface", &frame, Verdict::RelayNoRoute);
        ip(&format!("route del {B4}/32"));
        ip(&format!("neigh add {B4} lladdr 02:bb:00:00:00:09 dev lbrelay2"));
        assert_eq!(rig.run(&frame).1, XDP_REDIRECT);
        rig.steer.set_relay_egress(rig.egress, false).expect("removed");
        rig.refused("nor by that one", &frame, Verdict::RelayNoRoute);
        rig.steer.set_relay_egress(rig.egress, true).expect("added");
        ip(&format!("route add blackhole {B4}/32"));
        rig.refused("a black hole", &frame, Verdict::RelayNoRoute);
        ip(&format!("route del blackhole {B4}/32"));
        rig.steer.unbind_relay(&RelayKey::new(a, at.ip(), PORT_A)).expect("unbound");
        rig.refused("unbound", &frame, Verdict::RelayUnbound);
    });
}

#[test]
fn an_end_that_sends_faster_than_permitted_is_cut_to_its_rate() {
    apart(|| {
        let mut rig = Rig::new();
        // At one million bits a second a burst is 64 KiB: 45 full packets.
        rig.bind(9, RelayRate::of_mbps(1));
        let (a, at) = a4();
        let frame = datagram(a, at, 64, &transport_data(7, 1472), Sum::Whole);
        let relayed = (0..100).filter(|_| rig.run(&frame).0 == Verdict::RelayRedirected).count();
        assert!((44..60).contains(&relayed), "{relayed} of 100");
        rig.refused("beyond its rate", &frame, Verdict::RelayLimited);
        let tally = rig.steer.relay_tally(9).expect("a tally");
        assert_eq!((tally.packets, tally.limited), (relayed as u64, 101 - relayed as u64));
        assert_eq!(rig.steer.relay_tally(0).expect("a tally").packets, 0, "another end has its own");
        rig.steer.reset_relay(9).expect("reset");
        assert_eq!(rig.run(&frame).0, Verdict::RelayRedirected, "a new owner has a new share");
    });
}

#[test]
fn what_another_forwards_of_an_end_counts_towards_its_rate() {
    apart(|| {
        let mut rig = Rig::new();
        let rate = RelayRate::of_mbps(1);
        rig.bind(9, rate);
        let (a, at) = a4();
        let frame = datagram(a, at, 64, &transport_data(7, 1472), Sum::Whole);
        let now = || {
            let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
            Duration::from(clock).as_nanos() as u64
        };
        let bucket = rig.steer.relay_bucket(9);
        assert_eq!(bucket.until_ns(), Some(0));
        bucket.count(now(), u64::from(rate.burst_ns) / 2);
        let relayed = (0..100).filter(|_| rig.run(&frame).0 == Verdict::RelayRedirected).count();
        assert!((21..40).contains(&relayed), "half of a burst is left: {relayed} of 100");
        let until = bucket.until_ns().expect("an end of the program");
        assert!(until > now() + u64::from(rate.burst_ns) / 2, "and what the program forwards counts for others");
        bucket.count(now(), 1_000_000);
        assert_eq!(bucket.until_ns(), Some(until + 1_000_000));
    });
}

#[test]
fn ends_of_two_families_are_left_to_user_space() {
    apart(|| {
        let mut rig = Rig::new();
        let key = RelayKey::new(a4().0, OURS_A4.into(), PORT_A);
        let onward = RelayOnward { remote: SocketAddr::new(B6.into(), TO), local: OURS_B6.into(), port: PORT_B };
        assert!(!rig.steer.bind_relay(key, onward, 0, RelayRate::of_mbps(0)).expect("no error"));
    });
}
