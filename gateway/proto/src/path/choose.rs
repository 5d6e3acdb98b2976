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

/// A path of the same tier by an uplink that the routes prefer is taken once it has been one for so long, and one that the
/// peer has sent by for so long in place of the one in use.
const SETTLED: Duration = Duration::from_secs(3);
const FOLLOWED: Duration = Duration::from_secs(2);

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
            return self.as_good(now, current);
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
        self.as_good(now, current)
    }

    /// A path of the same tier that there is a reason to take.
    fn as_good(&self, now: Instant, current: usize) -> Option<(usize, PathReason)> {
        let used = &self.pairs[current];
        let is_beside = |(at, pair): &(usize, &Pair)| {
            *at != current && pair.proven.is_some() && pair.tier == used.tier && pair.doubted.is_none()
        };
        let beside = || self.pairs.iter().enumerate().filter(is_beside).filter(|(_, pair)| self.allows(pair.kind));
        let by_rtt = |(_, pair): &(usize, &Pair)| pair.rtt().unwrap_or(Duration::MAX);
        let faster = beside().filter(|(_, pair)| pair.faster >= FASTER_TIMES).min_by_key(by_rtt);
        if let Some((faster, _)) = faster {
            return Some((faster, PathReason::Faster));
        }
        // Each side chooses its own uplink, and follows the other one in its choice.
        let since = |since: Option<Instant>, time| since.is_some_and(|at| now.saturating_duration_since(at) >= time);
        let is_preferred =
            |pair: &Pair| self.is_preferred(pair) && pair.remote == used.remote && since(pair.proven, SETTLED);
        let preferred = beside().find(|(_, pair)| is_preferred(pair) && !used.is_faster_than(pair));
        if let Some((preferred, _)) = preferred.filter(|_| !self.is_preferred(used)) {
            return Some((preferred, PathReason::Preferred));
        }
        let sent_by = self.watch.sent_by().filter(|(_, at)| since(Some(*at), FOLLOWED)).map(|(place, _)| place);
        let is_sent_by = |pair: &Pair| sent_by == Some((pair.remote, pair.local)) && pair.local == used.local;
        let followed = beside().find(|(_, pair)| is_sent_by(pair) && !used.is_faster_than(pair));
        if let Some((followed, _)) = followed {
            return Some((followed, PathReason::Roamed));
        }
        // The peer sends by another path, and this one has not answered a probe that it would have.
        let is_late = used.unanswered > 0 && used.due.is_some_and(|due| due <= now);
        let left = |(_, pair): &(usize, &Pair)| pair.is_fresh(now, PEER_LEFT * 2) && pair.heard > used.heard;
        let followed = beside().filter(|_| is_late).find(left)?;
        Some((followed.0, PathReason::Roamed))
    }

    /// The address of ours that the routes to the peer prefer.
    pub(crate) fn prefer(&mut self, local: Option<IpAddr>) {
        self.preferred = local;
    }

    /// Whether the path in use begins at one of several addresses of ours.
    pub(crate) fn has_uplinks(&self) -> bool {
        self.in_use.is_some_and(|(remote, _)| self.locals_for(remote).len() > 1)
    }

    /// Whether the address of ours is the one that the routes prefer.
    pub(super) fn is_preferred(&self, pair: &Pair) -> bool {
        self.preferred.is_some() && pair.local == self.preferred
    }

    /// A path was measured: notes whether it is faster than the one in use.
    pub(super) fn compare(&mut self, current: Option<usize>, measured: usize) {
        let Some(current) = current.filter(|current| *current != measured) else { return };
        let is_faster = self.pairs[measured].is_faster_than(&self.pairs[current]);
        let pair = &mut self.pairs[measured];
        pair.faster = if is_faster { pair.faster + 1 } else { 0 };
    }
}

impl Pair {
    /// Whether it is clearly faster than another one.
    fn is_faster_than(&self, other: &Self) -> bool {
        let (Some(rtt), Some(used)) = (self.settled_rtt(), other.settled_rtt()) else { return false };
        rtt * 100 < used * FASTER_PERCENT && rtt + FASTER_BY <= used && self.answers >= ANSWERS
    }
}
