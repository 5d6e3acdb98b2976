//! Ports that the router forwards to us on request, by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP-IGD.
//!
//! 1. [`lease`]: one request to one router by one protocol: granted, renewed, given back.
//! 2. [`keeper`]: a thread that gets one lease by whichever protocol answers, keeps it, and gives it back at the end.
//!
//! Enters: the router of the default route, our address behind it, our port. Leaves: [`State`]. Never does: ask any other
//! host, or hold up its caller: routers answer late, and with XML.

pub mod keeper;
pub mod lease;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

pub use keeper::Keeper;

use super::survey::is_public;
use crate::control::netlink::routes::Route;
use crate::settings::MappingProtocol;

/// The router that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    /// Its address.
    pub address: Ipv4Addr,
    /// Ours behind it.
    pub client: Ipv4Addr,
}

impl Router {
    /// The router that a route to the internet begins with, when our address is not one of the internet's.
    #[must_use]
    pub fn of(route: &Route) -> Option<Self> {
        match (route.gateway?, route.source?) {
            (IpAddr::V4(address), IpAddr::V4(client)) if !is_public(IpAddr::V4(client)) => {
                Some(Self { address, client })
            }
            _ => None,
        }
    }
}

/// A port that is forwarded to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// How it was asked for.
    pub protocol: MappingProtocol,
    /// Where it is.
    pub external: SocketAddr,
    /// For how long it was granted; `None`: until it is given back.
    pub lifetime: Option<Duration>,
}

/// What the router grants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The port that is forwarded.
    pub mapped: Option<Mapped>,
    /// The router that was asked.
    pub router: Option<Router>,
    /// Why each protocol that was tried last failed.
    pub failures: Vec<(MappingProtocol, String)>,
    /// How often a mapping was lost or refused a renewal.
    pub lost: u64,
}
