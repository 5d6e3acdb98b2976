//! A path that carries less than the tunnel's MTU, and tells nobody: what is larger than 1280 bytes vanishes on the way.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt;

use crate::lab::{
    Gateway, Homes, Lab, Namespace, Outside, Program, Wan, counted, eventually, host_v4, host_v6, tcp_exchange,
};

/// How long the search for the path's MTU may take on a busy machine.
const SEARCH: Duration = Duration::from_secs(20);
/// Inner packets of this size fit, over IPv4.
const FITS: usize = 1280 - 20 - 8 - 32;

/// Both gateways know how narrow the path is.
fn started(lab: &Lab, homes: &Homes, rings: bool) -> (Gateway, Gateway) {
    let (mut left, mut right) = match rings {
        true => homes.gateways(lab, Wan::Udp, Wan::Udp),
        false => homes.sites.gateways(lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4),
    };
    if !rings {
        for (gateway, other) in [(&mut left, 2), (&mut right, 1)] {
            gateway.peers[0].allowed_ips.extend([format!("192.168.{other}.0/24"), format!("fd92:{other}::/64")]);
        }
    }
    left.start();
    right.start();
    // Something has to be sent, or there is no session to probe in.
    let probe = homes.host_a.inside(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    probe.send_to(b"hello", (host_v4(2), 9)).expect("it is sent");
    for gateway in [&left, &right] {
        eventually("the path's MTU", SEARCH, || {
            let mtu = gateway.status().peers[0].paths.in_use.as_ref()?.mtu?;
            (1264..=1280).contains(&mtu).then_some(())
        });
    }
    (left, right)
}

/// Links that drop what is larger than 1280 bytes.
fn homes(lab: &Lab) -> Homes {
    let homes = Homes::build(lab, 1);
    for interface in ["pa", "pb", "br0"] {
        homes.sites.net.ip(&format!("link set {interface} mtu 1280"));
    }
    homes
}

/// Sends datagrams that must not be fragmented until the host's kernel knows that they are too large.
fn is_told(host: &Namespace, to: IpAddr, len: usize) {
    let bind = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = host.inside(move || UdpSocket::bind(bind)).expect("a socket");
    match to {
        IpAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO),
        IpAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DO),
    }
    .expect("the kernel has the option");
    if to.is_ipv6() {
        // Only with this does the kernel refuse instead of fragmenting.
        landbridge_xsk::udp::refuse_ipv6_fragments(std::os::fd::AsFd::as_fd(&socket))
            .expect("the kernel has the option");
    }
    let payload = vec![7; len];
    eventually("word that packets are too large", SEARCH, || {
        let refused = socket.send_to(&payload, (to, 9)).is_err_and(|error| error.raw_os_error() == Some(90));
        refused.then_some(())
    });
}

fn traffic_fits(rings: bool) {
    let Some(lab) = Lab::open() else { return };
    let homes = homes(&lab);
    let (left, _right) = started(&lab, &homes, rings);
    tcp_exchange(&homes.host_a, &homes.host_b, host_v4(2), 2 << 20);
    tcp_exchange(&homes.host_b, &homes.host_a, host_v6(1), 2 << 20);
    assert!(counted(&left, "mss_clamped") >= 2, "a SYN of the first connection, the answer to that of the second");
    assert_eq!(counted(&left, "tcp_cut"), 0, "no segment was too large to begin with");
    is_told(&homes.host_a, host_v4(2), FITS - 28 + 17);
    is_told(&homes.host_a, host_v6(2), 1300);
    assert!(counted(&left, "too_big_told") >= 2);
}

#[test]
fn hosts_learn_what_fits_a_narrow_path_by_the_tun() {
    traffic_fits(false);
}

#[test]
fn hosts_learn_what_fits_a_narrow_path_by_rings() {
    traffic_fits(true);
}
