//! The internet checksum (RFC 1071), wide and incremental.
//!
//! Enters: bytes, in pieces of even length. Leaves: their ones' complement sum. Never does: know where a
//! checksum stands in a packet. Sums are kept in the machine's byte order, which RFC 1071 (section 2, B)
//! allows, so no word is swapped on the way.

use landbridge_xsk::sum;

/// A ones' complement sum that has not been folded to 16 bits. It has room for 2^32 words, far more than a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

const LOW: u64 = 0xffff_ffff;

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of some bytes.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sum::words(bytes))
    }

    /// Copies `from` over `to` (of the same length) and sums it on the way: one pass over memory, not two.
    ///
    /// # Panics
    /// When the lengths differ.
    #[inline]
    #[must_use]
    pub fn of_copy(to: &mut [u8], from: &[u8]) -> Self {
        Self(sum::words_of_copy(to, from))
    }

    /// Adds another sum, of bytes that begin at an even place of the packet.
    #[inline]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Adds a number that stands in the packet as a big-endian 16-bit word.
    #[inline]
    #[must_use]
    pub const fn plus_u16(self, word: u16) -> Self {
        Self(self.0 + word.to_be() as u64)
    }

    /// Adds a number that stands in the packet as a big-endian 32-bit word.
    #[inline]
    #[must_use]
    pub const fn plus_u32(self, word: u32) -> Self {
        Self(self.0 + word.to_be() as u64)
    }

    #[inline]
    const fn folded(self) -> u16 {
        let mut sum = (self.0 & LOW) + (self.0 >> 32);
        sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum's bytes as they stand in the packet.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.folded()).to_ne_bytes()
    }

    /// As [`Sum::checksum`], with zero written as its other form: zero means "no checksum" to UDP (RFC 768).
    #[inline]
    #[must_use]
    pub const fn checksum_nonzero(self) -> [u8; 2] {
        match !self.folded() {
            0 => [0xff, 0xff],
            sum => sum.to_ne_bytes(),
        }
    }

    /// The sum itself, not complemented: what stands in the checksum field of a packet whose checksum the receiver
    /// of a `virtio_net_hdr` is to finish.
    #[inline]
    #[must_use]
    pub const fn partial(self) -> [u8; 2] {
        self.folded().to_ne_bytes()
    }

    /// Whether bytes that include their own checksum are intact.
    #[inline]
    #[must_use]
    pub const fn is_intact(self) -> bool {
        self.folded() == 0xffff
    }

    /// The pseudo header of TCP and UDP (RFC 9293, RFC 768, RFC 8200 section 8.1), without its length:
    /// `addresses` are source and destination as they stand in the IP header.
    #[inline]
    #[must_use]
    pub fn pseudo(addresses: &[u8], protocol: u8) -> Self {
        Self::of(addresses).plus_u16(u16::from(protocol))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 word by word, with nothing clever.
    pub(crate) fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_gives_its_sum() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).partial(), [0xdd, 0xf2]);
        assert_eq!(Sum::of(&bytes).checksum(), [0x22, 0x0d]);
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        let bytes = vec![0xff; 65_536];
        assert!(Sum::of(&bytes).is_intact());
        assert_eq!(Sum::of(&bytes).checksum_nonzero(), [0xff, 0xff]);
        assert_eq!(Sum(u64::MAX).partial(), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn sums_equal_the_naive_ones_at_any_length_and_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0_usize..200,
        ) {
            let expected = naive(&bytes).to_be_bytes();
            prop_assert_eq!(Sum::of(&bytes).checksum(), expected);
            let mut copy = vec![0; bytes.len()];
            prop_assert_eq!(Sum::of_copy(&mut copy, &bytes).checksum(), expected);
            prop_assert_eq!(&copy, &bytes);
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(Sum::of(a).plus(Sum::of(b)).checksum(), expected);
        }

        #[test]
        fn numbers_add_as_the_bytes_they_are(a in any::<u16>(), b in any::<u32>()) {
            let bytes = [a.to_be_bytes().as_slice(), b.to_be_bytes().as_slice()].concat();
            prop_assert_eq!(Sum::ZERO.plus_u16(a).plus_u32(b).partial(), Sum::of(&bytes).partial());
        }
    }
}
