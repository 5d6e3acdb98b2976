//! A host behind the gateway of each of two [`Sites`].
//!
//! ```text
//!   hosta: eth0 192.168.1.2, fd92:1::2 -- lan0 192.168.1.1, fd92:1::1 :a ... b: lan0 192.168.2.1 -- eth0 192.168.2.2 :hostb
//! ```
//!
//! Enters: sites. Leaves: hosts with addresses and default routes, and gateways that know what lies behind each other. Never
//! does: start a gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Gateway, Lab, Namespace, Outside, Program, Sites, Veth, Wan};

/// Both sites with their hosts.
pub(crate) struct Homes {
    /// The gateways and what is between them.
    pub(crate) sites: Sites,
    /// The host of the first site.
    pub(crate) host_a: Namespace,
    /// The host of the second site.
    pub(crate) host_b: Namespace,
}

/// The host's address at a site.
pub(crate) fn host_v4(site: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, site, 2).into()
}

/// The host's IPv6 address at a site.
pub(crate) fn host_v6(site: u8) -> IpAddr {
    Ipv6Addr::new(0xfd92, site.into(), 0, 0, 0, 0, 0, 2).into()
}

impl Homes {
    /// Makes namespaces and links; a lan interface has so many queues.
    #[track_caller]
    pub(crate) fn build(lab: &Lab, lan_queues: u32) -> Self {
        let sites = Sites::build(lab);
        let homes = Self { sites, host_a: lab.namespace("hosta"), host_b: lab.namespace("hostb") };
        for (gateway, host, site) in [(&homes.sites.a, &homes.host_a, 1), (&homes.sites.b, &homes.host_b, 2)] {
            gateway.sysctl("net.ipv4.ip_forward", "1");
            gateway.sysctl("net.ipv6.conf.all.forwarding", "1");
            homes.connect(gateway, host, site, lan_queues);
        }
        homes
    }

    /// Links a host and its gateway.
    #[track_caller]
    pub(crate) fn connect(&self, gateway: &Namespace, host: &Namespace, site: u8, queues: u32) {
        Veth { left: (gateway, "lan0"), right: (host, "eth0"), queues }.create();
        for (namespace, name, number) in [(gateway, "lan0", 1), (host, "eth0", 2)] {
            namespace.ip(&format!("addr add 192.168.{site}.{number}/24 dev {name}"));
            namespace.ip(&format!("addr add fd92:{site}::{number}/64 dev {name}"));
        }
        host.ip(&format!("route add default via 192.168.{site}.1"));
        host.ip(&format!("route add default via fd92:{site}::1"));
    }

    /// Gateways with lan rings that know each other and what lies behind.
    pub(crate) fn gateways(&self, lab: &Lab, a: Wan, b: Wan) -> (Gateway, Gateway) {
        let (mut left, mut right) = self.sites.gateways(lab, Program::Up(a), Program::Up(b), Outside::V4);
        for (gateway, other) in [(&mut left, 2), (&mut right, 1)] {
            gateway.extra = "\n[lan]\nbackend = \"xdp\"\ninterfaces = [\"lan0\"]\n".to_owned();
            gateway.peers[0].allowed_ips.extend([format!("192.168.{other}.0/24"), format!("fd92:{other}::/64")]);
        }
        (left, right)
    }
}

/// A sum over all lanes.
pub(crate) fn counted(gateway: &Gateway, counter: &str) -> u64 {
    gateway.status().lanes.iter().filter_map(|lane| lane.counters.get(counter)).sum()
}
