//! Addresses of interfaces.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::{Netlink, family};

/// An address of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface that has it.
    pub if_index: u32,
    /// The address.
    pub address: IpAddr,
    /// Of IPv6: made up for a while, for privacy (RFC 8981).
    pub temporary: bool,
    /// Not to be used for anything that begins: deprecated, or not (yet) known to be nobody else's.
    pub waning: bool,
}

impl Netlink {
    /// All addresses of all interfaces.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let answer = self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) => read(&address),
                _ => None,
            })
            .collect())
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn add_address(&mut self, if_index: u32, net: IpNet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(net.addr());
        message.header.prefix_len = net.prefix_len();
        message.header.index = if_index;
        message.attributes.push(AddressAttribute::Local(net.addr()));
        message.attributes.push(AddressAttribute::Address(net.addr()));
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }
}

/// Of a point-to-point interface `IFA_ADDRESS` is the other end: `IFA_LOCAL` goes before it.
fn read(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut other = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let address = local.or(other)?;
    let unusable = AddressFlags::Deprecated | AddressFlags::Dadfailed | AddressFlags::Tentative;
    Some(Address {
        if_index: message.header.index,
        address,
        // The kernel gives IFA_F_TEMPORARY the number that is IFA_F_SECONDARY with IPv4.
        temporary: address.is_ipv6() && flags.contains(AddressFlags::Secondary),
        waning: flags.intersects(unusable),
    })
}
