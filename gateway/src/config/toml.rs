//! The TOML format.
//!
//! Enters: the text of a file. Leaves: a [`Draft`] with the place of each value. Never does: read a file or fetch a key.
//!
//! The document is walked by hand, not through serde, so that every message can name line, column, key and what is expected.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draft::{Draft, LANES_MAX, PeerDraft};
use super::error::{Fault, Located, Place, Problem, nearest};
use super::keys::KeySource;
use super::relay::{self, LinkDraft, RelayDraft};
use super::values::{self, Expected};
use crate::settings::RouteTable;

/// Sections within the one of the relay.
const RELAY_LINK: &str = "relay.link";

/// Every section and its keys.
pub(crate) const SECTIONS: &[(&str, &[&str])] = &[
    (
        "interface",
        &[
            "name",
            "private_key",
            "private_key_file",
            "private_key_credential",
            "listen_port",
            "fwmark",
            "addresses",
            "mtu",
            "table",
            "dns",
            "pre_up",
            "post_up",
            "pre_down",
            "post_down",
            "user",
        ],
    ),
    (
        "wan",
        &[
            "backend",
            "interfaces",
            "xdp_mode",
            "copy",
            "multi_buffer",
            "ring",
            "busy_poll",
            "source_ports",
            "checksum_offload",
        ],
    ),
    ("lan", &["backend", "interfaces", "xdp_mode", "copy", "offloads"]),
    ("nat", &["stun", "port_mapping", "direct", "introduce", "spray"]),
    ("relay", &["enabled", "backend", "ports", "rate_mbps", "link"]),
    (RELAY_LINK, &["peers", "ports"]),
    ("lanes", &["count", "pin", "frames", "crypto"]),
    ("metrics", &["listen", "stages"]),
    (
        "peer",
        &[
            "name",
            "public_key",
            "preshared_key",
            "preshared_key_file",
            "preshared_key_credential",
            "endpoint",
            "allowed_ips",
            "persistent_keepalive",
            "extensions",
            "direct",
        ],
    ),
];

/// Reads the text of a TOML configuration.
///
/// # Errors
/// The first thing that is wrong in it.
pub fn parse(text: &str) -> Result<Draft, Fault> {
    let lines = Lines::new(text);
    let document = DeTable::parse(text).map_err(|error| {
        let place = lines.place(error.span().map_or(0, |span| span.start), "");
        Fault::new(&place, Problem::Syntax(format!("not TOML: {}", error.message().replace('\n', ", "))))
    })?;
    let root = Section { table: document.get_ref(), name: "", at: lines.place(0, ""), lines: &lines };
    for key in root.table.keys() {
        if !SECTIONS.iter().any(|(name, _)| *name == key.get_ref().as_ref()) {
            let names: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
            let nearest = nearest(key.get_ref(), &names);
            return Err(Fault::new(&lines.place(key.span().start, key.get_ref()), Problem::UnknownSection { nearest }));
        }
    }
    let mut draft = Draft { needs_private_key: true, ..Draft::default() };
    let Some(interface) = root.section("interface")? else {
        let problem =
            Problem::Missing { expected: "a section [interface] with the gateway's key and addresses".to_owned() };
        return Err(Fault::new(&lines.place(0, "interface"), problem));
    };
    read_interface(&interface, &mut draft)?;
    if let Some(wan) = root.section("wan")? {
        read_wan(&wan, &mut draft)?;
    }
    if let Some(lan) = root.section("lan")? {
        read_lan(&lan, &mut draft)?;
    }
    if let Some(nat) = root.section("nat")? {
        read_nat(&nat, &mut draft)?;
    }
    if let Some(relay) = root.section("relay")? {
        draft.relay = read_relay(&relay)?;
    }
    if let Some(lanes) = root.section("lanes")? {
        lanes.only_known()?;
        draft.lanes =
            lanes.number("count", 1, LANES_MAX as u32, "a number of lanes, 1 to 256")?.map(|n| n.value as usize);
        draft.pin = lanes.boolean("pin")?;
        draft.frames_per_lane =
            lanes.number("frames", 1024, 1 << 20, "a number of frames per lane, 1024 to 1048576")?;
        draft.crypto = lanes.text("crypto", values::CRYPTO, values::crypto)?.map(|c| c.value).unwrap_or_default();
    }
    if let Some(metrics) = root.section("metrics")? {
        metrics.only_known()?;
        draft.metrics = metrics.text("listen", values::SOCKET, values::socket)?.map(|l: Located<SocketAddr>| l.value);
        const STAGES: Expected = "one turn in so many to sample, 1 to 1000000, or 0 for off";
        draft.stages = metrics.number("stages", 0, 1_000_000, STAGES)?.and_then(|every| NonZeroU32::new(every.value));
    }
    for peer in root.sections("peer")? {
        draft.peers.push(read_peer(&peer)?);
    }
    Ok(draft)
}

fn read_interface(section: &Section<'_>, draft: &mut Draft) -> Result<(), Fault> {
    section.only_known()?;
    draft.section = section.at.clone();
    draft.interface = section.text("name", values::INTERFACE, values::interface)?.map(|name| name.value);
    draft.private_key = section.key_source("private_key")?;
    draft.listen_port =
        section.number("listen_port", 0, 65535, values::PORT)?.map(|port| port.value as u16).filter(|p| *p != 0);
    draft.fwmark = section.scalar("fwmark", values::MARK, values::mark)?.and_then(|mark| mark.value);
    draft.addresses = section.list("addresses", values::ADDRESS, values::address)?;
    draft.mtu = section.scalar("mtu", values::MTU, values::mtu)?;
    draft.table = section.scalar("table", values::TABLE, values::table)?.map_or(RouteTable::Auto, |table| table.value);
    draft.dns = plain(section.list("dns", values::DNS, values::dns)?);
    const COMMAND: Expected = "a command, or a list of commands";
    let command = |text: &str| if text.trim().is_empty() { Err(COMMAND) } else { Ok(text.to_owned()) };
    draft.hooks.pre_up = plain(section.list("pre_up", COMMAND, command)?);
    draft.hooks.post_up = plain(section.list("post_up", COMMAND, command)?);
    draft.hooks.pre_down = plain(section.list("pre_down", COMMAND, command)?);
    draft.hooks.post_down = plain(section.list("post_down", COMMAND, command)?);
    draft.user = section.text("user", values::USER, values::user)?.map(|user| user.value);
    Ok(())
}

fn read_wan(section: &Section<'_>, draft: &mut Draft) -> Result<(), Fault> {
    section.only_known()?;
    draft.wan_backend =
        section.text("backend", values::WAN_BACKEND, values::wan_backend)?.map(|b| b.value).unwrap_or_default();
    draft.wan_interfaces = plain(section.list("interfaces", values::INTERFACE, values::interface)?);
    draft.xdp_mode =
        section.text("xdp_mode", values::XDP_MODE, values::xdp_mode)?.map(|mode| mode.value).unwrap_or_default();
    draft.copy = section.boolean("copy")?.unwrap_or(false);
    draft.one_buffer = !section.boolean("multi_buffer")?.unwrap_or(true);
    const RING: Expected = "a power of two, 64 to 32768";
    draft.ring = section.number("ring", 64, 32768, RING)?;
    if let Some(ring) = draft.ring.as_ref().filter(|ring| !ring.value.is_power_of_two()) {
        let problem = Problem::Invalid { found: ring.value.to_string(), expected: RING.to_owned() };
        return Err(Fault::new(&ring.place, problem));
    }
    const BUDGET: Expected = "packets per busy poll, 0 (off) to 1024";
    draft.busy_poll =
        section.number("busy_poll", 0, 1024, BUDGET)?.map(|budget| budget.value).filter(|budget| *budget != 0);
    const PORTS: Expected = "a number of source ports beside the listen port, 0 to 16";
    draft.source_ports = section.number("source_ports", 0, 16, PORTS)?.map(|ports| ports.value as u8);
    let offload = section.text("checksum_offload", values::CHECKSUM_OFFLOAD, values::checksum_offload)?;
    draft.checksum_offload = offload.map(|offload| offload.value).unwrap_or_default();
    Ok(())
}

fn read_lan(section: &Section<'_>, draft: &mut Draft) -> Result<(), Fault> {
    section.only_known()?;
    draft.lan_backend =
        section.text("backend", values::LAN_BACKEND, values::lan_backend)?.map(|b| b.value).unwrap_or_default();
    draft.lan_interfaces = plain(section.list("interfaces", values::INTERFACE, values::interface)?);
    draft.lan_xdp_mode =
        section.text("xdp_mode", values::XDP_MODE, values::xdp_mode)?.map(|mode| mode.value).unwrap_or_default();
    draft.lan_copy = section.boolean("copy")?.unwrap_or(false);
    draft.lan_section = section.at.clone();
    draft.no_offloads = !section.boolean("offloads")?.unwrap_or(true);
    Ok(())
}

fn read_nat(section: &Section<'_>, draft: &mut Draft) -> Result<(), Fault> {
    section.only_known()?;
    draft.stun = section.list("stun", values::STUN, values::stun)?;
    draft.port_mapping = match section.value("port_mapping") {
        Some(_) => Some(section.list("port_mapping", values::MAPPING, values::mapping)?),
        None => None,
    };
    draft.direct = section.boolean("direct")?;
    draft.introduce = section.boolean("introduce")?;
    draft.spray = section.boolean("spray")?;
    Ok(())
}

fn read_relay(section: &Section<'_>) -> Result<RelayDraft, Fault> {
    section.only_known()?;
    let link = |link: &Section<'_>| {
        link.only_known()?;
        let name = |text: &str| if text.is_empty() { Err(relay::LINK_PEER) } else { Ok(text.to_owned()) };
        Ok(LinkDraft {
            section: link.at.clone(),
            peers: link.list("peers", relay::LINK_PEER, name)?,
            ports: link.ports("ports", relay::LINK_PORT)?,
        })
    };
    Ok(RelayDraft {
        enabled: section.boolean("enabled")?.unwrap_or(false),
        backend: section.text("backend", relay::BACKEND, relay::backend)?.map(|b| b.value).unwrap_or_default(),
        ports: section.text("ports", relay::PORTS, relay::ports)?,
        rate_mbps: section.number("rate_mbps", 0, 100_000, relay::RATE)?.map(|rate| rate.value),
        links: section.sections_as("link", RELAY_LINK)?.iter().map(link).collect::<Result<_, _>>()?,
    })
}

fn read_peer(section: &Section<'_>) -> Result<PeerDraft, Fault> {
    section.only_known()?;
    const NAME: Expected = "a name of 1 to 64 printable characters";
    let name = |text: &str| match text.chars().count() {
        1..=64 if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(NAME),
    };
    Ok(PeerDraft {
        section: section.at.clone(),
        name: section.text("name", NAME, name)?,
        public_key: section.text("public_key", values::KEY, values::public_key)?,
        preshared_key: section.key_source("preshared_key")?,
        endpoint: section.text("endpoint", values::ENDPOINT, values::endpoint)?.map(|endpoint| endpoint.value),
        allowed_ips: section.list("allowed_ips", values::NETWORK, values::network)?,
        persistent_keepalive: section
            .scalar("persistent_keepalive", values::KEEPALIVE, values::keepalive)?
            .and_then(|keepalive| keepalive.value),
        without_extensions: !section.boolean("extensions")?.unwrap_or(true),
        direct: match (section.boolean("direct")?, section.value("direct")) {
            (Some(value), Some((_, place))) => Some(Located { value, place }),
            _ => None,
        },
    })
}

fn plain<T>(values: Vec<Located<T>>) -> Vec<T> {
    values.into_iter().map(|located| located.value).collect()
}

/// Where lines begin.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn place(&self, offset: usize, key: &str) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts[line - 1];
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count());
        Place::new(line, column + 1, key)
    }
}

/// One table of the document.
struct Section<'d> {
    table: &'d DeTable<'d>,
    name: &'d str,
    at: Place,
    lines: &'d Lines<'d>,
}

impl<'d> Section<'d> {
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Refuses keys that nobody reads.
    fn only_known(&self) -> Result<(), Fault> {
        let known = SECTIONS.iter().find(|(name, _)| *name == self.name).map_or(&[][..], |(_, keys)| *keys);
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let place = self.lines.place(key.span().start, &self.path(name));
                return Err(Fault::new(&place, Problem::UnknownKey { nearest: nearest(name, known) }));
            }
        }
        Ok(())
    }

    fn value(&self, key: &str) -> Option<(&'d Spanned<DeValue<'d>>, Place)> {
        let (_, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((value, self.lines.place(value.span().start, &self.path(key))))
    }

    fn section(&self, name: &'d str) -> Result<Option<Self>, Fault> {
        let Some((value, place)) = self.value(name) else { return Ok(None) };
        match value.get_ref().as_table() {
            Some(table) => Ok(Some(Section { table, name, at: place, lines: self.lines })),
            None => Err(wrong_type(&place, value.get_ref(), &format!("a section [{name}]"))),
        }
    }

    fn sections(&self, name: &'d str) -> Result<Vec<Self>, Fault> {
        self.sections_as(name, name)
    }

    /// The sections under a key, by the name that they have in the document.
    fn sections_as(&self, key: &str, name: &'d str) -> Result<Vec<Self>, Fault> {
        let Some((value, place)) = self.value(key) else { return Ok(Vec::new()) };
        let expected = format!("sections [[{name}]]");
        let Some(array) = value.get_ref().as_array() else {
            return Err(wrong_type(&place, value.get_ref(), &expected));
        };
        let section = |value: &'d Spanned<DeValue<'d>>| {
            let at = self.lines.place(value.span().start, name);
            match value.get_ref().as_table() {
                Some(table) => Ok(Section { table, name, at, lines: self.lines }),
                None => Err(wrong_type(&at, value.get_ref(), &expected)),
            }
        };
        array.iter().map(section).collect()
    }

    /// A string.
    fn text<T>(
        &self,
        key: &str,
        expected: Expected,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Result<Option<Located<T>>, Fault> {
        let Some((value, place)) = self.value(key) else { return Ok(None) };
        let Some(text) = value.get_ref().as_str() else { return Err(wrong_type(&place, value.get_ref(), expected)) };
        located(text, place, parse).map(Some)
    }

    /// A string or a number, both by their text.
    fn scalar<T>(
        &self,
        key: &str,
        expected: Expected,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Result<Option<Located<T>>, Fault> {
        let Some((value, place)) = self.value(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::String(text) => located(text, place, parse).map(Some),
            DeValue::Integer(number) => {
                let Ok(number) = i64::from_str_radix(number.as_str(), number.radix()) else {
                    return Err(wrong_type(&place, value.get_ref(), expected));
                };
                located(&number.to_string(), place, parse).map(Some)
            }
            other => Err(wrong_type(&place, other, expected)),
        }
    }

    fn number(&self, key: &str, min: u32, max: u32, expected: Expected) -> Result<Option<Located<u32>>, Fault> {
        let Some((value, place)) = self.value(key) else { return Ok(None) };
        let DeValue::Integer(number) = value.get_ref() else {
            return Err(wrong_type(&place, value.get_ref(), expected));
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|n| u32::try_from(n).ok());
        match parsed.filter(|number| (min..=max).contains(number)) {
            Some(value) => Ok(Some(Located { value, place })),
            None => {
                let problem = Problem::Invalid { found: shorten(number.as_str()), expected: expected.to_owned() };
                Err(Fault::new(&place, problem))
            }
        }
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, Fault> {
        let Some((value, place)) = self.value(key) else { return Ok(None) };
        match value.get_ref().as_bool() {
            Some(value) => Ok(Some(value)),
            None => Err(wrong_type(&place, value.get_ref(), "true or false")),
        }
    }

    /// A list of strings; one string is a list of one.
    fn list<T>(
        &self,
        key: &str,
        expected: Expected,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Result<Vec<Located<T>>, Fault> {
        let Some((value, place)) = self.value(key) else { return Ok(Vec::new()) };
        if let Some(text) = value.get_ref().as_str() {
            return located(text, place, parse).map(|value| vec![value]);
        }
        let list = format!("a list of strings, each {expected}");
        let Some(array) = value.get_ref().as_array() else { return Err(wrong_type(&place, value.get_ref(), &list)) };
        let element = |element: &Spanned<DeValue<'_>>| {
            let place = self.lines.place(element.span().start, &self.path(key));
            match element.get_ref().as_str() {
                Some(text) => located(text, place, &parse),
                None => Err(wrong_type(&place, element.get_ref(), expected)),
            }
        };
        array.iter().map(element).collect()
    }

    /// A list of ports.
    fn ports(&self, key: &str, expected: Expected) -> Result<Vec<Located<u16>>, Fault> {
        let Some((value, place)) = self.value(key) else { return Ok(Vec::new()) };
        let list = format!("a list of numbers, each {expected}");
        let Some(array) = value.get_ref().as_array() else { return Err(wrong_type(&place, value.get_ref(), &list)) };
        let element = |element: &Spanned<DeValue<'_>>| {
            let place = self.lines.place(element.span().start, &self.path(key));
            let DeValue::Integer(number) = element.get_ref() else {
                return Err(wrong_type(&place, element.get_ref(), expected));
            };
            located(number.as_str(), place, |text| text.parse().ok().filter(|port| *port != 0).ok_or(expected))
        };
        array.iter().map(element).collect()
    }

    /// `KEY`, `KEY_file` or `KEY_credential`; one of them at most.
    fn key_source(&self, key: &str) -> Result<Option<Located<KeySource>>, Fault> {
        const FILE: Expected = "the name of a file";
        const CREDENTIAL: Expected = "the name of a systemd credential, without slashes";
        let file = |text: &str| if text.is_empty() { Err(FILE) } else { Ok(KeySource::File(text.into())) };
        let credential = |text: &str| match text {
            "" | "." | ".." => Err(CREDENTIAL),
            text if text.contains('/') => Err(CREDENTIAL),
            text => Ok(KeySource::Credential(text.to_owned())),
        };
        let found = [
            self.secret(key)?,
            self.text(&format!("{key}_file"), FILE, file)?,
            self.text(&format!("{key}_credential"), CREDENTIAL, credential)?,
        ];
        let mut found = found.into_iter().flatten();
        let first = found.next();
        if let (Some(first), Some(second)) = (&first, found.next()) {
            let text = format!("excludes `{}` at line {}: expected one of them", first.place.key, first.place.line);
            return Err(Fault::new(&second.place, Problem::Conflict(text)));
        }
        Ok(first)
    }

    /// An inline key, whose text no message repeats.
    fn secret(&self, key: &str) -> Result<Option<Located<KeySource>>, Fault> {
        let Some((value, place)) = self.value(key) else { return Ok(None) };
        let secret = value.get_ref().as_str().and_then(|text| values::secret(text).ok());
        match secret {
            Some(secret) => Ok(Some(Located { value: KeySource::Inline(secret), place })),
            None => {
                let problem = Problem::Invalid { found: "not a key".to_owned(), expected: values::KEY.to_owned() };
                Err(Fault::new(&place, problem))
            }
        }
    }
}

fn located<T>(text: &str, place: Place, parse: impl Fn(&str) -> Result<T, Expected>) -> Result<Located<T>, Fault> {
    match parse(text) {
        Ok(value) => Ok(Located { value, place }),
        Err(expected) => {
            let problem = Problem::Invalid { found: format!("{:?}", shorten(text)), expected: expected.to_owned() };
            Err(Fault::new(&place, problem))
        }
    }
}

/// At most so much of a value that a message stays one line.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn wrong_type(place: &Place, value: &DeValue<'_>, expected: &str) -> Fault {
    let kind = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Fault::new(place, Problem::Invalid { found: kind.to_owned(), expected: expected.to_owned() })
}
