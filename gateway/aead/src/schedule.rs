//! Which block of which packet each ChaCha20 lane of an engine computes.
//!
//! Enters: a batch of packets, longest first. Leaves: `N` places at a time, until every block of every packet
//! had its turn. Never does: leave a lane empty but in the last round, whatever the lengths are.
//!
//! The order is by block, then by packet: block 0 of all packets, block 1 of those that have one, and so on; so
//! packets of equal length advance side by side. Lengths and counters are public: all of this may branch on them.

use crate::multibuffer::Lane;

/// Bytes of a ChaCha20 block.
pub(crate) const BLOCK: usize = 64;

/// What the lanes compute in one round.
#[derive(Clone, Copy)]
pub(crate) struct Places<const N: usize> {
    /// ChaCha20 block numbers.
    pub(crate) blocks: [u32; N],
    /// The packets' indices in the batch.
    pub(crate) packets: [u8; N],
    /// Lanes in use, from the first one on.
    pub(crate) count: usize,
    /// Whether some packet may end before the block that its lane computes.
    partial: bool,
}

impl<const N: usize> Places<N> {
    /// Whether all lanes are in use, each for 64 bytes of text.
    #[inline(always)]
    pub(crate) fn are_whole(&self) -> bool {
        self.count == N && !self.partial
    }

    /// Index of a lane's packet, and offset of the lane's block in the packet's text.
    #[inline(always)]
    pub(crate) fn text(&self, lane: usize) -> (usize, usize) {
        // Block 0 is the one-time key, so the text begins with block 1.
        (usize::from(self.packets[lane]), (self.blocks[lane] as usize).wrapping_sub(1).wrapping_mul(BLOCK))
    }
}

/// The rounds that remain of a batch of up to `N` packets. `M` is twice `N`.
pub(crate) struct Schedule<'a, const N: usize, const M: usize> {
    lanes: &'a [Lane],
    next_block: u32,
    /// Packets that have block `next_block`: the first so many.
    width: usize,
    /// Places that are laid out; what lies behind `filled` is meaningless.
    packets: [u8; M],
    blocks: [u32; M],
    filled: usize,
    /// Whether the row laid out last has a packet that ends in its block.
    partial: bool,
}

impl<'a, const N: usize, const M: usize> Schedule<'a, N, M> {
    /// A schedule of all blocks from `first_block` on. `lanes` are sorted by length, longest first.
    #[inline]
    pub(crate) fn new(lanes: &'a [Lane], first_block: u32) -> Self {
        const { assert!(M == 2 * N && N <= 16) };
        debug_assert!(lanes.is_sorted_by_key(|lane| core::cmp::Reverse(lane.len)));
        let mut schedule = Self {
            lanes,
            next_block: first_block,
            width: lanes.len(),
            packets: [0; M],
            blocks: [0; M],
            filled: 0,
            partial: false,
        };
        schedule.narrow();
        schedule
    }

    /// Drops the packets that have no block `next_block`.
    #[inline(always)]
    fn narrow(&mut self) {
        while self.width > 0 && self.lanes[self.width - 1].len.div_ceil(BLOCK) < self.next_block as usize {
            self.width -= 1;
        }
    }

    /// The next round; none of its places is in use when all is done.
    #[inline]
    pub(crate) fn take(&mut self) -> Places<N> {
        const IN_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let mut partial = self.filled > 0 && self.partial;
        while self.filled < N && self.width > 0 {
            let row = self.filled..self.filled + N;
            // A whole register's worth each time; the next row overwrites what lies behind `width`.
            self.packets[row.clone()].copy_from_slice(&IN_ORDER[..N]);
            self.blocks[row].fill(self.next_block);
            self.filled += self.width;
            self.partial = self.lanes[self.width - 1].len < BLOCK * self.next_block as usize;
            partial |= self.partial;
            self.next_block += 1;
            self.narrow();
        }
        let count = self.filled.min(N);
        let mut places = Places { blocks: [0; N], packets: [0; N], count, partial };
        places.packets.copy_from_slice(&self.packets[..N]);
        places.blocks.copy_from_slice(&self.blocks[..N]);
        self.packets.copy_within(N.., 0);
        self.blocks.copy_within(N.., 0);
        self.filled -= count;
        places
    }
}
