//! Addresses of the networks of the laboratory, and how one namespace is linked to another.
//!
//! A ground is a /24 of IPv4 and a /48 of IPv6; each link on it gets a /29 and a /64. In these the upper end of the
//! link is number 1, the lower end number 2, and number 3 is spare: the address that the lower end changes to.
//!
//! Enters: namespaces. Leaves: links that are up, with addresses and default routes. Never does: use an address twice.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::lab::links;
use crate::lab::namespace::Namespace;

/// Links that a ground has addresses for.
const LINKS_MAX: u8 = 31;
const MTU: u32 = 1500;
const PREFIX_V4: u8 = 29;
const PREFIX_V6: u8 = 64;

/// Where links get their addresses from.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    base: [u8; 3],
    number: u16,
    used: u8,
    /// How the upper ends of links are named, before their number.
    name: &'static str,
}

/// One link, seen from its lower end.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The interface at the lower end.
    pub interface: String,
    /// The interface at the upper end.
    pub upper_interface: String,
    /// The link's IPv4 network.
    pub network: Ipv4Net,
    /// The link's IPv6 network.
    pub network_v6: Ipv6Net,
    /// Whether the link has IPv4.
    pub has_v4: bool,
    /// Whether the link has IPv6.
    pub has_v6: bool,
}

/// What a link is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
    /// Metric of the default routes: the least one is used.
    pub(super) metric: u32,
}

impl Attachment {
    /// The lower end's address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        host(self.network, 2)
    }

    /// The address that the lower end can change to.
    #[must_use]
    pub fn spare(&self) -> Ipv4Addr {
        host(self.network, 3)
    }

    /// The upper end's address.
    #[must_use]
    pub fn upper(&self) -> Ipv4Addr {
        host(self.network, 1)
    }

    /// The lower end's IPv6 address.
    #[must_use]
    pub fn address_v6(&self) -> Ipv6Addr {
        host_v6(self.network_v6, 2)
    }

    /// The upper end's IPv6 address.
    #[must_use]
    pub fn upper_v6(&self) -> Ipv6Addr {
        host_v6(self.network_v6, 1)
    }
}

impl Ground {
    pub(super) const fn new(base: [u8; 3], number: u16, name: &'static str) -> Self {
        Self { base, number, used: 0, name }
    }

    /// Its whole IPv6 network.
    pub(super) fn network_v6(&self) -> anyhow::Result<IpNet> {
        Ok(Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, self.number, 0, 0, 0, 0, 0), 48)?.into())
    }

    /// Links a namespace to the one above it.
    pub(super) fn attach(
        &mut self,
        upper: &Namespace,
        lower: &Namespace,
        interface: &str,
        wanted: Wanted,
    ) -> anyhow::Result<Attachment> {
        anyhow::ensure!(self.used < LINKS_MAX, "a network of the laboratory has {LINKS_MAX} links at most");
        let number = self.used;
        self.used += 1;
        let [a, b, c] = self.base;
        let attachment = Attachment {
            interface: interface.to_owned(),
            upper_interface: format!("{}{number}", self.name),
            network: Ipv4Net::new(Ipv4Addr::new(a, b, c, number * 8), PREFIX_V4)?,
            network_v6: Ipv6Net::new(
                Ipv6Addr::new(0x2001, 0xdb8, self.number, u16::from(number) + 1, 0, 0, 0, 0),
                PREFIX_V6,
            )?,
            has_v4: wanted.ipv4,
            has_v6: wanted.ipv6,
        };
        let upper_name = attachment.upper_interface.as_str();
        links::veth((lower, interface), (upper, upper_name), queues(), MTU)?;
        for (namespace, name) in [(lower, interface), (upper, upper_name)] {
            // An interface that was down has its IPv6 address again.
            links::setting(namespace, &format!("ipv6/conf/{name}/keep_addr_on_down"), "1")?;
            links::setting(namespace, &format!("ipv4/conf/{name}/promote_secondaries"), "1")?;
        }
        if wanted.ipv4 {
            links::address(lower, interface, attachment.address().into(), PREFIX_V4)?;
            links::address(upper, upper_name, attachment.upper().into(), PREFIX_V4)?;
            links::default_route(lower, attachment.upper().into(), wanted.metric)?;
        }
        if wanted.ipv6 {
            links::address(lower, interface, attachment.address_v6().into(), PREFIX_V6)?;
            links::address(upper, upper_name, attachment.upper_v6().into(), PREFIX_V6)?;
            links::default_route(lower, attachment.upper_v6().into(), wanted.metric)?;
        }
        Ok(attachment)
    }
}

/// A namespace whose addresses can be used at once: nobody else is there to own them.
pub(super) fn space(prefix: &str, role: &str) -> anyhow::Result<Namespace> {
    let namespace = Namespace::new(prefix, role)?;
    for name in ["accept_dad", "accept_ra"] {
        links::setting(&namespace, &format!("ipv6/conf/default/{name}"), "0")?;
    }
    Ok(namespace)
}

/// Makes a namespace forward packets between its links, whatever way they come.
pub(super) fn make_router(namespace: &Namespace) -> anyhow::Result<()> {
    for (path, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        // One ICMP "too big" a second would make a path's MTU look unknown.
        ("ipv4/icmp_ratelimit", "0"),
    ] {
        links::setting(namespace, path, value).with_context(|| format!("{} cannot forward", namespace.name()))?;
    }
    Ok(())
}

/// Queues of a link: one for each core, as lanes want them.
pub(super) fn queues() -> u32 {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8) as u32
}

fn host(network: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.network().to_bits() + number)
}

fn host_v6(network: Ipv6Net, number: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(network.network().to_bits() + number)
}
