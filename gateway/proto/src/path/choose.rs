//! Which path is taken.
//!
//! Enters: pairs. Leaves: one, and why. Never does: take a path for a round trip that is a little shorter, or one that was
//! measured less than three times.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::pair::{ANSWERS, FIRST_CHECKS, Pair};
use super::view::PathReason;
use super::{FRESH, PEER_LEFT, Paths};

/// A path must be faster than the one in use by so much at least, ...
const FASTER_BY: Duration = Duration::from_millis(2);
/// ... and take less than these percent of its round trip, ...
const FASTER_PERCENT: u32 = 80;
/// ... by so many measurements in a row.
const FASTER_TIMES: u32 = 3;

/// Another path to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switch {
    pub(crate) remote: SocketAddr,
    pub(crate) local: Option<IpAddr>,
    pub(crate) reason: PathReason,
}

impl Paths {
    /// The path to take in place of the one in use, if there is a reason.
    pub(crate) fn choose(&self, now: Instant) -> Option<Switch> {
        let (best, reason) = self.better(now)?;
        let pair = &self.pairs[best];
        Some(Switch { remote: pair.remote, local: pair.local.or(pair.seen_local), reason })
    }

    fn better(&self, now: Instant) -> Option<(usize, PathReason)> {
        let proven = |(_, pair): &(usize, &Pair)| pair.proven.is_some() && self.allows(pair.kind);
        let paths = || self.pairs.iter().enumerate().filter(proven);
        let by_rank =
            |(_, pair): &(usize, &Pair)| (pair.doubted.is_some(), pair.tier, pair.rtt().unwrap_or(Duration::MAX));
        let (best, path) = paths().min_by_key(by_rank)?;
        let Some(current) = self.current() else {
            let reason = if self.in_use.is_some() { PathReason::OtherGone } else { PathReason::Proven };
            return Some((best, reason));
        };
        if best == current {
            return None;
        }
        let used = &self.pairs[current];
        if !self.allows(used.kind) {
            return Some((best, PathReason::OtherGone));
        }
        if used.proven.is_none() {
            // It may be on its way to be proven itself.
            let waits = used.tier <= path.tier && used.checks < FIRST_CHECKS && used.is_fresh(now, FRESH);
            let reason = if used.answered.is_some() { PathReason::OtherDead } else { PathReason::Proven };
            return (!waits).then_some((best, reason));
        }
        if path.doubted.is_some() {
            // Whatever else there is, is no better.
            return None;
        }
        if used.doubted.is_some() {
            return Some((best, PathReason::OtherSilent));
        }
        if path.tier < used.tier {
            return Some((best, PathReason::BetterTier));
        }
        let same_tier =
            || paths().filter(|(at, pair)| *at != current && pair.tier == used.tier && pair.doubted.is_none());
        let faster = same_tier().filter(|(_, pair)| pair.faster >= FASTER_TIMES).min_by_key(by_rank);
        if let Some((faster, _)) = faster {
            return Some((faster, PathReason::Faster));
        }
        // The peer sends by another path, and this one has not answered a probe that it would have.
        let is_late = used.unanswered > 0 && used.due.is_some_and(|due| due <= now);
        let left = |(_, pair): &(usize, &Pair)| pair.is_fresh(now, PEER_LEFT * 2) && pair.heard > used.heard;
        let followed = same_tier().filter(|_| is_late).find(left)?;
        Some((followed.0, PathReason::Roamed))
    }

    /// A path was measured: notes whether it is faster than the one in use.
    pub(super) fn compare(&mut self, current: Option<usize>, measured: usize) {
        let Some(current) = current.filter(|current| *current != measured) else { return };
        let used = self.pairs[current].settled_rtt();
        let pair = &mut self.pairs[measured];
        let (Some(used), Some(rtt)) = (used, pair.settled_rtt()) else { return };
        let is_faster = rtt * 100 < used * FASTER_PERCENT && rtt + FASTER_BY <= used && pair.answers >= ANSWERS;
        pair.faster = if is_faster { pair.faster + 1 } else { 0 };
    }
}
