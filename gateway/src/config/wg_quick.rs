//! The format of `wg-quick`: `[Interface]` and `[Peer]` sections of `Key = value` lines.
//!
//! Enters: the text of a file. Leaves: a [`Draft`] with the place of each value. Never does: read a file, run a hook, or
//! take a key that the format does not have.

use super::draft::{Draft, PeerDraft};
use super::error::{Fault, Located, Place, Problem, nearest};
use super::keys::KeySource;
use super::toml::shorten;
use super::values::{self, Expected};

const INTERFACE_KEYS: &[&str] = &[
    "PrivateKey",
    "ListenPort",
    "FwMark",
    "Address",
    "DNS",
    "MTU",
    "Table",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
    "SaveConfig",
];
const PEER_KEYS: &[&str] = &["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"];

/// Which section a line belongs to.
#[derive(Clone, Copy)]
enum At {
    Start,
    Interface,
    Peer,
}

/// Reads the text of a wg-quick configuration.
///
/// # Errors
/// The first thing that is wrong in it.
pub fn parse(text: &str) -> Result<Draft, Fault> {
    let mut draft = Draft { section: Place::new(1, 1, ""), ..Draft::default() };
    let mut at = At::Start;
    for (index, raw) in text.lines().enumerate() {
        // A byte order mark is what some editors put in front.
        let raw = if index == 0 { raw.trim_start_matches('\u{feff}') } else { raw };
        let line = raw.split('#').next().unwrap_or_default();
        let indent = line.len() - line.trim_start().len();
        let trimmed = line.trim();
        if trimmed.is_empty() {
            continue;
        }
        let place = Place::new(index + 1, line[..indent].chars().count() + 1, "");
        if trimmed.starts_with('[') {
            at = section(trimmed, &place, &mut draft)?;
            continue;
        }
        let Some((key, value)) = trimmed.split_once('=') else {
            let text = format!("{:?} is not a setting: expected `Key = value` or a [Section]", shorten(trimmed));
            return Err(Fault::new(&place, Problem::Syntax(text)));
        };
        let before = trimmed.len() - value.trim_start().len();
        let place = Place::new(place.line, place.column + trimmed[..before].chars().count(), "");
        let entry = Entry { key: key.trim(), value: value.trim(), place };
        match at {
            At::Interface => read_interface(&entry, &mut draft)?,
            At::Peer => match draft.peers.last_mut() {
                Some(peer) => read_peer(&entry, peer)?,
                None => return Err(entry.fault(Problem::Syntax("stands outside a [Peer] section".to_owned()))),
            },
            At::Start => {
                let text = "stands before the first section: expected [Interface]".to_owned();
                return Err(entry.fault(Problem::Syntax(text)));
            }
        }
    }
    if matches!(at, At::Start) {
        let expected = "a section [Interface]".to_owned();
        return Err(Fault::new(&Place::new(1, 1, "Interface"), Problem::Missing { expected }));
    }
    Ok(draft)
}

fn section(line: &str, place: &Place, draft: &mut Draft) -> Result<At, Fault> {
    if line.eq_ignore_ascii_case("[interface]") {
        draft.section = place.clone();
        return Ok(At::Interface);
    }
    if line.eq_ignore_ascii_case("[peer]") {
        draft.peers.push(PeerDraft { section: place.clone(), ..PeerDraft::default() });
        return Ok(At::Peer);
    }
    let name = line.trim_matches(['[', ']']);
    let nearest = nearest(name, &["Interface", "Peer"]);
    Err(Fault::new(&place.with_key(shorten(line)), Problem::UnknownSection { nearest }))
}

fn read_interface(entry: &Entry<'_>, draft: &mut Draft) -> Result<(), Fault> {
    match entry.key.to_ascii_lowercase().as_str() {
        "privatekey" => draft.private_key = entry.key_source()?,
        "listenport" => draft.listen_port = Some(entry.one(values::port)?).filter(|port| *port != 0),
        "fwmark" => draft.fwmark = entry.one(values::mark)?,
        "address" => draft.addresses.extend(entry.list(values::address)?),
        "dns" => draft.dns.extend(entry.list(values::dns)?.into_iter().map(|dns| dns.value)),
        "mtu" => draft.mtu = Some(Located { value: entry.one(values::mtu)?, place: entry.place() }),
        "table" => draft.table = entry.one(values::table)?,
        "preup" => draft.hooks.pre_up.push(entry.command()?),
        "postup" => draft.hooks.post_up.push(entry.command()?),
        "predown" => draft.hooks.pre_down.push(entry.command()?),
        "postdown" => draft.hooks.post_down.push(entry.command()?),
        "saveconfig" => {
            const SWITCH: Expected = "true or false";
            let save = entry.one(|text| match text {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(SWITCH),
            })?;
            if save {
                let line = entry.place.line;
                draft
                    .notes
                    .push(format!("line {line}: `SaveConfig` is accepted, but Landbridge never rewrites its file"));
            }
        }
        _ => return Err(entry.unknown(INTERFACE_KEYS, PEER_KEYS, "[Peer]")),
    }
    Ok(())
}

fn read_peer(entry: &Entry<'_>, peer: &mut PeerDraft) -> Result<(), Fault> {
    match entry.key.to_ascii_lowercase().as_str() {
        "publickey" => {
            peer.public_key = Some(Located { value: entry.one(values::public_key)?, place: entry.place() });
        }
        "presharedkey" => peer.preshared_key = entry.key_source()?,
        "allowedips" => peer.allowed_ips.extend(entry.list(values::network)?),
        "endpoint" => peer.endpoint = Some(entry.one(values::endpoint)?),
        "persistentkeepalive" => peer.persistent_keepalive = entry.one(values::keepalive)?,
        _ => return Err(entry.unknown(PEER_KEYS, INTERFACE_KEYS, "[Interface]")),
    }
    Ok(())
}

/// One `Key = value` line.
struct Entry<'t> {
    key: &'t str,
    value: &'t str,
    place: Place,
}

impl Entry<'_> {
    fn place(&self) -> Place {
        self.place.with_key(shorten(self.key))
    }

    fn fault(&self, problem: Problem) -> Fault {
        Fault::new(&self.place(), problem)
    }

    fn invalid(&self, text: &str, expected: Expected) -> Fault {
        self.fault(Problem::Invalid { found: format!("{:?}", shorten(text)), expected: expected.to_owned() })
    }

    fn unknown(&self, known: &[&str], elsewhere: &[&str], other: &str) -> Fault {
        if elsewhere.iter().any(|name| name.eq_ignore_ascii_case(self.key)) {
            return self.fault(Problem::Syntax(format!("does not belong here: expected in the section {other}")));
        }
        self.fault(Problem::UnknownKey { nearest: nearest(self.key, known) })
    }

    fn one<T>(&self, parse: impl Fn(&str) -> Result<T, Expected>) -> Result<T, Fault> {
        parse(self.value).map_err(|expected| self.invalid(self.value, expected))
    }

    /// Values between commas; none at all is an empty list, as for `wg`.
    fn list<T>(&self, parse: impl Fn(&str) -> Result<T, Expected>) -> Result<Vec<Located<T>>, Fault> {
        if self.value.is_empty() {
            return Ok(Vec::new());
        }
        let mut column = self.place.column;
        let mut values = Vec::new();
        for part in self.value.split(',') {
            let text = part.trim();
            let lead = part.len() - part.trim_start().len();
            let mut place = self.place();
            place.column = column + part[..lead].chars().count();
            match parse(text) {
                Ok(value) => values.push(Located { value, place }),
                Err(expected) => {
                    let found = format!("{:?}", shorten(text));
                    return Err(Fault::new(&place, Problem::Invalid { found, expected: expected.to_owned() }));
                }
            }
            column += part.chars().count() + 1;
        }
        Ok(values)
    }

    fn command(&self) -> Result<String, Fault> {
        self.one(|text| if text.is_empty() { Err("a command") } else { Ok(text.to_owned()) })
    }

    /// A secret key, whose text no message repeats.
    fn key_source(&self) -> Result<Option<Located<KeySource>>, Fault> {
        match values::secret(self.value) {
            Ok(secret) => Ok(Some(Located { value: KeySource::Inline(secret), place: self.place() })),
            Err(expected) => {
                let problem = Problem::Invalid { found: "not a key".to_owned(), expected: expected.to_owned() };
                Err(self.fault(problem))
            }
        }
    }
}
