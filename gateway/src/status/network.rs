//! What a gateway tells of the network around it: servers, routers, and what they let through.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The network around a gateway.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Whether the NAT turns datagrams to our own mapped address back; `None` without a NAT, or where it is not known.
    pub hairpin: Option<bool>,
    /// The STUN servers.
    pub stun: Vec<StunStatus>,
    /// Other uplinks than that of the default route.
    pub uplinks: Vec<UplinkStatus>,
    /// What the router maps.
    pub port_mapping: PortMappingStatus,
    /// What the router's firewall lets through to our address of IPv6.
    #[serde(default)]
    pub pinhole: PortMappingStatus,
}

/// Another uplink than that of the default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Our address.
    pub local: IpAddr,
    /// Where a STUN server saw us through it.
    pub mapped: SocketAddr,
}

/// A STUN server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StunStatus {
    /// Its address.
    pub server: SocketAddr,
    /// Whether it answered; `None` while it is waited for.
    pub answered: Option<bool>,
    /// Where it saw us.
    pub mapped: Option<SocketAddr>,
    /// The code of its error.
    pub refused: Option<u16>,
    /// The round trip.
    pub rtt_ms: Option<f64>,
}

/// What the router maps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PortMappingStatus {
    /// The router, when there is one to ask.
    pub router: Option<IpAddr>,
    /// `pcp`, `nat-pmp` or `upnp`, when it mapped our port.
    pub protocol: Option<String>,
    /// Where.
    pub external: Option<SocketAddr>,
    /// For how long, from one renewal to the next; `None` for leases without an end.
    pub lifetime_seconds: Option<u64>,
    /// Why it did not, by protocol.
    pub failures: Vec<MappingFailure>,
    /// How often a mapping was lost.
    pub lost: u64,
}

/// Why a protocol gave no port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingFailure {
    /// `pcp`, `nat-pmp` or `upnp`.
    pub protocol: String,
    /// In the protocol's words.
    pub reason: String,
}
