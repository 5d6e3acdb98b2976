//! Which uplink packets leave by when a path begins at one of our addresses.
//!
//! Packets that leave by one uplink with the address of another are lost at providers that check sources, and a path that
//! was proven from an address says nothing of others. So what is sent from an address leaves by the interface that has it:
//! 1. The route for packets from that address, as the kernel's tables and policy rules have it, where it leaves by that
//!    interface, or where the address is the host's as a whole.
//! 2. The same where a policy rule names the address as a source: an operator said where such packets go.
//! 3. Else the tables are asked for a route by that interface: the less preferred default route of a second uplink.
//! 4. Without one, any route, from the address that the kernel chooses for it.
//!
//! Enters: a place, and perhaps an address of ours. Leaves: the route. Never does: take a route into the tunnel for an uplink.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::{Ground, Network};
use crate::control::netlink::routes::{Route, RouteQuery};

/// Where packets leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// The address of ours; `None` lets the kernel choose.
    pub local: Option<IpAddr>,
    /// The interface, where the routes prefer another one.
    pub if_index: Option<u32>,
}

impl Uplink {
    /// As the kernel says.
    pub const ANY: Self = Self { local: None, if_index: None };
}

/// The route, and the uplink with the local address if packets can leave from it.
///
/// # Errors
/// Why there is no route at all.
pub(in crate::control) fn route(
    network: &mut impl Network,
    ground: &Ground,
    remote: SocketAddr,
    local: Option<IpAddr>,
) -> io::Result<(Route, Uplink)> {
    let if_index = match remote {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id()),
        _ => None,
    };
    let query = RouteQuery { destination: remote.ip(), source: None, mark: ground.mark, if_index };
    let local = local.filter(|local| local.is_ipv4() == remote.is_ipv4());
    if let Some(local) = local
        && let Some(found) = from(network, ground, query, local)
    {
        return Ok(found);
    }
    network.route(&query).map(|route| (route, Uplink::ANY))
}

/// The address of ours that packets to a place leave from by the routes alone.
pub(in crate::control) fn preferred(network: &mut impl Network, ground: &Ground, remote: SocketAddr) -> Option<IpAddr> {
    let (route, _) = route(network, ground, remote, None).ok()?;
    route.source.filter(|_| ground.tunnel != Some(route.if_index))
}

/// Steps 1 to 3.
fn from(network: &mut impl Network, ground: &Ground, query: RouteQuery, local: IpAddr) -> Option<(Route, Uplink)> {
    let query = RouteQuery { source: Some(local), ..query };
    // A route into the tunnel from this address says nothing yet about the uplink that has it.
    let preferred = network.route(&query).ok().filter(|route| ground.tunnel != Some(route.if_index));
    let home = network.home(local);
    if let Some(route) = preferred
        && (home.is_none_or(|home| home == route.if_index) || route.local || network.has_rule(local))
    {
        return Some((route, Uplink { local: Some(local), if_index: None }));
    }
    let home = home.filter(|home| ground.tunnel != Some(*home) && query.if_index.is_none_or(|asked| asked == *home))?;
    // IPv6 obeys an interface only where no address is given: it has to be the one that the kernel chooses there.
    let source = query.source.filter(|local| local.is_ipv4());
    let by_home = RouteQuery { source, if_index: Some(home), ..query };
    let route = network.route(&by_home).ok().filter(|route| route.if_index == home)?;
    if local.is_ipv6() && route.source != Some(local) {
        return None;
    }
    Some((route, Uplink { local: Some(local), if_index: Some(home) }))
}
