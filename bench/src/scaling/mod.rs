//! `scaling`: cost of a packet and memory against peers, routes and lanes.
//!
//! 1. [`peers`]: packets to and from 1 to 10,000 peers at random, and what each peer occupies.
//! 2. [`routes`]: packets to 1 to 100,000 routes at random, and what each route occupies.
//! 3. [`lanes`]: bursts handed over between 1 to 64 lanes.
//!
//! Enters: how often. Leaves: a table, JSON and plots. Never does: open a socket; everything but I/O is the real lane.

mod lanes;
mod peers;
mod routes;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use crate::machine::Machine;
use crate::measure::{self, Case, Sample};
use crate::plot::PALETTE;
use crate::plot::lines::{Line, LineChart, Panel};

/// Measures how the hot path's cost and memory grow with peers, routes and lanes: needs no privileges
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each case is measured; the median counts
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=1001))]
    rounds: u16,
    /// Print the JSON report on standard output in place of the table
    #[arg(long)]
    json: bool,
    /// Where the report goes
    #[arg(long, value_name = "DIRECTORY", default_value = "target/scaling")]
    out: PathBuf,
}

/// One curve: what it costs for each size.
pub(crate) struct Curve {
    /// In the key of the plot.
    pub(crate) name: String,
    /// A case for each size.
    pub(crate) sizes: Vec<(u32, SampleFn)>,
}

/// Times one sample.
pub(crate) type SampleFn = Box<dyn FnMut() -> Sample>;

/// How one thing grows with another.
pub(crate) struct Growth {
    /// What it grows with.
    pub(crate) with: &'static str,
    /// The curves of time.
    pub(crate) curves: Vec<Curve>,
    /// Bytes of the heap by size.
    pub(crate) memory: Vec<(u32, u64)>,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    rounds: u16,
    growths: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    with: &'static str,
    curves: Vec<MeasuredCurve>,
    memory_bytes: Vec<(u32, u64)>,
}

#[derive(Debug, Serialize)]
struct MeasuredCurve {
    name: String,
    points: Vec<Point>,
}

#[derive(Debug, Clone, Serialize)]
struct Point {
    size: u32,
    ns_median: f64,
    ns_min: f64,
    /// To the smallest size, within rounds.
    ratio: f64,
    allocations: u64,
}

/// Measures, prints and plots.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let growths = [peers::growth()?, routes::growth()?, lanes::growth()?];
    let growths = growths.into_iter().map(|growth| measured(growth, usize::from(arguments.rounds))).collect();
    let report = Report { machine: Machine::of_this(), rounds: arguments.rounds, growths };
    let (json, table) = (serde_json::to_string(&report)? + "\n", table(&report)?);
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("{} cannot be made", arguments.out.display()))?;
    let write = |name: &str, text: &str| {
        let path = arguments.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    };
    write("scaling.json", &json)?;
    write("scaling.md", &table)?;
    for growth in &report.growths {
        write(&format!("{}.svg", growth.with), &plot(&report, growth)?)?;
    }
    let text = if arguments.json { &json } else { &table };
    std::io::stdout().write_all(text.as_bytes()).context("write to standard output")?;
    let allocates = report.growths.iter().flat_map(|growth| &growth.curves).flat_map(|curve| &curve.points);
    let failed = allocates.into_iter().any(|point| point.allocations > 0);
    if failed {
        eprintln!("landbridge-bench: there were allocations where none may be");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All cases of a growth in turn, so that what disturbs the machine disturbs all sizes alike.
fn measured(growth: Growth, rounds: usize) -> Measured {
    let name = |curve: &str, size: u32| format!("{curve} {size}");
    let mut cases = Vec::new();
    let mut shapes = Vec::new();
    for Curve { name: curve, sizes } in growth.curves {
        let first = sizes.first().map_or(0, |(size, _)| *size);
        shapes.push((curve.clone(), sizes.iter().map(|(size, _)| *size).collect::<Vec<_>>()));
        for (size, sample) in sizes {
            cases.push(Case::new("scaling", name(&curve, size), sample).against(name(&curve, first)));
        }
    }
    let rows = measure::run(cases, rounds);
    let mut rows = rows.into_iter();
    let curve = |(name, sizes): (String, Vec<u32>)| {
        let points = sizes.into_iter().zip(rows.by_ref()).map(|(size, row)| Point {
            size,
            ns_median: row.ns_median,
            ns_min: row.ns_min,
            ratio: row.ratio.unwrap_or(1.0),
            allocations: row.allocations,
        });
        MeasuredCurve { name, points: points.collect() }
    };
    Measured { with: growth.with, curves: shapes.into_iter().map(curve).collect(), memory_bytes: growth.memory }
}

fn table(report: &Report) -> anyhow::Result<String> {
    let mut out = format!("# Scaling\n\n{}; median of {} rounds, sizes in turn.\n", report.machine, report.rounds);
    for growth in &report.growths {
        write!(out, "\n| {} |", growth.with)?;
        for curve in &growth.curves {
            write!(out, " {}, ns a packet (to the first) |", curve.name)?;
        }
        let has_memory = !growth.memory_bytes.is_empty();
        write!(out, "{}\n| ---: |", if has_memory { " memory, bytes (each) |" } else { "" })?;
        out.push_str(&" ---: |".repeat(growth.curves.len() + usize::from(has_memory)));
        let sizes = growth.curves.first().map_or(&[][..], |curve| &curve.points[..]);
        for (at, Point { size, .. }) in sizes.iter().enumerate() {
            write!(out, "\n| {size} |")?;
            for curve in &growth.curves {
                match curve.points.get(at) {
                    Some(point) => write!(out, " {:.0} ({:.2}) |", point.ns_median, point.ratio)?,
                    None => out.push_str("  |"),
                }
            }
            if let Some((size, bytes)) = growth.memory_bytes.get(at) {
                write!(out, " {bytes} ({}) |", bytes / u64::from((*size).max(1)))?;
            }
        }
        out.push('\n');
    }
    Ok(out)
}

fn plot(report: &Report, growth: &Measured) -> anyhow::Result<String> {
    let sizes = growth.curves.first().map_or(&[][..], |curve| &curve.points[..]);
    let line = |(at, curve): (usize, &MeasuredCurve)| Line {
        name: curve.name.clone(),
        colour: PALETTE[at % PALETTE.len()],
        points: curve.points.iter().map(|point| Some((point.ns_median, point.ns_min, point.ns_median))).collect(),
    };
    let panel = Panel { title: String::new(), lines: growth.curves.iter().enumerate().map(line).collect() };
    LineChart {
        title: format!("Cost of a packet by {}", growth.with),
        subtitle: format!(
            "hot path in memory, median and least of {} rounds, {}",
            report.rounds,
            report.machine.short()
        ),
        steps: sizes.iter().map(|point| crate::plot::number(f64::from(point.size))).collect(),
        step_title: growth.with.to_owned(),
        value_title: "ns a packet".to_owned(),
        is_log: false,
        panels: vec![panel],
    }
    .svg()
}

/// Bytes of the heap that what `make` makes occupies.
pub(crate) fn occupied<T>(make: impl FnOnce() -> T) -> (T, u64) {
    let mut made = None;
    let counted = allocation_counter::measure(|| made = Some(make()));
    (made.expect("the closure has run"), u64::try_from(counted.bytes_current).unwrap_or(0))
}

/// Numbers below `below` that follow no pattern which a predictor could learn, the same in every run.
pub(crate) fn scattered(count: usize, below: u32) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(below.max(1))) as u32
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_stays_and_scattered_numbers_are_in_range() {
        let (kept, bytes) = occupied(|| {
            drop(vec![0_u8; 10_000]);
            vec![0_u8; 5000]
        });
        assert!((5000..6000).contains(&bytes), "{bytes} for {}", kept.len());
        let numbers = scattered(1000, 7);
        assert!(numbers.iter().all(|number| *number < 7));
        assert_eq!(numbers.iter().collect::<std::collections::BTreeSet<_>>().len(), 7);
    }

    #[test]
    fn a_growth_is_measured_against_its_first_size() {
        let sample = |ns: u64| -> SampleFn {
            Box::new(move || {
                let mut sample = Sample::default();
                sample.time(1, || std::thread::sleep(std::time::Duration::from_millis(ns)));
                sample
            })
        };
        let curve = Curve { name: "seal".to_owned(), sizes: vec![(1, sample(2)), (10, sample(20))] };
        let growth = Growth { with: "peers", curves: vec![curve], memory: vec![(1, 100), (10, 1000)] };
        let measured = measured(growth, 2);
        assert!(measured.curves[0].points[1].ratio > 2.0, "{measured:?}");
        let report = Report { machine: Machine::of_this(), rounds: 2, growths: vec![measured] };
        let table = table(&report).expect("a table");
        assert!(table.contains("| 10 |") && table.contains("1000 (100)"), "{table}");
    }
}
