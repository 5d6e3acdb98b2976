//! `landbridge-bench calibrate`: what generator, sink and links reach alone, over plain routes between the four namespaces.
//!
//! Enters: options. Leaves: one line for each trial. Never does: start a tunnel; no figure of a tunnel can be better than these.

use std::process::ExitCode;
use std::time::Duration;

use landbridge::lab::stop::Stop;

use super::tcp::tcp;
use super::topology::{Topology, TopologySpec};

/// Measures the laboratory itself: generator, sink and links, with plain routes in place of a tunnel. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of each trial.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// TCP streams; none leaves TCP out.
    #[arg(long, value_delimiter = ',')]
    streams: Vec<u16>,
}

/// How the names of its namespaces begin.
const PREFIX: &str = "landbridge-calibrate";

/// Runs it.
///
/// # Errors
/// What failed; all that was made is removed by then.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let topology = Topology::build(PREFIX, &TopologySpec::default())?;
    topology.route_plainly()?;
    let duration = Duration::try_from_secs_f64(arguments.seconds)?;
    for &streams in &arguments.streams {
        let result = tcp(&topology, streams, duration, &stop, || {})?;
        println!("{}", serde_json::to_string(&result)?);
    }
    Ok(ExitCode::SUCCESS)
}
