//! Routes: the kernel's choice for a destination, and the routes of our own tunnel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, family};

/// A question to the routing tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteQuery {
    /// Where to.
    pub destination: IpAddr,
    /// From which of our addresses; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// The packet's mark.
    pub mark: Option<u32>,
    /// Out of this interface (link-local destinations).
    pub if_index: Option<u32>,
}

/// The kernel's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The destination is one of our own addresses.
    pub local: bool,
    /// Out of this interface.
    pub if_index: u32,
    /// By this next hop; `None`: the destination itself is the neighbour.
    pub gateway: Option<IpAddr>,
    /// The address that the kernel would send from.
    pub source: Option<IpAddr>,
    /// MTU of the route where it differs from the interface's (metric, or learned).
    pub mtu: Option<u32>,
}

/// A route of some table, as far as others than the kernel can follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRoute {
    /// The destinations.
    pub net: IpNet,
    /// Its table.
    pub table: u32,
    /// Of routes with the same destinations the lowest metric counts.
    pub metric: u32,
    /// Where it leads.
    pub via: Via,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// Out of an interface.
    Link {
        /// The interface.
        if_index: u32,
        /// By this next hop; `None`: the destination itself is the neighbour.
        gateway: Option<IpAddr>,
        /// The route's own MTU.
        mtu: Option<u32>,
    },
    /// Somewhere that the kernel alone can follow: several next hops, an encapsulation, a refusal, only from some sources.
    Kernel,
}

impl Netlink {
    /// All routes of all tables but those to addresses of ours.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn routes(&mut self) -> io::Result<Vec<TableRoute>> {
        let answer = self.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(answer
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => read_of_table(route),
                _ => None,
            })
            .collect())
    }

    /// Which way a packet would go.
    ///
    /// # Errors
    /// What the kernel said: ENETUNREACH and EHOSTUNREACH when there is none, EINVAL for a source that is not ours.
    pub fn route(&mut self, query: &RouteQuery) -> io::Result<Route> {
        if query.if_index.is_some() && query.destination.is_ipv4() {
            // Asked for an interface that no route leaves by, the kernel takes everybody for its neighbour there. The entry
            // of its tables it gives only where there is one.
            let mut entry = message_of(query);
            entry.header.flags |= RouteFlags::FibMatch;
            self.request(RouteNetlinkMessage::GetRoute(entry), 0)?;
        }
        let answer = self.request(RouteNetlinkMessage::GetRoute(message_of(query)), 0)?;
        answer
            .iter()
            .find_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => read(route),
                _ => None,
            })
            .ok_or_else(|| io::Error::from_raw_os_error(nix::errno::Errno::ENETUNREACH as i32))
    }

    /// Adds a route out of an interface; `replace` takes over one that is there.
    ///
    /// # Errors
    /// What the kernel said: EEXIST when another route has the prefix.
    pub fn add_route(&mut self, net: IpNet, if_index: u32, table: u32, replace: bool) -> io::Result<()> {
        let flags = NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
        self.request(RouteNetlinkMessage::NewRoute(device_route(net, if_index, table)), flags).map(drop)
    }

    /// Interfaces that default routes of the main table leave by, in the kernel's order.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn default_route_interfaces(&mut self) -> io::Result<Vec<u32>> {
        let answer = self.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        let mut interfaces = Vec::new();
        for message in &answer {
            let RouteNetlinkMessage::NewRoute(route) = message else { continue };
            let header = &route.header;
            if header.destination_prefix_length != 0
                || header.table != RouteHeader::RT_TABLE_MAIN
                || header.kind != RouteType::Unicast
            {
                continue;
            }
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => interfaces.push(*index),
                    RouteAttribute::MultiPath(hops) => interfaces.extend(hops.iter().map(|hop| hop.interface_index)),
                    _ => {}
                }
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        interfaces.retain(|index| seen.insert(*index));
        Ok(interfaces)
    }

    /// Whether a table has any route of a family.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn table_in_use(&mut self, table: u32) -> io::Result<bool> {
        let answer = self.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(answer.iter().any(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => {
                route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Table(id) if *id == table))
            }
            _ => false,
        }))
    }
}

fn message_of(query: &RouteQuery) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(query.destination);
    message.header.destination_prefix_length = host_prefix(query.destination);
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(query.destination)));
    if let Some(source) = query.source.filter(|source| source.is_ipv4() == query.destination.is_ipv4()) {
        message.header.source_prefix_length = host_prefix(source);
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(source)));
    }
    if let Some(mark) = query.mark {
        message.attributes.push(RouteAttribute::Mark(mark));
    }
    if let Some(index) = query.if_index {
        message.attributes.push(RouteAttribute::Oif(index));
    }
    message
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn device_route(net: IpNet, if_index: u32, table: u32) -> RouteMessage {
    let net = net.trunc();
    let mut message = RouteMessage::default();
    message.header.address_family = family(net.addr());
    message.header.destination_prefix_length = net.prefix_len();
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = if net.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(net.addr())));
    message.attributes.push(RouteAttribute::Oif(if_index));
    message.attributes.push(RouteAttribute::Table(table));
    message
}

fn read(message: &RouteMessage) -> Option<Route> {
    match message.header.kind {
        RouteType::Unicast | RouteType::Local | RouteType::Broadcast | RouteType::Multicast => {}
        _ => return None,
    }
    let mut route =
        Route { local: message.header.kind == RouteType::Local, if_index: 0, gateway: None, source: None, mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.if_index = *index,
            RouteAttribute::Gateway(gateway) => route.gateway = address_of(gateway),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => route.gateway = Some(IpAddr::V6(*gateway)),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => route.gateway = Some(IpAddr::V4(*gateway)),
            RouteAttribute::PrefSource(source) => route.source = address_of(source),
            RouteAttribute::Metrics(metrics) => route.mtu = mtu_of(metrics),
            _ => {}
        }
    }
    (route.if_index != 0).then_some(route)
}

fn read_of_table(message: &RouteMessage) -> Option<TableRoute> {
    let header = &message.header;
    if header.kind == RouteType::Local || header.flags.intersects(RouteFlags::Dead | RouteFlags::Cloned) {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut plain = header.kind == RouteType::Unicast && header.tos == 0 && header.source_prefix_length == 0;
    let (mut table, mut metric) = (u32::from(header.table), 0);
    let (mut if_index, mut gateway, mut mtu) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = address_of(address)?,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => if_index = *index,
            RouteAttribute::Gateway(address) => gateway = address_of(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Metrics(metrics) => mtu = mtu_of(metrics),
            RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => plain = false,
            _ => {}
        }
    }
    let net = IpNet::new(destination, header.destination_prefix_length).ok()?;
    let via = if plain && if_index != 0 { Via::Link { if_index, gateway, mtu } } else { Via::Kernel };
    Some(TableRoute { net, table, metric, via })
}

fn mtu_of(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
