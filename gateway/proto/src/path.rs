//! The ways to one peer: which there may be, which are proven, and which is in use.
//!
//! Enters: candidates of both sides, probes and their answers, what lanes saw, time. Leaves: probes to send, the path to
//! take, and why. Never does: send, read a clock, or take a path that no authentic answer has proven.

pub(crate) mod view;

pub use view::{CandidateState, CandidateView, PathReason, PathView, PathsView, Tier};

use crate::candidate::Candidate;
use crate::channel::message::Candidates;

/// The ways to one peer.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// What the peer said of itself, and in which generation.
    theirs: Option<(u32, Candidates)>,
    /// What others than the peer say: introducers, and relays (of kind relayed).
    named: Vec<Candidate>,
}

impl Paths {
    /// The peer said where it may be reached, without what is refused of it. False when it has said something later.
    pub(crate) fn hear_candidates(&mut self, generation: u32, candidates: Candidates) -> bool {
        let is_older = |known: u32| generation.wrapping_sub(known) > u32::MAX / 2;
        if self.theirs.as_ref().is_some_and(|(known, _)| is_older(*known)) {
            return false;
        }
        self.theirs = Some((generation, candidates));
        true
    }

    /// Introducers and relays said where the peer may be reached: replaces what they said before.
    pub(crate) fn set_named(&mut self, candidates: Vec<Candidate>) {
        self.named = candidates;
    }

    pub(crate) fn view(&self) -> PathsView {
        let state = |candidate: &Candidate| CandidateView { candidate: *candidate, state: CandidateState::Known };
        PathsView {
            candidates: self.theirs.iter().flat_map(|(_, theirs)| &theirs.list).chain(&self.named).map(state).collect(),
            nat: self.theirs.as_ref().map(|(_, theirs)| theirs.nat).unwrap_or_default(),
            ..PathsView::default()
        }
    }
}
