//! What gateways agree on over the control channel, and what others see of it.

use std::net::Ipv4Addr;
use std::time::Duration;

use landbridge::status::ExtensionsStatus;

use crate::lab::{
    Echo, Flows, Gateway, Lab, Namespace, Outside, PORT, Program, Sites, Veth, Wan, available, connected, eventually,
    source_ports, tunnel_v4, udp_sizes,
};

const SOON: Duration = Duration::from_secs(5);

fn extensions(gateway: &Gateway) -> Option<ExtensionsStatus> {
    gateway.status().peers[0].extensions.clone()
}

#[test]
fn gateways_know_of_each_other_by_the_first_handshake() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Xdp), Program::Up(Wan::Udp), Outside::V4);
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    assert!(udp_sizes(&sites.a, &echo, 1..=10) <= 2);
    for gateway in [&left, &right] {
        let known = eventually("the peer's hello", SOON, || extensions(gateway));
        assert_eq!(
            (known.version, known.features.as_slice()),
            (1, &["source_ports".to_owned(), "paths".to_owned()][..])
        );
        assert_eq!((known.ports_out, known.ports_in), (1, 1), "an idle link needs no more");
        assert!(gateway.status().drops.is_empty(), "{:?}", gateway.status().drops);
    }
}

#[test]
fn a_peer_with_extensions_off_neither_speaks_nor_listens() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    // Its only peer's section is the last one.
    right.keys_of_last_peer = "extensions = false\n".to_owned();
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    assert!(udp_sizes(&sites.a, &echo, 1..=10) <= 2);
    let sent = eventually("a hello", SOON, || Some(left.status().channel.messages_sent).filter(|sent| *sent > 0));
    eventually("its drop", SOON, || (right.drops("source_not_allowed") == sent).then_some(()));
    assert_eq!((extensions(&left), extensions(&right)), (None, None));
    let channel = right.status().channel;
    assert_eq!((channel.messages_sent, channel.messages_received), (0, 0));
}

#[test]
fn a_stock_peer_hears_three_hellos_and_its_host_none() {
    if !available(Program::WireguardGo) {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::WireguardGo, Outside::V4);
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    assert!(udp_sizes(&sites.a, &echo, 1..=10) <= 2);
    connected(&[&left, &right], SOON);
    std::thread::sleep(Duration::from_secs(12));
    let status = left.status();
    assert_eq!((status.channel.messages_sent, status.channel.messages_received), (3, 0));
    assert_eq!(status.peers[0].extensions, None);
    // What it dropped never reached its interface: the echoes and what the kernel itself says are all there is.
    let counters = right.namespace.run(&["cat", &format!("/sys/class/net/{}/statistics/rx_packets", right.interface)]);
    assert!(counters.trim().parse::<u64>().expect("a number") <= 12, "{counters}");
}

/// Source ports beside the listen port in these tests: so many that chance does not hash all of them to one of two queues.
const BESIDE: usize = 12;
/// A link becomes busy and every port is proven within this time.
const SPREAD: Duration = Duration::from_secs(15);
const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

fn with_ports(gateways: [&mut Gateway; 2]) {
    for gateway in gateways {
        gateway.extra = format!("source_ports = {BESIDE}\n\n[lanes]\ncount = 2\n");
        gateway.start();
    }
}

/// Datagrams that each lane received from the wan.
fn received_by_lane(gateway: &Gateway) -> Vec<u64> {
    let counter = |lane: &landbridge::status::LaneStatus, name: &str| lane.counters.get(name).copied().unwrap_or(0);
    let lanes = gateway.status().lanes;
    lanes.iter().map(|lane| counter(lane, "wan_xdp_rx_packets") + counter(lane, "wan_socket_rx_packets")).collect()
}

/// Two sites on one link, on which the sender's queue is the receiver's: by the flow's hash, as a network card does it.
fn on_one_link(lab: &Lab) -> Sites {
    let sites = Sites { a: lab.namespace("a"), b: lab.namespace("b"), net: lab.namespace("net") };
    Veth { left: (&sites.a, "wan0"), right: (&sites.b, "wan0"), queues: 2 }.create();
    sites.a.ip(&format!("addr add {A}/24 dev wan0"));
    sites.b.ip(&format!("addr add {B}/24 dev wan0"));
    sites
}

fn spreads(a: Wan, b: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = if b == Wan::Xdp { on_one_link(&lab) } else { Sites::build(&lab) };
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(a), Program::Up(b), Outside::V4);
    with_ports([&mut left, &mut right]);
    let early = Flows::start(&sites.a, &sites.b, tunnel_v4(2), 24);
    eventually("all source ports", SPREAD, || {
        extensions(&left).filter(|known| known.ports_out == 1 + BESIDE).map(drop)
    });
    // Those under way keep their port until they pause. Others find their own once the ports have been in use for a moment.
    std::thread::sleep(Duration::from_secs(1));
    let flows = Flows::start(&sites.a, &sites.b, tunnel_v4(2), 24);
    let handshake = left.last_handshake();
    let (before, lanes_before) = (flows.counts(), received_by_lane(&right));
    let ports = source_ports(if b == Wan::Xdp { &sites.a } else { &sites.net }, A, B, Duration::from_secs(3));
    let (after, lanes_after) = (flows.counts(), received_by_lane(&right));
    // One that just lost packets to a busy machine is left alone for a while.
    assert!((BESIDE..=1 + BESIDE).contains(&ports.len()), "{ports:?}");
    // Every port is probed; flows have come to many of them.
    assert!(ports.values().filter(|packets| **packets > 50).count() >= BESIDE / 2, "{ports:?}");
    let lanes: Vec<u64> = lanes_after.iter().zip(&lanes_before).map(|(after, before)| after - before).collect();
    let arrived = after.1 - before.1;
    eprintln!("{a:?} to {b:?}: source ports {ports:?}, received by lane {lanes:?}, {arrived} arrived");
    assert!(lanes.iter().all(|packets| packets * 20 > arrived), "one link does not reach all lanes: {lanes:?}");
    // A machine that is busy with other tests drops some.
    assert!(arrived * 2 > after.0 - before.0, "{before:?} {after:?}");
    assert_eq!(after.2, before.2, "a flow's datagrams overtook each other");
    // Nothing of this is roaming, or seen on the way back.
    assert!(right.show("endpoints").ends_with(&format!(":{PORT}")));
    assert_eq!(left.last_handshake(), handshake);
    // A port that lost its probes to a busy machine is taken again.
    eventually("all ports known to the receiver, which uses none itself", SPREAD, || {
        extensions(&right).filter(|known| (known.ports_in, known.ports_out) == (1 + BESIDE, 1)).map(drop)
    });
    drop((early, flows));
    eventually("the main port alone on an idle link", Duration::from_secs(25), || {
        extensions(&left).filter(|known| known.ports_out == 1).map(drop)
    });
}

#[test]
fn the_flows_of_one_link_reach_all_lanes_of_a_gateway_with_sockets() {
    spreads(Wan::Udp, Wan::Udp);
}

#[test]
fn the_flows_of_one_link_reach_the_rings_of_all_lanes() {
    spreads(Wan::Udp, Wan::Xdp);
}

#[test]
fn the_flows_of_one_link_reach_all_lanes_from_a_gateway_with_rings() {
    spreads(Wan::Xdp, Wan::Udp);
}

#[test]
fn a_busy_stock_peer_sees_one_source_port() {
    if !available(Program::WireguardGo) {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::WireguardGo, Outside::V4);
    left.extra = format!("source_ports = {BESIDE}\n\n[lanes]\ncount = 2\n");
    left.start();
    right.start();
    let flows = Flows::start(&sites.a, &sites.b, tunnel_v4(2), 24);
    eventually("traffic", SOON, || (flows.counts().1 > 10_000).then_some(()));
    let ports = source_ports(&sites.net, A, B, Duration::from_secs(3));
    assert_eq!(ports.keys().copied().collect::<Vec<_>>(), [PORT]);
    assert!(left.status().channel.messages_sent <= 2);
}

/// Puts site b behind a NAT that keeps ports and lets answers in only from where something was sent to.
fn hide_behind_nat(net: &Namespace, b: &Namespace) {
    net.ip("link set pb nomaster");
    net.ip("addr add 192.168.50.1/24 dev pb");
    net.sysctl("net.ipv4.ip_forward", "1");
    net.run(&["nft", "add table ip nat"]);
    net.run(&["nft", "add chain ip nat post { type nat hook postrouting priority srcnat ; }"]);
    net.run(&["nft", "add rule ip nat post oifname br0 masquerade"]);
    b.ip("addr flush dev wan0 scope global");
    b.ip("addr add 192.168.50.2/24 dev wan0");
    b.ip("route add default via 192.168.50.1");
}

#[test]
fn a_nat_that_takes_one_port_alone_is_sent_one_port_and_may_itself_send_from_many() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    hide_behind_nat(&sites.net, &sites.b);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    left.peers[0].endpoint = None;
    with_ports([&mut left, &mut right]);
    let outwards = Flows::start(&sites.b, &sites.a, tunnel_v4(1), 24);
    eventually("all source ports through the NAT", SPREAD, || {
        extensions(&right).filter(|known| known.ports_out == 1 + BESIDE).map(drop)
    });
    let nat = Ipv4Addr::new(10, 77, 0, 254);
    assert_eq!(source_ports(&sites.net, nat, A, Duration::from_secs(3)).len(), 1 + BESIDE);
    drop(outwards);
    let inwards = Flows::start(&sites.a, &sites.b, tunnel_v4(2), 12);
    eventually("the verdict that they do not get in", SPREAD, || {
        extensions(&left).filter(|known| known.ports_refused).map(drop)
    });
    let before = inwards.counts();
    std::thread::sleep(Duration::from_secs(2));
    let after = inwards.counts();
    assert!((after.1 - before.1) * 2 > after.0 - before.0, "traffic goes on: {before:?} {after:?}");
    assert_eq!(extensions(&left).map(|known| known.ports_out), Some(1));
}
