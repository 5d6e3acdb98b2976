//! Whether a router has forgotten its mappings, by the clock that it starts when it begins to remember.
//!
//! Enters: what its clock showed, and when. Leaves: whether that is the same clock. Never does: trust two clocks to run alike.

use std::time::Instant;

/// Seconds that clocks may differ by for having been read between two beats (RFC 6887 section 8.5).
const SLACK: i64 = 2;

/// What a router's clock showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epoch {
    pub(super) seconds: u32,
    pub(super) at: Instant,
}

impl Epoch {
    /// Whether a later reading is of a clock that was started in between (RFC 6886 section 3.6, RFC 6887 section 8.5): it went
    /// back, or at another pace than ours by more than one in sixteen.
    pub(super) fn is_of_another_life(&self, later: &Self) -> bool {
        let ours = later.at.saturating_duration_since(self.at).as_secs() as i64;
        let theirs = i64::from(later.seconds) - i64::from(self.seconds);
        theirs < -1 || theirs + SLACK < ours - ours / 16 || ours + SLACK < theirs - theirs / 16
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_went_back_or_too_fast_or_too_slow_is_another_one() {
        let at = Instant::now();
        let before = Epoch { seconds: 1000, at };
        let after =
            |elapsed, seconds| before.is_of_another_life(&Epoch { seconds, at: at + Duration::from_secs(elapsed) });
        for (elapsed, seconds) in [(0, 1000), (0, 999), (0, 1002), (60, 1060), (60, 1055), (60, 1066), (3600, 4400)] {
            assert!(!after(elapsed, seconds), "{elapsed} s later it shows {seconds}");
        }
        for (elapsed, seconds) in [(0, 998), (60, 0), (60, 3), (60, 998), (60, 1050), (60, 1080), (3600, 3600)] {
            assert!(after(elapsed, seconds), "{elapsed} s later it shows {seconds}");
        }
    }
}
