//! From an endpoint to the way its packets take.
//!
//! 1. The kernel is asked for the route (with the mark of outer packets, and from the address the peer is used to, by that
//!    address' own uplink: [`uplinks`]).
//! 2. A route into our own tunnel is refused: its packets would be sealed again and again.
//! 3. From the route's interface down through VLANs to an interface with rings: the tags, outermost first.
//! 4. The next hop's Ethernet address, when the kernel knows it; else the kernel's socket carries the packets, and the
//!    kernel is asked to resolve it.
//!
//! Enters: endpoints, and what [`Network`] answers. Leaves: [`Way`]s. Never does: send, or keep anything.

pub mod uplinks;

use std::io;
use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use super::netlink::links::{Link, Vlan};
use super::netlink::routes::{Route, RouteQuery};
use crate::datapath::tables::{Path, Wire};
use uplinks::Uplink;

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
    /// Whether a policy rule says where packets from an address of ours go.
    fn has_rule(&mut self, source: IpAddr) -> bool;
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

    fn by_socket(remote: SocketAddr, uplink: Uplink, mtu: u32, text: String) -> Self {
        let Uplink { local, if_index } = uplink;
        Self { path: Some(Path::new(remote, local, if_index, None)), next_hop: None, mtu, text }
    }
}

/// Finds the way to an endpoint. `local` is the address of ours that the peer is used to.
pub fn find(network: &mut impl Network, ground: &Ground, remote: SocketAddr, local: Option<IpAddr>) -> Way {
    let (route, uplink) = match uplinks::route(network, ground, remote, local) {
        Ok(found) => found,
        // The kernel's socket will say the same, and hears of a route before we do.
        Err(error) => {
            return Way::by_socket(remote, Uplink::ANY, 0, format!("socket (no route at present: {error})"));
        }
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
        Way::by_socket(remote, uplink, mtu, text)
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
    let Some(source) = uplink.local.or(route.source) else { return socket("the route has no source address") };
    let next_hop = (link.index, route.gateway.unwrap_or(remote.ip()));
    let Some(destination_mac) = network.neighbour(next_hop.0, next_hop.1) else {
        network.use_neighbour(next_hop.0, next_hop.1);
        let text = format!("socket (next hop {} is not resolved yet)", next_hop.1);
        return Way { next_hop: Some(next_hop), ..Way::by_socket(remote, uplink, mtu, text) };
    };
    let ethernet = ethernet_header(destination_mac, source_mac, &below.tags, remote.is_ipv4());
    let wire = Wire { if_index: below.ringed.index, source, ethernet, mtu: mtu.min(below.ringed.mtu) };
    Way {
        path: Some(Path::new(remote, uplink.local, uplink.if_index, Some(wire))),
        next_hop: Some(next_hop),
        mtu,
        text: format!("xdp {}", below.ringed.name),
    }
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
mod tests;
