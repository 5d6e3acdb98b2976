//! What follows from traffic (paper, sections 6.2 to 6.5), derived from the times that lanes report.
//!
//! Lanes say when something happened last, in milliseconds; they are looked at on the control task's tick. Within
//! one millisecond the order of sending and receiving is unknown: it is read so that at worst a superfluous
//! keepalive is sent, never a superfluous handshake.

use std::time::{Duration, Instant};

use super::Endpoint;
use crate::PeerId;
use crate::constants::{
    KEEPALIVE_TIMEOUT, NEW_HANDSHAKE_AFTER, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_ON_RECEIVE_AFTER, REKEY_TIMEOUT,
};
use crate::session::Role;
use crate::timer::Timer;

impl Endpoint {
    /// A lane has packets for a peer without a session to seal with.
    pub fn handle_session_wanted(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(id) else { return };
        if peer.can_seal(now) {
            // The lane had not seen the session yet.
            peer.shared.take_wants_session();
            return;
        }
        // Without an endpoint the mark stays, and is found when there is one.
        peer.shared.want_session();
        self.begin_handshake(id, now);
    }

    /// A lane marked the peer active since the last call: derive its timers from [`crate::PeerShared`].
    pub fn handle_active(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(id) else { return };
        // Before the times are read: what comes later sets the mark again.
        peer.shared.take_active();
        self.refresh(id, now);
    }

    /// Our own place changed (another port or socket): every peer with a session is told at once by a keepalive, from
    /// which it learns where we are.
    pub fn announce(&mut self, now: Instant) {
        let ids: Vec<_> = self.peers().collect();
        for id in ids {
            self.channel_place_changed(id);
            let session = self.peers.get(id).and_then(|peer| peer.sessions.current.as_ref());
            if session.is_some_and(|session| !session.is_expired(now)) {
                self.queue_keepalive(id);
            }
        }
    }

    /// Sends the first persistent keepalive, when there are any and none is due.
    pub(super) fn start_persistent_keepalive(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get(id) else { return };
        let Some(interval) = peer.persistent_keepalive else { return };
        if self.identity.is_some() && !self.timers.is_set(id.slot, Timer::PersistentKeepalive) {
            self.timers.set(id.slot, Timer::PersistentKeepalive, now + interval);
            self.queue_keepalive(id);
        }
    }

    /// Wants a session: sends an initiation at once, or REKEY-TIMEOUT after the last handshake message.
    pub(super) fn begin_handshake(&mut self, id: PeerId, now: Instant) {
        if self.identity.is_none() {
            return;
        }
        let Some(peer) = self.peers.get(id) else { return };
        if peer.attempts.since.is_some() || peer.endpoint.is_none() && !self.has_places(id) {
            return;
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.attempts.since = Some(now);
        peer.attempts.sent = 0;
        match peer.attempts.last_message.map(|last| last + REKEY_TIMEOUT) {
            Some(earliest) if earliest > now => self.timers.set(id.slot, Timer::RetryHandshake, earliest),
            _ => self.queue_initiation(id),
        }
    }

    /// Derives everything that follows from the lanes' times.
    pub(super) fn refresh(&mut self, id: PeerId, now: Instant) {
        self.refresh_keepalive(id);
        self.refresh_silence(id);
        self.measure_channel(id, now);
        self.watch_paths(id, now);
        if self.is_rekey_due(id, now) {
            self.begin_handshake(id, now);
        }
    }

    /// Received data is answered by a keepalive unless something is sent within KEEPALIVE-TIMEOUT.
    fn refresh_keepalive(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let sent = peer.last_sent();
        if peer.watch.unanswered.is_some_and(|received| sent > Some(received)) {
            peer.watch.unanswered = None;
            self.timers.stop(id.slot, Timer::PassiveKeepalive);
        }
        let Some(received) = peer.shared.data_received() else { return };
        if peer.watch.unanswered.is_none() && sent <= Some(received) && peer.watch.answered < Some(received) {
            peer.watch.unanswered = Some(received);
            self.timers.set(id.slot, Timer::PassiveKeepalive, received + KEEPALIVE_TIMEOUT);
        }
    }

    /// Sent data that nothing answers for KEEPALIVE-TIMEOUT and REKEY-TIMEOUT leads to a handshake.
    fn refresh_silence(&mut self, id: PeerId) {
        let jitter = self.jitter();
        let Some(peer) = self.peers.get_mut(id) else { return };
        let received = peer.last_received();
        if peer.watch.unheard.is_some_and(|sent| received >= Some(sent)) {
            peer.watch.unheard = None;
            self.timers.stop(id.slot, Timer::NewHandshake);
        }
        let Some(sent) = peer.shared.data_sent() else { return };
        if peer.watch.unheard.is_none() && Some(sent) > received && peer.watch.handled < Some(sent) {
            peer.watch.unheard = Some(sent);
            self.timers.set(id.slot, Timer::NewHandshake, sent + NEW_HANDSHAKE_AFTER + jitter);
        }
    }

    /// Whether the current session is to be renewed because of its use.
    fn is_rekey_due(&mut self, id: PeerId, now: Instant) -> bool {
        let yields = self.yields_to(id);
        let Some(peer) = self.peers.get_mut(id) else { return false };
        let Some(session) = peer.sessions.current.as_ref().filter(|session| !session.is_expired(now)) else {
            return false;
        };
        if session.sent_messages() >= REKEY_AFTER_MESSAGES {
            return true;
        }
        let used = |last: Option<Instant>, age: Duration| last >= Some(session.created + age);
        let (sent, received) = (peer.shared.any_sent(), peer.shared.any_received());
        match session.role() {
            Role::Initiator if used(sent, REKEY_AFTER_TIME) => true,
            Role::Initiator if used(received, REKEY_ON_RECEIVE_AFTER) && !peer.watch.renewed_on_receive => {
                peer.watch.renewed_on_receive = true;
                true
            }
            Role::Initiator => false,
            // The initiator should have renewed it long before. When both sides began at the same time and messages
            // were lost, each may take itself for the responder: one of them then begins before traffic stops.
            Role::Responder => {
                let before = if yields { REKEY_TIMEOUT } else { REKEY_TIMEOUT * 2 };
                used(sent, REJECT_AFTER_TIME - before)
            }
        }
    }
}
