//! Addresses as integers, and the places in them where nodes of the trie stand.
//!
//! Places are counted as if `PAD` zero bits stood before the address, which are no part of the integer: with them
//! the common lengths of prefixes (/24 and /32, /64 and /128) end within a node's six bits and not just behind them,
//! so that neighbours share a node.

/// Bits of an address that one node of the trie decides on.
pub(super) const STRIDE: u8 = 6;

/// An address as an integer.
pub(super) trait Key: Copy + Eq {
    /// Bits that are thought before the address.
    const PAD: u8;
    /// The place before which all bits are equal.
    fn common(self, other: Self) -> u8;
    /// The `STRIDE` bits from a place on that is a multiple of `STRIDE`, and zeros behind the last.
    fn chunk(self, place: u8) -> usize;
    /// The bits before a place alone.
    fn above(self, place: u8) -> Self;
}

impl Key for u32 {
    const PAD: u8 = 3;

    #[inline]
    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8 + Self::PAD
    }

    #[inline]
    fn chunk(self, place: u8) -> usize {
        let shifted = if place == 0 { self >> Self::PAD } else { self << (place - Self::PAD) };
        (shifted >> (32 - STRIDE)) as usize
    }

    #[inline]
    fn above(self, place: u8) -> Self {
        self & Self::MAX.checked_shl(32 - Self::from(place.saturating_sub(Self::PAD))).unwrap_or(0)
    }
}

impl Key for u128 {
    const PAD: u8 = 1;

    #[inline]
    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8 + Self::PAD
    }

    #[inline]
    fn chunk(self, place: u8) -> usize {
        let shifted = if place == 0 { self >> Self::PAD } else { self << (place - Self::PAD) };
        (shifted >> (128 - STRIDE)) as usize
    }

    #[inline]
    fn above(self, place: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(place.saturating_sub(Self::PAD))).unwrap_or(0)
    }
}
