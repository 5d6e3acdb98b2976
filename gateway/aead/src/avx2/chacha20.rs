//! ChaCha20 (RFC 8439, section 2.3), eight blocks abreast, one 32-bit lane each.
//!
//! Enters: the packets' keys, and which block of which packet each lane is. Leaves: key stream by columns (register `w` holds
//! word `w` of all eight blocks), or applied to packets. Never does: touch a packet outside its text.
//!
//! All arithmetic is on words of 32 bits modulo 2^32, as the specification has it.

use core::arch::x86_64::*;

use super::transpose::transpose_8;
use super::{ABREAST, BATCH};
use crate::multibuffer::{CONSTANTS, Lane, counters};
use crate::schedule::BLOCK;

pub(super) type Places = crate::schedule::Places<ABREAST>;

/// The rows of the ChaCha20 state that packets begin with: keys and counters.
pub(super) struct Cipher {
    constants: [__m256i; 4],
    /// One key in all lanes, or where `keys_differ` the keys by packet.
    key: [__m256i; 8],
    keys_differ: bool,
    /// Low and high words, by packet.
    counters: [__m256i; 2],
}

/// The byte order of a rotation of 32-bit words by whole bytes.
#[repr(align(32))]
struct Order([u8; 32]);

const fn rotated_by(bytes: usize) -> Order {
    let mut order = [0; 32];
    let mut i = 0;
    while i < order.len() {
        // A shuffle takes its bytes from within each 16.
        order[i] = ((i % 16) / 4 * 4 + (i + 4 - bytes) % 4) as u8;
        i += 1;
    }
    Order(order)
}

static BY_16: Order = rotated_by(2);
static BY_8: Order = rotated_by(1);

/// A rotation by whole bytes is one shuffle.
///
/// Its order is read from memory each time: the sixteen registers hold the state, and the intrinsic would keep two
/// orders in registers and spill state instead.
#[inline]
#[target_feature(enable = "avx2")]
fn rotated(x: __m256i, order: &'static Order) -> __m256i {
    let rotated;
    // SAFETY: the instruction belongs to AVX2 and reads 32 aligned bytes of the order.
    unsafe {
        core::arch::asm!(
            "vpshufb {rotated}, {x}, [{order}]",
            rotated = lateout(ymm_reg) rotated,
            x = in(ymm_reg) x,
            order = in(reg) order.0.as_ptr(),
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    rotated
}

macro_rules! rotate {
    ($x:expr, $by:literal, $rest:literal) => {
        _mm256_or_si256(_mm256_slli_epi32::<$by>($x), _mm256_srli_epi32::<$rest>($x))
    };
}

/// Four quarter rounds side by side, instruction by instruction: each alone is one chain of dependent steps.
macro_rules! quarter_rounds {
    ($x:ident, $([$a:literal, $b:literal, $c:literal, $d:literal]),*) => {
        $($x[$a] = _mm256_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = _mm256_xor_si256($x[$d], $x[$a]);)*
        $($x[$d] = rotated($x[$d], &BY_16);)*
        $($x[$c] = _mm256_add_epi32($x[$c], $x[$d]);)*
        $($x[$b] = _mm256_xor_si256($x[$b], $x[$c]);)*
        $($x[$b] = rotate!($x[$b], 12, 20);)*
        $($x[$a] = _mm256_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = _mm256_xor_si256($x[$d], $x[$a]);)*
        $($x[$d] = rotated($x[$d], &BY_8);)*
        $($x[$c] = _mm256_add_epi32($x[$c], $x[$d]);)*
        $($x[$b] = _mm256_xor_si256($x[$b], $x[$c]);)*
        $($x[$b] = rotate!($x[$b], 7, 25);)*
    };
}

impl Cipher {
    /// # Safety
    /// As for [`super::seal`].
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn new(lanes: &[Lane]) -> Self {
        let counters = counters::<BATCH>(lanes);
        // SAFETY: each array is the size of a register.
        let counters = unsafe {
            [_mm256_loadu_si256(counters[0].as_ptr().cast()), _mm256_loadu_si256(counters[1].as_ptr().cast())]
        };
        let zero = _mm256_setzero_si256();
        let first = lanes[0].key;
        let keys_differ = lanes.iter().any(|lane| lane.key != first);
        // SAFETY: the caller vouches for the keys.
        let key = unsafe { if keys_differ { keys_by_packet(lanes) } else { key_in_all_lanes(&*first) } };
        let mut cipher = Self { constants: [zero; 4], key, keys_differ, counters };
        for (row, word) in cipher.constants.iter_mut().zip(CONSTANTS) {
            *row = _mm256_set1_epi32(word);
        }
        cipher
    }

    /// Eight key stream blocks, by columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn columns(&self, places: &Places) -> [__m256i; 16] {
        let [c0, c1, c2, c3] = self.constants;
        // SAFETY: the arrays are the size of what is loaded.
        let (packet, block) = unsafe {
            (
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(places.packets.as_ptr().cast())),
                _mm256_loadu_si256(places.blocks.as_ptr().cast()),
            )
        };
        let [k0, k1, k2, k3, k4, k5, k6, k7] = match self.keys_differ {
            true => self.key.map(|row| _mm256_permutevar8x32_epi32(row, packet)),
            false => self.key,
        };
        let low = _mm256_permutevar8x32_epi32(self.counters[0], packet);
        let high = _mm256_permutevar8x32_epi32(self.counters[1], packet);
        let zero = _mm256_setzero_si256();
        let start = [c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, block, zero, low, high];
        let mut x = start;
        for _ in 0..10 {
            quarter_rounds!(x, [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]);
            quarter_rounds!(x, [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]);
        }
        for (word, start) in x.iter_mut().zip(start) {
            *word = _mm256_add_epi32(*word, start);
        }
        x
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn key_in_all_lanes(key: &[u32; 8]) -> [__m256i; 8] {
    key.map(|word| _mm256_set1_epi32(word as i32))
}

/// Register `w` holds word `w` of every packet's key.
///
/// # Safety
/// As for [`super::seal`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn keys_by_packet(lanes: &[Lane]) -> [__m256i; 8] {
    let mut rows = [_mm256_setzero_si256(); BATCH];
    for (row, lane) in rows.iter_mut().zip(lanes) {
        // SAFETY: the caller vouches for the keys, which are the size of a register.
        *row = unsafe { _mm256_loadu_si256(lane.key.cast()) };
    }
    transpose_8(&rows)
}

/// Applies key stream, given by columns, to the texts of the places in use, from `first` on.
///
/// # Safety
/// As for [`super::seal`]; `places` belong to `lanes`.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn apply(columns: &[__m256i; 16], places: &Places, lanes: &[Lane], first: usize) {
    if first >= places.count {
        return;
    }
    let whole = first == 0 && places.are_whole();
    let halves = [transpose_8(&columns[..8]), transpose_8(&columns[8..])];
    if !whole {
        for (lane, (low, high)) in halves[0].into_iter().zip(halves[1]).enumerate() {
            if lane < first || lane >= places.count {
                continue;
            }
            let (packet, offset) = places.text(lane);
            let (text, left) = (lanes[packet].text.wrapping_add(offset), lanes[packet].len.wrapping_sub(offset));
            // SAFETY: the place is in use: `left` bytes from `text` on are the packet's, at least one.
            unsafe { xor_block(text, left, [low, high]) };
        }
        return;
    }
    let mut texts = [core::ptr::null_mut::<u8>(); ABREAST];
    for (lane, text) in texts.iter_mut().enumerate() {
        let (packet, offset) = places.text(lane);
        *text = lanes[packet].text.wrapping_add(offset);
    }
    for (half, mut rows) in halves.into_iter().enumerate() {
        // All loads before all stores: packets whose addresses agree in their last twelve bits would make each load
        // wait for the store before it.
        for (row, text) in rows.iter_mut().zip(&texts) {
            // SAFETY: the place is in use and not partial, so 64 bytes of the packet's text are there.
            *row = _mm256_xor_si256(*row, unsafe { _mm256_loadu_si256(text.add(32 * half).cast()) });
        }
        for (row, text) in rows.iter().zip(&texts) {
            // SAFETY: as for the loads.
            unsafe { _mm256_storeu_si256(text.add(32 * half).cast(), *row) };
        }
    }
}

/// Applies 64 bytes of key stream to the `left` bytes at `at`, or to the first 64 of them.
///
/// # Safety
/// `left` bytes at `at` may be read and written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn xor_block(at: *mut u8, left: usize, stream: [__m256i; 2]) {
    // SAFETY: 64 bytes are read and written in `at` only where they are the caller's, else in a buffer.
    unsafe {
        if left >= BLOCK {
            xor_64(at, stream);
        } else {
            let mut buffer = [0_u8; BLOCK];
            core::ptr::copy_nonoverlapping(at, buffer.as_mut_ptr(), left);
            xor_64(buffer.as_mut_ptr(), stream);
            core::ptr::copy_nonoverlapping(buffer.as_ptr(), at, left);
        }
    }
}

/// # Safety
/// 64 bytes at `at` may be read and written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn xor_64(at: *mut u8, stream: [__m256i; 2]) {
    for (half, stream) in stream.into_iter().enumerate() {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe {
            let at = at.add(32 * half).cast();
            _mm256_storeu_si256(at, _mm256_xor_si256(_mm256_loadu_si256(at), stream));
        }
    }
}
