//! The control channel: what two Landbridge gateways tell each other inside their tunnel.
//!
//! Enters: inner packets that a session has authenticated, and what the endpoint wants to say. Leaves: inner packets to
//! seal, and what they said. Never does: reach a stock peer's network, trust what no session vouches for, or keep more of
//! a peer than a fixed amount.
//!
//! Messages are UDP datagrams over IPv6 between link-local addresses that follow from the public keys, so they need no
//! configuration and clash with nothing:
//!
//! 1. [`packet`]: IPv6 and UDP around a message. Only the exact pair of addresses of a session's two peers is the channel;
//!    everything else is traffic, and is held to the allowed IPs. Lanes recognise such packets after the AEAD, hand them
//!    to the control task, and neither write them to the lan side nor take them from there.
//! 2. [`message`]: version, type, request number and fields. What a later version adds is skipped and counted; what is
//!    known is parsed strictly.
//! 3. [`discovery`]: a hello after a handshake, up to three times, and rarer for peers that never answer. A stock peer drops
//!    it, as its source is not within the allowed IPs.
//! 4. [`ports`] and [`alternates`]: one link sent from several source ports, so that its flows spread over the queues of
//!    the receiving network card.
//! 5. [`retry`]: requests that are said again until they are answered.
//!
//! No message counts as data: none makes a timer begin a handshake, and none is answered by a keepalive.

pub(crate) mod alternates;
pub(crate) mod discovery;
mod fields;
pub(crate) mod message;
pub(crate) mod packet;
pub(crate) mod ports;
pub(crate) mod retry;
mod spread;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use blake2::{Blake2s256, Digest};

use alternates::Heard;
use discovery::Discovery;
use message::Message;
use ports::Ports;
use retry::Retries;

pub use alternates::Alternates;
pub use message::{Features, MESSAGE_MAX, VERSION};
pub use packet::{CHANNEL_PORT, is_link_local};
pub use spread::{SPREAD_SLOTS, Spread};

use crate::KEY_LEN;
use crate::endpoint::ChannelView;

/// Source ports that a gateway may have beside its listen port.
pub const SOURCE_PORTS_MAX: usize = 16;

/// Bytes of the longest packet that is written, padded.
pub(crate) const PACKET_WRITTEN_MAX: usize = (packet::HEADERS_LEN + MESSAGE_MAX).next_multiple_of(16);

/// Messages that wait to be sealed for one peer: a probe for each port and each pair, and as many answers.
const OUTBOX_MAX: usize = 96;

const ADDRESS_LABEL: &[u8] = b"landbridge channel address v1";

/// The link-local address of a public key's owner on the channel.
#[must_use]
pub fn address_of(public_key: &[u8; KEY_LEN]) -> Ipv6Addr {
    let digest = Blake2s256::new().chain_update(ADDRESS_LABEL).chain_update(public_key).finalize();
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&digest[..8]);
    octets.into()
}

/// What this gateway offers to every peer that speaks the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelConfig {
    /// Source ports beside the listen port that it can send from; [`SOURCE_PORTS_MAX`] at most.
    pub source_ports: u8,
    /// Source ports beside the main one that it makes use of when a peer sends from them.
    pub accepts_ports: u8,
}

/// Messages of the channel so far, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelCounters {
    /// Messages sealed.
    pub sent: u64,
    /// Messages received that were understood.
    pub received: u64,
    /// Fields that a later version may know.
    pub fields_ignored: u64,
    /// Source ports that were proven.
    pub ports_proven: u64,
    /// Source ports that were given up, for want of an answer or for loss.
    pub ports_lost: u64,
    /// Candidates of peers that were refused.
    pub candidates_refused: u64,
    /// Changes of the path in use.
    pub path_changes: u64,
    /// Pairs of peers that were introduced to each other.
    pub introductions_made: u64,
    /// Introductions to a peer that was sought.
    pub introductions_heard: u64,
    /// Times that initiations were sent to every place that is known of a peer.
    pub punches: u64,
    /// Allocations granted as a relay.
    pub relays_granted: u64,
    /// Allocations refused as a relay, for want of ports.
    pub relays_refused: u64,
}

/// A message to seal.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) message: Message,
    /// The place of the source port that it must leave from.
    pub(crate) slot: u16,
    /// Where to, and from which address of ours, unless to the peer's endpoint.
    pub(crate) to: Option<(SocketAddr, Option<IpAddr>)>,
    /// Bytes of the UDP payload that it is to be padded to, and sent in one piece or not at all; 0 for neither.
    pub(crate) udp_len: usize,
}

impl Said {
    pub(crate) const fn to_endpoint(message: Message) -> Self {
        Self { message, slot: 0, to: None, udp_len: 0 }
    }

    pub(crate) const fn to_place(message: Message, remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self { message, slot: 0, to: Some((remote, local)), udp_len: 0 }
    }
}

/// The channel with one peer.
#[derive(Debug)]
pub(crate) struct PeerChannel {
    pub(crate) address: Ipv6Addr,
    pub(crate) discovery: Discovery,
    pub(crate) ports: Ports,
    pub(crate) heard: Heard,
    pub(crate) retries: Retries,
    pub(crate) outbox: VecDeque<Said>,
}

impl PeerChannel {
    pub(crate) fn new(public_key: &[u8; KEY_LEN]) -> Self {
        Self {
            address: address_of(public_key),
            discovery: Discovery::default(),
            ports: Ports::default(),
            heard: Heard::default(),
            retries: Retries::default(),
            outbox: VecDeque::new(),
        }
    }

    /// Puts a message behind those that wait; false when they are too many.
    pub(crate) fn push(&mut self, said: Said) -> bool {
        let room = self.outbox.len() < OUTBOX_MAX;
        if room {
            self.outbox.push_back(said);
        }
        room
    }

    /// When something is to be done without anybody asking for it.
    pub(crate) fn due(&self) -> Option<Instant> {
        [self.discovery.due(), self.ports.due(), self.heard.due(), self.retries.due()].into_iter().flatten().min()
    }

    pub(crate) fn view(&self) -> ChannelView {
        ChannelView {
            address: self.address,
            features: self.discovery.known().map(|hello| hello.features),
            ports_in_use: self.ports.in_use(),
            ports_heard: self.heard.count(),
            ports_refused: self.ports.is_refused(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_link_local_and_differs_with_the_key() {
        // BLAKE2s of the label and 32 bytes of 1, and of 2 (Python's hashlib).
        assert_eq!(address_of(&[1; 32]), "fe80::767f:2629:8e82:5afb".parse::<Ipv6Addr>().expect("an address"));
        assert_eq!(address_of(&[2; 32]), "fe80::c663:ac36:4bec:36f2".parse::<Ipv6Addr>().expect("an address"));
    }
}
