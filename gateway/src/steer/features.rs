//! Questions to the kernel's netdev interface: does an interface's driver send frames that XDP programs of other
//! interfaces hand it, and does it compute checksums of what leaves its zero-copy rings?

use super::channels::{ask, attribute, family, find, open};

// linux/netdev.h
const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;
/// The driver implements `ndo_xdp_xmit`, and the interface is ready for it.
const SENDS_FRAMES: u64 = 1 << 2;

const DEVICE_XSK_FEATURES: u16 = 6;
/// The driver reads a request for a checksum in front of a frame.
const FINISHES_CHECKSUMS: u64 = 1 << 1;

/// Whether it sends such frames; none where the kernel does not tell (before Linux 6.3).
#[must_use]
pub fn sends_frames(if_index: u32) -> Option<bool> {
    Some(features(if_index, DEVICE_XDP_FEATURES)? & SENDS_FRAMES != 0)
}

/// Whether it computes such checksums; none where the kernel does not tell (before Linux 6.8).
#[must_use]
pub fn finishes_checksums(if_index: u32) -> Option<bool> {
    Some(features(if_index, DEVICE_XSK_FEATURES)? & FINISHES_CHECKSUMS != 0)
}

fn features(if_index: u32, kind: u16) -> Option<u64> {
    let mut socket = open().ok()?;
    let family = family(&mut socket, b"netdev\0")?;
    let device = attribute(DEVICE_INDEX, &if_index.to_ne_bytes());
    let answer = ask(&mut socket, family, DEVICE_GET, &device).ok()?;
    find(&answer, kind, |bytes| bytes.first_chunk().copied()).map(u64::from_ne_bytes)
}
