//! `nat`: how links between sites behind NATs come up and what they survive, in the network laboratory.
//!
//! 1. [`pairs`]: every pair of NAT kinds, a fresh internet for each repetition.
//! 2. [`cases`]: what is no pair of kinds: mapped ports, IPv6, narrow paths, lost uplinks, changed addresses.
//! 3. [`figures`]: change to the relay and back under a stream, and [`crowd`]: a thousand idle peers of one introducer.
//! 4. [`report`]: a page and JSON; [`publish`] puts them into the repository.
//!
//! Enters: options. Leaves: a table on standard output and a report in a directory. Never does: touch a network of
//! the machine itself; everything is in namespaces, and is removed again, also on Ctrl-C.

mod cases;
mod crowd;
mod figures;
mod pairs;
mod publish;
mod report;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use landbridge::lab::nat::coming_up::Patience;
use landbridge::lab::nat::scene::{self, Options};
use landbridge::lab::stop::{Interrupted, Stop};
use landbridge::lab::{namespace, scratch};

use self::report::Results;

/// What the names of its namespaces begin with.
const PREFIX: &str = "landbridge-nat";
/// A link that has not gone direct by then counts as relayed.
const PATIENCE: Patience = Patience { direct: Duration::from_secs(5), per_second: 500 };

/// Measures how sites behind every pair of NAT kinds find each other, in namespaces
///
/// Needs root and the packages nftables, coturn and miniupnpd-nftables. Ctrl-C ends it with a report of what
/// is there so far. bench/METHOD.md says how to read it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Every row once, and fewer of the long ones, in place of five times
    #[arg(long)]
    quick: bool,
    /// How often each row is measured
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=101))]
    repetitions: Option<u16>,
    /// Only rows whose name contains one of these
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    filter: Vec<String>,
    /// The program; the one beside this one when left out
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// The wan backend of all gateways: udp or xdp
    #[arg(long, value_name = "BACKEND", default_value = "udp", value_parser = ["udp", "xdp"])]
    wan: String,
    /// Where the report goes: report.json and report.md
    #[arg(long, value_name = "DIRECTORY", default_value = "target/nat")]
    out: PathBuf,
    /// Put the table into the README of the repository here, and the report into its bench/results
    #[arg(long, value_name = "REPOSITORY")]
    publish: Option<PathBuf>,
    /// Print the JSON report on standard output in place of the table
    #[arg(long)]
    json: bool,
}

/// What every part of a run needs.
struct Run {
    program: PathBuf,
    wan: &'static str,
    filter: Vec<String>,
    repetitions: u16,
    stop: Stop,
}

impl Run {
    /// A scene of two sites of these kinds, as this run has it.
    fn options(&self, kinds: [landbridge::lab::nat::Kind; 2]) -> Options {
        Options { wan: self.wan, stun: true, ..Options::new(self.program.clone(), PREFIX, kinds) }
    }

    fn wants(&self, row: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|text| row.contains(text))
    }
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let run = Run {
        program: program(arguments.program.as_deref())?,
        wan: if arguments.wan == "xdp" { "xdp" } else { "udp" },
        filter: arguments.filter.clone(),
        repetitions: arguments.repetitions.unwrap_or(if arguments.quick { 1 } else { 5 }),
        stop: Stop::on_signals()?,
    };
    namespace::remove_leftovers(PREFIX).context("leftovers of an earlier run cannot be removed")?;
    scratch::remove_leftovers(scene::SCRATCH);
    let mut results = Results::new(run.repetitions, run.wan);
    let measured = measure(&run, &mut results);
    let interrupted = match measured {
        Err(error) if !error.chain().any(|cause| cause.is::<Interrupted>()) => return Err(error),
        other => other.is_err(),
    };
    let (page, json) = (report::page(&results), report::json(&results)?);
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("{} cannot be made", arguments.out.display()))?;
    for (name, text) in [("report.md", &page), ("report.json", &json)] {
        let path = arguments.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    std::io::stdout().write_all(if arguments.json { json.as_bytes() } else { page.as_bytes() })?;
    match &arguments.publish {
        Some(root) if !interrupted && run.filter.is_empty() => publish::publish(root, &results, &page, &json)?,
        Some(_) => anyhow::bail!("a part of a run is not published"),
        None => {}
    }
    Ok(if interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

fn measure(run: &Run, results: &mut Results) -> anyhow::Result<()> {
    pairs::measure(run, &mut results.pairs)?;
    cases::measure(run, &mut results.cases)?;
    figures::measure(run, &mut results.changes)?;
    if run.wants(crowd::NAME) {
        results.crowd = Some(crowd::measure(run)?);
    }
    Ok(())
}

/// The program that is measured.
fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().context("this program's own file")?.with_file_name("landbridge"),
    };
    anyhow::ensure!(path.is_file(), "{} is not there: build the workspace, or give --program", path.display());
    Ok(path)
}
