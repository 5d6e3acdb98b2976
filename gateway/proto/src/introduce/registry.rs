//! As an introducer or a relay: who wishes to meet whom.
//!
//! Enters: wishes of peers, each with what may be told to the one that is wished for; links that end; time. Leaves: pairs
//! that wish for each other. Never does: let anybody see whether somebody whom it is not wished by exists.
//!
//! A wish names a public key, which need not be known: whoever asks learns nothing from the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{WISH_LIFETIME, WISHES_MAX};
use crate::{KEY_LEN, PeerId};

/// Wishes of all peers together.
const TOTAL_MAX: usize = 1 << 16;
/// The mean time between two introductions of the same two, and how many may come at once: a peer that always has
/// something else to tell costs the other no more than this.
const AGAIN_EVERY: Duration = Duration::from_secs(5);
const AGAIN_BURST: u32 = 4;

type Key = [u8; KEY_LEN];

/// A wish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) by: PeerId,
    pub(crate) by_key: &'a Key,
    /// Who is wished for: the key, and its peer when we know it.
    pub(crate) of_key: &'a Key,
    pub(crate) of: Option<PeerId>,
}

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
    wishes: BTreeMap<(PeerId, Key), Entry<O>>,
    expiries: BTreeSet<(Instant, PeerId, Key)>,
    shares: BTreeMap<PeerId, usize>,
}

impl<O> Default for Registry<O> {
    fn default() -> Self {
        Self { wishes: BTreeMap::new(), expiries: BTreeSet::new(), shares: BTreeMap::new() }
    }
}

/// The table, or the peer's share of it, is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl<O: PartialEq> Registry<O> {
    /// Takes in a wish, or renews it. True when both are to be introduced: at first, when either has something else to
    /// offer, and when the wish is renewed after a while, as it has then not come true.
    pub(crate) fn wish(&mut self, now: Instant, wish: Wish<'_>, offer: O) -> Result<bool, Full> {
        let place = (wish.by, *wish.of_key);
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
            let share = self.shares.entry(wish.by).or_default();
            if *share >= WISHES_MAX || self.wishes.len() >= TOTAL_MAX {
                return Err(Full);
            }
            *share += 1;
            let entry = Entry { offer, expires, told: false, used_until: None };
            self.wishes.insert(place, entry);
        }
        self.expiries.insert((at, place.0, place.1));
        Ok(self.matched(now, wish).is_some())
    }

    /// Whether both wish for each other, whatever they were told.
    pub(crate) fn are_mutual(&self, wish: Wish<'_>) -> bool {
        wish.of.is_some_and(|of| {
            self.wishes.contains_key(&(wish.by, *wish.of_key)) && self.wishes.contains_key(&(of, *wish.by_key))
        })
    }

    /// The wish has come true: it is not renewed, but should the other one wish, both are introduced again.
    pub(crate) fn rest(&mut self, by: PeerId, of_key: &Key) {
        if let Some(entry) = self.wishes.get_mut(&(by, *of_key))
            && let Some(before) = entry.expires.take()
        {
            self.expiries.remove(&(before, by, *of_key));
        }
    }

    /// The wish is none any more.
    pub(crate) fn withdraw(&mut self, by: PeerId, of_key: &Key) {
        self.remove((by, *of_key));
    }

    /// The peer's link has ended, or its place is another one: its wishes are void.
    pub(crate) fn forget(&mut self, by: PeerId) {
        let places: Vec<_> = self.of(by).collect();
        for place in places {
            self.remove(place);
        }
    }

    /// What a peer offers to another one.
    pub(crate) fn offer(&self, by: PeerId, of_key: &Key) -> Option<&O> {
        self.wishes.get(&(by, *of_key)).map(|entry| &entry.offer)
    }

    /// Drops wishes that were not renewed.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(at, by, key)) = self.expiries.first()
            && at <= now
        {
            self.remove((by, key));
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, ..)| *at)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.wishes.len()
    }

    /// Whether both are to be introduced, which is noted.
    fn matched(&mut self, now: Instant, wish: Wish<'_>) -> Option<()> {
        let (ours, theirs) = ((wish.by, *wish.of_key), (wish.of?, *wish.by_key));
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
        Some(())
    }

    fn of(&self, by: PeerId) -> impl Iterator<Item = (PeerId, Key)> + '_ {
        self.wishes.range((by, [0; KEY_LEN])..=(by, [u8::MAX; KEY_LEN])).map(|(place, _)| *place)
    }

    fn remove(&mut self, place: (PeerId, Key)) {
        let Some(entry) = self.wishes.remove(&place) else { return };
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

    fn key(slot: u32) -> Key {
        let mut key = [7; KEY_LEN];
        key[..4].copy_from_slice(&slot.to_be_bytes());
        key
    }

    /// A wish of one peer for another, with an offer.
    fn wish(
        registry: &mut Registry<u32>,
        now: Instant,
        by: u32,
        of: u32,
        offer: u32,
    ) -> Result<Option<(u32, u32)>, Full> {
        let wish = Wish { by: peer(by), by_key: &key(by), of_key: &key(of), of: (of < 1000).then(|| peer(of)) };
        let matched = registry.wish(now, wish, offer)?;
        let offers = registry.offer(peer(by), &key(of)).zip(registry.offer(peer(of), &key(by)));
        Ok(offers.filter(|_| matched).map(|(by, of)| (*by, *of)))
    }

    #[test]
    fn only_two_that_wish_for_each_other_match() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        assert_eq!(wish(&mut registry, now, 1, 2, 10), Ok(None));
        assert_eq!(wish(&mut registry, now, 3, 1, 30), Ok(None), "1 does not wish for 3");
        assert_eq!(wish(&mut registry, now, 1, 4000, 10), Ok(None), "a key that is not known");
        assert_eq!(wish(&mut registry, now, 2, 1, 20), Ok(Some((20, 10))));
        assert_eq!(wish(&mut registry, now, 1, 2, 10), Ok(None), "both were told");
        registry.withdraw(peer(1), &key(2));
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
        assert_eq!((registry.len(), registry.offer(peer(1), &key(2))), (1, None));
        registry.forget(peer(2));
        assert_eq!((registry.len(), registry.due(), registry.shares.len()), (0, None, 0));
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
        registry.rest(peer(1), &key(2));
        registry.rest(peer(2), &key(1));
        let later = start + Duration::from_secs(3600);
        registry.expire(later);
        assert_eq!((registry.len(), registry.due()), (2, None));
        registry.forget(peer(2));
        assert_eq!(wish(&mut registry, later, 2, 1, 21), Ok(Some((21, 10))));
        registry.withdraw(peer(1), &key(2));
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
