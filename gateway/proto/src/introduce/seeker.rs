//! As a gateway that looks for peers: who is sought, and at which introducers (or relays: "desks") that is said.
//!
//! Enters: peers to seek and peers found, desks that open and close, time. Leaves: what each desk is to be told. Never does:
//! bother more than a few desks at a time, or ask for more than [`WISHES_MAX`] peers at one.
//!
//! Both sides have to meet at one desk without having agreed on it: desks are taken in the order of their public keys, which
//! is the same for both. When more are open than are taken, others have their turn after a while, as the two sides may not
//! be linked to the same ones. Likewise, of more peers than a desk is told of each has its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{INTRODUCERS_MAX, REFRESH_EVERY, WISHES_MAX};
use crate::channel::message::Stop;
use crate::{KEY_LEN, PeerId};

/// A desk that does not answer is left alone for so long; doubled with each failure.
const OFF_FOR: Duration = Duration::from_secs(30);
const OFF_DOUBLINGS: u32 = 4;
/// How long the same desks are used while others are open: a wish outlives it, so that turns of both sides overlap.
const TURN: Duration = Duration::from_secs(60);

/// What a desk is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tell {
    pub(crate) desk: PeerId,
    pub(crate) sought: PeerId,
    /// Why it is not sought any more, if so.
    pub(crate) stop: Option<Stop>,
}

#[derive(Debug)]
struct Desk {
    key: [u8; KEY_LEN],
    taken: bool,
    off_until: Option<Instant>,
    failures: u32,
    /// Who is sought here, and when that is said next.
    told: BTreeMap<PeerId, Instant>,
    /// Who was sought here and met, and may be told of us.
    met: BTreeSet<PeerId>,
}

/// Who is sought and where.
#[derive(Debug)]
pub(crate) struct Seeker {
    /// Desks that are used at a time.
    desks_max: usize,
    sought: BTreeSet<PeerId>,
    /// How often a peer began to be sought.
    begun: u64,
    desks: BTreeMap<PeerId, Desk>,
    refreshes: BTreeSet<(Instant, PeerId, PeerId)>,
    stops: Vec<Tell>,
    /// With more peers than a desk is told of: who is next, and when.
    next: Option<PeerId>,
    shift_ends: Option<Instant>,
    /// Desks that had their turn, and when the turn ends.
    turn: usize,
    turn_ends: Option<Instant>,
}

impl Default for Seeker {
    fn default() -> Self {
        Self::new(INTRODUCERS_MAX)
    }
}

impl Seeker {
    /// Nobody is sought yet. At most `desks_max` desks are bothered at a time.
    pub(crate) const fn new(desks_max: usize) -> Self {
        Self {
            desks_max,
            sought: BTreeSet::new(),
            begun: 0,
            desks: BTreeMap::new(),
            refreshes: BTreeSet::new(),
            stops: Vec::new(),
            next: None,
            shift_ends: None,
            turn: 0,
            turn_ends: None,
        }
    }

    /// From here on the peer is sought.
    pub(crate) fn seek(&mut self, now: Instant, peer: PeerId) {
        if self.sought.insert(peer) {
            self.begun += 1;
            let taken: Vec<_> = self.taken().collect();
            for desk in taken {
                self.schedule(now, desk, peer);
            }
            self.begin_turn(now);
        }
    }

    /// There is a link to the peer: it is not sought any more, wherever that was said.
    pub(crate) fn found(&mut self, now: Instant, peer: PeerId) {
        if !self.sought.remove(&peer) {
            return;
        }
        let desks: Vec<_> = self.desks.keys().copied().collect();
        let before = self.stops.len();
        for desk in desks {
            if self.unschedule(desk, peer) {
                self.stops.push(Tell { desk, sought: peer, stop: Some(Stop::Met) });
                if let Some(place) = self.desks.get_mut(&desk) {
                    place.met.insert(peer);
                }
            }
        }
        if self.sought.len() >= WISHES_MAX && self.stops.len() > before {
            // There is room for another one.
            self.arrange(now);
        }
    }

    /// The peer is none any more, which is said wherever it was sought.
    pub(crate) fn dropped(&mut self, now: Instant, peer: PeerId) {
        self.found(now, peer);
        for (id, desk) in &mut self.desks {
            if desk.met.remove(&peer) {
                self.stops.push(Tell { desk: *id, sought: peer, stop: Some(Stop::Dropped) });
            }
        }
    }

    /// There is something else to say of ourselves: everybody is told at once.
    pub(crate) fn news(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.refreshes);
        for (_, desk, peer) in all {
            self.schedule(now, desk, peer);
        }
        let desks: Vec<_> = self.desks.keys().copied().collect();
        for desk in desks {
            self.rest_again(desk);
        }
    }

    /// There is a link to this introducer or relay, which has forgotten what it was told if it `restarted`.
    pub(crate) fn opened(&mut self, now: Instant, desk: PeerId, key: [u8; KEY_LEN], restarted: bool) {
        if let Some(place) = self.desks.get_mut(&desk) {
            if place.off_until.take().is_some() {
                // It answers after all.
                self.arrange(now);
            }
            if restarted {
                self.rest_again(desk);
                self.again(now, desk);
            }
            return;
        }
        let (told, met) = (BTreeMap::new(), BTreeSet::new());
        self.desks.insert(desk, Desk { key, taken: false, off_until: None, failures: 0, told, met });
        self.arrange(now);
    }

    /// The link to it has ended.
    pub(crate) fn closed(&mut self, now: Instant, desk: PeerId) {
        self.clear(desk);
        if self.desks.remove(&desk).is_some() {
            self.arrange(now);
        }
    }

    /// It does not answer.
    pub(crate) fn silent(&mut self, now: Instant, desk: PeerId) {
        self.clear(desk);
        let Some(place) = self.desks.get_mut(&desk) else { return };
        place.off_until = Some(now + OFF_FOR * 2_u32.pow(place.failures.min(OFF_DOUBLINGS)));
        place.failures += 1;
        self.arrange(now);
    }

    /// It has answered.
    pub(crate) fn answered(&mut self, desk: PeerId) {
        if let Some(desk) = self.desks.get_mut(&desk) {
            desk.failures = 0;
        }
    }

    /// Whether this desk was told that the peer is sought, or has been.
    pub(crate) fn is_known_at(&self, desk: PeerId, peer: PeerId) -> bool {
        self.desks.get(&desk).is_some_and(|desk| desk.told.contains_key(&peer) || desk.met.contains(&peer))
    }

    /// Whom this desk was told of.
    pub(crate) fn known_at(&self, desk: PeerId) -> impl Iterator<Item = PeerId> + '_ {
        self.desks.get(&desk).into_iter().flat_map(|desk| desk.told.keys().chain(&desk.met)).copied()
    }

    /// Whether this desk was told that the peer is sought.
    fn is_sought_at(&self, desk: PeerId, peer: PeerId) -> bool {
        self.desks.get(&desk).is_some_and(|desk| desk.told.contains_key(&peer))
    }

    /// Whether there are as many desks as are used at a time.
    pub(crate) fn has_desks(&self) -> bool {
        self.taken().count() >= self.desks_max
    }

    /// This desk is to be told again that the peer is sought.
    pub(crate) fn ask_again(&mut self, now: Instant, desk: PeerId, peer: PeerId) {
        if self.is_sought_at(desk, peer) {
            self.schedule(now, desk, peer);
        }
    }

    /// How often a peer began to be sought.
    pub(crate) const fn begun(&self) -> u64 {
        self.begun
    }

    pub(crate) fn sought(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.sought.iter().copied()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.sought.is_empty()
    }

    /// Those that were told that the peer is sought, or has been.
    pub(crate) fn desks_that_know(&self, peer: PeerId) -> impl Iterator<Item = PeerId> + '_ {
        self.desks.keys().copied().filter(move |desk| self.is_known_at(*desk, peer))
    }

    /// Whether it introduces or relays.
    pub(crate) fn is_desk(&self, id: PeerId) -> bool {
        self.desks.contains_key(&id)
    }

    /// The desks in use.
    pub(crate) fn taken(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.desks.iter().filter(|(_, desk)| desk.taken).map(|(id, _)| *id)
    }

    /// When [`Seeker::run`] has something to do.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        if !self.stops.is_empty() {
            return Some(now);
        }
        if self.sought.is_empty() {
            return None;
        }
        let off = self.desks.values().filter_map(|desk| desk.off_until).min();
        let first = self.refreshes.first().map(|(at, ..)| *at);
        [first, off, self.turn_ends, self.shift_ends].into_iter().flatten().min()
    }

    /// The next to tell of those that are not sought any more.
    pub(crate) fn next_stop(&mut self) -> Option<Tell> {
        self.stops.pop()
    }

    /// The next thing to tell; call it until there is none.
    pub(crate) fn run(&mut self, now: Instant) -> Option<Tell> {
        if let Some(stop) = self.next_stop() {
            return Some(stop);
        }
        let over = self.turn_ends.is_some_and(|end| end <= now) && !self.sought.is_empty();
        if over {
            self.turn = self.turn.wrapping_add(self.desks_max);
            self.turn_ends = None;
        }
        if over || self.desks.values().any(|desk| desk.off_until.is_some_and(|until| until <= now)) {
            self.arrange(now);
        }
        if self.shift_ends.is_some_and(|end| end <= now) {
            self.shift(now);
            if let Some(stop) = self.next_stop() {
                return Some(stop);
            }
        }
        let (at, desk, sought) = *self.refreshes.first()?;
        if at > now {
            return None;
        }
        self.schedule(now + REFRESH_EVERY, desk, sought);
        Some(Tell { desk, sought, stop: None })
    }

    /// Chooses the desks, and says to those that are chosen anew who is sought.
    fn arrange(&mut self, now: Instant) {
        let mut open: Vec<_> = self.desks.iter_mut().map(|(id, desk)| (desk.key, *id, desk)).collect();
        for (_, _, desk) in &mut open {
            desk.off_until = desk.off_until.filter(|until| *until > now);
        }
        open.retain(|(_, _, desk)| desk.off_until.is_none());
        open.sort_unstable_by_key(|(key, ..)| *key);
        // While there is room for all of them, all have their turn.
        let (count, first) = (open.len(), if open.len() > self.desks_max { self.turn } else { 0 });
        let mut chosen = Vec::new();
        for (place, (_, id, _)) in open.iter().enumerate() {
            if (place + count - first % count) % count < self.desks_max {
                chosen.push(*id);
            }
        }
        for (id, desk) in &mut self.desks {
            desk.taken = chosen.contains(id);
        }
        let dropped: Vec<_> = self.desks.keys().copied().filter(|id| !chosen.contains(id)).collect();
        for desk in dropped {
            self.clear(desk);
        }
        for desk in chosen {
            let peers: Vec<_> = self.sought.iter().copied().filter(|peer| !self.is_sought_at(desk, *peer)).collect();
            for peer in peers {
                self.schedule(now, desk, peer);
            }
        }
        self.begin_turn(now);
    }

    fn begin_turn(&mut self, now: Instant) {
        let open = self.desks.values().filter(|desk| desk.off_until.is_none()).count();
        if self.sought.is_empty() || open <= self.desks_max {
            self.turn_ends = None;
        } else {
            self.turn_ends.get_or_insert(now + TURN);
        }
        if self.sought.len() <= WISHES_MAX {
            self.shift_ends = None;
        } else {
            self.shift_ends.get_or_insert(now + TURN);
        }
    }

    /// The desks are told of as many others, in the order of the peers, and that those before are sought no more.
    fn shift(&mut self, now: Instant) {
        self.shift_ends = None;
        self.begin_turn(now);
        if self.shift_ends.is_none() {
            return;
        }
        let is_told = |peer: &PeerId| self.desks.values().any(|desk| desk.told.contains_key(peer));
        let first = self.next.or_else(|| self.sought.iter().copied().find(|peer| !is_told(peer)));
        let Some(first) = first else { return };
        let mut ring = self.sought.range(first..).chain(self.sought.range(..first)).copied();
        let chosen: BTreeSet<_> = ring.by_ref().take(WISHES_MAX).collect();
        self.next = ring.next();
        let taken: Vec<_> = self.taken().collect();
        for desk in taken {
            let told: Vec<_> = self.desks.get(&desk).into_iter().flat_map(|desk| desk.told.keys()).copied().collect();
            for peer in told.into_iter().filter(|peer| !chosen.contains(peer)) {
                self.unschedule(desk, peer);
                self.stops.push(Tell { desk, sought: peer, stop: Some(Stop::Dropped) });
            }
            for peer in &chosen {
                if !self.is_sought_at(desk, *peer) {
                    self.schedule(now, desk, *peer);
                }
            }
        }
    }

    /// Says again who was met.
    fn rest_again(&mut self, desk: PeerId) {
        let met = self.desks.get(&desk).into_iter().flat_map(|place| &place.met);
        self.stops.extend(met.map(|sought| Tell { desk, sought: *sought, stop: Some(Stop::Met) }));
    }

    fn again(&mut self, now: Instant, desk: PeerId) {
        let peers: Vec<_> = self.desks.get(&desk).into_iter().flat_map(|desk| desk.told.keys()).copied().collect();
        for peer in peers {
            self.schedule(now, desk, peer);
        }
    }

    fn schedule(&mut self, at: Instant, desk: PeerId, peer: PeerId) {
        let Some(place) = self.desks.get_mut(&desk) else { return };
        place.met.remove(&peer);
        if place.told.len() + place.met.len() >= WISHES_MAX && !place.told.contains_key(&peer) {
            // Who is sought goes before who was met.
            let Some(met) = place.met.pop_first() else { return };
            self.stops.push(Tell { desk, sought: met, stop: Some(Stop::Dropped) });
        }
        if let Some(before) = place.told.insert(peer, at) {
            self.refreshes.remove(&(before, desk, peer));
        }
        self.refreshes.insert((at, desk, peer));
    }

    fn unschedule(&mut self, desk: PeerId, peer: PeerId) -> bool {
        let told = self.desks.get_mut(&desk).and_then(|desk| desk.told.remove(&peer));
        told.is_some_and(|at| self.refreshes.remove(&(at, desk, peer)))
    }

    fn clear(&mut self, desk: PeerId) {
        let Some(place) = self.desks.get_mut(&desk) else { return };
        for (peer, at) in std::mem::take(&mut place.told) {
            self.refreshes.remove(&(at, desk, peer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(slot: u32) -> PeerId {
        PeerId { slot, generation: 1 }
    }

    fn key(slot: u32) -> [u8; KEY_LEN] {
        [slot as u8; KEY_LEN]
    }

    fn told(seeker: &mut Seeker, now: Instant) -> Vec<(u32, u32, bool)> {
        let mut all: Vec<_> = std::iter::from_fn(|| seeker.run(now)).collect();
        all.sort_unstable();
        all.iter().map(|tell| (tell.desk.slot, tell.sought.slot, tell.stop.is_some())).collect()
    }

    #[test]
    fn a_wish_is_told_at_once_and_every_thirty_seconds_until_it_comes_true() {
        let (mut seeker, start) = (Seeker::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        seeker.seek(start, peer(50));
        assert_eq!(seeker.due(start), None, "nobody to ask");
        seeker.opened(start, peer(1), key(1), false);
        assert_eq!(told(&mut seeker, start), [(1, 50, false)]);
        assert!(seeker.is_sought_at(peer(1), peer(50)) && !seeker.is_sought_at(peer(1), peer(51)));
        assert_eq!(seeker.due(start), Some(at(30)));
        assert_eq!(told(&mut seeker, at(30)), [(1, 50, false)]);
        seeker.news(at(31));
        assert_eq!(told(&mut seeker, at(31)), [(1, 50, false)]);
        seeker.found(at(32), peer(50));
        assert_eq!(told(&mut seeker, at(32)), [(1, 50, true)]);
        assert_eq!(seeker.due(at(32)), None);
        assert!(seeker.is_known_at(peer(1), peer(50)), "it may still be introduced");
        seeker.opened(at(33), peer(1), key(1), true);
        assert_eq!(seeker.run(at(33)).and_then(|tell| tell.stop), Some(Stop::Met), "it has forgotten");
        seeker.dropped(at(34), peer(50));
        assert_eq!(seeker.run(at(34)).and_then(|tell| tell.stop), Some(Stop::Dropped));
        assert!(!seeker.is_known_at(peer(1), peer(50)));
    }

    #[test]
    fn both_sides_take_the_same_desks_and_others_in_turn() {
        let start = Instant::now();
        // The desks of each side in the order in which it came to know them.
        let used = |order: &[u32], seconds: u64| {
            let mut seeker = Seeker::default();
            seeker.seek(start, peer(50));
            for desk in order {
                seeker.opened(start, peer(*desk), key(*desk), false);
            }
            let mut used = BTreeSet::new();
            for second in 0..seconds {
                let now = start + Duration::from_secs(second);
                used.extend(told(&mut seeker, now).into_iter().filter(|tell| !tell.2).map(|tell| tell.0));
                assert!(seeker.taken().count() <= INTRODUCERS_MAX);
            }
            used
        };
        assert_eq!(used(&[3, 1, 2], 200), BTreeSet::from([1, 2, 3]));
        assert!(used(&[9, 8, 7, 1, 2], 50).is_superset(&BTreeSet::from([1, 2])));
        assert_eq!(used(&[9, 8, 7, 1, 2], 130).len(), 5, "all have had their turn");
    }

    #[test]
    fn a_silent_desk_is_replaced_and_asked_again_later() {
        let (mut seeker, start) = (Seeker::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        for desk in 1..=4 {
            seeker.opened(start, peer(desk), key(desk), false);
        }
        seeker.seek(start, peer(50));
        assert_eq!(told(&mut seeker, start), [(1, 50, false), (2, 50, false), (3, 50, false)]);
        seeker.silent(at(1), peer(2));
        assert_eq!(told(&mut seeker, at(1)), [(4, 50, false)]);
        assert!(!seeker.is_sought_at(peer(2), peer(50)));
        seeker.closed(at(2), peer(1));
        assert_eq!(told(&mut seeker, at(2)), [], "there is no fourth");
        assert_eq!(
            told(&mut seeker, at(31)),
            [(2, 50, false), (3, 50, false), (4, 50, false)],
            "it has a second chance"
        );
        seeker.silent(at(32), peer(2));
        assert_eq!(told(&mut seeker, at(91)).iter().filter(|tell| tell.0 == 2).count(), 0, "the pause has doubled");
    }

    #[test]
    fn of_more_peers_than_a_desk_is_told_of_all_have_their_turn() {
        let (mut seeker, start) = (Seeker::default(), Instant::now());
        seeker.opened(start, peer(1), key(1), false);
        for sought in 0..1000 {
            seeker.seek(start, peer(1000 + sought));
        }
        let (mut asked, mut live) = (BTreeSet::new(), BTreeSet::new());
        for second in 0..260 {
            while let Some(tell) = seeker.run(start + Duration::from_secs(second)) {
                match tell.stop {
                    None => live.insert(tell.sought),
                    Some(_) => live.remove(&tell.sought),
                };
                asked.insert(tell.sought);
                assert!(live.len() <= WISHES_MAX, "what was said is taken back first");
            }
        }
        assert_eq!(asked.len(), 1000);
        seeker.seek(start, peer(1000));
        assert_eq!(seeker.begun(), 1000, "it is sought already");
        for sought in 0..900 {
            seeker.found(start, peer(1000 + sought));
        }
        let later = start + Duration::from_secs(320);
        told(&mut seeker, later);
        assert_eq!((seeker.known_at(peer(1)).filter(|it| it.slot >= 1900).count(), seeker.shift_ends), (100, None));
    }

    #[test]
    fn no_desk_is_asked_for_more_than_its_bound() {
        let (mut seeker, start) = (Seeker::default(), Instant::now());
        seeker.opened(start, peer(1), key(1), false);
        for sought in 0..400 {
            seeker.seek(start, peer(1000 + sought));
        }
        assert_eq!(told(&mut seeker, start).len(), WISHES_MAX);
        for sought in 0..100 {
            seeker.dropped(start, peer(1000 + sought));
        }
        let all = told(&mut seeker, start);
        assert_eq!(all.iter().filter(|tell| !tell.2).count(), 100, "others take their places");
        assert!(seeker.desks[&peer(1)].told.len() + seeker.desks[&peer(1)].met.len() <= WISHES_MAX);
    }
}
