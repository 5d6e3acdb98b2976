//! Policy rules, for tunnels that carry the default route.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteHeader;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;

/// One of the two rules that send everything into the tunnel but the tunnel's own packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// What does not carry the mark is routed by the tunnel's table.
    NotMarked {
        /// The mark of outer packets.
        mark: u32,
        /// The tunnel's table.
        table: u32,
    },
    /// Before that, the main table is asked, but for its default route.
    MainWithoutDefault,
}

impl Netlink {
    /// Adds a rule for IPv4 or IPv6 before those that are there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn add_rule(&mut self, rule: Rule, ipv4: bool) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewRule(message(rule, ipv4)), NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Removes a rule that [`Netlink::add_rule`] made.
    ///
    /// # Errors
    /// What the kernel said: ENOENT when it is not there.
    pub fn delete_rule(&mut self, rule: Rule, ipv4: bool) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelRule(message(rule, ipv4)), 0).map(drop)
    }
}

fn message(rule: Rule, ipv4: bool) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.action = RuleAction::ToTable;
    match rule {
        Rule::NotMarked { mark, table } => {
            message.header.flags = RuleFlags::Invert;
            message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
            message.attributes.push(RuleAttribute::FwMark(mark));
            message.attributes.push(RuleAttribute::Table(table));
        }
        Rule::MainWithoutDefault => {
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.attributes.push(RuleAttribute::Table(u32::from(RouteHeader::RT_TABLE_MAIN)));
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
    }
    message
}
