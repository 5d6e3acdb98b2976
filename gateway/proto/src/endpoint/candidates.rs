//! Candidates of both sides: ours are told to peers that take part, theirs are taken less what is refused.
//!
//! Enters: what the control task gathered, and what peers say. Leaves: messages, and candidates for the paths of a peer.
//! Never does: try a place.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Endpoint;
use crate::candidate::{CANDIDATES_MAX, Candidate, Nat, Refused, refusal};
use crate::channel::Said;
use crate::channel::message::{Body, Candidates, Message};
use crate::{DropReason, PeerId};

impl Endpoint {
    /// Where this gateway may be reached, and the NAT that it is behind: replaces what was said before. Peers are told when
    /// it changed. Of more than [`CANDIDATES_MAX`] the first ones are taken.
    pub fn set_local_candidates(&mut self, now: Instant, candidates: &[Candidate], nat: Nat) {
        let mut list: Vec<Candidate> = Vec::with_capacity(CANDIDATES_MAX);
        for candidate in candidates {
            if list.len() < CANDIDATES_MAX && !list.contains(candidate) {
                list.push(*candidate);
            }
        }
        let candidates = Candidates::new(nat, &list);
        if self.place.generation > 0 && self.place.candidates == candidates {
            return;
        }
        self.place.candidates = candidates;
        let ids: Vec<PeerId> = self.peers.ids().collect();
        for id in ids {
            self.change_terms(id, now);
        }
        self.tell_candidates(now);
    }

    /// Where this gateway may be reached, as it was last set.
    #[must_use]
    pub fn local_candidates(&self) -> (&[Candidate], Nat) {
        (&self.place.candidates.list, self.place.candidates.nat)
    }

    /// The addresses of our interfaces: candidates of peers that are among them are refused.
    pub fn set_own_addresses(&mut self, addresses: &[IpAddr]) {
        self.place.own = addresses.to_vec();
    }

    /// Of which families this host has an address, IPv4 and IPv6: places of peers in another one are not tried, and are again
    /// when that changes. At first it is taken to have both.
    pub fn set_families(&mut self, now: Instant, families: [bool; 2]) {
        let lacks = families.map(|has| !has);
        if std::mem::replace(&mut self.place.lacks, lacks) == lacks {
            return;
        }
        let ids: Vec<PeerId> = self.peers.ids().collect();
        for id in ids {
            self.sort_candidates_again(id, now);
        }
    }

    fn lacks_family_of(&self, place: SocketAddr) -> bool {
        self.place.lacks[usize::from(place.is_ipv6())]
    }

    /// What a peer said last, with what was refused for want of a route, is looked at anew.
    fn sort_candidates_again(&mut self, id: PeerId, now: Instant) {
        let Some((generation, known)) = self.paths_mut(id).and_then(|paths| paths.theirs_of()) else { return };
        let refused = self.place.refused.remove(&id).unwrap_or_default();
        let (waiting, other): (Vec<_>, Vec<_>) = refused.into_iter().partition(|(_, why)| *why == Refused::NoRoute);
        let mut candidates = known.clone();
        candidates.list.extend(waiting.into_iter().map(|(candidate, _)| candidate));
        candidates.list.truncate(CANDIDATES_MAX);
        let counted = self.channel_counters.candidates_refused;
        self.refuse_candidates(id, &mut candidates);
        self.channel_counters.candidates_refused = counted;
        if !other.is_empty() {
            self.place.refused.entry(id).or_default().extend(other);
        }
        if candidates != known
            && let Some(paths) = self.paths_mut(id)
        {
            paths.hear_candidates(now, generation, candidates);
            self.run_paths(id, now);
        }
    }

    pub(super) fn tell_candidates(&mut self, now: Instant) {
        self.place.generation = self.place.generation.wrapping_add(1).max(1);
        let ids: Vec<PeerId> = self.peers.ids().collect();
        for id in ids {
            self.tell_candidates_to(now, id);
        }
        self.meeting_news(now);
    }

    /// Tells a peer that takes part where we may be reached, unless it has confirmed that it knows.
    pub(super) fn tell_candidates_to(&mut self, now: Instant, id: PeerId) {
        let generation = self.place.generation;
        let Some(paths) = self.peers.get(id).and_then(|peer| peer.paths.as_ref()) else { return };
        if generation == 0 || paths.confirmed == generation {
            return;
        }
        let candidates = match self.is_direct(id) {
            true => self.place.candidates.clone(),
            false => Candidates::default(),
        };
        if let Some(channel) = self.channel_mut(id) {
            let is_said =
                |said: &Said| matches!(said.message.body, Body::Candidates { generation: g, .. } if g == generation);
            if channel.retries.waits(is_said) {
                return;
            }
            channel.retries.forget(|said| matches!(said.message.body, Body::Candidates { .. }));
        }
        self.ask(now, id, Body::Candidates { generation, candidates });
    }

    /// What the peer may know of us is another thing.
    pub(super) fn tell_candidates_again(&mut self, id: PeerId, now: Instant) {
        if let Some(paths) = self.paths_mut(id) {
            paths.confirmed = 0;
            self.tell_candidates_to(now, id);
        }
    }

    pub(super) fn hear_candidates_answer(&mut self, id: PeerId, request: u32) -> Result<(), DropReason> {
        if self.channel_mut(id).is_some_and(|channel| channel.retries.was_answered(request)) {
            return Ok(());
        }
        let Body::Candidates { generation, .. } = self.take_request(id, request)? else {
            return Err(DropReason::ChannelUnexpected);
        };
        // The answer to what was said before may come last.
        if let Some(paths) = self.paths_mut(id)
            && generation.wrapping_sub(paths.confirmed) <= u32::MAX / 2
        {
            paths.confirmed = generation;
        }
        Ok(())
    }

    /// The peer said where it may be reached. What is refused of it is counted, the rest is taken.
    pub(super) fn hear_candidates(
        &mut self,
        id: PeerId,
        now: Instant,
        request: u32,
        generation: u32,
        mut candidates: Candidates,
    ) -> Result<(), DropReason> {
        let refused = self.refuse_candidates(id, &mut candidates);
        let paths = self.paths_mut(id).ok_or(DropReason::ChannelUnexpected)?;
        if !paths.hear_candidates(now, generation, candidates) {
            return Err(DropReason::ChannelStale);
        }
        self.spray_soon(id, now);
        self.say(id, Said::to_endpoint(Message { request, body: Body::CandidatesAnswer }));
        self.run_paths(id, now);
        if refused > 0 { Err(DropReason::CandidateRefused) } else { Ok(()) }
    }

    /// Takes out what is never tried, and keeps it to be shown; returns how many of them no honest gateway names. Many a one
    /// has an address inside its own allowed IPs, or one that others have as well.
    pub(super) fn refuse_candidates(&mut self, id: PeerId, candidates: &mut Candidates) -> usize {
        let mut refused = Vec::new();
        candidates.list.retain(|candidate| {
            let lacks_route = self.lacks_family_of(candidate.address).then_some(Refused::NoRoute);
            let why = refusal(candidate.address, &self.place.own, &self.allowed_ips).or(lacks_route);
            refused.extend(why.map(|why| (*candidate, why)));
            why.is_none()
        });
        let is_odd =
            |(_, why): &&(Candidate, Refused)| !matches!(why, Refused::Ours | Refused::InTunnel | Refused::NoRoute);
        let odd = refused.iter().filter(is_odd).count();
        // That we have no way there says nothing about the peer.
        let wrong = refused.iter().filter(|(_, why)| *why != Refused::NoRoute).count();
        self.channel_counters.candidates_refused += wrong as u64;
        match refused.len() {
            0 => self.place.refused.remove(&id),
            _ => self.place.refused.insert(id, refused),
        };
        odd
    }
}
