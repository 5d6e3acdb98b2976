//! TAI64N timestamps (paper, section 5.1): they only have to grow, so they are rounded down and forced to grow.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::message::TIMESTAMP_LEN;
use crate::tuning::TIMESTAMP_GRAIN_NS;

/// The TAI64 label of the Unix epoch: 2^62, and the ten leap seconds of 1970.
const EPOCH: u64 = (1 << 62) + 10;
const SECOND_NS: u32 = 1_000_000_000;

/// Seconds and nanoseconds in big endian, so that the order of bytes is the order of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Timestamp([u8; Self::LEN]);

impl Timestamp {
    pub(crate) const LEN: usize = TIMESTAMP_LEN;

    pub(crate) const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The timestamp to send at a time, after `last` was sent: greater than it even when the clock stood or
    /// went back.
    pub(crate) fn after(last: Self, wall: SystemTime) -> Self {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let whitened = Self::new(EPOCH + since.as_secs(), since.subsec_nanos() & !(TIMESTAMP_GRAIN_NS - 1));
        if whitened > last { whitened } else { last.next() }
    }

    fn new(seconds: u64, ns: u32) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&ns.to_be_bytes());
        Self(bytes)
    }

    fn next(self) -> Self {
        let (seconds, ns) = self.0.split_at(8);
        let seconds = u64::from_be_bytes(seconds.try_into().unwrap_or_default());
        let ns = u32::from_be_bytes(ns.try_into().unwrap_or_default()) + TIMESTAMP_GRAIN_NS;
        if ns < SECOND_NS { Self::new(seconds, ns) } else { Self::new(seconds + 1, 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_tai64n_rounded_down() {
        let wall = UNIX_EPOCH + Duration::new(1_700_000_000, 999_999_999);
        let stamp = Timestamp::after(Timestamp::default(), wall);
        assert_eq!(stamp.0[..8], (0x4000_0000_0000_000a_u64 + 1_700_000_000).to_be_bytes());
        assert_eq!(stamp.0[8..], (0x3b00_0000_u32).to_be_bytes());
    }

    #[test]
    fn timestamps_grow_when_the_clock_stands_or_goes_back() {
        let mut last = Timestamp::default();
        for step in 0..500_u64 {
            let wall = UNIX_EPOCH + Duration::from_secs(1_700_000_000 - step % 7 * 1000);
            let stamp = Timestamp::after(last, wall);
            assert!(stamp > last, "step {step}");
            last = stamp;
        }
        assert!(Timestamp::after(Timestamp::default(), UNIX_EPOCH - Duration::from_secs(9)) > Timestamp::default());
    }
}
