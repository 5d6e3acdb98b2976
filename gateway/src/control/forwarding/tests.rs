use super::*;
use crate::datapath::inner::InnerPacket;
use crate::datapath::lan_table::ToKernel;

const LAN: u32 = 3;
const WAN: u32 = 2;
const TUNNEL: u32 = 9;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn route(text: &str, if_index: u32, gateway: Option<&str>) -> TableRoute {
    let via = Via::Link { if_index, gateway: gateway.map(address), mtu: None };
    TableRoute { net: net(text), table: MAIN, metric: 0, via }
}

fn neighbour(text: &str) -> Neighbour {
    Neighbour { if_index: LAN, address: address(text), mac: MAC, stale: false }
}

fn routed(routes: Vec<TableRoute>) -> Routed {
    let rules = Some(Lookup::default());
    Routed { routes, rules_v4: rules, rules_v6: rules, tunnel: Some(TUNNEL) }
}

fn exit(vlan: Option<u16>) -> Exit {
    Exit { link: LAN, if_index: if vlan.is_some() { 4 } else { LAN }, mac: OURS, vlan, mtu: 1500 }
}

fn forwarding(routes: Vec<TableRoute>, neighbours: &[&str]) -> Forwarding {
    let mut forwarding = Forwarding::default();
    assert!(forwarding.set_exits(vec![exit(None)]));
    forwarding.set_routes(&routed(routes));
    forwarding.set_neighbours(neighbours.iter().map(|text| neighbour(text)).collect());
    forwarding
}

fn ask<'t>(table: &'t LanTable, destination: &str) -> Result<&'t NextHop, ToKernel> {
    let destination = address(destination);
    let source = address(if destination.is_ipv4() { "10.9.0.1" } else { "fd09::1" });
    table.next_hop(&InnerPacket { source, destination, len: 0 }).map(|hop| &**hop)
}

fn hop(table: &LanTable, destination: &str) -> Option<Vec<u8>> {
    ask(table, destination).ok().map(|hop| hop.ethernet.to_vec())
}

#[test]
fn neighbours_and_gateways_have_their_header_ready() {
    let routes = vec![
        route("10.1.0.0/24", LAN, None),
        route("10.7.0.0/16", LAN, Some("10.1.0.7")),
        route("fd01::/64", LAN, None),
        route("10.8.0.0/16", LAN, Some("fd01::7")),
    ];
    let table = forwarding(routes, &["10.1.0.5", "10.1.0.7", "fd01::7"]).table();
    let expected = [MAC, OURS].concat();
    for destination in ["10.1.0.5", "10.7.1.2", "fd01::7", "10.8.0.1"] {
        assert_eq!(hop(&table, destination), Some(expected.clone()), "{destination}");
    }
    assert_eq!(ask(&table, "10.1.0.6").err(), Some(ToKernel::Unresolved));
    assert_eq!(ask(&table, "192.0.2.1").err(), Some(ToKernel::NoRoute));
}

#[test]
fn a_longer_route_by_another_interface_is_the_kernels_and_so_is_what_only_it_can_follow() {
    let mut odd = route("10.1.3.0/24", LAN, None);
    odd.via = Via::Kernel;
    let routes = vec![
        route("0.0.0.0/0", WAN, Some("192.0.2.254")),
        route("10.0.0.0/8", LAN, Some("10.1.0.7")),
        route("10.1.0.0/24", LAN, None),
        route("10.1.2.0/24", WAN, None),
        odd,
        // Inside that, the lan again.
        route("10.1.2.128/25", LAN, Some("10.1.0.7")),
    ];
    let mut forwarding = forwarding(routes, &["10.1.0.7"]);
    let table = forwarding.table();
    for (destination, is_ours) in
        [("10.5.5.5", true), ("10.1.2.5", false), ("10.1.3.5", false), ("10.1.2.200", true), ("8.8.8.8", false)]
    {
        assert_eq!(ask(&table, destination).is_ok(), is_ours, "{destination}");
    }
    // The default route says nothing that the table's end does not say.
    assert_eq!(forwarding.counts().routes, 5);
}

#[test]
fn the_lowest_metric_counts_and_equal_ones_are_the_kernels() {
    let mut by_wan = route("10.7.0.0/16", WAN, Some("192.0.2.254"));
    by_wan.metric = 10;
    let by_lan = route("10.7.0.0/16", LAN, Some("10.1.0.7"));
    for routes in [vec![by_wan.clone(), by_lan.clone()], vec![by_lan.clone(), by_wan.clone()]] {
        assert!(hop(&forwarding(routes, &["10.1.0.7"]).table(), "10.7.0.1").is_some());
    }
    by_wan.metric = 0;
    assert_eq!(hop(&forwarding(vec![by_wan, by_lan], &["10.1.0.7"]).table(), "10.7.0.1"), None);
}

#[test]
fn addresses_that_no_router_forwards_and_our_own_are_the_kernels() {
    let mut forwarding = forwarding(
        vec![route("0.0.0.0/0", LAN, Some("10.1.0.7")), route("::/0", LAN, Some("10.1.0.7"))],
        &["10.1.0.7"],
    );
    forwarding.set_addresses(BTreeSet::from([address("10.1.0.1")]));
    let table = forwarding.table();
    for destination in
        ["10.1.0.1", "127.0.0.1", "0.1.2.3", "224.0.0.5", "255.255.255.255", "169.254.1.1", "fe80::1", "ff02::1", "::1"]
    {
        assert_eq!(ask(&table, destination).err(), Some(ToKernel::Special), "{destination}");
    }
    let claims_ours = InnerPacket { source: address("10.1.0.1"), destination: address("10.5.0.1"), len: 0 };
    assert_eq!(table.next_hop(&claims_ours).err(), Some(ToKernel::Special));
    assert!(hop(&table, "10.5.0.1").is_some() && hop(&table, "2001:db8::1").is_some());
}

#[test]
fn rules_that_cannot_be_followed_leave_everything_to_the_kernel() {
    let routes = vec![route("10.1.0.0/24", LAN, None), route("10.2.0.0/16", TUNNEL, None)];
    let mut forwarding = forwarding(routes.clone(), &["10.1.0.5"]);
    let unknown = Routed { rules_v4: None, ..routed(routes) };
    forwarding.set_routes(&unknown);
    assert_eq!(hop(&forwarding.table(), "10.1.0.5"), None);
    assert_eq!(unknown.taken(), Taken::default());
}

#[test]
fn the_program_takes_what_is_routed_into_the_tunnel_and_leaves_what_is_routed_elsewhere_inside() {
    let mut own_default = route("0.0.0.0/0", TUNNEL, None);
    own_default.table = 51820;
    let routes = vec![
        route("0.0.0.0/0", WAN, Some("192.0.2.254")),
        own_default,
        route("10.1.0.0/24", LAN, None),
        route("192.0.2.0/24", WAN, None),
        route("10.1.0.64/26", TUNNEL, None),
        route("fd02::/16", TUNNEL, None),
        route("fd03::/16", WAN, None),
    ];
    let lookup = Some(Lookup { main_without_default: true, defaults: Some(51820) });
    let taken = Routed { rules_v4: lookup, ..routed(routes.clone()) }.taken();
    let nets = |texts: &[&str]| texts.iter().map(|text| net(text)).collect::<BTreeSet<_>>();
    assert_eq!(taken.tunnel, nets(&["0.0.0.0/0", "10.1.0.64/26", "fd02::/16"]));
    assert_eq!(taken.elsewhere, nets(&["10.1.0.0/24", "192.0.2.0/24"]));
    // Without the rules the table of the tunnel's own is nobody's, and nothing lies around the lan.
    let taken = routed(routes).taken();
    assert_eq!((taken.tunnel, taken.elsewhere), (nets(&["10.1.0.64/26", "fd02::/16"]), nets(&[])));
}

#[test]
fn a_vlan_puts_its_tag_before_the_ether_type() {
    let mut forwarding = forwarding(vec![], &[]);
    assert!(forwarding.set_exits(vec![exit(Some(7))]));
    forwarding.set_routes(&routed(vec![route("10.1.0.0/24", LAN, None)]));
    forwarding.set_neighbours(vec![neighbour("10.1.0.5")]);
    let table = forwarding.table();
    let found = ask(&table, "10.1.0.5").expect("a hop");
    assert_eq!(found.if_index, 4);
    assert_eq!(found.ethernet[12..], [0x81, 0, 0, 7]);
}

#[test]
fn used_hops_are_refreshed_once_they_are_stale_and_keep_their_mark_over_changes() {
    let mut forwarding = forwarding(vec![route("10.1.0.0/24", LAN, None)], &["10.1.0.5", "10.1.0.6"]);
    let table = forwarding.table();
    ask(&table, "10.1.0.5").expect("a hop").mark_used();
    assert_eq!(forwarding.to_refresh(), []);
    let stale = |text| Neighbour { stale: true, ..neighbour(text) };
    forwarding.set_neighbours(vec![stale("10.1.0.5"), stale("10.1.0.6")]);
    forwarding.set_routes(&routed(vec![route("10.0.0.0/8", LAN, None)]));
    let _table = forwarding.table();
    assert_eq!(forwarding.to_refresh(), [(LAN, address("10.1.0.5"))]);
    assert_eq!(forwarding.to_refresh(), []);
}

#[test]
fn the_smaller_of_route_and_interface_mtu_is_the_hops() {
    let mut small = route("10.7.0.0/16", LAN, Some("10.1.0.7"));
    small.via = Via::Link { if_index: LAN, gateway: Some(address("10.1.0.7")), mtu: Some(1400) };
    let table = forwarding(vec![small, route("10.1.0.0/24", LAN, None)], &["10.1.0.7"]).table();
    assert_eq!(ask(&table, "10.7.0.1").expect("a hop").mtu, 1400);
    assert_eq!(ask(&table, "10.1.0.7").expect("a hop").mtu, 1500);
}

#[test]
fn too_many_routes_are_all_the_kernels_and_too_many_neighbours_are_left_out() {
    let routes = (0..=ROUTES_MAX as u32).map(|i| {
        let net = IpNet::new(IpAddr::V4((0x0a00_0000 + (i << 4)).into()), 28).expect("a length");
        TableRoute { net, ..route("10.0.0.0/28", LAN, None) }
    });
    let mut forwarding = forwarding(routes.collect(), &["10.0.0.5"]);
    assert_eq!(hop(&forwarding.table(), "10.0.0.5"), None);
    assert_eq!(forwarding.counts().routes_left_out, 1);
    forwarding.set_routes(&routed(vec![route("10.0.0.0/8", LAN, None)]));
    let many = (0..=NEIGHBOURS_MAX as u32)
        .map(|i| Neighbour { address: IpAddr::V4((0x0a00_0000 + i).into()), ..neighbour("10.0.0.0") });
    forwarding.set_neighbours(many.collect());
    let _table = forwarding.table();
    let counts = forwarding.counts();
    assert_eq!((counts.hops, counts.neighbours_left_out), (NEIGHBOURS_MAX, 1));
}
