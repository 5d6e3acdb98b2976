//! Which block of which packet each of the sixteen ChaCha20 lanes computes.
//!
//! Enters: a batch of packets, longest first. Leaves: sixteen places at a time, until every block of every packet
//! had its turn. Never does: leave a lane empty but in the last round, whatever the lengths are.
//!
//! The order is by block, then by packet: block 0 of all packets, block 1 of those that have one, and so on; so packets of
//! equal length advance side by side. Lengths and counters are public: all of this may branch on them.

use core::arch::x86_64::*;

use super::{BATCH, BLOCK, Lane};

/// ChaCha20 blocks computed at once.
pub(super) const ABREAST: usize = 16;

/// What the sixteen lanes compute in one round.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// ChaCha20 block numbers.
    pub(super) block: __m512i,
    /// The packets' counters, low and high words.
    pub(super) counter: [__m512i; 2],
    /// Lanes in use, from the first one on.
    pub(super) count: usize,
    /// Lanes whose packet ends before the block does, bit by bit.
    partial: u16,
    /// The block numbers again, and the packets' indices in the batch.
    blocks: [u32; ABREAST],
    packets: [u8; ABREAST],
}

impl Places {
    /// Whether all lanes are in use, each for 64 bytes.
    #[inline(always)]
    pub(super) fn are_whole(&self) -> bool {
        self.count == ABREAST && self.partial == 0
    }

    /// Index of a lane's packet, and offset of the lane's block in the packet's text.
    #[inline(always)]
    pub(super) fn text(&self, lane: usize) -> (usize, usize) {
        // Block 0 is the one-time key, so the text begins with block 1.
        (usize::from(self.packets[lane]), (self.blocks[lane] as usize).wrapping_sub(1).wrapping_mul(BLOCK))
    }
}

/// The rounds that remain of a batch.
pub(super) struct Schedule<'a> {
    lanes: &'a [Lane],
    lens: __m512i,
    counter: [__m512i; 2],
    next_block: u32,
    /// Packets that have block `next_block`: the first so many.
    width: usize,
    /// Places that are laid out; what lies behind `filled` is meaningless.
    packets: [u8; 2 * ABREAST],
    blocks: [u32; 2 * ABREAST],
    filled: usize,
}

impl<'a> Schedule<'a> {
    /// A schedule of all blocks from `first_block` on. `lanes` are sorted by length, longest first.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(lanes: &'a [Lane], first_block: u32) -> Self {
        debug_assert!(lanes.is_sorted_by_key(|lane| core::cmp::Reverse(lane.len)));
        let mut table = [[0_u32; BATCH]; 3];
        for (i, lane) in lanes.iter().enumerate() {
            table[0][i] = lane.len as u32;
            table[1][i] = lane.counter as u32;
            table[2][i] = (lane.counter >> 32) as u32;
        }
        let mut registers = [_mm512_setzero_si512(); 3];
        for (register, row) in registers.iter_mut().zip(&table) {
            // SAFETY: a row of the table is the size of a register.
            *register = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
        }
        let [lens, low, high] = registers;
        let mut schedule = Self {
            lanes,
            lens,
            counter: [low, high],
            next_block: first_block,
            width: lanes.len(),
            packets: [0; 2 * ABREAST],
            blocks: [0; 2 * ABREAST],
            filled: 0,
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn take(&mut self) -> Places {
        while self.filled < ABREAST && self.width > 0 {
            let row = self.filled..self.filled + ABREAST;
            // A whole register's worth each time; the next row overwrites what lies behind `width`.
            self.packets[row.clone()].copy_from_slice(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
            self.blocks[row].fill(self.next_block);
            self.filled += self.width;
            self.next_block += 1;
            self.narrow();
        }
        let mut packets = [0; ABREAST];
        packets.copy_from_slice(&self.packets[..ABREAST]);
        let mut blocks = [0; ABREAST];
        blocks.copy_from_slice(&self.blocks[..ABREAST]);
        self.packets.copy_within(ABREAST.., 0);
        self.blocks.copy_within(ABREAST.., 0);
        let count = self.filled.min(ABREAST);
        self.filled -= count;

        // SAFETY: the arrays are the size of the registers.
        let (packet, block) = unsafe {
            (_mm512_cvtepu8_epi32(_mm_loadu_si128(packets.as_ptr().cast())), _mm512_loadu_si512(blocks.as_ptr().cast()))
        };
        // A block lies inside its packet where 64 * block <= len.
        let end = _mm512_slli_epi32::<6>(block);
        let partial = _mm512_cmpgt_epu32_mask(end, _mm512_permutexvar_epi32(packet, self.lens));
        let [low, high] = self.counter;
        let counter = [_mm512_permutexvar_epi32(packet, low), _mm512_permutexvar_epi32(packet, high)];
        Places { block, counter, count, partial, blocks, packets }
    }
}
