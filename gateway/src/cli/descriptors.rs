//! Descriptors that a parent hands over by number in the environment.
//!
//! Enters: a variable such as WG_TUN_FD. Leaves: an owned duplicate. Never does: trust the number; the kernel says whether
//! it is open.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// The descriptor whose number a variable of the environment holds.
pub(super) fn inherited(variable: &str) -> anyhow::Result<Option<OwnedFd>> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    let number: i32 = value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|number| *number >= 0)
        .with_context(|| format!("{variable} is {value:?}: expected the number of an open descriptor"))?;
    // Taking it from ourselves through a pidfd gives an owned duplicate without having to claim the number unseen.
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).context("pidfd_open")?;
    let descriptor = rustix::process::pidfd_getfd(own, number, PidfdGetfdFlags::empty())
        .with_context(|| format!("{variable} is {number}: expected the number of an open descriptor"))?;
    Ok(Some(descriptor))
}
