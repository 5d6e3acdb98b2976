//! The replay window: which counters of a session were seen (RFC 6479, paper section 5.4.6).
//!
//! Enters: counters of authentic packets. Leaves: whether one may be accepted. Never does: shift bits; the
//! window is a ring of words of which those that fall behind are cleared as the greatest counter grows.

use crate::constants::REJECT_AFTER_MESSAGES;

/// How far behind the greatest counter a packet may be.
pub const WINDOW: u64 = 8192;
/// How far where packets come by several source ports, and so by several lanes: one of them may be held up for some
/// milliseconds while the others go on, at a million packets in a second.
pub const DEEP_WINDOW: u64 = 65_536;

const WORD: u64 = u64::BITS as u64;
/// More words than the window needs, as the greatest counter's own word is only partly in use; a power of two.
const fn words(window: u64) -> u64 {
    (window / WORD + 1).next_power_of_two()
}

/// A window of seen counters, 8192 deep unless it is deepened.
#[derive(Debug)]
pub struct ReplayWindow {
    /// The greatest counter seen, plus one; zero when nothing was.
    end: u64,
    window: u64,
    /// As many words as a power of two.
    seen: Box<[u64]>,
}

impl ReplayWindow {
    /// A window in which nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self { end: 0, window: WINDOW, seen: vec![0; words(WINDOW) as usize].into() }
    }

    /// Looks further back from here on. Counters of which nothing is known any more stay refused.
    pub fn deepen(&mut self) {
        if self.window == DEEP_WINDOW {
            return;
        }
        let mut seen: Box<[u64]> = vec![u64::MAX; words(DEEP_WINDOW) as usize].into();
        let known = self.end.div_ceil(WORD);
        for word in known.saturating_sub(self.seen.len() as u64)..known {
            seen[word as usize % words(DEEP_WINDOW) as usize] = self.seen[self.place_of(word)];
        }
        (self.window, self.seen) = (DEEP_WINDOW, seen);
    }

    /// Whether a packet with this counter would be refused. Called before the AEAD.
    #[inline]
    #[must_use]
    pub fn would_reject(&self, counter: u64) -> bool {
        if counter >= self.end {
            return counter >= REJECT_AFTER_MESSAGES;
        }
        if self.end - counter > self.window {
            return true;
        }
        self.seen[self.place_of(counter / WORD)] & bit(counter) != 0
    }

    /// Asks for what [`ReplayWindow::commit`] will write for this counter: see [`landbridge_aead::prefetch()`].
    #[inline]
    pub fn prefetch(&self, counter: u64) {
        landbridge_aead::prefetch(&self.seen[self.place_of(counter / WORD)]);
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
        let word = self.place_of(counter / WORD);
        self.seen[word] |= bit(counter);
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
        for word in used.max(needed.saturating_sub(self.seen.len() as u64))..needed {
            let place = self.place_of(word);
            self.seen[place] = 0;
        }
        self.end = counter + 1;
    }

    /// Where a word of counters stands in the ring.
    #[inline]
    const fn place_of(&self, word: u64) -> usize {
        word as usize & (self.seen.len() - 1)
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
const fn bit(counter: u64) -> u64 {
    1 << (counter % WORD)
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
        run("a jump by exactly all words", &[(10, true), (10 + words(WINDOW) * WORD, true), (10, false)]);
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
                prop_oneof![4 => -70_i64..130, 2 => -9000_i64..9000, 1 => -70_000_i64..70_000], 1..400),
            deepened_at in 0_usize..500,
        ) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            let mut at = start;
            // What is known when it is deepened: every counter from here on.
            let (mut depth, mut floor) = (WINDOW, 0);
            for (place, step) in steps.into_iter().enumerate() {
                if place == deepened_at {
                    window.deepen();
                    depth = DEEP_WINDOW;
                    let end = seen.last().map_or(0, |greatest: &u64| greatest + 1);
                    floor = end.div_ceil(WORD).saturating_sub(words(WINDOW)) * WORD;
                }
                at = at.saturating_add_signed(step);
                let greatest = seen.last().copied();
                let behind = greatest.is_some_and(|g: u64| g.saturating_sub(at) >= depth);
                let accept = at < REJECT_AFTER_MESSAGES && !behind && at >= floor && !seen.contains(&at);
                prop_assert_eq!(window.would_reject(at), !accept);
                prop_assert_eq!(window.commit(at), accept);
                if accept {
                    seen.insert(at);
                }
            }
        }
    }
}
