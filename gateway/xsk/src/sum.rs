//! Sums of bytes for the internet checksum, by the widest registers at hand.
//!
//! Enters: bytes. Leaves: the sum of their 32-bit words in the machine's byte order, which folds to that of RFC 1071.
//! Never does: know where a checksum stands.
//!
//! The same lines are compiled twice, for every machine and for those with AVX2; which are run is asked of the CPU (and
//! remembered by the standard library, so that asking is one load).

/// Bytes taken per step: wide enough to keep two vector accumulators busy.
const STEP: usize = 64;
const LOW: u64 = 0xffff_ffff;
/// Shorter ones are not worth a call.
#[cfg(target_arch = "x86_64")]
const SHORT: usize = 128;

/// The sum of the 32-bit words of some bytes; what is left at the end counts as if zeroes followed.
#[inline]
#[must_use]
pub fn words(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= SHORT && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has what this is compiled for.
        return unsafe { words_avx2(bytes) };
    }
    words_here(bytes)
}

/// Copies `from` over `to` and sums it on the way: one pass over memory, not two.
///
/// # Panics
/// When the lengths differ.
#[inline]
#[must_use]
pub fn words_of_copy(to: &mut [u8], from: &[u8]) -> u64 {
    assert_eq!(to.len(), from.len(), "a copy has the length of its original");
    #[cfg(target_arch = "x86_64")]
    if from.len() >= SHORT && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has what this is compiled for.
        return unsafe { words_of_copy_avx2(to, from) };
    }
    words_of_copy_here(to, from)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn words_avx2(bytes: &[u8]) -> u64 {
    words_here(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn words_of_copy_avx2(to: &mut [u8], from: &[u8]) -> u64 {
    words_of_copy_here(to, from)
}

#[inline(always)]
fn words_here(bytes: &[u8]) -> u64 {
    let (steps, tail) = bytes.as_chunks::<STEP>();
    let mut lanes = Lanes::default();
    for step in steps {
        lanes.add(step);
    }
    lanes.total() + of_tail(tail)
}

#[inline(always)]
fn words_of_copy_here(to: &mut [u8], from: &[u8]) -> u64 {
    let (to_steps, to_tail) = to.as_chunks_mut::<STEP>();
    let (steps, tail) = from.as_chunks::<STEP>();
    let mut lanes = Lanes::default();
    for (to, step) in to_steps.iter_mut().zip(steps) {
        *to = *step;
        lanes.add(step);
    }
    to_tail.copy_from_slice(tail);
    lanes.total() + of_tail(tail)
}

/// Sums of low and high halves, each with room for 2^32 of them.
#[derive(Default)]
struct Lanes {
    low: [u64; STEP / 8],
    high: [u64; STEP / 8],
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, step: &[u8; STEP]) {
        for (i, word) in step.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_ne_bytes(*word);
            self.low[i] += word & LOW;
            self.high[i] += word >> 32;
        }
    }

    #[inline(always)]
    fn total(&self) -> u64 {
        self.low.iter().sum::<u64>() + self.high.iter().sum::<u64>()
    }
}

#[inline(always)]
fn of_tail(tail: &[u8]) -> u64 {
    let (words, rest) = tail.as_chunks::<4>();
    let mut sum = 0;
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    for pair in pairs {
        sum += u64::from(u16::from_ne_bytes(*pair));
    }
    for byte in odd {
        sum += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_gives_the_same_sum_and_copy_at_every_length() {
        let bytes: Vec<u8> = (0..2000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        for len in (0..600).chain([1419, 1420, 1999, 2000]) {
            let bytes = &bytes[..len];
            let expected = words_here(bytes);
            assert_eq!(words(bytes), expected, "{len} bytes");
            let mut copy = vec![0; len];
            assert_eq!(words_of_copy(&mut copy, bytes), expected, "a copy of {len} bytes");
            assert_eq!(copy, bytes);
        }
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        assert_eq!(words(&[0xff; 65_536]), 16_384 * LOW);
    }
}
