//! One measure after the other between two joined sites.
//!
//! Enters: [`Measure`]s, a topology whose gateways run. Leaves: named figures and all details. Never does: start or end a gateway,
//! or leave generator and sink on the hosts' interfaces while TCP runs.

use std::collections::BTreeMap;

use landbridge::lab::stop::Stop;
use serde_json::{Value, json};

use super::plan::{Measure, Plan};
use super::tcp::tcp;
use super::topology::Topology;

/// Payload of a TCP segment in a tunnel of MTU 1420, with time stamps.
const SEGMENT: f64 = 1420.0 - 20.0 - 32.0;

/// What measures share.
pub(crate) struct Measuring<'m> {
    plan: &'m Plan,
    topology: &'m Topology,
    stop: &'m Stop,
}

/// What came of one.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Figures by name ([`super::results::figure_kind`]).
    pub(crate) figures: BTreeMap<String, f64>,
    /// All of it.
    pub(crate) details: Value,
    /// Packets that passed the tunnel in the time that counts.
    pub(crate) packets: f64,
}

impl<'m> Measuring<'m> {
    /// Begins.
    pub(crate) fn new(plan: &'m Plan, topology: &'m Topology, stop: &'m Stop) -> Self {
        Self { plan, topology, stop }
    }

    /// Does one. `found` is what those before it found; `read` is called when the time begins that counts, and when it ends.
    pub(crate) fn measure(
        &mut self,
        measure: &Measure,
        found: &BTreeMap<String, f64>,
        read: &mut dyn FnMut(),
    ) -> anyhow::Result<Measured> {
        match *measure {
            Measure::Tcp { streams } => self.tcp(streams, read),
            Measure::Flood | Measure::Rates { .. } | Measure::Latency { .. } => {
                let _ = found;
                Ok(Measured { figures: BTreeMap::new(), packets: 0.0, details: Value::Null })
            }
        }
    }

    fn tcp(&mut self, streams: u16, read: &mut dyn FnMut()) -> anyhow::Result<Measured> {
        let result = tcp(self.topology, streams, self.plan.durations.tcp, self.stop, read)?;
        anyhow::ensure!(result.gbps > 0.0, "TCP connects, but nothing arrives");
        Ok(Measured {
            figures: BTreeMap::from([(format!("tcp {streams} gbps"), result.gbps)]),
            packets: result.gbps * 1e9 / 8.0 * result.seconds / SEGMENT,
            details: json!({ "tcp": result }),
        })
    }
}
