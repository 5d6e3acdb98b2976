//! Peers that introduce others to each other, and gateways that ask them to.
//!
//! Enters: who seeks whom, links that come and go, time. Leaves: whom to tell what. Never does: pass anything on between
//! two that do not seek each other, or hold more than a bounded share for a peer.
//!
//! 1. [`Seeker`]: which peers are sought, and at which introducers (or relays) that is said.
//! 2. [`Errands`]: what one peer is to be told until it says that it heard, in order, paced and bounded.
//! 3. [`Registry`]: as an introducer (or relay), the wishes of all peers; two that name the same
//!    meeting are a match.
//! 4. [`Hearsay`]: as a gateway that was told of others, where they may be, and how much of that is followed.

mod errands;
mod hearsay;
mod meeting_id;
mod registry;
mod seeker;

pub(crate) use errands::{Errand, Errands};
pub(crate) use hearsay::{Hearsay, Share};
pub(crate) use meeting_id::MeetingId;
pub(crate) use registry::Registry;
pub(crate) use seeker::{Seeker, Tell};

use std::time::Duration;

/// How often a wish is repeated while it lasts.
pub(crate) const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// How long a wish lives that is not repeated.
pub(crate) const WISH_LIFETIME: Duration = Duration::from_secs(75);
/// Wishes of one peer at one introducer.
pub(crate) const WISHES_MAX: usize = 256;
/// Introducers that are told of the same wish.
pub(crate) const INTRODUCERS_MAX: usize = 3;

/// Both sides of an introduction are to begin at the same time: what each of them waits after it has heard, where
/// `ours` and `theirs` are the round trips between the introducer and the two.
pub(crate) fn delay_for(ours: Duration, theirs: Duration) -> Duration {
    (theirs.saturating_sub(ours) / 2).min(DELAY_MAX)
}

/// A round trip is believed so far.
pub(crate) const DELAY_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_side_waits_for_the_news_to_reach_the_other() {
        let ms = Duration::from_millis;
        assert_eq!((delay_for(ms(20), ms(100)), delay_for(ms(100), ms(20))), (ms(40), ms(0)));
        assert_eq!(delay_for(ms(0), ms(60_000)), ms(500), "a lie about a round trip delays nobody for long");
    }
}
