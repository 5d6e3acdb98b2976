//! The topology of every throughput run: host A, gateway A, gateway B, host B, each a namespace of its own.
//!
//! ```text
//! host A  lan ------ lan  gateway A  wan ------ wan  gateway B  lan ------ lan  host B
//!  10.82.1.2      10.82.1.1      198.18.0.1  198.18.0.2      10.82.2.1      10.82.2.2
//!  fd82:1::2      fd82:1::1      fd82::1        fd82::2      fd82:2::1      fd82:2::2
//! ```
//!
//! Hosts have a default route to their gateway. Gateways forward, and know only the wan between them: what leads from
//! site to site is the business of the tunnel under test, or of [`Topology::route_plainly`].
//!
//! Enters: a [`TopologySpec`]. Leaves: namespaces, removed when the topology is dropped. Never does: touch an interface
//! outside the namespaces that it made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use landbridge::lab::links::{self, Link};
use landbridge::lab::namespace::{Namespace, remove_leftovers};

use super::frame::IpVersion;

/// The hosts' and gateways' interface towards the site.
pub(crate) const LAN: &str = "lan";
/// The gateways' interface towards each other.
pub(crate) const WAN: &str = "wan";
const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 64;
/// What forwarding and immediate addresses take.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // ICMP errors of one trial are not to be owed to the next.
    ("ipv4/icmp_ratelimit", "0"),
];

/// One of the two sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// Where traffic in one direction comes from.
    A,
    /// Where it goes to.
    B,
}

impl Side {
    /// The other one.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Number of the site in addresses.
    const fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    /// As it stands in names.
    pub(crate) const fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }
}

/// What a topology is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct TopologySpec {
    /// Queues of every veth end, each way.
    pub(crate) queues: u32,
    /// Bytes of the longest IP packet on the lan links.
    pub(crate) lan_mtu: u32,
    /// Bytes of the longest IP packet on the wan link.
    pub(crate) wan_mtu: u32,
    /// What carries the tunnel.
    pub(crate) outside: IpVersion,
}

impl Default for TopologySpec {
    fn default() -> Self {
        let queues = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8);
        Self { queues: queues as u32, lan_mtu: 1420, wan_mtu: 1500, outside: IpVersion::V4 }
    }
}

/// A site's part.
#[derive(Debug)]
struct Site {
    host: Namespace,
    gateway: Namespace,
    /// The host's interface.
    host_lan: Link,
    /// The gateway's interface towards the host.
    gateway_lan: Link,
}

/// Four namespaces, joined by three links. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Topology {
    a: Site,
    b: Site,
    outside: IpVersion,
}

impl Topology {
    /// Makes it; namespaces are named `PREFIX-PID-host-a` and so on. One at a time for each prefix and process. What an
    /// earlier process with that prefix left behind is removed.
    ///
    /// # Errors
    /// No right to do so, or what the kernel said; nothing is left then.
    pub(crate) fn build(prefix: &str, spec: &TopologySpec) -> anyhow::Result<Self> {
        remove_leftovers(prefix).context("what an earlier run left cannot be removed")?;
        let make = |role: &str, side: Side| Namespace::new(prefix, &format!("{role}-{}", side.letter()));
        let (host_a, gateway_a) = (make("host", Side::A)?, make("gateway", Side::A)?);
        let (host_b, gateway_b) = (make("host", Side::B)?, make("gateway", Side::B)?);
        for namespace in [&host_a, &gateway_a, &gateway_b, &host_b] {
            for setting in ["ipv6/conf/all/accept_ra", "ipv6/conf/default/accept_ra"] {
                links::setting(namespace, setting, "0")?;
            }
        }
        for namespace in [&gateway_a, &gateway_b] {
            for (path, value) in SETTINGS {
                links::setting(namespace, path, value)?;
            }
        }
        let (host_a_lan, gateway_a_lan) = links::veth((&host_a, LAN), (&gateway_a, LAN), spec.queues, spec.lan_mtu)?;
        let (host_b_lan, gateway_b_lan) = links::veth((&host_b, LAN), (&gateway_b, LAN), spec.queues, spec.lan_mtu)?;
        links::veth((&gateway_a, WAN), (&gateway_b, WAN), spec.queues, spec.wan_mtu)?;
        let site = |host, gateway, host_lan, gateway_lan| Site { host, gateway, host_lan, gateway_lan };
        let topology = Self {
            a: site(host_a, gateway_a, host_a_lan, gateway_a_lan),
            b: site(host_b, gateway_b, host_b_lan, gateway_b_lan),
            outside: spec.outside,
        };
        for side in [Side::A, Side::B] {
            topology.number(side)?;
        }
        Ok(topology)
    }

    /// Gives one side its addresses and its hosts' routes.
    fn number(&self, side: Side) -> anyhow::Result<()> {
        let (host, gateway) = (self.host(side), self.gateway(side));
        for version in [IpVersion::V4, IpVersion::V6] {
            let prefix = prefix_len(version);
            links::address(host, LAN, self.host_address(side, version), prefix)?;
            links::address(gateway, LAN, self.lan_address(side, version), prefix)?;
            links::address(gateway, WAN, self.wan_address(side, version), prefix)?;
            links::route(host, everything(version), self.lan_address(side, version))?;
        }
        Ok(())
    }

    /// Joins the sites by plain routes, without any tunnel: what the links and the kernel's forwarding reach alone.
    ///
    /// # Errors
    /// Routes that are there already, or what the kernel said.
    pub(crate) fn route_plainly(&self) -> anyhow::Result<()> {
        for side in [Side::A, Side::B] {
            for version in [IpVersion::V4, IpVersion::V6] {
                let far = self.site_prefix(side.other(), version);
                links::route(self.gateway(side), far, self.wan_address(side.other(), version))?;
            }
        }
        Ok(())
    }

    /// The namespace of a gateway.
    pub(crate) fn gateway(&self, side: Side) -> &Namespace {
        &self.site(side).gateway
    }

    /// The namespace of a host.
    pub(crate) fn host(&self, side: Side) -> &Namespace {
        &self.site(side).host
    }

    /// The host's interface, [`LAN`].
    pub(crate) fn host_lan(&self, side: Side) -> &Link {
        &self.site(side).host_lan
    }

    /// The gateway's interface towards the host, [`LAN`].
    pub(crate) fn gateway_lan(&self, side: Side) -> &Link {
        &self.site(side).gateway_lan
    }

    /// The host's address.
    pub(crate) fn host_address(&self, side: Side, version: IpVersion) -> IpAddr {
        site_address(side, version, 2)
    }

    /// The gateway's address towards the host.
    pub(crate) fn lan_address(&self, side: Side, version: IpVersion) -> IpAddr {
        site_address(side, version, 1)
    }

    /// The gateway's address towards the other gateway: where the tunnel's datagrams go. 198.18.0.0/15 is for
    /// benchmarks (RFC 2544).
    pub(crate) fn wan_address(&self, side: Side, version: IpVersion) -> IpAddr {
        match version {
            IpVersion::V4 => Ipv4Addr::new(198, 18, 0, side.number()).into(),
            IpVersion::V6 => Ipv6Addr::new(0xfd82, 0, 0, 0, 0, 0, 0, side.number().into()).into(),
        }
    }

    /// The address by which one gateway knows the other.
    pub(crate) fn endpoint_address(&self, side: Side) -> IpAddr {
        self.wan_address(side, self.outside)
    }

    /// The network of a site: the allowed IPs of the tunnel that leads there.
    pub(crate) fn site_prefix(&self, side: Side, version: IpVersion) -> IpNet {
        let net = match site_address(side, version, 0) {
            IpAddr::V4(address) => Ipv4Net::new_assert(address, V4_PREFIX).into(),
            IpAddr::V6(address) => Ipv6Net::new_assert(address, V6_PREFIX).into(),
        };
        IpNet::trunc(&net)
    }

    fn site(&self, side: Side) -> &Site {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }
}

const fn prefix_len(version: IpVersion) -> u8 {
    match version {
        IpVersion::V4 => V4_PREFIX,
        IpVersion::V6 => V6_PREFIX,
    }
}

fn everything(version: IpVersion) -> IpNet {
    match version {
        IpVersion::V4 => Ipv4Net::default().into(),
        IpVersion::V6 => Ipv6Net::default().into(),
    }
}

fn site_address(side: Side, version: IpVersion, host: u8) -> IpAddr {
    match version {
        IpVersion::V4 => Ipv4Addr::new(10, 82, side.number(), host).into(),
        IpVersion::V6 => Ipv6Addr::new(0xfd82, side.number().into(), 0, 0, 0, 0, 0, host.into()).into(),
    }
}
