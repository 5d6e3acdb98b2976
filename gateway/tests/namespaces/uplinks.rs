//! A gateway with two uplinks.
//!
//! ```text
//!   a: wan0 10.77.0.1 ---- net: br0 10.77.0.254 ---- b: wan0 10.77.0.2
//!      wan1 10.78.0.1 ---- net: pa1 10.78.0.254
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use crate::lab::{
    Echo, Flow, Gateway, Lab, Namespace, Outside, PORT, Program, Sites, Veth, Wan, eventually, tunnel_v4,
};

const SOON: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(5);

/// The sites, a with its second uplink; `prefix` is of IPv4 or IPv6.
fn sites(lab: &Lab) -> Sites {
    let sites = Sites::build(lab);
    Veth { left: (&sites.a, "wan1"), right: (&sites.net, "pa1"), queues: 2 }.create();
    for (namespace, interface, host) in [(&sites.a, "wan1", "1"), (&sites.net, "pa1", "254")] {
        namespace.ip(&format!("addr add 10.78.0.{host}/24 dev {interface}"));
        namespace.ip(&format!("addr add fd78::{host}/64 dev {interface} nodad"));
    }
    sites.a.ip("route add default via 10.77.0.254 dev wan0 metric 100");
    sites.a.ip("route add default via 10.78.0.254 dev wan1 metric 200");
    sites.a.ip("-6 route add default via fd77::fe dev wan0 metric 100");
    sites.a.ip("-6 route add default via fd78::254 dev wan1 metric 200");
    sites.b.ip("route add 10.78.0.0/24 via 10.77.0.254");
    sites.b.ip("-6 route add fd78::/64 via fd77::fe");
    sites.net.sysctl("net.ipv4.ip_forward", "1");
    sites.net.sysctl("net.ipv6.conf.all.forwarding", "1");
    for namespace in [&sites.a, &sites.net] {
        // What comes by the uplink that the routes do not prefer is not to be dropped; providers do not know our routes.
        namespace.sysctl("net.ipv4.conf.all.rp_filter", "0");
        namespace.sysctl("net.ipv4.conf.default.rp_filter", "0");
    }
    for interface in ["wan0", "wan1"] {
        sites.a.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0");
    }
    sites
}

/// What an interface has sent.
fn sent(namespace: &Namespace, interface: &str) -> u64 {
    let table = namespace.run(&["cat", "/proc/net/dev"]);
    let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")).map(str::to_owned));
    line.and_then(|line| line.split_whitespace().nth(9)?.parse().ok()).expect("packets sent")
}

/// B knows a by its second uplink alone, and begins. Without `extensions` neither looks for a better path.
fn started(lab: &Lab, sites: &Sites, wan: Wan, second: &str, extensions: bool) -> (Gateway, Gateway) {
    let (mut left, mut right) = sites.gateways(lab, Program::Up(wan), Program::Up(Wan::Udp), Outside::V4);
    left.wan_interface = "wan0\", \"wan1".to_owned();
    left.keys_of_last_peer = format!("extensions = {extensions}\n");
    left.peers[0].endpoint = None;
    right.peers[0].endpoint = Some(SocketAddr::new(second.parse().expect("an address"), PORT));
    left.start();
    right.start();
    (left, right)
}

fn stays_with_its_uplink(wan: Wan, second: &str) {
    let Some(lab) = Lab::open() else { return };
    let sites = sites(&lab);
    let (left, right) = started(&lab, &sites, wan, second, false);
    let echo = Echo::start(&sites.a, tunnel_v4(1));
    let flow = Flow::start(&sites.b, &echo, PACE);
    flow.goes_on("traffic over the second uplink", SOON);
    let before = (sent(&sites.a, "wan0"), sent(&sites.a, "wan1"));
    flow.goes_on("more of it", SOON);
    let (first, other) = (sent(&sites.a, "wan0") - before.0, sent(&sites.a, "wan1") - before.1);
    assert!(other >= 10 && first * 5 < other, "{first} packets by the first uplink, {other} by the second");
    assert!(right.show("endpoints").contains(&SocketAddr::new(second.parse().expect("an address"), PORT).to_string()));
    let peer = &left.status().peers[0];
    assert_eq!(peer.local.map(|local| local.to_string()).as_deref(), Some(second));
    if wan == Wan::Xdp {
        eventually("the second uplink's rings", SOON, || (left.status().peers[0].path == "xdp wan1").then_some(()));
        flow.goes_on("traffic over the second uplink's rings", SOON);
    }
}

#[test]
fn answers_leave_by_the_uplink_that_was_asked_over_sockets() {
    stays_with_its_uplink(Wan::Udp, "10.78.0.1");
}

#[test]
fn answers_leave_by_the_uplink_that_was_asked_over_rings() {
    stays_with_its_uplink(Wan::Xdp, "10.78.0.1");
}

#[test]
fn answers_leave_by_the_uplink_that_was_asked_by_ipv6() {
    stays_with_its_uplink(Wan::Udp, "fd78::1");
}

#[test]
fn an_operators_rule_for_the_address_goes_before_its_uplink() {
    let Some(lab) = Lab::open() else { return };
    let sites = sites(&lab);
    sites.a.ip("rule add from 10.78.0.1 lookup 77");
    sites.a.ip("route add default via 10.77.0.254 dev wan0 table 77");
    let (_left, _right) = started(&lab, &sites, Wan::Udp, "10.78.0.1", false);
    let echo = Echo::start(&sites.a, tunnel_v4(1));
    let flow = Flow::start(&sites.b, &echo, PACE);
    flow.goes_on("traffic as the rule has it", SOON);
    let before = (sent(&sites.a, "wan0"), sent(&sites.a, "wan1"));
    flow.goes_on("more of it", SOON);
    let (first, other) = (sent(&sites.a, "wan0") - before.0, sent(&sites.a, "wan1") - before.1);
    assert!(first >= 10 && other * 5 < first, "{first} packets by the rule's uplink, {other} by the address' own");
}

#[test]
fn an_uplink_that_fails_leaves_its_links_to_the_other_one() {
    let Some(lab) = Lab::open() else { return };
    let sites = sites(&lab);
    let (_left, _right) = started(&lab, &sites, Wan::Udp, "10.78.0.1", true);
    let echo = Echo::start(&sites.a, tunnel_v4(1));
    let flow = Flow::start(&sites.b, &echo, PACE);
    flow.goes_on("traffic over the second uplink", SOON);
    // B knows of the other uplink only what comes from there.
    let back = Echo::start(&sites.b, tunnel_v4(2));
    let away = Flow::start(&sites.a, &back, PACE);
    away.goes_on("traffic in the other direction", SOON);
    sites.a.ip("link set wan1 down");
    away.goes_on("traffic over the first uplink", SOON);
}
