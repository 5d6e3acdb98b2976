//! One trial: frames of one size at one rate for a while, and what became of them.
//!
//! [`super::tester::Tester::trial`] makes the one into the other.
//!
//! Enters: a [`Trial`]. Leaves: a [`TrialResult`] for each direction. Never does: judge; that is [`super::search`]'s.

use std::time::Duration;

use landbridge_ebpf_common::bench::{Progress, Tally};
use serde::Serialize;

use super::frame::{FrameSize, IpVersion};
use super::latency::Latency;
use super::topology::Side;

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Directions {
    /// From host A to host B.
    #[value(name = "one")]
    AToB,
    /// Both ways at a time, each at the trial's rate.
    Both,
}

impl Directions {
    /// The sides that send.
    pub(crate) fn sources(self) -> &'static [Side] {
        match self {
            Self::AToB => &[Side::A],
            Self::Both => &[Side::A, Side::B],
        }
    }
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Trial {
    /// The packets' size.
    pub(crate) size: FrameSize,
    /// Their IP version.
    pub(crate) version: IpVersion,
    /// Packets a second, in each direction.
    pub(crate) rate_pps: f64,
    /// Which way.
    pub(crate) directions: Directions,
    /// For how long.
    pub(crate) duration: Duration,
    /// UDP source ports in turn: as many flows, each numbered by itself.
    pub(crate) flows: u16,
}

/// What became of one direction's frames.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TrialResult {
    /// The side that sent.
    pub(crate) from: Side,
    /// Frames that left the sending host.
    pub(crate) sent: u64,
    /// Distinct frames that arrived whole.
    pub(crate) received: u64,
    /// `sent` less `received`.
    pub(crate) lost: u64,
    /// Frames that arrived again.
    pub(crate) duplicated: u64,
    /// Frames that arrived after a later one of their flow (RFC 4737).
    pub(crate) reordered: u64,
    /// Frames of this trial that arrived changed; they count as lost too.
    pub(crate) corrupted: u64,
    /// Frames of earlier trials that arrived in this one; they count nowhere else.
    pub(crate) stale: u64,
    /// Frames that were due but never sent, because the generator had no turn: the offered rate is short by them.
    pub(crate) missed: u64,
    /// `sent` in each second of the trial.
    pub(crate) offered_pps: f64,
    /// `received` in each second of the trial.
    pub(crate) received_pps: f64,
    /// One-way latency, from the program that stamps to the program that counts, both on one clock.
    pub(crate) latency: Latency,
    /// Mean difference between the latencies of consecutive frames of a flow (RFC 3393), in nanoseconds.
    pub(crate) jitter_ns: f64,
}

impl TrialResult {
    /// From what the generator has sent and the sink has counted.
    pub(crate) fn of(trial: &Trial, from: Side, progress: &Progress, tally: &Tally, latency: Latency) -> Self {
        let seconds = trial.duration.as_secs_f64();
        Self {
            from,
            sent: progress.sent,
            received: tally.received,
            lost: progress.sent.saturating_sub(tally.received),
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            corrupted: tally.corrupted,
            stale: tally.stale,
            missed: progress.missed,
            offered_pps: progress.sent as f64 / seconds,
            received_pps: tally.received as f64 / seconds,
            latency,
            jitter_ns: tally.jitter_sum_ns as f64 / tally.jitter_count.max(1) as f64,
        }
    }

    /// The share of the frames that were lost, of one.
    pub(crate) fn loss_ratio(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }
}
