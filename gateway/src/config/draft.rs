//! A configuration as it was written, each value with its place, and the checks between values.
//!
//! Enters: what a parser read. Leaves: [`Settings`] without any key that has to be fetched. Never does: read a file.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::error::{Fault, Located, Place, Problem};
use super::keys::{self, KeySource};
use super::relay::RelayDraft;
use super::values;
use crate::settings::{
    ChecksumOffload, Crypto, EndpointName, Hooks, Lan, LanBackend, MappingProtocol, NatSettings, Peer, PublicKey,
    RouteTable, Settings, Wan, WanBackend, XdpMode,
};

/// Lanes at most.
pub const LANES_MAX: usize = 256;
/// STUN servers at most.
pub const STUN_MAX: usize = 8;
/// Source ports beside the listen port, unless configured: with nine in all, flows reach most queues of a network card with
/// eight, and one datagram in the batches that the kernel segments is seldom alone.
const SOURCE_PORTS: u8 = 8;

/// A whole configuration.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Settings")]
pub struct Draft {
    pub interface: Option<String>,
    pub private_key: Option<Located<KeySource>>,
    /// Where the section of the interface begins, for keys that are missing in it.
    pub section: Place,
    /// The format demands a private key.
    pub needs_private_key: bool,
    pub listen_port: Option<u16>,
    pub fwmark: Option<u32>,
    pub addresses: Vec<Located<IpNet>>,
    pub mtu: Option<Located<u32>>,
    pub table: RouteTable,
    pub dns: Vec<String>,
    pub hooks: Hooks,
    pub wan_backend: WanBackend,
    pub wan_interfaces: Vec<String>,
    pub xdp_mode: XdpMode,
    pub copy: bool,
    pub one_buffer: bool,
    pub ring: Option<Located<u32>>,
    pub busy_poll: Option<u32>,
    pub source_ports: Option<u8>,
    pub checksum_offload: ChecksumOffload,
    pub lan_backend: LanBackend,
    pub lan_interfaces: Vec<String>,
    pub lan_xdp_mode: XdpMode,
    pub lan_copy: bool,
    /// Where the section of the lan begins.
    pub lan_section: Place,
    pub no_offloads: bool,
    pub stun: Vec<Located<EndpointName>>,
    pub port_mapping: Option<Vec<Located<Vec<MappingProtocol>>>>,
    pub direct: Option<bool>,
    pub introduce: Option<bool>,
    pub spray: Option<bool>,
    pub relay: RelayDraft,
    pub lanes: Option<usize>,
    pub pin: Option<bool>,
    pub crypto: Crypto,
    pub frames_per_lane: Option<Located<u32>>,
    pub metrics: Option<std::net::SocketAddr>,
    pub stages: Option<std::num::NonZeroU32>,
    pub user: Option<String>,
    pub peers: Vec<PeerDraft>,
    /// Things that are accepted and have no effect, for the log.
    pub notes: Vec<String>,
}

/// A peer.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Peer")]
pub struct PeerDraft {
    /// Where its section begins.
    pub section: Place,
    pub name: Option<Located<String>>,
    pub public_key: Option<Located<PublicKey>>,
    pub preshared_key: Option<Located<KeySource>>,
    pub endpoint: Option<EndpointName>,
    pub allowed_ips: Vec<Located<IpNet>>,
    pub persistent_keepalive: Option<Duration>,
    pub without_extensions: bool,
    pub direct: Option<Located<bool>>,
}

impl Draft {
    /// Checks what must hold between values and makes settings of them; keys from files are left out.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self, default_name: Option<&str>) -> Result<Settings, Fault> {
        let interface = match &self.interface {
            Some(name) => name.clone(),
            None => self.name_from_file(default_name)?,
        };
        if self.needs_private_key && self.private_key.is_none() {
            let expected = "private_key_file, private_key_credential or private_key".to_owned();
            return Err(Fault::new(&self.section.with_key("interface"), Problem::Missing { expected }));
        }
        self.check_addresses()?;
        self.check_mtu()?;
        let (ring, frames_per_lane) = self.check_memory()?;
        self.check_peers()?;
        self.check_lan()?;
        let wan = Wan {
            backend: self.wan_backend,
            interfaces: self.wan_interfaces.clone(),
            xdp_mode: self.xdp_mode,
            copy: self.copy,
            one_buffer: self.one_buffer,
            ring,
            busy_poll: self.busy_poll,
            source_ports: self.source_ports.unwrap_or(SOURCE_PORTS),
            checksum_offload: self.checksum_offload,
        };
        let lan = Lan {
            backend: self.lan_backend,
            interfaces: self.lan_interfaces.clone(),
            xdp_mode: self.lan_xdp_mode,
            copy: self.lan_copy,
            offloads: !self.no_offloads,
        };
        Ok(Settings {
            interface,
            private_key: None,
            listen_port: self.listen_port,
            fwmark: self.fwmark,
            addresses: self.addresses.iter().map(|address| address.value).collect(),
            mtu: self.mtu.as_ref().map(|mtu| mtu.value),
            table: self.table,
            dns: self.dns.clone(),
            hooks: self.hooks.clone(),
            wan,
            lan,
            nat: self.check_nat()?,
            relay: self.relay.check(self.listen_port, &self.peers)?,
            lanes: self.lanes,
            pin: self.pin,
            crypto: self.crypto,
            frames_per_lane,
            metrics: self.metrics,
            stages: self.stages,
            user: self.user.clone(),
            peers: self.peers.iter().filter_map(PeerDraft::settings).collect(),
        })
    }

    /// A peer that is the gateway itself would shake hands with itself for ever.
    ///
    /// # Errors
    /// The peer with our own key.
    pub fn check_own_key(&self, own: PublicKey) -> Result<(), Fault> {
        for key in self.peers.iter().filter_map(|peer| peer.public_key.as_ref()) {
            if key.value == own {
                let text = "this is the gateway's own public key: expected that of another site".to_owned();
                return Err(Fault::new(&key.place, Problem::Conflict(text)));
            }
        }
        Ok(())
    }

    fn name_from_file(&self, default_name: Option<&str>) -> Result<String, Fault> {
        let name = default_name.unwrap_or_default();
        values::interface(name).map_err(|expected| {
            let found = format!("the file's name gives the interface the name {name:?}");
            Fault::new(
                &self.section.with_key("interface.name"),
                Problem::Invalid { found, expected: expected.to_owned() },
            )
        })
    }

    /// Rings on the lan need interfaces, and those of an interface belong to one side.
    fn check_lan(&self) -> Result<(), Fault> {
        if self.lan_backend == LanBackend::Xdp && self.lan_interfaces.is_empty() {
            let expected = "lan.interfaces, the interfaces of the site that the xdp backend binds to".to_owned();
            return Err(Fault::new(&self.lan_section.with_key("lan.interfaces"), Problem::Missing { expected }));
        }
        let both = self.lan_interfaces.iter().find(|name| self.wan_interfaces.contains(name));
        match both {
            Some(name) if self.lan_backend == LanBackend::Xdp && self.wan_backend == WanBackend::Xdp => {
                let problem = Problem::Invalid {
                    found: name.clone(),
                    expected: "an interface that is not a wan interface too: its rings serve one side, and the other \
                               one needs the backend tun or udp"
                        .to_owned(),
                };
                Err(Fault::new(&self.lan_section.with_key("lan.interfaces"), problem))
            }
            _ => Ok(()),
        }
    }

    /// Without extensions nothing is agreed on with a peer, so `direct` of it would mean nothing.
    fn check_nat(&self) -> Result<NatSettings, Fault> {
        if self.stun.len() > STUN_MAX {
            let problem = Problem::Invalid {
                found: format!("{} servers", self.stun.len()),
                expected: format!("at most {STUN_MAX}: two are enough to tell the kind of a NAT"),
            };
            return Err(Fault::new(&self.stun[STUN_MAX].place, problem));
        }
        for peer in self.peers.iter().filter(|peer| peer.without_extensions) {
            if let Some(direct) = &peer.direct {
                let text = "has no meaning with `extensions = false`: nothing is agreed on with that peer".to_owned();
                return Err(Fault::new(&direct.place, Problem::Conflict(text)));
            }
        }
        let default = NatSettings::default();
        Ok(NatSettings {
            stun: self.stun.iter().map(|server| server.value.clone()).collect(),
            port_mapping: self.mapping_protocols()?.unwrap_or(default.port_mapping),
            direct: self.direct.unwrap_or(default.direct),
            introduce: self.introduce.unwrap_or(default.introduce),
            spray: self.spray.unwrap_or(default.spray),
        })
    }

    /// In the order as written, each once; `auto` and `off` stand alone.
    fn mapping_protocols(&self) -> Result<Option<Vec<MappingProtocol>>, Fault> {
        let Some(words) = &self.port_mapping else { return Ok(None) };
        let mut protocols = Vec::new();
        for word in words {
            if words.len() > 1 && word.value.len() != 1 {
                let text = format!("this word stands alone: expected {}", values::MAPPING);
                return Err(Fault::new(&word.place, Problem::Conflict(text)));
            }
            protocols.extend(
                word.value.iter().copied().filter(|protocol| !protocols.contains(protocol)).collect::<Vec<_>>(),
            );
        }
        Ok(Some(protocols))
    }

    fn check_addresses(&self) -> Result<(), Fault> {
        let mut seen: HashMap<IpAddr, usize> = HashMap::new();
        for address in &self.addresses {
            let host = address.value.addr();
            if host.is_unspecified() || host.is_multicast() {
                let problem = Problem::Invalid {
                    found: host.to_string(),
                    expected: "an address that a host can have".to_owned(),
                };
                return Err(Fault::new(&address.place, problem));
            }
            if let Some(first) = seen.insert(host, address.place.line) {
                return Err(Fault::new(&address.place, Problem::Duplicate { what: host.to_string(), first }));
            }
        }
        Ok(())
    }

    fn check_mtu(&self) -> Result<(), Fault> {
        let Some(mtu) = &self.mtu else { return Ok(()) };
        let inside = self.addresses.iter().chain(self.peers.iter().flat_map(|peer| &peer.allowed_ips));
        let has_v6 = inside.into_iter().any(|net| matches!(net.value, IpNet::V6(_)));
        if has_v6 && mtu.value < 1280 {
            let found = format!("{} is too small for the IPv6 addresses inside", mtu.value);
            return Err(Fault::new(&mtu.place, Problem::Invalid { found, expected: values::MTU.to_owned() }));
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(u32, u32), Fault> {
        // Zero: nobody said it, so that the number of queues decides.
        let ring = self.ring.as_ref().map_or(0, |ring| ring.value);
        let frames = self.frames_per_lane.as_ref().map_or(0, |frames| frames.value);
        // Filling a ring leaves a quarter of the frames to the lane, and the rest has to fill both halves of one ring.
        let least = ring.saturating_mul(3);
        if let Some(given) = &self.frames_per_lane
            && frames < least
        {
            let text = format!("{frames} frames cannot fill rings of {ring} entries: expected at least {least}");
            return Err(Fault::new(&given.place, Problem::Conflict(text)));
        }
        Ok((ring, frames))
    }

    fn check_peers(&self) -> Result<(), Fault> {
        let mut keys = HashMap::new();
        let mut names = HashMap::new();
        let mut networks: HashMap<IpNet, (usize, usize)> = HashMap::new();
        for (index, peer) in self.peers.iter().enumerate() {
            let Some(key) = &peer.public_key else {
                let place = peer.section.with_key("peer.public_key");
                return Err(Fault::new(&place, Problem::Missing { expected: values::KEY.to_owned() }));
            };
            if let Some(first) = keys.insert(key.value, key.place.line) {
                return Err(Fault::new(&key.place, Problem::Duplicate { what: format!("peer {}", key.value), first }));
            }
            if let Some(name) = &peer.name
                && let Some(first) = names.insert(name.value.as_str(), name.place.line)
            {
                let what = format!("peer name {:?}", name.value);
                return Err(Fault::new(&name.place, Problem::Duplicate { what, first }));
            }
            for network in &peer.allowed_ips {
                let (owner, first) = *networks.entry(network.value).or_insert((index, network.place.line));
                if owner != index {
                    let what = format!("{} can lead to one peer only and stands here", network.value);
                    return Err(Fault::new(&network.place, Problem::Duplicate { what, first }));
                }
            }
        }
        Ok(())
    }
}

impl PeerDraft {
    fn settings(&self) -> Option<Peer> {
        let mut allowed_ips: Vec<IpNet> = Vec::with_capacity(self.allowed_ips.len());
        let mut seen = std::collections::HashSet::new();
        allowed_ips
            .extend(self.allowed_ips.iter().map(|network| network.value).filter(|network| seen.insert(*network)));
        Some(Peer {
            public_key: self.public_key.as_ref()?.value,
            name: self.name.as_ref().map(|name| name.value.clone()),
            preshared_key: None,
            endpoint: self.endpoint.clone(),
            allowed_ips,
            persistent_keepalive: self.persistent_keepalive,
            extensions: !self.without_extensions,
            direct: self.direct.as_ref().map(|direct| direct.value),
        })
    }
}

/// The settings of an interface that is configured by `wg`: nothing is known but its name.
///
/// # Errors
/// What an interface's name has to be.
pub fn bare(interface: &str) -> Result<Settings, String> {
    let name = values::interface(interface)
        .map_err(|expected| format!("{interface:?} cannot be the name of an interface: expected {expected}"))?;
    Draft { interface: Some(name), ..Draft::default() }.check(None).map_err(|fault| fault.problem.to_string())
}

/// The public key that belongs to a fetched private key, for checks and summaries.
#[must_use]
pub fn own_key(settings: &Settings) -> Option<PublicKey> {
    settings.private_key.as_ref().map(keys::public)
}
