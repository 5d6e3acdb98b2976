//! The kinds of access to the internet that a site can have.
//!
//! Enters: words. Leaves: [`Kind`] and [`Access`], and what RFC 5780 would find. Never does: touch the machine.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

/// How long a binding lives without packets, where nothing else is said: the least that RFC 4787 (REQ-5) allows.
pub const LIFETIME: Duration = Duration::from_secs(120);

/// What stands between a gateway and the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nothing: the gateway has a public address.
    None,
    /// One NAT; whoever knows the mapping gets through it.
    FullCone,
    /// One NAT; whoever was sent to gets through, from any port.
    AddressRestricted,
    /// One NAT; whoever was sent to gets through, from the port that was sent to.
    PortRestricted,
    /// One NAT with another, random port for every destination.
    Symmetric,
    /// Two NATs in a row, both port-restricted: the site's own, and its carrier's.
    Cgnat,
    /// UDP gets out to the hosts of a list and to nobody else.
    Blocked,
}

/// How a NAT behaves towards several destinations (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// No translation, no filter.
    None,
    /// The same towards all.
    EndpointIndependent,
    /// By the destination's address.
    AddressDependent,
    /// By its address and port.
    AddressAndPortDependent,
}

/// How one uplink of a site reaches the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// What stands in between.
    pub kind: Kind,
    /// Whether hosts behind one NAT reach each other by their public mappings.
    pub hairpin: bool,
    /// How long a binding lives without packets.
    pub lifetime: Duration,
    /// Whether there is IPv4.
    pub ipv4: bool,
    /// Whether there is IPv6; behind a NAT it is routed, and what comes unasked is dropped.
    pub ipv6: bool,
    /// Whom UDP gets out to with [`Kind::Blocked`].
    pub allowed: Vec<Ipv4Addr>,
    /// Whether the router's public address is one that miniupnpd believes in: not of a network for documentation.
    pub mappable: bool,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Cgnat,
        Self::Blocked,
    ];

    /// The word for it on command lines and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::Cgnat => "cgnat",
            Self::Blocked => "blocked",
        }
    }

    /// How it maps; with [`Kind::Blocked`] towards those whom UDP gets out to.
    #[must_use]
    pub const fn mapping(self) -> Behaviour {
        match self {
            Self::None => Behaviour::None,
            Self::Symmetric => Behaviour::AddressAndPortDependent,
            _ => Behaviour::EndpointIndependent,
        }
    }

    /// How it filters.
    #[must_use]
    pub const fn filtering(self) -> Behaviour {
        match self {
            Self::None => Behaviour::None,
            Self::FullCone => Behaviour::EndpointIndependent,
            Self::AddressRestricted => Behaviour::AddressDependent,
            _ => Behaviour::AddressAndPortDependent,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no kind.
#[derive(Debug, Clone, thiserror::Error)]
#[error("expected none, full-cone, address-restricted, port-restricted, symmetric, cgnat or blocked, not {0:?}")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl Access {
    /// The usual access of a kind: IPv4 alone, no hairpin.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self { kind, hairpin: false, lifetime: LIFETIME, ipv4: true, ipv6: false, allowed: Vec::new(), mappable: false }
    }

    /// With IPv6 beside IPv4.
    #[must_use]
    pub fn dual(self) -> Self {
        Self { ipv6: true, ..self }
    }

    /// With IPv6 alone.
    #[must_use]
    pub fn ipv6_only(self) -> Self {
        Self { ipv4: false, ipv6: true, ..self }
    }

    /// With hairpinning.
    #[must_use]
    pub fn hairpin(self) -> Self {
        Self { hairpin: true, ..self }
    }

    /// With bindings that live so long.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// With a public address that miniupnpd can map ports of.
    #[must_use]
    pub fn mappable(self) -> Self {
        Self { mappable: true, ..self }
    }

    /// With hosts whom UDP gets out to.
    #[must_use]
    pub fn allowing(self, allowed: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self { allowed: allowed.into_iter().collect(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_from_its_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Kind>().expect("a kind's name"), kind);
        }
        let error = "cone".parse::<Kind>().expect_err("no kind").to_string();
        assert!(error.contains("full-cone") && error.contains("\"cone\""), "{error}");
    }
}
