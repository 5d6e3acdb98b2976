//! Packets that wait for others which continue them, so that super-packets do not end where bursts do.
//!
//! Enters: bursts of inner packets. Leaves: what [`super::join`] makes of them, in few writes. Never does: hold a packet
//! beyond the flush that ends a turn.

use std::io::IoSlice;

use arrayvec::ArrayVec;
use landbridge_xsk::{Burst, Frame, Pool};

use super::join::{Joined, Joiner, Offloads, PACKETS, WriteOutcome};

/// Packets to write, and the joiner that does.
#[derive(Debug)]
pub(super) struct Holder {
    joiner: Joiner,
    held: ArrayVec<Frame, PACKETS>,
    /// So many of the first of them are one super-packet so far.
    known: usize,
}

impl Holder {
    pub(super) fn new() -> Self {
        Self { joiner: Joiner::new(), held: ArrayVec::new(), known: 0 }
    }

    /// Moves packets from the front of a burst to those held. When that leaves some in the burst, those held have to be
    /// written first.
    pub(super) fn take(&mut self, burst: &mut Burst) {
        let room = self.held.remaining_capacity().min(burst.len());
        self.held.extend(burst.drain(..room));
    }

    /// Writes what is held; all of it, or all but what further packets may continue.
    pub(super) fn write(
        &mut self,
        all: bool,
        offloads: Offloads,
        pool: &mut Pool,
        write: &mut impl FnMut(&[IoSlice<'_>], usize) -> WriteOutcome,
    ) -> Joined {
        if self.held.is_empty() {
            return Joined::default();
        }
        let joined = match all {
            true => self.joiner.join_rest(&mut self.held, self.known, offloads, write),
            false => self.joiner.join_complete(&mut self.held, self.known, offloads, write),
        };
        // Those that are left move to the front, in their order.
        self.known = 0;
        for i in 0..self.held.len() {
            if self.joiner.leaves(i) {
                self.held.swap(self.known, i);
                self.known += 1;
            }
        }
        self.held.drain(self.known..).for_each(|frame| pool.put(frame));
        joined
    }

    /// Brings every frame home.
    pub(super) fn close(&mut self, pool: &mut Pool) {
        for frame in self.held.drain(..) {
            pool.put(frame);
        }
        self.known = 0;
    }
}
