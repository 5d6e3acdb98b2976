//! The laboratory of NATs itself: each kind behaves as it is called, and each fault is one.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use landbridge::lab::namespace::Namespace;
use landbridge::lab::nat::port_mapper::{PortMapper, Protocols};
use landbridge::lab::nat::prober::Prober;
use landbridge::lab::nat::responder::Responder;
use landbridge::lab::nat::stun_server::StunServer;
use landbridge::lab::nat::{Access, Behaviour, Internet, Kind, Server, Site};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery as V4, Ipv6PathMtuDiscovery as V6};

use crate::lab::{Gateway, Keys, Lab, PORT, Peer, Program, Wan, tcp_exchange, tunnel_v4};

/// An internet with a server that answers.
struct World {
    internet: Internet,
    server: Server,
    responder: Responder,
}

impl World {
    #[track_caller]
    fn new(lab: &Lab) -> Self {
        let mut internet = lab.internet();
        let server = internet.server("server").expect("a server");
        let responder = Responder::start(&server).expect("a responder");
        Self { internet, server, responder }
    }

    #[track_caller]
    fn site(&mut self, role: &str, accesses: &[Access]) -> Site {
        self.internet.site(role, accesses).expect("a site")
    }

    fn prober<'w>(&self, site: &'w Site) -> Prober<'w> {
        Prober::new(&site.gateway, &self.responder)
    }
}

#[test]
fn every_kind_of_nat_maps_and_filters_as_it_is_called() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        let server = [world.server.address(), world.server.second()];
        let site = world.site(&format!("s{number}"), &[Access::new(kind).allowing(server)]);
        let prober = world.prober(&site);
        assert_eq!(prober.mapping().expect("a socket"), Some(kind.mapping()), "{kind}");
        assert_eq!(prober.filtering().expect("a socket"), Some(kind.filtering()), "{kind}");
        assert_eq!(prober.public().expect("a mapping"), site.uplinks[0].public, "{kind}");
        assert_eq!(prober.hairpin().expect("a mapping"), kind == Kind::None, "{kind}");
    }
}

#[test]
fn hairpinning_can_be_had_with_every_mapping() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    for kind in [Kind::FullCone, Kind::AddressRestricted, Kind::PortRestricted] {
        let site = world.site(&format!("h{}", kind as u8), &[Access::new(kind).hairpin()]);
        let prober = world.prober(&site);
        assert!(prober.hairpin().expect("a mapping"), "{kind}");
        assert_eq!(prober.mapping().expect("a socket"), Some(kind.mapping()), "{kind}");
        assert_eq!(prober.filtering().expect("a socket"), Some(kind.filtering()), "{kind}");
    }
}

#[test]
fn blocked_udp_gets_out_to_nobody_but_those_of_the_list() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let allowed = world.internet.server("allowed").expect("a server");
    let responder = Responder::start(&allowed).expect("a responder");
    let access = Access::new(Kind::Blocked).allowing([allowed.address(), allowed.second()]);
    let site = world.site("s", &[access]);
    assert_eq!(world.prober(&site).mapping().expect("a socket"), None);
    let prober = Prober::new(&site.gateway, &responder);
    assert_eq!(prober.mapping().expect("a socket"), Some(Behaviour::EndpointIndependent));
}

#[test]
fn a_binding_lives_as_long_as_it_was_told() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    for kind in [Kind::PortRestricted, Kind::FullCone] {
        let access = Access::new(kind).lifetime(Duration::from_secs(3));
        let site = world.site(&format!("s{}", kind as u8), &[access]);
        let prober = world.prober(&site);
        assert!(prober.lives(Duration::from_millis(1500)).expect("a mapping"), "{kind}");
        assert!(!prober.lives(Duration::from_millis(4500)).expect("a mapping"), "{kind}");
    }
}

#[test]
fn an_address_that_changes_is_another_one_at_once() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    for kind in [Kind::None, Kind::PortRestricted, Kind::Cgnat] {
        let mut site = world.site(&format!("s{}", kind as u8), &[Access::new(kind)]);
        let first = world.prober(&site).public().expect("a mapping");
        let second = site.change_address(0).expect("another address");
        assert_ne!(first, second, "{kind}");
        assert_eq!(world.prober(&site).public().expect("a mapping"), second, "{kind}");
        assert_eq!(site.change_address(0).expect("the first address"), first, "{kind}");
        assert_eq!(world.prober(&site).public().expect("a mapping"), first, "{kind}");
    }
}

#[test]
fn an_uplink_is_lost_with_and_without_its_link() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let both = [Access::new(Kind::PortRestricted), Access::new(Kind::None)];
    let site = world.site("s", &both);
    let out = |world: &World| world.prober(&site).mapping().expect("a socket").is_some();
    let first = &site.uplinks[0];
    assert!(out(&world));
    world.internet.cut(first).expect("a fault");
    assert!(!out(&world));
    world.internet.mend(first).expect("no fault");
    assert!(out(&world));
    world.internet.unplug(first).expect("a fault");
    assert!(!out(&world));
    world.internet.plug(first).expect("no fault");
    assert!(out(&world));
    let of_second = world.responder.places()[0];
    let from = SocketAddr::from((site.uplinks[1].link.address(), 0));
    let seen = site.gateway.run(move || Ok(bound(from, of_second)));
    assert!(seen.expect("a namespace"), "the second uplink has an address that the internet routes to");
}

/// Whether an answer comes back to a socket that is bound to an address, whatever way its questions go.
fn bound(from: SocketAddr, to: SocketAddr) -> bool {
    let socket = UdpSocket::bind(from).expect("an address of the gateway");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time limit");
    socket.send_to(b"answer 1", to).expect("a route");
    socket.recv(&mut [0; 64]).is_ok()
}

#[test]
fn two_sites_are_parted_and_each_still_reaches_the_server() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let (a, b) = (world.site("a", &[Access::new(Kind::None)]), world.site("b", &[Access::new(Kind::None).dual()]));
    let reaches =
        |from: &Site, to: &Site| arrives(&from.gateway, &to.gateway, (to.uplinks[0].public, 9000).into(), 100, false);
    assert!(reaches(&a, &b) && reaches(&b, &a));
    world.internet.part(&a.uplinks[0], &b.uplinks[0]).expect("a fault");
    assert!(!reaches(&a, &b) && !reaches(&b, &a));
    assert!(world.prober(&a).mapping().expect("a socket").is_some());
    world.internet.join().expect("no fault");
    assert!(reaches(&a, &b));
}

#[test]
fn a_narrow_path_is_narrow_both_ways_and_says_so_or_not() {
    let Some(lab) = Lab::open() else { return };
    for (icmp, mtu) in [(true, 1280), (false, 1280)] {
        let mut world = World::new(&lab);
        let site = world.site("a", &[Access::new(Kind::PortRestricted)]);
        let other = world.site("b", &[Access::new(Kind::None).dual()]);
        let place = |port: u16| SocketAddr::from((other.uplinks[0].public, port));
        assert!(arrives(&site.gateway, &other.gateway, place(9001), 1472, true), "a wide path");
        world.internet.narrow(mtu, icmp).expect("routes");
        assert!(arrives(&site.gateway, &other.gateway, place(9002), 1280 - 28, true), "what fits");
        assert!(!arrives(&site.gateway, &other.gateway, place(9003), 1281 - 28, true), "what does not");
        assert!(arrives(&site.gateway, &other.gateway, place(9004), 1472, false), "what may be cut into fragments");
        assert_eq!(says_too_big(&site.gateway, place(9005)), icmp);
        assert_eq!(says_too_big(&other.gateway, (site.uplinks[0].public, 9006).into()), icmp);
        let to_server = SocketAddr::from((world.server.link.address_v6(), 9007));
        assert_eq!(says_too_big(&other.gateway, to_server), icmp, "IPv6");
        assert!(!arrives(&other.gateway, &world.server.namespace, to_server, 1281 - 48, true), "IPv6");
        assert!(arrives(&other.gateway, &world.server.namespace, to_server, 1280 - 48, true), "IPv6");
    }
}

#[test]
fn ipv6_is_routed_behind_a_router_that_answers_no_stranger() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let inner = world.site("a", &[Access::new(Kind::PortRestricted).dual()]);
    let outer = world.site("b", &[Access::new(Kind::None).ipv6_only()]);
    let place = |site: &Site, port: u16| SocketAddr::from((site.uplinks[0].link.address_v6(), port));
    assert!(arrives(&inner.gateway, &outer.gateway, place(&outer, 9001), 100, false), "from the inside");
    assert!(!arrives(&outer.gateway, &inner.gateway, place(&inner, 9002), 100, false), "unasked");
    let alone = world.site("c", &[Access::new(Kind::Symmetric).ipv6_only()]);
    assert!(arrives(&alone.gateway, &outer.gateway, place(&outer, 9003), 100, false), "IPv6 alone behind a router");
    assert_eq!(world.prober(&outer).mapping().expect("a socket"), None, "IPv4 of a site that has none");
}

#[test]
fn sites_behind_one_router_are_neighbours() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let mut one = world.site("a", &[Access::new(Kind::PortRestricted)]);
    let other = world.internet.neighbour("b", one.uplinks[0].inner_router()).expect("a site");
    assert_eq!(world.prober(&one).public().expect("a mapping"), world.prober(&other).public().expect("a mapping"));
    let place = SocketAddr::from((other.uplinks[0].link.address(), 9001));
    assert!(arrives(&one.gateway, &other.gateway, place, 1472, true));
}

#[test]
fn coturn_answers_on_two_addresses_and_two_ports() {
    let Some(lab) = Lab::open() else { return };
    let world = World::new(&lab);
    StunServer::start(&world.server).expect("package coturn");
}

#[test]
fn miniupnpd_maps_a_port_that_strangers_reach() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let site = world.site("a", &[Access::new(Kind::PortRestricted).mappable()]);
    let outer = world.site("b", &[Access::new(Kind::None)]);
    let inside = SocketAddr::from((site.uplinks[0].link.address(), 9000));
    let outside = SocketAddr::from((site.uplinks[0].public, 9500));
    assert!(!translated(&outer.gateway, &site.gateway, outside, inside), "before");
    let router = &site.uplinks[0].routers[0];
    let _mapper = PortMapper::start(router, Protocols::All).expect("package miniupnpd-nftables");
    let gateway = SocketAddr::from((site.uplinks[0].link.upper(), 5351));
    let port = site.gateway.run(move || Ok(map_by_nat_pmp(gateway, 9000, 9500))).expect("an answer");
    assert_eq!(port, 9500);
    assert!(translated(&outer.gateway, &site.gateway, outside, inside), "after");
}

#[test]
fn a_gateway_behind_a_symmetric_nat_is_reached_by_roaming() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let site = world.site("a", &[Access::new(Kind::Symmetric)]);
    let other = world.site("b", &[Access::new(Kind::None)]);
    let keys = (Keys::generate(), Keys::generate());
    let make = |site: &Site, role, keys: &Keys, other: &Keys, hosts: (u8, u8), endpoint| {
        let mut gateway = Gateway::new(&lab, &lab.adopt(&site.gateway), Program::Up(Wan::Udp), role, keys.clone());
        gateway.addresses = vec![format!("{}/24", tunnel_v4(hosts.0))];
        gateway.port = PORT;
        gateway.peers = vec![Peer {
            public_key: other.public.clone(),
            preshared_key: None,
            endpoint,
            allowed_ips: vec![format!("{}/32", tunnel_v4(hosts.1))],
            keepalive: None,
        }];
        gateway.start();
        gateway
    };
    let place = SocketAddr::from((other.uplinks[0].public, PORT));
    let right = make(&other, 'b', &keys.1, &keys.0, (2, 1), None);
    let left = make(&site, 'a', &keys.0, &keys.1, (1, 2), Some(place));
    tcp_exchange(&left.namespace, &right.namespace, tunnel_v4(2), 1 << 16);
    let endpoint = right.status().peers[0].endpoint.expect("an endpoint that was learned");
    assert_eq!(endpoint.ip(), site.uplinks[0].public);
    assert_ne!(endpoint.port(), PORT, "the NAT changes ports");
}

/// Asks for a mapping of a UDP port by NAT-PMP (RFC 6886, section 3.3), and returns the port outside.
fn map_by_nat_pmp(router: SocketAddr, inside: u16, outside: u16) -> u16 {
    let mut request = vec![0, 1, 0, 0];
    request.extend(inside.to_be_bytes().into_iter().chain(outside.to_be_bytes()).chain(600_u32.to_be_bytes()));
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
    socket.send_to(&request, router).expect("a route");
    let mut answer = [0; 16];
    assert_eq!(socket.recv(&mut answer).expect("an answer"), 16);
    assert_eq!(answer[..4], [0, 129, 0, 0], "the mapping is granted");
    u16::from_be_bytes([answer[10], answer[11]])
}

/// Whether a datagram to a place outside reaches another one inside.
fn translated(from: &Namespace, to: &Namespace, outside: SocketAddr, inside: SocketAddr) -> bool {
    let listener = listen(to, inside);
    let sender = from.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).expect("a socket");
    sender.send_to(b"knock", outside).is_ok() && listener.recv(&mut [0; 64]).is_ok()
}

fn listen(namespace: &Namespace, place: SocketAddr) -> UdpSocket {
    let listener = namespace.run(move || Ok(UdpSocket::bind(place)?)).expect("an address of that namespace");
    listener.set_read_timeout(Some(Duration::from_millis(300))).expect("a time limit");
    listener
}

/// Whether a datagram of so many bytes reaches a place in another namespace; whole, where it must not be cut into
/// fragments.
fn arrives(from: &Namespace, to: &Namespace, place: SocketAddr, size: usize, whole: bool) -> bool {
    let listener = listen(to, place);
    let sender = sender(from, place, if whole { (V4::PROBE, V6::PROBE) } else { (V4::DONT, V6::DONT) });
    // A neighbour that is asked for the first time may take a while on a busy machine.
    (0..4).any(|_| {
        sender.send_to(&vec![7; size], place).is_ok()
            && listener.recv(&mut [0; 2048]).is_ok_and(|length| length == size)
    })
}

/// Whether the path says that a datagram was too big, so that the kernel knows it for the next one.
fn says_too_big(from: &Namespace, place: SocketAddr) -> bool {
    let sender = sender(from, place, (V4::DO, V6::DO));
    sender.connect(place).expect("a route");
    let sent: Vec<bool> = (0..5)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            sender.send(&[7; 1400]).is_ok()
        })
        .collect();
    sent.contains(&false)
}

fn sender(from: &Namespace, place: SocketAddr, discovery: (V4, V6)) -> UdpSocket {
    let any = if place.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = from.run(move || Ok(UdpSocket::bind(any)?)).expect("a socket");
    let set = if place.is_ipv4() {
        sockopt::set_ip_mtu_discover(&sender, discovery.0)
    } else {
        sockopt::set_ipv6_mtu_discover(&sender, discovery.1)
    };
    set.expect("an option of UDP sockets");
    sender
}
