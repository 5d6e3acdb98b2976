//! What is due.

use std::time::{Duration, Instant};

use super::{Endpoint, Event, WallClock};
use crate::PeerId;
use crate::constants::REKEY_ATTEMPT_TIME;
use crate::timer::Timer;

impl Endpoint {
    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant, wall: WallClock) {
        self.note_wall(now, wall);
        if self.meeting.due().is_some_and(|due| due <= now) {
            self.run_meeting(now);
        }
        // No timer is set again for the same moment, so this ends.
        while let Some((slot, timer)) = self.timers.pop_due(now) {
            let Some(id) = self.peers.at_slot(slot) else { continue };
            match timer {
                Timer::RetryHandshake => self.retry_handshake(id, now),
                Timer::PassiveKeepalive => self.answer_by_keepalive(id, now),
                Timer::NewHandshake => self.break_silence(id, now),
                Timer::PersistentKeepalive => self.send_persistent_keepalive(id, now),
                Timer::Channel => self.run_channel(id, now),
                Timer::Errands => self.run_errands(id, now),
                Timer::Punch => self.run_punch(id, now),
                Timer::Spray => self.run_spray(id, now),
                Timer::Lapse => self.lapsed(now, id),
                Timer::Paths => self.run_paths(id, now),
                Timer::ZeroKeys => self.wipe_keys(id),
            }
        }
    }

    fn retry_handshake(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get(id) else { return };
        let Some(since) = peer.attempts.since else { return };
        let sent = peer.attempts.sent;
        if now.saturating_duration_since(since) >= REKEY_ATTEMPT_TIME {
            self.give_up(id);
            return;
        }
        if sent > 0 {
            self.forget_local(id, now);
            self.events.push_back(Event::HandshakeRetried { peer: id, attempt: sent });
        }
        self.queue_initiation(id);
    }

    fn give_up(&mut self, id: PeerId) {
        self.abandon_handshake(id);
        self.end_punch(id);
        self.timers.stop(id.slot, Timer::PassiveKeepalive);
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.watch.unanswered = None;
        peer.watch.answered = peer.shared.data_received();
        peer.shared.take_wants_session();
        self.events.push_back(Event::HandshakeGivenUp { peer: id });
    }

    fn answer_by_keepalive(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let unanswered = peer.watch.unanswered.take();
        if unanswered.is_none() || peer.last_sent() > unanswered {
            // Lanes have answered since the last tick.
            self.refresh(id, now);
            return;
        }
        peer.watch.answered = peer.shared.data_received();
        self.queue_keepalive(id);
    }

    fn break_silence(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let unheard = peer.watch.unheard.take();
        if unheard.is_none() || peer.last_received() >= unheard {
            self.refresh(id, now);
            return;
        }
        peer.watch.handled = peer.shared.data_sent();
        self.forget_local(id, now);
        self.begin_handshake(id, now);
    }

    fn send_persistent_keepalive(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get(id) else { return };
        let Some(interval) = peer.persistent_keepalive else { return };
        let due = peer.last_sent().map_or(now, |last| last + interval);
        if due <= now {
            self.queue_keepalive(id);
            self.timers.set(id.slot, Timer::PersistentKeepalive, now + interval);
        } else {
            self.timers.set(id.slot, Timer::PersistentKeepalive, due.max(now + Duration::from_millis(1)));
        }
    }
}
