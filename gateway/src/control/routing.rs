//! Addresses, MTU and routes of the tunnel interface: set at start, taken away at the end.
//!
//! Enters: settings. Leaves: a [`Routing`] that knows what it made. Never does: take away what it did not make. Addresses
//! and routes go with the interface by themselves; rules would stay, so they are removed by hand.

use std::io;

use anyhow::Context as _;
use ipnet::IpNet;
use netlink_packet_route::route::RouteHeader;

use super::netlink::Netlink;
use super::netlink::rules::Rule;
use crate::settings::{RouteTable, Settings};

/// The first number tried for a table and mark of our own, as wg-quick does.
const OWN_TABLE: u32 = 51820;
/// Bytes that WireGuard adds to a packet over IPv6: 40 of IP, 8 of UDP, 32 of its own.
const OVERHEAD: u32 = 80;
/// Gateways killed one after the other whose rules are taken away.
const LEFTOVERS_MAX: usize = 16;
/// What IPv6 needs.
const MTU_MIN: u32 = 1280;
/// Without any route to an endpoint: Ethernet's.
const MTU_ASSUMED: u32 = 1500;

/// The MTU of a tunnel whose way has this MTU.
#[must_use]
pub fn tunnel_mtu(way: Option<u32>) -> u32 {
    way.unwrap_or(MTU_ASSUMED).saturating_sub(OVERHEAD).clamp(MTU_MIN, 65_535 - OVERHEAD)
}

/// Where the routes of a gateway go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The table of ordinary routes; `None`: no routes.
    pub table: Option<u32>,
    /// Default routes go to a table of this number, and outer packets carry it as their mark.
    pub own: Option<Own>,
}

/// A table of our own for default routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// The table.
    pub table: u32,
    /// The mark of outer packets.
    pub mark: u32,
}

/// Decides where routes go; a configured mark is used for the table of our own, else a free number.
///
/// # Errors
/// What the kernel said.
pub fn plan(settings: &Settings, netlink: &mut Netlink) -> io::Result<Plan> {
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    match settings.table {
        RouteTable::Off => Ok(Plan { table: None, own: None }),
        RouteTable::Id(table) => Ok(Plan { table: Some(table), own: None }),
        RouteTable::Auto => {
            let has_default = settings.peers.iter().flat_map(|peer| &peer.allowed_ips).any(|net| net.prefix_len() == 0);
            if !has_default {
                return Ok(Plan { table: Some(main), own: None });
            }
            let mut table = settings.fwmark.filter(|mark| *mark != 0).unwrap_or(OWN_TABLE);
            if settings.fwmark.is_none_or(|mark| mark == 0) {
                while netlink.table_in_use(table)? {
                    table += 1;
                }
            }
            Ok(Plan { table: Some(main), own: Some(Own { table, mark: table }) })
        }
    }
}

/// What was set up.
#[derive(Debug, Default)]
pub struct Routing {
    rules: Vec<(Rule, bool)>,
}

impl Routing {
    /// Gives the interface its addresses and brings it up.
    ///
    /// # Errors
    /// The address that was refused, and why.
    pub fn bring_up(netlink: &mut Netlink, settings: &Settings, if_index: u32) -> anyhow::Result<()> {
        let name = &settings.interface;
        for net in &settings.addresses {
            netlink.add_address(if_index, *net).with_context(|| format!("cannot give {name} the address {net}"))?;
        }
        netlink.set_up(if_index).with_context(|| format!("cannot bring {name} up"))
    }

    /// Adds the routes to what lies behind the peers, and the rules that a default route needs.
    ///
    /// # Errors
    /// The route that was refused, and why.
    pub fn add(&mut self, netlink: &mut Netlink, settings: &Settings, if_index: u32, plan: Plan) -> anyhow::Result<()> {
        let Some(main) = plan.table else { return Ok(()) };
        if let Some(own) = plan.own {
            remove_leftovers(netlink, own);
        }
        let mut nets: Vec<IpNet> = settings.peers.iter().flat_map(|peer| &peer.allowed_ips).map(IpNet::trunc).collect();
        nets.sort_unstable();
        nets.dedup();
        for net in nets {
            let own = plan.own.filter(|_| net.prefix_len() == 0);
            let table = own.map_or(main, |own| own.table);
            match netlink.add_route(net, if_index, table, false) {
                // The tunnel's own address already made it (10.0.0.1/24), or another route has the prefix.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    tracing::info!(%net, "a route to this prefix is there already and stays as it is");
                }
                // A host without IPv6 can still carry the rest.
                Err(error) if net.addr().is_ipv6() && is_unsupported(&error) => {
                    tracing::warn!(%net, %error, "no route: this host has no IPv6");
                }
                result => result.with_context(|| format!("cannot add a route to {net}"))?,
            }
            if let Some(own) = own {
                self.add_rules(netlink, own, net.addr().is_ipv4())?;
            }
        }
        Ok(())
    }

    fn add_rules(&mut self, netlink: &mut Netlink, own: Own, ipv4: bool) -> anyhow::Result<()> {
        // The kernel puts each rule before the last, so the second one is asked first.
        for rule in [Rule::NotMarked { mark: own.mark, table: own.table }, Rule::MainWithoutDefault] {
            match netlink.add_rule(rule, ipv4) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) if !ipv4 && is_unsupported(&error) => continue,
                result => result.context("cannot add the rule for the default route")?,
            }
            self.rules.push((rule, ipv4));
        }
        if ipv4 && let Err(error) = std::fs::write("/proc/sys/net/ipv4/conf/all/src_valid_mark", "1") {
            tracing::warn!(%error, "cannot set net.ipv4.conf.all.src_valid_mark: a strict rp_filter may drop replies");
        }
        Ok(())
    }

    /// Takes away what would outlive the interface.
    pub fn remove(&mut self, netlink: &mut Netlink) {
        for (rule, ipv4) in self.rules.drain(..).rev() {
            if let Err(error) = netlink.delete_rule(rule, ipv4) {
                tracing::warn!(?rule, %error, "a rule cannot be removed");
            }
        }
    }
}

/// A rule for our table that is there although the table is empty was left by a gateway that was killed, and with it one of
/// the second kind, which others may have too.
fn remove_leftovers(netlink: &mut Netlink, own: Own) {
    if netlink.table_in_use(own.table).unwrap_or(true) {
        return;
    }
    for ipv4 in [true, false] {
        let first = Rule::NotMarked { mark: own.mark, table: own.table };
        for _ in 0..LEFTOVERS_MAX {
            if netlink.delete_rule(first, ipv4).is_err() {
                break;
            }
            // It may have been removed by hand.
            let _ = netlink.delete_rule(Rule::MainWithoutDefault, ipv4);
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::AFNOSUPPORT, Errno::OPNOTSUPP, Errno::ACCESS]
        .into_iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tunnel_mtu_leaves_room_for_the_outer_headers_within_what_ipv6_needs() {
        assert_eq!(tunnel_mtu(None), 1420);
        assert_eq!(tunnel_mtu(Some(1500)), 1420);
        assert_eq!(tunnel_mtu(Some(9000)), 8920);
        assert_eq!(tunnel_mtu(Some(1300)), 1280);
        assert_eq!(tunnel_mtu(Some(65_536)), 65_455);
    }
}
