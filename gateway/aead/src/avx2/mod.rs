//! ChaCha20-Poly1305 over up to eight packets at once with AVX2.
//!
//! Enters: a batch of packets with their keys, longest first. Leaves: the packets sealed, or opened where authentic. Never
//! does: branch on, or index by, a secret; decrypt a packet whose tag does not match; touch a byte
//! outside the packets it was given.
//!
//! 1. Block 0 of every packet ([`chacha20`]): the one-time keys; what is left of the eight lanes computes key stream.
//! 2. Sealing: the rest of the key stream, then the tags ([`poly1305`]). Opening: the tags first, and key
//!    stream only for packets whose tag is right.
//! 3. What was secret on the stack is wiped by the caller ([`crate::wipe`]).

mod chacha20;
mod poly1305;
mod transpose;

use core::arch::x86_64::*;

use crate::multibuffer::{Lane, chosen};
use chacha20::{Cipher, Places, apply};
use poly1305::{OneTimeKeys, tags};

type Schedule<'a> = crate::schedule::Schedule<'a, ABREAST, { 2 * ABREAST }>;

/// Packets per batch.
pub(crate) const BATCH: usize = 8;
/// ChaCha20 blocks computed at once.
const ABREAST: usize = 8;
/// Packets that Poly1305 has side by side.
const LANES: usize = 4;

/// Whether this CPU has what the engine needs.
pub(crate) fn is_supported() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Seals 1 to [`BATCH`] packets.
///
/// # Safety
/// [`is_supported`] was true; every lane's `text` is valid for reads and writes of `len + TAG_LEN` bytes,
/// no two lanes overlap, and nothing else accesses them meanwhile. Every lane's `key` is valid for reads. Lanes are sorted by length, longest first.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn seal(lanes: &[Lane]) {
    // SAFETY: the caller vouches for the lanes.
    let cipher = unsafe { Cipher::new(lanes) };
    let mut schedule = Schedule::new(lanes, 0);
    let places = schedule.take();
    let columns = cipher.columns(&places);
    let keys = one_time_keys(&columns);
    // SAFETY: the caller vouches for the lanes.
    unsafe {
        apply(&columns, &places, lanes, lanes.len());
        apply_rest(&cipher, schedule, lanes);
    }
    for (keys, lanes) in keys.iter().zip(lanes.chunks(LANES)) {
        // SAFETY: as above; every lane's text is initialised.
        let tags = words(&unsafe { tags(keys, lanes) });
        for (i, lane) in lanes.iter().enumerate() {
            // SAFETY: the caller vouches for TAG_LEN bytes behind the text.
            unsafe { lane.put_tag([tags[0][i], tags[1][i]]) };
        }
    }
}

/// Opens 1 to [`BATCH`] packets and returns the set of those that were authentic, bit `i`
/// for lane `i`. The others keep their ciphertext.
///
/// # Safety
/// As for [`seal`].
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn open(lanes: &[Lane]) -> u16 {
    // SAFETY: the caller vouches for the lanes.
    let cipher = unsafe { Cipher::new(lanes) };
    let mut schedule = Schedule::new(lanes, 0);
    let places = schedule.take();
    let columns = cipher.columns(&places);
    let keys = one_time_keys(&columns);
    let mut authentic = 0_u16;
    for (group, (keys, lanes)) in keys.iter().zip(lanes.chunks(LANES)).enumerate() {
        // SAFETY: the caller vouches for the lanes.
        let tags = words(&unsafe { tags(keys, lanes) });
        for (i, lane) in lanes.iter().enumerate() {
            // SAFETY: the caller vouches for TAG_LEN bytes behind the text.
            let right = unsafe { lane.has_tag([tags[0][i], tags[1][i]]) };
            authentic |= u16::from(right) << (group * LANES + i);
        }
    }
    if authentic.count_ones() as usize == lanes.len() {
        // SAFETY: the caller vouches for the lanes.
        unsafe {
            apply(&columns, &places, lanes, lanes.len());
            apply_rest(&cipher, schedule, lanes);
        }
    } else if authentic != 0 {
        let (right, count) = chosen::<BATCH>(lanes, authentic);
        let right = &right[..count];
        // SAFETY: as above.
        unsafe { apply_rest(&Cipher::new(right), Schedule::new(right, 1), right) };
    }
    authentic
}

/// The one-time keys of lanes 0 to 3 and 4 to 7.
#[inline]
#[target_feature(enable = "avx2")]
fn one_time_keys(columns: &[__m256i; 16]) -> [OneTimeKeys; 2] {
    let mut halves = [[_mm_setzero_si128(); 8]; 2];
    for (i, column) in columns[..8].iter().enumerate() {
        halves[0][i] = _mm256_castsi256_si128(*column);
        halves[1][i] = _mm256_extracti128_si256::<1>(*column);
    }
    let [low, high] = halves;
    [OneTimeKeys::new(low), OneTimeKeys::new(high)]
}

/// Applies all key stream that is left in the schedule.
///
/// # Safety
/// As for [`seal`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn apply_rest(cipher: &Cipher, mut schedule: Schedule<'_>, lanes: &[Lane]) {
    let mut places = schedule.take();
    while places.count > 0 {
        // One round ahead, so that nothing waits for the schedule's stores.
        let next: Places = schedule.take();
        // SAFETY: the caller vouches for the lanes.
        unsafe { apply(&cipher.columns(&places), &places, lanes, 0) };
        places = next;
    }
}

/// Registers as arrays of words.
#[inline]
#[target_feature(enable = "avx2")]
fn words(registers: &[__m256i; 2]) -> [[u64; LANES]; 2] {
    let mut words = [[0; LANES]; 2];
    for (words, register) in words.iter_mut().zip(registers) {
        // SAFETY: an array is the size of a register.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), *register) };
    }
    words
}

/// Tags under chosen one-time keys, for the tests of the arithmetic's edges.
#[cfg(test)]
pub(crate) fn tags_of(one_time_keys: &[[u8; 32]], texts: &[Vec<u8>]) -> Vec<[u8; crate::TAG_LEN]> {
    assert!(is_supported());
    let mut all = Vec::new();
    for (keys, texts) in one_time_keys.chunks(LANES).zip(texts.chunks(LANES)) {
        let lane = |text: &Vec<u8>| Lane {
            key: core::ptr::null(),
            text: text.as_ptr().cast_mut(),
            len: text.len(),
            counter: 0,
        };
        let lanes: Vec<Lane> = texts.iter().map(lane).collect();
        let mut columns = [[0_u32; LANES]; 8];
        for (i, key) in keys.iter().enumerate() {
            for (column, word) in columns.iter_mut().zip(key.chunks_exact(4)) {
                column[i] = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            }
        }
        // SAFETY: the engine is supported; arrays are the size of registers; the texts are borrowed for the call, which
        // only reads them.
        let tags = unsafe {
            let keys = OneTimeKeys::new(columns.map(|column| _mm_loadu_si128(column.as_ptr().cast())));
            words(&tags(&keys, &lanes))
        };
        for (low, high) in tags[0].into_iter().zip(tags[1]).take(lanes.len()) {
            let mut tag = [0; crate::TAG_LEN];
            tag[..8].copy_from_slice(&low.to_le_bytes());
            tag[8..].copy_from_slice(&high.to_le_bytes());
            all.push(tag);
        }
    }
    all
}
