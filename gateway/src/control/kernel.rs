//! [`Network`] as the kernel has it.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;

use super::netlink::Netlink;
use super::netlink::addresses::Address;
use super::netlink::links::Link;
use super::netlink::routes::{Route, RouteQuery};
use super::paths::Network;
use crate::nat::hosts;

/// The kernel's routes and neighbours, and its interfaces as last heard of.
#[derive(Debug)]
pub struct Kernel {
    /// The conversation.
    pub netlink: Netlink,
    links: HashMap<u32, Link>,
    /// The interface of each address.
    homes: HashMap<IpAddr, u32>,
    addresses: Vec<Address>,
}

impl Kernel {
    /// Reads the interfaces.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(netlink: Netlink) -> io::Result<Self> {
        let mut kernel = Self { netlink, links: HashMap::new(), homes: HashMap::new(), addresses: Vec::new() };
        kernel.read_links()?;
        Ok(kernel)
    }

    /// Reads the interfaces again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_links(&mut self) -> io::Result<()> {
        self.links = self.netlink.links()?.into_iter().map(|link| (link.index, link)).collect();
        Ok(())
    }

    /// Reads the addresses of this host again, and returns them.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_addresses(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        self.addresses = self.netlink.addresses()?;
        self.homes = self.addresses.iter().map(|found| (found.address, found.if_index)).collect();
        Ok(self.homes.keys().copied().collect())
    }

    /// The addresses at which others may reach this host, as last read; not those of the tunnel interface.
    #[must_use]
    pub fn hosts(&self, tunnel: Option<u32>, uplinks: &[u32]) -> Vec<IpAddr> {
        hosts::choose(&self.addresses, |index| self.links.get(&index), tunnel, uplinks)
    }

    /// All interfaces as last heard of.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }
}

impl Network for Kernel {
    fn route(&mut self, query: &RouteQuery) -> io::Result<Route> {
        self.netlink.route(query)
    }

    fn link(&mut self, index: u32) -> Option<Link> {
        self.links.get(&index).cloned()
    }

    fn neighbour(&mut self, if_index: u32, address: IpAddr) -> Option<[u8; 6]> {
        self.netlink.neighbour(if_index, address).ok().flatten()
    }

    fn home(&mut self, address: IpAddr) -> Option<u32> {
        let home = *self.homes.get(&address)?;
        self.links.get(&home).filter(|link| !link.host_wide).map(|link| link.index)
    }

    fn has_rule(&mut self, source: IpAddr) -> bool {
        self.netlink.has_rule(source).unwrap_or_else(|error| {
            tracing::debug!(%error, "reading policy rules");
            false
        })
    }

    fn use_neighbour(&mut self, if_index: u32, address: IpAddr) {
        if let Err(error) = self.netlink.use_neighbour(if_index, address) {
            tracing::debug!(%address, %error, "asking the kernel to resolve a neighbour");
        }
    }
}
