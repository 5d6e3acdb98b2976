//! Two sites and the internet between them: host-a, gateway-a, gateway-b, host-b.
//!
//! Enters: the number of queues of each link. Leaves: four namespaces with links, addresses and routes of the underlay. Never
//! does: touch an interface outside the namespaces that it made.
//!
//! ```text
//! host-a 10.81.1.2 -- lan -- 10.81.1.1 gateway-a 192.0.2.1 -- wan -- 192.0.2.2 gateway-b 10.81.2.1 -- lan -- 10.81.2.2 host-b
//! ```

use std::net::Ipv4Addr;

use anyhow::Context as _;
use ipnet::{IpNet, Ipv4Net};
use landbridge_xsk::offloads;

use crate::lab::links;
use crate::lab::namespace::Namespace;

/// How the names of its namespaces begin.
pub(super) const PREFIX: &str = "landbridge-demo";

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
/// The lan interface of either gateway and host.
pub(super) const LAN: &str = "lan";
const PREFIX_LEN: u8 = 24;
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
            host_a: Namespace::new(PREFIX, "host-a")?,
            gateway_a: Namespace::new(PREFIX, "gateway-a")?,
            gateway_b: Namespace::new(PREFIX, "gateway-b")?,
            host_b: Namespace::new(PREFIX, "host-b")?,
        };
        let Self { host_a, gateway_a, gateway_b, host_b } = &topology;
        links::veth((host_a, LAN), (gateway_a, LAN), queues, LAN_MTU)?;
        links::veth((host_b, LAN), (gateway_b, LAN), queues, LAN_MTU)?;
        links::veth((gateway_a, WAN), (gateway_b, WAN), queues, WAN_MTU)?;
        for namespace in [gateway_a, gateway_b] {
            links::setting(namespace, "ipv4/ip_forward", "1")?;
        }
        links::address(host_a, LAN, HOST_A.into(), PREFIX_LEN)?;
        links::address(gateway_a, LAN, LAN_A.into(), PREFIX_LEN)?;
        links::address(gateway_a, WAN, WAN_A.into(), PREFIX_LEN)?;
        links::address(gateway_b, WAN, WAN_B.into(), PREFIX_LEN)?;
        links::address(gateway_b, LAN, LAN_B.into(), PREFIX_LEN)?;
        links::address(host_b, LAN, HOST_B.into(), PREFIX_LEN)?;
        links::route(host_a, net(Ipv4Addr::UNSPECIFIED, 0)?, LAN_A.into())?;
        links::route(host_b, net(Ipv4Addr::UNSPECIFIED, 0)?, LAN_B.into())?;
        Ok(topology)
    }

    /// Has the hosts' kernels finish packets themselves: rings of the lan see what a wire would carry.
    pub(super) fn finish_packets(&self) -> anyhow::Result<()> {
        [&self.host_a, &self.host_b].into_iter().try_for_each(|host| {
            host.run(|| {
                offloads::finish_transmitted(LAN).context("the offloads of a host's link cannot be switched off")
            })
        })
    }

    /// Joins the sites by plain routes, without any gateway program: the ceiling of the links.
    #[cfg(test)]
    pub(super) fn join_by_routes(&self) -> anyhow::Result<()> {
        links::route(&self.gateway_a, net(Ipv4Addr::new(10, 81, 2, 0), PREFIX_LEN)?, WAN_B.into())?;
        links::route(&self.gateway_b, net(Ipv4Addr::new(10, 81, 1, 0), PREFIX_LEN)?, WAN_A.into())
    }
}

fn net(address: Ipv4Addr, prefix_len: u8) -> anyhow::Result<IpNet> {
    Ok(Ipv4Net::new(address, prefix_len)?.into())
}
