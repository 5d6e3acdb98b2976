//! From an endpoint to the way its packets take.
//!
//! 1. The kernel is asked for the route (with the mark of outer packets, and from the address the peer is used to).
//! 2. A route into our own tunnel is refused: its packets would be sealed again and again.
//! 3. From the route's interface down through VLANs to an interface with rings: the tags, outermost first.
//! 4. The next hop's Ethernet address, when the kernel knows it; else the kernel's socket carries the packets, and the
//!    kernel is asked to resolve it.
//!
//! Enters: endpoints, and what [`Network`] answers. Leaves: [`Way`]s. Never does: send, or keep anything.

use std::io;
use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use super::netlink::links::{Link, Vlan};
use super::netlink::routes::{Route, RouteQuery};
use crate::datapath::tables::{Path, Wire};

/// VLAN tags that the steering program and the lanes can handle.
const TAGS_MAX: usize = 2;

/// What paths are made from; the kernel in a gateway, tables in tests.
pub trait Network {
    /// The route for a packet.
    ///
    /// # Errors
    /// Why there is none.
    fn route(&mut self, query: &RouteQuery) -> io::Result<Route>;
    /// An interface.
    fn link(&mut self, index: u32) -> Option<Link>;
    /// A neighbour's Ethernet address, when it is resolved.
    fn neighbour(&mut self, if_index: u32, address: IpAddr) -> Option<[u8; 6]>;
    /// The interface that an address of ours belongs to; `None` when it is the host's as a whole.
    fn home(&mut self, address: IpAddr) -> Option<u32>;
    /// Asks for a neighbour to be resolved, or to be kept fresh.
    fn use_neighbour(&mut self, if_index: u32, address: IpAddr);
}

/// What is the same for all paths of a gateway.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    /// Indices of wan interfaces whose rings are bound.
    pub ringed: Vec<u32>,
    /// The tunnel interface, when it lives in our network namespace.
    pub tunnel: Option<u32>,
    /// The mark of outer packets.
    pub mark: Option<u32>,
}

/// The way to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The path; `None` when it is refused.
    pub path: Option<Path>,
    /// The neighbour that must stay resolved for the path.
    pub next_hop: Option<(u32, IpAddr)>,
    /// MTU of that way, for the tunnel's own.
    pub mtu: u32,
    /// For people: `xdp eth0`, `socket`, or why there is none.
    pub text: String,
}

impl Way {
    fn refused(text: String) -> Self {
        Self { path: None, next_hop: None, mtu: 0, text }
    }

    fn by_socket(remote: SocketAddr, local: Option<IpAddr>, mtu: u32, text: String) -> Self {
        Self { path: Some(Path { remote, local, wire: None }), next_hop: None, mtu, text }
    }
}

/// Finds the way to an endpoint. `local` is the address of ours that the peer is used to.
pub fn find(network: &mut impl Network, ground: &Ground, remote: SocketAddr, local: Option<IpAddr>) -> Way {
    let (route, local) = match route(network, ground, remote, local) {
        Ok(found) => found,
        // The kernel's socket will say the same, and hears of a route before we do.
        Err(error) => return Way::by_socket(remote, None, 0, format!("socket (no route at present: {error})")),
    };
    if ground.tunnel == Some(route.if_index) && !route.local {
        return Way::refused(format!(
            "refused: the route to the endpoint {} leads into this tunnel itself; exclude it from AllowedIPs or set FwMark",
            remote.ip()
        ));
    }
    let link = network.link(route.if_index);
    let mtu = route.mtu.into_iter().chain(link.as_ref().map(|link| link.mtu)).min().unwrap_or(0);
    let socket = |why: &str| {
        let text = if why.is_empty() { "socket".to_owned() } else { format!("socket ({why})") };
        Way::by_socket(remote, local, mtu, text)
    };
    if ground.ringed.is_empty() {
        return socket("");
    }
    if route.local {
        return socket("the endpoint is this host");
    }
    let Some(link) = link else { return socket("the route's interface is gone") };
    let Some(below) = descend(network, ground, &link) else {
        return socket(&format!("the route leaves by {}, which has no rings", link.name));
    };
    let Some(source_mac) = link.mac else { return socket(&format!("{} is not Ethernet", link.name)) };
    let Some(source) = local.or(route.source) else { return socket("the route has no source address") };
    let next_hop = (link.index, route.gateway.unwrap_or(remote.ip()));
    let Some(destination_mac) = network.neighbour(next_hop.0, next_hop.1) else {
        network.use_neighbour(next_hop.0, next_hop.1);
        let text = format!("socket (next hop {} is not resolved yet)", next_hop.1);
        return Way { next_hop: Some(next_hop), ..Way::by_socket(remote, local, mtu, text) };
    };
    let ethernet = ethernet_header(destination_mac, source_mac, &below.tags, remote.is_ipv4());
    let wire = Wire { if_index: below.ringed.index, source, ethernet, mtu: mtu.min(below.ringed.mtu) };
    Way {
        path: Some(Path { remote, local, wire: Some(wire) }),
        next_hop: Some(next_hop),
        mtu,
        text: format!("xdp {}", below.ringed.name),
    }
}

/// The route, and the local address if packets can still leave from it.
fn route(
    network: &mut impl Network,
    ground: &Ground,
    remote: SocketAddr,
    local: Option<IpAddr>,
) -> io::Result<(Route, Option<IpAddr>)> {
    let if_index = match remote {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id()),
        _ => None,
    };
    let query = RouteQuery { destination: remote.ip(), source: None, mark: ground.mark, if_index };
    if let Some(local) = local {
        let sticky = RouteQuery { source: Some(local), ..query };
        // A route into the tunnel from a sticky address says nothing yet about the others. Packets that leave by one
        // uplink with the address of another are lost at providers that check sources.
        if let Ok(route) = network.route(&sticky)
            && ground.tunnel != Some(route.if_index)
            && network.home(local).is_none_or(|home| home == route.if_index)
        {
            return Ok((route, Some(local)));
        }
    }
    network.route(&query).map(|route| (route, None))
}

/// An interface with rings, and the tags that packets carry there.
struct Below {
    ringed: Link,
    tags: ArrayVec<Vlan, TAGS_MAX>,
}

/// Down through VLANs to an interface with rings.
fn descend(network: &mut impl Network, ground: &Ground, link: &Link) -> Option<Below> {
    let mut tags = ArrayVec::new();
    let mut at = link.clone();
    while !ground.ringed.contains(&at.index) {
        let vlan = at.vlan?;
        tags.try_push(vlan).ok()?;
        at = network.link(vlan.lower)?;
    }
    // The interface on top adds the innermost tag.
    tags.reverse();
    Some(Below { ringed: at, tags })
}

fn ethernet_header(destination: [u8; 6], source: [u8; 6], tags: &[Vlan], ipv4: bool) -> ArrayVec<u8, 22> {
    let mut header = ArrayVec::new();
    header.extend(destination);
    header.extend(source);
    for tag in tags {
        header.extend(tag.ether_type.to_be_bytes());
        header.extend(tag.id.to_be_bytes());
    }
    header.extend(if ipv4 { 0x0800_u16 } else { 0x86dd }.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
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
        asked: Vec<(u32, IpAddr)>,
    }

    impl Network for Lab {
        fn route(&mut self, query: &RouteQuery) -> io::Result<Route> {
            if self.refuse_source && query.source.is_some() {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            Ok(self.route)
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
        fn use_neighbour(&mut self, if_index: u32, address: IpAddr) {
            self.asked.push((if_index, address));
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn link(index: u32, mtu: u32, vlan: Option<Vlan>) -> Link {
        let mac = Some([2, 0, 0, 0, 1, u8::try_from(index).expect("small")]);
        Link {
            index,
            name: format!("if{index}"),
            mtu,
            mac,
            up: true,
            carrier: true,
            host_wide: false,
            rx_queues: 1,
            vlan,
        }
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
}
