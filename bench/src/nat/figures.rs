//! A direct path that dies under a stream, and comes back.
//!
//! Enters: a run. Leaves: what each repetition lost. Never does: help the gateways; both only reach the relay
//! meanwhile.

use landbridge::lab::nat::Kind;
use landbridge::lab::nat::change::{Change, Changes, leave_and_return};
use landbridge::lab::nat::coming_up::come_up;
use landbridge::lab::nat::scene::Scene;
use serde::Serialize;

use super::{PATIENCE, Run};

/// Datagrams a second.
const RATE: u32 = 1000;
pub(super) const NAME: &str = "change direct, relay, direct";

/// One repetition.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Figures {
    /// Until the stream arrived again after the direct path died.
    pub(super) left_after_ms: f64,
    /// Whether the relay carried it then.
    pub(super) relayed: bool,
    /// Datagrams lost of those sent while the direct path was dead.
    pub(super) lost_leaving: u64,
    /// Until both gateways used a direct path again, once there was one.
    pub(super) returned_after_ms: Option<f64>,
    /// Datagrams lost from then on, and how many were sent: the change back.
    pub(super) lost_returning: u64,
    pub(super) sent_returning: u64,
    pub(super) longest_gap_returning_ms: f64,
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) seconds: f64,
    pub(super) outside_window: u64,
    pub(super) overtaken: u64,
    pub(super) error: Option<String>,
}

pub(super) fn measure(run: &Run, found: &mut Vec<Figures>) -> anyhow::Result<()> {
    if !run.wants(NAME) {
        return Ok(());
    }
    for repetition in 0..run.repetitions {
        let figures = match once(run) {
            Ok(changes) => figures(&changes),
            Err(error) if error.chain().any(|cause| cause.is::<landbridge::lab::stop::Interrupted>()) => {
                return Err(error);
            }
            Err(error) => Figures { error: Some(format!("{error:#}")), ..Figures::default() },
        };
        eprintln!("{NAME} ({}): {figures:?}", repetition + 1);
        found.push(figures);
    }
    Ok(())
}

fn once(run: &Run) -> anyhow::Result<Changes> {
    let mut scene = Scene::new(run.options([Kind::PortRestricted; 2]))?;
    let link = come_up(&mut scene, PATIENCE, &run.stop, |_| {})?;
    anyhow::ensure!(link.direct.is_some(), "the link did not go direct");
    leave_and_return(&mut scene, RATE, &run.stop)
}

fn figures(changes: &Changes) -> Figures {
    let Changes { changes: parts, sent, lost, seconds, outside_window, overtaken } = changes;
    let mut figures = Figures {
        sent: *sent,
        lost: *lost,
        seconds: *seconds,
        outside_window: *outside_window,
        overtaken: *overtaken,
        ..Figures::default()
    };
    if let [Change { longest_gap, lost, tier, .. }, back] = parts.as_slice() {
        figures.left_after_ms = longest_gap.as_secs_f64() * 1000.0;
        figures.relayed = tier.as_deref() == Some("relayed");
        figures.lost_leaving = *lost;
        figures.returned_after_ms = back.settled.map(|settled| settled.as_secs_f64() * 1000.0);
        (figures.lost_returning, figures.sent_returning) = (back.lost, back.sent);
        figures.longest_gap_returning_ms = back.longest_gap.as_secs_f64() * 1000.0;
    }
    figures
}
