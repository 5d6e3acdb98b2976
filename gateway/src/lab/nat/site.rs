//! A site: a gateway, what lies between it and the internet, and a host behind it.
//!
//! ```text
//! host lan0 10.81.N.2 -- 10.81.N.1 lan0 gateway wan0 -- in0 router out -- the internet
//!                                               wan1 -- the internet
//! ```
//!
//! Enters: a role. Leaves: namespaces with links and addresses. Never does: start a gateway.

use std::net::Ipv4Addr;

use super::ground::{Attachment, make_router, queues, space};
use super::router::{self, Router};
use crate::lab::links;
use crate::lab::namespace::Namespace;

/// The lan interface of gateways and hosts.
pub const LAN: &str = "lan0";
/// What fits a tunnel over links of 1500 bytes: hosts need not discover it first.
const LAN_MTU: u32 = 1420;
const PREFIX_LEN: u8 = 24;

/// The site.
#[derive(Debug)]
pub struct Site {
    /// Where the gateway runs.
    pub gateway: Namespace,
    /// The host behind it.
    pub host: Namespace,
    /// Its ways to the internet, the preferred one first.
    pub uplinks: Vec<Uplink>,
    number: u8,
}

/// One way from a gateway to the internet.
#[derive(Debug)]
pub struct Uplink {
    /// The gateway's own link: to the internet, or to the innermost router.
    pub link: Attachment,
    /// The routers on the way, the outermost first.
    pub routers: Vec<Router>,
    /// The address that the internet sees.
    pub public: Ipv4Addr,
}

impl Uplink {
    /// The link that ends at the internet.
    #[must_use]
    pub fn outermost(&self) -> &Attachment {
        self.routers.first().map_or(&self.link, Router::uplink)
    }

    /// The router that the gateway is linked to.
    ///
    /// # Panics
    /// Where there is none.
    pub fn inner_router(&mut self) -> &mut Router {
        self.routers.last_mut().expect("a site behind a router")
    }
}

impl Site {
    /// A site without uplinks.
    pub(super) fn new(prefix: &str, role: &str, number: u8) -> anyhow::Result<Self> {
        let gateway = space(prefix, role)?;
        let host = space(prefix, &format!("{role}-host"))?;
        make_router(&gateway)?;
        let site = Self { gateway, host, uplinks: Vec::new(), number };
        links::veth((&site.host, LAN), (&site.gateway, LAN), queues(), LAN_MTU)?;
        links::address(&site.gateway, LAN, site.lan(1).into(), PREFIX_LEN)?;
        links::address(&site.host, LAN, site.host_address().into(), PREFIX_LEN)?;
        links::default_route(&site.host, site.lan(1).into(), 100)?;
        Ok(site)
    }

    pub(super) fn add(&mut self, uplink: Uplink) {
        self.uplinks.push(uplink);
    }

    /// The host's address.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        self.lan(2)
    }

    /// The site's network in CIDR notation.
    #[must_use]
    pub fn network(&self) -> String {
        format!("{}/{PREFIX_LEN}", self.lan(0))
    }

    /// Which site it is.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    fn lan(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 81, self.number, host)
    }

    /// Changes the address that the internet sees at an uplink; bindings of a NAT are gone with it.
    ///
    /// # Errors
    /// What the kernel or nft said.
    pub fn change_address(&mut self, uplink: usize) -> anyhow::Result<Ipv4Addr> {
        let Self { gateway, uplinks, .. } = self;
        let uplink = &mut uplinks[uplink];
        let public = match uplink.routers.first_mut() {
            Some(router) => router.change_address()?,
            None => {
                let (old, new) = router::other(&uplink.link, uplink.public);
                router::swap(gateway, &uplink.link.interface, old, new, &uplink.link)?;
                new
            }
        };
        uplink.public = public;
        Ok(public)
    }
}
