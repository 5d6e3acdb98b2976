//! Two Landbridge gateways with every pair of backends, IPv4 and IPv6 outside and inside.

use std::time::Duration;

use crate::lab::{
    Echo, Gateway, Lab, Outside, Program, Sites, Wan, connected, tcp_exchange, tunnel_v4, tunnel_v6, udp_sizes,
};

/// Bytes of each TCP stream, each way.
const STREAM: usize = 12 << 20;

fn carries_everything(a: Wan, b: Wan, outside: Outside) {
    carries_everything_with("", "in software: in copy mode the offload is not shown to pay", a, b, outside);
}

/// With these lines in the section of the wan, and this said of the checksums of rings.
fn carries_everything_with(extra: &str, checksums: &str, a: Wan, b: Wan, outside: Outside) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(a), Program::Up(b), outside);
    for gateway in [&mut left, &mut right] {
        gateway.extra = extra.to_owned();
    }
    left.start();
    right.start();
    for address in [tunnel_v4(2), tunnel_v6(2)] {
        let echo = Echo::start(&sites.b, address);
        // The 1372 bytes over IPv6 fill the interface's MTU; larger ones leave it as fragments.
        let repeated = udp_sizes(&sites.a, &echo, 1..=1400);
        assert!(repeated <= 2, "{repeated} datagrams got lost between idle gateways");
        tcp_exchange(&sites.a, &sites.b, address, STREAM);
        tcp_exchange(&sites.b, &sites.a, if address.is_ipv4() { tunnel_v4(1) } else { tunnel_v6(1) }, STREAM / 4);
    }
    connected(&[&left, &right], Duration::from_secs(1));
    for (gateway, wan) in [(&left, a), (&right, b)] {
        uses_its_backend(gateway, wan);
        for interface in gateway.status().wan.interfaces {
            assert_eq!(interface.checksums.as_deref(), Some(checksums));
        }
    }
}

#[test]
fn checksums_left_to_the_interface_carry_everything_over_ipv6_to_rings_and_sockets() {
    let (on, by) = ("checksum_offload = \"on\"\n", "by the interface, as for the kernel's own packets");
    carries_everything_with(on, by, Wan::Xdp, Wan::Udp, Outside::V6);
    carries_everything_with(on, by, Wan::Xdp, Wan::Xdp, Outside::V6);
}

fn uses_its_backend(gateway: &Gateway, wan: Wan) {
    let status = gateway.status();
    let peer = &status.peers[0];
    assert!(peer.rx_bytes > STREAM as u64 && peer.tx_bytes > STREAM as u64, "{peer:?}");
    match wan {
        Wan::Udp => assert_eq!((status.wan.backend.as_str(), status.wan.interfaces.len()), ("udp", 0)),
        Wan::Xdp => {
            assert_eq!(status.wan.backend, "xdp");
            let interface = &status.wan.interfaces[0];
            assert_eq!((interface.name.as_str(), interface.xdp_mode.as_str()), ("wan0", "native"));
            assert_eq!(interface.queues, 2);
            assert_eq!(peer.path, "xdp wan0");
            let redirected = status.xdp_verdicts.get("redirected").copied().unwrap_or(0);
            assert!(redirected * 100 >= peer.rx_packets * 99, "{redirected} of {}", peer.rx_packets);
        }
    }
}

macro_rules! pairs {
    ($($name:ident: $a:ident $b:ident $outside:ident;)+) => {
        $(#[test]
        fn $name() {
            carries_everything(Wan::$a, Wan::$b, Outside::$outside);
        })+
    };
}

pairs! {
    sockets_on_both_sides_carry_everything_over_ipv4: Udp Udp V4;
    sockets_on_both_sides_carry_everything_over_ipv6: Udp Udp V6;
    rings_on_both_sides_carry_everything_over_ipv4: Xdp Xdp V4;
    rings_on_both_sides_carry_everything_over_ipv6: Xdp Xdp V6;
    rings_and_a_socket_carry_everything_over_ipv4: Xdp Udp V4;
    rings_and_a_socket_carry_everything_over_ipv6: Xdp Udp V6;
}

fn carries_fragments(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    for gateway in [&mut left, &mut right] {
        gateway.mtu = 36_000;
        gateway.start();
    }
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let sizes = (1_400..1_480).chain([1_500, 2_000, 4_000, 9_000, 20_000, 35_000, 35_972]);
    assert!(udp_sizes(&sites.a, &echo, sizes) <= 2);
    tcp_exchange(&sites.a, &sites.b, tunnel_v4(2), STREAM);
}

#[test]
fn packets_of_36000_bytes_travel_as_fragments_between_sockets() {
    carries_fragments(Wan::Udp);
}

#[test]
fn packets_of_36000_bytes_travel_as_fragments_beside_the_rings() {
    carries_fragments(Wan::Xdp);
}

#[test]
fn hosts_behind_the_gateways_reach_each_other() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Xdp), Program::Up(Wan::Udp), Outside::V4);
    let hosts = [lab.namespace("hosta"), lab.namespace("hostb")];
    for (number, (gateway, other)) in [(&mut left, 2), (&mut right, 1)].into_iter().enumerate() {
        let site = 3 - other;
        crate::lab::Veth { left: (&gateway.namespace, "lan0"), right: (&hosts[number], "eth0"), queues: 1 }.create();
        gateway.namespace.ip(&format!("addr add 192.168.{site}.1/24 dev lan0"));
        gateway.namespace.sysctl("net.ipv4.ip_forward", "1");
        hosts[number].ip(&format!("addr add 192.168.{site}.2/24 dev eth0"));
        hosts[number].ip(&format!("route add default via 192.168.{site}.1"));
        gateway.peers[0].allowed_ips.push(format!("192.168.{other}.0/24"));
        gateway.start();
    }
    tcp_exchange(&hosts[0], &hosts[1], [192, 168, 2, 2].into(), STREAM);
    let echo = Echo::start(&hosts[0], [192, 168, 1, 2].into());
    assert!(udp_sizes(&hosts[1], &echo, 1..=1392) <= 2);
}
