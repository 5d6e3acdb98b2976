//! Hosts behind gateways whose lan side has rings: what is simply forwarded passes by the kernel, and everything else is the
//! kernel's as without rings.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::lab::{
    Echo, Flow, Gateway, Homes, Lab, Namespace, Veth, Wan, connected, counted, eventually, host_v4, host_v6,
    tcp_exchange, udp_sizes,
};

/// Bytes of each TCP stream, each way.
const STREAM: usize = 8 << 20;
/// How soon traffic has to follow a change.
const SOON: Duration = Duration::from_secs(12);
/// A datagram every few milliseconds.
const PACE: Duration = Duration::from_millis(5);

fn carries_everything(a: Wan, b: Wan) {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 2);
    let (mut left, mut right) = homes.gateways(&lab, a, b);
    left.start();
    right.start();
    for (there, back) in [(host_v4(2), host_v4(1)), (host_v6(2), host_v6(1))] {
        let echo = Echo::start(&homes.host_b, there);
        let repeated = udp_sizes(&homes.host_a, &echo, 1..=1372);
        assert!(repeated <= 2, "{repeated} datagrams got lost between idle gateways");
        tcp_exchange(&homes.host_a, &homes.host_b, there, STREAM);
        tcp_exchange(&homes.host_b, &homes.host_a, back, STREAM / 4);
    }
    connected(&[&left, &right], Duration::from_secs(1));
    for gateway in [&left, &right] {
        let status = gateway.status();
        let lan = &status.lan;
        assert_eq!((lan.backend.as_str(), lan.reason.as_str()), ("xdp", "configured"));
        assert_eq!((lan.interfaces[0].name.as_str(), lan.interfaces[0].queues), ("lan0", 2));
        for direction in ["rx", "tx"] {
            let all = counted(gateway, &format!("lan_{direction}_packets"));
            let by_rings = counted(gateway, &format!("lan_xdp_{direction}_packets"));
            assert!(by_rings * 100 >= all * 95, "{direction}: {by_rings} of {all} by rings: {:?}", status.lanes);
        }
    }
}

#[test]
fn lan_rings_beside_sockets_carry_everything() {
    carries_everything(Wan::Udp, Wan::Udp);
}

#[test]
fn lan_rings_beside_wan_rings_carry_everything() {
    carries_everything(Wan::Xdp, Wan::Xdp);
}

/// Datagrams one way, at a steady pace, with nothing coming back that would tell a gateway of its neighbour.
struct OneWay {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
}

impl OneWay {
    fn start(from: &Namespace, to: &Namespace, address: IpAddr) -> Self {
        let receiver = to.inside(move || UdpSocket::bind((address, 0))).expect("a port of the receiver");
        receiver.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        let target = receiver.local_addr().expect("a bound socket");
        let sender = from.inside(move || UdpSocket::bind("0.0.0.0:0")).expect("a socket of the sender");
        let one = Self { stop: Arc::default(), arrived: Arc::default() };
        let stop = Arc::clone(&one.stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // The way may be cut for a moment: that is what the test looks at.
                let _ = sender.send_to(b"one way", target);
                std::thread::sleep(PACE);
            }
        });
        let (stop, arrived) = (Arc::clone(&one.stop), Arc::clone(&one.arrived));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    arrived.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        one
    }

    #[track_caller]
    fn goes_on(&self, what: &str) {
        let before = self.arrived.load(Ordering::Relaxed);
        eventually(what, SOON, || (self.arrived.load(Ordering::Relaxed) >= before + 20).then_some(()));
    }
}

impl Drop for OneWay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A number of the kernel's, such as `Icmp` `InTimeExcds`.
fn number(namespace: &Namespace, table: &str, name: &str) -> u64 {
    let text = namespace.run(&["cat", "/proc/net/snmp", "/proc/net/snmp6"]);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.split_whitespace().next() == Some(name) {
            return line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).expect("a number");
        }
        if let Some(place) = line.split_whitespace().position(|field| field == name)
            && line.starts_with(&format!("{table}:"))
        {
            let values = lines.next().expect("values follow names");
            return values.split_whitespace().nth(place).and_then(|value| value.parse().ok()).expect("a number");
        }
    }
    panic!("the kernel has no {table} {name}");
}

/// Two running gateways, with sockets on the wan.
fn started(lab: &Lab, homes: &Homes) -> (Gateway, Gateway) {
    let (mut left, mut right) = homes.gateways(lab, Wan::Udp, Wan::Udp);
    left.start();
    right.start();
    (left, right)
}

/// So that neighbours are doubted within a test's patience.
fn doubts_quickly(gateway: &Namespace) {
    for (key, value) in
        [("base_reachable_time_ms", "1000"), ("delay_first_probe_time", "1"), ("retrans_time_ms", "200")]
    {
        gateway.sysctl(&format!("net.ipv4.neigh.lan0.{key}"), value);
    }
}

#[test]
fn every_gateway_on_the_way_is_a_hop_and_answers_for_the_last_one() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    let (_left, right) = started(&lab, &homes);
    for (target, table, received, sent) in [
        (host_v4(2), "Icmp", "InTimeExcds", "OutTimeExcds"),
        (host_v6(2), "Icmp6", "Icmp6InTimeExcds", "Icmp6OutTimeExcds"),
    ] {
        let echo = Echo::start(&homes.host_b, target);
        assert!(udp_sizes(&homes.host_a, &echo, [10, 20]) <= 1);
        for (hops, who) in [(1, &homes.sites.a), (2, &homes.sites.b)] {
            let before = (number(&homes.host_a, table, received), number(who, table, sent));
            hop_limited(&homes.host_a, echo.address, hops);
            eventually("the answer that its time is exceeded", SOON, || {
                let after = (number(&homes.host_a, table, received), number(who, table, sent));
                (after == (before.0 + 1, before.1 + 1)).then_some(())
            });
        }
        let before = number(&homes.host_b, "Udp", if target.is_ipv4() { "InDatagrams" } else { "Udp6InDatagrams" });
        hop_limited(&homes.host_a, echo.address, 3);
        eventually("the third hop is the host", SOON, || {
            let after = number(&homes.host_b, "Udp", if target.is_ipv4() { "InDatagrams" } else { "Udp6InDatagrams" });
            (after == before + 1).then_some(())
        });
    }
    assert_eq!(counted(&right, "lan_kernel_hop_limit"), 2);
}

/// One datagram that may take so many hops.
fn hop_limited(from: &Namespace, to: SocketAddr, hops: u32) {
    let sent = from.inside(move || -> std::io::Result<()> {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        match to {
            SocketAddr::V4(_) => socket.set_ttl(hops)?,
            SocketAddr::V6(_) => {
                nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6Ttl, &(hops as i32))?;
            }
        }
        socket.send_to(b"how far?", to).map(drop)
    });
    sent.unwrap_or_else(|error| panic!("a datagram of {hops} hops: {error}"));
}

#[test]
fn a_host_that_changes_its_mac_address_in_silence_is_found_again() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    doubts_quickly(&homes.sites.b);
    let (_left, right) = started(&lab, &homes);
    let flow = OneWay::start(&homes.host_a, &homes.host_b, host_v4(2));
    flow.goes_on("traffic before");
    homes.host_b.ip("link set eth0 address 02:00:00:00:92:02");
    flow.goes_on("traffic to the other MAC address");
    let by_rings = || counted(&right, "lan_xdp_tx_packets");
    let before = by_rings();
    eventually("rings carry it", SOON, || (by_rings() > before + 20).then_some(()));
}

#[test]
fn a_host_that_is_used_stays_resolved_and_the_rings_never_pause() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    doubts_quickly(&homes.sites.b);
    let (_left, right) = started(&lab, &homes);
    let flow = OneWay::start(&homes.host_a, &homes.host_b, host_v4(2));
    flow.goes_on("traffic");
    let by_kernel = || counted(&right, "lan_kernel_unresolved");
    let before = by_kernel();
    // Several times what the kernel takes for fresh.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_secs(1));
        flow.goes_on("traffic to a host that says nothing");
    }
    assert_eq!(by_kernel(), before);
    let state = homes.sites.b.ip("neigh show 192.168.2.2 dev lan0");
    assert!(!state.contains("FAILED") && state.contains("lladdr"), "{state}");
}

#[test]
fn a_host_that_is_gone_is_reported_unreachable_and_found_when_it_is_back() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    doubts_quickly(&homes.sites.b);
    let (_left, _right) = started(&lab, &homes);
    let flow = OneWay::start(&homes.host_a, &homes.host_b, host_v4(2));
    flow.goes_on("traffic before");
    let unreachable = || number(&homes.host_a, "Icmp", "InDestUnreachs");
    let before = unreachable();
    homes.host_b.ip("link set eth0 arp off");
    homes.host_b.ip("link set eth0 address 02:00:00:00:92:03");
    eventually("the gateway says that the host is unreachable", SOON, || (unreachable() > before).then_some(()));
    homes.host_b.ip("link set eth0 arp on");
    flow.goes_on("traffic to the host that is back");
}

#[test]
fn routes_by_a_router_of_the_lan_are_followed_as_they_come_and_go() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    homes.host_b.ip("addr add 10.55.0.9/32 dev lo");
    homes.sites.b.ip("route add 10.55.0.0/16 via 192.168.2.2");
    let (mut left, mut right) = homes.gateways(&lab, Wan::Udp, Wan::Udp);
    left.peers[0].allowed_ips.push("10.55.0.0/16".to_owned());
    left.start();
    right.start();
    let echo = Echo::start(&homes.host_b, "10.55.0.9".parse().expect("an address"));
    let flow = Flow::start(&homes.host_a, &echo, PACE);
    flow.goes_on("traffic through the router", SOON);
    let by_rings = || counted(&right, "lan_xdp_tx_packets");
    let before = by_rings();
    eventually("rings carry it", SOON, || (by_rings() > before + 20).then_some(()));
    homes.sites.b.ip("route add unreachable 10.55.0.0/24");
    let unreachable = || number(&homes.host_a, "Icmp", "InDestUnreachs");
    let before = unreachable();
    eventually("the kernel's refusal", SOON, || (unreachable() > before).then_some(()));
    homes.sites.b.ip("route del unreachable 10.55.0.0/24");
    flow.goes_on("traffic through the router again", SOON);
}

#[test]
fn packets_too_long_for_the_lan_are_answered_by_the_kernel() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    homes.sites.b.ip("link set lan0 mtu 1280");
    homes.host_b.ip("link set eth0 mtu 1280");
    // The host sends what fits, and promises to receive more, as it would with a smaller link before it.
    homes.host_b.ip("route replace default via 192.168.2.1 advmss 1460");
    homes.host_b.ip("route replace default via fd92:2::1 advmss 1440");
    let (_left, right) = started(&lab, &homes);
    for address in [host_v4(2), host_v6(2)] {
        // Until lanes know the neighbour everything is the kernel's, which would answer the first long packet for another reason.
        let echo = Echo::start(&homes.host_b, address);
        let before = counted(&right, "lan_xdp_tx_packets");
        eventually("rings carry short packets", SOON, || {
            udp_sizes(&homes.host_a, &echo, [20]);
            (counted(&right, "lan_xdp_tx_packets") > before).then_some(())
        });
        let before = counted(&right, "lan_kernel_too_long");
        tcp_exchange(&homes.host_a, &homes.host_b, address, STREAM / 4);
        assert!(counted(&right, "lan_kernel_too_long") > before, "{address}");
    }

    assert!(number(&homes.host_a, "Icmp6", "Icmp6InPktTooBigs") > 0);
    assert!(number(&homes.host_a, "Icmp", "InDestUnreachs") > 0);
}

#[test]
fn gateways_themselves_and_their_hosts_reach_each_other() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    let (_left, right) = started(&lab, &homes);
    let lan_of_b: IpAddr = [192, 168, 2, 1].into();
    tcp_exchange(&homes.host_a, &homes.sites.b, lan_of_b, STREAM / 4);
    homes.host_b.ip("route add 10.88.0.0/24 via 192.168.2.1");
    tcp_exchange(&homes.sites.a, &homes.host_b, host_v4(2), STREAM / 4);
    assert!(counted(&right, "lan_kernel_special") > 0, "packets for the gateway itself are the kernel's");
}

#[test]
fn a_default_route_into_the_tunnel_leaves_connected_networks_to_the_kernel() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    homes.sites.net.ip("route add 192.168.1.0/24 via 10.77.0.1");
    let (mut left, mut right) = homes.gateways(&lab, Wan::Udp, Wan::Udp);
    left.peers[0].allowed_ips = vec!["0.0.0.0/0".to_owned()];
    left.start();
    right.start();
    tcp_exchange(&homes.host_a, &homes.host_b, host_v4(2), STREAM / 4);
    let by_tunnel = counted(&left, "lan_rx_packets");
    assert!(counted(&left, "lan_xdp_rx_packets") * 100 >= by_tunnel * 95);
    let echo = Echo::start(&homes.sites.net, [10, 77, 0, 254].into());
    assert!(udp_sizes(&homes.host_a, &echo, 1..=100) <= 1);
    assert!(counted(&left, "lan_rx_packets") < by_tunnel + 50, "what is connected does not go through the tunnel");
}

#[test]
fn an_interface_of_the_lan_that_vanishes_gets_its_rings_back_when_it_returns() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    let (_left, right) = started(&lab, &homes);
    let echo = Echo::start(&homes.host_b, host_v4(2));
    let flow = Flow::start(&homes.host_a, &echo, PACE);
    flow.goes_on("traffic before", SOON);
    homes.sites.b.ip("link del lan0");
    eventually("the loss is told", SOON, || {
        let lan = right.status().lan;
        (lan.rings_lost == 1 && lan.interfaces.is_empty() && lan.reason.contains("lan0")).then_some(())
    });
    homes.connect(&homes.sites.b, &homes.host_b, 2, 1);
    flow.goes_on("traffic after", SOON);
    let by_rings = || counted(&right, "lan_xdp_tx_packets");
    let before = by_rings();
    eventually("rings carry it", SOON, || (by_rings() > before + 20).then_some(()));
}

#[test]
fn a_gateway_that_ends_or_is_killed_leaves_no_program_on_the_lan() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    let (mut left, _right) = started(&lab, &homes);
    let echo = Echo::start(&homes.host_b, host_v4(2));
    let flow = Flow::start(&homes.host_a, &echo, PACE);
    flow.goes_on("traffic before", SOON);
    let has_program = || homes.sites.a.ip("link show lan0").contains("xdp");
    assert!(has_program());
    left.crash();
    eventually("the kernel takes the program away", SOON, || (!has_program()).then_some(()));
    left.start();
    flow.goes_on("traffic after a crash", SOON);
    assert!(left.stop().success());
    assert!(!has_program());
    left.start();
    flow.goes_on("traffic after a restart", SOON);
}

fn spreads(lanes: u32, lan_queues: u32, wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, lan_queues);
    let (mut left, mut right) = homes.gateways(&lab, wan, wan);
    for gateway in [&mut left, &mut right] {
        gateway.extra += &format!("\n[lanes]\ncount = {lanes}\n");
        gateway.start();
    }
    for address in [host_v4(2), host_v6(2)] {
        tcp_exchange(&homes.host_a, &homes.host_b, address, STREAM / 4);
    }
    for gateway in [&left, &right] {
        assert_eq!(gateway.status().lan.interfaces[0].queues, lan_queues);
        assert!(counted(gateway, "lan_xdp_rx_packets") > 1000);
        assert_eq!(counted(gateway, "lan_kernel_no_ring"), 0);
    }
}

#[test]
fn one_lane_serves_all_queues_of_both_sides() {
    spreads(1, 4, Wan::Xdp);
}

#[test]
fn lanes_beyond_the_queues_of_the_lan_leave_its_packets_to_those_with_rings() {
    spreads(3, 1, Wan::Xdp);
    spreads(3, 1, Wan::Udp);
}

#[test]
fn two_interfaces_of_the_lan_have_rings_and_reach_each_other_by_the_kernel() {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 1);
    let host_c = lab.namespace("hostc");
    Veth { left: (&homes.sites.b, "lan1"), right: (&host_c, "eth0"), queues: 1 }.create();
    homes.sites.b.ip("addr add 192.168.3.1/24 dev lan1");
    host_c.ip("addr add 192.168.3.2/24 dev eth0");
    host_c.ip("route add default via 192.168.3.1");
    let (mut left, mut right) = homes.gateways(&lab, Wan::Udp, Wan::Udp);
    left.peers[0].allowed_ips.push("192.168.3.0/24".to_owned());
    right.extra = right.extra.replace("\"lan0\"", "\"lan0\", \"lan1\"");
    left.start();
    right.start();
    tcp_exchange(&homes.host_a, &host_c, host_v4(3), STREAM / 4);
    tcp_exchange(&host_c, &homes.host_b, host_v4(2), STREAM / 4);
    assert!(counted(&right, "lan_xdp_tx_packets") > 1000);
    assert_eq!(right.status().lan.interfaces.len(), 2);
}
