//! Whether a peer speaks the channel.
//!
//! Enters: sessions that begin, hellos, time. Leaves: when to say hello. Never does: wake a link that is idle: it only
//! speaks when a session has just begun, three times at most, and ever more seldom to peers that do not answer.
//!
//! The side that began the session says hello, the other answers; so every session tells both what the other can do.
//! The other side speaks first only when no hello has come for a while: the peer may not know the channel, or have given
//! up to ask.

use std::time::{Duration, Instant};

use super::message::Hello;
use crate::session::Role;

/// How long the side that answered a handshake leaves the word to the one that began it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long the first one may: all that finds paths waits for it, and a datagram that is lost says nothing of the peer.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// Hellos in one session, to a peer that may speak the channel.
const TRIES: u32 = 3;
/// Hellos in one session, to a peer that has left some without an answer.
const TRIES_SILENT: u32 = 2;
/// The most sessions that go by between two with a hello.
const SKIPPED_MAX: u32 = 31;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Say hello.
    Say,
    /// Nobody answers: the peer does not speak the channel, or not any more.
    Silent,
}

/// What is known of one peer.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    known: Option<Hello>,
    tries: u32,
    due: Option<Instant>,
    /// Sessions in a row in which nobody answered.
    silent: u32,
    /// Sessions to let go by.
    skip: u32,
}

impl Discovery {
    /// What the peer said of itself.
    pub(crate) const fn known(&self) -> Option<Hello> {
        self.known
    }

    /// Whether the peer was asked what it can do and never answered.
    pub(crate) const fn is_silent(&self) -> bool {
        self.known.is_none() && self.silent > 0
    }

    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There is a session to seal with that was not there before.
    pub(crate) fn session_began(&mut self, now: Instant, role: Role) {
        (self.tries, self.due) = (0, None);
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.due = Some(match role {
            Role::Initiator => now,
            Role::Responder => now + PATIENCE,
        });
    }

    /// There is no session any more.
    pub(crate) const fn session_ended(&mut self) {
        self.due = None;
    }

    /// What is due at this time.
    pub(crate) fn run(&mut self, now: Instant) -> Option<Due> {
        self.due.filter(|due| *due <= now)?;
        if self.tries < if self.silent == 0 { TRIES } else { TRIES_SILENT } {
            self.tries += 1;
            self.due = Some(now + if self.tries == 1 { FIRST_ANSWER_WITHIN } else { ANSWER_WITHIN });
            return Some(Due::Say);
        }
        (self.due, self.known) = (None, None);
        self.silent = self.silent.saturating_add(1);
        self.skip = 2_u32.saturating_pow(self.silent.min(16)).saturating_sub(1).min(SKIPPED_MAX);
        Some(Due::Silent)
    }

    /// A hello came, or the answer to one: which of several it answers does not matter, as all say the same. Returns whether
    /// the peer has forgotten everything since it was last heard.
    pub(crate) fn hear(&mut self, hello: Hello) -> bool {
        let restarted = self.known.is_some_and(|known| known.instance != hello.instance);
        *self = Self { known: Some(hello), ..Self::default() };
        restarted
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Features;
    use super::*;

    const HELLO: Hello = Hello { instance: 1, features: Features(1), accepts_ports: 8 };

    /// Hellos said in one session of two minutes.
    fn session(discovery: &mut Discovery, now: &mut Instant, role: Role) -> usize {
        discovery.session_began(*now, role);
        let end = *now + Duration::from_secs(120);
        let mut said = 0;
        while let Some(due) = discovery.due().filter(|due| *due < end) {
            said += usize::from(discovery.run(due) == Some(Due::Say));
        }
        *now = end;
        said
    }

    #[test]
    fn a_peer_that_never_answers_is_asked_ever_more_seldom() {
        let (mut discovery, mut now) = (Discovery::default(), Instant::now());
        let said: Vec<_> = (0..100).map(|_| session(&mut discovery, &mut now, Role::Initiator)).collect();
        let asked: Vec<_> = (0..100).filter(|i| said[*i] > 0).collect();
        assert_eq!(asked, [0, 2, 6, 14, 30, 62, 94]);
        assert!(said.iter().all(|n| *n <= TRIES as usize));
        assert!(!discovery.hear(HELLO));
        assert!(session(&mut discovery, &mut now, Role::Initiator) > 0, "it speaks after all");
    }

    #[test]
    fn the_side_that_answered_waits_for_a_hello_before_it_speaks() {
        let (mut discovery, now) = (Discovery::default(), Instant::now());
        discovery.session_began(now, Role::Responder);
        assert_eq!(discovery.run(now), None);
        assert!(!discovery.hear(HELLO));
        assert_eq!(discovery.due(), None);
        discovery.session_began(now, Role::Responder);
        assert_eq!(discovery.run(now + PATIENCE), Some(Due::Say));
        assert!(discovery.hear(Hello { instance: 2, ..HELLO }), "it has restarted");
        assert_eq!(discovery.known().map(|hello| hello.instance), Some(2));
    }
}
