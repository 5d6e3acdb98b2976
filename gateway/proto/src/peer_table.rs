//! All peers: by slot, by key, and in the order in which they were added.

use std::collections::{BTreeMap, HashMap};

use crate::peer::Peer;
use crate::tuning::PEERS_MAX;
use crate::{KEY_LEN, PeerId};

#[derive(Default)]
struct Slot {
    generation: u32,
    peer: Option<Box<Peer>>,
    /// Key in `order`.
    added: u64,
}

#[derive(Default)]
pub(crate) struct PeerTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Never iterated, so its order is nobody's concern.
    by_key: HashMap<[u8; KEY_LEN], u32>,
    order: BTreeMap<u64, PeerId>,
    added: u64,
}

impl PeerTable {
    /// Makes a peer in a free slot; `None` when there are too many.
    pub(crate) fn add(&mut self, public_key: [u8; KEY_LEN], make: impl FnOnce(PeerId) -> Peer) -> Option<PeerId> {
        if self.by_key.len() >= PEERS_MAX {
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        place.added = self.added;
        let id = PeerId { slot, generation: place.generation };
        place.peer = Some(Box::new(make(id)));
        self.by_key.insert(public_key, slot);
        self.order.insert(self.added, id);
        self.added += 1;
        Some(id)
    }

    pub(crate) fn remove(&mut self, id: PeerId) {
        if self.get(id).is_none() {
            return;
        }
        let place = &mut self.slots[id.slot as usize];
        if let Some(peer) = place.peer.take() {
            self.by_key.remove(&peer.public_key);
            self.order.remove(&place.added);
            self.free.push(id.slot);
        }
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Peer> {
        let peer = self.slots.get(id.slot as usize)?.peer.as_deref()?;
        (peer.id == id).then_some(peer)
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let peer = self.slots.get_mut(id.slot as usize)?.peer.as_deref_mut()?;
        (peer.id == id).then_some(peer)
    }

    /// The peer of a slot, of whichever generation.
    pub(crate) fn at_slot(&self, slot: u32) -> Option<PeerId> {
        self.slots.get(slot as usize)?.peer.as_ref().map(|peer| peer.id)
    }

    pub(crate) fn by_key(&self, public_key: &[u8; KEY_LEN]) -> Option<PeerId> {
        self.at_slot(*self.by_key.get(public_key)?)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.order.values().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}
