//! The state of one WireGuard interface: its key, its peers, their handshakes and timers.
//!
//! Inputs are `handle_*` and the configuration calls; after any of them, and after `handle_timeout`, poll
//! `poll_transmit` and `poll_event` until both are empty, then sleep until `poll_timeout`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;

use crate::{AllowedIps, DropReason, KEY_LEN, PeerId, PeerShared, ReceiverIndex, Session};

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
    /// How many bytes of the caller's buffer it fills.
    pub len: usize,
}

/// What the world should know.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields say what their types and names say")]
pub enum Event {
    /// A session opens packets from here on: publish it under its local index (and to the XDP map). `current` when it is
    /// also the one to seal with, else it waits for confirmation.
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
    /// A peer was removed; its sessions were ended by events before this one.
    PeerRemoved { peer: PeerId },
}

/// A peer as configured.
#[derive(Debug, Clone, Default)]
pub struct PeerConfig {
    /// The peer's preshared key; all zero for none.
    pub preshared_key: [u8; KEY_LEN],
    /// Where it was last known to be.
    pub endpoint: Option<SocketAddr>,
    /// Inner addresses that belong to it.
    pub allowed_ips: Vec<IpNet>,
    /// Interval of persistent keepalives; `None` for off.
    pub persistent_keepalive: Option<Duration>,
}

/// A change to a peer: `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct PeerUpdate {
    /// A new preshared key; all zero for none.
    pub preshared_key: Option<[u8; KEY_LEN]>,
    /// A new endpoint.
    pub endpoint: Option<SocketAddr>,
    /// A new keepalive interval; `Some(None)` turns it off.
    pub persistent_keepalive: Option<Option<Duration>>,
    /// Whether all allowed IPs go before `allowed_ips_add` come.
    pub replace_allowed_ips: bool,
    /// Allowed IPs to take (moved from another peer when it has them).
    pub allowed_ips_add: Vec<IpNet>,
    /// Allowed IPs to give up.
    pub allowed_ips_remove: Vec<IpNet>,
}

/// One WireGuard interface.
#[derive(Debug)]
pub struct Endpoint {
    _private: (),
}

#[expect(unused_variables, clippy::unused_self, reason = "signatures agreed before the bodies")]
impl Endpoint {
    /// An interface without key or peers. `seed` feeds its random numbers; `epoch` is the base of coarse times.
    #[must_use]
    pub fn new(epoch: Instant, seed: [u8; 32]) -> Self {
        panic!("stub")
    }

    /// Sets (or with `None` takes away) the private key. Every session ends, as its peers know another key; a peer whose
    /// public key equals ours is removed.
    pub fn set_private_key(&mut self, key: Option<[u8; KEY_LEN]>, now: Instant) {
        panic!("stub")
    }

    /// The private key, for the UAPI's `get`.
    #[must_use]
    pub fn private_key(&self) -> Option<[u8; KEY_LEN]> {
        panic!("stub")
    }

    /// Our public key.
    #[must_use]
    pub fn public_key(&self) -> Option<[u8; KEY_LEN]> {
        panic!("stub")
    }

    /// Adds a peer, or changes it into this configuration when the key is known. `None`: it is our own key, or 65,536 peers
    /// (or more, see its documentation) exist.
    pub fn add_peer(&mut self, public_key: [u8; KEY_LEN], config: PeerConfig, now: Instant) -> Option<PeerId> {
        panic!("stub")
    }

    /// Changes a peer.
    pub fn update_peer(&mut self, peer: PeerId, update: PeerUpdate, now: Instant) {
        panic!("stub")
    }

    /// Removes a peer and ends its sessions.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        panic!("stub")
    }

    /// Finds a peer by its key.
    #[must_use]
    pub fn peer_by_key(&self, public_key: &[u8; KEY_LEN]) -> Option<PeerId> {
        panic!("stub")
    }

    /// All peers in the order in which they were added.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        std::iter::empty()
    }

    /// A peer's state, for `status`, metrics and the UAPI.
    #[must_use]
    pub fn peer(&self, peer: PeerId) -> Option<PeerView<'_>> {
        panic!("stub")
    }

    /// All allowed IPs: cloned into a snapshot when [`Endpoint::allowed_ips_version`] has changed.
    #[must_use]
    pub fn allowed_ips(&self) -> &AllowedIps {
        panic!("stub")
    }

    /// Grows with every change of the allowed IPs.
    #[must_use]
    pub fn allowed_ips_version(&self) -> u64 {
        panic!("stub")
    }

    /// A datagram that is no transport data for a live session. `local` is the address of ours it came to.
    ///
    /// # Errors
    /// Why it was dropped. A cookie reply may be waiting in `poll_transmit` all the same.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        wall: WallClock,
        remote: SocketAddr,
        local: Option<IpAddr>,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        panic!("stub")
    }

    /// A lane opened transport data of this peer that came from another place than the peer's endpoint.
    pub fn handle_roamed(&mut self, now: Instant, peer: PeerId, remote: SocketAddr, local: Option<IpAddr>) {
        panic!("stub")
    }

    /// A lane saw the first authentic packet of an unconfirmed session.
    pub fn handle_confirmed(&mut self, now: Instant, index: ReceiverIndex) {
        panic!("stub")
    }

    /// A lane has packets for a peer without a session to seal with.
    pub fn handle_session_wanted(&mut self, now: Instant, peer: PeerId) {
        panic!("stub")
    }

    /// A lane marked the peer active since the last call: derive its timers from [`PeerShared`].
    pub fn handle_active(&mut self, now: Instant, peer: PeerId) {
        panic!("stub")
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant, wall: WallClock) {
        panic!("stub")
    }

    /// When `handle_timeout` is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        panic!("stub")
    }

    /// Writes the next datagram to send into `buffer` (at least [`Endpoint::MAX_TRANSMIT`] bytes).
    pub fn poll_transmit(&mut self, now: Instant, wall: WallClock, buffer: &mut [u8]) -> Option<Transmit> {
        panic!("stub")
    }

    /// The largest datagram that `poll_transmit` writes.
    pub const MAX_TRANSMIT: usize = 148;

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        panic!("stub")
    }
}

/// What is known of a peer.
#[derive(Debug, Clone)]
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
}
