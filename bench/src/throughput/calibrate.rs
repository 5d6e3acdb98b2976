//! `landbridge-bench calibrate`: what generator, sink and links reach alone, over plain routes between the four namespaces.
//!
//! Enters: options. Leaves: one line for each trial. Never does: start a tunnel; no figure of a tunnel can be better than these.

use std::process::ExitCode;
use std::time::Duration;

use landbridge::lab::stop::Stop;

use serde_json::json;

use super::frame::{FrameSize, IpVersion};
use super::search::SearchSpec;
use super::tcp::tcp;
use super::tester::Tester;
use super::topology::{Topology, TopologySpec};
use super::trial::{Directions, Trial};

/// Measures the laboratory itself: generator, sink and links, with plain routes in place of a tunnel. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of each trial.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// TCP streams; none leaves TCP out.
    #[arg(long, value_delimiter = ',')]
    streams: Vec<u16>,
    /// Sizes of packets in bytes, or imix.
    #[arg(long, value_delimiter = ',', default_value = "64,1420,imix")]
    sizes: Vec<FrameSize>,
    /// Packets a second, in each direction; none searches the highest rates without loss and with 0.5 % of it.
    #[arg(long, value_delimiter = ',')]
    rates: Vec<f64>,
    /// One way or both ways at a time.
    #[arg(long, value_enum, default_value = "one")]
    directions: Directions,
    /// IP version.
    #[arg(long, value_enum, default_value = "v4")]
    ip: IpVersion,
    /// Flows.
    #[arg(long, default_value_t = 1)]
    flows: u16,
}

/// How the names of its namespaces begin.
const PREFIX: &str = "landbridge-calibrate";
/// How long the first frame may take.
const PATIENCE: Duration = Duration::from_secs(5);

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
    let mut tester = Tester::attach(&topology)?;
    tester.join(arguments.ip, PATIENCE, &stop)?;
    let Arguments { ip: version, directions, flows, .. } = *arguments;
    for &size in &arguments.sizes {
        if arguments.rates.is_empty() {
            let trial = Trial { size, version, rate_pps: 0.0, directions, duration, flows };
            let spec = SearchSpec { trial: duration, ..SearchSpec::default() };
            let result = tester.search(spec, &trial, &stop, |_| {})?;
            println!("{}", json!({ "size": size, "trials": result.trials.len(), "goals": result.goals }));
        }
        for &rate_pps in &arguments.rates {
            let trial = Trial { size, version, rate_pps, directions, duration, flows };
            for result in tester.trial(&trial, &stop)? {
                println!("{}", json!({ "size": size, "rate_pps": rate_pps, "result": result }));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
