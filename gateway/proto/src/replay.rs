//! The replay window: which counters of a session were seen (RFC 6479, paper section 5.4.6).
//!
//! Enters: counters of authentic packets. Leaves: whether one may be accepted. Never does: shift bits; the
//! window is a ring of words of which those that fall behind are cleared as the greatest counter grows.

use crate::constants::REJECT_AFTER_MESSAGES;

/// How far behind the greatest counter a packet may be.
pub const WINDOW: u64 = 8192;

const WORD: u64 = u64::BITS as u64;
/// One word more than the window needs: the greatest counter's own word is only partly in use.
const WORDS: u64 = WINDOW / WORD + 1;

/// An 8192-deep window of seen counters.
#[derive(Debug)]
pub struct ReplayWindow {
    /// The greatest counter seen, plus one; zero when nothing was.
    end: u64,
    seen: [u64; WORDS as usize],
}

impl ReplayWindow {
    /// A window in which nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self { end: 0, seen: [0; WORDS as usize] }
    }

    /// Whether a packet with this counter would be refused. Called before the AEAD.
    #[inline]
    #[must_use]
    pub fn would_reject(&self, counter: u64) -> bool {
        if counter >= self.end {
            return counter >= REJECT_AFTER_MESSAGES;
        }
        if self.end - counter > WINDOW {
            return true;
        }
        let (word, bit) = place(counter);
        self.seen[word] & bit != 0
    }

    /// Notes a counter whose packet was authentic. False when it was seen before or lies behind the
    /// window: the packet must then be dropped. Called after the AEAD.
    #[inline]
    pub fn commit(&mut self, counter: u64) -> bool {
        if self.would_reject(counter) {
            return false;
        }
        if counter >= self.end {
            self.advance(counter);
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
        true
    }

    /// The greatest counter seen.
    #[inline]
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.end.checked_sub(1)
    }

    /// Clears the words between the greatest counter and a greater one, whose own word may be the same.
    fn advance(&mut self, counter: u64) {
        // Words up to this one (exclusive) are in use. The first counter's word counts as cleared already.
        let used = self.end.div_ceil(WORD);
        let needed = counter / WORD + 1;
        for word in used.max(needed.saturating_sub(WORDS))..needed {
            self.seen[(word % WORDS) as usize] = 0;
        }
        self.end = counter + 1;
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
fn place(counter: u64) -> (usize, u64) {
    (((counter / WORD) % WORDS) as usize, 1 << (counter % WORD))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Steps of (counter, accepted) on one window.
    fn run(name: &str, steps: &[(u64, bool)]) {
        let mut window = ReplayWindow::new();
        for (i, &(counter, accepted)) in steps.iter().enumerate() {
            assert_eq!(window.would_reject(counter), !accepted, "{name}: step {i}, counter {counter}");
            assert_eq!(window.commit(counter), accepted, "{name}: step {i}, counter {counter}");
            assert!(window.would_reject(counter), "{name}: step {i}, counter {counter} twice");
        }
    }

    #[test]
    fn numbered_table_of_single_steps() {
        let last = REJECT_AFTER_MESSAGES - 1;
        run("start", &[(0, true), (1, true), (1, false), (9, true), (8, true), (7, true), (7, false)]);
        run("start behind zero", &[(5, true), (0, true), (5, false), (4, true)]);
        run("edge of the window", &[(WINDOW, true), (1, true), (0, false), (WINDOW + 1, true), (1, false), (2, true)]);
        run("the whole window", &[(WINDOW - 1, true), (0, true), (0, false), (WINDOW * 2 - 1, true), (WINDOW, true)]);
        run("far jump", &[(3, true), (WINDOW * 40 + 17, true), (3, false), (WINDOW * 39 + 17, false)]);
        run("far jump's near side", &[(3, true), (WINDOW * 40 + 17, true), (WINDOW * 39 + 18, true)]);
        run("word edges", &[(63, true), (64, true), (127, true), (128, true), (63, false), (65, true), (126, true)]);
        run("end of the counters", &[(last, true), (last + 1, false), (u64::MAX, false), (last - 1, true)]);
        run("end from nothing", &[(u64::MAX, false), (REJECT_AFTER_MESSAGES, false), (0, true)]);
        run("a jump by exactly all words", &[(10, true), (10 + WORDS * WORD, true), (11 + WORD, true), (10, false)]);
    }

    #[test]
    fn every_counter_of_a_full_window_is_accepted_once_in_either_direction() {
        let mut up = ReplayWindow::new();
        let mut down = ReplayWindow::new();
        for counter in 0..3 * WINDOW {
            assert!(up.commit(counter));
        }
        assert!((0..3 * WINDOW).all(|counter| up.would_reject(counter)));
        assert!(down.commit(3 * WINDOW));
        for back in 1..WINDOW {
            assert!(down.commit(3 * WINDOW - back), "{back} back");
        }
        assert!(!down.commit(2 * WINDOW));
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_seen_counters(
            start in prop_oneof![Just(0_u64), Just(REJECT_AFTER_MESSAGES - 30_000), any::<u64>()],
            steps in proptest::collection::vec(
                prop_oneof![4 => -70_i64..130, 2 => -9000_i64..9000, 1 => 8000_i64..40_000], 1..400),
        ) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            let mut at = start;
            for step in steps {
                at = at.saturating_add_signed(step);
                let greatest = seen.last().copied();
                let behind = greatest.is_some_and(|g: u64| g.saturating_sub(at) >= WINDOW);
                let accept = at < REJECT_AFTER_MESSAGES && !behind && !seen.contains(&at);
                prop_assert_eq!(window.would_reject(at), !accept);
                prop_assert_eq!(window.commit(at), accept);
                if accept {
                    seen.insert(at);
                }
            }
        }
    }
}
