//! Packets that wait for a handshake, bounded per peer and in sum.

use crate::PeerId;

/// Bounded first-in first-out queues, one per peer, with one bound on their sum.
#[derive(Debug)]
pub struct Pending<T> {
    _items: Vec<T>,
}

impl<T> Pending<T> {
    /// At most `per_peer` items for one peer and `total` in sum.
    #[must_use]
    pub fn new(_per_peer: usize, _total: usize) -> Self {
        panic!("stub")
    }

    /// Adds an item; returns the one that had to go instead: the peer's own oldest when the peer's queue or the
    /// sum is full (or the item itself when the peer has none).
    #[must_use]
    pub fn push(&mut self, _peer: PeerId, _item: T) -> Option<T> {
        panic!("stub")
    }

    /// Takes the oldest item of a peer.
    pub fn pop(&mut self, _peer: PeerId) -> Option<T> {
        panic!("stub")
    }

    /// Peers for which something waits.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        std::iter::empty()
    }

    /// How many items wait in sum.
    #[must_use]
    pub fn len(&self) -> usize {
        panic!("stub")
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        panic!("stub")
    }
}
