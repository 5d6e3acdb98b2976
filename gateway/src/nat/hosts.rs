//! Which addresses of this host others may reach it at.
//!
//! Enters: addresses and interfaces as the kernel has them. Leaves: addresses, the best ones first. Never does: take the
//! tunnel's own, loopback, one that is valid on a link only, or one that is about to go.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::control::netlink::addresses::Address;
use crate::control::netlink::links::Link;

use super::survey::is_public;

/// Addresses that are nobody's (RFC 5737, RFC 3849): the route to them is that to the internet.
pub const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Addresses at most: what remains of the candidates is for those that others see.
pub const HOSTS_MAX: usize = 8;

/// Chooses among all addresses. `uplinks` are the interfaces of default routes, the kernel's first choice first.
#[must_use]
pub fn choose<'l>(
    addresses: &[Address],
    link: impl Fn(u32) -> Option<&'l Link>,
    tunnel: Option<u32>,
    uplinks: &[u32],
) -> Vec<IpAddr> {
    let usable = |found: &&Address| {
        Some(found.if_index) != tunnel
            && !found.waning
            && link(found.if_index).is_some_and(|link| link.up && link.carrier)
            && can_be_reached(found.address)
    };
    let lasting: BTreeSet<u32> =
        addresses.iter().filter(usable).filter(|found| is_lasting_v6(found)).map(|found| found.if_index).collect();
    let mut ranked: Vec<_> = addresses
        .iter()
        .filter(usable)
        // Addresses for a day exist for privacy; a gateway has peers that are to find it again tomorrow.
        .filter(|found| !found.temporary || !lasting.contains(&found.if_index))
        .map(|found| {
            let uplink = uplinks.iter().position(|index| *index == found.if_index).unwrap_or(usize::MAX);
            ((uplink, !is_public(found.address), found.address.is_ipv6(), found.address), found.address)
        })
        .collect();
    ranked.sort_unstable();
    let mut seen = BTreeSet::new();
    ranked.into_iter().map(|(_, address)| address).filter(|address| seen.insert(*address)).take(HOSTS_MAX).collect()
}

fn is_lasting_v6(found: &Address) -> bool {
    found.address.is_ipv6() && !found.temporary
}

fn can_be_reached(address: IpAddr) -> bool {
    let on_link_only = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || on_link_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, up: bool, carrier: bool) -> Link {
        let name = format!("if{index}");
        Link { index, name, mtu: 1500, mac: None, up, carrier, host_wide: false, rx_queues: 1, vlan: None }
    }

    fn address(if_index: u32, text: &str) -> Address {
        Address { if_index, address: text.parse().expect("an address"), temporary: false, waning: false }
    }

    #[test]
    fn addresses_that_others_can_reach_are_chosen_and_those_of_uplinks_come_first() {
        let links = [
            link(1, true, true),
            link(2, true, true),
            link(3, true, true),
            link(4, true, true),
            link(5, true, false),
            link(6, false, true),
        ];
        let addresses = [
            address(1, "127.0.0.1"),
            address(1, "::1"),
            address(2, "192.168.1.2"),
            address(2, "fe80::2"),
            address(2, "169.254.3.4"),
            Address { temporary: true, ..address(3, "2001:db8::aaaa") },
            address(3, "2001:db8::3"),
            address(3, "2001:db8::3"),
            Address { waning: true, ..address(3, "2001:db8::4") },
            address(3, "203.0.113.3"),
            address(4, "10.77.0.1"),
            address(5, "10.5.0.1"),
            address(6, "10.6.0.1"),
            address(7, "10.7.0.1"),
        ];
        let find = |index| links.iter().find(|link: &&Link| link.index == index);
        let chosen: Vec<_> = choose(&addresses, find, Some(4), &[3]).iter().map(ToString::to_string).collect();
        assert_eq!(chosen, ["203.0.113.3", "2001:db8::3", "192.168.1.2"]);
    }

    #[test]
    fn a_temporary_address_is_taken_where_there_is_no_lasting_one() {
        let links = [link(3, true, true)];
        let addresses = [Address { temporary: true, ..address(3, "2001:db8::aaaa") }, address(3, "10.0.0.3")];
        let chosen = choose(&addresses, |_| links.first(), None, &[]);
        assert_eq!(chosen.len(), 2);
        let many: Vec<_> = (0..100).map(|host| address(3, &format!("10.0.0.{host}"))).collect();
        assert_eq!(choose(&many, |_| links.first(), None, &[]).len(), HOSTS_MAX);
    }
}
