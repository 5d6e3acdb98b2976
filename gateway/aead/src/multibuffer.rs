//! Bursts in batches of similar length, for engines that work across packets.
//!
//! Enters: a burst in any order. Leaves: the same burst sealed or opened; packets stay where they are,
//! only the order of work changes. Never does: refuse a burst: what makes no batch worth its cost goes to
//! `ring`, packet by packet.
//!
//! 1. Sort the burst's indices by length, longest first. Keys may differ: each of an engine's lanes has its own.
//! 2. Cut the order after each batch's worth of packets.
//! 3. A batch that `ring` does faster goes to `ring`; so does a packet shorter than a tag, or longer than any packet.
//! 4. Wipe what the engine left on the stack, once.

use crate::{Packet, TAG_LEN, avx2, avx512, by_ring};

/// A packet of a batch: `len` bytes of text at `text`, its tag right behind.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    /// Valid for reads as long as the text.
    pub(crate) key: *const [u32; 8],
    pub(crate) text: *mut u8,
    pub(crate) len: usize,
    pub(crate) counter: u64,
}

impl Lane {
    /// Writes the tag, given as its low and its high half.
    ///
    /// # Safety
    /// TAG_LEN bytes behind the text may be written.
    #[inline(always)]
    pub(crate) unsafe fn put_tag(&self, tag: [u64; 2]) {
        // SAFETY: the caller vouches for them.
        unsafe { self.text.add(self.len).cast::<[u64; 2]>().write_unaligned(tag) };
    }

    /// Whether the packet has this tag, given as its halves: in a time that does not depend on either.
    ///
    /// # Safety
    /// TAG_LEN bytes behind the text may be read.
    #[inline(always)]
    pub(crate) unsafe fn has_tag(&self, tag: [u64; 2]) -> bool {
        // SAFETY: the caller vouches for them.
        let given = unsafe { self.text.add(self.len).cast::<[u64; 2]>().read_unaligned() };
        // Both halves count before anything depends on them: the result is public, its parts are not.
        core::hint::black_box((tag[0] ^ given[0]) | (tag[1] ^ given[1])) == 0
    }
}

/// The lanes of a set, in their order, and how many they are; bit `i` of the set is lane `i`.
#[inline]
pub(crate) fn chosen<const N: usize>(lanes: &[Lane], set: u16) -> ([Lane; N], usize) {
    let mut chosen = [lanes[0]; N];
    let mut count = 0;
    for (i, lane) in lanes.iter().enumerate() {
        if set & (1 << i) != 0 {
            chosen[count] = *lane;
            count += 1;
        }
    }
    (chosen, count)
}

/// The packets' counters, low words and high words.
#[inline(always)]
pub(crate) fn counters<const N: usize>(lanes: &[Lane]) -> [[u32; N]; 2] {
    let mut counters = [[0; N]; 2];
    for (i, lane) in lanes.iter().enumerate() {
        counters[0][i] = lane.counter as u32;
        counters[1][i] = (lane.counter >> 32) as u32;
    }
    counters
}

/// "expand 32-byte k", RFC 8439 section 2.3.
pub(crate) const CONSTANTS: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// An implementation that works across the packets of a batch.
pub(crate) struct Kernel {
    /// Whether the CPU has what it needs.
    pub(crate) is_supported: fn() -> bool,
    /// Most packets of one call.
    batch: usize,
    seal: unsafe fn(&[Lane]),
    open: unsafe fn(&[Lane]) -> u16,
    cost: Cost,
}

/// What a batch costs, in units of which `ring` takes [`RING`]. Measured by the example `speed`; the unit was a
/// nanosecond there, but only ratios count.
struct Cost {
    /// Of a call; more than alike packets need, for what packets of mixed lengths take beside.
    call: usize,
    /// Of a round of ChaCha20, and how many blocks are in it: two to this power.
    round: usize,
    abreast_log: u32,
    /// Of Poly1305 over 64 bytes of a group of packets, and how many packets are in it.
    step: usize,
    group: usize,
}

/// `ring`'s cost: of a packet, and of 64 bytes of it.
const RING: (usize, usize) = (150, 29);

/// AVX-512 with IFMA and VBMI2.
pub(crate) static AVX512: Kernel = Kernel {
    is_supported: avx512::is_supported,
    batch: avx512::BATCH,
    seal: avx512::seal,
    open: avx512::open,
    cost: Cost { call: 330, round: 180, abreast_log: 4, step: 37, group: 8 },
};

/// AVX2.
pub(crate) static AVX2: Kernel = Kernel {
    is_supported: avx2::is_supported,
    batch: avx2::BATCH,
    seal: avx2::seal,
    open: avx2::open,
    cost: Cost { call: 280, round: 182, abreast_log: 3, step: 37, group: 4 },
};

/// Most packets of a batch of any kernel.
const BATCH: usize = 16;
const _: () = assert!(avx512::BATCH <= BATCH && avx2::BATCH <= BATCH);

/// Bursts below this go to `ring` without a look at their packets: no kernel is faster for two.
const SMALLEST: usize = 3;

/// Most packets that are sorted together.
const SORTED: usize = 64;

/// Longest packet that kernels take: more than any IP packet, and so short that no count of bytes or blocks overflows.
const LONGEST: usize = 1 << 20;

impl Kernel {
    /// Seals a burst.
    ///
    /// # Safety
    /// The kernel is supported.
    pub(crate) unsafe fn seal_burst(&self, burst: &mut [Packet<'_>]) {
        if burst.len() < SMALLEST {
            return by_ring::seal(burst);
        }
        self.run(
            burst,
            |packet| packet.key.seal(packet.counter, packet.bytes),
            |_, _, lanes| {
                // SAFETY: the engine is supported; the lanes come from distinct exclusive slices of at least TAG_LEN
                // bytes, which are borrowed for the whole call as their keys are, and are sorted.
                unsafe { (self.seal)(lanes) };
            },
        );
    }

    /// Opens a burst.
    ///
    /// # Safety
    /// The kernel is supported.
    pub(crate) unsafe fn open_burst(&self, burst: &mut [Packet<'_>]) {
        if burst.len() < SMALLEST {
            return by_ring::open(burst);
        }
        self.run(
            burst,
            |packet| packet.authentic = packet.key.open(packet.counter, packet.bytes).is_ok(),
            |part, batch, lanes| {
                // SAFETY: as in `seal_burst`.
                let authentic = unsafe { (self.open)(lanes) };
                for (i, &at) in batch.iter().enumerate() {
                    part[usize::from(at)].authentic = authentic & (1 << i) != 0;
                }
            },
        );
    }

    /// Gives each batch to the kernel, or its packets to `ring`, and wipes the stack at the end.
    #[inline]
    fn run<'a>(
        &self,
        burst: &mut [Packet<'a>],
        by_ring: impl Fn(&mut Packet<'a>),
        by_kernel: impl Fn(&mut [Packet<'a>], &[u8], &[Lane]),
    ) {
        let mut ran = false;
        for part in burst.chunks_mut(SORTED) {
            self.for_each_batch(part, |part, batch| match self.lanes(part, batch) {
                Some(lanes) => {
                    ran = true;
                    by_kernel(part, batch, &lanes[..batch.len()]);
                }
                None => batch.iter().for_each(|&at| by_ring(&mut part[usize::from(at)])),
            });
        }
        if ran {
            crate::wipe::dead_stack();
        }
    }

    fn for_each_batch<'a>(&self, part: &mut [Packet<'a>], mut work: impl FnMut(&mut [Packet<'a>], &[u8])) {
        let mut order = [0_u8; SORTED];
        let order = &mut order[..part.len()];
        for (i, at) in order.iter_mut().enumerate() {
            *at = i as u8;
        }
        let sort_key = |at: u8| core::cmp::Reverse(part[usize::from(at)].bytes.len());
        if !order.is_sorted_by_key(|&at| sort_key(at)) {
            order.sort_unstable_by_key(|&at| sort_key(at));
        }
        for batch in order.chunks(self.batch) {
            work(part, batch);
        }
    }

    /// The packets of a batch, if the kernel can take them and is faster than `ring`.
    fn lanes(&self, part: &mut [Packet<'_>], batch: &[u8]) -> Option<[Lane; BATCH]> {
        let none = Lane { key: core::ptr::null(), text: core::ptr::null_mut(), len: 0, counter: 0 };
        let mut lanes = [none; BATCH];
        for (lane, &at) in lanes.iter_mut().zip(batch) {
            let packet = &mut part[usize::from(at)];
            let len = packet.bytes.len().checked_sub(TAG_LEN).filter(|len| *len <= LONGEST)?;
            *lane = Lane {
                key: &raw const packet.key.words,
                text: packet.bytes.as_mut_ptr(),
                len,
                counter: packet.counter,
            };
        }
        self.cost.is_below_rings(&lanes[..batch.len()]).then_some(lanes)
    }
}

impl Cost {
    fn is_below_rings(&self, lanes: &[Lane]) -> bool {
        let units = |lane: &Lane| lane.len.div_ceil(64);
        let data: usize = lanes.iter().map(units).sum();
        let rounds = (data + lanes.len() + (1 << self.abreast_log) - 1) >> self.abreast_log;
        // Each group works as long as its longest packet.
        let steps: usize = lanes.chunks(self.group).map(|group| units(&group[0]) + 1).sum();
        self.call + rounds * self.round + steps * self.step < lanes.len() * RING.0 + data * RING.1
    }
}
