//! Policy rules, for tunnels that carry the default route.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteHeader;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, family};

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

/// In which tables a packet without a mark is looked up that comes in by some interface and is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lookup {
    /// The main table is asked, its default routes left out.
    pub main_without_default: bool,
    /// Before the main table's own default routes, those of this one.
    pub defaults: Option<u32>,
}

impl Netlink {
    /// What the policy rules of a family amount to; `None` where there are rules that others than the kernel cannot follow.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn lookup(&mut self, ipv4: bool) -> io::Result<Option<Lookup>> {
        let mut message = RuleMessage::default();
        message.header.family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let answer = self.dump(&RouteNetlinkMessage::GetRule(message))?;
        let mut lookup = Lookup::default();
        for message in &answer {
            let RouteNetlinkMessage::NewRule(rule) = message else { continue };
            match read(rule) {
                Read::Usual => {}
                Read::Ours(Rule::MainWithoutDefault) => lookup.main_without_default = true,
                Read::Ours(Rule::NotMarked { table, .. }) if lookup.defaults.is_none_or(|known| known == table) => {
                    lookup.defaults = Some(table);
                }
                Read::Ours(_) | Read::Other => return Ok(None),
            }
        }
        Ok(Some(lookup))
    }

    /// Whether a rule says where packets from an address go.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn has_rule(&mut self, source: IpAddr) -> io::Result<bool> {
        let mut message = RuleMessage::default();
        message.header.family = family(source);
        let answer = self.dump(&RouteNetlinkMessage::GetRule(message))?;
        Ok(answer.iter().any(|message| match message {
            RouteNetlinkMessage::NewRule(rule) => names(rule, source),
            _ => false,
        }))
    }

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

/// Whether a rule is for packets from an address, and from few others.
fn names(rule: &RuleMessage, source: IpAddr) -> bool {
    rule.attributes.iter().any(|attribute| match attribute {
        RuleAttribute::Source(prefix) => {
            IpNet::new(*prefix, rule.header.src_len).is_ok_and(|net| net.prefix_len() > 0 && net.contains(&source))
        }
        _ => false,
    })
}

/// What a rule is to us.
enum Read {
    /// One of the three that every host has, or one that concerns no packet that is forwarded.
    Usual,
    /// One that a tunnel with a default route has, of ours or of wg-quick.
    Ours(Rule),
    /// Anything else.
    Other,
}

const LOCAL: u32 = 255;
const MAIN: u32 = 254;
const DEFAULT: u32 = 253;

fn read(message: &RuleMessage) -> Read {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut mark, mut suppressed, mut local) = (None, false, false);
    let mut selective = header.dst_len != 0 || header.src_len != 0 || header.tos != 0;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => selective |= *value != u32::MAX,
            RuleAttribute::SuppressPrefixLen(0) => suppressed = true,
            // The kernel says so where nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::Priority(_)
            | RuleAttribute::Protocol(_) => {}
            // Packets of this host: none of those that are forwarded.
            RuleAttribute::Iifname(name) if name == "lo" => local = true,
            _ => selective = true,
        }
    }
    let inverted = header.flags.contains(RuleFlags::Invert);
    match (header.action, mark) {
        _ if local && !inverted => Read::Usual,
        (RuleAction::ToTable, None) if !selective && !inverted => match (table, suppressed) {
            (LOCAL | MAIN | DEFAULT, false) => Read::Usual,
            (MAIN, true) => Read::Ours(Rule::MainWithoutDefault),
            _ => Read::Other,
        },
        (RuleAction::ToTable, Some(mark)) if !selective && !suppressed && inverted => {
            Read::Ours(Rule::NotMarked { mark, table })
        }
        // Only packets with a mark, and those that come by rings have none.
        (_, Some(mark)) if mark != 0 && !inverted => Read::Usual,
        _ => Read::Other,
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
