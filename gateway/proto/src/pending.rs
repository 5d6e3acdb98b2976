//! Packets that wait for a handshake, bounded per peer and in sum.

use std::collections::{BTreeMap, VecDeque};

use crate::PeerId;

/// Bounded first-in first-out queues, one per peer, with one bound on their sum.
#[derive(Debug)]
pub struct Pending<T> {
    queues: BTreeMap<PeerId, VecDeque<T>>,
    len: usize,
    per_peer: usize,
    total: usize,
}

impl<T> Pending<T> {
    /// At most `per_peer` items for one peer and `total` in sum.
    #[must_use]
    pub fn new(per_peer: usize, total: usize) -> Self {
        Self { queues: BTreeMap::new(), len: 0, per_peer, total }
    }

    /// Adds an item; returns the one that had to go instead: the peer's own oldest when the peer's queue or the
    /// sum is full (or the item itself when the peer has none).
    #[must_use]
    pub fn push(&mut self, peer: PeerId, item: T) -> Option<T> {
        let waiting = self.queues.get(&peer).map_or(0, VecDeque::len);
        if waiting < self.per_peer && self.len < self.total {
            self.queues.entry(peer).or_default().push_back(item);
            self.len += 1;
            return None;
        }
        match self.queues.get_mut(&peer) {
            Some(queue) => {
                queue.push_back(item);
                queue.pop_front()
            }
            None => Some(item),
        }
    }

    /// Takes the oldest item of a peer.
    pub fn pop(&mut self, peer: PeerId) -> Option<T> {
        let queue = self.queues.get_mut(&peer)?;
        let item = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() {
            self.queues.remove(&peer);
        }
        Some(item)
    }

    /// Peers for which something waits.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.queues.keys().copied()
    }

    /// How many items wait in sum.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId { slot: 0, generation: 1 };
    const B: PeerId = PeerId { slot: 1, generation: 1 };

    #[test]
    fn a_full_queue_gives_up_its_own_oldest() {
        let mut pending = Pending::new(2, 3);
        assert_eq!(pending.push(A, 1), None);
        assert_eq!(pending.push(A, 2), None);
        assert_eq!(pending.push(A, 3), Some(1));
        assert_eq!(pending.push(B, 4), None);
        assert_eq!(pending.push(B, 5), Some(4), "the sum is full");
        assert_eq!(pending.len(), 3);
        assert_eq!(pending.peers().collect::<Vec<_>>(), [A, B]);
        assert_eq!((pending.pop(A), pending.pop(A), pending.pop(A)), (Some(2), Some(3), None));
        assert_eq!((pending.pop(B), pending.pop(B)), (Some(5), None));
        assert!(pending.is_empty() && pending.peers().next().is_none());
    }

    #[test]
    fn a_peer_without_items_cannot_push_others_out() {
        let mut pending = Pending::new(4, 1);
        assert_eq!(pending.push(A, 1), None);
        assert_eq!(pending.push(B, 2), Some(2));
        assert_eq!(pending.pop(A), Some(1));
        let mut none = Pending::new(0, 10);
        assert_eq!(none.push(A, 7), Some(7));
        assert!(none.is_empty());
    }
}
