//! ChaCha20 (RFC 8439, section 2.3), sixteen blocks abreast, one 32-bit lane each.
//!
//! Enters: the packets' keys, and which block of which packet each lane is. Leaves: key stream by columns (register `w` holds
//! word `w` of all sixteen blocks), or applied to packets. Never does: touch a packet outside its text.
//!
//! All arithmetic is on words of 32 bits modulo 2^32, as the specification has it. The block number is a word, too:
//! texts are below 2^20 bytes ([`crate::multibuffer`]).

use core::arch::x86_64::*;

use super::transpose::transpose_16;
use super::{ABREAST, BATCH, byte_mask};
use crate::multibuffer::{CONSTANTS, Lane, counters};
use crate::schedule::BLOCK;

pub(super) type Places = crate::schedule::Places<ABREAST>;

/// The rows of the ChaCha20 state that packets begin with: keys and counters.
pub(super) struct Cipher {
    constants: [__m512i; 4],
    /// One key in all lanes, or where `keys_differ` the keys by packet.
    key: [__m512i; 8],
    keys_differ: bool,
    /// Low and high words, by packet.
    counters: [__m512i; 2],
}

/// Four quarter rounds side by side, instruction by instruction: each alone is one chain of dependent steps.
macro_rules! quarter_rounds {
    ($x:ident, $([$a:literal, $b:literal, $c:literal, $d:literal]),*) => {
        $($x[$a] = _mm512_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = _mm512_xor_si512($x[$d], $x[$a]);)*
        $($x[$d] = _mm512_rol_epi32::<16>($x[$d]);)*
        $($x[$c] = _mm512_add_epi32($x[$c], $x[$d]);)*
        $($x[$b] = _mm512_xor_si512($x[$b], $x[$c]);)*
        $($x[$b] = _mm512_rol_epi32::<12>($x[$b]);)*
        $($x[$a] = _mm512_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = _mm512_xor_si512($x[$d], $x[$a]);)*
        $($x[$d] = _mm512_rol_epi32::<8>($x[$d]);)*
        $($x[$c] = _mm512_add_epi32($x[$c], $x[$d]);)*
        $($x[$b] = _mm512_xor_si512($x[$b], $x[$c]);)*
        $($x[$b] = _mm512_rol_epi32::<7>($x[$b]);)*
    };
}

impl Cipher {
    /// # Safety
    /// As for [`super::seal`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn new(lanes: &[Lane]) -> Self {
        let counters = counters::<BATCH>(lanes);
        // SAFETY: each array is the size of a register.
        let counters = unsafe {
            [_mm512_loadu_si512(counters[0].as_ptr().cast()), _mm512_loadu_si512(counters[1].as_ptr().cast())]
        };
        let zero = _mm512_setzero_si512();
        let first = lanes[0].key;
        let keys_differ = lanes.iter().any(|lane| lane.key != first);
        // SAFETY: the caller vouches for the keys.
        let key = unsafe { if keys_differ { keys_by_packet(lanes) } else { key_in_all_lanes(&*first) } };
        let mut cipher = Self { constants: [zero; 4], key, keys_differ, counters };
        for (row, word) in cipher.constants.iter_mut().zip(CONSTANTS) {
            *row = _mm512_set1_epi32(word);
        }
        cipher
    }

    /// Sixteen key stream blocks, by columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn columns(&self, places: &Places) -> [__m512i; 16] {
        let [c0, c1, c2, c3] = self.constants;
        // SAFETY: the arrays are the size of the registers.
        let (packet, block) = unsafe {
            (
                _mm512_cvtepu8_epi32(_mm_loadu_si128(places.packets.as_ptr().cast())),
                _mm512_loadu_si512(places.blocks.as_ptr().cast()),
            )
        };
        let [k0, k1, k2, k3, k4, k5, k6, k7] = match self.keys_differ {
            true => self.key.map(|row| _mm512_permutexvar_epi32(packet, row)),
            false => self.key,
        };
        let low = _mm512_permutexvar_epi32(packet, self.counters[0]);
        let high = _mm512_permutexvar_epi32(packet, self.counters[1]);
        let zero = _mm512_setzero_si512();
        let start = [c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, block, zero, low, high];
        let mut x = start;
        for _ in 0..10 {
            quarter_rounds!(x, [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]);
            quarter_rounds!(x, [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]);
        }
        for (word, start) in x.iter_mut().zip(start) {
            *word = _mm512_add_epi32(*word, start);
        }
        x
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn key_in_all_lanes(key: &[u32; 8]) -> [__m512i; 8] {
    key.map(|word| _mm512_set1_epi32(word as i32))
}

/// Register `w` holds word `w` of every packet's key.
///
/// # Safety
/// As for [`super::seal`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn keys_by_packet(lanes: &[Lane]) -> [__m512i; 8] {
    let mut rows = [_mm512_setzero_si512(); BATCH];
    for (row, lane) in rows.iter_mut().zip(lanes) {
        // SAFETY: the caller vouches for the keys, which are the size of half a register.
        *row = _mm512_zextsi256_si512(unsafe { _mm256_loadu_si256(lane.key.cast()) });
    }
    let columns = transpose_16(&rows);
    core::array::from_fn(|word| columns[word])
}

/// Applies key stream, given by columns, to the texts of whole places.
///
/// # Safety
/// As for [`super::seal`]; `places` belong to `lanes`, and [`Places::are_whole`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn apply_whole(columns: &[__m512i; 16], places: &Places, lanes: &[Lane]) {
    let mut texts = [core::ptr::null_mut::<u8>(); ABREAST];
    for (lane, text) in texts.iter_mut().enumerate() {
        let (packet, offset) = places.text(lane);
        *text = lanes[packet].text.wrapping_add(offset);
    }
    let mut rows = transpose_16(columns);
    // All loads before all stores: packets whose addresses agree in their last twelve bits would make each load wait
    // for the store before it.
    for (row, text) in rows.iter_mut().zip(&texts) {
        // SAFETY: the place is in use and not partial, so 64 bytes of the packet's text are there.
        *row = _mm512_xor_si512(*row, unsafe { _mm512_loadu_si512(text.cast()) });
    }
    for (row, text) in rows.iter().zip(&texts) {
        // SAFETY: as for the loads.
        unsafe { _mm512_storeu_si512(text.cast(), *row) };
    }
}

/// Applies key stream, given by columns, to the texts of the places in use, from `first` on.
///
/// # Safety
/// As for [`super::seal`]; `places` belong to `lanes`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn apply_part(columns: &[__m512i; 16], places: &Places, lanes: &[Lane], first: usize) {
    let stream = transpose_16(columns);
    for (lane, stream) in stream.iter().enumerate() {
        if lane < first || lane >= places.count {
            continue;
        }
        let (packet, offset) = places.text(lane);
        let (text, left) = (lanes[packet].text.wrapping_add(offset), lanes[packet].len.wrapping_sub(offset));
        // SAFETY: the place is in use: `left` bytes from `text` on are the packet's, at least one.
        unsafe { xor_block(text, left, *stream) };
    }
}

/// Applies 64 bytes of key stream to the `left` bytes at `at`, or to the first 64 of them.
///
/// # Safety
/// `left` bytes at `at` may be read and written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn xor_block(at: *mut u8, left: usize, stream: __m512i) {
    let mask = byte_mask(left.min(BLOCK));
    // SAFETY: masked-off bytes are neither read nor written; the others are the caller's.
    unsafe {
        let text = _mm512_maskz_loadu_epi8(mask, at.cast());
        _mm512_mask_storeu_epi8(at.cast(), mask, _mm512_xor_si512(text, stream));
    }
}
