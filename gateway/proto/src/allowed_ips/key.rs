//! Addresses as integers.

/// Bits of an address that one node of the trie decides on.
pub(super) const STRIDE: u8 = 6;

/// An address as an integer.
pub(super) trait Key: Copy + Eq {
    /// How many leading bits are equal.
    fn common(self, other: Self) -> u8;
    /// The `STRIDE` bits from bit `at` on, and zeros behind the last.
    fn chunk(self, at: u8) -> usize;
    /// The leading bits alone.
    fn masked(self, len: u8) -> Self;
}

impl Key for u32 {
    #[inline]
    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    #[inline]
    fn chunk(self, at: u8) -> usize {
        ((self << at) >> (32 - STRIDE)) as usize
    }

    #[inline]
    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(32 - Self::from(len)).unwrap_or(0)
    }
}

impl Key for u128 {
    #[inline]
    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    #[inline]
    fn chunk(self, at: u8) -> usize {
        ((self << at) >> (128 - STRIDE)) as usize
    }

    #[inline]
    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }
}
