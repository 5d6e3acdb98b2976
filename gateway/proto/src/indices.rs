//! Receiver indices: who listens on which (paper, section 5.4).

use std::collections::HashMap;

use rand::RngCore;

use crate::{PeerId, ReceiverIndex};

/// What an index belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// An initiation of ours that waits for its response.
    Handshake,
    /// A session.
    Session,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    index: ReceiverIndex,
    peer: PeerId,
    used_for: Use,
}

/// The indices in use, by slot. Never iterated, so its order is nobody's concern.
#[derive(Debug, Default)]
pub(crate) struct Indices {
    by_slot: HashMap<u32, Entry>,
}

impl Indices {
    /// A random index whose slot is free.
    pub(crate) fn allocate(&mut self, rng: &mut impl RngCore, peer: PeerId, used_for: Use) -> ReceiverIndex {
        // At most half of all slots are ever in use (`tuning::PEERS_MAX`), so this ends after two draws in the mean.
        loop {
            let index = ReceiverIndex(rng.next_u32());
            let slot = index.slot() as u32;
            if let std::collections::hash_map::Entry::Vacant(vacant) = self.by_slot.entry(slot) {
                vacant.insert(Entry { index, peer, used_for });
                return index;
            }
        }
    }

    pub(crate) fn find(&self, index: ReceiverIndex) -> Option<(PeerId, Use)> {
        let entry = self.by_slot.get(&(index.slot() as u32))?;
        (entry.index == index).then_some((entry.peer, entry.used_for))
    }

    /// The handshake of this index has become a session.
    pub(crate) fn promote(&mut self, index: ReceiverIndex) {
        if let Some(entry) = self.by_slot.get_mut(&(index.slot() as u32)) {
            entry.used_for = Use::Session;
        }
    }

    pub(crate) fn free(&mut self, index: ReceiverIndex) {
        self.by_slot.remove(&(index.slot() as u32));
    }

    pub(crate) fn len(&self) -> usize {
        self.by_slot.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    #[test]
    fn half_of_all_slots_are_handed_out_without_a_collision() {
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let mut indices = Indices::default();
        let peer = PeerId { slot: 3, generation: 9 };
        let all: Vec<_> =
            (0..ReceiverIndex::SLOTS / 2).map(|_| indices.allocate(&mut rng, peer, Use::Handshake)).collect();
        assert_eq!(all.iter().map(|i| i.slot()).collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(indices.find(all[5]), Some((peer, Use::Handshake)));
        let stale = ReceiverIndex(all[5].0 ^ 1 << 31);
        assert_eq!(indices.find(stale), None, "the random bits count");
        indices.promote(all[5]);
        assert_eq!(indices.find(all[5]), Some((peer, Use::Session)));
        indices.free(all[5]);
        assert_eq!(indices.find(all[5]), None);
        assert_eq!(indices.len(), all.len() - 1);
    }
}
