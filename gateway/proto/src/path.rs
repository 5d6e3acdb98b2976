//! The ways to one peer: which there may be, which are proven, and which is in use.
//!
//! Enters: candidates of both sides, probes and their answers, what lanes saw, time. Leaves: probes to send, the path to
//! take, and why. Never does: send, read a clock, or prefer a path that no authentic answer has proven.
//!
//! 1. [`pair`]: an address of ours and a place of the peer's. A candidate makes one pair, or one for each uplink.
//! 2. [`run`]: pairs are checked at once, twice more soon after, and then ever more seldom, and only where they would be
//!    better than what is in use. An answered check makes a pair a path.
//! 3. [`choose`]: the best tier is taken, and within a tier the path that is clearly faster.
//! 4. [`watch`]: the path in use is probed when packets leave by it and none come; it is left when it does not answer, for
//!    the best of the others, which are probed now and then while there is traffic.
//! 5. [`mtu`]: how large a datagram may be there. [`lifetime`]: how often a NAT's binding must be used.
//!
//! An idle link sends nothing of all this.

mod choose;
mod heard;
pub(crate) mod lifetime;
pub(crate) mod mtu;
mod pair;
mod run;
#[cfg(test)]
mod tests;
pub(crate) mod view;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use view::{CandidateState, CandidateView, PathReason, PathView, PathsView, Tier};

use crate::candidate::{Candidate, CandidateKind};
use crate::channel::SPREAD_SLOTS;
use crate::channel::message::Candidates;
use crate::introduce::Share;
use pair::{FIRST_CHECKS, Pair};
use run::Flight;
pub(crate) use watch::Pace;
use watch::Watch;

/// Pairs of one peer.
const PAIRS_MAX: usize = 32;
/// Of these, how many may be places that only the peer's own packets told of.
const REFLEXIVE_MAX: usize = 4;
/// Addresses of ours that are tried one by one, of each family.
const LOCALS_MAX: usize = 3;
/// Answers that are kept back for a peer that measures its NAT.
const LATE_MAX: usize = 2;
/// The longest that an answer is kept back.
const LATE_AT_MOST: Duration = Duration::from_secs(200);
/// The path in use is fresh when something came by it within this time.
pub(crate) const FRESH: Duration = Duration::from_millis(500);
/// A link is active so long after data was sent or received: then the paths beside the one in use are probed.
const ACTIVE: Duration = Duration::from_secs(10);
/// A peer that sends by another path for so long may have left the one in use.
const PEER_LEFT: Duration = Duration::from_millis(150);
/// Between two checks of a pair by which the peer was heard: one of the first, one that was a path, one that never was.
const CHECK_AGAIN: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];
/// Paths that lanes count packets of, beside the one in use.
pub(crate) const PLACES: usize = 8;

/// How something came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Packets that a lane opened.
    Data,
    /// A handshake message that the peer began with.
    Initiation,
    /// The answer to a handshake message of ours.
    Response,
    /// A probe.
    Probe,
}

/// Something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) request: u32,
    pub(crate) what: What,
    pub(crate) remote: SocketAddr,
    pub(crate) local: Option<IpAddr>,
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Check,
    Watch,
    /// Bytes of the outer IP packet.
    Mtu(u16),
    /// An answer that was kept back.
    LateAnswer,
}

#[derive(Debug)]
struct Late {
    due: Instant,
    request: u32,
    remote: SocketAddr,
    local: Option<IpAddr>,
}

/// What the gateway as a whole has to do with paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether other paths than those over relays may be taken.
    pub(crate) direct: bool,
    /// The largest outer IP packet that is tried.
    pub(crate) mtu_max: u16,
    /// Addresses of ours that candidates are tried from.
    pub(crate) locals: Vec<IpAddr>,
}

/// The ways to one peer.
#[derive(Debug)]
pub(crate) struct Paths {
    terms: Terms,
    pairs: Vec<Pair>,
    /// The address of ours that the routes prefer, where there are several.
    preferred: Option<IpAddr>,
    /// The pair in use, by its places.
    in_use: Option<(SocketAddr, Option<IpAddr>)>,
    /// What the peer said of itself, and in which generation.
    theirs: Option<(u32, Candidates)>,
    /// What others than the peer say: introducers, and relays (of kind relayed).
    named: Vec<Candidate>,
    renamed: bool,
    /// Where the configuration says that the peer is.
    configured: Option<SocketAddr>,
    flights: Vec<Flight>,
    late: Vec<Late>,
    /// When the next check may leave, and what was used up of the peer's share of them.
    paced: Option<Instant>,
    checked: Share,
    /// When data was first sent after anything had come by the path in use, and when any was last sent or received.
    unheard: Option<Instant>,
    active: Option<Instant>,
    watch: Watch,
    /// The last generation of our candidates that the peer has confirmed.
    pub(crate) confirmed: u32,
    /// Packets that lanes had counted of the path in use.
    counted: u64,
    since: Option<(Instant, PathReason)>,
    changes: u64,
    places_changed: bool,
}

impl Paths {
    /// Without anything known but the terms.
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            pairs: Vec::new(),
            preferred: None,
            in_use: None,
            theirs: None,
            named: Vec::new(),
            renamed: false,
            configured: None,
            flights: Vec::new(),
            late: Vec::new(),
            paced: None,
            checked: Share::default(),
            unheard: None,
            active: None,
            watch: Watch::default(),
            confirmed: 0,
            counted: 0,
            since: None,
            changes: 0,
            places_changed: true,
        }
    }

    /// Other terms, of which pairs may have to go.
    pub(crate) fn set_terms(&mut self, now: Instant, terms: Terms) {
        if self.terms == terms {
            return;
        }
        let added: Vec<IpAddr> = terms.locals.iter().copied().filter(|ip| !self.terms.locals.contains(ip)).collect();
        self.terms = terms;
        let locals = self.terms.locals.clone();
        // An address that was found just now does not forbid those that were in use before anything was known.
        self.pairs.retain(|pair| pair.local.is_none_or(|local| locals.is_empty() || locals.contains(&local)));
        self.places_changed = true;
        self.name_locals();
        if !added.is_empty() {
            self.pair_up(now);
        }
        for pair in &mut self.pairs {
            if pair.proven.is_none() {
                pair.begin(now);
            }
        }
    }

    /// Where there are several addresses of ours, each pair is of one of them.
    fn name_locals(&mut self) {
        for at in 0..self.pairs.len() {
            let pair = &self.pairs[at];
            let locals = self.locals_for(pair.remote);
            if pair.local.is_some() || locals.len() < 2 {
                continue;
            }
            let is_in_use = self.is_in_use(pair);
            let named = Some(pair.seen_local).filter(|seen| locals.contains(seen)).unwrap_or(locals[0]);
            let pair = &mut self.pairs[at];
            pair.local = named;
            if is_in_use {
                self.in_use = Some((pair.remote, named));
            }
        }
    }

    /// The peer said where it may be reached, without what is refused of it. False when it has said something later.
    pub(crate) fn hear_candidates(&mut self, now: Instant, generation: u32, candidates: Candidates) -> bool {
        let is_older = |known: u32| generation.wrapping_sub(known) > u32::MAX / 2;
        if self.theirs.as_ref().is_some_and(|(known, _)| is_older(*known)) {
            return false;
        }
        self.theirs = Some((generation, candidates));
        self.pair_up(now);
        true
    }

    /// Introducers and relays said where the peer may be reached: replaces what they said before.
    pub(crate) fn set_named(&mut self, candidates: Vec<Candidate>) {
        self.renamed |= self.named != candidates;
        self.named = candidates;
    }

    /// The configuration says where the peer is.
    pub(crate) fn configure(&mut self, now: Instant, remote: SocketAddr) {
        self.configured = Some(remote);
        self.pair_up(now);
    }

    /// What the peer said of itself last, and which word of its own that was.
    pub(crate) fn theirs_of(&self) -> Option<(u32, Candidates)> {
        self.theirs.clone()
    }

    /// What the peer said of itself.
    pub(crate) fn theirs(&self) -> Option<&Candidates> {
        self.theirs.as_ref().map(|(_, theirs)| theirs)
    }

    /// Makes pairs of all candidates, and forgets those that nobody vouches for any more.
    fn pair_up(&mut self, now: Instant) {
        self.renamed = false;
        let of_peer = self.theirs.iter().flat_map(|(_, theirs)| &theirs.list);
        // What a peer says is no promise of a relay's: only those that were allocated are.
        let of_peer = of_peer.filter(|candidate| candidate.kind != CandidateKind::Relayed);
        let configured = self.configured.map(|address| Candidate { kind: CandidateKind::Configured, address });
        let all: Vec<Candidate> = self.named.iter().chain(of_peer).copied().chain(configured).collect();
        for pair in &mut self.pairs {
            pair.told = all.iter().any(|candidate| candidate.address == pair.remote);
        }
        let before = self.pairs.len();
        // An allocation that is over leads nowhere.
        self.pairs.retain(|pair| pair.told || pair.kind != CandidateKind::Relayed);
        self.places_changed |= self.pairs.len() != before;
        for candidate in all {
            for local in self.locals_for(candidate.address) {
                self.ensure(now, candidate.address, local, candidate.kind);
            }
        }
        self.tidy();
    }

    /// The addresses of ours that a place is tried from: all of its family where there are several.
    fn locals_for(&self, remote: SocketAddr) -> Vec<Option<IpAddr>> {
        let of_family = self.terms.locals.iter().filter(|local| local.is_ipv4() == remote.is_ipv4());
        let locals: Vec<Option<IpAddr>> = of_family.map(|local| Some(*local)).take(LOCALS_MAX).collect();
        if locals.len() > 1 { locals } else { vec![None] }
    }

    /// Whether the terms allow a place of this kind.
    fn allows(&self, kind: CandidateKind) -> bool {
        self.terms.direct || kind == CandidateKind::Relayed
    }

    /// The pair of these places, made when there is none; `None` when there are too many.
    fn ensure(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
        kind: CandidateKind,
    ) -> Option<usize> {
        let exactly = self.pairs.iter().position(|pair| pair.remote == remote && pair.local == local);
        let about = || self.pairs.iter().position(|pair| pair.matches(remote, local));
        if let Some(at) = exactly.or_else(about) {
            self.pairs[at].is_also(kind);
            return Some(at);
        }
        if kind == CandidateKind::PeerReflexive {
            let is_reflexive = |pair: &&Pair| pair.kind == kind && pair.proven.is_none();
            if self.pairs.iter().filter(is_reflexive).count() >= REFLEXIVE_MAX {
                let oldest = self.pairs.iter().position(|pair| is_reflexive(&pair) && !self.is_in_use(pair));
                self.pairs.remove(oldest?);
            }
        }
        if self.pairs.len() >= PAIRS_MAX {
            let worst = self.pairs.iter().position(|pair| pair.proven.is_none() && !pair.told && !self.is_in_use(pair));
            self.pairs.remove(worst?);
        }
        let mut pair = Pair::new(remote, local, kind);
        pair.told = kind != CandidateKind::PeerReflexive;
        if self.allows(kind) {
            pair.begin(now);
        }
        self.pairs.push(pair);
        Some(self.pairs.len() - 1)
    }

    /// Forgets pairs that nobody vouches for, that are no paths, and that were checked.
    fn tidy(&mut self) {
        let in_use = self.in_use;
        self.pairs.retain(|pair| {
            let is_done = pair.checks >= FIRST_CHECKS || pair.due.is_none();
            let is_checked = pair.heard.is_some() && !is_done;
            pair.told || pair.answered.is_some() || is_checked || in_use == Some((pair.remote, pair.local))
        });
    }

    fn is_in_use(&self, pair: &Pair) -> bool {
        self.in_use == Some((pair.remote, pair.local))
    }

    /// The pair in use.
    fn current(&self) -> Option<usize> {
        let (remote, local) = self.in_use?;
        self.pairs.iter().position(|pair| pair.remote == remote && pair.local == local)
    }

    /// The peer is reached at this place from here on. True when that is another pair than before.
    pub(crate) fn moved(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
        kind: CandidateKind,
        reason: PathReason,
    ) -> bool {
        let before = self.current();
        let of_family = self.terms.locals.iter().filter(|ip| ip.is_ipv4() == remote.is_ipv4()).count();
        // With one address of ours it makes no difference which one is named, unless pairs of former ones are still there.
        let is_pair = self.pairs.iter().any(|pair| pair.remote == remote && pair.local == local);
        let named = local.filter(|_| of_family > 1 || is_pair);
        let Some(at) = self.ensure(now, remote, named, kind) else { return false };
        if local.is_some() {
            self.pairs[at].seen_local = local;
        }
        self.in_use = Some((self.pairs[at].remote, self.pairs[at].local));
        if before == Some(at) {
            return false;
        }
        self.since = Some((now, reason));
        self.changes += 1;
        self.places_changed = true;
        for (other, pair) in self.pairs.iter_mut().enumerate() {
            pair.faster = 0;
            if other != at {
                pair.mtu.rest();
            }
        }
        let pair = &mut self.pairs[at];
        if pair.proven.is_some() {
            // It may not be what it was when it was last seen.
            pair.hurry(now);
            pair.mtu.begin(now, self.terms.mtu_max);
        } else if self.terms.direct || pair.kind == CandidateKind::Relayed {
            pair.begin(now);
        }
        true
    }

    /// Keeps an answer back. False when there are too many, or it is too long.
    pub(crate) fn answer_late(
        &mut self,
        now: Instant,
        request: u32,
        delay: Duration,
        (remote, local): (SocketAddr, Option<IpAddr>),
    ) -> bool {
        if self.late.len() >= LATE_MAX || delay > LATE_AT_MOST {
            return false;
        }
        self.late.push(Late { due: now + delay, request, remote, local });
        true
    }

    /// Paths beside the one in use: packets from there are no roaming, and counted under these numbers. `None` when they
    /// are as they were.
    pub(crate) fn places(&mut self) -> Option<Vec<(SocketAddr, Option<IpAddr>, u8)>> {
        if !std::mem::take(&mut self.places_changed) {
            return None;
        }
        let current = self.current();
        for pair in self.pairs.iter_mut().filter(|pair| pair.proven.is_none()) {
            pair.place = None;
        }
        let mut taken: Vec<u8> = self.pairs.iter().filter_map(|pair| pair.place).collect();
        for pair in self.pairs.iter_mut().filter(|pair| pair.proven.is_some() && pair.place.is_none()) {
            pair.place = (0..PLACES as u8).find(|place| !taken.contains(place));
            taken.extend(pair.place);
        }
        let beside = self.pairs.iter().enumerate().filter(|(at, _)| current != Some(*at));
        Some(beside.filter_map(|(_, pair)| Some((pair.remote, pair.local, SPREAD_SLOTS as u8 + pair.place?))).collect())
    }

    /// The peer has forgotten everything, and says again where it may be reached.
    pub(crate) fn restarted(&mut self, now: Instant) {
        (self.theirs, self.confirmed) = (None, 0);
        self.late.clear();
        self.resume(now);
    }

    /// A place is one of the peer's source ports, and no path of its own.
    pub(crate) fn is_port(&mut self, remote: SocketAddr) {
        let in_use = self.in_use;
        let before = self.pairs.len();
        self.pairs.retain(|pair| pair.remote != remote || pair.told || in_use == Some((pair.remote, pair.local)));
        self.places_changed |= self.pairs.len() != before;
    }

    /// There is a session again: what was a path may be none.
    pub(crate) fn resume(&mut self, now: Instant) {
        self.unheard = None;
        if let Some(current) = self.current() {
            let pair = &mut self.pairs[current];
            match pair.proven {
                Some(_) => pair.hurry(now),
                None => pair.begin(now),
            }
        }
    }

    /// Whether a place is a relay's port.
    pub(crate) fn is_relayed(&self, remote: SocketAddr) -> bool {
        self.pairs.iter().any(|pair| pair.remote == remote && pair.kind == CandidateKind::Relayed)
    }

    /// The path in use, for events.
    pub(crate) fn in_use(&self) -> Option<PathView> {
        self.current().map(|at| self.pairs[at].view(true))
    }

    /// Whether the path in use is proven.
    pub(crate) fn is_proven(&self) -> bool {
        self.current().is_some_and(|at| self.pairs[at].proven.is_some())
    }

    /// The largest inner packet that the path in use carries in one piece.
    pub(crate) fn inner_mtu(&self) -> Option<u16> {
        let pair = &self.pairs[self.current()?];
        let sealed = 32;
        Some(pair.mtu.known()? - mtu::headers_len(pair.remote.ip()) - sealed)
    }

    pub(crate) fn view(&self) -> PathsView {
        let candidate = |candidate: &Candidate| {
            let states = self.pairs.iter().filter(|pair| pair.remote == candidate.address).map(Pair::state);
            let best = states.min_by_key(|state| match state {
                CandidateState::Proven => 0,
                CandidateState::Checking => 1,
                CandidateState::Failed => 2,
                CandidateState::Known => 3,
            });
            CandidateView { candidate: *candidate, state: best.unwrap_or(CandidateState::Known) }
        };
        let mut candidates: Vec<CandidateView> =
            self.theirs.iter().flat_map(|(_, theirs)| theirs.list.iter().map(candidate)).collect();
        for pair in &self.pairs {
            if !candidates.iter().any(|view| view.candidate.address == pair.remote) {
                candidates.push(candidate(&Candidate { kind: pair.kind, address: pair.remote }));
            }
        }
        let paths = self.pairs.iter().filter(|pair| pair.proven.is_some());
        PathsView {
            in_use: self.in_use(),
            since: self.since,
            changes: self.changes,
            paths: paths.map(|pair| pair.view(self.is_in_use(pair))).collect(),
            candidates,
            nat: self.theirs().map(|theirs| theirs.nat).unwrap_or_default(),
            ..PathsView::default()
        }
    }
}
