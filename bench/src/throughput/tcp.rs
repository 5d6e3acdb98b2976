//! TCP between the hosts.
//!
//! Enters: a topology whose sites are joined. Leaves: bits per second and what had to be sent again. Never does: run
//! while the hosts' interfaces have an XDP program, which would cost the streams their offloads: drop the tester first.

use std::time::Duration;

use landbridge::lab::stop::Stop;
use landbridge::lab::{Path, tcp};
use serde::Serialize;

use super::frame::IpVersion;
use super::topology::{Side, Topology};

/// What TCP reached from host A to host B.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TcpResult {
    /// Streams at a time.
    pub(crate) streams: u16,
    /// Payload received, in 10^9 bits a second.
    pub(crate) gbps: f64,
    /// Segments that host A sent again.
    pub(crate) retransmits: u64,
    /// How long was counted, after a warm-up.
    pub(crate) seconds: f64,
}

/// Sends `streams` streams from host A to host B for `duration` after a warm-up. `around` is called when the counted
/// time begins and when it ends: for CPU accounts.
///
/// # Errors
/// No connection through the tunnel, or [`landbridge::lab::stop::Interrupted`].
pub(crate) fn tcp(
    topology: &Topology,
    streams: u16,
    duration: Duration,
    stop: &Stop,
    around: impl FnMut(),
) -> anyhow::Result<TcpResult> {
    let address = topology.host_address(Side::B, IpVersion::V4);
    let path = Path { from: topology.host(Side::A), to: topology.host(Side::B), address };
    let figures = tcp::measure(path, usize::from(streams), duration, stop, around, |_| {})?;
    Ok(TcpResult {
        streams,
        gbps: figures.bits_per_second / 1e9,
        retransmits: figures.retransmits,
        seconds: figures.window.as_secs_f64(),
    })
}
