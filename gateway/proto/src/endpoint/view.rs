//! What is shown of the ways to a peer.
//!
//! Enters: nothing. Leaves: views, gathered from paths, introducers and relays. Never does: change anything.

use super::Endpoint;
use crate::PeerId;
use crate::path::{CandidateState, CandidateView, PathsView};

impl Endpoint {
    /// The ways to a peer that takes part in proving them, or that somebody else said takes part.
    pub(super) fn view_paths(&self, id: PeerId) -> Option<PathsView> {
        let peer = self.peers.get(id)?;
        let places = self.places_of(id);
        let mut view = match &peer.paths {
            Some(paths) => paths.view(),
            None if places.is_empty() => return None,
            None => PathsView::default(),
        };
        let is_sent_to = self.meeting.punches.contains_key(&id);
        let state = if is_sent_to { CandidateState::Checking } else { CandidateState::Known };
        for candidate in places {
            if view.candidates.iter().all(|known| known.candidate.address != candidate.address) {
                view.candidates.push(CandidateView { candidate, state });
            }
        }
        view.keepalive = self.binding_interval(id);
        view.refused = self.place.refused.get(&id).cloned().unwrap_or_default();
        self.complete_view(id, &mut view);
        Some(view)
    }
}
