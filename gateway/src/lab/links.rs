//! Links, addresses and routes inside namespaces.
//!
//! Enters: namespaces, names, addresses. Leaves: veth pairs that are up, addresses, routes. Never does: touch the
//! namespace of the calling thread; each piece of work runs in a thread inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteType};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkWireguard, RouteMessageBuilder};

use super::namespace::Namespace;

/// The kernel's number of the routing table that it looks into (linux/rtnetlink.h).
const MAIN_TABLE: u32 = 254;
/// The kernel's number of a route's metric (linux/rtnetlink.h).
const RTAX_MTU: u32 = 2;

/// An interface inside a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index in that namespace.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Bytes of the longest IP packet.
    pub mtu: u32,
}

/// A pair of veth ends in two namespaces, both up, with `queues` queues each way.
///
/// # Errors
/// What the kernel said.
pub fn veth(one: (&Namespace, &str), other: (&Namespace, &str), queues: u32, mtu: u32) -> anyhow::Result<(Link, Link)> {
    let other_fd = other.0.file().as_raw_fd();
    let (one_name, other_name) = (one.1.to_owned(), other.1.to_owned());
    netlink(one.0, move |handle| async move {
        let queue_counts = [LinkAttribute::NumRxQueues(queues), LinkAttribute::NumTxQueues(queues)];
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new().name(other_name.clone()).mtu(mtu).setns_by_fd(other_fd);
        let mut end = LinkVeth::new(&one_name, &other_name).mtu(mtu);
        for attribute in queue_counts {
            peer = peer.append_extra_attribute(attribute.clone());
            end = end.append_extra_attribute(attribute);
        }
        let pair = end.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
        handle.link().add(pair).execute().await.context("a veth pair cannot be made")
    })?;
    up(one.0, one.1)?;
    up(other.0, other.1)?;
    Ok((link(one.0, one.1)?, link(other.0, other.1)?))
}

/// An interface, as it is.
///
/// # Errors
/// No such interface.
pub fn link(namespace: &Namespace, name: &str) -> anyhow::Result<Link> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        let message = find(&handle, &name).await?;
        let mut link = Link { name, index: message.header.index, mac: [0; 6], mtu: 0 };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        Ok(link)
    })
}

/// Sets an interface, and the loopback beside it, up.
///
/// # Errors
/// No such interface, or what the kernel said.
pub fn up(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        for name in ["lo", &name] {
            let index = find(&handle, name).await?.header.index;
            let message = LinkUnspec::new_with_index(index).up().build();
            handle.link().set(message).execute().await.with_context(|| format!("interface {name} cannot be set up"))?;
        }
        Ok(())
    })
}

/// Sets an interface down; the other end of a veth pair loses its carrier.
///
/// # Errors
/// No such interface, or what the kernel said.
pub fn down(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        let index = find(&handle, &name).await?.header.index;
        let message = LinkUnspec::new_with_index(index).down().build();
        handle.link().set(message).execute().await.with_context(|| format!("interface {name} cannot be set down"))
    })
}

/// Gives an interface an address. Nobody else can have it, so an IPv6 address is usable at once.
///
/// # Errors
/// What the kernel said.
pub fn address(namespace: &Namespace, name: &str, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        let index = find(&handle, &name).await?.header.index;
        let mut request = handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.with_context(|| format!("address {address} cannot be added"))
    })
}

/// Takes an address from an interface.
///
/// # Errors
/// No such address, or what the kernel said.
pub fn remove_address(namespace: &Namespace, name: &str, address: IpAddr) -> anyhow::Result<()> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        let index = find(&handle, &name).await?.header.index;
        let mut found = handle.address().get().set_link_index_filter(index).set_address_filter(address).execute();
        let message = found.try_next().await?.with_context(|| format!("{name} has no address {address}"))?;
        handle.address().del(message).execute().await.with_context(|| format!("address {address} cannot be removed"))
    })
}

/// Adds a default route by way of a neighbour's address; of several the one with the least metric is used.
///
/// # Errors
/// What the kernel said.
pub fn default_route(namespace: &Namespace, via: IpAddr, metric: u32) -> anyhow::Result<()> {
    netlink(namespace, move |handle| async move {
        let everywhere: IpAddr = if via.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(everywhere, 0)?
            .gateway(via)?
            .priority(metric)
            .build();
        let request = handle.route().add(message);
        request.execute().await.with_context(|| format!("the default route via {via} cannot be added"))
    })
}

/// Adds a route by way of a neighbour's address.
///
/// # Errors
/// What the kernel said.
pub fn route(namespace: &Namespace, destination: IpNet, via: IpAddr) -> anyhow::Result<()> {
    netlink(namespace, move |handle| async move {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.addr(), destination.prefix_len())?
            .gateway(via)?
            .build();
        let request = handle.route().add(message);
        request.execute().await.with_context(|| format!("the route to {destination} cannot be added"))
    })
}

/// Gives every route of the main table this MTU, which a router then holds packets to that it forwards.
///
/// # Errors
/// What the kernel said.
pub fn lock_route_mtus(namespace: &Namespace, mtu: u32) -> anyhow::Result<()> {
    netlink(namespace, move |handle| async move {
        let families = [
            RouteMessageBuilder::<Ipv4Addr>::new().table_id(MAIN_TABLE).build(),
            RouteMessageBuilder::<Ipv6Addr>::new().table_id(MAIN_TABLE).build(),
        ];
        for family in families {
            let routes: Vec<RouteMessage> = handle.route().get(family).execute().try_collect().await?;
            let unicast = |route: &RouteMessage| {
                route.header.table == MAIN_TABLE as u8 && route.header.kind == RouteType::Unicast
            };
            for mut route in routes.into_iter().filter(unicast) {
                route.attributes.retain(|attribute| {
                    !matches!(attribute, RouteAttribute::Metrics(_) | RouteAttribute::CacheInfo(_))
                });
                route
                    .attributes
                    .push(RouteAttribute::Metrics(vec![RouteMetric::Lock(1 << RTAX_MTU), RouteMetric::Mtu(mtu)]));
                handle.route().add(route).replace().execute().await.context("a route's MTU cannot be set")?;
            }
        }
        Ok(())
    })
}

/// Makes a WireGuard interface of the kernel's own.
///
/// # Errors
/// A kernel that has none.
pub fn wireguard(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        let message = LinkWireguard::new(&name).build();
        handle.link().add(message).execute().await.context("a WireGuard interface cannot be made")
    })
}

/// Sets the MTU of an interface.
///
/// # Errors
/// No such interface, or what the kernel said.
pub fn set_mtu(namespace: &Namespace, name: &str, mtu: u32) -> anyhow::Result<()> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        let index = find(&handle, &name).await?.header.index;
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        handle.link().set(message).execute().await.with_context(|| format!("the MTU of {name} cannot be set to {mtu}"))
    })
}

/// Adds a route into an interface that has no neighbours, such as a tunnel's.
///
/// # Errors
/// What the kernel said.
pub fn route_into(namespace: &Namespace, destination: IpNet, name: &str) -> anyhow::Result<()> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        let index = find(&handle, &name).await?.header.index;
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.addr(), destination.prefix_len())?
            .output_interface(index)
            .build();
        let request = handle.route().add(message).replace();
        request.execute().await.with_context(|| format!("the route to {destination} cannot be added"))
    })
}

/// Tells an interface the MAC address of a neighbour, for good: nobody is asked for it.
///
/// # Errors
/// What the kernel said.
pub fn neighbour(namespace: &Namespace, name: &str, address: IpAddr, mac: [u8; 6]) -> anyhow::Result<()> {
    let name = name.to_owned();
    netlink(namespace, move |handle| async move {
        let index = find(&handle, &name).await?.header.index;
        let request = handle.neighbours().add(index, address).state(NeighbourState::Permanent).link_layer_address(&mac);
        request.execute().await.with_context(|| format!("the neighbour {address} cannot be added"))
    })
}

/// Writes a setting below `/proc/sys/net` of a namespace.
///
/// # Errors
/// No such setting.
pub fn setting(namespace: &Namespace, path: &str, value: &str) -> anyhow::Result<()> {
    let (path, value) = (format!("/proc/sys/net/{path}"), format!("{value}\n"));
    namespace.run(move || std::fs::write(&path, value).with_context(|| format!("{path} cannot be written")))
}

/// Does work with rtnetlink inside a namespace.
fn netlink<T, F, W>(namespace: &Namespace, work: W) -> anyhow::Result<T>
where
    T: Send + 'static,
    W: FnOnce(Handle) -> F + Send + 'static,
    F: Future<Output = anyhow::Result<T>>,
{
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async move {
            let (connection, handle, _) = rtnetlink::new_connection().context("netlink cannot be opened")?;
            let pump = tokio::spawn(connection);
            let result = work(handle).await;
            pump.abort();
            result
        })
    })
}

async fn find(handle: &Handle, name: &str) -> anyhow::Result<LinkMessage> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    links.try_next().await?.with_context(|| format!("interface {name} is not there"))
}
