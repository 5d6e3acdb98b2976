//! How long the NAT in front of us keeps a binding that nothing uses: learned once, for all peers.
//!
//! Enters: answers that a peer sent late, and their absence. Leaves: delays to ask for, and how often a keepalive is
//! needed. Never does: learn from a port that anything else was sent from meanwhile.

use std::time::{Duration, Instant};

/// Delays that are tried, one after the other.
const DELAYS_S: [u32; 4] = [30, 60, 120, 180];
/// Without any answer a binding is taken to live as long as this.
const LEAST: Duration = Duration::from_secs(20);
/// Keepalives until something is learned.
const AT_FIRST: Duration = Duration::from_secs(20);
/// How much later than asked an answer may come.
const GRACE: Duration = Duration::from_secs(3);
/// Tries of one delay: an answer may be lost for other reasons.
const TRIES: u32 = 2;
/// Learned again after so long: another network may be in front of us.
const LEARN_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// What is known of bindings.
#[derive(Debug, Default)]
pub(crate) struct Lifetime {
    /// The longest delay that was outlived, and the shortest that was not.
    outlived: Option<u32>,
    died: Option<u32>,
    /// The request under way, and when it has failed.
    waiting: Option<(u32, u32, Instant)>,
    tries: u32,
    learned: Option<Instant>,
}

impl Lifetime {
    /// How often a binding must be used.
    pub(crate) fn interval(&self) -> Duration {
        match (self.outlived, self.died) {
            (Some(seconds), _) => Duration::from_secs(seconds.into()) * 7 / 10,
            (None, Some(_)) => LEAST * 7 / 10,
            (None, None) => AT_FIRST,
        }
    }

    /// The delay to ask for next; `None` while one is under way, and when nothing is left to learn.
    pub(crate) fn wanted(&mut self, now: Instant) -> Option<u32> {
        if self.waiting.is_some() {
            return None;
        }
        if self.learned.is_some_and(|at| now.saturating_duration_since(at) >= LEARN_AGAIN) {
            *self = Self::default();
        }
        let beyond = self.outlived.unwrap_or(0);
        let next = DELAYS_S.into_iter().find(|delay| *delay > beyond && self.died.is_none_or(|died| *delay < died));
        if next.is_none() {
            self.learned.get_or_insert(now);
        }
        next
    }

    /// This delay was asked for.
    pub(crate) fn asked(&mut self, now: Instant, request: u32, delay_s: u32) {
        self.waiting = Some((request, delay_s, now + Duration::from_secs(delay_s.into()) + GRACE));
    }

    /// An answer came. True when it is the one that was waited for.
    pub(crate) fn answer(&mut self, request: u32) -> bool {
        let Some((_, delay, _)) = self.waiting.take_if(|(waiting, ..)| *waiting == request) else { return false };
        (self.outlived, self.tries) = (Some(delay), 0);
        true
    }

    /// The port was used by others meanwhile, or the peer is gone: what is under way says nothing.
    pub(crate) const fn spoil(&mut self) {
        self.waiting = None;
    }

    /// Looks whether what is under way has failed.
    pub(crate) fn run(&mut self, now: Instant) {
        let Some((_, delay, _)) = self.waiting.take_if(|(.., until)| *until <= now) else { return };
        self.tries += 1;
        if self.tries >= TRIES {
            (self.died, self.tries) = (Some(delay), 0);
        }
    }

    /// When the one under way has failed.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.map(|(.., until)| until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Learns behind a NAT of this lifetime; returns the interval and the delays asked for.
    fn learn(lives_s: u32) -> (Duration, Vec<u32>) {
        let (mut lifetime, mut now, mut asked) = (Lifetime::default(), Instant::now(), Vec::new());
        while let Some(delay) = lifetime.wanted(now) {
            asked.push(delay);
            lifetime.asked(now, asked.len() as u32, delay);
            if delay < lives_s {
                assert!(lifetime.answer(asked.len() as u32));
            } else {
                now = lifetime.due().expect("under way");
                lifetime.run(now);
            }
        }
        (lifetime.interval(), asked)
    }

    #[test]
    fn keepalives_come_at_seven_tenths_of_what_was_learned() {
        for (lives_s, interval_s, asked) in [
            (20, 14, &[30, 30][..]),
            (40, 21, &[30, 60, 60]),
            (90, 42, &[30, 60, 120, 120]),
            (300, 126, &[30, 60, 120, 180]),
        ] {
            assert_eq!(learn(lives_s), (Duration::from_secs(interval_s), asked.to_vec()), "{lives_s} s");
        }
        assert_eq!(Lifetime::default().interval(), AT_FIRST);
    }

    #[test]
    fn only_the_answer_waited_for_counts_and_a_port_that_was_used_says_nothing() {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        lifetime.asked(now, 7, 30);
        assert!(!lifetime.answer(8));
        lifetime.spoil();
        assert!(!lifetime.answer(7));
        lifetime.run(now + Duration::from_secs(100));
        assert_eq!((lifetime.interval(), lifetime.wanted(now)), (AT_FIRST, Some(30)));
    }
}
