//! One measure between two joined sites.
//!
//! Enters: a [`Measure`], a topology whose gateways run. Leaves: named figures and all details. Never does: start or end a gateway.

use std::collections::BTreeMap;

use landbridge::lab::stop::Stop;
use serde_json::{Value, json};

use super::plan::{Measure, Plan};
use super::tcp::tcp;
use super::topology::Topology;

/// Payload of a TCP segment in a tunnel of MTU 1420, with time stamps.
const SEGMENT: f64 = 1420.0 - 20.0 - 32.0;

/// What a measure needs.
pub(crate) struct Around<'m> {
    /// Durations and searches.
    pub(crate) plan: &'m Plan,
    /// Where.
    pub(crate) topology: &'m Topology,
    /// Ends it early.
    pub(crate) stop: &'m Stop,
    /// Called when the time begins that counts, and when it ends.
    pub(crate) read: &'m mut dyn FnMut(),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Figures by name ([`super::results::figure_kind`]).
    pub(crate) figures: BTreeMap<String, f64>,
    /// All of it.
    pub(crate) details: Value,
    /// Packets that passed the tunnel in the time that counts.
    pub(crate) packets: f64,
}

/// Does it. `found` is what the measures before it found.
pub(crate) fn measure(
    measure: &Measure,
    around: Around<'_>,
    found: &BTreeMap<String, f64>,
) -> anyhow::Result<Measured> {
    match *measure {
        Measure::Tcp { streams } => by_tcp(streams, around),
        _ => {
            let _ = found;
            Ok(Measured { figures: BTreeMap::new(), details: Value::Null, packets: 0.0 })
        }
    }
}

fn by_tcp(streams: u16, around: Around<'_>) -> anyhow::Result<Measured> {
    let Around { plan, topology, stop, read } = around;
    let result = tcp(topology, streams, plan.durations.tcp, stop, read)?;
    anyhow::ensure!(result.gbps > 0.0, "TCP connects, but nothing arrives");
    Ok(Measured {
        figures: BTreeMap::from([(format!("tcp {streams} gbps"), result.gbps)]),
        packets: result.gbps * 1e9 / 8.0 * result.seconds / SEGMENT,
        details: json!({ "tcp": result }),
    })
}
