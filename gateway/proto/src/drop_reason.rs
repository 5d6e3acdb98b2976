//! Why a packet was dropped: one enum is the counter's index, the metric's label and the trace's text.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $label:literal,)+) => {
        /// Why a packet was dropped. Each reason has a counter of its own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// All reasons, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The metric's label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its own headers claim, or than the smallest packet of its kind.
    Truncated => "truncated",
    /// A field holds a value that its specification does not allow.
    Malformed => "malformed",
    /// A message type that WireGuard does not have.
    UnknownType => "unknown_type",
    /// Larger than any frame can hold.
    Oversized => "oversized",
    /// mac1 of a handshake message does not match our public key.
    BadMac1 => "bad_mac1",
    /// Under load, without a valid mac2: a cookie reply was sent instead.
    CookieRequired => "cookie_required",
    /// Too many handshake messages from one source.
    HandshakeRate => "handshake_rate",
    /// More handshake messages at once than the queue holds.
    HandshakeQueueFull => "handshake_queue_full",
    /// A handshake message that does not authenticate.
    BadHandshake => "bad_handshake",
    /// A handshake initiation whose timestamp is not newer than the last one's.
    ReplayedHandshake => "replayed_handshake",
    /// A handshake message from a key that is not one of our peers.
    UnknownPeer => "unknown_peer",
    /// No private key is configured.
    NoPrivateKey => "no_private_key",
    /// The receiver index belongs to no session or handshake.
    UnknownIndex => "unknown_index",
    /// A cookie reply that does not authenticate or answers nothing that we sent.
    BadCookie => "bad_cookie",
    /// The session is past its time or message limit.
    SessionExpired => "session_expired",
    /// The counter was seen before, or lies behind the replay window.
    Replayed => "replayed",
    /// The AEAD tag of transport data does not match.
    BadTag => "bad_tag",
    /// The decrypted packet is neither IPv4 nor IPv6, or its length fields lie.
    BadInnerPacket => "bad_inner_packet",
    /// The outer packet was marked for congestion and the inner one knows no ECN: its loss is the signal (RFC 6040).
    CongestionMarked => "congestion_marked",
    /// The inner source does not belong to the peer that sent it.
    SourceNotAllowed => "source_not_allowed",
    /// The inner packet has no hop left, and came by a ring all the same: the kernel answers such packets.
    HopLimit => "hop_limit",
    /// An inner packet from the lan side that claims to be of the control channel, which only gateways speak.
    ChannelSpoofed => "channel_spoofed",
    /// More messages of the control channel at once than a peer's share.
    ChannelRate => "channel_rate",
    /// A message of the control channel that does not parse.
    ChannelMalformed => "channel_malformed",
    /// A message of the control channel of a version or type that is not known.
    ChannelUnknown => "channel_unknown",
    /// A message of the control channel that answers nothing, or that nothing is to follow from.
    ChannelUnexpected => "channel_unexpected",
    /// Longer than the path to its peer carries, and not to be fragmented: its sender is told.
    TooBig => "too_big",
    /// A message of the control channel that a later one has overtaken.
    ChannelStale => "channel_stale",
    /// A message of the control channel that names a place which is never tried: a group, ourselves, or into the tunnel.
    CandidateRefused => "candidate_refused",
    /// A handshake or probe of a peer that is reached by relays only, from somewhere else: an answer would tell where we are.
    NotDirect => "not_direct",
    /// A STUN message that answers nothing that was asked, or not from the server that was.
    StunUnexpected => "stun_unexpected",
    /// A peer wishes to be introduced, or relayed, to more others than its share, or than there is room for.
    WishRefused => "wish_refused",
    /// No peer has the inner destination in its allowed IPs.
    NoRoute => "no_route",
    /// The peer has no endpoint yet.
    NoEndpoint => "no_endpoint",
    /// The peer's queue of packets that wait for a handshake is full; the oldest one went.
    PendingFull => "pending_full",
    /// The handshake for which this packet waited was given up.
    HandshakeFailed => "handshake_failed",
    /// No free frame was left in the lane's pool.
    NoFrame => "no_frame",
    /// The lan side could not take the packet.
    LanFull => "lan_full",
    /// The wan side could not take the packet.
    WanFull => "wan_full",
    /// The kernel refused the packet on the wan side.
    WanError => "wan_error",
    /// The kernel refused the packet on the lan side.
    LanError => "lan_error",
    /// The hand-over queue between a lane and the control task is full.
    ControlQueueFull => "control_queue_full",
    /// To a port of the relay from a place that is not bound to it.
    RelayUnbound => "relay_unbound",
    /// From a bound place to a port of the relay, but no message of WireGuard.
    RelayNotWireguard => "relay_not_wireguard",
    /// Relayed datagrams of one end faster than permitted.
    RelayLimited => "relay_limited",
    /// To be relayed, but its way ends here.
    RelayHopLimit => "relay_hop_limit",
    /// To be relayed to an end that is not there yet.
    RelayWaiting => "relay_waiting",
    /// A place that would be bound to the relay is the relay's own: what is sent there would come back.
    RelayLoop => "relay_loop",
    /// The wan or the tunnel interface is going away.
    ShuttingDown => "shutting_down",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_the_list_and_labels_differ() {
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::COUNT);
    }
}
