//! What callers give to an endpoint and get from it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::channel::Features;
use crate::path::{PathReason, PathView, PathsView, Tier};
use crate::{Alternates, KEY_LEN, PeerId, PeerShared, ReceiverIndex, Session, Spread};

/// The wall clock, for TAI64N timestamps alone.
#[derive(Debug, Clone, Copy)]
pub struct WallClock(pub SystemTime);

/// A datagram to send, written into the caller's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Whom it concerns; `None` for cookie replies.
    pub peer: Option<PeerId>,
    /// Where to.
    pub remote: SocketAddr,
    /// The local address that the peer is used to, if known (sticky source); `None` lets the kernel choose.
    pub local: Option<IpAddr>,
    /// The place of the source port that it must leave from: 0 is the listen port, others are those beside it, and from
    /// [`SPRAY_SLOT`] on they are the sockets of a search for a NAT's port.
    pub slot: u16,
    /// Whether it must arrive in one piece or not at all: it asks for the path's MTU.
    pub dont_fragment: bool,
    /// How many bytes of the caller's buffer it fills.
    pub len: usize,
}

/// The first place of the sockets that are opened to search for a NAT's port.
pub const SPRAY_SLOT: u16 = 256;

/// What a gateway does about NATs, for all peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatConfig {
    /// Whether peers may see where we are, and be reached where they are; else links take relays only.
    pub direct: bool,
    /// Whether peers are introduced to each other.
    pub introduces: bool,
    /// Whether datagrams are relayed between peers.
    pub relays: bool,
    /// Whether a NAT's port may be searched for.
    pub spray: bool,
    /// The largest outer IP packet that any wan interface takes: paths are not searched for more.
    pub mtu_max: u16,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self { direct: true, introduces: false, relays: false, spray: true, mtu_max: 1500 }
    }
}

/// An end of a relay's allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RelayEnd {
    /// The peer that asked.
    A,
    /// The other one.
    B,
}

/// What the world should know.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields say what their types and names say")]
pub enum Event {
    /// A session opens packets from here on: publish it under its local index (and to the XDP map). `current` when it
    /// is also the one to seal with, else it waits for confirmation.
    SessionStarted { session: Arc<Session>, current: bool },
    /// A session that was waiting for confirmation is the one to seal with from here on.
    SessionCurrent { session: Arc<Session> },
    /// An index opens nothing any more: retract it. `was_current` when the peer has no session to seal with now.
    SessionEnded { peer: PeerId, index: ReceiverIndex, was_current: bool },
    /// The peer's endpoint is another one (configured, or learned by roaming); `local` is the address of ours it used.
    EndpointChanged { peer: PeerId, remote: SocketAddr, local: Option<IpAddr> },
    /// A handshake with this peer was given up after 90 s: drop what waits for it; resolve its name again.
    HandshakeGivenUp { peer: PeerId },
    /// A handshake was sent again because no answer came (count from 1): the peer has fallen silent.
    HandshakeRetried { peer: PeerId, attempt: u32 },
    /// Packets for this peer leave from several source ports (`None`: from the main one alone) from here on.
    SpreadChanged { peer: PeerId, spread: Option<Arc<Spread>> },
    /// Packets from these ports are the peer's own, and no roaming (`None`: there are none).
    AlternatesChanged { peer: PeerId, alternates: Option<Arc<Alternates>> },
    /// The path in use is another one; [`Event::EndpointChanged`] comes before it.
    PathChanged { peer: PeerId, path: PathView, was: Option<Tier>, reason: PathReason },
    /// A peer that answered a probe saw it come from here; `by` is where it was sent to. What it says may be untrue.
    Observed { peer: PeerId, by: SocketAddr, observed: SocketAddr },
    /// The largest inner packet that reaches the peer in one piece is another one; `None`: not known.
    PathMtuChanged { peer: PeerId, mtu: Option<u16> },
    /// Two peers are to be relayed: answered by [`Endpoint::relay_granted`](super::Endpoint) or a refusal.
    RelayAllocate { allocation: u64, a: PeerId, b: PeerId },
    /// One end of an allocation is there from here on, and reached from this address of ours.
    RelayBound { allocation: u64, end: RelayEnd, remote: SocketAddr, local: Option<IpAddr> },
    /// An allocation is over.
    RelayFreed { allocation: u64 },
    /// Sockets are wanted at [`SPRAY_SLOT`] and after, to search for the port of a NAT.
    SprayWanted { peer: PeerId, remote: SocketAddr, sockets: u16 },
    /// The search is over: all of its sockets but this one are to be closed.
    SprayEnded { peer: PeerId, keep: Option<u16> },
    /// A peer was removed; its sessions were ended by events before this one.
    PeerRemoved { peer: PeerId },
}

/// A peer as configured.
#[derive(Clone, Default)]
pub struct PeerConfig {
    /// The peer's preshared key; all zero for none.
    pub preshared_key: [u8; KEY_LEN],
    /// Where it was last known to be.
    pub endpoint: Option<SocketAddr>,
    /// Inner addresses that belong to it.
    pub allowed_ips: Vec<IpNet>,
    /// Interval of persistent keepalives; `None` for off.
    pub persistent_keepalive: Option<Duration>,
    /// Whether the control channel is not to be spoken with it.
    pub without_channel: bool,
    /// Whether it may see where we are, and be reached where it is; `None`: as [`NatConfig::direct`] says.
    pub direct: Option<bool>,
}

/// A change to a peer: `None` leaves a field as it is.
#[derive(Clone, Default)]
pub struct PeerUpdate {
    /// A new preshared key; all zero for none.
    pub preshared_key: Option<[u8; KEY_LEN]>,
    /// A new endpoint.
    pub endpoint: Option<SocketAddr>,
    /// A new keepalive interval; `Some(None)` turns it off.
    pub persistent_keepalive: Option<Option<Duration>>,
    /// Whether it may see where we are, and be reached where it is; `Some(None)`: as [`NatConfig::direct`] says.
    pub direct: Option<Option<bool>>,
    /// Whether all allowed IPs go before `allowed_ips_add` come.
    pub replace_allowed_ips: bool,
    /// Allowed IPs to take (moved from another peer when it has them).
    pub allowed_ips_add: Vec<IpNet>,
    /// Allowed IPs to give up.
    pub allowed_ips_remove: Vec<IpNet>,
}

/// What is known of a peer.
#[derive(Clone)]
pub struct PeerView<'a> {
    /// Its place in the tables.
    pub id: PeerId,
    /// Its key.
    pub public_key: [u8; KEY_LEN],
    /// Its preshared key; all zero for none.
    pub preshared_key: [u8; KEY_LEN],
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// The address of ours that it uses.
    pub local: Option<IpAddr>,
    /// Interval of persistent keepalives.
    pub persistent_keepalive: Option<Duration>,
    /// When the last handshake was completed, by the wall clock.
    pub last_handshake: Option<SystemTime>,
    /// How long that handshake took, for the side that began it.
    pub handshake_duration: Option<Duration>,
    /// The session to seal with.
    pub session: Option<&'a Arc<Session>>,
    /// What the lanes report.
    pub shared: &'a Arc<PeerShared>,
    /// The control channel; `None` when it is switched off.
    pub channel: Option<ChannelView>,
    /// The ways to it; `None` for a peer that takes no part in proving them.
    pub paths: Option<PathsView>,
}

/// What is known of a peer on the control channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelView {
    /// Its address there.
    pub address: Ipv6Addr,
    /// What it said that it can do; `None` for a peer that never answered.
    pub features: Option<Features>,
    /// Source ports that packets for it leave from beside the main one.
    pub ports_in_use: usize,
    /// Source ports that it sends from beside its main one.
    pub ports_heard: usize,
    /// Whether several ports were tried and do not get through, as with some NATs.
    pub ports_refused: bool,
}

// Preshared keys never reach a log: these tell only whether there is one.

impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConfig")
            .field("has_preshared_key", &(self.preshared_key != [0; KEY_LEN]))
            .field("endpoint", &self.endpoint)
            .field("allowed_ips", &self.allowed_ips)
            .field("persistent_keepalive", &self.persistent_keepalive)
            .field("without_channel", &self.without_channel)
            .field("direct", &self.direct)
            .finish()
    }
}

impl fmt::Debug for PeerUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerUpdate")
            .field("sets_preshared_key", &self.preshared_key.is_some())
            .field("endpoint", &self.endpoint)
            .field("persistent_keepalive", &self.persistent_keepalive)
            .field("replace_allowed_ips", &self.replace_allowed_ips)
            .field("allowed_ips_add", &self.allowed_ips_add)
            .field("allowed_ips_remove", &self.allowed_ips_remove)
            .finish()
    }
}

impl fmt::Debug for PeerView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerView").field("id", &self.id).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
