//! Which backend carries the lan side beside the TUN, and why.
//!
//! Enters: settings, what the wan side took, the host's interfaces. Leaves: a [`LanChoice`], with its reason in words. Never
//! does: fall back from a backend that was asked for by name.

use anyhow::{Context as _, bail, ensure};
use landbridge_xsk::XskConfig;

use super::netlink::Netlink;
use super::wan::{self, Choice};
use crate::settings::{ChecksumOffload, LanBackend, Settings, Wan};
use crate::steer::{self, Interface};

/// An interface of the site whose packets are forwarded by rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its index: routes and neighbours are of this interface.
    pub link: u32,
    /// The interface that the rings are bound to: itself, or the one below when it is a VLAN.
    pub ringed: Interface,
    /// The VLAN.
    pub vlan: Option<u16>,
}

/// What the lan side uses beside the TUN.
#[derive(Debug)]
pub struct LanChoice {
    /// Interfaces with rings; empty for the `tun` backend.
    pub ports: Vec<Port>,
    /// Why.
    pub reason: String,
}

impl LanChoice {
    /// The TUN alone.
    pub fn tun(reason: impl Into<String>) -> Self {
        Self { ports: Vec::new(), reason: reason.into() }
    }

    /// `xdp` or `tun`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        if self.ports.is_empty() { "tun" } else { "xdp" }
    }

    /// One configuration for each queue of each interface; how large its rings are, the lanes' memory decides.
    #[must_use]
    pub fn rings(&self, settings: &Settings) -> Vec<XskConfig> {
        let options = ring_options(settings);
        self.ports.iter().flat_map(|port| wan::rings_of(&options, &port.ringed)).collect()
    }
}

/// How rings of the lan are bound: as those of the wan but for what the lan's section says.
#[must_use]
pub fn ring_options(settings: &Settings) -> Wan {
    // What leaves there has been through a tunnel: its checksums stand.
    let checksum_offload = ChecksumOffload::Off;
    Wan { copy: settings.lan.copy, xdp_mode: settings.lan.xdp_mode, checksum_offload, ..settings.wan.clone() }
}

/// Chooses. Only for `auto` the reason may be a failure.
///
/// # Errors
/// The `xdp` backend was asked for and an interface is missing or cannot be used.
pub fn choose(settings: &Settings, wan: &Choice, netlink: &mut Netlink) -> anyhow::Result<LanChoice> {
    match settings.lan.backend {
        LanBackend::Tun => Ok(LanChoice::tun("configured")),
        LanBackend::Xdp => {
            if settings.lan.interfaces.is_empty() {
                bail!("lan backend xdp: set lan.interfaces to the interfaces of the site");
            }
            Ok(LanChoice { ports: ports(settings, wan, netlink)?, reason: "configured".to_owned() })
        }
        LanBackend::Auto if settings.lan.interfaces.is_empty() => {
            Ok(LanChoice::tun("no interface of the site is named (lan.interfaces)"))
        }
        LanBackend::Auto => Ok(automatic(settings, wan, netlink)),
    }
}

fn automatic(settings: &Settings, wan: &Choice, netlink: &mut Netlink) -> LanChoice {
    let ports = match ports(settings, wan, netlink) {
        Ok(ports) => ports,
        Err(error) => return LanChoice::tun(format!("{error:#}")),
    };
    let options = ring_options(settings);
    for port in &ports {
        if let Some(reason) = wan::without_zero_copy(&options, &port.ringed) {
            return LanChoice::tun(format!("{reason}: the TUN is faster there"));
        }
    }
    LanChoice { ports, reason: "the driver has zero-copy rings".to_owned() }
}

fn ports(settings: &Settings, wan: &Choice, netlink: &mut Netlink) -> anyhow::Result<Vec<Port>> {
    let mut ports: Vec<Port> = Vec::new();
    for name in &settings.lan.interfaces {
        let port = port(name, netlink)?;
        let index = port.ringed.index;
        ensure!(
            wan.interfaces.iter().all(|interface| interface.index != index),
            "lan interface {name}: {} has rings of the wan side, and they serve one side: use lan backend tun, or wan \
             backend udp",
            port.ringed.name
        );
        if let Some(other) = ports.iter().find(|other| other.ringed.index == index) {
            bail!(
                "lan interfaces {} and {name} are both on {}, whose rings serve one of them: name one of them",
                other.name,
                port.ringed.name
            );
        }
        ports.push(port);
    }
    Ok(ports)
}

/// What is needed of an interface to bind rings to it as one of the site.
///
/// # Errors
/// Why it cannot be used.
pub fn port(name: &str, netlink: &mut Netlink) -> anyhow::Result<Port> {
    let unusable =
        || format!("lan interface {name} (lan.interfaces) cannot be used: `ip link` lists those that are here");
    let link = netlink.link_by_name(name).with_context(unusable)?;
    ensure!(link.mac.is_some(), "lan interface {name} is not Ethernet: use lan backend tun");
    let (below, vlan) = match link.vlan {
        None => (link.index, None),
        Some(vlan) => {
            let below = netlink.link(vlan.lower).with_context(unusable)?;
            ensure!(
                vlan.ether_type == 0x8100 && below.vlan.is_none(),
                "lan interface {name} is a VLAN within another one: rings serve one tag, use lan backend tun"
            );
            (vlan.lower, Some(vlan.id))
        }
    };
    Ok(Port { name: name.to_owned(), link: link.index, ringed: steer::interface(below).with_context(unusable)?, vlan })
}

/// Families whose packets the kernel does not forward: what rings leave to it then goes nowhere.
#[must_use]
pub fn forwarding_off() -> Vec<&'static str> {
    let is_off = |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
    [
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net.ipv6.conf.all.forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"),
    ]
    .into_iter()
    .filter(|(_, path)| is_off(path))
    .map(|(name, _)| name)
    .collect()
}
