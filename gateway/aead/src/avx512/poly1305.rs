//! Poly1305 (RFC 8439, section 2.5), one packet per 64-bit lane, in two groups of eight whose dependency
//! chains are independent.
//!
//! Enters: one-time keys and texts. Leaves: tags. Never does: write to a packet.
//!
//! Limbs are 44, 44 and 42 bits, and 2^130 = 5 folds the top: with
//! 2^132 = 20 (mod p), `s1 = 20*r1`, `s2 = 20*r2`,
//!
//! ```text
//! d0 = h0*r0 + h1*s2 + h2*s1      d1 = h0*r1 + h1*r0 + h2*s2      d2 = h0*r2 + h1*r1 + h2*r0
//! ```
//!
//! Bounds, before each multiplication: h0 < 2^45, h1 < 2^45 + 2^8, h2 < 2^43 (a reduced limb plus a
//! message limb); r0, r1 < 2^44, r2 < 2^42, s1 < 2^48.4, s2 < 2^46.4. All factors are below 2^52, which
//! is what VPMADD52 reads. Each `d` is kept as low halves (three summands below 2^52) and high halves
//! (below 2^41), so no 64-bit lane overflows; the carry chain at the end of [`Group::absorb`] brings
//! h0 below 2^44, h1 below 2^44 + 2^7 and h2 below 2^42 again.

use core::arch::x86_64::*;

use zeroize::Zeroize;

use super::transpose::transpose_8;
use super::{BATCH, BLOCK, LANES, Lane, byte_mask};
use crate::TAG_LEN;

const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;

/// Eight Poly1305 computations, one in each 64-bit lane.
#[derive(Clone, Copy)]
struct Group {
    r: [__m512i; 3],
    s: [__m512i; 2],
    h: [__m512i; 3],
    /// Text bytes of each packet.
    len: __m512i,
    /// Blocks of each packet, the one with its length included.
    blocks: __m512i,
}

impl Group {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(keys: &[[u8; BLOCK]], lanes: &[Lane]) -> Self {
        let mut limbs = [[0_u64; LANES]; 5];
        let mut sizes = [[0_u64; LANES]; 2];
        for i in 0..LANES {
            // Lanes without a packet repeat the first one; their result is not looked at.
            let at = if i < lanes.len() { i } else { 0 };
            let word = |from: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&keys[at][from..from + 8]);
                u64::from_le_bytes(bytes)
            };
            // The clamp of RFC 8439, section 2.5.
            let (low, high) = (word(0) & 0x0fff_fffc_0fff_ffff, word(8) & 0x0fff_fffc_0fff_fffc);
            limbs[0][i] = low & MASK_44;
            limbs[1][i] = ((low >> 44) | (high << 20)) & MASK_44;
            limbs[2][i] = high >> 24;
            limbs[3][i] = limbs[1][i] * 20;
            limbs[4][i] = limbs[2][i] * 20;
            sizes[0][i] = lanes[at].len as u64;
            sizes[1][i] = lanes[at].len.div_ceil(16) as u64 + 1;
        }
        // SAFETY: each array is the size of a register.
        let load = |words: &[u64; LANES]| unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        let group = Self {
            r: [load(&limbs[0]), load(&limbs[1]), load(&limbs[2])],
            s: [load(&limbs[3]), load(&limbs[4])],
            h: [_mm512_setzero_si512(); 3],
            len: load(&sizes[0]),
            blocks: load(&sizes[1]),
        };
        limbs.as_flattened_mut().zeroize();
        group
    }

    /// Adds one block of 16 bytes per lane and multiplies.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn absorb(&mut self, low: __m512i, high: __m512i) {
        let zero = _mm512_setzero_si512();
        let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44 as i64), _mm512_set1_epi64(MASK_42 as i64));
        // Every block is padded to 16 bytes, so every one carries bit 128: bit 40 of the top limb.
        let top_bit = _mm512_set1_epi64(1 << 40);
        let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
        let h0 = _mm512_add_epi64(self.h[0], _mm512_and_si512(low, mask_44));
        let h1 = _mm512_add_epi64(self.h[1], _mm512_and_si512(middle, mask_44));
        let h2 = _mm512_add_epi64(self.h[2], _mm512_or_si512(_mm512_srli_epi64::<24>(high), top_bit));
        let ([r0, r1, r2], [s1, s2]) = (self.r, self.s);

        // Two accumulators per half keep the chains of multiply-adds short.
        let d0 = _mm512_madd52lo_epu64(zero, h0, r0);
        let d1 = _mm512_madd52lo_epu64(zero, h0, r1);
        let d2 = _mm512_madd52lo_epu64(zero, h0, r2);
        let e0 = _mm512_madd52hi_epu64(zero, h0, r0);
        let e1 = _mm512_madd52hi_epu64(zero, h0, r1);
        let e2 = _mm512_madd52hi_epu64(zero, h0, r2);
        let f0 = _mm512_madd52lo_epu64(zero, h1, s2);
        let f1 = _mm512_madd52lo_epu64(zero, h1, r0);
        let f2 = _mm512_madd52lo_epu64(zero, h1, r1);
        let g0 = _mm512_madd52hi_epu64(zero, h1, s2);
        let g1 = _mm512_madd52hi_epu64(zero, h1, r0);
        let g2 = _mm512_madd52hi_epu64(zero, h1, r1);
        let d0 = _mm512_add_epi64(_mm512_madd52lo_epu64(d0, h2, s1), f0);
        let d1 = _mm512_add_epi64(_mm512_madd52lo_epu64(d1, h2, s2), f1);
        let d2 = _mm512_add_epi64(_mm512_madd52lo_epu64(d2, h2, r0), f2);
        let e0 = _mm512_add_epi64(_mm512_madd52hi_epu64(e0, h2, s1), g0);
        let e1 = _mm512_add_epi64(_mm512_madd52hi_epu64(e1, h2, s2), g1);
        let e2 = _mm512_add_epi64(_mm512_madd52hi_epu64(e2, h2, r0), g2);

        // Carries: a high half counts 2^52, that is 2^8 of the next 44-bit limb, or 2^10 behind 42 bits.
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<8>(e0), _mm512_srli_epi64::<44>(d0));
        let (d0, d1) = (_mm512_and_si512(d0, mask_44), _mm512_add_epi64(d1, carry));
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<8>(e1), _mm512_srli_epi64::<44>(d1));
        let (d1, d2) = (_mm512_and_si512(d1, mask_44), _mm512_add_epi64(d2, carry));
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<10>(e2), _mm512_srli_epi64::<42>(d2));
        let d2 = _mm512_and_si512(d2, mask_42);
        let d0 = _mm512_add_epi64(d0, _mm512_add_epi64(carry, _mm512_slli_epi64::<2>(carry)));
        self.h = [_mm512_and_si512(d0, mask_44), _mm512_add_epi64(d1, _mm512_srli_epi64::<44>(d0)), d2];
    }

    /// As [`Group::absorb`] for block number `step`, in which packets may end or have ended.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn absorb_last(&mut self, step: usize, low: __m512i, high: __m512i) {
        let this = _mm512_set1_epi64(step as i64);
        let next = _mm512_set1_epi64(step as i64 + 1);
        let running = _mm512_cmpgt_epi64_mask(self.blocks, this);
        // The last block is 64 zero bits (no associated data) and the length of the text.
        let closing = _mm512_cmpeq_epi64_mask(self.blocks, next);
        let high = _mm512_mask_mov_epi64(high, closing, self.len);
        let before = self.h;
        self.absorb(low, high);
        for (limb, before) in self.h.iter_mut().zip(before) {
            *limb = _mm512_mask_mov_epi64(before, running, *limb);
        }
    }

    /// Reduces fully, adds the second half of each key and writes the tags.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn finish(&self, keys: &[[u8; BLOCK]], tags: &mut [[u8; TAG_LEN]]) {
        let mut limbs = [[0_u64; LANES]; 3];
        for (words, register) in limbs.iter_mut().zip(self.h) {
            // SAFETY: each array is the size of a register.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) };
        }
        for (i, tag) in tags.iter_mut().enumerate() {
            let sum = reduce(limbs[0][i], limbs[1][i], limbs[2][i]);
            let mut pad = [0; 16];
            pad.copy_from_slice(&keys[i][16..32]);
            *tag = sum.wrapping_add(u128::from_le_bytes(pad)).to_le_bytes();
        }
        limbs.as_flattened_mut().zeroize();
    }
}

/// The value of three limbs modulo 2^130 - 5, its low 128 bits, without a branch.
#[inline]
fn reduce(mut h0: u64, mut h1: u64, mut h2: u64) -> u128 {
    for _ in 0..2 {
        h2 += h1 >> 44;
        h1 &= MASK_44;
        h0 += (h2 >> 42) * 5;
        h2 &= MASK_42;
        h1 += h0 >> 44;
        h0 &= MASK_44;
    }
    h2 += h1 >> 44;
    h1 &= MASK_44;
    // h + 5 - 2^130: where that does not borrow, h was at least p and this is its remainder.
    let g0 = h0 + 5;
    let g1 = h1 + (g0 >> 44);
    let g2 = (h2 + (g1 >> 44)).wrapping_sub(1 << 42);
    let keep_h = 0_u64.wrapping_sub(g2 >> 63);
    let pick = |h: u64, g: u64| (h & keep_h) | (g & !keep_h);
    let (h0, h1, h2) = (pick(h0, g0 & MASK_44), pick(h1, g1 & MASK_44), pick(h2, g2));
    u128::from(h0) | (u128::from(h1) << 44) | (u128::from(h2) << 88)
}

/// The tags of a batch.
///
/// # Safety
/// As for [`seal`], for reading alone.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) unsafe fn tags(keys: &[[u8; BLOCK]; BATCH], lanes: &[Lane]) -> [[u8; TAG_LEN]; BATCH] {
    let mut tags = [[0; TAG_LEN]; BATCH];
    let (first, second) = lanes.split_at(lanes.len().min(LANES));
    let mut a = Group::new(&keys[..LANES], first);
    if second.is_empty() {
        // SAFETY: the caller vouches for the lanes.
        unsafe { absorb_text([&mut a], [first]) };
    } else {
        let mut b = Group::new(&keys[LANES..], second);
        // SAFETY: as above.
        unsafe { absorb_text([&mut a, &mut b], [first, second]) };
        b.finish(&keys[LANES..], &mut tags[LANES..lanes.len()]);
    }
    a.finish(&keys[..LANES], &mut tags[..first.len()]);
    tags
}

/// Runs the text of one or two groups of packets through Poly1305, side by side.
///
/// # Safety
/// As for [`seal`], for reading alone; no group is empty.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
unsafe fn absorb_text<const G: usize>(groups: [&mut Group; G], lanes: [&[Lane]; G]) {
    let all = || lanes.iter().flat_map(|group| group.iter());
    let shortest = all().map(|lane| lane.len).min().unwrap_or(0);
    let longest = all().map(|lane| lane.len).max().unwrap_or(0);
    let steps = longest.div_ceil(16) + 1;
    let place = |group: usize, lane: usize| lanes[group][if lane < lanes[group].len() { lane } else { 0 }];
    let mut groups = groups;
    let mut offset = 0;
    while offset + BLOCK <= shortest {
        let mut columns = [[_mm512_setzero_si512(); LANES]; G];
        for (g, columns) in columns.iter_mut().enumerate() {
            let mut rows = [_mm512_setzero_si512(); LANES];
            for (i, row) in rows.iter_mut().enumerate() {
                // SAFETY: 64 bytes from `offset` on lie inside the shortest text.
                *row = unsafe { _mm512_loadu_si512(place(g, i).text.add(offset).cast()) };
            }
            *columns = transpose_8(&rows);
        }
        for block in 0..4 {
            for (group, columns) in groups.iter_mut().zip(&columns) {
                group.absorb(columns[2 * block], columns[2 * block + 1]);
            }
        }
        offset += BLOCK;
    }
    while offset / 16 < steps {
        for (g, group) in groups.iter_mut().enumerate() {
            let mut rows = [_mm512_setzero_si512(); LANES];
            for (i, row) in rows.iter_mut().enumerate() {
                let lane = place(g, i);
                let mask = byte_mask(lane.len.saturating_sub(offset));
                // SAFETY: masked-off bytes are not read; the others lie inside the text.
                *row = unsafe { _mm512_maskz_loadu_epi8(mask, lane.text.wrapping_add(offset).cast()) };
            }
            let columns = transpose_8(&rows);
            for block in 0..4.min(steps - offset / 16) {
                group.absorb_last(offset / 16 + block, columns[2 * block], columns[2 * block + 1]);
            }
        }
        offset += BLOCK;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limbs of a number of 130 bits, given as its top two bits and the other 128.
    fn limbs(top: u64, low: u128) -> (u64, u64, u64) {
        (low as u64 & MASK_44, (low >> 44) as u64 & MASK_44, (low >> 88) as u64 | top << 40)
    }

    #[test]
    fn reduction_is_right_around_the_prime_and_with_limbs_that_overflow() {
        // p = 2^130 - 5: top two bits 3, low 128 bits 2^128 - 5.
        for (top, low, expected) in [
            (0, 0, 0),
            (3, u128::MAX - 5, u128::MAX - 5),
            (3, u128::MAX - 4, 0),
            (3, u128::MAX - 3, 1),
            (3, u128::MAX, 4),
            (1, 7, 7),
        ] {
            let (h0, h1, h2) = limbs(top, low);
            assert_eq!(reduce(h0, h1, h2), expected, "top {top} low {low:x}");
        }
        // The same values with limb 1 beyond 44 bits, as the carry chain may leave it.
        let (h0, h1, h2) = limbs(2, 99);
        assert_eq!(reduce(h0, h1 + (1 << 44), h2), reduce(h0, h1, h2 + 1));
        // 2^130 = 5 (mod p).
        assert_eq!(reduce(0, 0, 1 << 42), 5);
    }
}
