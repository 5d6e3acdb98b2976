//! Rings on interfaces with a large MTU: packets that take several frames go by them as the short ones do, where the kernel
//! has that, and by the kernel's socket and the TUN where it has not.

use std::net::IpAddr;
use std::time::Duration;

use landbridge::status::{InterfaceStatus, Status};

use crate::lab::{
    Echo, Gateway, Homes, Lab, Namespace, Outside, Program, Sites, Wan, counted, eventually, host_v4, host_v6,
    tcp_exchange, tunnel_v4, tunnel_v6, udp_sizes,
};

/// Of every wire.
const MTU: u32 = 9000;
/// Of the tunnel: what a wire carries, less IPv6, UDP and sealing.
const TUNNEL_MTU: u32 = 8920;
/// Bytes of each TCP stream, each way.
const STREAM: usize = 16 << 20;
/// Bytes of sealing, UDP and IPv6 in front of the payload of a datagram, or behind it.
const MORE: usize = 28 + 32 + 48;
const SOON: Duration = Duration::from_secs(15);

#[track_caller]
fn widen(namespace: &Namespace, names: &[&str]) {
    for name in names {
        namespace.ip(&format!("link set {name} mtu {MTU}"));
    }
}

fn wide_sites(sites: &Sites) {
    widen(&sites.net, &["br0", "pa", "pb"]);
    widen(&sites.a, &["wan0"]);
    widen(&sites.b, &["wan0"]);
}

/// Payloads whose packets fill frames, or do not quite, on either side of the gateway, and the largest of the tunnel.
fn sizes(address: IpAddr) -> Vec<usize> {
    let headers = if address.is_ipv4() { 28 } else { 48 };
    let most = TUNNEL_MTU as usize - headers;
    let around = |frame: usize| (frame - MORE - 64..frame).step_by(3);
    let edges = around(3840).chain(around(3968)).chain(around(4096)).chain(around(2 * 3840)).chain(around(2 * 3968));
    (1..most).step_by(331).chain(edges).chain(most - 40..=most).collect()
}

#[track_caller]
fn carries_everything(from: &Namespace, to: &Namespace, there: IpAddr, back: IpAddr) {
    let echo = Echo::start(to, there);
    let repeated = udp_sizes(from, &echo, sizes(there));
    assert!(repeated <= 2, "{repeated} datagrams got lost between idle gateways");
    tcp_exchange(from, to, there, STREAM);
    tcp_exchange(to, from, back, STREAM / 4);
}

fn dropped(status: &Status, reason: &str) -> u64 {
    status.drops.get(reason).copied().unwrap_or(0)
}

/// No frame is missing at the end, and none was at any time.
#[track_caller]
fn ends_whole(mut gateway: Gateway) {
    let status = gateway.status();
    for reason in ["no_frame", "oversized", "truncated", "bad_tag"] {
        assert_eq!(dropped(&status, reason), 0, "{reason}");
    }
    let process = gateway.process().clone();
    assert!(gateway.stop().success());
    assert!(!process.output().contains("did not come home"), "{}", process.output());
}

#[track_caller]
fn takes_several(interface: &InterfaceStatus) {
    let InterfaceStatus { multi_buffer, multi_buffer_reason, xdp_mode, .. } = interface;
    assert_eq!((*multi_buffer, multi_buffer_reason.as_str(), xdp_mode.as_str()), (true, "MTU 9000", "native"));
}

fn wan_rings(outside: Outside) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    wide_sites(&sites);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Xdp), Program::Up(Wan::Xdp), outside);
    for gateway in [&mut left, &mut right] {
        gateway.mtu = TUNNEL_MTU;
        gateway.start();
    }
    for (there, back) in [(tunnel_v4(2), tunnel_v4(1)), (tunnel_v6(2), tunnel_v6(1))] {
        carries_everything(&sites.a, &sites.b, there, back);
    }
    for gateway in [left, right] {
        let status = gateway.status();
        takes_several(&status.wan.interfaces[0]);
        let peer = &status.peers[0];
        assert_eq!(peer.path, "xdp wan0");
        for (direction, packets, bytes) in
            [("rx", peer.rx_packets, peer.rx_bytes), ("tx", peer.tx_packets, peer.tx_bytes)]
        {
            let of = |way: &str, what: &str| counted(&gateway, &format!("wan_{way}_{direction}_{what}"));
            let (by_rings, by_socket) = (of("xdp", "packets"), of("socket", "packets"));
            // What is missing are the control task's own: it looks for paths and how much they carry.
            assert!(
                by_rings * 100 >= packets * 95 && by_socket * 100 <= packets,
                "{direction}: {by_rings} of {packets} by rings, {by_socket} by sockets"
            );
            let bytes_by_rings = of("xdp", "bytes");
            assert!(bytes_by_rings * 100 >= bytes * 95, "{direction}: {bytes_by_rings} of {bytes} bytes by rings");
        }
        ends_whole(gateway);
    }
}

#[test]
fn long_packets_go_by_the_rings_of_the_wan_over_ipv4() {
    wan_rings(Outside::V4);
}

#[test]
fn long_packets_go_by_the_rings_of_the_wan_over_ipv6() {
    wan_rings(Outside::V6);
}

/// Hosts behind gateways with rings on both sides.
fn wide_homes(lab: &Lab) -> (Homes, Gateway, Gateway) {
    let homes = Homes::build(lab, 2);
    wide_sites(&homes.sites);
    let (mut left, mut right) = homes.gateways(lab, Wan::Xdp, Wan::Xdp);
    for gateway in [&mut left, &mut right] {
        gateway.mtu = TUNNEL_MTU;
    }
    (homes, left, right)
}

#[track_caller]
fn wide_lan(homes: &Homes) {
    for (gateway, host) in [(&homes.sites.a, &homes.host_a), (&homes.sites.b, &homes.host_b)] {
        widen(gateway, &["lan0"]);
        widen(host, &["eth0"]);
    }
}

#[track_caller]
fn between_hosts(homes: &Homes) {
    for (there, back) in [(host_v4(2), host_v4(1)), (host_v6(2), host_v6(1))] {
        carries_everything(&homes.host_a, &homes.host_b, there, back);
    }
}

#[test]
fn long_packets_go_by_the_rings_of_both_sides() {
    let Some(lab) = Lab::open() else { return };
    let (homes, mut left, mut right) = wide_homes(&lab);
    wide_lan(&homes);
    left.start();
    right.start();
    between_hosts(&homes);
    for gateway in [left, right] {
        let status = gateway.status();
        takes_several(&status.wan.interfaces[0]);
        takes_several(&status.lan.interfaces[0]);
        for direction in ["rx", "tx"] {
            for count in ["packets", "bytes"] {
                let all = counted(&gateway, &format!("lan_{direction}_{count}"));
                let by_rings = counted(&gateway, &format!("lan_xdp_{direction}_{count}"));
                assert!(by_rings * 100 >= all * 98, "{direction}: {by_rings} of {all} {count} by rings");
            }
        }
        ends_whole(gateway);
    }
}

#[test]
fn where_packets_take_one_frame_only_the_kernel_carries_the_long_ones() {
    let Some(lab) = Lab::open() else { return };
    let (homes, mut left, mut right) = wide_homes(&lab);
    wide_lan(&homes);
    // One gateway as an older kernel would have it, beside one whose long packets take several frames.
    left.extra = format!("multi_buffer = false\n{}", left.extra);
    left.start();
    right.start();
    between_hosts(&homes);
    let status = left.status();
    for interface in [&status.wan.interfaces[0], &status.lan.interfaces[0]] {
        assert_eq!((interface.multi_buffer, interface.multi_buffer_reason.as_str()), (false, "configured"));
        assert_eq!(interface.xdp_mode, "generic", "a veth takes no such MTU with a program of one buffer");
    }
    assert!(status.xdp_verdicts["too_long"] > 1000, "long packets pass to the kernel: {:?}", status.xdp_verdicts);
    assert!(counted(&left, "lan_kernel_too_long") > 1000);
    takes_several(&right.status().wan.interfaces[0]);
    ends_whole(left);
    ends_whole(right);
}

#[test]
fn an_interface_that_gets_a_large_mtu_gets_rings_for_it() {
    let Some(lab) = Lab::open() else { return };
    let (homes, mut left, mut right) = wide_homes(&lab);
    left.start();
    right.start();
    let lan = |gateway: &Gateway| gateway.status().lan.interfaces.first().cloned();
    let before = lan(&left).expect("rings of the lan");
    assert_eq!((before.multi_buffer, before.multi_buffer_reason.as_str()), (false, "MTU 1500 needs none"));
    takes_several(&left.status().wan.interfaces[0]);
    tcp_exchange(&homes.host_a, &homes.host_b, host_v4(2), STREAM / 4);
    wide_lan(&homes);
    for gateway in [&left, &right] {
        eventually("rings for long packets", SOON, || lan(gateway).filter(|interface| interface.multi_buffer));
    }
    between_hosts(&homes);
    assert!(left.process().output().contains("its MTU of 9000 takes rings of several frames for a packet"));
    for gateway in [left, right] {
        takes_several(&lan(&gateway).expect("rings of the lan"));
        ends_whole(gateway);
    }
}
