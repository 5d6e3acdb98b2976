//! Two sites and the internet between them: host-a, gateway-a, gateway-b, host-b.
//!
//! Enters: the number of queues of each link. Leaves: four namespaces with links, addresses and routes of the underlay. Never
//! does: touch an interface outside the namespaces that it made.
//!
//! ```text
//! host-a 10.81.1.2 -- lan -- 10.81.1.1 gateway-a 192.0.2.1 -- wan -- 192.0.2.2 gateway-b 10.81.2.1 -- lan -- 10.81.2.2 host-b
//! ```

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::namespace::Namespace;

/// Host A.
pub(super) const HOST_A: Ipv4Addr = Ipv4Addr::new(10, 81, 1, 2);
/// Host B.
pub(super) const HOST_B: Ipv4Addr = Ipv4Addr::new(10, 81, 2, 2);
/// The internet's side of gateway A.
pub(super) const WAN_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The internet's side of gateway B.
pub(super) const WAN_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LAN_A: Ipv4Addr = Ipv4Addr::new(10, 81, 1, 1);
const LAN_B: Ipv4Addr = Ipv4Addr::new(10, 81, 2, 1);
/// The wan interface of either gateway.
pub(super) const WAN: &str = "wan";
const LAN: &str = "lan";
const PREFIX: u8 = 24;
/// What fits a tunnel over links of 1500 bytes: the hosts need not discover it first.
const LAN_MTU: u32 = 1420;
const WAN_MTU: u32 = 1500;

/// The four namespaces.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) host_a: Namespace,
    pub(super) gateway_a: Namespace,
    pub(super) gateway_b: Namespace,
    pub(super) host_b: Namespace,
}

impl Topology {
    /// Makes all of it.
    pub(super) fn new(queues: u32) -> anyhow::Result<Self> {
        let topology = Self {
            host_a: Namespace::new("host-a")?,
            gateway_a: Namespace::new("gateway-a")?,
            gateway_b: Namespace::new("gateway-b")?,
            host_b: Namespace::new("host-b")?,
        };
        let Self { host_a, gateway_a, gateway_b, host_b } = &topology;
        link(host_a, LAN, gateway_a, LAN, queues, LAN_MTU)?;
        link(host_b, LAN, gateway_b, LAN, queues, LAN_MTU)?;
        link(gateway_a, WAN, gateway_b, WAN, queues, WAN_MTU)?;
        for namespace in [gateway_a, gateway_b] {
            namespace.run(|| {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "1\n").context("forwarding cannot be switched on")
            })?;
        }
        address(host_a, LAN, HOST_A)?;
        address(gateway_a, LAN, LAN_A)?;
        address(gateway_a, WAN, WAN_A)?;
        address(gateway_b, WAN, WAN_B)?;
        address(gateway_b, LAN, LAN_B)?;
        address(host_b, LAN, HOST_B)?;
        route(host_a, Ipv4Addr::UNSPECIFIED, 0, LAN_A)?;
        route(host_b, Ipv4Addr::UNSPECIFIED, 0, LAN_B)?;
        Ok(topology)
    }

    /// Joins the sites by plain routes, without any gateway program: the ceiling of the links.
    #[cfg(test)]
    pub(super) fn join_by_routes(&self) -> anyhow::Result<()> {
        route(&self.gateway_a, Ipv4Addr::new(10, 81, 2, 0), PREFIX, WAN_B)?;
        route(&self.gateway_b, Ipv4Addr::new(10, 81, 1, 0), PREFIX, WAN_A)
    }
}

/// Does work with rtnetlink inside a namespace.
fn netlink<F, W>(namespace: &Namespace, work: W) -> anyhow::Result<()>
where
    W: FnOnce(Handle) -> F + Send + 'static,
    F: Future<Output = anyhow::Result<()>>,
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

/// A pair of veth ends in two namespaces, both up.
fn link(
    one: &Namespace,
    one_name: &'static str,
    other: &Namespace,
    other_name: &'static str,
    queues: u32,
    mtu: u32,
) -> anyhow::Result<()> {
    let other_fd = other.file().as_raw_fd();
    netlink(one, move |handle| async move {
        let queue_counts = [LinkAttribute::NumRxQueues(queues), LinkAttribute::NumTxQueues(queues)];
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new().name(other_name).mtu(mtu).setns_by_fd(other_fd);
        let mut end = LinkVeth::new(one_name, other_name).mtu(mtu);
        for attribute in queue_counts {
            peer = peer.append_extra_attribute(attribute.clone());
            end = end.append_extra_attribute(attribute);
        }
        let pair = end.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
        handle.link().add(pair).execute().await.context("a veth pair cannot be made")
    })?;
    up(one, one_name)?;
    up(other, other_name)
}

async fn index(handle: &Handle, name: &str) -> anyhow::Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await?.with_context(|| format!("interface {name} is not there"))?;
    Ok(link.header.index)
}

fn up(namespace: &Namespace, name: &'static str) -> anyhow::Result<()> {
    netlink(namespace, move |handle| async move {
        for name in ["lo", name] {
            let index = index(&handle, name).await?;
            let message = LinkUnspec::new_with_index(index).up().build();
            handle.link().set(message).execute().await.with_context(|| format!("interface {name} cannot be set up"))?;
        }
        Ok(())
    })
}

fn address(namespace: &Namespace, name: &'static str, address: Ipv4Addr) -> anyhow::Result<()> {
    netlink(namespace, move |handle| async move {
        let index = index(&handle, name).await?;
        let request = handle.address().add(index, address.into(), PREFIX);
        request.execute().await.with_context(|| format!("address {address} cannot be added"))
    })
}

fn route(namespace: &Namespace, destination: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> anyhow::Result<()> {
    netlink(namespace, move |handle| async move {
        let message =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, prefix).gateway(gateway).build();
        let request = handle.route().add(message);
        request.execute().await.with_context(|| format!("the route to {destination}/{prefix} cannot be added"))
    })
}
