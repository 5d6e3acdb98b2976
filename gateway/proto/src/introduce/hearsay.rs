//! What introducers say of where peers are, and how much of it is followed.
//!
//! Enters: introductions, time. Leaves: places to try. Never does: let what one introducer says take the place of what
//! another one does, or be made to send to ever other addresses: they may belong to somebody who has nothing to do with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::PeerId;
use crate::candidate::Candidate;
use crate::channel::message::Candidates;

/// The mean time between two introductions of one peer by one introducer (or offers by one relay), and how many may come
/// at once.
const AGAIN_EVERY: Duration = Duration::from_secs(5);
const AGAIN_BURST: u32 = 4;
/// The same of places that one introducer names, whosever they are: a few hundred peers may be met at once.
const PLACE_EVERY: Duration = Duration::from_millis(62);
const PLACES_BURST: u32 = 1024;
/// For how long initiations are sent to a place that was named: as long as the introducer finds both sides seeking, it
/// says so again.
const LIFETIME: Duration = Duration::from_secs(20);

/// A token bucket in one number: until when what was taken has used up the share.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Share(Option<Instant>);

impl Share {
    /// Takes so much of a share that fills again by one each `every`, up to `burst`. False: too much was taken.
    pub(crate) fn take(&mut self, now: Instant, every: Duration, burst: u32, count: u32) -> bool {
        let used = self.0.map_or(now, |until| until.max(now)) + every * count;
        let admitted = used.saturating_duration_since(now) <= every * burst;
        if admitted {
            self.0 = Some(used);
        }
        admitted
    }

    /// When one can be taken.
    pub(crate) fn next(&self, now: Instant, every: Duration, burst: u32) -> Instant {
        self.0.and_then(|until| (until + every).checked_sub(every * burst)).map_or(now, |at| at.max(now))
    }
}

#[derive(Debug)]
struct Said {
    candidates: Candidates,
    at: Instant,
    is_stale: bool,
}

/// Where peers may be, as others say.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    /// By the peer and by who says it.
    said: BTreeMap<(PeerId, PeerId), Said>,
    again: BTreeMap<(PeerId, PeerId), Share>,
    introducers: BTreeMap<PeerId, Share>,
}

/// It says too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMuch;

impl Hearsay {
    /// An introducer says where a peer is, without what is refused of it: replaces what it said before.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        peer: PeerId,
        by: PeerId,
        candidates: Candidates,
    ) -> Result<(), TooMuch> {
        let count = candidates.list.len() as u32;
        let introducer = self.introducers.entry(by).or_default();
        if !introducer.take(now, PLACE_EVERY, PLACES_BURST, count) || !self.may_again(now, peer, by) {
            return Err(TooMuch);
        }
        self.said.insert((peer, by), Said { candidates, at: now, is_stale: false });
        Ok(())
    }

    /// Whether somebody may bring about yet another attempt to reach a peer.
    pub(crate) fn may_again(&mut self, now: Instant, peer: PeerId, by: PeerId) -> bool {
        self.again.entry((peer, by)).or_default().take(now, AGAIN_EVERY, AGAIN_BURST, 1)
    }

    /// Whether anybody has said where a peer is.
    pub(crate) fn knows(&self, peer: PeerId) -> bool {
        self.of(peer).next().is_some()
    }

    /// The places, of each introducer in turn.
    pub(crate) fn places(&self, peer: PeerId) -> impl Iterator<Item = Candidate> + '_ {
        let longest = self.of(peer).map(|said| said.candidates.list.len()).max().unwrap_or(0);
        (0..longest).flat_map(move |rank| {
            self.of(peer).filter(|said| !said.is_stale).filter_map(move |said| said.candidates.list.get(rank).copied())
        })
    }

    /// All that was said, however long ago.
    pub(crate) fn all(&self, peer: PeerId) -> impl Iterator<Item = &Candidate> + '_ {
        self.of(peer).flat_map(|said| &said.candidates.list)
    }

    /// What was said a while ago is not tried any more.
    pub(crate) fn age(&mut self, now: Instant, peer: PeerId) {
        for (_, said) in self.said.range_mut(all_of(peer)) {
            said.is_stale |= now.saturating_duration_since(said.at) > LIFETIME;
        }
    }

    /// A peer is to be looked for no more.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.said.retain(|(of, _), _| *of != peer);
    }

    /// A peer is none any more.
    pub(crate) fn part(&mut self, peer: PeerId) {
        self.said.retain(|(of, by), _| *of != peer && *by != peer);
        self.again.retain(|(of, by), _| *of != peer && *by != peer);
        self.introducers.remove(&peer);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    fn of(&self, peer: PeerId) -> impl Iterator<Item = &Said> + '_ {
        self.said.range(all_of(peer)).map(|(_, said)| said)
    }
}

fn all_of(peer: PeerId) -> std::ops::RangeInclusive<(PeerId, PeerId)> {
    (peer, PeerId { slot: 0, generation: 0 })..=(peer, PeerId { slot: u32::MAX, generation: u32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::{CandidateKind, Nat};

    const PEER: PeerId = PeerId { slot: 5, generation: 1 };
    const BY: [PeerId; 2] = [PeerId { slot: 1, generation: 1 }, PeerId { slot: 9, generation: 1 }];

    fn named(ports: std::ops::Range<u16>) -> Candidates {
        let at = |port| Candidate { kind: CandidateKind::Stun, address: ([192, 0, 2, 1], port).into() };
        Candidates::new(Nat::default(), &ports.map(at).collect::<Vec<_>>())
    }

    #[test]
    fn each_introducer_is_heard_in_turn_and_for_a_while() {
        let (mut hearsay, now) = (Hearsay::default(), Instant::now());
        assert_eq!(hearsay.hear(now, PEER, BY[0], named(1..4)), Ok(()));
        assert_eq!(hearsay.hear(now + LIFETIME / 2, PEER, BY[1], named(8..10)), Ok(()));
        let ports = |hearsay: &Hearsay| hearsay.places(PEER).map(|place| place.address.port()).collect::<Vec<_>>();
        assert_eq!(ports(&hearsay), [1, 8, 2, 9, 3]);
        hearsay.age(now + LIFETIME + Duration::from_secs(1), PEER);
        assert_eq!((ports(&hearsay), hearsay.knows(PEER)), (vec![8, 9], true));
        hearsay.part(BY[1]);
        hearsay.forget(PEER);
        assert!(!hearsay.knows(PEER));
    }

    #[test]
    fn one_that_says_too_much_is_not_heard_and_keeps_nobody_else_from_it() {
        let (mut hearsay, now) = (Hearsay::default(), Instant::now());
        let said = (0..10).filter(|_| hearsay.hear(now, PEER, BY[0], named(1..4)).is_ok()).count();
        assert_eq!(said, AGAIN_BURST as usize, "of one peer");
        assert_eq!(hearsay.hear(now, PEER, BY[1], named(1..4)), Ok(()));
        let other = |slot| PeerId { slot, generation: 1 };
        let said = (10..200).filter(|slot| hearsay.hear(now, other(*slot), BY[1], named(1..13)).is_ok()).count();
        assert_eq!(said, (PLACES_BURST as usize - 3) / 12, "of all peers");
    }
}
