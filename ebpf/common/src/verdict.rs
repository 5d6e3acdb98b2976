//! What the XDP program decides about a packet.

/// The outcomes. Each has a counter; one function of the program maps each to an XDP action. What is not ours belongs to
/// the kernel: only at a port of the relay a bound peer's datagram may be dropped.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Transport data of a live session, given to the AF_XDP socket of its queue.
    Redirected = 0,
    /// The program is switched off.
    Disabled = 1,
    /// Neither IPv4 nor IPv6.
    OtherEtherType = 2,
    /// More than two VLAN tags.
    TooManyTags = 3,
    /// The frame ends before a header or before the length that the IP header states.
    Truncated = 4,
    /// Headers that contradict themselves: version, header length, total length, UDP length.
    Malformed = 5,
    /// A fragment: the kernel reassembles it and hands it to our socket there.
    Fragment = 6,
    /// Another protocol than UDP, or an IPv6 extension header that the kernel has to act on.
    OtherProtocol = 7,
    /// More IPv6 extension headers than are walked.
    TooManyExtensions = 8,
    /// UDP to another port.
    OtherPort = 9,
    /// UDP to our port at an address that is not ours.
    OtherAddress = 10,
    /// Handshakes, cookies and whatever else comes to our port: for the kernel's socket.
    Control = 11,
    /// Transport data for no live session.
    UnknownSession = 12,
    /// What would be taken, on a queue that has no AF_XDP socket.
    NoSocket = 13,
    /// An IP packet longer than a frame of packet memory holds: the kernel would drop it there.
    TooLong = 14,
    /// A packet for a network behind a peer, given to the AF_XDP socket of its queue.
    LanRedirected = 15,
    /// On a lan: a frame that is not for our interface alone: broadcast, multicast, somebody else's.
    OtherMac = 16,
    /// On a lan: a frame of another VLAN.
    OtherVlan = 17,
    /// On a lan: from or to an address that no router forwards, as multicast, loopback and link-local ones.
    Scope = 18,
    /// On a lan: IPv4 options or IPv6 hop-by-hop options, which the kernel has to look at.
    Options = 19,
    /// On a lan: a packet whose way ends here: the kernel answers that its time is exceeded.
    HopLimit = 20,
    /// On a lan: longer than the tunnel's MTU: the kernel fragments it, or answers that it is too big.
    TunnelMtu = 21,
    /// On a lan: to one of our own addresses.
    LocalAddress = 22,
    /// On a lan: no peer has the longest route to its destination.
    NoRoute = 23,
    /// Relayed, sent back out of the interface that it came by.
    RelayTransmitted = 24,
    /// Relayed, by way of an interface's own queue of redirected frames.
    RelayRedirected = 25,
    /// To a port of the relay from a place that is not bound to it: the gateway looks whether it is to be.
    RelayUnbound = 26,
    /// To a port of the relay, but of a live session of ours: it is for the gateway.
    RelayOwn = 27,
    /// From a bound place, but no message of WireGuard: dropped.
    RelayNotWireguard = 28,
    /// From a bound place, but faster than permitted: dropped.
    RelayLimited = 29,
    /// To be relayed, but its way ends here.
    RelayHopLimit = 30,
    /// To be relayed, but longer than the way onwards allows, or in several buffers: the kernel fragments or forwards it.
    RelayTooLong = 31,
    /// To be relayed, but the next hop's hardware address is not known: the kernel asks for it.
    RelayNoNeighbour = 32,
    /// To be relayed, but there is no way onwards that the program may use: the kernel's routes are asked.
    RelayNoRoute = 33,
    /// To be relayed, but with VLAN tags, IPv4 options or IPv6 extension headers, which the kernel handles.
    RelayHeaders = 34,
    /// To be relayed, but with a checksum that only the kernel can finish.
    RelayChecksum = 35,
}

impl Verdict {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 36] = [
        Self::Redirected,
        Self::Disabled,
        Self::OtherEtherType,
        Self::TooManyTags,
        Self::Truncated,
        Self::Malformed,
        Self::Fragment,
        Self::OtherProtocol,
        Self::TooManyExtensions,
        Self::OtherPort,
        Self::OtherAddress,
        Self::Control,
        Self::UnknownSession,
        Self::NoSocket,
        Self::TooLong,
        Self::LanRedirected,
        Self::OtherMac,
        Self::OtherVlan,
        Self::Scope,
        Self::Options,
        Self::HopLimit,
        Self::TunnelMtu,
        Self::LocalAddress,
        Self::NoRoute,
        Self::RelayTransmitted,
        Self::RelayRedirected,
        Self::RelayUnbound,
        Self::RelayOwn,
        Self::RelayNotWireguard,
        Self::RelayLimited,
        Self::RelayHopLimit,
        Self::RelayTooLong,
        Self::RelayNoNeighbour,
        Self::RelayNoRoute,
        Self::RelayHeaders,
        Self::RelayChecksum,
    ];

    /// The label of its counter, in metrics and status.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::Disabled => "disabled",
            Self::OtherEtherType => "other_ethertype",
            Self::TooManyTags => "too_many_tags",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::OtherProtocol => "other_protocol",
            Self::TooManyExtensions => "too_many_extensions",
            Self::OtherPort => "other_port",
            Self::OtherAddress => "other_address",
            Self::Control => "control",
            Self::UnknownSession => "unknown_session",
            Self::NoSocket => "no_socket",
            Self::TooLong => "too_long",
            Self::LanRedirected => "lan_redirected",
            Self::OtherMac => "other_mac",
            Self::OtherVlan => "other_vlan",
            Self::Scope => "scope",
            Self::Options => "options",
            Self::HopLimit => "hop_limit",
            Self::TunnelMtu => "tunnel_mtu",
            Self::LocalAddress => "local_address",
            Self::NoRoute => "no_route",
            Self::RelayTransmitted => "relay_transmitted",
            Self::RelayRedirected => "relay_redirected",
            Self::RelayUnbound => "relay_unbound",
            Self::RelayOwn => "relay_own",
            Self::RelayNotWireguard => "relay_not_wireguard",
            Self::RelayLimited => "relay_limited",
            Self::RelayHopLimit => "relay_hop_limit",
            Self::RelayTooLong => "relay_too_long",
            Self::RelayNoNeighbour => "relay_no_neighbour",
            Self::RelayNoRoute => "relay_no_route",
            Self::RelayHeaders => "relay_headers",
            Self::RelayChecksum => "relay_checksum",
        }
    }

    /// Its place in the map of counters.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict;

    #[test]
    fn every_verdict_stands_at_its_own_number_and_labels_differ() {
        for (position, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(usize::try_from(verdict.index()), Ok(position), "{verdict:?}");
            let same = Verdict::ALL.iter().filter(|other| other.label() == verdict.label()).count();
            assert_eq!(same, 1, "{verdict:?} shares its label");
        }
    }
}
