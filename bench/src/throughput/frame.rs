//! What a frame of a trial is: its size, its IP version, and the mix of sizes.
//!
//! A size is that of the **IP packet inside the tunnel**, header included: what a route's MTU counts. On the lan link
//! an Ethernet frame has 14 bytes more (18 with the check sequence that a real wire adds), so 64 here is a frame of 82
//! bytes in the terms of RFC 2544, and 1420 is the largest packet that a tunnel over a wan of 1500 bytes carries.
//!
//! Enters: nothing. Leaves: sizes. Never does: make a frame.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Smallest packet: the stamp of a frame fits behind the headers of both IP versions.
pub(crate) const PACKET_BYTES_MIN: u16 = 64;
/// Largest packet: a page, which a live frame occupies, less the kernel's room in it.
pub(crate) const PACKET_BYTES_MAX: u16 = 3200;

/// The sizes of the mix and how many frames of [`IMIX_CYCLE`] have each: 28 x 64, 16 x 570, 4 x 1518 in their smallest
/// terms, the largest cut to what fits the tunnel.
pub(crate) const IMIX: [(u16, u16); 3] = [(64, 7), (570, 4), (1420, 1)];
/// Frames after which the mix begins again.
pub(crate) const IMIX_CYCLE: u16 = 12;

/// The size of a trial's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum FrameSize {
    /// Bytes of the IP packet.
    Bytes(u16),
    /// 7 x 64, 4 x 570 and 1 x 1420 bytes in every 12 packets, in a fixed order that spreads them.
    Imix,
}

/// The mix in the order in which a flow has it: each size spread over the cycle.
pub(crate) fn imix_order() -> [u16; IMIX_CYCLE as usize] {
    let mut given = [0_u16; IMIX.len()];
    std::array::from_fn(|turn| {
        // The size that is furthest behind its share.
        let furthest = (0..IMIX.len())
            .max_by_key(|place| i32::from((turn as u16 + 1) * IMIX[*place].1) - i32::from(given[*place] * IMIX_CYCLE));
        let place = furthest.unwrap_or_default();
        given[place] += 1;
        IMIX[place].0
    })
}

impl FrameSize {
    /// Bytes of a packet on average.
    pub(crate) fn bytes_mean(self) -> f64 {
        match self {
            Self::Bytes(bytes) => f64::from(bytes),
            Self::Imix => {
                let sum: f64 = IMIX.iter().map(|(bytes, count)| f64::from(*bytes) * f64::from(*count)).sum();
                sum / f64::from(IMIX_CYCLE)
            }
        }
    }
}

impl fmt::Display for FrameSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

impl FromStr for FrameSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Self::Imix);
        }
        match text.parse() {
            Ok(bytes) if (PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&bytes) && bytes % 2 == 0 => {
                Ok(Self::Bytes(bytes))
            }
            _ => Err(format!(
                "a size is an even number of {PACKET_BYTES_MIN} to {PACKET_BYTES_MAX} bytes of IP packet, or imix"
            )),
        }
    }
}

impl Serialize for FrameSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The IP version of a trial's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IpVersion {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_printed() {
        for size in [FrameSize::Bytes(64), FrameSize::Bytes(1420), FrameSize::Imix] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for text in ["63", "65", "3202", "", "-1", "mix"] {
            assert!(text.parse::<FrameSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_mix_has_twelve_frames_and_its_mean_is_theirs() {
        assert_eq!(IMIX.iter().map(|(_, count)| count).sum::<u16>(), IMIX_CYCLE);
        let mean = (7.0 * 64.0 + 4.0 * 570.0 + 1420.0) / 12.0;
        assert!((FrameSize::Imix.bytes_mean() - mean).abs() < 1e-9);
        for (bytes, count) in IMIX {
            assert_eq!(imix_order().iter().filter(|size| **size == bytes).count(), usize::from(count));
        }
        assert_ne!(imix_order()[..4], [64; 4], "sizes are spread over the cycle");
    }
}
