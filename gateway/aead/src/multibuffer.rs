//! Bursts in batches of equal key and similar length, for engines that work across packets.
//!
//! Enters: a burst in any order. Leaves: the same burst sealed or opened; packets stay where they are,
//! only the order of work changes. Never does: refuse a burst: what makes no batch worth its cost goes to
//! `ring`, packet by packet.
//!
//! 1. Sort the burst's indices by key and length, longest first.
//! 2. Cut the order where the key changes and after [`BATCH`] packets.
//! 3. A batch that is too small for its length goes to `ring`; so does a packet shorter than a tag.

use crate::avx512::BATCH;
use crate::{Packet, TAG_LEN, avx512};

/// A packet of a batch: `len` bytes of text at `text`, its tag right behind.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) text: *mut u8,
    pub(crate) len: usize,
    pub(crate) counter: u64,
}

/// Most packets that are sorted together.
const SORTED: usize = 64;

/// Seals a burst. The caller has found [`avx512::is_supported`] true.
pub(crate) fn seal_burst(burst: &mut [Packet<'_>]) {
    for part in burst.chunks_mut(SORTED) {
        for_each_batch(part, |part, batch| {
            if batch.len() < SMALLEST_BATCH {
                for &at in batch {
                    let packet = &mut part[usize::from(at)];
                    packet.key.seal(packet.counter, packet.bytes);
                }
                return;
            }
            let (lanes, count) = lanes(part, batch);
            // SAFETY: the engine is supported; the lanes come from distinct exclusive slices of at least TAG_LEN
            // bytes, which are borrowed for the whole call.
            unsafe { avx512::seal(&part[usize::from(batch[0])].key.words, &lanes[..count]) };
        });
    }
    crate::wipe::dead_stack();
}

/// Opens a burst. The caller has found [`avx512::is_supported`] true.
pub(crate) fn open_burst(burst: &mut [Packet<'_>]) {
    for part in burst.chunks_mut(SORTED) {
        for_each_batch(part, |part, batch| {
            let shortest = batch.last().map_or(0, |&at| part[usize::from(at)].bytes.len());
            if shortest < TAG_LEN || batch.len() < SMALLEST_BATCH {
                for &at in batch {
                    let packet = &mut part[usize::from(at)];
                    packet.authentic = packet.key.open(packet.counter, packet.bytes).is_ok();
                }
                return;
            }
            let (lanes, count) = lanes(part, batch);
            // SAFETY: as in `seal_burst`; the shortest packet of the batch holds a tag.
            let authentic = unsafe { avx512::open(&part[usize::from(batch[0])].key.words, &lanes[..count]) };
            for (i, &at) in batch.iter().enumerate() {
                part[usize::from(at)].authentic = authentic & (1 << i) != 0;
            }
        });
    }
    crate::wipe::dead_stack();
}

/// How many packets a batch must have to cost less than `ring` does for them one by one, whatever their
/// length: a batch takes as long as its lanes are deep, however many of them are filled. Measured by the
/// example `speed`.
const SMALLEST_BATCH: usize = 5;

fn for_each_batch<'a>(part: &mut [Packet<'a>], mut work: impl FnMut(&mut [Packet<'a>], &[u8])) {
    let mut order = [0_u8; SORTED];
    let order = &mut order[..part.len()];
    for (i, at) in order.iter_mut().enumerate() {
        *at = i as u8;
    }
    let sort_key = |at: u8| {
        let packet = &part[usize::from(at)];
        (core::ptr::from_ref(packet.key) as usize, core::cmp::Reverse(packet.bytes.len()))
    };
    if !order.is_sorted_by_key(|&at| sort_key(at)) {
        order.sort_unstable_by_key(|&at| sort_key(at));
    }
    let mut rest = &*order;
    while let Some(&first) = rest.first() {
        let key = part[usize::from(first)].key;
        let same = rest.iter().take(BATCH).take_while(|&&at| core::ptr::eq(part[usize::from(at)].key, key)).count();
        let (batch, behind) = rest.split_at(same);
        work(part, batch);
        rest = behind;
    }
}

fn lanes(part: &mut [Packet<'_>], batch: &[u8]) -> ([Lane; BATCH], usize) {
    let mut lanes = [Lane { text: core::ptr::null_mut(), len: 0, counter: 0 }; BATCH];
    for (lane, &at) in lanes.iter_mut().zip(batch) {
        let packet = &mut part[usize::from(at)];
        let len = packet.bytes.len() - TAG_LEN;
        *lane = Lane { text: packet.bytes.as_mut_ptr(), len, counter: packet.counter };
    }
    (lanes, batch.len())
}
