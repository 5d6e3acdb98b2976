//! `landbridge demo`: two sites on one machine, joined by two gateways, under real traffic.
//!
//! 1. [`topology`]: four network namespaces, links, addresses, made of [`crate::lab`].
//! 2. [`process`]: two gateways, each this very program with a configuration of its own.
//! 3. [`rtt`], [`crate::lab::tcp`] and [`udp`]: echo, TCP and UDP between the hosts, sent and counted by threads inside
//!    their namespaces.
//! 4. [`report`]: what was measured, for people and for programs.
//! 5. [`nat`]: the same with sites behind NATs that have to find each other first.
//!
//! Enters: [`Options`]. Leaves: a [`report::Report`]. Never does: touch an interface, an address or a route of the
//! machine itself, or leave anything behind: all of it hangs on values that take it away when they are dropped.

pub(crate) mod nat;
mod process;
mod progress;
mod report;
mod rtt;
mod search;
mod topology;
mod udp;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use anyhow::Context as _;

use self::process::Role;
use self::progress::Progress;
use self::report::Figures;
pub(crate) use self::report::Report;
use self::topology::{HOST_B, Topology};
use crate::lab::gateway::Gateway;
use crate::lab::scratch::{self, Scratch};
use crate::lab::stop::Stop;
use crate::lab::{Path, namespace, tcp};
use crate::settings::{Crypto, LanBackend, WanBackend};

/// How long the first handshake may take, with all its retries.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(12);
/// The share of the rate found by the search at which loss is measured.
const STEADY_SHARE: f64 = 0.8;

/// What the demo is asked to do.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The wan backend of both gateways.
    pub(crate) wan: WanBackend,
    /// The lan backend of both gateways.
    pub(crate) lan: LanBackend,
    /// Seconds of traffic in all.
    pub(crate) duration: Duration,
    /// TCP streams.
    pub(crate) streams: usize,
    /// Lanes of each gateway.
    pub(crate) lanes: Option<u16>,
    /// What seals and opens packets.
    pub(crate) crypto: Crypto,
}

/// Runs the demo.
///
/// # Errors
/// What failed, or [`crate::lab::stop::Interrupted`]; all that was made has been removed by then.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let stop = Stop::on_signals()?;
    let mut progress = Progress::new();
    let leftovers =
        namespace::remove_leftovers(topology::PREFIX).context("leftovers of an earlier demo cannot be removed")?;
    scratch::remove_leftovers(scratch::DEMO);
    if leftovers > 0 {
        progress.done(&format!("removed {leftovers} namespaces of a demo that was killed"));
    }
    progress.step("making two sites and the internet between them");
    let queues = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8);
    let topology = Topology::new(queues as u32)?;
    if options.lan == LanBackend::Xdp {
        topology.finish_packets()?;
    }
    let scratch = Scratch::new(scratch::DEMO)?;
    progress.done(&format!("four namespaces: {} and its like (ip netns exec NAME ...)", topology.host_a.name()));
    // Declared after the topology, so dropped before it: no process is left in a namespace that goes away.
    let gateways = start(options, &topology, &scratch, &stop, &mut progress)?;
    let figures = measure(options, path(&topology), gateways.each_ref(), &stop, &mut progress)?;
    let statuses = [gateways[0].status()?, gateways[1].status()?];
    progress.step("removing everything");
    drop(gateways);
    drop(topology);
    progress.done("everything is removed again");
    progress.finish();
    Ok(Report::new(options, &figures, &statuses))
}

/// Starts both gateways and waits until they have shaken hands.
fn start(
    options: &Options,
    topology: &Topology,
    scratch: &Scratch,
    stop: &Stop,
    progress: &mut Progress,
) -> anyhow::Result<[Gateway; 2]> {
    progress.step("starting two gateways");
    let keys = process::keys()?;
    let mut a = process::start(Role::A, &topology.gateway_a, scratch, &keys, options)?;
    let mut b = process::start(Role::B, &topology.gateway_b, scratch, &keys, options)?;
    a.wait_until_ready(stop)?;
    b.wait_until_ready(stop)?;
    progress.done(&format!("two gateways run: {} and {}", a.interface(), b.interface()));
    progress.step("shaking hands");
    let end = Instant::now() + HANDSHAKE_PATIENCE;
    while !(a.has_session()? && b.has_session()?) {
        anyhow::ensure!(Instant::now() < end, "no handshake in {HANDSHAKE_PATIENCE:?}\n{}{}", a.log(), b.log());
        // One packet makes the gateway begin; its later ones are retries of the protocol's own.
        rtt::knock(path(topology))?;
        stop.sleep(Duration::from_millis(50))?;
        a.check()?;
        b.check()?;
    }
    progress.done("handshake done");
    Ok([a, b])
}

/// The traffic, one kind after the other.
fn measure(
    options: &Options,
    path: Path<'_>,
    gateways: [&Gateway; 2],
    stop: &Stop,
    progress: &mut Progress,
) -> anyhow::Result<Figures> {
    let blame = || format!("{}{}", gateways[0].log(), gateways[1].log());
    progress.step("echo on the idle tunnel");
    let rtt = rtt::measure(path, options.duration.mul_f64(0.1), stop).with_context(blame)?;
    progress.done(&format!("round trip {:.0} us (p50), {:.0} us (p99)", rtt.us_p50, rtt.us_p99));

    progress.step(&format!("TCP, {} streams", options.streams));
    let mut marks = Vec::new();
    let window = options.duration.mul_f64(0.5);
    let tcp = tcp::measure(
        path,
        options.streams,
        window,
        stop,
        || marks.push((Instant::now(), gateways.map(Gateway::cpu_time))),
        |rate| progress.update(&format!("TCP, {} streams: {:.2} Gb/s", options.streams, rate / 1e9)),
    )
    .with_context(blame)?;
    let cpu = cpu_percent(&marks);
    progress.done(&format!("TCP {:.2} Gb/s, {} streams", tcp.bits_per_second / 1e9, options.streams));

    progress.step("UDP: looking for the rate that arrives whole");
    let tell = |rate: f64| progress.update(&format!("UDP: trying {:.0} packets/s", rate));
    let edge = udp::search(path, options.duration.mul_f64(0.2), stop, tell).with_context(blame)?;
    anyhow::ensure!(edge.pps > 0.0, "no rate of UDP arrives whole\n{}", blame());
    progress.step(&format!("UDP at {:.0} packets/s", edge.pps * STEADY_SHARE));
    let udp = udp::trial(path, edge.pps * STEADY_SHARE, options.duration.mul_f64(0.2), stop).with_context(blame)?;
    progress.done(&format!(
        "UDP {:.0} packets/s of {} bytes, {:.3} % lost",
        udp.rate(),
        udp::PAYLOAD,
        udp.loss() * 100.0
    ));
    Ok(Figures { rtt, tcp, cpu_percent: cpu, udp, udp_edge: edge })
}

fn path(topology: &Topology) -> Path<'_> {
    Path { from: &topology.host_a, to: &topology.host_b, address: HOST_B.into() }
}

/// CPU of each gateway between the two marks, in percent of one core.
fn cpu_percent(marks: &[(Instant, [Duration; 2])]) -> [f64; 2] {
    let (Some((start, before)), Some((end, after))) = (marks.first(), marks.last()) else { return [0.0; 2] };
    let wall = end.duration_since(*start).as_secs_f64().max(1e-3);
    std::array::from_fn(|i| after[i].saturating_sub(before[i]).as_secs_f64() / wall * 100.0)
}
