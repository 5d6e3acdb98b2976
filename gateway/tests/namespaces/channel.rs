//! What gateways agree on over the control channel, and what others see of it.

use std::time::Duration;

use landbridge::status::ExtensionsStatus;

use crate::lab::{
    Echo, Gateway, Lab, Outside, Program, Sites, Wan, available, connected, eventually, tunnel_v4, udp_sizes,
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
        assert_eq!((known.version, known.features.as_slice()), (1, &["source_ports".to_owned()][..]));
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
fn a_stock_peer_hears_two_hellos_and_its_host_none() {
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
    assert_eq!((status.channel.messages_sent, status.channel.messages_received), (2, 0));
    assert_eq!(status.peers[0].extensions, None);
    // What it dropped never reached its interface: the echoes and what the kernel itself says are all there is.
    let counters = right.namespace.run(&["cat", &format!("/sys/class/net/{}/statistics/rx_packets", right.interface)]);
    assert!(counters.trim().parse::<u64>().expect("a number") <= 12, "{counters}");
}
