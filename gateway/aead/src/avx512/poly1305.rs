//! Poly1305 (RFC 8439, section 2.5), one packet in each 64-bit lane, four blocks at a time.
//!
//! Enters: one-time keys and texts of up to eight packets a group. Leaves: tags, in registers. Never does: write to a
//! packet.
//!
//! # Arithmetic
//! A number modulo p = 2^130 - 5 is limbs of 44, 44 and 42 bits. With 2^132 = 20 (mod p), `s1 = 20 * r1` and
//! `s2 = 20 * r2`, a product is
//!
//! ```text
//! d0 = h0*r0 + h1*s2 + h2*s1      d1 = h0*r1 + h1*r0 + h2*s2      d2 = h0*r2 + h1*r1 + h2*r0
//! ```
//!
//! VPMADD52LUQ and VPMADD52HUQ add bits 0 to 51 and bits 52 to 103 of a product of two 52-bit numbers. The sums of both
//! halves are kept apart ([`Sum`]) and joined when carrying: a high half weighs 2^52, which is 2^8 of the next
//! limb behind 44 bits, and 2^10 of 2^130 behind the 42 bits of the last.
//!
//! # Bounds
//! A carried number ([`Sum::carried`]) has h0 < 2^44, h1 < 2^44 + 2^12, h2 < 2^42. The limbs of a block are below 2^44,
//! 2^44 and 2^41 (bit 128 included). So a left factor, a carried number plus a block, has limbs below 2^45.1, 2^45.1
//! and 2^42.6; a right factor, r or a carried power of it, has r_i < 2^44.1, s1 < 2^48.5, s2 < 2^46.4. All are below
//! 2^52, which is what the instructions read. A sum has 4 * 3 products at most (four blocks between two carries):
//!
//! - low halves: 12 * 2^52 < 2^55.6;
//! - high halves: a product is below 2^45.1 * 2^46.4 or 2^42.6 * 2^48.5, that is 2^91.5; so below 12 * 2^39.5 < 2^43.1.
//!
//! [`Sum::carried`]: d_i < 2^55.6 gives carries of (d >> 44) + (e << 8) < 2^51.3 out of d0 and d1, which leaves d1 and
//! d2 below 2^55.7; out of d2, (d2 >> 42) + (e2 << 10) < 2^53.2. Five times that on top of 44 bits leaves d0 below
//! 2^55.6, whose carry into d1 is below 2^11.6: within what is said above of h1.

use core::arch::x86_64::*;

use super::transpose::transpose_8;
use super::{LANES, byte_mask};
use crate::multibuffer::Lane;
use crate::schedule::BLOCK;
use crate::texts::{STEP, Texts};

const MASK_44: i64 = (1 << 44) - 1;
const MASK_42: i64 = (1 << 42) - 1;
/// Bit 128 of a block, in its top limb.
const TOP_BIT: i64 = 1 << 40;

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

/// The words of a whole step, by columns.
///
/// # Safety
/// The step is whole; the texts may be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns(texts: &Texts<LANES>, step: usize) -> [__m512i; LANES] {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (lane, row) in rows.iter_mut().enumerate() {
        // SAFETY: all 64 bytes lie in the packet's text.
        *row = unsafe { _mm512_loadu_si512(texts.at(lane, step).cast()) };
    }
    transpose_8(&rows)
}

/// The words of any step, by columns: zeros before a packet's first byte and behind its last one.
///
/// # Safety
/// The texts may be read.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn columns_of_part(texts: &Texts<LANES>, step: usize) -> [__m512i; LANES] {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (lane, row) in rows.iter_mut().enumerate() {
        let (from, to) = texts.bytes(lane, step);
        // SAFETY: masked-off bytes are not read; the others lie in the packet's text.
        *row = unsafe { _mm512_maskz_loadu_epi8(byte_mask(to) & !byte_mask(from), texts.at(lane, step).cast()) };
    }
    transpose_8(&rows)
}

/// The limbs of any step's blocks.
///
/// # Safety
/// The texts may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
unsafe fn blocks(texts: &Texts<LANES>, len: __m512i, step: usize) -> [Number; STEP] {
    let mut blocks = [[_mm512_setzero_si512(); 3]; STEP];
    // SAFETY: the caller vouches for the texts.
    let columns = unsafe { if texts.is_whole(step) { columns(texts, step) } else { columns_of_part(texts, step) } };
    for (index, block) in blocks.iter_mut().enumerate() {
        *block = limbs(columns[2 * index], columns[2 * index + 1]);
        let there = _mm512_cmpgt_epi64_mask(len, _mm512_set1_epi64(texts.behind(step, index) as i64));
        block[2] = _mm512_or_si512(block[2], _mm512_maskz_set1_epi64(there, TOP_BIT));
    }
    blocks
}

/// A computation on up to eight packets.
pub(super) struct Poly1305 {
    r: Number,
    pad: [__m512i; 2],
    h: Number,
    texts: Texts<LANES>,
    /// The texts' lengths.
    len: __m512i,
}

/// The tags of a batch, as 64-bit words by columns. Lanes are sorted by length, longest first.
///
/// # Safety
/// `lanes` is not empty; its texts may be read.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
pub(super) unsafe fn tags(keys: &[OneTimeKeys; 2], lanes: &[Lane]) -> [[__m512i; 2]; 2] {
    let (first, second) = lanes.split_at(lanes.len().min(LANES));
    let mut a = Poly1305::new(&keys[0], first, first[0].len);
    // SAFETY: the caller vouches for the texts.
    unsafe {
        if second.is_empty() {
            a.absorb();
            return [a.finish(); 2];
        }
        let mut b;
        if first[0].len < POWERS_PAY {
            b = Poly1305::new(&keys[1], second, first[0].len);
            absorb_singly([&mut a, &mut b]);
        } else {
            b = Poly1305::new(&keys[1], second, second[0].len);
            a.absorb();
            b.absorb();
        }
        [a.finish(), b.finish()]
    }
}

/// Length from which on it pays to compute powers of r.
const POWERS_PAY: usize = 192;

/// Block by block: `h = (h + block) * r`. Computations are interleaved, so that none waits for itself alone.
///
/// # Safety
/// The texts may be read; all computations have the same number of steps.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn absorb_singly<const N: usize>(polys: [&mut Poly1305; N]) {
    let mut factors = [Factor::new(polys[0].r); N];
    for (factor, poly) in factors.iter_mut().zip(&polys) {
        *factor = Factor::new(poly.r);
    }
    for step in 0..polys[0].texts.steps {
        let mut parts = [[[_mm512_setzero_si512(); 3]; STEP]; N];
        for (parts, poly) in parts.iter_mut().zip(&polys) {
            // SAFETY: the caller vouches for the texts.
            *parts = unsafe { blocks(&poly.texts, poly.len, step) };
        }
        let mut index = if step == 0 { polys[0].texts.absent } else { 0 };
        while index < STEP {
            for n in 0..N {
                polys[n].h = product(sum(polys[n].h, parts[n][index]), &factors[n]);
            }
            index += 1;
        }
    }
    for n in 0..N {
        polys[n].absorb_length(&factors[n]);
    }
}

impl Poly1305 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi2")]
    fn new(keys: &OneTimeKeys, lanes: &[Lane], longest: usize) -> Self {
        // The clamp of RFC 8439, section 2.5.
        let r = limbs(
            _mm512_and_si512(keys.r[0], _mm512_set1_epi64(0x0fff_fffc_0fff_ffff)),
            _mm512_and_si512(keys.r[1], _mm512_set1_epi64(0x0fff_fffc_0fff_fffc)),
        );
        let texts = Texts::new(lanes, longest);
        // SAFETY: the array is the size of a register.
        let len = unsafe { _mm512_loadu_si512(texts.lens.as_ptr().cast()) };
        Self { r, pad: keys.pad, h: [_mm512_setzero_si512(); 3], texts, len }
    }

    /// Absorbs all text.
    ///
    /// # Safety
    /// The texts may be read.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    unsafe fn absorb(&mut self) {
        if self.texts.steps * BLOCK < POWERS_PAY {
            // SAFETY: the caller vouches for the texts.
            unsafe { absorb_singly([self]) };
        } else {
            // SAFETY: as above.
            unsafe { self.absorb_by_four() };
        }
    }

    /// Four blocks at a time: `h = (h + m0) * r^4 + m1 * r^3 + m2 * r^2 + m3 * r`.
    ///
    /// # Safety
    /// The texts may be read.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    unsafe fn absorb_by_four(&mut self) {
        let r1 = Factor::new(self.r);
        let r2 = Factor::new(product(self.r, &r1));
        let r3 = Factor::new(product(r2.r, &r1));
        let r4 = Factor::new(product(r2.r, &r2));
        let factors = [r4, r3, r2, r1];
        let steps = self.texts.steps;
        let ragged = self.texts.ragged.min(steps);
        // SAFETY: the caller vouches for the texts.
        unsafe { self.absorb_parts(&factors, 0..ragged) };
        let top = _mm512_set1_epi64(TOP_BIT);
        let mut h = self.h;
        for step in ragged..self.texts.whole {
            let mut blocks = [[_mm512_setzero_si512(); 3]; STEP];
            // SAFETY: as above; the step is whole.
            let columns = unsafe { columns(&self.texts, step) };
            for (index, block) in blocks.iter_mut().enumerate() {
                *block = limbs(columns[2 * index], columns[2 * index + 1]);
                block[2] = _mm512_or_si512(block[2], top);
            }
            h = four_products(h, &blocks, &factors);
        }
        self.h = h;
        // SAFETY: as above.
        unsafe { self.absorb_parts(&factors, self.texts.whole.max(ragged)..steps) };
        self.absorb_length(&r1);
    }

    /// Steps in which packets begin or end.
    ///
    /// # Safety
    /// The texts may be read.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    unsafe fn absorb_parts(&mut self, factors: &[Factor; STEP], steps: core::ops::Range<usize>) {
        for step in steps {
            // SAFETY: the caller vouches for the texts.
            let blocks = unsafe { blocks(&self.texts, self.len, step) };
            self.h = four_products(self.h, &blocks, factors);
        }
    }

    /// The last block: 64 zero bits (no associated data), and the length of the text.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    fn absorb_length(&mut self, r: &Factor) {
        let mut block = limbs(_mm512_setzero_si512(), self.len);
        block[2] = _mm512_or_si512(block[2], _mm512_set1_epi64(TOP_BIT));
        self.h = product(sum(self.h, block), r);
    }

    /// Reduces fully, and adds the second half of each key.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn finish(&self) -> [__m512i; 2] {
        finish(self.h, self.pad)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn product(a: Number, factor: &Factor) -> Number {
    let mut product = Sum::zero();
    product.add_product(a, factor);
    product.carried()
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn four_products(h: Number, blocks: &[Number; STEP], factors: &[Factor; STEP]) -> Number {
    let mut products = Sum::zero();
    // The product that waits for the step before comes last.
    for index in (1..STEP).rev() {
        products.add_product(blocks[index], &factors[index]);
    }
    products.add_product(sum(h, blocks[0]), &factors[0]);
    products.carried()
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
