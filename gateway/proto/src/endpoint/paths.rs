//! Paths among everything else that an endpoint does: candidates of both sides, and which place a peer is reached at.

use std::net::IpAddr;
use std::time::Instant;

use rand::RngCore;

use super::{Endpoint, NatConfig};
use crate::candidate::{CANDIDATES_MAX, Candidate, Nat, refusal};
use crate::channel::Said;
use crate::channel::message::{Body, Candidates, Features, Message};
use crate::path::Paths;
use crate::{DropReason, PeerId};

/// What is the same for all peers.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) config: NatConfig,
    /// Addresses of our interfaces, sorted.
    pub(super) own: Vec<IpAddr>,
    /// Where we may be reached.
    pub(super) candidates: Candidates,
    /// Grows with every change of them; 0 before the first.
    pub(super) generation: u32,
}

impl Endpoint {
    /// What this gateway does about NATs.
    pub fn set_nat_config(&mut self, now: Instant, config: NatConfig) {
        let direct = std::mem::replace(&mut self.place.config, config).direct;
        if direct != config.direct {
            self.tell_candidates(now);
            let ids: Vec<PeerId> = self.peers.ids().collect();
            for id in ids {
                self.meeting_terms(now, id);
            }
        }
    }

    /// What this gateway does about NATs.
    #[must_use]
    pub const fn nat_config(&self) -> NatConfig {
        self.place.config
    }

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

    fn tell_candidates(&mut self, now: Instant) {
        self.place.generation = self.place.generation.wrapping_add(1).max(1);
        let ids: Vec<PeerId> = self.peers.ids().collect();
        for id in ids {
            self.tell_candidates_to(now, id);
        }
        self.meeting_news(now);
    }

    /// Tells a peer that takes part where we may be reached.
    fn tell_candidates_to(&mut self, now: Instant, id: PeerId) {
        let generation = self.place.generation;
        if generation == 0 || self.peers.get(id).is_none_or(|peer| peer.paths.is_none()) {
            return;
        }
        let candidates = match self.is_direct(id) {
            true => self.place.candidates.clone(),
            false => Candidates::default(),
        };
        if let Some(channel) = self.channel_mut(id) {
            channel.retries.forget(|said| matches!(said.message.body, Body::Candidates { .. }));
        }
        self.ask(now, id, Body::Candidates { generation, candidates });
    }

    /// Whether the peer may see where we are, and be reached where it is.
    pub(super) fn is_direct(&self, id: PeerId) -> bool {
        self.peers.get(id).and_then(|peer| peer.direct).unwrap_or(self.place.config.direct)
    }

    /// The peer said what it can do.
    pub(super) fn paths_hello(&mut self, now: Instant, id: PeerId, features: Features, restarted: bool) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if !features.contains(Features::PATHS) {
            peer.paths = None;
            return;
        }
        let is_news = peer.paths.is_none() || restarted;
        if is_news {
            peer.paths = Some(Box::new(Paths::default()));
            self.name_places(id);
            self.tell_candidates_to(now, id);
        }
    }

    /// The peer said where it may be reached. What is refused of it is counted, the rest is taken.
    pub(super) fn hear_candidates(
        &mut self,
        id: PeerId,
        request: u32,
        generation: u32,
        mut candidates: Candidates,
    ) -> Result<(), DropReason> {
        let said = candidates.list.len();
        candidates.list.retain(|candidate| refusal(candidate.address, &self.place.own, &self.allowed_ips).is_none());
        let refused = said - candidates.list.len();
        self.channel_counters.candidates_refused += refused as u64;
        let paths = self.peers.get_mut(id).and_then(|peer| peer.paths.as_mut()).ok_or(DropReason::ChannelUnexpected)?;
        if !paths.hear_candidates(generation, candidates) {
            return Err(DropReason::ChannelStale);
        }
        self.say(id, Said::to_endpoint(Message { request, body: Body::CandidatesAnswer }));
        if refused > 0 { Err(DropReason::CandidateRefused) } else { Ok(()) }
    }

    /// Says something that is answered, again and again until it is.
    pub(super) fn ask(&mut self, now: Instant, id: PeerId, body: Body) {
        let said = Said::to_endpoint(Message { request: self.rng.next_u32(), body });
        if let Some(channel) = self.channel_mut(id) {
            channel.retries.add(now, said.clone());
            self.say(id, said);
            self.arm_channel(id, now);
        }
    }

    /// The request of ours that an answer belongs to.
    pub(super) fn take_request(&mut self, id: PeerId, request: u32) -> Result<Body, DropReason> {
        let said = self.channel_mut(id).and_then(|channel| channel.retries.answered(request));
        said.map(|said| said.message.body).ok_or(DropReason::ChannelUnexpected)
    }
}
