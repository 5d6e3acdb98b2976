//! One question to the kernel's netdev interface: does an interface's driver send frames that XDP programs of other
//! interfaces hand it?

use super::channels::{ask, attribute, family, find, open};

// linux/netdev.h
const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;
/// The driver implements `ndo_xdp_xmit`, and the interface is ready for it.
const SENDS_FRAMES: u64 = 1 << 2;

/// Whether it does; none where the kernel does not tell (before Linux 6.3).
#[must_use]
pub fn sends_frames(if_index: u32) -> Option<bool> {
    let mut socket = open().ok()?;
    let family = family(&mut socket, b"netdev\0")?;
    let device = attribute(DEVICE_INDEX, &if_index.to_ne_bytes());
    let answer = ask(&mut socket, family, DEVICE_GET, &device).ok()?;
    let features = find(&answer, DEVICE_XDP_FEATURES, |bytes| bytes.first_chunk().copied()).map(u64::from_ne_bytes)?;
    Some(features & SENDS_FRAMES != 0)
}
