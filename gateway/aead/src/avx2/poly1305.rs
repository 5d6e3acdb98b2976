//! Poly1305 (RFC 8439, section 2.5), one packet in each 64-bit lane, four blocks at a time.
//!
//! Enters: one-time keys and texts of up to four packets. Leaves: tags, in registers. Never does: write to a packet.
//!
//! # Arithmetic
//! A number modulo p = 2^130 - 5 is five limbs of 26 bits. With 2^130 = 5 (mod p), and `s_i = 5 * r_i`, a product is
//!
//! ```text
//! d0 = h0*r0 + h1*s4 + h2*s3 + h3*s2 + h4*s1
//! d1 = h0*r1 + h1*r0 + h2*s4 + h3*s3 + h4*s2
//! d2 = h0*r2 + h1*r1 + h2*r0 + h3*s4 + h4*s3
//! d3 = h0*r3 + h1*r2 + h2*r1 + h3*r0 + h4*s4
//! d4 = h0*r4 + h1*r3 + h2*r2 + h3*r1 + h4*r0
//! ```
//!
//! each of its 25 multiplications one VPMULUDQ, which reads 32 bits of each factor and gives all 64 of the product.
//!
//! # Bounds
//! A carried number ([`carried`]) has h0, h2, h3 < 2^26 and h1, h4 < 2^26 + 2^13. Blocks have limbs below 2^26 (the
//! top one below 2^25). So a left factor, a carried number plus a block, has limbs below 2^27.1; a right factor, r
//! or a carried power of it, has r_i < 2^26.1 and s_i < 2^28.5; both are below 2^32. A product is below 2^55.6; up
//! to 4 * 5 of them are added to one accumulator: below 2^60, no 64-bit lane overflows.
//!
//! [`carried`] starts with all d < 2^60. Its carries out of 26 bits are then below 2^35 (the first of each limb, with
//! what was carried in), five times that below 2^37.4; the second carry out of d0 is below 2^12, that out of d3 below
//! 2^10. Both stay within what is said above of h1 and h4.

use core::arch::x86_64::*;

use super::LANES;
use super::transpose::transpose_4;
use crate::multibuffer::Lane;
use crate::schedule::BLOCK;
use crate::texts::{STEP, Texts};

const MASK_26: i64 = (1 << 26) - 1;
/// Bit 128 of a block, in its top limb.
const TOP_BIT: i64 = 1 << 24;
/// Length from which on it pays to compute powers of r.
const POWERS_PAY: usize = 320;

/// The one-time keys of four packets, as 64-bit words by columns.
#[derive(Clone, Copy)]
pub(super) struct OneTimeKeys {
    r: [__m256i; 2],
    pad: [__m256i; 2],
}

impl OneTimeKeys {
    /// From the first eight words of ChaCha20's block 0, by columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn new(words: [__m128i; 8]) -> Self {
        let join = |low, high| {
            _mm256_or_si256(_mm256_cvtepu32_epi64(low), _mm256_slli_epi64::<32>(_mm256_cvtepu32_epi64(high)))
        };
        let [w0, w1, w2, w3, w4, w5, w6, w7] = words;
        Self { r: [join(w0, w1), join(w2, w3)], pad: [join(w4, w5), join(w6, w7)] }
    }
}

/// A number in each lane, as limbs of 26 bits.
type Number = [__m256i; 5];

/// A number to multiply with: its limbs, and 5 times its four upper ones.
#[derive(Clone, Copy)]
struct Factor {
    r: Number,
    s: [__m256i; 4],
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(r: Number) -> Self {
        let times_5 = |limb| _mm256_add_epi64(limb, _mm256_slli_epi64::<2>(limb));
        Self { r, s: [times_5(r[1]), times_5(r[2]), times_5(r[3]), times_5(r[4])] }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn zero() -> Number {
    [_mm256_setzero_si256(); 5]
}

/// The products of the low halves of each lane.
///
/// As an intrinsic this is a multiplication of 64-bit words whose upper halves are masked off; where the compiler
/// moves the mask out of a loop, it forgets what the mask is for and multiplies 64 by 64 bits in seven
/// instructions.
#[inline]
#[target_feature(enable = "avx2")]
fn multiplied(a: __m256i, b: __m256i) -> __m256i {
    let product;
    // SAFETY: the instruction belongs to AVX2, and works on registers alone.
    unsafe {
        core::arch::asm!(
            "vpmuludq {product}, {a}, {b}",
            product = lateout(ymm_reg) product,
            a = in(ymm_reg) a,
            b = in(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    product
}

/// `sum + a * factor`, before carries.
#[inline]
#[target_feature(enable = "avx2")]
fn add_product(sum: Number, a: Number, factor: &Factor) -> Number {
    // Spelled out: as loops over arrays these go through memory.
    let row = |sum: __m256i, a: Number, r: [__m256i; 5]| {
        let sum = _mm256_add_epi64(sum, multiplied(a[1], r[1]));
        let sum = _mm256_add_epi64(sum, multiplied(a[2], r[2]));
        let sum = _mm256_add_epi64(sum, multiplied(a[3], r[3]));
        let sum = _mm256_add_epi64(sum, multiplied(a[4], r[4]));
        _mm256_add_epi64(sum, multiplied(a[0], r[0]))
    };
    let ([r0, r1, r2, r3, r4], [s1, s2, s3, s4]) = (factor.r, factor.s);
    [
        row(sum[0], a, [r0, s4, s3, s2, s1]),
        row(sum[1], a, [r1, r0, s4, s3, s2]),
        row(sum[2], a, [r2, r1, r0, s4, s3]),
        row(sum[3], a, [r3, r2, r1, r0, s4]),
        row(sum[4], a, [r4, r3, r2, r1, r0]),
    ]
}

/// Carries, and folds what lies above 2^130. Two chains, d0 to d3 and d3 to d1, so that neither is long.
#[inline]
#[target_feature(enable = "avx2")]
fn carried(sum: Number) -> Number {
    let mask = _mm256_set1_epi64x(MASK_26);
    let add = |a, b| _mm256_add_epi64(a, b);
    let [mut d0, mut d1, mut d2, mut d3, mut d4] = sum;
    d1 = add(d1, _mm256_srli_epi64::<26>(d0));
    d0 = _mm256_and_si256(d0, mask);
    d4 = add(d4, _mm256_srli_epi64::<26>(d3));
    d3 = _mm256_and_si256(d3, mask);
    d2 = add(d2, _mm256_srli_epi64::<26>(d1));
    d1 = _mm256_and_si256(d1, mask);
    let fold = _mm256_srli_epi64::<26>(d4);
    d0 = add(d0, add(fold, _mm256_slli_epi64::<2>(fold)));
    d4 = _mm256_and_si256(d4, mask);
    d3 = add(d3, _mm256_srli_epi64::<26>(d2));
    d2 = _mm256_and_si256(d2, mask);
    d1 = add(d1, _mm256_srli_epi64::<26>(d0));
    d0 = _mm256_and_si256(d0, mask);
    d4 = add(d4, _mm256_srli_epi64::<26>(d3));
    d3 = _mm256_and_si256(d3, mask);
    [d0, d1, d2, d3, d4]
}

#[inline]
#[target_feature(enable = "avx2")]
fn product(a: Number, factor: &Factor) -> Number {
    carried(add_product(zero(), a, factor))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum(a: Number, b: Number) -> Number {
    let add = |a, b| _mm256_add_epi64(a, b);
    [add(a[0], b[0]), add(a[1], b[1]), add(a[2], b[2]), add(a[3], b[3]), add(a[4], b[4])]
}

/// 128 bits and the top bit as limbs.
#[inline]
#[target_feature(enable = "avx2")]
fn limbs(low: __m256i, high: __m256i, top: __m256i) -> Number {
    let mask = _mm256_set1_epi64x(MASK_26);
    let middle = _mm256_or_si256(_mm256_srli_epi64::<52>(low), _mm256_slli_epi64::<12>(high));
    [
        _mm256_and_si256(low, mask),
        _mm256_and_si256(_mm256_srli_epi64::<26>(low), mask),
        _mm256_and_si256(middle, mask),
        _mm256_and_si256(_mm256_srli_epi64::<14>(high), mask),
        _mm256_or_si256(_mm256_srli_epi64::<40>(high), top),
    ]
}

/// The words of 64 bytes from each address on, by columns.
///
/// # Safety
/// The bytes may be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn columns(at: [*const u8; LANES]) -> [__m256i; 2 * STEP] {
    // SAFETY: the caller vouches for the bytes.
    let half = |offset: usize| unsafe {
        transpose_4(&[
            _mm256_loadu_si256(at[0].add(offset).cast()),
            _mm256_loadu_si256(at[1].add(offset).cast()),
            _mm256_loadu_si256(at[2].add(offset).cast()),
            _mm256_loadu_si256(at[3].add(offset).cast()),
        ])
    };
    let ([a, b, c, d], [e, f, g, h]) = (half(0), half(32));
    [a, b, c, d, e, f, g, h]
}

/// The limbs of a step's blocks, where packets begin or end.
///
/// # Safety
/// The texts may be read.
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe fn blocks_of_part(texts: &Texts<LANES>, len: __m256i, step: usize) -> [Number; STEP] {
    // Zeros before a packet's first byte and behind its last one.
    let mut buffers = [[0_u8; BLOCK]; LANES];
    for (lane, buffer) in buffers.iter_mut().enumerate() {
        let (from, to) = texts.bytes(lane, step);
        if from < to {
            let text = texts.at(lane, step).wrapping_add(from);
            // SAFETY: bytes `from` to `to` lie in the packet's text, and in the buffer.
            unsafe { core::ptr::copy_nonoverlapping(text, buffer.as_mut_ptr().add(from), to - from) };
        }
    }
    let [a, b, c, d] = &buffers;
    // SAFETY: the buffers have 64 bytes.
    let columns = unsafe { columns([a.as_ptr(), b.as_ptr(), c.as_ptr(), d.as_ptr()]) };
    let mut blocks = [zero(); STEP];
    for (index, block) in blocks.iter_mut().enumerate() {
        let there = _mm256_cmpgt_epi64(len, _mm256_set1_epi64x(texts.behind(step, index) as i64));
        let top = _mm256_and_si256(there, _mm256_set1_epi64x(TOP_BIT));
        *block = limbs(columns[2 * index], columns[2 * index + 1], top);
    }
    blocks
}

/// The limbs of a whole step's blocks.
///
/// # Safety
/// The step is whole; the texts may be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn blocks_of_whole(texts: &Texts<LANES>, step: usize) -> [Number; STEP] {
    let at = [texts.at(0, step), texts.at(1, step), texts.at(2, step), texts.at(3, step)];
    // SAFETY: all 64 bytes lie in the packets' texts.
    let columns = unsafe { columns(at) };
    let [a, b, c, d, e, f, g, h] = columns;
    let top = _mm256_set1_epi64x(TOP_BIT);
    [limbs(a, b, top), limbs(c, d, top), limbs(e, f, top), limbs(g, h, top)]
}

/// The tags of up to four packets, as 64-bit words by columns.
///
/// # Safety
/// `lanes` is not empty; its texts may be read.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn tags(keys: &OneTimeKeys, lanes: &[Lane]) -> [__m256i; 2] {
    // The clamp of RFC 8439, section 2.5.
    let r = Factor::new(limbs(
        _mm256_and_si256(keys.r[0], _mm256_set1_epi64x(0x0fff_fffc_0fff_ffff)),
        _mm256_and_si256(keys.r[1], _mm256_set1_epi64x(0x0fff_fffc_0fff_fffc)),
        _mm256_setzero_si256(),
    ));
    let longest = lanes.iter().map(|lane| lane.len).max().unwrap_or(0);
    let texts = Texts::new(lanes, longest);
    // SAFETY: the array is the size of a register.
    let len = unsafe { _mm256_loadu_si256(texts.lens.as_ptr().cast()) };
    // SAFETY: the caller vouches for the texts.
    let h =
        unsafe { if longest < POWERS_PAY { absorb_singly(&r, &texts, len) } else { absorb_by_four(&r, &texts, len) } };
    // The last block: 64 zero bits (no associated data), and the length of the text.
    let last = limbs(_mm256_setzero_si256(), len, _mm256_set1_epi64x(TOP_BIT));
    finish(product(sum(h, last), &r), keys.pad)
}

/// Block by block: `h = (h + block) * r`.
///
/// # Safety
/// The texts may be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn absorb_singly(r: &Factor, texts: &Texts<LANES>, len: __m256i) -> Number {
    let mut h = zero();
    let mut index = texts.absent;
    for step in 0..texts.steps {
        // SAFETY: the caller vouches for the texts.
        let blocks = unsafe {
            if texts.is_whole(step) { blocks_of_whole(texts, step) } else { blocks_of_part(texts, len, step) }
        };
        while index < STEP {
            h = product(sum(h, blocks[index]), r);
            index += 1;
        }
        index = 0;
    }
    h
}

/// Four blocks at a time: `h = (h + m0) * r^4 + m1 * r^3 + m2 * r^2 + m3 * r`.
///
/// # Safety
/// The texts may be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn absorb_by_four(r1: &Factor, texts: &Texts<LANES>, len: __m256i) -> Number {
    let r2 = Factor::new(product(r1.r, r1));
    let r3 = Factor::new(product(r2.r, r1));
    let r4 = Factor::new(product(r2.r, &r2));
    let factors = [r4, r3, r2, *r1];
    let mut h = zero();
    for step in 0..texts.steps {
        // SAFETY: the caller vouches for the texts.
        let blocks = unsafe {
            if texts.is_whole(step) { blocks_of_whole(texts, step) } else { blocks_of_part(texts, len, step) }
        };
        // The product that waits for the step before comes last.
        let products = add_product(zero(), blocks[3], &factors[3]);
        let products = add_product(products, blocks[2], &factors[2]);
        let products = add_product(products, blocks[1], &factors[1]);
        h = carried(add_product(products, sum(h, blocks[0]), &factors[0]));
    }
    h
}

/// Reduces fully, and adds the second half of each key.
#[inline]
#[target_feature(enable = "avx2")]
fn finish(h: Number, pad: [__m256i; 2]) -> [__m256i; 2] {
    let mask = _mm256_set1_epi64x(MASK_26);
    let add = |a, b| _mm256_add_epi64(a, b);
    let or = |a, b| _mm256_or_si256(a, b);
    let mut h = h;
    // Twice around: the second time, what is folded into h0 carries no further than into h1.
    for _ in 0..2 {
        for i in 0..4 {
            h[i + 1] = add(h[i + 1], _mm256_srli_epi64::<26>(h[i]));
            h[i] = _mm256_and_si256(h[i], mask);
        }
        let fold = _mm256_srli_epi64::<26>(h[4]);
        h[4] = _mm256_and_si256(h[4], mask);
        h[0] = add(h[0], add(fold, _mm256_slli_epi64::<2>(fold)));
    }
    h[1] = add(h[1], _mm256_srli_epi64::<26>(h[0]));
    h[0] = _mm256_and_si256(h[0], mask);
    // h + 5 - 2^130: where that does not borrow, h was at least p and this is its remainder.
    let mut g = h;
    g[0] = add(g[0], _mm256_set1_epi64x(5));
    for i in 0..4 {
        g[i + 1] = add(g[i + 1], _mm256_srli_epi64::<26>(g[i]));
        g[i] = _mm256_and_si256(g[i], mask);
    }
    g[4] = _mm256_sub_epi64(g[4], _mm256_set1_epi64x(1 << 26));
    let keep = _mm256_cmpgt_epi64(_mm256_setzero_si256(), g[4]);
    for (h, g) in h.iter_mut().zip(g) {
        *h = _mm256_blendv_epi8(g, *h, keep);
    }
    let [h0, h1, h2, h3, h4] = h;
    let low = or(h0, or(_mm256_slli_epi64::<26>(h1), _mm256_slli_epi64::<52>(h2)));
    let high = or(_mm256_srli_epi64::<12>(h2), or(_mm256_slli_epi64::<14>(h3), _mm256_slli_epi64::<40>(h4)));
    let low = add(low, pad[0]);
    // An unsigned sum that is below one of its summands has wrapped; with the top bits turned, signed order is unsigned
    // order. The comparison gives -1 where it has.
    let turn = _mm256_set1_epi64x(i64::MIN);
    let carry = _mm256_cmpgt_epi64(_mm256_xor_si256(pad[0], turn), _mm256_xor_si256(low, turn));
    [low, _mm256_sub_epi64(add(high, pad[1]), carry)]
}
