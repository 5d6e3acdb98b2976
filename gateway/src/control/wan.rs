//! Which backend carries the wan side, and why.
//!
//! Enters: settings, the host's interfaces and routes. Leaves: a [`Choice`], with its reason in words. Never does: fall
//! back from a backend that was asked for by name.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use landbridge_xsk::{Memory, MemoryConfig, Xsk, XskConfig};

use super::checksum_offload;
use super::netlink::Netlink;
use super::netlink::routes::RouteQuery;
use crate::settings::{Settings, Wan, WanBackend};
use crate::sizes;
use crate::steer::{self, Interface};

/// Drivers whose rings reach the network card without a copy.
const ZERO_COPY_DRIVERS: &[&str] = &[
    "bnxt_en",
    "ena",
    "fm10k",
    "gve",
    "i40e",
    "iavf",
    "ice",
    "idpf",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx5_core",
    "nfp",
    "stmmac",
];
/// Queues of an interface that lanes can serve; the steering program's map has no more.
const QUEUES_MAX: u32 = landbridge_ebpf_common::QUEUES_PER_INTERFACE;

/// Bytes of a frame while a driver is tried.
const FRAME_SIZE: u32 = 2048;

/// What the wan side uses.
#[derive(Debug)]
pub struct Choice {
    /// Interfaces with rings; empty for the `udp` backend.
    pub interfaces: Vec<Interface>,
    /// Why.
    pub reason: String,
}

impl Choice {
    /// The kernel's socket.
    pub fn socket(reason: impl Into<String>) -> Self {
        Self { interfaces: Vec::new(), reason: reason.into() }
    }

    /// `xdp` or `udp`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        if self.interfaces.is_empty() { "udp" } else { "xdp" }
    }

    /// One configuration for each queue of each interface; how large its rings are, the lanes' memory decides.
    #[must_use]
    pub fn rings(&self, wan: &Wan) -> Vec<XskConfig> {
        self.interfaces.iter().flat_map(|interface| rings_of(wan, interface)).collect()
    }
}

/// One configuration for each queue of an interface.
pub fn rings_of(wan: &Wan, interface: &Interface) -> impl Iterator<Item = XskConfig> {
    let first = ring(wan, interface);
    (0..interface.rx_queues.clamp(1, QUEUES_MAX)).map(move |queue| XskConfig { queue, ..first.clone() })
}

/// That of the first queue.
fn ring(wan: &Wan, interface: &Interface) -> XskConfig {
    let entries = sizes::ring_entries(wan.ring, 1, 0, FRAME_SIZE);
    XskConfig {
        if_index: interface.index,
        queue: 0,
        rx_ring: entries,
        tx_ring: entries,
        fill_ring: entries,
        copy: wan.copy,
        multi_buffer: !wan.one_buffer && interface.mtu > sizes::ONE_BUFFER_MTU,
        busy_poll: wan.busy_poll,
        checksum_offload: checksum_offload::wanted(wan, interface),
    }
}

/// Chooses. Only for `auto` the reason may be a failure.
///
/// # Errors
/// The `xdp` backend was asked for and an interface is missing or unknown.
pub fn choose(settings: &Settings, netlink: &mut Netlink) -> anyhow::Result<Choice> {
    match settings.wan.backend {
        WanBackend::Udp => Ok(Choice::socket("configured")),
        WanBackend::Xdp => {
            let interfaces = interfaces(settings, netlink)?;
            if interfaces.is_empty() {
                bail!(
                    "wan backend xdp: no interface is configured and there is no route to tell it from: set wan.interfaces"
                );
            }
            Ok(Choice { interfaces, reason: "configured".to_owned() })
        }
        WanBackend::Auto => Ok(automatic(settings, netlink)),
    }
}

fn automatic(settings: &Settings, netlink: &mut Netlink) -> Choice {
    let interfaces = match interfaces(settings, netlink) {
        Ok(interfaces) => interfaces,
        Err(error) => return Choice::socket(format!("{error:#}")),
    };
    if interfaces.is_empty() {
        return Choice::socket("no interface leads to the peers at present");
    }
    for interface in &interfaces {
        if let Some(reason) = without_zero_copy(&settings.wan, interface) {
            return Choice::socket(format!("{reason}: the kernel's socket is faster there"));
        }
    }
    Choice { interfaces, reason: "the driver has zero-copy rings".to_owned() }
}

/// Why an interface has no zero-copy rings; `None` where it has.
#[must_use]
pub fn without_zero_copy(wan: &Wan, interface: &Interface) -> Option<String> {
    let name = &interface.name;
    let driver = interface.driver.as_deref().unwrap_or("unknown");
    if !ZERO_COPY_DRIVERS.contains(&driver) {
        return Some(format!("driver {driver} of {name} has no zero-copy rings"));
    }
    match try_zero_copy(wan, interface) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name} granted copy mode only")),
        Err(error) => Some(format!("AF_XDP cannot be used on {name} ({error})")),
    }
}

/// Binds one queue for a moment: what a driver's name promises the kernel may still refuse.
fn try_zero_copy(wan: &Wan, interface: &Interface) -> std::io::Result<bool> {
    let sizes = MemoryConfig { frames: 4096, frame_size: FRAME_SIZE, jumbo_frames: 0, huge_pages: false };
    let (memory, mut pool) = Memory::new(sizes)?;
    let socket = Xsk::open(&ring(wan, interface), &memory)?;
    let zero_copy = socket.bound().zero_copy;
    socket.close(&mut pool);
    Ok(zero_copy)
}

/// The configured interfaces, else those that the endpoints' routes or the default routes leave by.
///
/// # Errors
/// An interface that is not there, or what the kernel said.
pub fn interfaces(settings: &Settings, netlink: &mut Netlink) -> anyhow::Result<Vec<Interface>> {
    if !settings.wan.interfaces.is_empty() {
        return settings
            .wan
            .interfaces
            .iter()
            .map(|name| {
                steer::interface_by_name(name).with_context(|| {
                    format!("wan interface {name} (wan.interfaces) cannot be used: `ip link` lists those that are here")
                })
            })
            .collect();
    }
    let mut indices = Vec::new();
    for endpoint in settings.peers.iter().filter_map(|peer| peer.endpoint.as_ref()) {
        if let Ok(destination) = endpoint.host.parse::<IpAddr>() {
            let query = RouteQuery { destination, source: None, mark: settings.fwmark, if_index: None };
            indices.extend(netlink.route(&query).ok().filter(|route| !route.local).map(|route| route.if_index));
        }
    }
    if indices.is_empty() {
        indices = netlink.default_route_interfaces().context("cannot read the routes of this host")?;
    }
    let mut found: Vec<Interface> = Vec::new();
    for index in indices {
        let index = below_vlans(netlink, index);
        if !found.iter().any(|interface| interface.index == index) {
            found.push(steer::interface(index).context("an interface vanished while it was looked at")?);
        }
    }
    Ok(found)
}

/// Rings are bound to the interface below its VLANs: that is where packets arrive.
fn below_vlans(netlink: &mut Netlink, index: u32) -> u32 {
    let mut at = index;
    for _ in 0..2 {
        match netlink.link(at).ok().and_then(|link| link.vlan) {
            Some(vlan) => at = vlan.lower,
            None => break,
        }
    }
    at
}
