//! Ports that the router forwards to us on request, by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP-IGD.
//!
//! 1. [`lease`]: one request to one router by one protocol: granted, renewed, given back; [`epoch`] tells whether the router
//!    has forgotten it in between.
//! 2. [`keeper`]: a thread that gets one lease by whichever protocol answers, keeps it, and gives it back at the end. A router
//!    that announces itself ([`announce`]) is asked at once.
//!
//! A port of IPv6 is not mapped to another place: the router's firewall is opened for it (a pinhole, by PCP).
//!
//! Enters: the router of the default route, our address behind it, our port. Leaves: [`State`]. Never does: ask any other
//! host, or hold up its caller: routers answer late, and with XML.

mod announce;
mod epoch;
pub mod keeper;
pub mod lease;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use keeper::Keeper;

use super::survey::is_public;
use crate::control::netlink::routes::Route;
use crate::settings::MappingProtocol;

/// The router that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    /// Its address.
    pub address: IpAddr,
    /// Ours behind it.
    pub client: IpAddr,
    /// The interface that its address is of, where that is valid on a link only.
    pub scope: Option<u32>,
}

impl Router {
    /// The router that a route to the internet begins with: of IPv4 when our address is not one of the internet's, of IPv6
    /// when it is one, as what stands before us then is a firewall.
    #[must_use]
    pub fn of(route: &Route) -> Option<Self> {
        let (address, client) = (route.gateway?, route.source?);
        let is_of_use = match client {
            IpAddr::V4(_) => address.is_ipv4() && !is_public(client),
            IpAddr::V6(_) => address.is_ipv6() && is_public(client),
        };
        let scope = announce::is_link_local(address).then_some(route.if_index);
        is_of_use.then_some(Self { address, client, scope })
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
