//! ChaCha20-Poly1305 over up to sixteen packets at once with AVX-512 (F, BW, VL, IFMA).
//!
//! Enters: one key and a batch of packets. Leaves: the packets sealed, or opened where authentic. Never
//! does: branch on, or index by, a secret; decrypt a packet whose tag does not match; touch a byte
//! outside the packets it was given.
//!
//! 1. The first two ChaCha20 blocks of every packet ([`chacha20`]): its one-time key and its first 64 bytes.
//! 2. Sealing: the rest of the key stream, then the tags ([`poly1305`]). Opening: the tags first, and key
//!    stream only for packets whose tag is right.
//! 3. What was secret on the stack is wiped.

mod chacha20;
mod poly1305;
mod transpose;

use core::arch::x86_64::*;

use zeroize::Zeroize;

use crate::TAG_LEN;
use chacha20::{Cipher, Positions, xor_block};
use poly1305::tags;

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

/// The first `n` of 64 bytes.
#[inline]
fn byte_mask(n: usize) -> __mmask64 {
    if n >= BLOCK { u64::MAX } else { (1 << n) - 1 }
}

/// Tags under chosen one-time keys, for the tests of the arithmetic's edges.
#[cfg(test)]
pub(crate) fn tags_of(one_time_keys: &[[u8; 32]], texts: &[Vec<u8>]) -> Vec<[u8; TAG_LEN]> {
    assert!(is_supported() && texts.len() <= BATCH);
    let mut keys = [[0; BLOCK]; BATCH];
    for (key, given) in keys.iter_mut().zip(one_time_keys) {
        key[..32].copy_from_slice(given);
    }
    let lane = |text: &Vec<u8>| Lane { text: text.as_ptr().cast_mut(), len: text.len(), counter: 0 };
    let lanes: Vec<Lane> = texts.iter().map(lane).collect();
    // SAFETY: the engine is supported; the texts are borrowed for the call, which only reads them.
    unsafe { tags(&keys, &lanes)[..texts.len()].to_vec() }
}
