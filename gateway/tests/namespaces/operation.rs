//! What operators rely on: descriptors handed over, names that move, hosts with several addresses, default routes, floods.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use landbridge_xsk::{Tun, TunConfig};

use crate::lab::{
    Echo, Flow, Gateway, Lab, Namespace, Outside, PORT, Program, Sites, Veth, Wan, connected, eventually, landbridge,
    tunnel_v4, tunnel_v6, uapi_socket,
};

const SOON: Duration = Duration::from_secs(12);
const PACE: Duration = Duration::from_millis(5);

/// A program whose descriptors the test chose; it ends with the test.
struct Inheritor(Child);

impl Drop for Inheritor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Addresses, MTU and routes, as an operator of `wg` gives them.
fn set_up(gateway: &Gateway) {
    gateway.setconf("setconf");
    for address in &gateway.addresses {
        gateway.namespace.ip(&format!("addr add {address} dev {}", gateway.interface));
    }
    gateway.namespace.ip(&format!("link set {} mtu {} up", gateway.interface, gateway.mtu));
    for network in gateway.peers.iter().flat_map(|peer| &peer.allowed_ips) {
        gateway.namespace.ip(&format!("route replace {network} dev {}", gateway.interface));
    }
}

#[test]
fn a_tun_and_a_control_socket_that_somebody_else_opened_are_taken_over() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, mut right) = sites.gateways(&lab, Program::Uapi(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    right.start();
    let config = TunConfig { name: left.interface.clone(), queues: 1, offloads: false };
    let mut tun = sites.a.inside(move || Tun::create(&config)).expect("a tunnel interface");
    let queue = tun.queues.remove(0);
    let path = uapi_socket(&left.interface);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("the directory of control sockets");
    let listener = UnixListener::bind(&path).expect("a control socket");
    // Standard input and output are descriptors that no other child of this process inherits by chance.
    let mut child = Command::new("ip")
        .args(["netns", "exec", sites.a.name()])
        .arg(landbridge())
        .args(["wg", "--wan", "udp", &left.interface])
        .envs([("WG_TUN_FD", "0"), ("WG_UAPI_FD", "1"), ("WG_PROCESS_FOREGROUND", "1"), ("LOG_LEVEL", "error")])
        .stdin(Stdio::from(queue.as_fd().try_clone_to_owned().expect("a second descriptor")))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .spawn()
        .map(Inheritor)
        .expect("the program starts");
    drop((queue, tun));
    set_up(&left);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic", SOON);
    assert!(child.0.try_wait().expect("our own child").is_none(), "it stays in the foreground");
    sites.a.ip(&format!("link del {}", left.interface));
    eventually("the program ends", SOON, || child.0.try_wait().expect("our own child").filter(|end| end.success()));
    assert!(!path.exists(), "its socket goes with it");
}

#[test]
fn in_the_background_it_returns_when_it_is_ready_and_with_the_reason_when_it_fails() {
    let Some(lab) = Lab::open() else { return };
    let namespace = lab.namespace("a");
    let name = lab.interface('a');
    let program = landbridge();
    let wg = |name: &str| namespace.try_run(&[program.to_str().expect("text"), "wg", "--wan", "udp", name]);
    let output = wg(&name);
    assert!(output.code == 0 && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert!(namespace.run(&["wg", "show", &name]).contains("listening port"), "it answers as soon as it has returned");
    let output = wg(&name);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains(&name) && output.stderr.contains("exists already"), "{}", output.stderr);
    namespace.ip(&format!("link del {name}"));
    eventually("its socket goes", SOON, || (!uapi_socket(&name).exists()).then_some(()));
}

/// Files below /etc as programs in a namespace see them (`ip netns exec`).
struct Etc(PathBuf);

impl Etc {
    fn new(namespace: &Namespace) -> Self {
        let etc = Self(PathBuf::from("/etc/netns").join(namespace.name()));
        std::fs::create_dir_all(&etc.0).expect("a directory for the namespace");
        etc
    }

    /// Written in place: a program that runs sees the change.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a file of the namespace");
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_name_of_a_peer_that_falls_silent_is_resolved_again() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let etc = Etc::new(&sites.a);
    etc.write("nsswitch.conf", "hosts: files\n");
    etc.write("hosts", "10.77.0.99 far.test\n");
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    let peer = left.peers.remove(0);
    left.extra = format!(
        "\n[[peer]]\npublic_key = \"{}\"\npreshared_key = \"{}\"\nendpoint = \"far.test:{PORT}\"\nallowed_ips = [\"{}/32\"]\n",
        peer.public_key,
        peer.preshared_key.expect("a preshared key"),
        tunnel_v4(2),
    );
    right.peers[0].endpoint = None;
    right.start();
    left.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    eventually("the name is resolved", SOON, || left.show("endpoints").contains("10.77.0.99").then_some(()));
    etc.write("hosts", "10.77.0.2 far.test\n");
    flow.goes_on("traffic to where the name has moved", SOON);
    assert!(left.show("endpoints").ends_with(&format!("10.77.0.2:{PORT}")));
}

fn answers_from_the_address_that_was_asked(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    sites.b.ip("addr add 10.77.0.22/24 dev wan0");
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    left.peers[0].endpoint = Some(([10, 77, 0, 22], PORT).into());
    right.peers[0].endpoint = None;
    right.start();
    left.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic", SOON);
    // Packets from the other address would have moved the endpoint.
    assert!(left.show("endpoints").ends_with(&format!("10.77.0.22:{PORT}")), "{}", left.show("endpoints"));
    assert_eq!(right.status().peers[0].local, Some([10, 77, 0, 22].into()));
}

#[test]
fn a_host_with_two_addresses_answers_from_the_one_that_was_asked_over_sockets() {
    answers_from_the_address_that_was_asked(Wan::Udp);
}

#[test]
fn a_host_with_two_addresses_answers_from_the_one_that_was_asked_over_rings() {
    answers_from_the_address_that_was_asked(Wan::Xdp);
}

fn starts_again_at_once(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    right.start();
    left.start();
    for _ in 0..5 {
        // The kernel takes interface, port and program away a moment later.
        left.process().signal(nix::sys::signal::Signal::SIGKILL);
        left.start();
    }
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic", SOON);
}

#[test]
fn a_killed_gateway_may_be_started_again_at_once_over_sockets() {
    starts_again_at_once(Wan::Udp);
}

#[test]
fn a_killed_gateway_may_be_started_again_at_once_over_rings() {
    starts_again_at_once(Wan::Xdp);
}

fn outlives_its_wan_interface(user: Option<&str>) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let bridge = |inside: &str, outside: &str| {
        Veth { left: (&sites.a, inside), right: (&sites.net, outside), queues: 2 }.create();
        sites.net.ip(&format!("link set {outside} master br0"));
    };
    bridge("alt0", "palt");
    sites.a.ip("addr add 10.77.0.3/24 dev alt0 metric 4000");
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Xdp), Program::Up(Wan::Udp), Outside::V4);
    left.user = user.map(str::to_owned);
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic by the rings", SOON);
    let path = || left.status().peers[0].path.clone();
    eventually("the path uses the rings", SOON, || (path() == "xdp wan0").then_some(()));
    for times in 1..=2 {
        sites.a.ip("link del wan0");
        flow.goes_on("traffic by the other interface", SOON);
        let status = left.status();
        assert!(status.peers[0].path.starts_with("socket"), "{}", status.peers[0].path);
        assert!(status.wan.interfaces.is_empty() && status.wan.reason.contains("is gone"), "{:?}", status.wan);
        assert_eq!(status.wan.rings_lost, times);
        bridge("wan0", "pa");
        sites.a.ip("addr add 10.77.0.1/24 dev wan0");
        eventually("the path uses the rings again", SOON, || (path() == "xdp wan0").then_some(()));
        let redirected = || left.status().xdp_verdicts.get("redirected").copied().unwrap_or(0);
        let before = redirected();
        // The peer follows with the first packet that reaches it from there.
        eventually("packets come by the rings that are back", SOON, || (redirected() >= before + 20).then_some(()));
        flow.goes_on("traffic by the rings that are back", SOON);
        assert_eq!(left.status().wan.interfaces.len(), 1);
        assert!(!left.status().wan.reason.contains("is gone"));
    }
    // Down for a moment, and another name: the rings stay.
    sites.a.ip("link set wan0 down");
    flow.goes_on("traffic by the other interface", SOON);
    sites.a.ip("link set wan0 name wan7");
    sites.a.ip("link set wan7 up");
    eventually("the path uses the rings again", SOON, || (path() == "xdp wan7").then_some(()));
    flow.goes_on("traffic after it was down", SOON);
    assert_eq!(left.status().wan.interfaces[0].name, "wan7");
    assert_eq!(left.status().wan.rings_lost, 2);
    let process = left.process().clone();
    assert!(left.stop().success());
    assert!(!process.output().contains("did not come home"), "no frame is missing: {}", process.output());
}

#[test]
fn a_wan_interface_that_vanishes_and_comes_back_has_its_rings_again() {
    outlives_its_wan_interface(None);
}

#[test]
fn rings_come_back_also_to_a_gateway_that_has_left_root() {
    outlives_its_wan_interface(Some("nobody"));
}

fn takes_the_default_route(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    sites.b.ip("addr add 203.0.113.9/32 dev lo");
    sites.b.ip("addr add 2001:db8::9/128 dev lo");
    sites.a.ip("route add default via 10.77.0.254");
    sites.a.ip("-6 route add default via fd77::fe");
    let rules = || ["rule show", "-6 rule show"].map(|what| sites.a.ip(what));
    let before = rules();
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    left.peers[0].allowed_ips = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    right.start();
    left.start();
    assert!(rules().iter().all(|rules| rules.contains("fwmark") && rules.contains("suppress_prefixlength 0")));
    for address in ["203.0.113.9", "2001:db8::9"] {
        let echo = Echo::start(&sites.b, address.parse().expect("an address"));
        let flow = Flow::start(&sites.a, &echo, PACE);
        flow.goes_on("traffic by the tunnel's default route", SOON);
    }
    // More specific routes of the main table go on without the tunnel.
    let echo = Echo::start(&sites.net, [10, 77, 0, 254].into());
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic beside the tunnel", SOON);
    assert_eq!(right.status().peers[0].endpoint, Some(([10, 77, 0, 1], PORT).into()));
    // What a killed gateway leaves is taken away by the next one.
    left.crash();
    left.start();
    left.process().signal(nix::sys::signal::Signal::SIGHUP);
    assert!(left.process().wait(SOON).success(), "a terminal that closes ends it in order");
    assert_eq!(rules(), before, "rules before and after");
    assert!(sites.a.ip("route show default").contains("10.77.0.254"));
}

#[test]
fn a_peer_behind_the_default_route_gets_all_but_its_own_packets_over_sockets() {
    takes_the_default_route(Wan::Udp);
}

#[test]
fn a_peer_behind_the_default_route_gets_all_but_its_own_packets_over_rings() {
    takes_the_default_route(Wan::Xdp);
}

/// An initiation of nobody whose mac1 is right for this receiver.
fn initiation(public_key: &str, number: u32) -> Vec<u8> {
    let receiver = base64::engine::general_purpose::STANDARD.decode(public_key).expect("a key");
    let mut message: Vec<u8> = (0..148).map(|at| (at * 37 + number.to_le_bytes()[at % 4] as usize) as u8).collect();
    message[..4].copy_from_slice(&[1, 0, 0, 0]);
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver).finalize();
    let mac = <Blake2sMac<U16> as blake2::digest::KeyInit>::new_from_slice(&key).expect("a key of 32 bytes");
    let mac1 = mac.chain_update(&message[..116]).finalize().into_bytes();
    message[116..132].copy_from_slice(&mac1);
    message[132..].fill(0);
    message
}

#[test]
fn a_flood_of_garbage_and_of_handshakes_disturbs_no_session() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    left.start();
    right.start();
    connected_by_traffic(&sites, &left, &right);
    let echo = Echo::start(&sites.b, tunnel_v6(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic before", SOON);
    let handshake = right.last_handshake();
    let resident = right.process().usage().resident;
    let (sent_before, answered_before) = flow.counts();
    let messages: Vec<_> = (0..64).map(|number| initiation(&right.keys.public, number)).collect();
    let flooded = sites.net.inside(move || -> std::io::Result<u64> {
        let socket = UdpSocket::bind("10.77.0.254:0")?;
        let begin = Instant::now();
        let mut count = 0_u64;
        // 10,000 of either kind in each of three seconds, in rows of a millisecond.
        for tick in 1..=3000_u32 {
            for message in messages.iter().cycle().skip(tick as usize % 64).take(10) {
                socket.send_to(message, ("10.77.0.2", PORT))?;
                socket.send_to(&message[1..], ("10.77.0.2", PORT))?;
                count += 2;
            }
            if let Some(wait) = (begin + Duration::from_millis(tick.into())).checked_duration_since(Instant::now()) {
                std::thread::sleep(wait);
            }
        }
        Ok(count)
    });
    let (sent, answered) = flow.counts();
    let (sent, answered) = (sent - sent_before, answered - answered_before);
    assert_eq!(flooded.expect("a socket of the flood"), 60_000);
    flow.goes_on("traffic after", SOON);
    assert!(answered * 100 >= sent * 97, "{answered} of {sent} datagrams came back during the flood");
    assert_eq!(right.last_handshake(), handshake, "the session is the same");
    let grown = right.process().usage().resident.saturating_sub(resident);
    assert!(grown < 16 << 20, "{grown} bytes more are resident");
    let status = right.status();
    let refused: u64 = status.drops.values().sum();
    assert!(refused >= 10_000, "{:?}", status.drops);
}

/// Both sides have a session before the flood begins.
fn connected_by_traffic(sites: &Sites, left: &Gateway, right: &Gateway) {
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let _flow = Flow::start(&sites.a, &echo, PACE);
    connected(&[left, right], SOON);
}
