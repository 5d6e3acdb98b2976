//! ChaCha20 (RFC 8439, section 2.3), sixteen blocks abreast, one 32-bit lane each.
//!
//! Enters: a key, and which block of which packet each lane is. Leaves: key stream, one block per register,
//! or applied to packets. Never does: leave a lane empty but in the last round: the blocks of all packets form
//! one sequence, whatever their lengths.

use core::arch::x86_64::*;

use super::transpose::transpose_16;
use super::{BLOCK, Lane, byte_mask};

/// For each of the sixteen lanes: which block of which packet.
#[derive(Default)]
pub(super) struct Positions {
    block: [u32; 16],
    counter_low: [u32; 16],
    counter_high: [u32; 16],
}

impl Positions {
    #[inline]
    pub(super) fn set(&mut self, lane: usize, block: u32, counter: u64) {
        self.block[lane] = block;
        self.counter_low[lane] = counter as u32;
        self.counter_high[lane] = (counter >> 32) as u32;
    }
}

/// The rows of the ChaCha20 state that all packets of a key share.
pub(super) struct Cipher {
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
    pub(super) fn new(key: &[u32; 8]) -> Self {
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
    pub(super) fn blocks(&self, position: &Positions) -> [__m512i; 16] {
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
    pub(super) unsafe fn xor_rest(&self, lanes: &[Lane], set: u16) {
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
pub(super) unsafe fn xor_block(at: *mut u8, left: usize, stream: __m512i) {
    let mask = byte_mask(left);
    // SAFETY: masked-off bytes are neither read nor written; the others are the caller's.
    unsafe {
        let text = _mm512_maskz_loadu_epi8(mask, at.cast());
        _mm512_mask_storeu_epi8(at.cast(), mask, _mm512_xor_si512(text, stream));
    }
}
