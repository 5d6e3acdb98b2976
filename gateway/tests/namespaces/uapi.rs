//! `landbridge wg` driven by the stock tools, as any userspace implementation is.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::lab::{
    Echo, Flow, Gateway, Keys, Lab, Outside, Program, Sites, Wan, eventually, tcp_exchange, tunnel_v4, tunnel_v6,
    uapi_socket, udp_sizes,
};

const SOON: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(5);

fn pair(lab: &Lab, sites: &Sites, wan: Wan) -> (Gateway, Gateway) {
    let (mut left, mut right) = sites.gateways(lab, Program::Uapi(wan), Program::Uapi(wan), Outside::V4);
    left.start();
    right.start();
    (left, right)
}

#[test]
fn wg_sets_and_shows_every_key() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, _right) = pair(&lab, &sites, Wan::Udp);
    let other = Keys::generate();
    let preshared = Keys::preshared();
    let preshared_file = lab.file("psk", &preshared);
    let private_file = lab.file("key", &other.private);
    let [preshared_file, private_file] = [&preshared_file, &private_file].map(|path| path.to_str().expect("text"));
    let peer = Keys::generate().public;

    assert_eq!(left.show("private-key"), left.keys.private);
    assert_eq!(left.show("public-key"), left.keys.public);
    assert_eq!(left.show("listen-port"), "51820");
    assert_eq!(left.show("fwmark"), "off");
    left.set(&["fwmark", "0xca6c", "listen-port", "4444", "private-key", private_file]);
    assert_eq!(left.show("fwmark"), "0xca6c");
    assert_eq!(left.show("listen-port"), "4444");
    assert_eq!(left.show("public-key"), other.public);
    left.set(&["fwmark", "0", "listen-port", "0"]);
    assert_eq!(left.show("fwmark"), "off");

    left.set(&[
        "peer",
        &peer,
        "preshared-key",
        preshared_file,
        "endpoint",
        "[fd77::9]:9999",
        "persistent-keepalive",
        "25",
        "allowed-ips",
        "10.1.0.0/16,fd01::/64,0.0.0.0/0",
    ]);
    let of_peer = |what: &str| {
        let text = left.show(what);
        let line = text.lines().find(|line| line.starts_with(&peer)).unwrap_or_else(|| panic!("no peer in {text}"));
        line.split_once('\t').expect("a tab").1.to_owned()
    };
    assert_eq!(of_peer("preshared-keys"), preshared);
    assert_eq!(of_peer("endpoints"), "[fd77::9]:9999");
    assert_eq!(of_peer("persistent-keepalive"), "25");
    assert_eq!(of_peer("latest-handshakes"), "0");
    assert_eq!(of_peer("transfer").split('\t').next(), Some("0"));
    let sorted = |text: String| {
        let mut words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        words.sort();
        words.join(" ")
    };
    assert_eq!(sorted(of_peer("allowed-ips")), "0.0.0.0/0 10.1.0.0/16 fd01::/64");
    // A network belongs to one peer: the other peer loses it.
    left.set(&["peer", &left.peers[0].public_key, "allowed-ips", "10.1.0.0/16"]);
    assert_eq!(sorted(of_peer("allowed-ips")), "0.0.0.0/0 fd01::/64");
    left.set(&["peer", &peer, "persistent-keepalive", "off", "allowed-ips", "", "preshared-key", "/dev/null"]);
    assert_eq!(of_peer("persistent-keepalive"), "off");
    assert_eq!(of_peer("allowed-ips"), "(none)");
    assert_eq!(of_peer("preshared-keys"), "(none)");
    left.set(&["peer", &peer, "remove"]);
    assert!(!left.show("peers").contains(&peer));

    // The whole configuration goes out and in again unchanged.
    left.setconf("syncconf");
    let shown = left.wg(&["showconf", &left.interface]);
    for line in [&left.keys.private, &left.peers[0].public_key, "ListenPort = 51820", "Endpoint = 10.77.0.2:51820"] {
        assert!(shown.contains(line), "{line} is missing in {shown}");
    }
    assert!(left.wg(&["show", "interfaces"]).contains(&left.interface));
    assert_eq!(left.wg(&["show", &left.interface, "dump"]).lines().count(), 2);
}

#[test]
fn nonsense_on_the_control_socket_is_refused_with_an_errno() {
    use std::io::{Read as _, Write as _};
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, _right) = pair(&lab, &sites, Wan::Udp);
    let shown = left.wg(&["showconf", &left.interface]);
    let zeros = "0".repeat(64);
    let long = format!("set=1\nprivate_key={}\n\n", "a".repeat(70_000));
    let requests = [
        "set=1\nlisten_port=70000\n\n".to_owned(),
        "set=1\nprivate_key=12\n\n".to_owned(),
        "set=1\nallowed_ip=10.0.0.0/8\n\n".to_owned(),
        format!("set=1\npublic_key={zeros}\nendpoint=nowhere\n\n"),
        format!("set=1\npublic_key={zeros}\nallowed_ip=10.0.0.0/33\n\n"),
        format!("set=1\npublic_key={zeros}\nprotocol_version=2\n\n"),
        "set=1\nnonsense=1\n\n".to_owned(),
        "frobnicate=1\n\n".to_owned(),
        long,
    ];
    for request in requests {
        let mut stream = std::os::unix::net::UnixStream::connect(uapi_socket(&left.interface)).expect("the socket");
        stream.set_read_timeout(Some(SOON)).expect("a time limit");
        // The gateway may hang up in the middle of what is too long.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let shown = &request[..request.len().min(60)];
        assert!(answer.is_empty() || answer.contains("errno="), "{shown:?}: {answer:?}");
        assert!(!answer.contains("errno=0"), "{shown:?} was taken");
    }
    assert_eq!(left.wg(&["showconf", &left.interface]), shown);
}

fn changes_under_traffic(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, right) = pair(&lab, &sites, wan);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic before", SOON);

    right.set(&["listen-port", "4500"]);
    let right_key = right.keys.public.clone();
    left.set(&["peer", &right_key, "endpoint", "10.77.0.2:4500"]);
    flow.goes_on("traffic to another port", SOON);

    left.set(&["peer", &right_key, "endpoint", "[fd77::2]:4500"]);
    flow.goes_on("traffic over IPv6", SOON);
    left.set(&["peer", &right_key, "endpoint", "10.77.0.2:4500"]);
    flow.goes_on("traffic over IPv4 again", SOON);

    let keys = Keys::generate();
    let file = lab.file("newkey", &keys.private);
    let (old, peer) = (&left.keys.public, &left.peers[0]);
    let preshared = lab.file("newpsk", peer.preshared_key.as_deref().expect("a preshared key"));
    let [file, preshared] = [&file, &preshared].map(|path| path.to_str().expect("text"));
    right.set(&["peer", old, "remove"]);
    let allowed = format!("{}/32,{}/128", tunnel_v4(1), tunnel_v6(1));
    right.set(&["peer", &keys.public, "preshared-key", preshared, "allowed-ips", &allowed]);
    left.set(&["private-key", file]);
    flow.goes_on("traffic with another private key", SOON);

    // Without the other's address among the allowed IPs its packets are no longer taken, nor ours sent.
    left.set(&["peer", &right_key, "allowed-ips", "10.123.0.0/16"]);
    std::thread::sleep(Duration::from_millis(200));
    let (_, before) = flow.counts();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(flow.counts().1, before);
    left.set(&["peer", &right_key, "allowed-ips", "10.88.0.2/32"]);
    flow.goes_on("traffic after the allowed IPs came back", SOON);
}

#[test]
fn port_key_endpoint_and_allowed_ips_change_under_traffic_over_sockets() {
    changes_under_traffic(Wan::Udp);
}

#[test]
fn port_key_endpoint_and_allowed_ips_change_under_traffic_over_rings() {
    changes_under_traffic(Wan::Xdp);
}

#[test]
fn another_preshared_key_counts_from_the_next_handshake() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, right) = pair(&lab, &sites, Wan::Udp);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic with the first key", SOON);
    let file = lab.file("other", &Keys::preshared());
    let file = file.to_str().expect("text");
    for (gateway, peer) in [(&left, &right), (&right, &left)] {
        gateway.set(&["peer", &peer.keys.public, "preshared-key", file]);
        // Setting the private key anew ends the sessions.
        let own = lab.file("own", &gateway.keys.private);
        gateway.set(&["private-key", own.to_str().expect("text")]);
    }
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic with the second key", SOON);
}

fn changes_its_mtu(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, right) = pair(&lab, &sites, wan);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    for (mtu, largest) in [(1420, 1392), (36_000, 35_972), (1280, 1252), (9000, 8972), (36_000, 35_000)] {
        for gateway in [&left, &right] {
            gateway.namespace.ip(&format!("link set {} mtu {mtu}", gateway.interface));
        }
        assert!(udp_sizes(&sites.a, &echo, [1, 500, largest - 17, largest - 1, largest]) <= 3, "MTU {mtu}");
        tcp_exchange(&sites.a, &sites.b, tunnel_v4(2), 2 << 20);
    }
}

#[test]
fn the_mtu_changes_up_to_36000_while_sockets_run() {
    changes_its_mtu(Wan::Udp);
}

#[test]
fn the_mtu_changes_up_to_36000_while_rings_run() {
    changes_its_mtu(Wan::Xdp);
}

fn moves_into_another_namespace(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let inner = lab.namespace("inner");
    let (left, _right) = pair(&lab, &sites, wan);
    sites.a.ip(&format!("link set {} netns {}", left.interface, inner.name()));
    for address in &left.addresses {
        inner.ip(&format!("addr add {address} dev {}", left.interface));
    }
    inner.ip(&format!("link set {} up", left.interface));
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    assert!(udp_sizes(&inner, &echo, 1..=200) <= 3);
    tcp_exchange(&inner, &sites.b, tunnel_v6(2), 4 << 20);
    assert!(left.process().ended().is_none());
    // It can still be configured from where it came from, and its MTU be changed where it is.
    left.set(&["peer", &left.peers[0].public_key, "persistent-keepalive", "20"]);
    inner.ip(&format!("link set {} mtu 1300", left.interface));
    assert!(udp_sizes(&inner, &echo, [1, 1000, 1272]) <= 3);
    inner.ip(&format!("link del {}", left.interface));
    left.process().wait(SOON);
}

#[test]
fn an_interface_moved_into_another_namespace_works_on_over_sockets() {
    moves_into_another_namespace(Wan::Udp);
}

#[test]
fn an_interface_moved_into_another_namespace_works_on_over_rings() {
    moves_into_another_namespace(Wan::Xdp);
}

#[test]
fn a_peer_may_have_130000_allowed_ips() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, _right) = pair(&lab, &sites, Wan::Udp);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic", SOON);
    for number in 0..130_000_u32 {
        let mut text = String::new();
        let [_, high, middle, low] = number.to_be_bytes();
        let _ = write!(text, "100.{}.{middle}.{low}/32", 64 + high);
        left.peers[0].allowed_ips.push(text);
    }
    let begin = Instant::now();
    left.setconf("syncconf");
    assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    assert_eq!(left.show("allowed-ips").split_whitespace().count(), 1 + 130_002);
    flow.goes_on("traffic beside many allowed IPs", SOON);
    sites.b.ip("addr add 100.65.250.207/32 dev lo");
    sites.a.ip(&format!("route add 100.64.0.0/10 dev {}", left.interface));
    let far = Echo::start(&sites.b, [100, 65, 250, 207].into());
    Flow::start(&sites.a, &far, PACE).goes_on("traffic to the last but one of them", SOON);
    left.peers[0].allowed_ips.truncate(2);
    left.setconf("syncconf");
    assert_eq!(left.show("allowed-ips").split_whitespace().count(), 3);
    flow.goes_on("traffic after they are gone", SOON);
}

#[test]
fn deleting_the_interface_or_its_socket_ends_the_program() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, right) = pair(&lab, &sites, Wan::Xdp);
    sites.a.ip(&format!("link del {}", left.interface));
    assert!(left.process().wait(SOON).success(), "{}", left.process().output());
    assert!(!uapi_socket(&left.interface).exists());
    assert!(!sites.a.ip("-d link show wan0").contains("prog/xdp"));
    std::fs::remove_file(uapi_socket(&right.interface)).expect("the socket is there");
    assert!(right.process().wait(SOON).success(), "{}", right.process().output());
    eventually("the interface goes", SOON, || (!sites.b.ip("-o link show").contains(&right.interface)).then_some(()));
}

#[test]
fn wg_quick_brings_a_tunnel_up_and_down() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Uapi(Wan::Udp), Program::Uapi(Wan::Udp), Outside::V4);
    right.start();
    let hook = lab.directory().join("hook");
    let addresses = left.addresses.join(", ");
    let hooks = format!(
        "Address = {addresses}\nMTU = 1380\nPostUp = echo up %i >> {0}\nPreDown = echo down %i >> {0}\n",
        hook.display()
    );
    left.peers[0].allowed_ips.push("192.168.60.0/24".to_owned());
    let text = left.wg_text().replacen("[Interface]\n", &format!("[Interface]\n{hooks}"), 1);
    let file = lab.file(&format!("{}.conf", left.interface), &text);
    let file = file.to_str().expect("text");
    let program = lab.directory().join("landbridge-wg");
    std::os::unix::fs::symlink(crate::lab::landbridge(), &program).expect("a link in the test's own directory");
    let implementation = format!("WG_QUICK_USERSPACE_IMPLEMENTATION={}", program.display());
    let quick = |command: &str| sites.a.run(&["env", &implementation, "LANDBRIDGE_WAN=udp", "wg-quick", command, file]);

    quick("up");
    assert!(sites.a.ip("route show").contains("192.168.60.0/24"));
    assert!(sites.a.ip(&format!("link show {}", left.interface)).contains("mtu 1380"));
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    assert!(udp_sizes(&sites.a, &echo, [1, 100, 1352]) <= 3);
    tcp_exchange(&sites.a, &sites.b, tunnel_v6(2), 4 << 20);
    let pid = left.status().pid;
    let stripped = sites.a.run(&["wg-quick", "strip", file]);
    let stripped = lab.file("stripped", &stripped);
    left.wg(&["syncconf", &left.interface, stripped.to_str().expect("text")]);
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic after syncconf", SOON);
    quick("down");
    eventually("the program ends", SOON, || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    assert!(!uapi_socket(&left.interface).exists());
    let name = &left.interface;
    assert_eq!(std::fs::read_to_string(&hook).expect("the hooks ran"), format!("up {name}\ndown {name}\n"));
}

#[test]
fn up_takes_a_configuration_of_wg_quick_as_it_is() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    right.start();
    let hook = lab.directory().join("hook");
    left.peers[0].allowed_ips.push("192.168.60.0/24".to_owned());
    let interface = format!(
        "[Interface]\nAddress = {}\nMTU = 1380\nTable = 77\nPreUp = echo pre-up %i >> {hook}\nPostUp = echo up %i >> {hook}\n\
         PreDown = echo down %i >> {hook}\nPostDown = echo post-down %i >> {hook}\n",
        left.addresses.join(", "),
        hook = hook.display(),
    );
    let file = lab.file(&format!("{}.conf", left.interface), &left.wg_text().replacen("[Interface]\n", &interface, 1));
    let program = crate::lab::landbridge();
    let process = sites.a.spawn(&program, &["up", "--wan", "udp", file.to_str().expect("text")], &[]);
    eventually("the last hook of the start", SOON, || {
        std::fs::read_to_string(&hook).ok().filter(|text| text.contains("\nup ")).map(drop)
    });
    assert!(sites.a.ip("route show table 77").contains("192.168.60.0/24"));
    assert!(!sites.a.ip("route show").contains("192.168.60.0/24"));
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    assert!(udp_sizes(&sites.a, &echo, [1, 100, 1352]) <= 3);
    assert!(process.terminate(SOON).success(), "{}", process.output());
    let name = &left.interface;
    let expected = format!("pre-up {name}\nup {name}\ndown {name}\npost-down {name}\n");
    assert_eq!(std::fs::read_to_string(&hook).expect("the hooks ran"), expected);
}
