//! What moves under a running tunnel: addresses, MAC addresses, routes, VLANs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::lab::{
    Echo, Flow, Gateway, Lab, Namespace, Outside, PORT, Program, Sites, Wan, capture_data, eventually, tcp_exchange,
    transmit, tunnel_v4, tunnel_v6,
};

/// How soon traffic has to follow a change.
const SOON: Duration = Duration::from_secs(5);
/// A datagram every few milliseconds.
const PACE: Duration = Duration::from_millis(5);

fn started(lab: &Lab, sites: &Sites, wan: Wan, outside: Outside) -> (Gateway, Gateway) {
    let (mut left, mut right) = sites.gateways(lab, Program::Up(wan), Program::Up(wan), outside);
    left.start();
    right.start();
    (left, right)
}

fn roams(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    // As stock peers roam: without the channel there is no other path that is known.
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    for gateway in [&mut left, &mut right] {
        gateway.keys_of_last_peer = "extensions = false\n".to_owned();
        gateway.start();
    }
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic before the move", SOON);
    let handshake = left.last_handshake();
    sites.a.ip("addr del 10.77.0.1/24 dev wan0");
    sites.a.ip("addr add 10.77.0.11/24 dev wan0");
    flow.goes_on("traffic after the move", SOON);
    let endpoint = right.show("endpoints");
    assert!(endpoint.ends_with(&format!("10.77.0.11:{PORT}")), "{endpoint}");
    assert_eq!(left.last_handshake(), handshake, "a move needs no handshake");
}

#[test]
fn a_site_that_changes_its_address_keeps_its_session_over_sockets() {
    roams(Wan::Udp);
}

#[test]
fn a_site_that_changes_its_address_keeps_its_session_over_rings() {
    roams(Wan::Xdp);
}

fn follows_the_mac(wan: Wan, outside: Outside) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, _right) = started(&lab, &sites, wan, outside);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic before the change", SOON);
    sites.b.ip("link set wan0 address 02:00:00:00:77:02");
    flow.goes_on("traffic to the other MAC address", SOON);
    if wan == Wan::Xdp {
        assert_eq!(left.status().peers[0].path, "xdp wan0");
    }
}

#[test]
fn an_endpoint_that_changes_its_mac_address_is_followed_by_ipv4() {
    follows_the_mac(Wan::Xdp, Outside::V4);
}

#[test]
fn an_endpoint_that_changes_its_mac_address_is_followed_by_ipv6() {
    follows_the_mac(Wan::Xdp, Outside::V6);
}

/// How many IPv4 packets a namespace has forwarded.
fn forwarded(namespace: &Namespace) -> u64 {
    let table = namespace.run(&["cat", "/proc/net/snmp"]);
    let values = table.lines().filter(|line| line.starts_with("Ip:")).nth(1).expect("the values of the table");
    values.split_whitespace().nth(6).and_then(|value| value.parse().ok()).expect("ForwDatagrams")
}

fn follows_the_route(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let far = Ipv4Addr::new(10, 99, 0, 2);
    sites.b.ip("addr add 10.99.0.2/32 dev lo");
    sites.net.sysctl("net.ipv4.ip_forward", "1");
    for key in ["all", "br0"] {
        sites.net.sysctl(&format!("net.ipv4.conf.{key}.send_redirects"), "0");
    }
    sites.net.ip("route add 10.99.0.2 via 10.77.0.2");
    sites.a.ip("route add 10.99.0.2 via 10.77.0.254");
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    left.peers[0].endpoint = Some(SocketAddr::new(far.into(), PORT));
    right.peers[0].endpoint = None;
    right.start();
    left.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic through the router", SOON);
    let before = forwarded(&sites.net);
    flow.goes_on("more traffic through the router", SOON);
    assert!(forwarded(&sites.net) >= before + 20);
    sites.a.ip("route replace 10.99.0.2 via 10.77.0.2");
    flow.goes_on("traffic past the router", SOON);
    eventually("the router is left alone", SOON, || {
        let before = forwarded(&sites.net);
        flow.goes_on("traffic past the router", SOON);
        (forwarded(&sites.net) == before).then_some(())
    });
    let endpoint = left.show("endpoints");
    assert!(endpoint.ends_with("10.99.0.2:51820"), "answers came from the address that was asked: {endpoint}");
}

#[test]
fn a_changed_route_moves_the_traffic_of_sockets() {
    follows_the_route(Wan::Udp);
}

#[test]
fn a_changed_route_moves_the_traffic_of_rings() {
    follows_the_route(Wan::Xdp);
}

fn has_vlans(namespace: &Namespace) -> bool {
    namespace.try_run(&["ip", "link", "add", "link", "br0", "name", "probe", "type", "vlan", "id", "9"]).code == 0
}

/// Frames that a site sent are kept from the other one, tagged, and handed to it then: each has to be taken by the rings.
fn takes_tagged_frames(lab: &Lab, sites: &Sites) {
    let (_left, right) = started(lab, sites, Wan::Xdp, Outside::V4);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic before", SOON);
    let counters = || {
        let status = right.status();
        (status.peers[0].rx_packets, status.xdp_verdicts.get("redirected").copied().unwrap_or(0))
    };
    let one = [0x81, 0x00, 0x00, 0x64];
    let two = [0x88, 0xa8, 0x00, 0x0a, 0x81, 0x00, 0x00, 0x64];
    for tags in [&one[..], &two[..]] {
        sites.net.ip("link set pb nomaster");
        std::thread::sleep(Duration::from_millis(300));
        let (packets, redirected) = counters();
        let mut frame = capture_data(&sites.net, [10, 77, 0, 1].into(), [10, 77, 0, 2].into()).frame;
        frame.splice(12..12, tags.iter().copied());
        transmit(&sites.net, "pb", frame);
        eventually("the tagged frame is opened", SOON, || (counters() == (packets + 1, redirected + 1)).then_some(()));
        sites.net.ip("link set pb master br0");
        flow.goes_on("traffic after", SOON);
    }
}

#[test]
fn endpoints_behind_a_vlan_are_reached_by_rings() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    if !has_vlans(&sites.net) {
        // A kernel without VLAN interfaces: tags are put onto frames by hand.
        return takes_tagged_frames(&lab, &sites);
    }
    for (namespace, host) in [(&sites.a, 1), (&sites.b, 2)] {
        namespace.ip("link add link wan0 name wan0.100 type vlan id 100");
        namespace.ip(&format!("addr add 10.79.0.{host}/24 dev wan0.100"));
        namespace.ip("link set wan0.100 up");
    }
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Xdp), Program::Up(Wan::Xdp), Outside::V4);
    left.peers[0].endpoint = Some("10.79.0.2:51820".parse().expect("an address"));
    right.peers[0].endpoint = Some("10.79.0.1:51820".parse().expect("an address"));
    left.start();
    right.start();
    tcp_exchange(&sites.a, &sites.b, tunnel_v6(2), 4 << 20);
    for gateway in [&left, &right] {
        let status = gateway.status();
        let redirected = status.xdp_verdicts.get("redirected").copied().unwrap_or(0);
        assert!(redirected * 100 >= status.peers[0].rx_packets * 99, "{:?}", status.xdp_verdicts);
        assert!(status.peers[0].path.starts_with("xdp "), "{}", status.peers[0].path);
    }
}

#[test]
fn an_endpoint_inside_the_tunnel_is_refused_with_the_reason() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, _right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    left.peers[0].allowed_ips.push("10.77.0.2/32".to_owned());
    left.start();
    let path = eventually("a reason in the peer's path", SOON, || {
        let path = left.status().peers[0].path.clone();
        (path != "socket").then_some(path)
    });
    assert!(path.contains("tunnel"), "{path}");
}
