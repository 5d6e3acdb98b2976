//! One measure after the other between two joined sites.
//!
//! Enters: [`Measure`]s, a topology whose gateways run. Leaves: named figures and all details. Never does: start or end
//! a gateway, or leave generator and sink on the hosts' interfaces while TCP runs.

use std::collections::BTreeMap;
use std::time::Duration;

use landbridge::lab::stop::Stop;
use serde_json::{Value, json};

use super::frame::{FrameSize, IpVersion};
use super::plan::{FLOOD_BYTES, FLOOD_PPS, LATENCY_PERCENTS, Measure, Plan, way};
use super::search::{Outcome, Search};
use super::tcp::tcp;
use super::tester::Tester;
use super::topology::Topology;
use super::trial::{Directions, Trial, TrialResult};

/// Payload of a TCP segment in a tunnel of MTU 1420, with time stamps.
const SEGMENT: f64 = 1420.0 - 20.0 - 32.0;
/// UDP payload of a packet of the flood.
const FLOOD_PAYLOAD: f64 = FLOOD_BYTES as f64 - 28.0;
/// How long frames may take to find their way at first.
const JOIN_PATIENCE: Duration = Duration::from_secs(8);
/// Flows of a trial: enough for every queue of the links.
const FLOWS: u16 = 8;
/// Percentiles that are told, by their names in figures.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// What measures share.
pub(crate) struct Measuring<'m> {
    plan: &'m Plan,
    topology: &'m Topology,
    stop: &'m Stop,
    tester: Option<Tester<'m>>,
}

/// What came of one.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Figures by name ([`super::results::figure_kind`]).
    pub(crate) figures: BTreeMap<String, f64>,
    /// Those of the figures that are only lower limits: the generator could not offer more.
    pub(crate) lower_limits: Vec<String>,
    /// All of it.
    pub(crate) details: Value,
    /// Packets that passed the tunnel in the time that counts.
    pub(crate) packets: f64,
}

impl<'m> Measuring<'m> {
    /// Begins.
    pub(crate) fn new(plan: &'m Plan, topology: &'m Topology, stop: &'m Stop) -> Self {
        Self { plan, topology, stop, tester: None }
    }

    /// Does one. `found` is what those before it found; `read` is called when the time begins that counts, and when it
    /// ends.
    pub(crate) fn measure(
        &mut self,
        measure: &Measure,
        found: &BTreeMap<String, f64>,
        read: &mut dyn FnMut(),
    ) -> anyhow::Result<Measured> {
        match *measure {
            Measure::Tcp { streams } => self.tcp(streams, read),
            Measure::Flood => self.flood(read),
            Measure::Rates { size, directions } => self.rates(size, directions),
            Measure::Latency { size } => self.latency(size, found),
        }
    }

    fn tcp(&mut self, streams: u16, read: &mut dyn FnMut()) -> anyhow::Result<Measured> {
        // Its programs would cost the streams their offloads.
        self.tester = None;
        let result = tcp(self.topology, streams, self.plan.durations.tcp, self.stop, read)?;
        anyhow::ensure!(result.gbps > 0.0, "TCP connects, but nothing arrives");
        Ok(Measured {
            figures: BTreeMap::from([(format!("tcp {streams} gbps"), result.gbps)]),
            lower_limits: Vec::new(),
            packets: result.gbps * 1e9 / 8.0 * result.seconds / SEGMENT,
            details: json!({ "tcp": result }),
        })
    }

    fn flood(&mut self, read: &mut dyn FnMut()) -> anyhow::Result<Measured> {
        let duration = self.plan.durations.flood;
        let trial = trial(FrameSize::Bytes(FLOOD_BYTES), Directions::AToB, FLOOD_PPS, duration);
        // One to warm up: sockets and pools that grow do so before.
        let warm = Trial { duration: duration / 4, ..trial };
        self.trial(&warm)?;
        read();
        let results = self.trial(&trial)?;
        read();
        let received: u64 = results.iter().map(|result| result.received).sum();
        let pps: f64 = results.iter().map(|result| result.received_pps).sum();
        anyhow::ensure!(received > 0, "nothing of the flood arrives");
        Ok(Measured {
            figures: BTreeMap::from([("flood gbps".to_owned(), pps * FLOOD_PAYLOAD * 8.0 / 1e9)]),
            lower_limits: Vec::new(),
            packets: received as f64,
            details: json!({ "flood": results }),
        })
    }

    fn rates(&mut self, size: FrameSize, directions: Directions) -> anyhow::Result<Measured> {
        let mut search = Search::new(self.plan.search());
        while let Some(probe) = search.next() {
            let results = self.trial(&trial(size, directions, probe.rate_pps, probe.duration))?;
            search.record(Outcome::of(probe, &results));
        }
        let result = search.finish();
        let figure = |goal: &str| format!("{} {size} {} mpps", goal.to_lowercase(), way(directions));
        let limited = result.goals.iter().filter(|goal| goal.limited_by_generator);
        let lower_limits = limited.map(|goal| figure(&goal.goal.name)).collect();
        // A gateway that loses packets even at the lowest rate has none.
        let figures = result.goals.iter().map(|goal| (figure(&goal.goal.name), goal.rate_pps.unwrap_or(0.0) / 1e6));
        Ok(Measured {
            figures: figures.collect(),
            lower_limits,
            packets: 0.0,
            details: json!({ "rates": result, "size": size, "directions": directions }),
        })
    }

    fn latency(&mut self, size: FrameSize, found: &BTreeMap<String, f64>) -> anyhow::Result<Measured> {
        let ndr = found.get(&format!("ndr {size} {} mpps", way(Directions::AToB))).copied().unwrap_or(0.0) * 1e6;
        let (mut figures, mut details) = (BTreeMap::new(), Vec::new());
        // Without a rate there is no share of it.
        for percent in LATENCY_PERCENTS.into_iter().filter(|_| ndr > 0.0) {
            let rate = ndr * f64::from(percent) / 100.0;
            let results = self.trial(&trial(size, Directions::AToB, rate, self.plan.durations.latency))?;
            for result in &results {
                for (name, percentile) in PERCENTILES {
                    if let Some(ns) = result.latency.percentile_ns(percentile) {
                        figures.insert(format!("latency {size} {percent} {name} us"), ns as f64 / 1e3);
                    }
                }
                figures.insert(format!("jitter {size} {percent} us"), result.jitter_ns / 1e3);
                let reordered = result.reordered as f64 * 100.0 / result.received.max(1) as f64;
                figures.insert(format!("reordered {size} {percent} percent"), reordered);
            }
            details.push(json!({ "percent_of_ndr": percent, "rate_pps": rate, "results": results }));
        }
        Ok(Measured {
            figures,
            lower_limits: Vec::new(),
            packets: 0.0,
            details: json!({ "latency": details, "size": size }),
        })
    }

    fn trial(&mut self, trial: &Trial) -> anyhow::Result<Vec<TrialResult>> {
        if self.tester.is_none() {
            let mut tester = Tester::attach(self.topology)?;
            tester.join(IpVersion::V4, JOIN_PATIENCE, self.stop)?;
            self.tester = Some(tester);
        }
        match &mut self.tester {
            Some(tester) => tester.trial(trial, self.stop),
            None => unreachable!("it was attached above"),
        }
    }
}

fn trial(size: FrameSize, directions: Directions, rate_pps: f64, duration: Duration) -> Trial {
    Trial { size, version: IpVersion::V4, rate_pps, directions, duration, flows: FLOWS }
}
