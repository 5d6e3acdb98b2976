//! As an introducer or a relay: who wishes to meet whom.
//!
//! Enters: wishes of peers, each with what may be told to the one that is wished for; links that end; time. Leaves: pairs
//! that wish for each other. Never does: let anybody see whether somebody whom it is not wished by exists.
//!
//! A wish names a meeting, which says nothing of who the other one is until that one names the same: whoever asks learns
//! nothing from the answer. A meeting is of two: a third one that names it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{MeetingId, WISH_LIFETIME, WISHES_MAX};
use crate::PeerId;

/// Wishes of all peers together.
const TOTAL_MAX: usize = 1 << 16;
/// The mean time between two introductions of the same two, and how many may come at once: a peer that always has
/// something else to tell costs the other no more than this.
const AGAIN_EVERY: Duration = Duration::from_secs(5);
const AGAIN_BURST: u32 = 4;

#[derive(Debug)]
struct Entry<O> {
    offer: O,
    /// `None`: it has come true, and lasts as long as the peer's link does.
    expires: Option<Instant>,
    /// Whether the other side was told of this very offer.
    told: bool,
    /// Until when introductions have used up the pair's share.
    used_until: Option<Instant>,
}

/// Every live wish.
#[derive(Debug)]
pub(crate) struct Registry<O> {
    wishes: BTreeMap<(PeerId, MeetingId), Entry<O>>,
    /// The same, by the meeting: one or two for each.
    parties: BTreeSet<(MeetingId, PeerId)>,
    expiries: BTreeSet<(Instant, PeerId, MeetingId)>,
    shares: BTreeMap<PeerId, usize>,
}

impl<O> Default for Registry<O> {
    fn default() -> Self {
        Self { wishes: BTreeMap::new(), parties: BTreeSet::new(), expiries: BTreeSet::new(), shares: BTreeMap::new() }
    }
}

/// The table, the peer's share of it, or the meeting is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl<O: PartialEq> Registry<O> {
    /// Takes in a wish, or renews it. Returns the other one when both are to be introduced: at first, when either has
    /// something else to offer, and when the wish is renewed after a while, as it has then not come true.
    pub(crate) fn wish(
        &mut self,
        now: Instant,
        by: PeerId,
        meeting: MeetingId,
        offer: O,
    ) -> Result<Option<PeerId>, Full> {
        let place = (by, meeting);
        let at = now + WISH_LIFETIME;
        let expires = Some(at);
        if let Some(entry) = self.wishes.get_mut(&place) {
            if let Some(before) = entry.expires {
                self.expiries.remove(&(before, place.0, place.1));
            }
            entry.expires = expires;
            if entry.offer != offer {
                (entry.offer, entry.told) = (offer, false);
            }
        } else {
            let share = self.shares.get(&by).copied().unwrap_or(0);
            if share >= WISHES_MAX || self.wishes.len() >= TOTAL_MAX || self.parties(meeting).count() >= 2 {
                return Err(Full);
            }
            self.shares.insert(by, share + 1);
            self.parties.insert((meeting, by));
            let entry = Entry { offer, expires, told: false, used_until: None };
            self.wishes.insert(place, entry);
        }
        self.expiries.insert((at, place.0, place.1));
        Ok(self.matched(now, by, meeting))
    }

    /// The other one that wishes for a meeting, whatever either was told.
    pub(crate) fn other(&self, by: PeerId, meeting: MeetingId) -> Option<PeerId> {
        self.parties(meeting).find(|party| *party != by)
    }

    fn parties(&self, meeting: MeetingId) -> impl Iterator<Item = PeerId> + '_ {
        let all =
            (meeting, PeerId { slot: 0, generation: 0 })..=(meeting, PeerId { slot: u32::MAX, generation: u32::MAX });
        self.parties.range(all).map(|(_, party)| *party)
    }

    /// The wish has come true: it is not renewed, but should the other one wish, both are introduced again.
    pub(crate) fn rest(&mut self, by: PeerId, meeting: MeetingId) {
        if let Some(entry) = self.wishes.get_mut(&(by, meeting))
            && let Some(before) = entry.expires.take()
        {
            self.expiries.remove(&(before, by, meeting));
        }
    }

    /// The wish is none any more.
    pub(crate) fn withdraw(&mut self, by: PeerId, meeting: MeetingId) {
        self.remove((by, meeting));
    }

    /// The peer's link has ended, or its place is another one: its wishes are void.
    pub(crate) fn forget(&mut self, by: PeerId) {
        let places: Vec<_> = self.of(by).collect();
        for place in places {
            self.remove(place);
        }
    }

    /// What a peer offers to the one that it wishes to meet.
    pub(crate) fn offer(&self, by: PeerId, meeting: MeetingId) -> Option<&O> {
        self.wishes.get(&(by, meeting)).map(|entry| &entry.offer)
    }

    /// Drops wishes that were not renewed.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(at, by, meeting)) = self.expiries.first()
            && at <= now
        {
            self.remove((by, meeting));
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, ..)| *at)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.wishes.len()
    }

    /// Whom a peer is to be introduced to, which is noted.
    fn matched(&mut self, now: Instant, by: PeerId, meeting: MeetingId) -> Option<PeerId> {
        let of = self.other(by, meeting)?;
        let (ours, theirs) = ((by, meeting), (of, meeting));
        let other = self.wishes.get(&theirs).filter(|other| other.expires.is_none_or(|at| at > now))?;
        let (of_told, of_used) = (other.told, other.used_until);
        let entry = self.wishes.get_mut(&ours)?;
        // Who gives up and wishes again has used up what the other one remembers.
        entry.used_until = entry.used_until.max(of_used);
        let used = entry.used_until.map_or(now, |until| until.max(now)) + AGAIN_EVERY;
        let nothing_new = entry.told && of_told && entry.used_until.is_some_and(|until| until > now);
        if nothing_new || used.saturating_duration_since(now) > AGAIN_EVERY * AGAIN_BURST {
            return None;
        }
        for place in [ours, theirs] {
            if let Some(entry) = self.wishes.get_mut(&place) {
                (entry.used_until, entry.told) = (Some(used), true);
            }
        }
        Some(of)
    }

    fn of(&self, by: PeerId) -> impl Iterator<Item = (PeerId, MeetingId)> + '_ {
        self.wishes.range((by, MeetingId::MIN)..=(by, MeetingId::MAX)).map(|(place, _)| *place)
    }

    fn remove(&mut self, place: (PeerId, MeetingId)) {
        let Some(entry) = self.wishes.remove(&place) else { return };
        self.parties.remove(&(place.1, place.0));
        if let Some(before) = entry.expires {
            self.expiries.remove(&(before, place.0, place.1));
        }
        if let Some(share) = self.shares.get_mut(&place.0) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&place.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(slot: u32) -> PeerId {
        PeerId { slot, generation: 1 }
    }

    /// What the two call their meeting.
    fn key(one: u32, other: u32) -> MeetingId {
        let mut name = MeetingId([7; 32]);
        name.0[..4].copy_from_slice(&one.min(other).to_be_bytes());
        name.0[4..8].copy_from_slice(&one.max(other).to_be_bytes());
        name
    }

    /// A wish of one peer for another, with an offer.
    fn wish(
        registry: &mut Registry<u32>,
        now: Instant,
        by: u32,
        of: u32,
        offer: u32,
    ) -> Result<Option<(u32, u32)>, Full> {
        let matched = registry.wish(now, peer(by), key(by, of), offer)?;
        assert!(matched.is_none_or(|matched| matched == peer(of)));
        let offers = registry.offer(peer(by), key(by, of)).zip(registry.offer(peer(of), key(by, of)));
        Ok(offers.filter(|_| matched.is_some()).map(|(by, of)| (*by, *of)))
    }

    #[test]
    fn only_two_that_wish_for_each_other_match() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        assert_eq!(wish(&mut registry, now, 1, 2, 10), Ok(None));
        assert_eq!(wish(&mut registry, now, 3, 1, 30), Ok(None), "1 does not wish for 3");
        assert_eq!(wish(&mut registry, now, 1, 4000, 10), Ok(None), "a key that is not known");
        assert_eq!(wish(&mut registry, now, 2, 1, 20), Ok(Some((20, 10))));
        assert_eq!(wish(&mut registry, now, 1, 2, 10), Ok(None), "both were told");
        registry.withdraw(peer(1), key(1, 2));
        assert_eq!(wish(&mut registry, now, 2, 1, 21), Ok(None));
    }

    #[test]
    fn wishes_that_are_not_renewed_are_forgotten() {
        let (mut registry, start) = (Registry::default(), Instant::now());
        let secs = |s| start + Duration::from_secs(s);
        assert_eq!(wish(&mut registry, start, 1, 2, 10), Ok(None));
        assert_eq!(wish(&mut registry, secs(74), 1, 2, 10), Ok(None));
        assert_eq!(registry.due(), Some(secs(149)));
        registry.expire(secs(148));
        assert_eq!(wish(&mut registry, secs(148), 2, 1, 20), Ok(Some((20, 10))));
        registry.expire(secs(149));
        assert_eq!((registry.len(), registry.offer(peer(1), key(1, 2))), (1, None));
        registry.forget(peer(2));
        assert_eq!((registry.len(), registry.due(), registry.shares.len()), (0, None, 0));
        assert!(registry.parties.is_empty());
    }

    #[test]
    fn a_meeting_is_of_two_and_the_third_to_name_it_is_refused() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        assert_eq!(registry.wish(now, peer(1), key(1, 2), 10), Ok(None));
        assert_eq!(registry.wish(now, peer(1), key(1, 2), 10), Ok(None), "nobody meets itself");
        assert_eq!(registry.wish(now, peer(2), key(1, 2), 20), Ok(Some(peer(1))));
        assert_eq!(registry.wish(now, peer(3), key(1, 2), 30), Err(Full));
        registry.forget(peer(2));
        assert_eq!(registry.wish(now, peer(3), key(1, 2), 30), Ok(Some(peer(1))));
    }

    #[test]
    fn a_pair_is_introduced_again_when_it_has_news_or_after_a_while_but_not_more_often() {
        let (mut registry, start) = (Registry::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(wish(&mut registry, start, 1, 2, 0), Ok(None));
        assert_eq!(wish(&mut registry, start, 2, 1, 0), Ok(Some((0, 0))));
        assert_eq!(wish(&mut registry, at(250), 2, 1, 0), Ok(None), "said again for want of an answer");
        assert_eq!(wish(&mut registry, at(300), 1, 2, 1), Ok(Some((1, 0))), "another address");
        assert_eq!(wish(&mut registry, at(30_300), 2, 1, 0), Ok(Some((0, 1))), "it has not come true");
        let often = (0..10_000).filter(|i| wish(&mut registry, at(30_300 + *i), 1, 2, 5 + *i as u32) != Ok(None));
        assert!((2..=6).contains(&often.count()));
    }

    #[test]
    fn who_has_met_a_peer_is_introduced_again_when_that_peer_has_lost_it() {
        let (mut registry, start) = (Registry::default(), Instant::now());
        assert_eq!(wish(&mut registry, start, 1, 2, 10), Ok(None));
        assert_eq!(wish(&mut registry, start, 2, 1, 20), Ok(Some((20, 10))));
        registry.rest(peer(1), key(1, 2));
        registry.rest(peer(2), key(1, 2));
        let later = start + Duration::from_secs(3600);
        registry.expire(later);
        assert_eq!((registry.len(), registry.due()), (2, None));
        registry.forget(peer(2));
        assert_eq!(wish(&mut registry, later, 2, 1, 21), Ok(Some((21, 10))));
        registry.withdraw(peer(1), key(1, 2));
        assert_eq!(wish(&mut registry, later + Duration::from_secs(60), 2, 1, 22), Ok(None));
    }

    #[test]
    fn nobody_has_more_than_a_share() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let taken = (0..1000).filter(|of| wish(&mut registry, now, 1, 5000 + of, 0).is_ok()).count();
        assert_eq!(taken, WISHES_MAX);
        assert_eq!(wish(&mut registry, now, 1, 5000, 1), Ok(None), "what it has may be renewed");
        assert_eq!(wish(&mut registry, now, 2, 1, 0), Ok(None), "others have their own");
        registry.forget(peer(1));
        assert_eq!(registry.len(), 1);
    }
}
