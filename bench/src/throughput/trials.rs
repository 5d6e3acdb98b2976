//! `landbridge-bench trials`: frames at given rates, or at the highest good ones, over plain routes or through two
//! gateways.
//!
//! Over plain routes it shows what generator, sink and links reach alone: no figure of a tunnel can be better.
//!
//! Enters: options. Leaves: one JSON object a line. Never does: compare; that is `landbridge-bench throughput`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use landbridge::lab::stop::Stop;
use serde_json::json;

use super::frame::{FrameSize, IpVersion};
use super::gateway::{Backends, Gateways};
use super::implementation::{Catalogue, Named};
use super::search::SearchSpec;
use super::tcp::tcp;
use super::tester::Tester;
use super::topology::{Topology, TopologySpec};
use super::trial::{Directions, Trial};

/// Sends frames from host to host in namespaces: at given rates, or at the highest without loss and with 0.5 % of it
///
/// Over plain routes this is what generator, sink and links reach alone; with --implementation the frames go through
/// two of its gateways. Needs root; every namespace is removed again. One JSON object a line.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of each trial
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Sizes of packets in bytes, or imix
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "64,1420,imix")]
    sizes: Vec<FrameSize>,
    /// Packets a second in each direction; without it the highest rates are searched
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    rates: Vec<f64>,
    /// One way, or both ways at a time
    #[arg(long, value_enum, default_value = "one")]
    directions: Directions,
    /// IP version of the frames
    #[arg(long, value_enum, default_value = "v4")]
    ip: IpVersion,
    /// IP version that carries the tunnel
    #[arg(long, value_enum, default_value = "v4")]
    outside: IpVersion,
    /// Flows: UDP source ports in turn
    #[arg(long, value_name = "N", default_value_t = 1)]
    flows: u16,
    /// TCP streams to run before, each number for itself
    #[arg(long, value_name = "N", value_delimiter = ',')]
    streams: Vec<u16>,
    /// Through two gateways of this program, such as landbridge=target/release/landbridge
    #[arg(long, value_name = "NAME=PATH")]
    implementation: Option<Named>,
    /// Their wan backend, of Landbridge's
    #[arg(long, value_parser = ["auto", "udp", "xdp"], requires = "implementation")]
    wan: Option<String>,
    /// Their lan backend, of Landbridge's
    #[arg(long, value_parser = ["auto", "tun", "xdp"], requires = "implementation")]
    lan: Option<String>,
    /// Their lanes, of Landbridge's
    #[arg(long, value_name = "N", requires = "implementation")]
    lanes: Option<u16>,
    /// MTU of the link between the gateways; tunnel and lan have 80 bytes less
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1380..=65_535))]
    mtu: Option<u32>,
    /// No packet takes several frames of a ring, of Landbridge's
    #[arg(long, requires = "implementation")]
    one_buffer: bool,
}

/// What sealing and outer headers add to a packet at most.
const SEALED_MORE: u32 = 80;

/// How the names of its namespaces begin.
const PREFIX: &str = "landbridge-trials";
/// How long the first frame may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs it.
///
/// # Errors
/// What failed; all that was made is removed by then.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let duration = Duration::try_from_secs_f64(arguments.seconds)?;
    let logs = tempfile::tempdir().context("no directory for logs")?;
    let usual = TopologySpec { outside: arguments.outside, ..TopologySpec::default() };
    let spec = arguments.mtu.map_or(usual, |mtu| TopologySpec { wan_mtu: mtu, lan_mtu: mtu - SEALED_MORE, ..usual });
    let topology = Topology::build(PREFIX, &spec)?;
    let gateways = match &arguments.implementation {
        None => {
            topology.route_plainly()?;
            None
        }
        Some(named) => {
            let catalogue = Catalogue::look(std::slice::from_ref(named));
            let implementation = catalogue.named(named).context("there is no such program")?;
            Some(Gateways::start(&topology, implementation, &backends(arguments), logs.path(), &stop)?)
        }
    };
    for &streams in &arguments.streams {
        println!("{}", serde_json::to_string(&tcp(&topology, streams, duration, &stop, || {})?)?);
    }
    let mut tester = Tester::attach(&topology)?;
    tester.join(arguments.ip, PATIENCE, &stop)?;
    let Arguments { ip: version, directions, flows, .. } = *arguments;
    for &size in &arguments.sizes {
        let trial = Trial { size, version, rate_pps: 0.0, directions, duration, flows };
        if arguments.rates.is_empty() {
            let spec = SearchSpec { trial: duration, ..SearchSpec::default() };
            let result = tester.search(spec, &trial, &stop, |_| {})?;
            let gbps = result.rate_pps("NDR").map(|rate| rate * size.bytes_mean() * 8.0 / 1e9);
            let (trials, goals) = (result.trials.len(), &result.goals);
            println!("{}", json!({ "size": size, "trials": trials, "ndr_gbps": gbps, "goals": goals }));
        }
        for &rate_pps in &arguments.rates {
            for result in tester.trial(&Trial { rate_pps, ..trial }, &stop)? {
                println!("{}", json!({ "size": size, "rate_pps": rate_pps, "result": result }));
            }
        }
    }
    gateways.map_or(Ok(()), |gateways| gateways.check())?;
    Ok(ExitCode::SUCCESS)
}

fn backends(arguments: &Arguments) -> Backends {
    // The words are those of the parser: a few, for the life of the program.
    let word = |word: &Option<String>| word.as_deref().and_then(|word| WORDS.into_iter().find(|known| *known == word));
    Backends {
        wan: word(&arguments.wan),
        lan: word(&arguments.lan),
        lanes: arguments.lanes,
        mtu: arguments.mtu.map(|mtu| mtu - SEALED_MORE),
        one_buffer: arguments.one_buffer,
        ..Backends::default()
    }
}

const WORDS: [&str; 4] = ["auto", "udp", "xdp", "tun"];
