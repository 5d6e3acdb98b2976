//! What is kept of one peer. Logic that concerns more than one peer's fields is the endpoint's.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use zeroize::Zeroizing;

use crate::channel::PeerChannel;
use crate::constants::COOKIE_LIFETIME;
use crate::cookie::{Cookie, MacKeys};
use crate::keypairs::Keypairs;
use crate::message::MAC_LEN;
use crate::noise::{Identity, Initiated, Refused, Secret, agree};
use crate::path::Paths;
use crate::timestamp::Timestamp;
use crate::{KEY_LEN, PeerId, PeerShared, ReceiverIndex};

/// An initiation of ours that waits for its response.
pub(crate) struct InFlight {
    pub(crate) index: ReceiverIndex,
    pub(crate) state: Initiated,
    pub(crate) sent: Instant,
}

/// Our attempts to begin a session.
#[derive(Default)]
pub(crate) struct Attempts {
    /// When the first one was wanted; `None` when no handshake of ours is under way.
    pub(crate) since: Option<Instant>,
    /// Initiations sent since then.
    pub(crate) sent: u32,
    /// An initiation waits in the endpoint's queue.
    pub(crate) queued: bool,
    /// The last initiation, until it is answered or replaced.
    pub(crate) in_flight: Option<InFlight>,
    /// When a handshake message was last sent, of whichever handshake.
    pub(crate) last_message: Option<Instant>,
    /// The timestamp of the last initiation.
    pub(crate) timestamp: Timestamp,
}

/// What is known of the peer's own initiations.
#[derive(Default)]
pub(crate) struct Accepted {
    pub(crate) timestamp: Timestamp,
    pub(crate) at: Option<Instant>,
}

/// What timers remember of the lanes' times. The times in [`PeerShared`] say when something happened last;
/// these say for which of them a timer runs, or ran out.
#[derive(Default)]
pub(crate) struct Watch {
    /// Data received then is to be answered.
    pub(crate) unanswered: Option<Instant>,
    /// Data received until then has been answered.
    pub(crate) answered: Option<Instant>,
    /// Data sent then has not been answered by the peer.
    pub(crate) unheard: Option<Instant>,
    /// Silence after data sent until then has led to a handshake.
    pub(crate) handled: Option<Instant>,
    /// A handshake message was sent or received then (coarse).
    pub(crate) handshake_sent: Option<Instant>,
    pub(crate) handshake_received: Option<Instant>,
    /// The current session was renewed because of what was received with it.
    pub(crate) renewed_on_receive: bool,
    /// A keepalive waits in the endpoint's queue.
    pub(crate) keepalive_queued: bool,
}

pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) public_key: [u8; KEY_LEN],
    pub(crate) mac_keys: MacKeys,
    pub(crate) preshared_key: Secret,
    static_static: Option<Secret>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) local: Option<IpAddr>,
    pub(crate) persistent_keepalive: Option<Duration>,
    pub(crate) shared: Arc<PeerShared>,
    pub(crate) sessions: Keypairs,
    pub(crate) attempts: Attempts,
    pub(crate) accepted: Accepted,
    pub(crate) watch: Watch,
    /// The control channel; `None` when it is switched off for this peer.
    pub(crate) channel: Option<Box<PeerChannel>>,
    /// The ways to it; `None` unless it takes part in proving them.
    pub(crate) paths: Option<Box<Paths>>,
    /// Whether it may be reached where it is, and may see where we are; `None`: as for all.
    pub(crate) direct: Option<bool>,
    /// The endpoint that the configuration says.
    pub(crate) configured: Option<SocketAddr>,
    /// The largest inner packet that its path is known to carry, as lanes were told.
    pub(crate) mtu: Option<u16>,
    cookie: Option<(Cookie, Instant)>,
    last_mac1: Option<[u8; MAC_LEN]>,
    pub(crate) last_handshake: Option<SystemTime>,
    pub(crate) handshake_duration: Option<Duration>,
    /// How long it took last to be answered on the control channel.
    pub(crate) round_trip: Option<Duration>,
}

impl Peer {
    pub(crate) fn new(id: PeerId, public_key: [u8; KEY_LEN], shared: Arc<PeerShared>) -> Self {
        Self {
            id,
            public_key,
            mac_keys: MacKeys::new(&public_key),
            preshared_key: Zeroizing::new([0; KEY_LEN]),
            static_static: None,
            endpoint: None,
            local: None,
            persistent_keepalive: None,
            shared,
            sessions: Keypairs::default(),
            attempts: Attempts::default(),
            accepted: Accepted::default(),
            watch: Watch::default(),
            channel: Some(Box::new(PeerChannel::new(&public_key))),
            paths: None,
            direct: None,
            configured: None,
            mtu: None,
            cookie: None,
            last_mac1: None,
            last_handshake: None,
            handshake_duration: None,
            round_trip: None,
        }
    }

    /// The agreement of our static keys, worked out once.
    pub(crate) fn static_static(&mut self, identity: &Identity) -> Result<Secret, Refused> {
        if let Some(known) = &self.static_static {
            return Ok(known.clone());
        }
        let agreed = agree(&identity.secret, &self.public_key)?;
        self.static_static = Some(agreed.clone());
        Ok(agreed)
    }

    /// Forgets what followed from our private key.
    pub(crate) fn forget_identity(&mut self) {
        self.static_static = None;
        self.cookie = None;
        self.last_mac1 = None;
    }

    /// Fills the macs of a handshake message for this peer.
    pub(crate) fn sign(&mut self, now: Instant, message: &mut [u8]) {
        let fresh = |since: &Instant| now.saturating_duration_since(*since) < COOKIE_LIFETIME;
        self.cookie = self.cookie.take().filter(|(_, since)| fresh(since));
        let cookie = self.cookie.as_ref().map(|(cookie, _)| cookie);
        self.last_mac1 = Some(self.mac_keys.sign(cookie, message));
    }

    /// Takes in a cookie that answers our last handshake message.
    pub(crate) fn take_cookie(&mut self, now: Instant, reply: &crate::message::CookieReply) -> Result<(), Refused> {
        let mac1 = self.last_mac1.ok_or(Refused)?;
        let cookie = self.mac_keys.open_cookie(&mac1, reply)?;
        self.cookie = Some((cookie, now));
        // One message is answered by one cookie.
        self.last_mac1 = None;
        Ok(())
    }

    /// When anything was last sent to it.
    pub(crate) fn last_sent(&self) -> Option<Instant> {
        self.shared.any_sent().max(self.watch.handshake_sent)
    }

    /// When anything authentic last came from it.
    pub(crate) fn last_received(&self) -> Option<Instant> {
        self.shared.any_received().max(self.watch.handshake_received)
    }

    /// Whether there is a session that seals.
    pub(crate) fn can_seal(&self, now: Instant) -> bool {
        self.sessions.current.as_ref().is_some_and(|session| {
            !session.is_expired(now) && session.sent_messages() < session.limits.reject_after_messages
        })
    }
}
