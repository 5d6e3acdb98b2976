//! What was heard of paths: packets, handshakes, probes and the answers to ours.
//!
//! Enters: the place and the way by which something authentic came, counts of lanes, answers. Leaves: marks on pairs, and
//! whether the peer is to be reached elsewhere from here on. Never does: take what comes by an unproven place for a proof
//! where a proven path is alive.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::pair::FIRST_CHECKS;
use super::run::Flight;
use super::{CHECK_AGAIN, FRESH, PEER_LEFT, Paths, Tier, Via, What};
use crate::DropReason;
use crate::candidate::CandidateKind;
use crate::channel::SPREAD_SLOTS;

impl Paths {
    /// Something authentic came from a place. True when the peer is to be reached there from here on.
    pub(crate) fn arrived(&mut self, now: Instant, remote: SocketAddr, local: Option<IpAddr>, via: Via) -> bool {
        let known = self.pairs.iter().position(|pair| pair.matches(remote, local));
        if known.is_none() && !self.allows(CandidateKind::PeerReflexive) {
            // Relays only: but a peer that is not reached over one yet must be reached somehow.
            let over_relay = self.current().is_some_and(|at| self.pairs[at].tier == Tier::Relayed);
            return via != Via::Probe && !over_relay;
        }
        let several = self.locals_for(remote).len() > 1;
        let named = local.filter(|_| several);
        let Some(at) = known.or_else(|| self.ensure(now, remote, named, CandidateKind::PeerReflexive)) else {
            return false;
        };
        let may_check = self.allows(self.pairs[at].kind);
        let pair = &mut self.pairs[at];
        pair.heard = Some(now);
        let before = pair.seen_local;
        pair.seen_local = local.or(before);
        let Some(current) = self.current() else { return via != Via::Probe };
        if at == current {
            self.unheard = None;
            if self.pairs[at].proven.is_none() && may_check && via != Via::Probe {
                self.check_again(now, at, via);
            }
            // It reaches us at another address of ours: its NAT may let in nothing but answers from there.
            let pair = &self.pairs[at];
            return via != Via::Probe && pair.local.is_none() && before != pair.seen_local;
        }
        let (proven, tier) = (self.pairs[at].proven.is_some(), self.pairs[at].tier);
        if !proven && may_check {
            self.check_again(now, at, via);
        }
        let pair = &self.pairs[current];
        if via == Via::Probe || pair.is_fresh(now, FRESH) && pair.doubted.is_none() {
            if via == Via::Data && !pair.is_fresh(now, PEER_LEFT) {
                self.probe_soon(now, current);
            }
            return false;
        }
        let is_silent = via == Via::Response && !pair.is_fresh(now, FRESH * 10);
        if pair.proven.is_none() || is_silent || !proven && tier <= pair.tier {
            return true;
        }
        self.probe_soon(now, current);
        false
    }

    /// A pair by which the peer was heard is checked at once, unless that has just been done.
    fn check_again(&mut self, now: Instant, at: usize, via: Via) {
        let pair = &mut self.pairs[at];
        let spacing = match pair.checks {
            0..FIRST_CHECKS => CHECK_AGAIN[0],
            // Its own checks are as seldom as ours.
            _ if pair.answered.is_some() || via == Via::Probe => CHECK_AGAIN[1],
            _ => CHECK_AGAIN[2],
        };
        if pair.checked.is_none_or(|checked| now.saturating_duration_since(checked) >= spacing) {
            pair.hurry(now);
            pair.checks = pair.checks.min(FIRST_CHECKS - 1);
        }
    }

    /// The path in use is probed at once.
    pub(crate) fn look_again(&mut self, now: Instant) {
        if let Some(current) = self.current() {
            self.probe_soon(now, current);
        }
    }

    /// A pair that was checked in vain is checked at once: its peer was heard just there.
    pub(crate) fn check_soon(&mut self, now: Instant, remote: SocketAddr) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.remote == remote && pair.proven.is_none()) {
            pair.hurry(now);
            pair.checks = pair.checks.min(FIRST_CHECKS - 1);
        }
    }

    /// The path in use is probed at once: the peer seems to be elsewhere.
    fn probe_soon(&mut self, now: Instant, current: usize) {
        let pair = &mut self.pairs[current];
        if pair.proven.is_some() && pair.unanswered == 0 {
            pair.hurry(now);
        }
    }

    /// What lanes saw: when data was last sent and received, and how many packets came by the path in use and by the places
    /// beside it (`received`, by the numbers that [`Paths::places`] gives).
    pub(crate) fn traffic(
        &mut self,
        now: Instant,
        sent: Option<Instant>,
        heard: Option<Instant>,
        received: impl Fn(usize) -> u64,
    ) {
        self.active = sent.max(heard);
        let is_data = self.watch.hears(heard);
        let here: u64 = (0..SPREAD_SLOTS).map(&received).sum();
        let current = self.current();
        let by_current = here.wrapping_sub(std::mem::replace(&mut self.counted, here));
        let came = by_current != 0;
        if came && let Some(current) = current {
            self.hear_current(now, current, is_data);
        }
        let heard = current.and_then(|current| self.pairs[current].heard);
        if self.unheard.is_none() && sent > heard {
            self.unheard = self.watch.silent_since(sent, heard);
        }
        self.watch.sends(now, sent);
        let (mut elsewhere, mut most) = (false, (by_current, None));
        for (at, pair) in self.pairs.iter_mut().enumerate() {
            let Some(place) = pair.place else { continue };
            let count = received(SPREAD_SLOTS + usize::from(place));
            let by_this = count.wrapping_sub(std::mem::replace(&mut pair.counted, count));
            if by_this != 0 && current != Some(at) {
                pair.heard = Some(now);
                elsewhere = true;
                if by_this > most.0 {
                    most = (by_this, Some((pair.remote, pair.local)));
                }
            }
        }
        if is_data && most.0 > 0 {
            self.watch.notes_way(now, most.1);
        }
        if elsewhere
            && let Some(current) = current
            && !self.pairs[current].is_fresh(now, PEER_LEFT)
        {
            self.probe_soon(now, current);
        }
        self.looked(now, came || elsewhere);
    }

    fn hear_current(&mut self, now: Instant, current: usize, is_data: bool) {
        let pair = &mut self.pairs[current];
        pair.heard = Some(now);
        if pair.unanswered == 0 {
            self.unheard = None;
        } else if is_data {
            // As good as an answer. Probes of the peer are not: they say nothing of the way there.
            pair.relieve(now);
            pair.wait_for_more(now);
            self.unheard = None;
        }
        if pair.proven.is_none() && self.allows(self.pairs[current].kind) {
            self.check_again(now, current, Via::Data);
        }
    }

    /// An answer to a probe of ours came from a place.
    ///
    /// # Errors
    /// Nothing was asked, or not there.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        request: u32,
        remote: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<(), DropReason> {
        let is_it = |flight: &Flight| flight.request == request && flight.remote == remote;
        let place = self.flights.iter().position(is_it).ok_or(DropReason::ChannelUnexpected)?;
        let flight = self.flights.swap_remove(place);
        let current = self.current();
        let mtu_max = self.terms.mtu_max;
        let at = self.pairs.iter().position(|pair| flight.is_of(pair)).ok_or(DropReason::ChannelUnexpected)?;
        let pair = &mut self.pairs[at];
        pair.seen_local = local.or(pair.seen_local);
        if current == Some(at) {
            self.unheard = None;
        }
        if let What::Mtu(size) = flight.what {
            pair.heard = Some(now);
            pair.mtu.answer(now, size);
            return Ok(());
        }
        let is_news = pair.answer(now, now.saturating_duration_since(flight.sent));
        if is_news {
            self.places_changed = true;
            if current == Some(at) {
                self.pairs[at].mtu.begin(now, mtu_max);
            }
        }
        self.compare(current, at);
        Ok(())
    }
}
