//! Sessions: how they begin, take over, and end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use landbridge_aead::Key;

use super::{Endpoint, Event};
use crate::constants::{REJECT_AFTER_TIME, SESSION_LIMITS, ZERO_KEYS_AFTER};
use crate::keypairs::Ended;
use crate::noise::TransportKeys;
use crate::path::Via;
use crate::peer::Watch;
use crate::session::Role;
use crate::timer::Timer;
use crate::{PeerId, ReceiverIndex, Session};

impl Endpoint {
    /// A lane saw the first authentic packet of an unconfirmed session.
    pub fn handle_confirmed(&mut self, now: Instant, index: ReceiverIndex) {
        let Some((id, _)) = self.indices.find(index) else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(ended) = peer.sessions.confirm(index) else { return };
        if let Some(session) = peer.sessions.current.clone() {
            self.events.push_back(Event::SessionCurrent { session });
        }
        self.end_sessions(id, ended, false);
        self.complete_handshake(id, now);
        self.refresh(id, now);
    }

    /// A lane opened transport data of this peer that came from another place than the peer's endpoint.
    pub fn handle_roamed(&mut self, now: Instant, peer: PeerId, remote: SocketAddr, local: Option<IpAddr>) {
        if !self.channel_explains(peer, now, remote) {
            self.heard_at(peer, now, (remote, local), Via::Data);
        }
    }

    /// The keys of a handshake become a session, whose index is allocated.
    pub(super) fn start_session(
        &mut self,
        id: PeerId,
        now: Instant,
        role: Role,
        local_index: ReceiverIndex,
        remote_index: ReceiverIndex,
        keys: &TransportKeys,
    ) {
        let yields = self.yields_to(id);
        self.channel_session_starts(id, now, role);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let session = Arc::new(Session::new(
            id,
            Arc::clone(&peer.shared),
            local_index,
            remote_index,
            role,
            now,
            Key::new(&keys.seal),
            Key::new(&keys.open),
            SESSION_LIMITS,
        ));
        let current = role == Role::Initiator;
        let ended = if current {
            peer.sessions.add_initiated(Arc::clone(&session), yields)
        } else {
            peer.sessions.add_answered(Arc::clone(&session))
        };
        self.deepen_replay(id);
        self.events.push_back(Event::SessionStarted { session, current });
        self.end_sessions(id, ended, false);
        self.timers.set(id.slot, Timer::ZeroKeys, now + ZERO_KEYS_AFTER);
    }

    /// Whether this side gives way when both begin at the same time: one of them must, and keys are in order.
    pub(super) fn yields_to(&self, id: PeerId) -> bool {
        match (self.peers.get(id), &self.identity) {
            (Some(peer), Some(identity)) => identity.public_key > peer.public_key,
            _ => false,
        }
    }

    /// There is a session to seal with: what tried to get one stops.
    pub(super) fn complete_handshake(&mut self, id: PeerId, now: Instant) {
        self.abandon_handshake(id);
        let wall = self.wall_at(now);
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.watch.renewed_on_receive = false;
        peer.last_handshake = wall;
        peer.shared.take_wants_session();
        let lapse = peer.sessions.current.as_ref().map(|session| session.created + REJECT_AFTER_TIME);
        if let Some(lapse) = lapse {
            self.timers.set(id.slot, Timer::Lapse, lapse);
        }
        self.channel_session_began(id, now);
        self.met(now, id);
    }

    /// Forgets our own handshake under way.
    pub(super) fn abandon_handshake(&mut self, id: PeerId) {
        self.timers.stop(id.slot, Timer::RetryHandshake);
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.attempts.since = None;
        peer.attempts.sent = 0;
        if let Some(in_flight) = peer.attempts.in_flight.take() {
            self.indices.free(in_flight.index);
        }
    }

    /// Retracts sessions. `last_is_current` when the last of them was the one to seal with and has no successor.
    pub(super) fn end_sessions(&mut self, id: PeerId, ended: Ended, last_is_current: bool) {
        let last = ended.len() - 1;
        for (place, session) in ended.into_iter().enumerate() {
            let Some(session) = session else { continue };
            let index = session.local_index;
            self.indices.free(index);
            let was_current = last_is_current && place == last;
            self.events.push_back(Event::SessionEnded { peer: id, index, was_current });
        }
    }

    /// Wipes every key of a peer but the configured ones.
    pub(super) fn wipe_keys(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let ended = peer.sessions.clear();
        self.end_sessions(id, ended, true);
        self.channel_ended(id);
    }

    /// Ends sessions, handshakes and timers of a peer.
    pub(super) fn end_everything(&mut self, id: PeerId) {
        self.abandon_handshake(id);
        self.wipe_keys(id);
        self.timers.stop_all(id.slot);
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.attempts.queued = false;
        peer.attempts.last_message = None;
        peer.watch = Watch {
            // What happened under other keys is nothing to react to.
            handled: peer.shared.data_sent(),
            answered: peer.shared.data_received(),
            handshake_sent: peer.watch.handshake_sent,
            handshake_received: peer.watch.handshake_received,
            ..Watch::default()
        };
    }
}
