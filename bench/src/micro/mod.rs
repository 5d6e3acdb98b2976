//! `micro`: the pieces of the packet's way, measured without sockets.
//!
//! Enters: which groups to run and how often. Leaves: a table or one JSON object; a failing exit code when
//! something allocated per packet, and with `--check` also when a target was missed.

mod aead;
pub(crate) mod crew;
mod hot_path;
mod offload;
pub(crate) mod site;
mod stealing;
mod steer;
mod tables;
mod ways;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

pub(crate) use self::aead::TURN;
use crate::machine::Machine;
use crate::measure::{self, Case, Row};

/// Options of `micro`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// How often each case is measured; the median counts
    #[arg(long, default_value_t = 51, value_parser = clap::value_parser!(u16).range(1..=1001))]
    rounds: u16,
    /// Only cases whose group or name contains this (those compared with are run, too)
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Fail also when a target is missed
    #[arg(long)]
    check: bool,
}

/// Selects the fastest engine that works on this CPU.
pub(crate) fn best_engine() {
    if let Some(engine) = aead::engines().last() {
        assert!(landbridge_aead::select(engine).is_ok(), "an engine that was checked before works");
    }
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    rounds: u16,
    cases: Vec<Row>,
    allocations_ok: bool,
    targets_met: bool,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let groups = [
        aead::cases(),
        hot_path::cases(),
        ways::cases(),
        stealing::cases()?,
        tables::cases(),
        offload::cases()?,
        steer::cases()?,
    ];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    let cases = match &arguments.filter {
        Some(text) => filtered(cases, text),
        None => cases,
    };
    anyhow::ensure!(!cases.is_empty(), "no case has that text in its name");
    let rows = measure::run(cases, usize::from(arguments.rounds));
    let report = Report {
        machine: Machine::of_this(),
        rounds: arguments.rounds,
        allocations_ok: rows.iter().all(|row| !row.without_allocations || row.allocations == 0),
        targets_met: rows.iter().all(|row| row.target_met != Some(false)),
        cases: rows,
    };
    let mut text = match arguments.json {
        true => serde_json::to_string(&report)?,
        false => table(&report)?,
    };
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).context("write to standard output")?;
    if !report.allocations_ok {
        eprintln!("landbridge-bench: there were allocations where none may be");
    }
    if !report.targets_met {
        eprintln!("landbridge-bench: a target was missed");
    }
    let failed = !report.allocations_ok || (arguments.check && !report.targets_met);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn filtered(cases: Vec<Case>, text: &str) -> Vec<Case> {
    let chosen = |case: &Case| case.group().contains(text) || case.name().contains(text);
    let needed: Vec<String> = cases.iter().filter(|case| chosen(case)).filter_map(Case::reference).collect();
    cases.into_iter().filter(|case| chosen(case) || needed.iter().any(|name| name == case.name())).collect()
}

fn table(report: &Report) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    write!(out, "{}\nMedian of {} rounds, cases in turn.", report.machine, report.rounds)?;
    let mut group = "";
    for row in &report.cases {
        if row.group != group {
            group = row.group;
            write!(
                out,
                "\n\n{:<50} {:>9} {:>9} {:>8} {:>7} {:>8} {:>8} {:>6}",
                group, "ns", "min", "Gbit/s", "ratio", "target", "more ns", "alloc"
            )?;
        }
        let number = |value: Option<f64>, digits: usize| match value {
            Some(value) => format!("{value:.digits$}"),
            None => String::new(),
        };
        let verdict = match row.target_met {
            Some(true) => "  met",
            Some(false) => "  MISSED",
            None => "",
        };
        let allocations = if row.without_allocations { row.allocations.to_string() } else { String::new() };
        write!(
            out,
            "\n  {:<48} {:>9.1} {:>9.1} {:>8} {:>7} {:>8} {:>8} {:>6}{verdict}",
            row.name,
            row.ns_median,
            row.ns_min,
            number(row.gbps, 1),
            number(row.ratio, 2),
            number(row.target, 2),
            number(row.more_ns, 1),
            allocations,
        )?;
    }
    Ok(out)
}
