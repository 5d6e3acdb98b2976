//! The state of one WireGuard interface: its key, its peers, their handshakes and timers.
//!
//! Inputs are `handle_*` and the configuration calls; after any of them, and after `handle_timeout`, poll
//! `poll_transmit` and `poll_event` until both are empty, then sleep until `poll_timeout`.

mod activity;
mod bindings;
mod candidates;
mod channel;
mod configure;
mod introduce;
mod paths;
mod punch;
mod receive;
mod relay;
mod sessions;
mod spray;
mod timeout;
mod transmit;
mod types;
mod view;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::channel::{ChannelConfig, ChannelCounters};
use crate::cookie::{CookieMaker, MacKeys};
use crate::indices::Indices;
use crate::message::{DataHeader, INITIATION_LEN, TAG_LEN};
use crate::noise::Identity;
use crate::path::PathReason;
use crate::peer_table::PeerTable;
use crate::rate_limit::{LoadMeter, SourceLimit};
use crate::timer::Timers;
use crate::{AllowedIps, PeerId};

use transmit::Outgoing;
pub use types::{
    ChannelView, Event, NatConfig, PeerConfig, PeerUpdate, PeerView, RelayEnd, SPRAY_SLOT, Transmit, WallClock,
};

/// One WireGuard interface, of up to [`crate::tuning::PEERS_MAX`] peers.
pub struct Endpoint {
    epoch: Instant,
    rng: ChaCha20Rng,
    identity: Option<Identity>,
    /// The keys of macs on messages for us; meaningless without an identity.
    mac_keys: MacKeys,
    peers: PeerTable,
    indices: Indices,
    allowed_ips: AllowedIps,
    allowed_ips_version: u64,
    timers: Timers,
    outgoing: VecDeque<Outgoing>,
    events: VecDeque<Event>,
    cookies: CookieMaker,
    load: LoadMeter,
    sources: SourceLimit,
    /// Tells this run of the gateway from others.
    instance: u64,
    channel: ChannelConfig,
    channel_counters: ChannelCounters,
    /// What is known of our own place.
    place: paths::Place,
    /// Peers whose place is not known.
    meeting: introduce::Meeting,
    sprays: spray::Sprays,
    /// Our address on the control channel, with a key.
    channel_address: Option<Ipv6Addr>,
    /// The wall clock when it was last handed in, for calls that do not hand it in.
    wall: Option<(Instant, SystemTime)>,
}

impl Endpoint {
    /// The largest datagram that `poll_transmit` writes.
    pub const MAX_TRANSMIT: usize = {
        let sealed = size_of::<DataHeader>() + crate::channel::PACKET_WRITTEN_MAX + TAG_LEN;
        if sealed > INITIATION_LEN { sealed } else { INITIATION_LEN }
    };

    /// An interface without key or peers. `seed` feeds its random numbers; `epoch` is the base of coarse times.
    #[must_use]
    pub fn new(epoch: Instant, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let sources = SourceLimit::new(rng.next_u64());
        let instance = rng.next_u64();
        Self {
            epoch,
            rng,
            identity: None,
            mac_keys: MacKeys::new(&[0; 32]),
            peers: PeerTable::default(),
            indices: Indices::default(),
            allowed_ips: AllowedIps::new(),
            allowed_ips_version: 0,
            timers: Timers::default(),
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            cookies: CookieMaker::new(),
            load: LoadMeter::default(),
            sources,
            instance,
            channel: ChannelConfig::default(),
            channel_counters: ChannelCounters::default(),
            place: paths::Place::default(),
            meeting: introduce::Meeting::default(),
            sprays: spray::Sprays::default(),
            channel_address: None,
            wall: None,
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.meeting.due()).min()
    }

    fn note_wall(&mut self, now: Instant, wall: WallClock) {
        self.wall = Some((now, wall.0));
    }

    /// The wall clock, from when it was last handed in.
    fn wall_at(&self, now: Instant) -> Option<SystemTime> {
        self.wall.map(|(then, wall)| wall + now.saturating_duration_since(then))
    }

    /// A time as lanes report it: in whole milliseconds after the epoch.
    fn coarse(&self, now: Instant) -> Instant {
        let since = now.saturating_duration_since(self.epoch);
        self.epoch + Duration::from_millis(since.as_millis() as u64)
    }

    fn ephemeral(&mut self) -> StaticSecret {
        let mut bytes = Zeroizing::new([0; 32]);
        self.rng.fill_bytes(&mut *bytes);
        StaticSecret::from(*bytes)
    }

    /// The peer was heard from another place, or is to be reached there.
    fn move_peer(&mut self, id: PeerId, now: Instant, remote: SocketAddr, local: Option<IpAddr>, reason: PathReason) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.endpoint == Some(remote) && peer.local == local {
            return;
        }
        let moved = peer.endpoint.replace(remote);
        peer.local = local;
        self.events.push_back(Event::EndpointChanged { peer: id, remote, local });
        if moved.is_some_and(|moved| moved != remote) {
            self.meeting_moved(id);
            self.channel_moved(id, moved.map(|moved| moved.ip()) != Some(remote.ip()));
        }
        self.paths_moved(id, now, remote, local, reason);
    }

    /// Lets the kernel choose our address again, as the way to the peer seems to be broken.
    fn forget_local(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get(id) else { return };
        if let (Some(remote), Some(_)) = (peer.endpoint, peer.local) {
            self.move_peer(id, now, remote, None, PathReason::Roamed);
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("peers", &self.peers.len())
            .field("indices", &self.indices.len())
            .field("has_key", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}
