//! The texts of a group of packets, cut for a Poly1305 that works on them side by side.
//!
//! Enters: packets of any lengths. Leaves: where each step of each lane begins, and which steps are full in all
//! lanes. Never does: read a text.
//!
//! Blocks are aligned at the end: the last step of every lane is its packet's last one, and a shorter packet begins
//! later, after steps of nothing, which leave an accumulator of zero as it is. The block with the length comes behind
//! the steps.

use crate::TAG_LEN;
use crate::multibuffer::Lane;
use crate::schedule::BLOCK;

/// Poly1305 blocks in one step.
pub(crate) const STEP: usize = BLOCK / TAG_LEN;

/// Texts in `N` lanes.
pub(crate) struct Texts<const N: usize> {
    /// Where step 0 would begin.
    start: [*const u8; N],
    pub(crate) lens: [u64; N],
    pub(crate) steps: usize,
    /// The first steps, in which some lane has less than four blocks.
    pub(crate) ragged: usize,
    /// From this step on, some lane's last block is not full.
    pub(crate) whole: usize,
    /// Blocks at the start of step 0 that no lane has.
    pub(crate) absent: usize,
}

const fn blocks_of(len: usize) -> usize {
    len.div_ceil(TAG_LEN)
}

impl<const N: usize> Texts<N> {
    /// Texts whose steps are counted as if `longest` were among them. `lanes` are not empty; lanes without a packet
    /// repeat the first one.
    #[inline]
    pub(crate) fn new(lanes: &[Lane], longest: usize) -> Self {
        let steps = longest.div_ceil(BLOCK);
        let mut texts = Self {
            start: [core::ptr::null(); N],
            lens: [0; N],
            steps,
            ragged: 0,
            whole: steps,
            absent: steps * STEP - blocks_of(longest),
        };
        for i in 0..N {
            let lane = lanes[if i < lanes.len() { i } else { 0 }];
            texts.lens[i] = lane.len as u64;
            texts.start[i] =
                lane.text.wrapping_add(blocks_of(lane.len) * TAG_LEN).wrapping_sub(steps * BLOCK).cast_const();
            texts.ragged = texts.ragged.max(steps - blocks_of(lane.len) / STEP);
            if !lane.len.is_multiple_of(TAG_LEN) {
                texts.whole = steps - 1;
            }
        }
        texts
    }

    /// Whether every lane has four full blocks in a step.
    #[inline(always)]
    pub(crate) fn is_whole(&self, step: usize) -> bool {
        step >= self.ragged && step < self.whole
    }

    /// Where a lane's step begins.
    #[inline(always)]
    pub(crate) fn at(&self, lane: usize, step: usize) -> *const u8 {
        self.start[lane].wrapping_add(step * BLOCK)
    }

    /// Which of a lane's 64 bytes in a step are text: from, to.
    #[inline(always)]
    pub(crate) fn bytes(&self, lane: usize, step: usize) -> (usize, usize) {
        // Bytes from this step's start to the end of the packet's last block.
        let ahead = (self.steps - step) * BLOCK;
        let len = self.lens[lane] as usize;
        let whole = blocks_of(len) * TAG_LEN;
        (ahead.saturating_sub(whole).min(BLOCK), (len + ahead).saturating_sub(whole).min(BLOCK))
    }

    /// Bytes behind the end of block `index` of a step: the packets with more than these have the block.
    #[inline(always)]
    pub(crate) fn behind(&self, step: usize, index: usize) -> u64 {
        (((self.steps - step) * STEP - index - 1) * TAG_LEN) as u64
    }
}
