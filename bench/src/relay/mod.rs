//! `relay`: datagrams a second that the XDP program relays, against the thread that relays where there is no program.
//!
//! ```text
//! host A 10.83.1.2 ---- 10.83.1.1  relay  10.83.2.1 ---- 10.83.2.2 host B
//! ```
//!
//! 1. [`world`]: three namespaces; the relay in the middle one is the gateway's own, with allocations whose ends are bound.
//! 2. A ladder of rates from host A: the most that arrives at host B counts, so that neither is judged by how it fails under
//!    more than it can do.
//! 3. Program, thread and nothing in turn; ratios within each turn, medians over all.
//!
//! The frames are transport data of many pairs of peers in turn, each with ports of the relay to itself, as a relay has them:
//! the kernel, which joins datagrams of a flow that come one after the other (UDP_GRO), finds none to join. `--flows 1` is the
//! thread's best case, in which it joins and cuts again all of them. A frame is 64 bytes of IP packet, the shortest that
//! carries a stamp, or of another size, or of the mix. Frames are made and counted by XDP programs; all of it shares the
//! machine's cores.
//!
//! What a packet costs the relay follows, and does not depend on how fast frames can be made: with the program all happens on
//! the core of the generator, so that it is the time from packet to packet less that time with nothing to forward. The
//! thread's is its CPU time alone: what the kernel does before it, on the generator's core, comes on top.
//!
//! Enters: how often. Leaves: a table, or JSON. Never does: touch a network interface of the machine itself.

mod world;

use std::process::ExitCode;
use std::time::Duration;

use landbridge::lab::stop::Stop;
use serde::Serialize;

use crate::machine::Machine;
use crate::throughput::frame::FrameSize;
use crate::throughput::statistics::Spread;
use world::{Backend, Outcome, World};

/// Measures what the XDP relay forwards against what the relay's thread does: needs root and Linux 5.18
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Bytes of IP packet
    #[arg(long, value_name = "BYTES", default_value = "64")]
    size: FrameSize,
    /// Pairs of peers that send in turn
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=i64::from(world::FLOWS_MAX)))]
    flows: u16,
    /// How often each is measured, in turn; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=101))]
    rounds: u16,
    /// Seconds of each step of the ladder
    #[arg(long, value_name = "SECONDS", default_value_t = 0.25)]
    seconds: f64,
    /// Print JSON in place of the table
    #[arg(long)]
    json: bool,
}

/// Packets a second that are offered, one after the other.
const LADDER: [f64; 12] = [2e5, 3e5, 4e5, 6e5, 8e5, 1.1e6, 1.5e6, 2.2e6, 3e6, 4e6, 5e6, 6e6];

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    size: FrameSize,
    flows: u16,
    rounds: Vec<Round>,
    /// Packets a second.
    xdp: Option<Spread>,
    user: Option<Spread>,
    nothing: Option<Spread>,
    /// Of the same round.
    ratio: Option<Spread>,
    /// Nanoseconds of CPU time of the relay for a packet.
    xdp_ns: Option<Spread>,
    user_ns: Option<Spread>,
    /// Of the same round.
    cost_ratio: Option<Spread>,
}

/// One turn of all.
#[derive(Debug, Clone, Serialize)]
struct Round {
    xdp: Outcome,
    user: Outcome,
    nothing: Outcome,
}

impl Round {
    /// What a packet costs with the program: nothing is not to be told from less than nothing.
    fn xdp_ns(&self) -> f64 {
        let between = |outcome: &Outcome| 1e9 / outcome.received_pps.max(1.0);
        (between(&self.xdp) - between(&self.nothing)).max(1.0) + self.xdp.thread_ns()
    }

    fn cost_ratio(&self) -> f64 {
        self.user.thread_ns() / self.xdp_ns()
    }
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let duration = Duration::from_secs_f64(arguments.seconds.clamp(0.05, 10.0));
    let mut rounds = Vec::new();
    for _ in 0..arguments.rounds {
        let best = |backend| -> anyhow::Result<Outcome> {
            let mut world = World::build(backend, arguments.flows)?;
            climb(|rate| world.trial(arguments.size, rate, duration, &stop))
        };
        let round = Round { xdp: best(Backend::Xdp)?, user: best(Backend::User)?, nothing: best(Backend::Nothing)? };
        if !arguments.json {
            let Round { xdp, user, nothing } = &round;
            eprintln!(
                "xdp {:.0} of {:.0}, thread {:.0} of {:.0}, nothing {:.0} of {:.0} packets/s",
                xdp.received_pps,
                xdp.offered_pps,
                user.received_pps,
                user.offered_pps,
                nothing.received_pps,
                nothing.offered_pps
            );
        }
        rounds.push(round);
    }
    let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    let report = Report {
        machine: Machine::of_this(),
        size: arguments.size,
        flows: arguments.flows,
        xdp: spread(|round| round.xdp.received_pps),
        user: spread(|round| round.user.received_pps),
        nothing: spread(|round| round.nothing.received_pps),
        ratio: spread(|round| round.xdp.received_pps / round.user.received_pps.max(1.0)),
        xdp_ns: spread(Round::xdp_ns),
        user_ns: spread(|round| round.user.thread_ns()),
        cost_ratio: spread(Round::cost_ratio),
        rounds,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table(&report));
    }
    Ok(ExitCode::SUCCESS)
}

/// The most that arrives over the ladder: all of it, as a step that somebody else disturbed says nothing of the next one.
fn climb(mut trial: impl FnMut(f64) -> anyhow::Result<Outcome>) -> anyhow::Result<Outcome> {
    let mut best = trial(LADDER[0])?;
    for rate in &LADDER[1..] {
        let outcome = trial(*rate)?;
        if outcome.received_pps > best.received_pps {
            best = outcome;
        }
    }
    Ok(best)
}

fn table(report: &Report) -> String {
    let line = |name: &str, spread: &Option<Spread>, unit: f64| {
        spread.map_or_else(String::new, |spread| {
            let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| value / unit);
            format!("{name:<34} {median:8.3}  ({min:.3} to {max:.3})\n")
        })
    };
    let cpu = |of: fn(&Round) -> f64| Spread::of(report.rounds.iter().map(of));
    let head = format!("{} bytes of IP packet, {} pairs of peers", report.size, report.flows);
    [
        format!("{}\n{head}, {} rounds: median (least to most)\n", report.machine.short(), report.rounds.len()),
        line("XDP, million packets/s", &report.xdp, 1e6),
        line("thread, million packets/s", &report.user, 1e6),
        line("ratio", &report.ratio, 1.0),
        line("nothing to do, million packets/s", &report.nothing, 1e6),
        line("XDP, ns of CPU a packet", &report.xdp_ns, 1.0),
        line("thread, ns of its CPU a packet", &report.user_ns, 1.0),
        line("ratio of these", &report.cost_ratio, 1.0),
        line("relay's thread with XDP, cores", &cpu(|round| round.xdp.thread_cores), 1.0),
        line("relay's thread without, cores", &cpu(|round| round.user.thread_cores), 1.0),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_arrives_counts_not_what_arrives_of_the_most() {
        let mut asked = Vec::new();
        let best = climb(|rate| {
            asked.push(rate);
            let received_pps = if rate <= 4e5 { rate } else { 1e11 / rate };
            Ok(Outcome { offered_pps: rate, received_pps, thread_cores: 0.0 })
        })
        .expect("no trial fails");
        assert!((best.received_pps - 4e5).abs() < 1.0);
        assert_eq!(asked, LADDER);
    }

    #[test]
    fn what_a_packet_costs_does_not_depend_on_how_fast_frames_are_made() {
        let outcome = |received_pps, thread_cores| Outcome { offered_pps: 6e6, received_pps, thread_cores };
        // Made and counted in 400 ns, relayed in another 100 ns.
        let mut round = Round { xdp: outcome(2e6, 0.0), user: outcome(5e5, 1.0), nothing: outcome(2.5e6, 0.0) };
        assert!((round.xdp_ns() - 100.0).abs() < 1e-6);
        assert!((round.cost_ratio() - 20.0).abs() < 1e-6);
        round.nothing.received_pps = 1.9e6;
        assert!((round.xdp_ns() - 1.0).abs() < 1e-6, "never less than something");
    }
}
