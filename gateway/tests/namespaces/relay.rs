//! A relay between two peers that know nothing of each other's place: stock WireGuard at both ends, which knows nothing of
//! relays either, and gateways that ask for one.
//!
//! ```text
//! a 10.77.0.1 ---- net ---- b 10.77.0.2      a and b drop what comes from each other: only r is heard
//!                   |
//!            r 10.77.0.3, the relay
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use landbridge::status::relay::{RelayCounters, RelayStatus};

use crate::lab::{
    Echo, Flow, Gateway, Keys, Lab, Namespace, Outside, PORT, Peer, Program, Sites, Veth, Wan, available, eventually,
    tcp_exchange, tunnel_v4, tunnel_v6, udp_sizes,
};

/// The ports of the link: the first is a's, to reach b.
const PORTS: [u16; 2] = [51_900, 51_901];
/// The relay's place in the network between the sites.
const RELAY: u8 = 3;

/// What forwards.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// The XDP program, beside a wan with sockets.
    Program,
    /// The same, in generic mode.
    Generic,
    /// The same in the driver, beside a wan with rings.
    Rings,
    Thread,
}

/// Two stock peers and a relay that has a link for them.
struct World {
    sites: Sites,
    relay_site: Namespace,
    a: Gateway,
    b: Gateway,
    relay: Gateway,
}

impl World {
    fn build(lab: &Lab, by: By, stock: Program, outside: [Outside; 2]) -> Self {
        let sites = Sites::build(lab);
        let relay_site = lab.namespace("r");
        Veth { left: (&relay_site, "wan0"), right: (&sites.net, "pr"), queues: 2 }.create();
        sites.net.ip("link set pr master br0");
        relay_site.ip(&format!("addr add 10.77.0.{RELAY}/24 dev wan0"));
        relay_site.ip(&format!("addr add fd77::{RELAY}/64 dev wan0 nodad"));
        relay_site.sysctl("net.ipv4.ip_forward", "1");
        relay_site.sysctl("net.ipv6.conf.all.forwarding", "1");
        // A veth's peer takes frames of XDP programs while it joins datagrams.
        sites.net.run(&["ethtool", "-K", "pr", "gro", if by == By::Thread { "off" } else { "on" }]);
        for site in [&sites.a, &sites.b] {
            site.run(&["nft", "add table inet lb; add chain inet lb in { type filter hook input priority 0; }"]);
        }
        sites
            .a
            .run(&["nft", "add rule inet lb in ip saddr 10.77.0.2 drop; add rule inet lb in ip6 saddr fd77::2 drop"]);
        sites
            .b
            .run(&["nft", "add rule inet lb in ip saddr 10.77.0.1 drop; add rule inet lb in ip6 saddr fd77::1 drop"]);

        let keys = [Keys::generate(), Keys::generate(), Keys::generate()];
        let place = |outside: Outside, port| Some(SocketAddr::new(outside.address(RELAY), port));
        let peer = |keys: &Keys, host: u8, endpoint| Peer {
            public_key: keys.public.clone(),
            preshared_key: None,
            endpoint,
            allowed_ips: vec![format!("{}/32", tunnel_v4(host)), format!("{}/128", tunnel_v6(host))],
            keepalive: Some(1),
        };
        let make = |site: &Namespace, program, role, keys: &Keys, host: u8, peers| {
            let mut gateway = Gateway::new(lab, site, program, role, keys.clone());
            gateway.addresses = vec![format!("{}/24", tunnel_v4(host)), format!("{}/64", tunnel_v6(host))];
            gateway.port = PORT;
            gateway.peers = peers;
            gateway
        };
        let [for_a, for_b] = outside;
        let of_a = vec![peer(&keys[2], RELAY, place(for_a, PORT)), peer(&keys[1], 2, place(for_a, PORTS[0]))];
        let of_b = vec![peer(&keys[2], RELAY, place(for_b, PORT)), peer(&keys[0], 1, place(for_b, PORTS[1]))];
        let a = make(&sites.a, stock, 'a', &keys[0], 1, of_a);
        let b = make(&sites.b, stock, 'b', &keys[1], 2, of_b);
        let wan = if by == By::Rings { Wan::Xdp } else { Wan::Udp };
        let mut relay = make(&relay_site, Program::Up(wan), 'r', &keys[2], RELAY, Vec::new());
        relay.extra = format!(
            "{}[relay]\nenabled = true\nbackend = \"{}\"\nports = \"51900-51909\"\n\
             [[relay.link]]\npeers = [\"a\", \"b\"]\nports = [{}, {}]\n",
            match by {
                By::Program | By::Thread => "interfaces = [\"wan0\"]\n",
                By::Generic => "interfaces = [\"wan0\"]\nxdp_mode = \"generic\"\n",
                By::Rings => "",
            },
            if by == By::Thread { "user" } else { "xdp" },
            PORTS[0],
            PORTS[1]
        );
        for (name, keys, host) in [("a", &keys[0], 1), ("b", &keys[1], 2)] {
            relay.extra += &format!(
                "[[peer]]\nname = \"{name}\"\npublic_key = \"{}\"\nallowed_ips = [\"{}/32\", \"{}/128\"]\n",
                keys.public,
                tunnel_v4(host),
                tunnel_v6(host)
            );
        }
        Self { sites, relay_site, a, b, relay }
    }

    /// The same with gateways at both ends, which know of each other only the key and take relays alone.
    fn of_gateways(lab: &Lab, by: By) -> Self {
        let mut world = Self::build(lab, by, Program::Up(Wan::Udp), [Outside::V4; 2]);
        for gateway in [&mut world.a, &mut world.b] {
            gateway.extra = "[nat]\ndirect = false\nport_mapping = \"off\"\n".to_owned();
            gateway.peers[1].endpoint = None;
            for peer in &mut gateway.peers {
                peer.keepalive = None;
            }
        }
        let link = world.relay.extra.find("[[relay.link]]").expect("a link");
        let peers = world.relay.extra.find("[[peer]]").expect("peers");
        world.relay.extra.replace_range(link..peers, "");
        world
    }

    fn start(&mut self) {
        self.relay.start();
        self.b.start();
        self.a.start();
    }

    /// Kernels on the way to the relay leave checksums to hardware, which a veth has not.
    fn leave_checksums_partial(&self) {
        let Sites { a, b, net } = &self.sites;
        for (site, interface) in [(a, "wan0"), (b, "wan0"), (net, "pr")] {
            site.run(&["ethtool", "-K", interface, "tx", "on"]);
        }
    }

    fn told(&self) -> RelayStatus {
        self.relay.status().relay.expect("it relays")
    }
}

/// Traffic of all kinds from a to b.
fn carries(world: &World) {
    let echo = Echo::start(&world.sites.b, tunnel_v4(2));
    Flow::start(&world.sites.a, &echo, Duration::from_millis(20)).goes_on("relayed traffic", Duration::from_secs(20));
    assert!(udp_sizes(&world.sites.a, &echo, 1..=1392) <= 20);
    drop(echo);
    tcp_exchange(&world.sites.a, &world.sites.b, tunnel_v4(2), 4 << 20);
    tcp_exchange(&world.sites.b, &world.sites.a, tunnel_v6(1), 4 << 20);
}

#[test]
fn stock_peers_are_relayed_by_the_xdp_program() {
    if !available(Program::WireguardGo) {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let mut world = World::build(&lab, By::Program, Program::WireguardGo, [Outside::V4; 2]);
    world.start();
    carries(&world);
    let told = world.told();
    assert_eq!(told.backend, "xdp", "{told:?}");
    assert_eq!(told.interfaces[0].xdp_mode.as_deref(), Some("native"), "{told:?}");
    let RelayCounters { packets, .. } = told.xdp;
    assert!(packets > 5000 && told.user.packets < packets / 20, "the program forwards: {told:?}");
    for end in &told.allocations[0].ends {
        assert_eq!(end.forwarded_by.as_deref(), Some("xdp"), "{told:?}");
        assert!(end.xdp.packets > 1000, "{told:?}");
    }
    let verdicts = world.relay.status().xdp_verdicts;
    assert!(verdicts["relay_redirected"] >= packets, "{verdicts:?}");
    // Nobody would finish a partial checksum in a frame that leaves as it is: IPv4 has a word for "none".
    world.leave_checksums_partial();
    carries(&world);
    let (before, told) = (told, world.told());
    assert!(told.xdp.packets > before.xdp.packets + 5000, "{told:?}");
    assert_eq!(told.user.packets, before.user.packets, "{told:?}");
    assert!(world.relay.stop().success());
    let links = world.relay_site.run(&["ip", "-d", "link", "show", "wan0"]);
    assert!(!links.contains("xdp"), "nothing is left behind: {links}");
}

#[test]
fn the_program_relays_in_generic_mode_and_beside_rings() {
    if !available(Program::WireguardGo) {
        return;
    }
    for (by, outside, mode) in [(By::Generic, Outside::V6, "generic"), (By::Rings, Outside::V4, "native")] {
        let Some(lab) = Lab::open() else { return };
        let mut world = World::build(&lab, by, Program::WireguardGo, [outside; 2]);
        world.start();
        carries(&world);
        let told = world.told();
        assert_eq!(told.interfaces[0].xdp_mode.as_deref(), Some(mode), "{told:?}");
        assert!(told.xdp.packets > 5000 && told.user.packets < told.xdp.packets / 20, "{told:?}");
        // An sk_buff knows of its partial checksum, and finishes it: whoever changes what it covers has to be the kernel.
        world.leave_checksums_partial();
        carries(&world);
        let (before, told) = (told, world.told());
        let user = told.user.packets - before.user.packets;
        assert_eq!(user > 5000, by == By::Generic, "{told:?}");
    }
}

#[test]
fn stock_peers_of_ipv6_are_relayed_and_partial_checksums_are_the_threads() {
    if !available(Program::WireguardGo) {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let mut world = World::build(&lab, By::Program, Program::WireguardGo, [Outside::V6; 2]);
    world.start();
    carries(&world);
    let before = world.told();
    assert!(before.xdp.packets > 5000 && before.user.packets < before.xdp.packets / 20, "{before:?}");
    // IPv6 has no word for "none".
    world.leave_checksums_partial();
    carries(&world);
    let told = world.told();
    assert!(told.user.packets > before.user.packets + 5000, "{told:?}");
    assert!(world.relay.status().xdp_verdicts["relay_checksum"] > 1000);
}

#[test]
fn stock_peers_are_relayed_by_the_thread_where_the_program_is_not_wanted() {
    if !available(Program::WireguardGo) {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let mut world = World::build(&lab, By::Thread, Program::WireguardGo, [Outside::V4; 2]);
    world.start();
    carries(&world);
    let told = world.told();
    assert_eq!((told.backend.as_str(), told.xdp.packets), ("user", 0), "{told:?}");
    assert!(told.user.packets > 5000, "{told:?}");
    assert!(world.relay.status().xdp_verdicts.is_empty());
}

#[test]
fn a_peer_of_ipv4_and_one_of_ipv6_are_relayed_to_each_other() {
    if !available(Program::WireguardGo) {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let mut world = World::build(&lab, By::Program, Program::WireguardGo, [Outside::V4, Outside::V6]);
    world.start();
    carries(&world);
    let told = world.told();
    assert_eq!(told.xdp.packets, 0, "another header is needed: {told:?}");
    for end in &told.allocations[0].ends {
        assert_eq!(end.forwarded_by.as_deref(), Some("user"), "{told:?}");
    }
}

#[test]
fn a_stranger_at_a_port_of_the_relay_reaches_nobody_and_is_counted() {
    if !available(Program::WireguardGo) {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let mut world = World::build(&lab, By::Program, Program::WireguardGo, [Outside::V4; 2]);
    world.start();
    carries(&world);
    let before = world.told();
    // From the network itself: no peer of the relay's.
    let message = "\\004\\000\\000\\000\\007\\000\\000\\000";
    let script = format!(
        "for i in $(seq 200); do printf '{m}{m}{m}{m}{m}' > /dev/udp/10.77.0.{RELAY}/{port}; done",
        m = message,
        port = PORTS[0]
    );
    world.sites.net.run(&["bash", "-c", &script]);
    eventually("what the stranger sent is counted", Duration::from_secs(10), || {
        (world.relay.drops("relay_unbound") >= 150).then_some(())
    });
    // From the bound place's address, but no message of WireGuard.
    let script = format!("for i in $(seq 100); do echo hello > /dev/udp/10.77.0.{RELAY}/{}; done", PORTS[0]);
    world.sites.a.run(&["bash", "-c", &script]);
    eventually("what is no message is counted", Duration::from_secs(10), || {
        (world.relay.drops("relay_unbound") >= 240).then_some(())
    });
    let after = world.told();
    let places = |told: &RelayStatus| told.allocations[0].ends.iter().map(|end| end.place).collect::<Vec<_>>();
    assert_eq!(places(&before), places(&after), "nobody took a place");
    carries(&world);
}

#[test]
fn a_stock_peer_that_comes_from_another_port_is_found_again() {
    if !available(Program::WireguardGo) {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let mut world = World::build(&lab, By::Program, Program::WireguardGo, [Outside::V4; 2]);
    world.start();
    let echo = Echo::start(&world.sites.b, tunnel_v4(2));
    let flow = Flow::start(&world.sites.a, &echo, Duration::from_millis(20));
    flow.goes_on("relayed traffic", Duration::from_secs(20));
    world.a.set(&["listen-port", "40404"]);
    flow.goes_on("relayed traffic from another port", Duration::from_secs(30));
    eventually("the new place", Duration::from_secs(20), || {
        let told = world.told();
        (told.allocations[0].ends[0].place.map(|place| place.port()) == Some(40_404)).then_some(())
    });
}

#[test]
fn gateways_ask_for_a_relay_and_their_traffic_flows_by_it() {
    for by in [By::Program, By::Thread] {
        let Some(lab) = Lab::open() else { return };
        let mut world = World::of_gateways(&lab, by);
        world.start();
        carries(&world);
        let told = world.told();
        assert_eq!(told.allocations.len(), 1, "{told:?}");
        assert_eq!(told.allocations[0].kind, "granted", "{told:?}");
        let (xdp, user) = (told.xdp.packets, told.user.packets);
        let (many, few) = if by == By::Thread { (user, xdp) } else { (xdp, user) };
        assert!(many > 5000 && few <= many / 20, "{told:?}");
        // Its ports come back once an end is gone for good.
        assert!(world.a.stop().success());
        assert!(world.b.stop().success());
        eventually("the end of the allocation", Duration::from_secs(80), || {
            world.told().allocations.is_empty().then_some(())
        });
        let after = world.told();
        assert!(after.xdp.packets + after.user.packets >= many, "what was counted stays counted: {after:?}");
    }
}
