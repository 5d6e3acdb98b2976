//! The relay of a configuration: `[relay]` and its `[[relay.link]]`s, as written and as checked.
//!
//! Enters: values with their places, the listen port, the peers. Leaves: [`RelaySettings`]. Never does: bind a port.

use std::collections::HashMap;

use super::draft::PeerDraft;
use super::error::{Fault, Located, Place, Problem, nearest};
use super::values::Expected;
use crate::settings::{PublicKey, RelayBackend, RelayLink, RelayPorts, RelaySettings};

pub(crate) const PORTS: Expected = "a range of at least two UDP ports, such as \"51900-52155\"";
pub(crate) const BACKEND: Expected = "\"auto\", \"xdp\" or \"user\"";
pub(crate) const RATE: Expected = "million bits a second of one peer's end, 1 to 100000, or 0 for no limit";
pub(crate) const LINK_PORT: Expected = "a UDP port, 1 to 65535";
pub(crate) const LINK_PEER: Expected = "the name of a peer";

/// A relay as written.
#[derive(Debug, Clone, Default)]
pub struct RelayDraft {
    pub(crate) enabled: bool,
    pub(crate) backend: RelayBackend,
    pub(crate) ports: Option<Located<RelayPorts>>,
    pub(crate) rate_mbps: Option<u32>,
    pub(crate) links: Vec<LinkDraft>,
}

/// A link between two stock peers.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkDraft {
    pub(crate) section: Place,
    pub(crate) peers: Vec<Located<String>>,
    pub(crate) ports: Vec<Located<u16>>,
}

pub(crate) fn backend(text: &str) -> Result<RelayBackend, Expected> {
    match text {
        "auto" => Ok(RelayBackend::Auto),
        "xdp" => Ok(RelayBackend::Xdp),
        "user" => Ok(RelayBackend::User),
        _ => Err(BACKEND),
    }
}

/// `FIRST-LAST`.
pub(crate) fn ports(text: &str) -> Result<RelayPorts, Expected> {
    let (first, last) = text.split_once('-').ok_or(PORTS)?;
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first < last => Ok(RelayPorts { first, last }),
        _ => Err(PORTS),
    }
}

impl RelayDraft {
    /// Checks what must hold between the relay, the listen port and the peers.
    pub(crate) fn check(&self, listen_port: Option<u16>, peers: &[PeerDraft]) -> Result<RelaySettings, Fault> {
        let default = RelaySettings::default();
        let range = self.ports.as_ref().map_or(default.ports, |ports| ports.value);
        if let Some(port) = listen_port.filter(|port| self.enabled && range.contains(*port)) {
            let place =
                self.ports.as_ref().map_or_else(|| Place::new(0, 0, "relay.ports"), |ports| ports.place.clone());
            let text = format!("{range} holds the listen port {port}: expected a range without it");
            return Err(Fault::new(&place, Problem::Conflict(text)));
        }
        let mut taken = HashMap::new();
        let links = self.links.iter().map(|link| self.link(link, range, peers, &mut taken));
        Ok(RelaySettings {
            enabled: self.enabled,
            backend: self.backend,
            ports: range,
            rate_mbps: self.rate_mbps.unwrap_or(default.rate_mbps),
            links: links.collect::<Result<_, _>>()?,
        })
    }

    fn link(
        &self,
        link: &LinkDraft,
        range: RelayPorts,
        peers: &[PeerDraft],
        taken: &mut HashMap<u16, usize>,
    ) -> Result<RelayLink, Fault> {
        if !self.enabled {
            let text = "has no effect without `enabled = true` in the section [relay]".to_owned();
            return Err(Fault::new(&link.section.with_key("relay.link"), Problem::Conflict(text)));
        }
        let missing = |key: &str, expected: &str| {
            Fault::new(&link.section.with_key(key), Problem::Missing { expected: expected.to_owned() })
        };
        let [one, other] = &link.peers[..] else {
            return Err(missing("relay.link.peers", "the names of two peers, such as [\"berlin\", \"phone\"]"));
        };
        let [port, other_port] = &link.ports[..] else {
            return Err(missing(
                "relay.link.ports",
                "two ports of relay.ports, one for each peer, such as [51900, 51901]",
            ));
        };
        if one.value == other.value {
            let text = "a peer needs no relay to itself: expected the names of two peers".to_owned();
            return Err(Fault::new(&other.place, Problem::Conflict(text)));
        }
        for port in [port, other_port] {
            if !range.contains(port.value) {
                let text = format!("{} is not among relay.ports: expected one of {range}", port.value);
                return Err(Fault::new(&port.place, Problem::Conflict(text)));
            }
            if let Some(first) = taken.insert(port.value, port.place.line) {
                return Err(Fault::new(
                    &port.place,
                    Problem::Duplicate { what: format!("port {}", port.value), first },
                ));
            }
        }
        Ok(RelayLink { peers: [key_of(one, peers)?, key_of(other, peers)?], ports: [port.value, other_port.value] })
    }
}

/// The key of the peer with a name.
fn key_of(name: &Located<String>, peers: &[PeerDraft]) -> Result<PublicKey, Fault> {
    let named = |peer: &&PeerDraft| peer.name.as_ref().is_some_and(|known| known.value == name.value);
    if let Some(key) = peers.iter().find(named).and_then(|peer| peer.public_key.as_ref()) {
        return Ok(key.value);
    }
    let names: Vec<&str> = peers.iter().filter_map(|peer| Some(peer.name.as_ref()?.value.as_str())).collect();
    let hint = nearest(&name.value, &names).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    let problem = Problem::Invalid {
        found: format!("no peer has the name {:?}", name.value),
        expected: format!("the `name` of a [[peer]]{hint}"),
    };
    Err(Fault::new(&name.place, problem))
}
