//! Configuration: the private key and the peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Endpoint, Event, PeerConfig, PeerUpdate, PeerView};
use crate::channel::address_of;
use crate::cookie::{CookieMaker, MacKeys};
use crate::noise::Identity;
use crate::path::PathReason;
use crate::peer::Peer;
use crate::timer::Timer;
use crate::{AllowedIps, KEY_LEN, PeerId, PeerShared};

impl Endpoint {
    /// Sets (or with `None` takes away) the private key. Every session ends, as its peers know another key; a peer
    /// whose public key equals ours is removed. Nothing happens when it is the key that is set.
    pub fn set_private_key(&mut self, key: Option<[u8; KEY_LEN]>, now: Instant) {
        let key = key.map(Zeroizing::new);
        let same = match (&self.identity, &key) {
            (Some(identity), Some(key)) => bool::from(identity.secret.as_bytes().ct_eq(&**key)),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let ids: Vec<PeerId> = self.peers.ids().collect();
        for &id in &ids {
            self.end_everything(id);
            self.part(now, id);
            if let Some(peer) = self.peers.get_mut(id) {
                peer.forget_identity();
                // Whoever waits reports again with its next packet.
                peer.shared.take_wants_session();
            }
        }
        self.outgoing.clear();
        self.cookies = CookieMaker::new();
        self.identity = key.map(|key| Identity::new(&key));
        self.channel_address = self.identity.as_ref().map(|identity| address_of(&identity.public_key));
        let Some(identity) = &self.identity else { return };
        let public_key = identity.public_key;
        self.mac_keys = MacKeys::new(&public_key);
        if let Some(ourselves) = self.peers.by_key(&public_key) {
            self.remove_peer(ourselves, now);
        }
        for id in ids {
            self.start_persistent_keepalive(id, now);
            self.look_for(now, id);
        }
    }

    /// The private key, for the UAPI's `get`.
    #[must_use]
    pub fn private_key(&self) -> Option<[u8; KEY_LEN]> {
        self.identity.as_ref().map(|identity| identity.secret.to_bytes())
    }

    /// Our public key.
    #[must_use]
    pub fn public_key(&self) -> Option<[u8; KEY_LEN]> {
        self.identity.as_ref().map(|identity| identity.public_key)
    }

    /// Adds a peer, or changes it into this configuration when the key is known. `None`: it is our own key, or
    /// [`crate::tuning::PEERS_MAX`] (131,072) peers exist.
    pub fn add_peer(&mut self, public_key: [u8; KEY_LEN], config: PeerConfig, now: Instant) -> Option<PeerId> {
        if self.public_key() == Some(public_key) {
            return None;
        }
        let epoch = self.epoch;
        let id = match self.peers.by_key(&public_key) {
            Some(known) => known,
            None => self.peers.add(public_key, |id| Peer::new(id, public_key, Arc::new(PeerShared::new(epoch))))?,
        };
        if config.without_channel {
            self.part(now, id);
        }
        self.switch_channel(id, !config.without_channel);
        let update = PeerUpdate {
            preshared_key: Some(config.preshared_key),
            endpoint: config.endpoint,
            persistent_keepalive: Some(config.persistent_keepalive),
            replace_allowed_ips: true,
            allowed_ips_add: config.allowed_ips,
            allowed_ips_remove: Vec::new(),
            direct: Some(config.direct),
        };
        self.update_peer(id, update, now);
        self.look_for(now, id);
        Some(id)
    }

    /// Changes a peer.
    pub fn update_peer(&mut self, id: PeerId, update: PeerUpdate, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if let Some(preshared_key) = update.preshared_key {
            // An initiation under way is finished with this key or not at all, as the response mixes it in.
            peer.preshared_key = Zeroizing::new(preshared_key);
        }
        self.change_allowed_ips(id, &update);
        if let Some(remote) = update.endpoint {
            self.configure_endpoint(id, remote, now);
        }
        if let (Some(direct), Some(peer)) = (update.direct, self.peers.get_mut(id))
            && std::mem::replace(&mut peer.direct, direct) != direct
        {
            self.meeting_terms(now, id);
            self.change_terms(id, now);
            self.tell_candidates_again(id, now);
        }
        if let Some(interval) = update.persistent_keepalive {
            self.configure_keepalive(id, interval.filter(|interval| !interval.is_zero()), now);
        }
    }

    fn change_allowed_ips(&mut self, id: PeerId, update: &PeerUpdate) {
        if !update.replace_allowed_ips && update.allowed_ips_add.is_empty() && update.allowed_ips_remove.is_empty() {
            return;
        }
        if update.replace_allowed_ips {
            self.allowed_ips.remove_owner(id);
        }
        for &net in &update.allowed_ips_remove {
            self.allowed_ips.remove(net, id);
        }
        for &net in &update.allowed_ips_add {
            self.allowed_ips.insert(net, id);
        }
        self.allowed_ips_version += 1;
    }

    fn configure_endpoint(&mut self, id: PeerId, remote: SocketAddr, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.configured = Some(remote);
        if let Some(paths) = &mut peer.paths {
            paths.configure(now, remote);
        }
        if peer.endpoint == Some(remote) {
            return;
        }
        self.move_peer(id, now, remote, None, PathReason::Configured);
        if let Some(peer) = self.peers.get(id)
            && peer.shared.take_wants_session()
        {
            self.handle_session_wanted(now, id);
        }
    }

    fn configure_keepalive(&mut self, id: PeerId, interval: Option<Duration>, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.persistent_keepalive == interval {
            return;
        }
        peer.persistent_keepalive = interval;
        self.timers.stop(id.slot, Timer::PersistentKeepalive);
        self.start_persistent_keepalive(id, now);
    }

    /// Removes a peer and ends its sessions.
    pub fn remove_peer(&mut self, id: PeerId, now: Instant) {
        if self.peers.get(id).is_none() {
            return;
        }
        self.end_everything(id);
        self.part(now, id);
        self.allowed_ips.remove_owner(id);
        self.allowed_ips_version += 1;
        self.peers.remove(id);
        self.events.push_back(Event::PeerRemoved { peer: id });
    }

    /// Finds a peer by its key.
    #[must_use]
    pub fn peer_by_key(&self, public_key: &[u8; KEY_LEN]) -> Option<PeerId> {
        self.peers.by_key(public_key)
    }

    /// All peers in the order in which they were added.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.ids()
    }

    /// A peer's state, for `status`, metrics and the UAPI.
    #[must_use]
    pub fn peer(&self, id: PeerId) -> Option<PeerView<'_>> {
        let peer = self.peers.get(id)?;
        Some(PeerView {
            id,
            public_key: peer.public_key,
            preshared_key: *peer.preshared_key,
            endpoint: peer.endpoint,
            local: peer.local,
            persistent_keepalive: peer.persistent_keepalive,
            last_handshake: peer.last_handshake,
            handshake_duration: peer.handshake_duration,
            session: peer.sessions.current.as_ref(),
            shared: &peer.shared,
            channel: peer.channel.as_ref().map(|channel| channel.view()),
            paths: self.view_paths(id),
        })
    }

    /// All allowed IPs: cloned into a snapshot when [`Endpoint::allowed_ips_version`] has changed.
    #[must_use]
    pub const fn allowed_ips(&self) -> &AllowedIps {
        &self.allowed_ips
    }

    /// Grows with every change of the allowed IPs.
    #[must_use]
    pub const fn allowed_ips_version(&self) -> u64 {
        self.allowed_ips_version
    }
}
