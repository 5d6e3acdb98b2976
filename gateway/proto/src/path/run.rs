//! What is due on the paths to one peer: checks, watches, sizes.
//!
//! Enters: time. Leaves: probes to send. Never does: send more than one check in 20 ms, or anything on an idle link but
//! the first checks of what has just become known.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::pair::{ANSWERS, FIRST_CHECKS, Pair};
use super::{ACTIVE, Paths, Probe, What};
use crate::candidate::CandidateKind;

/// Between two checks of different pairs.
const PACE: Duration = Duration::from_millis(20);
/// Between two probes of a path beside the one in use that are not answered: at least, and at most.
const STAND_BY_MIN: Duration = Duration::from_millis(100);
const STAND_BY_MAX: Duration = Duration::from_millis(500);
/// Between two measurements of a path under traffic.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// The same of a path that seems to be faster than the one in use.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Paths beside the one in use that are kept proven.
const STAND_BY: usize = 2;
/// Probes that a path beside the one in use may leave unanswered.
const STAND_BY_UNANSWERED: u32 = 3;
/// Checks of places that nothing has proven, in the long run, and how many may leave at once: two rounds of all pairs and
/// more. Whoever names places of others makes them hear no more than this.
const CHECK_EVERY: Duration = Duration::from_millis(500);
const CHECK_BURST: u32 = 96;
/// A probe that was not answered for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// Probes on their way.
const FLIGHTS_MAX: usize = 64;

/// A probe on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) request: u32,
    pub(super) remote: SocketAddr,
    local: Option<IpAddr>,
    pub(super) what: What,
    pub(super) sent: Instant,
}

impl Flight {
    pub(super) fn is_of(&self, pair: &Pair) -> bool {
        self.remote == pair.remote && self.local == pair.local
    }
}

impl Paths {
    /// When something is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        let pairs = (0..self.pairs.len()).filter_map(|at| self.pair_due(at));
        let mtu = self.current().and_then(|at| self.mtu_due(at));
        let late = self.late.iter().map(|late| late.due).min();
        // The pace of checks is kept by what runs them.
        let checks = pairs.min().map(|due| due.max(self.paced.unwrap_or(due)));
        [checks, mtu, late, self.look_due()].into_iter().flatten().min()
    }

    /// Whether data was sent or received within this time before `at`.
    fn is_active(&self, at: Instant) -> bool {
        self.active.is_some_and(|active| at.saturating_duration_since(active) < ACTIVE)
    }

    /// When a pair is to be probed, if nothing happens before.
    fn pair_due(&self, at: usize) -> Option<Instant> {
        let pair = &self.pairs[at];
        let in_use = self.current() == Some(at);
        if !self.allows(pair.kind) {
            return None;
        }
        match (pair.proven.is_some(), in_use) {
            (false, _) => pair.due.filter(|due| pair.checks < FIRST_CHECKS || self.needs(at, *due)),
            (true, _) if pair.unanswered > 0 || pair.answers < ANSWERS => pair.due,
            (true, true) => {
                // Data that comes before the answer ends the wait for it, and begins no other one.
                let asked = pair.asked.map(|asked| asked + COMPARE_EVERY);
                let measured = pair.answered.map(|at| asked.max(Some(at + MEASURE_EVERY)).unwrap_or(at));
                let measured = measured.filter(|due| self.is_active(*due));
                self.watch_due(pair, measured)
            }
            (true, false) => self.stand_by_due(at),
        }
    }

    /// Whether a pair that was checked in vain is worth another check.
    fn needs(&self, at: usize, due: Instant) -> bool {
        let pair = &self.pairs[at];
        let better = |current: usize| {
            let used = &self.pairs[current];
            let preferred = pair.tier == used.tier && self.is_preferred(pair) && !self.is_preferred(used);
            current == at || used.proven.is_none() || pair.tier < used.tier || preferred
        };
        let current = self.current();
        // Without another path to fall back to, whatever may become one is worth a try now and then.
        let beside =
            self.pairs.iter().enumerate().filter(|(other, pair)| Some(*other) != current && pair.proven.is_some());
        let wanted = if pair.answered.is_some() { STAND_BY } else { 1 };
        self.is_active(due) && (current.is_none_or(better) || beside.count() < wanted)
    }

    fn stand_by_due(&self, at: usize) -> Option<Instant> {
        let pair = &self.pairs[at];
        let rank = |pair: &Pair| (pair.tier, pair.rtt().unwrap_or(Duration::MAX));
        let current = self.current();
        let better = self.pairs.iter().enumerate().filter(|(other, beside)| {
            Some(*other) != current && beside.proven.is_some() && (rank(beside), *other) < (rank(pair), at)
        });
        if better.count() >= STAND_BY {
            return None;
        }
        let every = if pair.faster > 0 { COMPARE_EVERY } else { MEASURE_EVERY };
        pair.answered
            .map(|answered| answered + every)
            .filter(|due| self.is_active(*due))
            .into_iter()
            .chain(pair.due)
            .min()
    }

    fn mtu_due(&self, at: usize) -> Option<Instant> {
        let pair = &self.pairs[at];
        let due = pair.mtu.due().filter(|_| pair.proven.is_some() && self.allows(pair.kind))?;
        (pair.mtu.known().is_none() || self.is_active(due)).then_some(due)
    }

    /// Does what is due: fills `probes`, with request numbers that `draw` makes.
    pub(crate) fn run(&mut self, now: Instant, mut draw: impl FnMut() -> u32, probes: &mut Vec<Probe>) {
        if self.renamed {
            self.pair_up(now);
        }
        self.lose(now);
        self.late.retain(|late| {
            let is_due = late.due <= now;
            if is_due {
                let (request, what) = (late.request, What::LateAnswer);
                probes.push(Probe { request, what, remote: late.remote, local: late.local });
            }
            !is_due
        });
        self.run_watch(now, &mut draw, probes);
        for at in 0..self.pairs.len() {
            if Some(at) != self.current() && self.pairs[at].proven.is_some() {
                self.run_stand_by(now, at, &mut draw, probes);
            }
        }
        self.run_checks(now, &mut draw, probes);
        self.run_mtu(now, &mut draw, probes);
        self.tidy();
    }

    pub(super) fn is_due(&self, now: Instant, at: usize) -> bool {
        self.pair_due(at).is_some_and(|due| due <= now)
    }

    /// The path in use is dead: whatever may lead to the peer is tried at once.
    pub(super) fn try_all(&mut self, now: Instant) {
        for pair in self.pairs.iter_mut() {
            if pair.proven.is_some() {
                pair.hurry(now);
            } else if pair.answered.is_none() {
                pair.begin(now);
            }
        }
    }

    fn run_stand_by(&mut self, now: Instant, at: usize, draw: &mut impl FnMut() -> u32, probes: &mut Vec<Probe>) {
        if !self.is_due(now, at) {
            return;
        }
        let is_doubted = self.pairs[at].doubted.is_some();
        if is_doubted && self.pairs[at].is_excused(now) {
            return;
        }
        if if is_doubted { self.is_dead(now, at) } else { self.pairs[at].unanswered >= STAND_BY_UNANSWERED } {
            self.pairs[at].fail(now);
            self.places_changed = true;
            return;
        }
        if is_doubted {
            return self.ask(now, at, draw(), probes);
        }
        let pair = &mut self.pairs[at];
        pair.unanswered += 1;
        let patience = pair.patience().map_or(STAND_BY_MAX, |patience| patience.clamp(STAND_BY_MIN, STAND_BY_MAX));
        pair.due = Some(now + patience);
        self.probe(now, at, What::Watch, draw(), probes);
    }

    fn run_checks(&mut self, now: Instant, draw: &mut impl FnMut() -> u32, probes: &mut Vec<Probe>) {
        while self.paced.is_none_or(|paced| paced <= now) {
            let due = |at: &usize| self.pairs[*at].proven.is_none() && self.is_due(now, *at);
            // The best tier first, and of it the one that waits longest.
            let next = (0..self.pairs.len()).filter(due).min_by_key(|at| (self.pairs[*at].tier, self.pairs[*at].due));
            let Some(at) = next else { return };
            let in_use = self.current() == Some(at);
            let is_vouched_for = in_use || self.pairs[at].kind == CandidateKind::Relayed;
            if !is_vouched_for && !self.checked.take(now, CHECK_EVERY, CHECK_BURST, 1) {
                self.pairs[at].due = Some(self.checked.next(now, CHECK_EVERY, CHECK_BURST).max(now + PACE));
                continue;
            }
            self.pairs[at].check_sent(now, in_use);
            self.paced = Some(now + PACE);
            self.probe(now, at, What::Check, draw(), probes);
        }
    }

    fn run_mtu(&mut self, now: Instant, draw: &mut impl FnMut() -> u32, probes: &mut Vec<Probe>) {
        let Some(current) = self.current() else { return };
        if self.mtu_due(current).is_none_or(|due| due > now) {
            return;
        }
        let pair = &mut self.pairs[current];
        let patience = pair.patience();
        if let Some(size) = pair.mtu.run(now, patience) {
            self.probe(now, current, What::Mtu(size), draw(), probes);
        }
    }

    pub(super) fn probe(&mut self, now: Instant, at: usize, what: What, request: u32, probes: &mut Vec<Probe>) {
        let Pair { remote, local, .. } = self.pairs[at];
        if self.flights.len() >= FLIGHTS_MAX {
            self.flights.remove(0);
        }
        self.flights.push(Flight { request, remote, local, what, sent: now });
        probes.push(Probe { request, what, remote, local });
    }

    /// Probes that were not answered are lost.
    fn lose(&mut self, now: Instant) {
        let Self { flights, pairs, .. } = self;
        flights.retain(|flight| {
            let lost = now.saturating_duration_since(flight.sent) >= LOST_AFTER;
            if lost
                && matches!(flight.what, What::Watch | What::Check)
                && let Some(pair) = pairs.iter_mut().find(|pair| flight.is_of(pair) && pair.answered.is_some())
            {
                pair.note_probe(true);
            }
            !lost
        });
    }
}
