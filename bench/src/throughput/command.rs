//! `landbridge-bench throughput`: the whole comparison with one command.
//!
//! Enters: options. Leaves: a table on standard output, and a report in a directory. Never does: end without a report
//! of what was measured until then.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use landbridge::lab::stop::Stop;

use super::campaign::{self, Campaign};
use super::environment::Environment;
use super::implementation::{Catalogue, Named};
use super::plan::{Mode, Plan, Wishes};
use super::prometheus::Prometheus;
use super::report::{self, Material};
use super::scrape::Latest;

/// Measures gateways between two hosts, beside other WireGuard implementations, in namespaces
///
/// Needs root. Four namespaces (host, gateway, gateway, host) are made afresh for every configuration and removed
/// again, also on Ctrl-C, which ends with a report of what is there so far. bench/METHOD.md says how to read it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The key comparisons in minutes; without it everything, in hours
    #[arg(long)]
    quick: bool,
    /// One configuration and plain routing, once, a second each: does the bench work here?
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Only configurations whose name contains one of these
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    filter: Vec<String>,
    /// Only measures whose name contains one of these
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    measure: Vec<String>,
    /// How often each configuration is measured, interleaved
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=101))]
    repetitions: Option<u16>,
    /// Seconds of each TCP run and of each full trial
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<f64>,
    /// A program to measure; one that is looked for anyway, or another, such as landbridge-old=/tmp/landbridge
    #[arg(long, value_name = "NAME=PATH")]
    implementation: Vec<Named>,
    /// Lanes of Landbridge's gateways; by cores and queues when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    lanes: Option<u16>,
    /// Measure what each stage of the packet's way costs inside Landbridge's gateways
    #[arg(long)]
    stages: bool,
    /// Run a Prometheus beside it (Debian's package) that scrapes the gateways; its address is printed
    #[arg(long)]
    prometheus: bool,
    /// That Prometheus, where it is not /usr/bin/prometheus
    #[arg(long, value_name = "PATH", requires = "prometheus")]
    prometheus_program: Option<PathBuf>,
    /// Keep that Prometheus for so long after the run, or until Ctrl-C
    #[arg(long, value_name = "SECONDS", requires = "prometheus", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    prometheus_hold: Option<u32>,
    /// Say what would be measured, and end
    #[arg(long)]
    list: bool,
    /// Where the report goes: report.json, report.md and plots
    #[arg(long, value_name = "DIRECTORY", default_value = "target/throughput")]
    out: PathBuf,
    /// Put table and plot into the README of the repository here, and the report into its bench/results
    #[arg(long, value_name = "REPOSITORY")]
    publish: Option<PathBuf>,
    /// Print the JSON report on standard output in place of the table
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let catalogue = Catalogue::look(&arguments.implementation);
    let mode = match (arguments.smoke, arguments.quick) {
        (true, _) => Mode::Smoke,
        (false, true) => Mode::Quick,
        (false, false) => Mode::Full,
    };
    let wishes = Wishes {
        filter: arguments.filter.clone(),
        measures: arguments.measure.clone(),
        repetitions: arguments.repetitions,
        seconds: arguments.duration,
        stages: arguments.stages,
        lanes: arguments.lanes,
    };
    let plan = Plan::new(mode, &catalogue, &wishes);
    announce(&plan, &catalogue);
    if arguments.list {
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(!plan.configurations.is_empty(), "no configuration has that text in its name: see --list");
    anyhow::ensure!(!plan.measures.is_empty(), "no measure has that text in its name: see --list");
    let stop = Stop::on_signals()?;
    let logs = campaign::log_directory(&arguments.out)?;
    let environment = Environment::of_this(&catalogue);
    let mut progress = |line: &str| eprintln!("{line}");
    let latest = Latest::default();
    let prometheus = match arguments.prometheus {
        true => Some(Prometheus::start(arguments.prometheus_program.as_deref(), &latest, &logs, &stop)?),
        false => None,
    };
    if let Some(prometheus) = &prometheus {
        eprintln!(
            "Prometheus is at http://{}; the dashboard is deploy/grafana/landbridge-throughput.json",
            prometheus.address()
        );
    }
    let mut campaign = Campaign { stop: &stop, logs, latest, last: BTreeMap::new(), progress: &mut progress };
    let results = campaign.run(plan);
    anyhow::ensure!(!results.samples.is_empty(), "nothing was measured");
    // What was measured is worth a report, whatever Prometheus says.
    let summary = prometheus.as_ref().map(Prometheus::summary).transpose();
    let summary = summary.unwrap_or_else(|error| {
        eprintln!("landbridge-bench: {error:#}");
        None
    });
    let written = report::write(&arguments.out, Material { environment, catalogue, results, summary })?;
    if let Some(root) = &arguments.publish {
        report::publish::publish(root, &written)?;
    }
    let results = &written.material.results;
    let text = if arguments.json { &written.json } else { &written.markdown };
    std::io::stdout().write_all(text.as_bytes()).context("write to standard output")?;
    eprintln!("the report is in {}", shown(&arguments.out));
    if let (Some(prometheus), Some(seconds)) = (&prometheus, arguments.prometheus_hold) {
        eprintln!("Prometheus stays at http://{} for {seconds} seconds, or until Ctrl-C", prometheus.address());
        // Both ends are the user's wish.
        drop(stop.sleep(Duration::from_secs(seconds.into())));
    }
    for (place, repetition, error) in results.errors() {
        eprintln!("{}, repetition {}: {error}", results.plan.configurations[place].name, repetition + 1);
    }
    Ok(if results.errors().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says what will be measured and how long it takes.
fn announce(plan: &Plan, catalogue: &Catalogue) {
    eprintln!("configurations:");
    for configuration in &plan.configurations {
        eprintln!("  {:<42} {}", configuration.name, configuration.implementation.version);
    }
    for missing in &catalogue.missing {
        eprintln!("missing: {}: {}", missing.name, missing.reason);
    }
    let measures: Vec<String> = plan.measures.iter().map(ToString::to_string).collect();
    eprintln!("measures: {}", measures.join("; "));
    eprintln!("{} repetitions, interleaved; about {}", plan.repetitions, duration(plan.expected()));
}

/// A duration as people say it.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds @ 120..7200 => format!("{} minutes", seconds.div_ceil(60)),
        seconds => format!("{:.1} hours", seconds as f64 / 3600.0),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.1 to 600 seconds".to_owned()),
    }
}

fn shown(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_a_fitting_unit() {
        let text = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(
            (text(59), text(121), text(9000)),
            ("59 seconds".to_owned(), "3 minutes".to_owned(), "2.5 hours".to_owned())
        );
    }

    #[test]
    fn only_sensible_durations_are_taken() {
        assert_eq!(seconds("1.5"), Ok(1.5));
        for text in ["0", "-1", "601", "nan", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
