//! Candidates and `landbridge netcheck` behind every kind of NAT, with coturn and miniupnpd as real servers.

use std::net::SocketAddr;
use std::time::Duration;

use landbridge::lab::nat::port_mapper::{PortMapper, Protocols};
use landbridge::lab::nat::stun_server::StunServer;
use landbridge::lab::nat::{Access, Behaviour, Internet, Kind, Server, Site};
use landbridge::nat::check::report::Report;
use landbridge::status::network::NetworkStatus;

use crate::lab::{Gateway, Keys, Lab, PORT, Program, Wan, eventually, landbridge};

/// How long a survey may take on a busy machine: the longest wait for silence is 2.5 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// An internet with a STUN server.
struct World {
    internet: Internet,
    server: Server,
    _stun: StunServer,
}

impl World {
    #[track_caller]
    fn new(lab: &Lab) -> Self {
        let mut internet = lab.internet();
        let server = internet.server("stun").expect("a server");
        let stun = StunServer::start(&server).expect("package coturn");
        Self { internet, server, _stun: stun }
    }

    #[track_caller]
    fn site(&mut self, role: &str, access: Access) -> Site {
        self.internet.site(role, &[access]).expect("a site")
    }

    /// A gateway that asks this server, without peers.
    #[track_caller]
    fn gateway(&self, lab: &Lab, site: &Site, role: char, nat: &str) -> Gateway {
        let keys = Keys::generate();
        let mut gateway = Gateway::new(lab, &lab.adopt(&site.gateway), Program::Up(Wan::Udp), role, keys);
        gateway.addresses = vec!["10.99.0.1/24".to_owned()];
        gateway.port = PORT;
        gateway.extra = format!("\n[nat]\nstun = [\"{}\"]\n{nat}", self.server.address());
        gateway.start();
        gateway
    }
}

/// The word of RFC 5780 for what the laboratory made.
fn label(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::None => "none",
        Behaviour::EndpointIndependent => "endpoint_independent",
        Behaviour::AddressDependent => "address_dependent",
        Behaviour::AddressAndPortDependent => "address_and_port_dependent",
    }
}

/// What `netcheck` says inside a site, and its exit code.
#[track_caller]
fn netcheck(lab: &Lab, site: &Site, server: &Server) -> (Report, i32) {
    let program = landbridge();
    let stun = server.address().to_string();
    let line = [&*program.to_string_lossy(), "netcheck", "--json", "--stun", &stun].map(str::to_owned);
    let output = lab.adopt(&site.gateway).try_run(&line.each_ref().map(String::as_str));
    let report = serde_json::from_str(&output.stdout);
    (report.unwrap_or_else(|error| panic!("{error}: {}{}", output.stdout, output.stderr)), output.code)
}

/// Waits until a gateway knows what is asked for of its network.
#[track_caller]
fn network(gateway: &Gateway, what: &str, known: impl Fn(&NetworkStatus) -> bool) -> NetworkStatus {
    eventually(what, PATIENCE, || Some(gateway.status().network).filter(&known))
}

#[test]
fn netcheck_names_every_kind_of_nat() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        let allowed = if kind == Kind::Blocked { vec![] } else { vec![world.server.address(), world.server.second()] };
        let site = world.site(&format!("s{number}"), Access::new(kind).allowing(allowed));
        let (report, code) = netcheck(&lab, &site, &world.server);
        let v4 = &report.ipv4;
        if kind == Kind::Blocked {
            assert_eq!((v4.udp_blocked, code), (Some(true), 3), "{kind}");
            continue;
        }
        assert_eq!((v4.udp_blocked, code), (Some(false), 0), "{kind}");
        assert_eq!((&*v4.mapping, &*v4.filtering), (label(kind.mapping()), label(kind.filtering())), "{kind}");
        assert_eq!(v4.mapped.map(|mapped| mapped.ip()), Some(site.uplinks[0].public.into()), "{kind}");
        assert_eq!(v4.hairpin, (kind != Kind::None).then_some(false), "{kind}");
        let server = &v4.servers[0];
        assert!(server.rtt_ms_min.is_some_and(|ms| ms > 0.0) && server.rtt_ms_min <= server.rtt_ms_median, "{kind}");
        assert_eq!(server.mtu, Some(1500), "{kind}");
    }
}

#[test]
fn netcheck_finds_hairpinning_and_a_narrow_path() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let site = world.site("s", Access::new(Kind::PortRestricted).hairpin());
    world.internet.narrow(1380, false).expect("routes");
    let (report, _) = netcheck(&lab, &site, &world.server);
    assert_eq!(report.ipv4.hairpin, Some(true));
    assert_eq!(report.ipv4.servers[0].mtu, Some(1380), "a path that says nothing of it");
    assert!(report.mapping.protocols.iter().all(|protocol| protocol.external.is_none() && protocol.failure.is_some()));
}

#[test]
fn netcheck_finds_what_a_router_maps_and_leaves_nothing_there() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let site = world.site("s", Access::new(Kind::PortRestricted).mappable());
    let uplink = &site.uplinks[0];
    let _mapper = PortMapper::start(&uplink.routers[0], Protocols::All).expect("package miniupnpd-nftables");
    let (report, _) = netcheck(&lab, &site, &world.server);
    assert_eq!(report.router, Some(uplink.link.upper()));
    for protocol in &report.mapping.protocols {
        assert_eq!(protocol.external, Some(uplink.public.into()), "{protocol:?}");
    }
    assert_eq!(report.mapping.protocols.len(), 3);
    assert_eq!(mapped_ports(&lab, &site), "", "the leases are given back");
}

/// The router's rules for mapped ports.
fn mapped_ports(lab: &Lab, site: &Site) -> String {
    let router = lab.adopt(site.uplinks[0].routers[0].namespace());
    let rules = router.run(&["nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"]);
    rules.lines().filter(|line| line.contains("dnat")).collect()
}

#[test]
fn a_gateway_knows_its_nat_and_where_it_is_seen() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let kinds = [Kind::None, Kind::FullCone, Kind::AddressRestricted, Kind::PortRestricted, Kind::Symmetric];
    let gateways: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let site = world.site(&format!("s{}", *kind as u8), Access::new(*kind));
            let role = char::from(b'a' + *kind as u8);
            let gateway = world.gateway(&lab, &site, role, "port_mapping = \"off\"\n");
            (kind, site, gateway)
        })
        .collect();
    for (kind, site, gateway) in &gateways {
        let place = eventually("the kind of NAT", PATIENCE, || {
            Some(gateway.status().place).filter(|place| place.nat.filtering != "unknown")
        });
        let found = network(gateway, "an answer", |found| found.stun[0].mapped.is_some());
        let nat = (&*place.nat.mapping, &*place.nat.filtering);
        assert_eq!(nat, (label(kind.mapping()), label(kind.filtering())), "{kind}");
        let mapped = found.stun[0].mapped.expect("an answer");
        assert_eq!(mapped.ip(), site.uplinks[0].public, "{kind}");
        assert!(**kind != Kind::None || mapped.port() == PORT, "asked from the tunnel's own port");
        assert_eq!((place.udp_blocked, found.stun[0].answered), (Some(false), Some(true)));
        let own = place.candidates.iter().any(|candidate| candidate.address == mapped);
        assert!(own, "peers are told of it: {:?}", place.candidates);
    }
}

#[test]
fn a_gateway_sees_that_it_has_moved() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let mut site = world.site("s", Access::new(Kind::None));
    let gateway = world.gateway(&lab, &site, 'a', "");
    let seen_at = |address: std::net::Ipv4Addr| {
        let place = SocketAddr::from((address, PORT));
        network(&gateway, "the address outside", |found| found.stun.first().is_some_and(|s| s.mapped == Some(place)))
    };
    seen_at(site.uplinks[0].public);
    let moved = site.change_address(0).expect("another address");
    seen_at(moved);
}

#[test]
fn another_uplink_has_an_address_outside_of_its_own() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let both = [Access::new(Kind::PortRestricted), Access::new(Kind::Symmetric)];
    let site = world.internet.site("s", &both).expect("a site");
    let gateway = world.gateway(&lab, &site, 'a', "port_mapping = \"off\"\n");
    let found = network(&gateway, "the second uplink", |found| !found.uplinks.is_empty());
    assert_eq!(found.uplinks[0].local, site.uplinks[1].link.address());
    assert_eq!(found.uplinks[0].mapped.ip(), site.uplinks[1].public);
    assert_eq!(found.stun[0].mapped.map(|mapped| mapped.ip()), Some(site.uplinks[0].public.into()));
}

#[test]
fn forged_answers_change_nothing_and_are_counted() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let site = world.site("s", Access::new(Kind::None));
    let gateway = world.gateway(&lab, &site, 'a', "");
    network(&gateway, "an answer", |found| found.stun.first().is_some_and(|server| server.mapped.is_some()));
    let candidates = gateway.status().place.candidates;
    let place = SocketAddr::from((site.uplinks[0].public, PORT));
    // An answer to a question that was never asked, and a question.
    let answer = "0101000c2112a442000102030405060708090a0b00010008000100070a0b0c0d";
    let question = "000100002112a442000102030405060708090a0b";
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("digits")).collect()
    };
    let datagrams = [bytes(answer), bytes(question)];
    let send = move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        datagrams.iter().try_for_each(|datagram| socket.send_to(datagram, place).map(drop))?;
        Ok(())
    };
    world.server.namespace.run(send).expect("a way there");
    eventually("the count of both", PATIENCE, || (gateway.drops("stun_unexpected") >= 2).then_some(()));
    assert_eq!(gateway.status().place.candidates, candidates);
}

#[test]
fn a_gateway_has_its_port_mapped_by_every_protocol_and_gives_it_back() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    for (number, protocol) in ["pcp", "nat-pmp", "upnp"].into_iter().enumerate() {
        let site = world.site(&format!("s{number}"), Access::new(Kind::Symmetric).mappable());
        let uplink = &site.uplinks[0];
        let _mapper = PortMapper::start(&uplink.routers[0], Protocols::All).expect("package miniupnpd-nftables");
        let mut gateway =
            world.gateway(&lab, &site, ['a', 'b', 'c'][number], &format!("port_mapping = [\"{protocol}\"]\n"));
        let found = network(&gateway, "a mapped port", |found| found.port_mapping.external.is_some()).port_mapping;
        assert_eq!((found.protocol.as_deref(), found.router), (Some(protocol), Some(uplink.link.upper().into())));
        assert_eq!(found.external, Some(SocketAddr::from((uplink.public, PORT))), "{protocol}");
        assert!(mapped_ports(&lab, &site).contains(&PORT.to_string()), "{protocol}");
        gateway.stop();
        assert_eq!(mapped_ports(&lab, &site), "", "{protocol}");
    }
}

#[test]
fn a_port_that_a_restarted_router_has_forgotten_is_mapped_again_soon_and_that_is_told() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    for (number, protocol) in ["pcp", "nat-pmp"].into_iter().enumerate() {
        let site = world.site(&format!("s{number}"), Access::new(Kind::PortRestricted).mappable());
        let router = &site.uplinks[0].routers[0];
        let mapper = PortMapper::start(router, Protocols::All).expect("package miniupnpd-nftables");
        let role = ['a', 'b'][number];
        let mut gateway = world.gateway(&lab, &site, role, &format!("port_mapping = [\"{protocol}\"]\n"));
        network(&gateway, "a mapped port", |found| found.port_mapping.external.is_some());
        // Older than the clock of the next one may be by the time that it is asked.
        std::thread::sleep(Duration::from_secs(6));
        drop(mapper);
        PortMapper::forget(router).expect("rules");
        let _mapper = PortMapper::start(router, Protocols::All).expect("it starts again");
        assert!(!mapped_ports(&lab, &site).contains(&PORT.to_string()), "{protocol}: forgotten");
        // It announces itself; without that a minute would pass.
        let found = network(&gateway, "the loss", |found| found.port_mapping.lost > 0).port_mapping;
        assert_eq!(found.external.map(|external| external.port()), Some(PORT), "{protocol}");
        assert!(mapped_ports(&lab, &site).contains(&PORT.to_string()), "{protocol}: mapped again");
        gateway.stop();
        assert_eq!(mapped_ports(&lab, &site), "", "{protocol}");
    }
}

#[test]
fn the_routers_firewall_is_opened_for_our_address_of_ipv6_and_closed_at_the_end() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let site = world.site("s", Access::new(Kind::PortRestricted).dual().mappable());
    let uplink = &site.uplinks[0];
    let _mapper = PortMapper::start(&uplink.routers[0], Protocols::All).expect("package miniupnpd-nftables");
    let router = lab.adopt(uplink.routers[0].namespace());
    // The laboratory's own firewall has a table of its own, in which nobody opens anything.
    router.run(&["nft", "delete", "table", "ip6", "lab"]);
    let closed = "add rule inet filter forward iifname out meta nfproto ipv6 ct state new drop";
    router.run(&[&["nft"], &*closed.split(' ').collect::<Vec<_>>()].concat());
    let mut gateway = world.gateway(&lab, &site, 'a', "port_mapping = [\"pcp\"]\n");
    let place = SocketAddr::from((uplink.link.address_v6(), PORT));
    let found = network(&gateway, "an open firewall", |found| found.pinhole.external.is_some()).pinhole;
    assert_eq!((found.protocol.as_deref(), found.external), (Some("pcp"), Some(place)));
    let knock = || {
        let send = move || std::net::UdpSocket::bind("[::]:0")?.send_to(&[0; 32], place).map(drop);
        world.server.namespace.run(move || Ok(send()?)).expect("a way there");
    };
    let heard = || ["unknown_type", "malformed", "truncated"].map(|reason| gateway.drops(reason)).iter().sum::<u64>();
    let before = heard();
    eventually("a stranger's datagram", PATIENCE, || {
        knock();
        (heard() > before).then_some(())
    });
    gateway.stop();
    let rules = router.run(&["nft", "list", "chain", "inet", "filter", "miniupnpd"]);
    assert!(!rules.contains(&PORT.to_string()), "closed: {rules}");
}

#[test]
fn a_router_that_maps_nothing_is_worked_around_and_said() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let site = world.site("s", Access::new(Kind::PortRestricted).mappable());
    let _mapper = PortMapper::start(&site.uplinks[0].routers[0], Protocols::Upnp).expect("package miniupnpd-nftables");
    let gateway = world.gateway(&lab, &site, 'a', "port_mapping = [\"pcp\", \"nat-pmp\"]\n");
    let found = network(&gateway, "the failures", |found| found.port_mapping.failures.len() == 2);
    assert_eq!(found.port_mapping.external, None);
    let gateway = found.port_mapping.failures.iter().map(|failure| &*failure.protocol).collect::<Vec<_>>();
    assert_eq!(gateway, ["pcp", "nat-pmp"]);
}

#[test]
fn a_gateway_whose_udp_is_blocked_says_so_and_stays_idle() {
    let Some(lab) = Lab::open() else { return };
    let mut world = World::new(&lab);
    let site = world.site("s", Access::new(Kind::Blocked));
    let gateway = world.gateway(&lab, &site, 'a', "port_mapping = \"off\"\n");
    // Given up as the RFC has it, after 39.5 s.
    let found = eventually("the end of all questions", Duration::from_secs(60), || {
        Some(gateway.status()).filter(|status| status.place.udp_blocked.is_some())
    });
    assert_eq!((found.place.udp_blocked, found.network.stun[0].answered), (Some(true), Some(false)));
    let before = gateway.process().usage().cpu;
    std::thread::sleep(Duration::from_secs(3));
    assert!(gateway.process().usage().cpu - before < Duration::from_millis(150), "an idle gateway stays idle");
}
