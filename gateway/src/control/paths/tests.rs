//! Ways by tables instead of a kernel.

use std::collections::BTreeMap;

use super::*;

const WAN: u32 = 2;
const TUNNEL: u32 = 9;
const GATEWAY: &str = "192.0.2.1";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

struct Lab {
    route: Route,
    refuse_source: bool,
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
    homes: BTreeMap<IpAddr, u32>,
    /// Routes that leave by an interface when that is asked for.
    by_interface: BTreeMap<u32, Route>,
    /// Sources that a policy rule names.
    ruled: Vec<IpAddr>,
    asked: Vec<(u32, IpAddr)>,
}

impl Network for Lab {
    fn route(&mut self, query: &RouteQuery) -> io::Result<Route> {
        if self.refuse_source && query.source.is_some() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        match query.if_index {
            Some(index) => {
                self.by_interface.get(&index).copied().ok_or_else(|| io::ErrorKind::NetworkUnreachable.into())
            }
            None => Ok(self.route),
        }
    }
    fn link(&mut self, index: u32) -> Option<Link> {
        self.links.get(&index).cloned()
    }
    fn neighbour(&mut self, if_index: u32, address: IpAddr) -> Option<[u8; 6]> {
        self.neighbours.get(&(if_index, address)).copied()
    }
    fn home(&mut self, address: IpAddr) -> Option<u32> {
        self.homes.get(&address).copied()
    }
    fn has_rule(&mut self, source: IpAddr) -> bool {
        self.ruled.contains(&source)
    }
    fn use_neighbour(&mut self, if_index: u32, address: IpAddr) {
        self.asked.push((if_index, address));
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(index: u32, mtu: u32, vlan: Option<Vlan>) -> Link {
    let mac = Some([2, 0, 0, 0, 1, u8::try_from(index).expect("small")]);
    Link { index, name: format!("if{index}"), mtu, mac, up: true, carrier: true, host_wide: false, rx_queues: 1, vlan }
}

fn lab() -> Lab {
    Lab {
        route: Route {
            local: false,
            if_index: WAN,
            gateway: Some(address(GATEWAY)),
            source: Some(address("192.0.2.7")),
            mtu: None,
        },
        refuse_source: false,
        links: BTreeMap::from([(WAN, link(WAN, 1500, None)), (TUNNEL, link(TUNNEL, 1420, None))]),
        neighbours: BTreeMap::from([((WAN, address(GATEWAY)), MAC)]),
        homes: BTreeMap::new(),
        by_interface: BTreeMap::new(),
        ruled: Vec::new(),
        asked: Vec::new(),
    }
}

fn ground() -> Ground {
    Ground { ringed: vec![WAN], tunnel: Some(TUNNEL), mark: None }
}

fn remote() -> SocketAddr {
    "198.51.100.1:51820".parse().expect("an address")
}

#[test]
fn a_resolved_next_hop_gives_a_wire() {
    let way = find(&mut lab(), &ground(), remote(), None);
    let wire = way.path.expect("a path").wire.expect("a wire");
    assert_eq!(wire.if_index, WAN);
    assert_eq!(wire.source, address("192.0.2.7"));
    assert_eq!(wire.ethernet[..], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 2, 8, 0]);
    assert_eq!((wire.mtu, way.text.as_str()), (1500, "xdp if2"));
    assert_eq!(way.next_hop, Some((WAN, address(GATEWAY))));
}

#[test]
fn an_unresolved_next_hop_takes_the_socket_and_is_asked_for() {
    let mut lab = lab();
    lab.neighbours.clear();
    let way = find(&mut lab, &ground(), remote(), None);
    assert_eq!(way.path.expect("a path").wire, None);
    assert_eq!(lab.asked, [(WAN, address(GATEWAY))]);
}

#[test]
fn a_route_into_our_own_tunnel_is_refused_with_the_reason() {
    let mut lab = lab();
    lab.route.if_index = TUNNEL;
    let way = find(&mut lab, &ground(), remote(), Some(address("10.0.0.1")));
    assert_eq!(way.path, None);
    assert!(way.text.contains("leads into this tunnel itself"), "{}", way.text);
}

#[test]
fn two_vlans_over_the_ringed_interface_become_two_tags_outermost_first() {
    let mut lab = lab();
    lab.links.insert(3, link(3, 1500, Some(Vlan { lower: WAN, id: 100, ether_type: 0x88a8 })));
    lab.links.insert(4, link(4, 1496, Some(Vlan { lower: 3, id: 7, ether_type: 0x8100 })));
    lab.route.if_index = 4;
    lab.neighbours.insert((4, address(GATEWAY)), MAC);
    let way = find(&mut lab, &ground(), remote(), None);
    let wire = way.path.expect("a path").wire.expect("a wire");
    assert_eq!(wire.ethernet[6..12], [2, 0, 0, 0, 1, 4]);
    assert_eq!(wire.ethernet[12..], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 7, 8, 0]);
    assert_eq!((wire.if_index, wire.mtu), (WAN, 1496));
}

#[test]
fn three_vlans_and_interfaces_without_rings_take_the_socket() {
    let mut lab = lab();
    for index in 3..=5 {
        lab.links.insert(index, link(index, 1500, Some(Vlan { lower: index - 1, id: 1, ether_type: 0x8100 })));
    }
    lab.route.if_index = 5;
    assert_eq!(find(&mut lab, &ground(), remote(), None).path.expect("a path").wire, None);
    lab.links.insert(6, link(6, 1500, None));
    lab.route.if_index = 6;
    assert_eq!(find(&mut lab, &ground(), remote(), None).path.expect("a path").wire, None);
}

#[test]
fn the_address_that_the_peer_is_used_to_is_kept_while_it_routes() {
    let mut lab = lab();
    let ours = address("192.0.2.99");
    let path = find(&mut lab, &ground(), remote(), Some(ours)).path.expect("a path");
    assert_eq!((path.local, path.wire.expect("a wire").source), (Some(ours), ours));
    lab.refuse_source = true;
    let path = find(&mut lab, &ground(), remote(), Some(ours)).path.expect("a path");
    assert_eq!((path.local, path.wire.expect("a wire").source), (None, address("192.0.2.7")));
}

#[test]
fn the_address_of_one_uplink_is_given_up_when_the_route_takes_another() {
    let mut lab = lab();
    let ours = address("192.0.2.99");
    lab.homes.insert(ours, WAN);
    assert_eq!(find(&mut lab, &ground(), remote(), Some(ours)).path.expect("a path").local, Some(ours));
    lab.homes.insert(ours, WAN + 1);
    let path = find(&mut lab, &ground(), remote(), Some(ours)).path.expect("a path");
    assert_eq!((path.local, path.wire.expect("a wire").source), (None, address("192.0.2.7")));
}

#[test]
fn the_smallest_mtu_on_the_way_counts() {
    let mut lab = lab();
    lab.route.mtu = Some(1400);
    let way = find(&mut lab, &ground(), remote(), None);
    assert_eq!((way.mtu, way.path.expect("a path").wire.expect("a wire").mtu), (1400, 1400));
}

#[test]
fn without_rings_every_path_is_the_socket() {
    let way = find(&mut lab(), &Ground { ringed: Vec::new(), ..ground() }, remote(), None);
    assert_eq!((way.path.expect("a path").wire, way.text.as_str()), (None, "socket"));
}

const SECOND: u32 = 5;

/// Two uplinks with rings; the route prefers the first, whatever the source.
fn two_uplinks() -> (Lab, Ground, IpAddr) {
    let mut lab = lab();
    let ours = address("203.0.113.7");
    lab.homes.extend([(address("192.0.2.7"), WAN), (ours, SECOND)]);
    lab.links.insert(SECOND, link(SECOND, 1400, None));
    let gateway = address("203.0.113.1");
    lab.neighbours.insert((SECOND, gateway), [2, 0, 0, 0, 0, 5]);
    let route = Route { if_index: SECOND, gateway: Some(gateway), source: Some(ours), ..lab.route };
    lab.by_interface.insert(SECOND, route);
    (lab, Ground { ringed: vec![WAN, SECOND], ..ground() }, ours)
}

#[test]
fn what_is_sent_from_an_uplinks_address_leaves_by_that_uplink() {
    let (mut lab, ground, ours) = two_uplinks();
    let way = find(&mut lab, &ground, remote(), Some(ours));
    let path = way.path.expect("a path");
    assert_eq!((path.local, path.if_index, way.mtu), (Some(ours), Some(SECOND), 1400));
    let wire = path.wire.expect("a wire");
    assert_eq!((wire.if_index, wire.source), (SECOND, ours));
    assert_eq!(wire.ethernet[..6], [2, 0, 0, 0, 0, 5]);
    let first = find(&mut lab, &ground, remote(), Some(address("192.0.2.7"))).path.expect("a path");
    assert_eq!(first.if_index, None, "where the routes agree they are left to decide");
    assert_eq!(first.wire.expect("a wire").if_index, WAN);
}

#[test]
fn a_policy_rule_for_the_address_goes_before_its_interface() {
    let (mut lab, ground, ours) = two_uplinks();
    lab.ruled.push(ours);
    let path = find(&mut lab, &ground, remote(), Some(ours)).path.expect("a path");
    assert_eq!((path.local, path.if_index), (Some(ours), None));
    assert_eq!(path.wire.expect("a wire").if_index, WAN);
}

#[test]
fn a_route_into_the_tunnel_does_not_hide_the_uplink_of_the_address() {
    let (mut lab, ground, ours) = two_uplinks();
    lab.route.if_index = TUNNEL;
    let path = find(&mut lab, &ground, remote(), Some(ours)).path.expect("a path");
    assert_eq!((path.local, path.if_index), (Some(ours), Some(SECOND)));
    lab.by_interface.insert(TUNNEL, lab.route);
    lab.homes.insert(ours, TUNNEL);
    assert_eq!(find(&mut lab, &ground, remote(), Some(ours)).path, None, "the tunnel's own address is no uplink's");
}

#[test]
fn an_address_of_the_other_family_says_nothing() {
    let (mut lab, ground, _) = two_uplinks();
    let path = find(&mut lab, &ground, remote(), Some(address("2001:db8::1"))).path.expect("a path");
    assert_eq!((path.local, path.if_index), (None, None));
}
