//! The internet: a router with public addresses that everything else is linked to.
//!
//! ```text
//! servers 192.0.2.0/24 -- n* \
//! sites 198.51.100.0/24 -- s* - net          2001:db8:1::/48, 2001:db8:2::/48 and 2001:db8:3::/48 beside them
//! second uplinks 203.0.113.0/24 -- t* /      routers' insides: 2001:db8:10::/48 and on
//! routers that map ports 128.66.0.0/24 -- m* /
//! ```
//!
//! Enters: roles and kinds of access. Leaves: servers and sites linked to it, and the faults that a test wants. Never
//! does: touch a network outside the namespaces that it made.

use std::net::Ipv4Addr;

use super::ground::{Attachment, Ground, Wanted, make_router, space};
use super::kind::{Access, Behaviour, Kind};
use super::nft;
use super::port_mapper;
use super::router::{OUT, Router};
use super::rules::Nat;
use super::site::{Site, Uplink};
use crate::lab::links;
use crate::lab::namespace::Namespace;

/// The interface of a server.
pub const SERVER_INTERFACE: &str = "wan0";
/// Packets of these networks vanish: nothing says why.
const FAULTS: &str = "table inet faults {\n  set dead4 { type ipv4_addr; flags interval; }\n  \
    set dead6 { type ipv6_addr; flags interval; }\n  chain forward {\n    \
    type filter hook forward priority filter\n    ip saddr @dead4 drop\n    ip daddr @dead4 drop\n    \
    ip6 saddr @dead6 drop\n    ip6 daddr @dead6 drop\n  }\n}\n";
/// No router says that a packet was too big.
const SILENCE: &str = "table inet silence {\n  chain output {\n    type filter hook output priority filter\n    \
    icmp type destination-unreachable icmp code frag-needed drop\n    icmpv6 type packet-too-big drop\n  }\n}\n";

/// The internet, and everything that is linked to it.
#[derive(Debug)]
pub struct Internet {
    prefix: String,
    namespace: Namespace,
    servers: Ground,
    grounds: [Ground; 2],
    mappable: Ground,
    routers: u16,
    sites: u8,
}

/// A host with public addresses.
#[derive(Debug)]
pub struct Server {
    /// Where it runs.
    pub namespace: Namespace,
    /// How it is linked.
    pub link: Attachment,
}

impl Server {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.link.address()
    }

    /// Its second address.
    #[must_use]
    pub fn second(&self) -> Ipv4Addr {
        self.link.spare()
    }
}

impl Internet {
    /// An empty one. Its namespaces are named `PREFIX-PID-ROLE`.
    ///
    /// # Errors
    /// No right to make namespaces, or no nft.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        let namespace = space(prefix, "net")?;
        make_router(&namespace)?;
        nft::apply(&namespace, FAULTS)?;
        Ok(Self {
            prefix: prefix.to_owned(),
            namespace,
            servers: Ground::new([192, 0, 2], 1, "n"),
            grounds: [Ground::new([198, 51, 100], 2, "s"), Ground::new([203, 0, 113], 3, "t")],
            mappable: Ground::new(port_mapper::PUBLIC, 4, "m"),
            routers: 0,
            sites: 0,
        })
    }

    /// Where packets cross.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A host with two public IPv4 addresses and an IPv6 one.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn server(&mut self, role: &str) -> anyhow::Result<Server> {
        let namespace = space(&self.prefix, role)?;
        let wanted = Wanted { ipv4: true, ipv6: true, metric: 100 };
        let link = self.servers.attach(&self.namespace, &namespace, SERVER_INTERFACE, wanted)?;
        links::address(&namespace, SERVER_INTERFACE, link.spare().into(), link.network.prefix_len())?;
        Ok(Server { namespace, link })
    }

    /// A site with an uplink for each access, and a host behind its gateway.
    ///
    /// # Errors
    /// What the kernel or nft said.
    pub fn site(&mut self, role: &str, accesses: &[Access]) -> anyhow::Result<Site> {
        anyhow::ensure!(accesses.len() <= self.grounds.len(), "a site has {} uplinks at most", self.grounds.len());
        let mut site = self.bare_site(role)?;
        for (index, access) in accesses.iter().enumerate() {
            let uplink = self.uplink(&site, role, index, access)?;
            site.add(uplink);
        }
        Ok(site)
    }

    /// A site behind a router that another site is behind already.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn neighbour(&mut self, role: &str, router: &mut Router) -> anyhow::Result<Site> {
        let mut site = self.bare_site(role)?;
        let wanted = Wanted { ipv4: true, ipv6: router.uplink().has_v6, metric: 100 };
        let link = router.attach(&site.gateway, "wan0", wanted)?;
        site.add(Uplink { link, routers: Vec::new(), public: router.public() });
        Ok(site)
    }

    fn bare_site(&mut self, role: &str) -> anyhow::Result<Site> {
        self.sites += 1;
        Site::new(&self.prefix, role, self.sites)
    }

    /// What lies between a gateway and the internet, from the outside to the inside.
    fn uplink(&mut self, site: &Site, role: &str, index: usize, access: &Access) -> anyhow::Result<Uplink> {
        let nats = nats(access);
        let wanted = Wanted { ipv4: access.ipv4, ipv6: access.ipv6, metric: 100 * (index as u32 + 1) };
        let interface = format!("wan{index}");
        let Some(first) = nats.first() else {
            let link = self.grounds[index].attach(&self.namespace, &site.gateway, &interface, wanted)?;
            return Ok(Uplink { public: link.address(), link, routers: Vec::new() });
        };
        let mut routers =
            vec![self.outer_router(&format!("{role}{index}r0"), (index, access.mappable), first.clone(), wanted)?];
        for (depth, nat) in nats.iter().enumerate().skip(1) {
            let namespace = space(&self.prefix, &format!("{role}{index}r{depth}"))?;
            let wanted = Wanted { ipv4: true, ipv6: false, metric: 100 };
            let upper = routers.last_mut().expect("the outer router is there");
            let link = upper.attach(&namespace, OUT, wanted)?;
            let inside = self.inside(false);
            routers.push(Router::new(namespace, nat.clone(), link, inside)?);
        }
        let wanted = Wanted { ipv6: wanted.ipv6 && routers.len() == 1, ..wanted };
        let public = routers[0].public();
        let link = routers.last_mut().expect("the outer router is there").attach(&site.gateway, &interface, wanted)?;
        Ok(Uplink { link, routers, public })
    }

    /// A router that is linked to the internet itself.
    fn outer_router(
        &mut self,
        role: &str,
        (index, mappable): (usize, bool),
        nat: Nat,
        wanted: Wanted,
    ) -> anyhow::Result<Router> {
        let namespace = space(&self.prefix, role)?;
        // A router behind which there is only IPv6 has IPv4 itself: its table names an address.
        let own = Wanted { ipv4: true, ..wanted };
        let ground = if mappable { &mut self.mappable } else { &mut self.grounds[index] };
        let link = ground.attach(&self.namespace, &namespace, OUT, own)?;
        let carrier = nat.carrier;
        let inside = self.inside(carrier);
        if wanted.ipv6 {
            links::route(&self.namespace, inside.network_v6()?, link.address_v6().into())?;
        }
        Router::new(namespace, nat, link, inside)
    }

    /// Private addresses, or those between a carrier and its customers (RFC 6598).
    fn inside(&mut self, carrier: bool) -> Ground {
        self.routers += 1;
        let number = self.routers as u8;
        let base = if carrier { [100, 64, number] } else { [192, 168, number] };
        Ground::new(base, 0x10 + self.routers, "in")
    }

    /// Makes every way across the internet this narrow, and has it say so by ICMP or not.
    ///
    /// # Errors
    /// What the kernel or nft said.
    pub fn narrow(&self, mtu: u32, icmp: bool) -> anyhow::Result<()> {
        links::lock_route_mtus(&self.namespace, mtu)?;
        if icmp { Ok(()) } else { nft::apply(&self.namespace, SILENCE) }
    }

    /// From here on everything from and to an uplink vanishes, while its link stays up.
    ///
    /// # Errors
    /// What nft said.
    pub fn cut(&self, uplink: &Uplink) -> anyhow::Result<()> {
        self.dead("add", uplink)
    }

    /// Undoes [`Self::cut`].
    ///
    /// # Errors
    /// What nft said.
    pub fn mend(&self, uplink: &Uplink) -> anyhow::Result<()> {
        self.dead("delete", uplink)
    }

    fn dead(&self, verb: &str, uplink: &Uplink) -> anyhow::Result<()> {
        let link = uplink.outermost();
        let rules = format!(
            "{verb} element inet faults dead4 {{ {} }}\n{verb} element inet faults dead6 {{ {} }}\n",
            link.network.trunc(),
            link.network_v6.trunc()
        );
        nft::apply(&self.namespace, &rules)
    }

    /// Stops datagrams between two uplinks, both ways, while each still reaches everyone else.
    ///
    /// # Errors
    /// What nft said.
    pub fn part(&self, one: &Uplink, other: &Uplink) -> anyhow::Result<()> {
        let mut rules =
            String::from("table inet parted\ndelete table inet parted\ntable inet parted {\n  chain forward {\n");
        rules += "    type filter hook forward priority filter\n";
        let (one, other) = (one.outermost(), other.outermost());
        for (from, to) in [(one, other), (other, one)] {
            rules += &format!("    ip saddr {} ip daddr {} drop\n", from.network.trunc(), to.network.trunc());
            rules += &format!("    ip6 saddr {} ip6 daddr {} drop\n", from.network_v6.trunc(), to.network_v6.trunc());
        }
        nft::apply(&self.namespace, &(rules + "  }\n}\n"))
    }

    /// Undoes [`Self::part`].
    ///
    /// # Errors
    /// What nft said.
    pub fn join(&self) -> anyhow::Result<()> {
        nft::apply(&self.namespace, "table inet parted\ndelete table inet parted\n")
    }

    /// Takes the carrier from an uplink: the link of its outermost router or gateway goes down.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn unplug(&self, uplink: &Uplink) -> anyhow::Result<()> {
        links::down(&self.namespace, &uplink.outermost().upper_interface)
    }

    /// Undoes [`Self::unplug`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn plug(&self, uplink: &Uplink) -> anyhow::Result<()> {
        links::up(&self.namespace, &uplink.outermost().upper_interface)
    }
}

/// The NATs of an access, from the outside to the inside.
fn nats(access: &Access) -> Vec<Nat> {
    let nat = Nat {
        mapping: access.kind.mapping(),
        filtering: access.kind.filtering(),
        hairpin: access.hairpin,
        lifetime: access.lifetime,
        allowed: None,
        carrier: false,
    };
    debug_assert!(access.kind == Kind::None || nat.mapping != Behaviour::None);
    match access.kind {
        Kind::None => Vec::new(),
        Kind::Cgnat => vec![Nat { carrier: true, ..nat.clone() }, nat],
        Kind::Blocked => vec![Nat { allowed: Some(access.allowed.clone()), ..nat }],
        _ => vec![nat],
    }
}
