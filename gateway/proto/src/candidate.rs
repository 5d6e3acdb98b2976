//! Candidates: places where a gateway may be reached, and which of those that others name are refused.
//!
//! Enters: what local sources found and what peers said. Leaves: candidates, and reasons to refuse some. Never does: take
//! a candidate for a path: only a probe proves one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::AllowedIps;

/// Candidates that one side has at most.
pub const CANDIDATES_MAX: usize = 12;

/// Prefixes of this length or shorter stand for "everything else": a default route, or one in a few halves.
const DEFAULT_ROUTE_V4: u8 = 1;
/// The same of IPv6, where all of the internet is 2000::/3.
const DEFAULT_ROUTE_V6: u8 = 3;

/// How a candidate came to be known. The numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CandidateKind {
    /// An address of an interface of the gateway.
    Host = 1,
    /// Where a peer saw its datagrams come from.
    Observed = 2,
    /// Where a STUN server saw them come from (RFC 8489).
    Stun = 3,
    /// A port that a router forwards on request (PCP, NAT-PMP, UPnP-IGD).
    Mapped = 4,
    /// Written in the configuration.
    Configured = 5,
    /// Where a probe of the peer's came from.
    PeerReflexive = 6,
    /// A port of a relay.
    Relayed = 7,
}

impl CandidateKind {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::Host, Self::Observed, Self::Stun, Self::Mapped, Self::Configured, Self::PeerReflexive, Self::Relayed];

    /// The kind of a number on the wire.
    #[must_use]
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// For people and labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Observed => "observed",
            Self::Stun => "stun",
            Self::Mapped => "mapped",
            Self::Configured => "configured",
            Self::PeerReflexive => "peer_reflexive",
            Self::Relayed => "relayed",
        }
    }
}

/// A place where a gateway may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Candidate {
    /// How it is known.
    pub kind: CandidateKind,
    /// Address and UDP port.
    pub address: SocketAddr,
}

/// How a NAT chooses (RFC 4787, sections 4.1 and 5; RFC 5780). The numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Behaviour {
    /// Not found out.
    #[default]
    Unknown = 0,
    /// There is no NAT, or no filter.
    None = 1,
    /// The same for every remote place.
    EndpointIndependent = 2,
    /// By the remote address.
    AddressDependent = 3,
    /// By the remote address and port.
    AddressAndPortDependent = 4,
}

impl Behaviour {
    /// The behaviour of a number on the wire; those of later versions are unknown.
    #[must_use]
    pub const fn from_wire(number: u8) -> Self {
        match number {
            1 => Self::None,
            2 => Self::EndpointIndependent,
            3 => Self::AddressDependent,
            4 => Self::AddressAndPortDependent,
            _ => Self::Unknown,
        }
    }

    /// For people and labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
            Self::EndpointIndependent => "endpoint_independent",
            Self::AddressDependent => "address_dependent",
            Self::AddressAndPortDependent => "address_and_port_dependent",
        }
    }

    /// Whether it differs between remote places, so that others cannot foretell it.
    #[must_use]
    pub const fn is_dependent(self) -> bool {
        matches!(self, Self::AddressDependent | Self::AddressAndPortDependent)
    }
}

/// The NAT that a gateway is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Nat {
    /// How it chooses the mapped address and port.
    pub mapping: Behaviour,
    /// Whose packets it lets in to a mapped port.
    pub filtering: Behaviour,
}

/// Why a candidate that somebody else named is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refused {
    /// 0.0.0.0/8 or `::`.
    Unspecified,
    /// Ourselves, whoever reads it.
    Loopback,
    /// A group.
    Multicast,
    /// 255.255.255.255, or 240/4, which nobody has.
    Reserved,
    /// Valid on one link only, and nobody knows which.
    LinkLocal,
    /// IPv4 written as IPv6.
    V4Mapped,
    /// Port 0.
    NoPort,
    /// An address of our own.
    Ours,
    /// Inside a peer's allowed IPs: the way there leads into the tunnel.
    InTunnel,
    /// Of an address family that this host has no address of.
    NoRoute,
}

impl Refused {
    /// For people and labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::LinkLocal => "link_local",
            Self::V4Mapped => "v4_mapped",
            Self::NoPort => "no_port",
            Self::Ours => "ours",
            Self::InTunnel => "in_tunnel",
            Self::NoRoute => "no_route",
        }
    }
}

/// Why a candidate that a peer named is not to be tried; `None` when it may be. `ours`: the addresses of our interfaces.
#[must_use]
pub fn refusal(address: SocketAddr, ours: &[IpAddr], allowed_ips: &AllowedIps) -> Option<Refused> {
    let ip = address.ip();
    let by_address = match ip {
        IpAddr::V4(ip) => refusal_v4(ip),
        IpAddr::V6(ip) => refusal_v6(ip),
    };
    if by_address.is_some() {
        return by_address;
    }
    if address.port() == 0 {
        return Some(Refused::NoPort);
    }
    if ours.contains(&ip) {
        return Some(Refused::Ours);
    }
    leads_into_tunnel(ip, allowed_ips).then_some(Refused::InTunnel)
}

/// Whether an address is inside allowed IPs that are no default route: those take what nothing else does, and outer packets
/// have a way of their own beside them.
#[must_use]
pub fn leads_into_tunnel(ip: IpAddr, allowed_ips: &AllowedIps) -> bool {
    let default_route = if ip.is_ipv4() { DEFAULT_ROUTE_V4 } else { DEFAULT_ROUTE_V6 };
    allowed_ips.prefix_len(ip).is_some_and(|len| len > default_route)
}

/// Whether a place cannot be anybody's, so that what seems to come from there is not to be answered.
#[must_use]
pub fn is_nowhere(address: SocketAddr) -> bool {
    let refused = match address.ip() {
        IpAddr::V4(ip) => refusal_v4(ip),
        IpAddr::V6(ip) => refusal_v6(ip),
    };
    let on_a_link = matches!(refused, None | Some(Refused::Loopback | Refused::LinkLocal));
    !on_a_link || address.port() == 0
}

fn refusal_v4(ip: Ipv4Addr) -> Option<Refused> {
    match ip.octets()[0] {
        0 => Some(Refused::Unspecified),
        127 => Some(Refused::Loopback),
        224..=239 => Some(Refused::Multicast),
        240..=255 => Some(Refused::Reserved),
        _ if ip.is_link_local() => Some(Refused::LinkLocal),
        _ => None,
    }
}

fn refusal_v6(ip: Ipv6Addr) -> Option<Refused> {
    if ip.is_unspecified() {
        return Some(Refused::Unspecified);
    }
    if ip.is_loopback() {
        return Some(Refused::Loopback);
    }
    if ip.is_multicast() {
        return Some(Refused::Multicast);
    }
    if ip.is_unicast_link_local() {
        return Some(Refused::LinkLocal);
    }
    // Also the compatible form, which nobody uses.
    let is_v4 = ip.to_ipv4_mapped().is_some() || ip.segments()[..6] == [0; 6];
    is_v4.then_some(Refused::V4Mapped)
}

/// Whether an address is of a private network: reached only from within the same site.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerId;

    fn refused(address: &str) -> Option<Refused> {
        let mut ips = AllowedIps::new();
        for (slot, net) in ["10.1.0.0/16", "0.0.0.0/0", "fd00:7::/32", "::/0", "2001:db8:7::/48"].iter().enumerate() {
            ips.insert(net.parse().expect("a prefix"), PeerId { slot: slot as u32, generation: 0 });
        }
        let ours = ["192.0.2.7", "2001:db8::7"].map(|ip| ip.parse().expect("an address"));
        refusal(address.parse().expect("a place"), &ours, &ips)
    }

    #[test]
    fn what_leads_nowhere_or_back_is_refused() {
        for (address, why) in [
            ("0.1.2.3:9", Refused::Unspecified),
            ("[::]:9", Refused::Unspecified),
            ("127.9.0.1:9", Refused::Loopback),
            ("[::1]:9", Refused::Loopback),
            ("224.0.0.1:9", Refused::Multicast),
            ("239.255.255.250:9", Refused::Multicast),
            ("[ff02::1]:9", Refused::Multicast),
            ("240.0.0.1:9", Refused::Reserved),
            ("255.255.255.255:9", Refused::Reserved),
            ("169.254.1.1:9", Refused::LinkLocal),
            ("[fe80::1]:9", Refused::LinkLocal),
            ("[::ffff:198.51.100.1]:9", Refused::V4Mapped),
            ("[::198.51.100.1]:9", Refused::V4Mapped),
            ("198.51.100.1:0", Refused::NoPort),
            ("192.0.2.7:9", Refused::Ours),
            ("[2001:db8::7]:9", Refused::Ours),
            ("10.1.200.3:9", Refused::InTunnel),
            ("[fd00:7::1]:9", Refused::InTunnel),
            ("[2001:db8:7:1::1]:9", Refused::InTunnel),
        ] {
            assert_eq!(refused(address), Some(why), "{address}");
        }
    }

    #[test]
    fn ordinary_places_are_tried_even_where_a_default_route_leads_into_the_tunnel() {
        for address in ["198.51.100.1:9", "10.2.0.1:51820", "192.168.1.1:9", "[2001:db8::8]:9", "[fd00:8::1]:9"] {
            assert_eq!(refused(address), None, "{address}");
        }
        let mut ips = AllowedIps::new();
        let peer = PeerId { slot: 0, generation: 0 };
        for half in ["0.0.0.0/1", "128.0.0.0/1", "2000::/3"] {
            ips.insert(half.parse().expect("a prefix"), peer);
        }
        for address in ["9.9.9.9:9", "[2001:db8::8]:9"] {
            assert_eq!(refusal(address.parse().expect("a place"), &[], &ips), None, "{address}");
        }
    }

    #[test]
    fn numbers_of_the_wire_come_back_as_what_they_were() {
        for kind in CandidateKind::ALL {
            assert_eq!(CandidateKind::from_wire(kind as u8), Some(kind));
        }
        assert_eq!((CandidateKind::from_wire(0), CandidateKind::from_wire(8)), (None, None));
        for number in 0..=4 {
            assert_eq!(Behaviour::from_wire(number) as u8, number);
        }
        assert_eq!(Behaviour::from_wire(77), Behaviour::Unknown);
    }
}
