//! ChaCha20-Poly1305 over up to sixteen packets at once with AVX-512 (F, BW, VL, IFMA).
//!
//! Enters: one key and a batch of packets. Leaves: the packets sealed, or opened where authentic. Never
//! does: branch on, or index by, a secret; decrypt a packet whose tag does not match; touch a byte
//! outside the packets it was given.
//!
//! **ChaCha20** (RFC 8439, section 2.3) runs sixteen blocks abreast, one 32-bit lane each. The blocks of
//! all packets form one sequence, so packets of different lengths leave no lane empty but in the last
//! round. A transpose turns lanes back into blocks.
//!
//! **Poly1305** (section 2.5) runs one packet per 64-bit lane, in two groups of eight whose dependency
//! chains are independent. Limbs are 44, 44 and 42 bits, and 2^130 = 5 folds the top: with
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

use crate::TAG_LEN;

/// Packets per batch.
pub(crate) const BATCH: usize = 16;
const LANES: usize = 8;
const BLOCK: usize = 64;

/// A packet of a batch: `len` bytes of text at `text`, its tag right behind.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) text: *mut u8,
    pub(crate) len: usize,
    pub(crate) counter: u64,
}

/// Whether this CPU has what the engine needs.
pub(crate) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512ifma")
}

/// Seals 1 to [`BATCH`] packets under one key.
///
/// # Safety
/// [`is_supported`] was true; every lane's `text` is valid for reads and writes of `len + TAG_LEN` bytes,
/// no two lanes overlap, and nothing else accesses them meanwhile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(crate) unsafe fn seal(key: &[u32; 8], lanes: &[Lane]) {
    let cipher = Cipher::new(key);
    let mut first = FirstBlocks::new(&cipher, lanes);
    for (lane, stream) in lanes.iter().zip(&first.stream) {
        // SAFETY: the caller vouches for the lane's `len` bytes.
        unsafe { xor_block(lane.text, lane.len, *stream) };
    }
    // SAFETY: as above.
    unsafe { cipher.xor_rest(lanes, u16::MAX) };
    // SAFETY: as above; every lane's text is initialised.
    let mut tags = unsafe { tags(&first.one_time_keys, lanes) };
    for (lane, tag) in lanes.iter().zip(&tags) {
        // SAFETY: the caller vouches for TAG_LEN bytes behind the text.
        unsafe { core::ptr::copy_nonoverlapping(tag.as_ptr(), lane.text.add(lane.len), TAG_LEN) };
    }
    tags.zeroize();
    first.wipe();
}

/// Opens 1 to [`BATCH`] packets under one key and returns the set of those that were authentic, bit `i`
/// for lane `i`. The others keep their ciphertext.
///
/// # Safety
/// As for [`seal`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(crate) unsafe fn open(key: &[u32; 8], lanes: &[Lane]) -> u16 {
    let cipher = Cipher::new(key);
    let mut first = FirstBlocks::new(&cipher, lanes);
    // SAFETY: the caller vouches for the lanes' bytes.
    let mut tags = unsafe { tags(&first.one_time_keys, lanes) };
    let mut authentic = 0_u16;
    for (i, (lane, tag)) in lanes.iter().zip(&tags).enumerate() {
        let mut given = [0; TAG_LEN];
        // SAFETY: the caller vouches for TAG_LEN bytes behind the text.
        unsafe { core::ptr::copy_nonoverlapping(lane.text.add(lane.len), given.as_mut_ptr(), TAG_LEN) };
        // One comparison of 128 bits: its result is public, and no byte's position shows in its time.
        let difference = u128::from_le_bytes(given) ^ u128::from_le_bytes(*tag);
        authentic |= u16::from(core::hint::black_box(difference) == 0) << i;
    }
    for (i, (lane, stream)) in lanes.iter().zip(&first.stream).enumerate() {
        if authentic & (1 << i) != 0 {
            // SAFETY: the caller vouches for the lane's `len` bytes.
            unsafe { xor_block(lane.text, lane.len, *stream) };
        }
    }
    // SAFETY: as above.
    unsafe { cipher.xor_rest(lanes, authentic) };
    tags.zeroize();
    first.wipe();
    authentic
}

/// What the first two ChaCha20 blocks of every packet give: its Poly1305 key, and the key stream for its
/// first 64 bytes.
struct FirstBlocks {
    one_time_keys: [[u8; BLOCK]; BATCH],
    stream: [__m512i; BATCH],
}

impl FirstBlocks {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn new(cipher: &Cipher, lanes: &[Lane]) -> Self {
        let mut blocks = Self { one_time_keys: [[0; BLOCK]; BATCH], stream: [_mm512_setzero_si512(); BATCH] };
        for (eighth, group) in lanes.chunks(LANES).enumerate() {
            let mut position = Positions::default();
            for (i, lane) in group.iter().enumerate() {
                position.set(i, 0, lane.counter);
                position.set(LANES + i, 1, lane.counter);
            }
            let out = cipher.blocks(&position);
            for i in 0..group.len() {
                let to = blocks.one_time_keys[eighth * LANES + i].as_mut_ptr();
                // SAFETY: an array of 64 bytes takes one register.
                unsafe { _mm512_storeu_si512(to.cast(), out[i]) };
                blocks.stream[eighth * LANES + i] = out[LANES + i];
            }
        }
        blocks
    }

    #[inline]
    fn wipe(&mut self) {
        self.one_time_keys.as_flattened_mut().zeroize();
        for block in &mut self.stream {
            words_of(block).zeroize();
        }
    }
}

/// A register's memory as words, so that it can be wiped where it was spilled.
#[inline]
fn words_of(register: &mut __m512i) -> &mut [u64; 8] {
    // SAFETY: __m512i is 64 bytes of plain data, aligned more strictly than u64.
    unsafe { &mut *core::ptr::from_mut(register).cast() }
}

/// For each of the sixteen lanes: which block of which packet.
#[derive(Default)]
struct Positions {
    block: [u32; 16],
    counter_low: [u32; 16],
    counter_high: [u32; 16],
}

impl Positions {
    #[inline]
    fn set(&mut self, lane: usize, block: u32, counter: u64) {
        self.block[lane] = block;
        self.counter_low[lane] = counter as u32;
        self.counter_high[lane] = (counter >> 32) as u32;
    }
}

/// The rows of the ChaCha20 state that all packets of a key share.
struct Cipher {
    constants: [__m512i; 4],
    key: [__m512i; 8],
}

macro_rules! quarter_round {
    ($x:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
        $x[$a] = _mm512_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm512_rol_epi32::<16>(_mm512_xor_si512($x[$d], $x[$a]));
        $x[$c] = _mm512_add_epi32($x[$c], $x[$d]);
        $x[$b] = _mm512_rol_epi32::<12>(_mm512_xor_si512($x[$b], $x[$c]));
        $x[$a] = _mm512_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm512_rol_epi32::<8>(_mm512_xor_si512($x[$d], $x[$a]));
        $x[$c] = _mm512_add_epi32($x[$c], $x[$d]);
        $x[$b] = _mm512_rol_epi32::<7>(_mm512_xor_si512($x[$b], $x[$c]));
    };
}

impl Cipher {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(key: &[u32; 8]) -> Self {
        let row = |word: u32| _mm512_set1_epi32(word as i32);
        // "expand 32-byte k", RFC 8439 section 2.3.
        Self {
            constants: [row(0x6170_7865), row(0x3320_646e), row(0x7962_2d32), row(0x6b20_6574)],
            key: [
                row(key[0]),
                row(key[1]),
                row(key[2]),
                row(key[3]),
                row(key[4]),
                row(key[5]),
                row(key[6]),
                row(key[7]),
            ],
        }
    }

    /// Sixteen key stream blocks, one in each register.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn blocks(&self, position: &Positions) -> [__m512i; 16] {
        // SAFETY: each array is the size of a register.
        let load = |words: &[u32; 16]| unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        let [c0, c1, c2, c3] = self.constants;
        let [k0, k1, k2, k3, k4, k5, k6, k7] = self.key;
        let start = [
            c0,
            c1,
            c2,
            c3,
            k0,
            k1,
            k2,
            k3,
            k4,
            k5,
            k6,
            k7,
            load(&position.block),
            _mm512_setzero_si512(),
            load(&position.counter_low),
            load(&position.counter_high),
        ];
        let mut x = start;
        for _ in 0..10 {
            quarter_round!(x, 0, 4, 8, 12);
            quarter_round!(x, 1, 5, 9, 13);
            quarter_round!(x, 2, 6, 10, 14);
            quarter_round!(x, 3, 7, 11, 15);
            quarter_round!(x, 0, 5, 10, 15);
            quarter_round!(x, 1, 6, 11, 12);
            quarter_round!(x, 2, 7, 8, 13);
            quarter_round!(x, 3, 4, 9, 14);
        }
        for (word, start) in x.iter_mut().zip(start) {
            *word = _mm512_add_epi32(*word, start);
        }
        transpose_16(&x)
    }

    /// Applies the key stream from the 65th byte on to the lanes in `set`.
    ///
    /// # Safety
    /// As for [`seal`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn xor_rest(&self, lanes: &[Lane], set: u16) {
        let mut position = Positions::default();
        let mut places = [(core::ptr::null_mut::<u8>(), 0_usize); 16];
        let mut filled = 0;
        for (i, lane) in lanes.iter().enumerate() {
            if set & (1 << i) == 0 {
                continue;
            }
            let mut offset = BLOCK;
            while offset < lane.len {
                // Block 0 is the Poly1305 key, so byte 64 is in block 2.
                position.set(filled, (offset / BLOCK) as u32 + 1, lane.counter);
                // SAFETY: offset is below the lane's length.
                places[filled] = (unsafe { lane.text.add(offset) }, lane.len - offset);
                filled += 1;
                offset += BLOCK;
                if filled == places.len() {
                    let stream = self.blocks(&position);
                    for (&(at, left), stream) in places.iter().zip(stream) {
                        // SAFETY: `left` bytes from `at` on are the lane's.
                        unsafe { xor_block(at, left, stream) };
                    }
                    filled = 0;
                }
            }
        }
        if filled > 0 {
            let stream = self.blocks(&position);
            for (&(at, left), stream) in places[..filled].iter().zip(stream) {
                // SAFETY: as above.
                unsafe { xor_block(at, left, stream) };
            }
        }
    }
}

/// Applies 64 bytes of key stream to the `left` bytes at `at`, or to the first 64 of them.
///
/// # Safety
/// `left` bytes at `at` may be read and written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn xor_block(at: *mut u8, left: usize, stream: __m512i) {
    let mask = byte_mask(left);
    // SAFETY: masked-off bytes are neither read nor written; the others are the caller's.
    unsafe {
        let text = _mm512_maskz_loadu_epi8(mask, at.cast());
        _mm512_mask_storeu_epi8(at.cast(), mask, _mm512_xor_si512(text, stream));
    }
}

/// The first `n` of 64 bytes.
#[inline]
fn byte_mask(n: usize) -> __mmask64 {
    if n >= BLOCK { u64::MAX } else { (1 << n) - 1 }
}

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
unsafe fn tags(keys: &[[u8; BLOCK]; BATCH], lanes: &[Lane]) -> [[u8; TAG_LEN]; BATCH] {
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

/// Rows of eight 64-bit words to columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_8(rows: &[__m512i; 8]) -> [__m512i; 8] {
    let mut pairs = *rows;
    for i in 0..4 {
        pairs[2 * i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
    }
    let mut columns = *rows;
    for parity in 0..2 {
        let [a, b, c, d] = [pairs[parity], pairs[2 + parity], pairs[4 + parity], pairs[6 + parity]];
        let quads = quarter_transpose(a, b, c, d);
        for (quarter, column) in quads.into_iter().enumerate() {
            columns[2 * quarter + parity] = column;
        }
    }
    columns
}

/// Four registers of four 128-bit quarters each: register `q` of the result holds quarter `q` of each.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter_transpose(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
    let (cd_low, cd_high) = (_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high),
    ]
}

/// Sixteen rows of sixteen 32-bit words to columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_16(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut quads = *rows;
    for i in 0..4 {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        quads[4 * i] = _mm512_unpacklo_epi64(ab_low, cd_low);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    // quads[4i + j], quarter q: words 4i..4i+4 of column 4q + j.
    let mut columns = *rows;
    for j in 0..4 {
        let joined = quarter_transpose(quads[j], quads[4 + j], quads[8 + j], quads[12 + j]);
        for (quarter, column) in joined.into_iter().enumerate() {
            columns[4 * quarter + j] = column;
        }
    }
    columns
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
