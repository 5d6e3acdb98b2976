//! Poly1305 (RFC 8439, section 2.5), one packet in each 64-bit lane, four blocks at a time.
//!
//! Enters: one-time keys and texts of up to eight packets. Leaves: tags, in registers. Never does: write to a packet.

use core::arch::x86_64::*;

use super::transpose::transpose_8;
use super::{BLOCK, LANES, Lane, byte_mask};
use crate::TAG_LEN;

const MASK_44: i64 = (1 << 44) - 1;
const MASK_42: i64 = (1 << 42) - 1;
/// Bit 128 of a block, in its top limb.
const TOP_BIT: i64 = 1 << 40;
/// Blocks that one step absorbs: a register's worth of text.
const STEP: usize = BLOCK / TAG_LEN;

/// The one-time keys of eight packets, as 64-bit words by columns.
#[derive(Clone, Copy)]
pub(super) struct OneTimeKeys {
    r: [__m512i; 2],
    pad: [__m512i; 2],
}

impl OneTimeKeys {
    /// From the first eight words of ChaCha20's block 0, by columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(words: [__m256i; 8]) -> Self {
        let join = |low, high| {
            _mm512_or_si512(_mm512_cvtepu32_epi64(low), _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(high)))
        };
        let [w0, w1, w2, w3, w4, w5, w6, w7] = words;
        Self { r: [join(w0, w1), join(w2, w3)], pad: [join(w4, w5), join(w6, w7)] }
    }
}

/// A number modulo 2^130 - 5 in each lane, as limbs of 44, 44 and 42 bits.
type Number = [__m512i; 3];

/// A number to multiply with: its limbs, and 20 times its two upper ones.
#[derive(Clone, Copy)]
struct Factor {
    r: Number,
    s: [__m512i; 2],
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(r: Number) -> Self {
        let times_20 = |limb| _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb));
        Self { r, s: [times_20(r[1]), times_20(r[2])] }
    }
}

/// A sum of products, before carries: low and high halves apart.
#[derive(Clone, Copy)]
struct Sum {
    low: Number,
    high: Number,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Self {
        Self { low: [_mm512_setzero_si512(); 3], high: [_mm512_setzero_si512(); 3] }
    }

    /// Adds `a * factor`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add_product(&mut self, a: Number, factor: &Factor) {
        let ([r0, r1, r2], [s1, s2]) = (factor.r, factor.s);
        let rows = [[r0, r1, r2], [s2, r0, r1], [s1, s2, r0]];
        for (a, row) in a.into_iter().zip(rows) {
            for (i, r) in row.into_iter().enumerate() {
                self.low[i] = _mm512_madd52lo_epu64(self.low[i], a, r);
                self.high[i] = _mm512_madd52hi_epu64(self.high[i], a, r);
            }
        }
    }

    /// Carries, and folds what lies above 2^130.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn carried(self) -> Number {
        let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44), _mm512_set1_epi64(MASK_42));
        let ([d0, d1, d2], [e0, e1, e2]) = (self.low, self.high);
        // A high half counts 2^52: that is 2^8 of the next 44-bit limb, or 2^10 behind 42 bits.
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<8>(e0), _mm512_srli_epi64::<44>(d0));
        let (d0, d1) = (_mm512_and_si512(d0, mask_44), _mm512_add_epi64(d1, carry));
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<8>(e1), _mm512_srli_epi64::<44>(d1));
        let (d1, d2) = (_mm512_and_si512(d1, mask_44), _mm512_add_epi64(d2, carry));
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<10>(e2), _mm512_srli_epi64::<42>(d2));
        let d2 = _mm512_and_si512(d2, mask_42);
        let d0 = _mm512_add_epi64(d0, _mm512_add_epi64(carry, _mm512_slli_epi64::<2>(carry)));
        [_mm512_and_si512(d0, mask_44), _mm512_add_epi64(d1, _mm512_srli_epi64::<44>(d0)), d2]
    }
}

/// 128 bits as limbs, without bit 128.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn limbs(low: __m512i, high: __m512i) -> Number {
    let mask_44 = _mm512_set1_epi64(MASK_44);
    [
        _mm512_and_si512(low, mask_44),
        _mm512_and_si512(_mm512_shrdi_epi64::<44>(low, high), mask_44),
        _mm512_srli_epi64::<24>(high),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sum(a: Number, b: Number) -> Number {
    [_mm512_add_epi64(a[0], b[0]), _mm512_add_epi64(a[1], b[1]), _mm512_add_epi64(a[2], b[2])]
}

/// Eight texts, their blocks aligned at the end: the last step of every lane is its packet's last one, and a shorter packet
/// begins later.
struct Texts {
    /// Where step 0 would begin.
    start: [*const u8; LANES],
    lens: [usize; LANES],
    /// Blocks of each packet, the one with its length included.
    blocks: __m512i,
    len: __m512i,
    steps: usize,
    /// Steps at the start in which some lane has less than four blocks.
    ragged: usize,
}

impl Texts {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(lanes: &[Lane]) -> Self {
        let mut texts = Self {
            start: [core::ptr::null(); LANES],
            lens: [0; LANES],
            blocks: _mm512_setzero_si512(),
            len: _mm512_setzero_si512(),
            steps: 0,
            ragged: 0,
        };
        let blocks_of = |lane: &Lane| lane.len.div_ceil(TAG_LEN) + 1;
        let most = lanes.iter().map(blocks_of).max().unwrap_or(1);
        let fewest = lanes.iter().map(blocks_of).min().unwrap_or(1);
        texts.steps = most.div_ceil(STEP);
        texts.ragged = texts.steps - fewest / STEP;
        let mut blocks = [0_u64; LANES];
        let mut lens = [0_u64; LANES];
        for i in 0..LANES {
            // Lanes without a packet repeat the first one; their result is not looked at.
            let lane = lanes.get(i).unwrap_or(&lanes[0]);
            blocks[i] = blocks_of(lane) as u64;
            lens[i] = lane.len as u64;
            texts.lens[i] = lane.len;
            texts.start[i] =
                lane.text.wrapping_add(blocks_of(lane) * TAG_LEN).wrapping_sub(texts.steps * BLOCK).cast_const();
        }
        // SAFETY: each array is the size of a register.
        let load = |words: &[u64; LANES]| unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        (texts.blocks, texts.len) = (load(&blocks), load(&lens));
        texts
    }

    /// The words of a step in which every lane has four blocks of text, by columns.
    ///
    /// # Safety
    /// `step` is neither ragged nor the last.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn whole(&self, step: usize) -> [__m512i; LANES] {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (row, start) in rows.iter_mut().zip(&self.start) {
            // SAFETY: all 64 bytes lie in the packet's text.
            *row = unsafe { _mm512_loadu_si512(start.wrapping_add(step * BLOCK).cast()) };
        }
        transpose_8(&rows)
    }

    /// The words of any step, by columns: zeros before a packet's first byte and behind its last one, its length in the last
    /// block.
    ///
    /// # Safety
    /// The texts may be read.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn part(&self, step: usize) -> [__m512i; LANES] {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            let blocks = self.lens[i].div_ceil(TAG_LEN) + 1;
            // Bytes from the packet's end, its length block included, back to this step's start; the packet's own.
            let (back, whole) = ((self.steps - step) * BLOCK, blocks * TAG_LEN);
            let before = byte_mask(back.saturating_sub(whole));
            let within = byte_mask((self.lens[i] + back).saturating_sub(whole));
            let at = self.start[i].wrapping_add(step * BLOCK);
            // SAFETY: masked-off bytes are not read; the others lie in the packet's text.
            *row = unsafe { _mm512_maskz_loadu_epi8(within & !before, at.cast()) };
        }
        let mut columns = transpose_8(&rows);
        if step + 1 == self.steps {
            // 64 zero bits (no associated data) and the length of the text.
            columns[LANES - 1] = self.len;
        }
        columns
    }

    /// Bit 128 of block `index` of a step, in the lanes that have it.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn top_bit(&self, step: usize, index: usize) -> __m512i {
        let behind = (self.steps - step) * STEP - index;
        let there = _mm512_cmpge_epi64_mask(self.blocks, _mm512_set1_epi64(behind as i64));
        _mm512_maskz_set1_epi64(there, TOP_BIT)
    }
}

/// The tags of up to eight packets, as 64-bit words by columns.
///
/// # Safety
/// `lanes` is not empty; its texts may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
pub(super) unsafe fn tags(keys: &OneTimeKeys, lanes: &[Lane]) -> [__m512i; 2] {
    // The clamp of RFC 8439, section 2.5.
    let r = limbs(
        _mm512_and_si512(keys.r[0], _mm512_set1_epi64(0x0fff_fffc_0fff_ffff)),
        _mm512_and_si512(keys.r[1], _mm512_set1_epi64(0x0fff_fffc_0fff_fffc)),
    );
    let texts = Texts::new(lanes);
    // SAFETY: the caller vouches for the texts.
    let h = if texts.steps < POWERS_PAY {
        unsafe { absorb_singly(&Factor::new(r), &texts) }
    } else {
        unsafe { absorb_by_four(r, &texts) }
    };
    finish(h, keys.pad)
}

/// Steps from which on it pays to compute powers of r.
const POWERS_PAY: usize = 4;

/// Block by block: `h = (h + block) * r`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn absorb_singly(r: &Factor, texts: &Texts) -> Number {
    let mut h = [_mm512_setzero_si512(); 3];
    for step in 0..texts.steps {
        // SAFETY: the caller vouches for the texts.
        let columns = unsafe { texts.part(step) };
        for block in 0..STEP {
            let mut m = limbs(columns[2 * block], columns[2 * block + 1]);
            m[2] = _mm512_or_si512(m[2], texts.top_bit(step, block));
            let mut product = Sum::zero();
            product.add_product(sum(h, m), r);
            h = product.carried();
        }
    }
    h
}

/// Four blocks at a time: `h = (h + m0) * r^4 + m1 * r^3 + m2 * r^2 + m3 * r`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn absorb_by_four(r: Number, texts: &Texts) -> Number {
    let r1 = Factor::new(r);
    let times = |a: Number, factor: &Factor| {
        let mut product = Sum::zero();
        product.add_product(a, factor);
        product.carried()
    };
    let r2 = Factor::new(times(r, &r1));
    let r3 = Factor::new(times(r2.r, &r1));
    let r4 = Factor::new(times(r2.r, &r2));
    let factors = [&r4, &r3, &r2, &r1];
    let top = _mm512_set1_epi64(TOP_BIT);
    let mut h = [_mm512_setzero_si512(); 3];
    for step in 0..texts.steps {
        let mut m = [[_mm512_setzero_si512(); 3]; STEP];
        if step < texts.ragged || step + 1 == texts.steps {
            // SAFETY: the caller vouches for the texts.
            let columns = unsafe { texts.part(step) };
            for (block, m) in m.iter_mut().enumerate() {
                *m = limbs(columns[2 * block], columns[2 * block + 1]);
                m[2] = _mm512_or_si512(m[2], texts.top_bit(step, block));
            }
        } else {
            // SAFETY: as above; the step is neither ragged nor the last.
            let columns = unsafe { texts.whole(step) };
            for (block, m) in m.iter_mut().enumerate() {
                *m = limbs(columns[2 * block], columns[2 * block + 1]);
                m[2] = _mm512_or_si512(m[2], top);
            }
        }
        // The product that waits for the step before comes last.
        let mut products = Sum::zero();
        for block in (1..STEP).rev() {
            products.add_product(m[block], factors[block]);
        }
        products.add_product(sum(h, m[0]), factors[0]);
        h = products.carried();
    }
    h
}

/// Reduces fully, and adds the second half of each key.
#[inline]
#[target_feature(enable = "avx512f")]
fn finish(h: Number, pad: [__m512i; 2]) -> [__m512i; 2] {
    let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44), _mm512_set1_epi64(MASK_42));
    let add = |a, b| _mm512_add_epi64(a, b);
    let [mut h0, mut h1, mut h2] = h;
    for _ in 0..2 {
        h2 = add(h2, _mm512_srli_epi64::<44>(h1));
        h1 = _mm512_and_si512(h1, mask_44);
        let fold = _mm512_srli_epi64::<42>(h2);
        h2 = _mm512_and_si512(h2, mask_42);
        h0 = add(h0, add(fold, _mm512_slli_epi64::<2>(fold)));
        h1 = add(h1, _mm512_srli_epi64::<44>(h0));
        h0 = _mm512_and_si512(h0, mask_44);
    }
    h2 = add(h2, _mm512_srli_epi64::<44>(h1));
    h1 = _mm512_and_si512(h1, mask_44);
    // h + 5 - 2^130: where that does not borrow, h was at least p and this is its remainder.
    let g0 = add(h0, _mm512_set1_epi64(5));
    let g1 = add(h1, _mm512_srli_epi64::<44>(g0));
    let g2 = _mm512_sub_epi64(add(h2, _mm512_srli_epi64::<44>(g1)), _mm512_set1_epi64(1 << 42));
    let keep = _mm512_srai_epi64::<63>(g2);
    let pick = |h, g| _mm512_or_si512(_mm512_and_si512(h, keep), _mm512_andnot_si512(keep, g));
    h0 = pick(h0, _mm512_and_si512(g0, mask_44));
    h1 = pick(h1, _mm512_and_si512(g1, mask_44));
    h2 = pick(h2, g2);
    let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
    let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
    let low = add(low, pad[0]);
    // An unsigned sum that is below one of its summands has wrapped.
    let carry = _mm512_cmplt_epu64_mask(low, pad[0]);
    [low, add(add(high, pad[1]), _mm512_maskz_set1_epi64(carry, 1))]
}
