//! Generator and reflector on real machines: two or three hosts with a network, or gateways, between them.
//!
//! ```text
//! generator  X ----- gateway ===== gateway ----- Y  reflector
//! ```
//!
//! The reflector sends every frame of the bench back, so that a latency is a round trip on the generator's clock; with
//! `--take` it keeps and counts them, for one-way figures. Frames leave by the driver's XDP transmit, which most
//! drivers have only while a program is attached, as one is here; by an AF_XDP ring where the driver has none.
//!
//! Enters: the name of an interface. Leaves: one JSON object a line. Never does: touch an interface that was not named,
//! or without `--force` one that has a default route; change an address, a route or an offload.

use std::net::IpAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landbridge::lab::stop::{Interrupted, Stop};
use landbridge_ebpf_common::bench::{FLOWS, Sink, Tally};
use nix::net::if_::if_nametoindex;
use serde_json::json;

use super::end::{End, Turns, Way};
use super::frame::{FrameSize, IpVersion};
use super::search::{Outcome, Search, SearchSpec};
use super::stamping::{self, Addresses, DESTINATION_PORT, PORT, Run};
use super::tester::{LEAD, finish, now_ns, survive_signals};
use super::topology::Side;
use super::trial::{Directions, Trial, TrialResult};

/// What begins the stamp of frames between machines.
const MAGIC: u32 = 0x4c42_5247;
/// How long frames may be under way after the last was sent.
const GRACE: Duration = Duration::from_millis(500);

/// Sends frames out of a real interface and counts those that a reflector sends back
///
/// Needs root. The frames are UDP to port 9 with source ports from 20000 on. Nothing but the bench's own
/// frames is taken from the interface, and its program is detached at the end.
#[derive(Debug, clap::Args)]
pub(crate) struct Generator {
    /// The interface: no other is touched
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// MAC address of the next hop: the gateway's, or the reflector's on the same link
    #[arg(long, value_name = "MAC")]
    peer_mac: Mac,
    /// The address that frames come from: this interface's
    #[arg(long, value_name = "ADDRESS")]
    source: IpAddr,
    /// The address that frames go to: the reflector's
    #[arg(long, value_name = "ADDRESS")]
    destination: IpAddr,
    /// Bytes of IP packet, or imix
    #[arg(long, value_name = "BYTES", default_value = "64")]
    size: FrameSize,
    /// Packets a second; without it the highest rates are searched, without loss and with 0.5 % of it
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// The highest rate that is tried
    #[arg(long, value_name = "RATE", default_value_t = 3e6)]
    rate_max: f64,
    /// Seconds of each full trial
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Flows: UDP source ports in turn, so that queues are used
    #[arg(long, value_name = "N", default_value_t = 16)]
    flows: u16,
    /// How frames leave
    #[arg(long, value_enum, default_value = "auto")]
    by: Way,
    /// Even if the interface has a default route
    #[arg(long)]
    force: bool,
}

/// Sends the bench's frames back where they came from
///
/// Needs root. Runs until Ctrl-C; what came is printed each second in which something came. Everything that is not the
/// bench's is left to the kernel.
#[derive(Debug, clap::Args)]
pub(crate) struct Reflector {
    /// The interface: no other is touched
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Keep and count frames in place of sending them back
    #[arg(long)]
    take: bool,
    /// End after so long
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Even if the interface has a default route
    #[arg(long)]
    force: bool,
}

/// Six bytes in hexadecimal with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
            .collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| "a MAC address is like 02:00:00:00:00:01".to_owned())
    }
}

/// Runs the generator.
///
/// # Errors
/// What failed, or [`Interrupted`].
pub(crate) fn generate(arguments: &Generator) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    survive_signals()?;
    let index = permitted(&arguments.interface, arguments.force)?;
    let addresses = Addresses {
        source_mac: own_mac(&arguments.interface)?.0,
        destination_mac: arguments.peer_mac.0,
        source: arguments.source,
        destination: arguments.destination,
    };
    let duration = Duration::try_from_secs_f64(arguments.seconds).context("the duration is none")?;
    let version = if arguments.source.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
    let (rate_pps, directions) = (arguments.rate.unwrap_or(arguments.rate_max), Directions::AToB);
    let trial = Trial { size: arguments.size, version, rate_pps, directions, duration, flows: arguments.flows };
    let mut sender = Sender { end: End::attach_here(index)?.by(arguments.by), addresses, sequence: 1 };
    if arguments.rate.is_some() {
        let result = sender.trial(&trial, &stop)?;
        println!("{}", json!({ "size": trial.size, "rate_pps": rate_pps, "result": result }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut search = Search::new(SearchSpec { trial: duration, rate_max: arguments.rate_max, ..SearchSpec::default() });
    while let Some(probe) = search.next() {
        let of = Trial { rate_pps: probe.rate_pps, duration: probe.duration, ..trial };
        let outcome = Outcome::of(probe, &[sender.trial(&of, &stop)?]);
        println!("{}", serde_json::to_string(&outcome)?);
        search.record(outcome);
    }
    println!("{}", json!({ "size": trial.size, "goals": search.finish().goals }));
    Ok(ExitCode::SUCCESS)
}

/// A generator whose frames come back to it.
struct Sender {
    end: End,
    addresses: Addresses,
    sequence: u32,
}

impl Sender {
    fn trial(&mut self, trial: &Trial, stop: &Stop) -> anyhow::Result<TrialResult> {
        stop.check()?;
        let start_ns = now_ns()? + LEAD.as_nanos() as u64;
        let run = Run { magic: MAGIC, sequence: self.sequence, start_ns };
        self.end.expect(stamping::sink(trial, &run)?)?;
        let before = self.end.counted()?;
        let source = stamping::source(&self.addresses, trial, &run)?;
        let end = Arc::new(AtomicBool::new(false));
        let running = self.end.start(source, Turns::Fair, &end, |work| {
            std::thread::Builder::new().name("sender".to_owned()).spawn(work).context("no thread")
        })?;
        let waited = stop.sleep(LEAD + trial.duration);
        waited.and(finish(vec![running], &end))?;
        stop.sleep(GRACE)?;
        let progress = self.end.progress()?;
        self.sequence = run.sequence + progress.sequence + 1;
        let (tally, latency) = self.end.counted()?.since(&before);
        Ok(TrialResult::of(trial, Side::A, &progress, &tally, latency))
    }
}

/// Runs the reflector.
///
/// # Errors
/// What failed.
pub(crate) fn reflect(arguments: &Reflector) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let mut end = End::attach_here(permitted(&arguments.interface, arguments.force)?)?;
    end.expect(Sink { reflect: u32::from(!arguments.take), ..reflecting() })?;
    eprintln!("ready on {}: Ctrl-C ends it", arguments.interface);
    let (start, mut before) = (Instant::now(), end.counted()?);
    while arguments.seconds.is_none_or(|seconds| start.elapsed() < Duration::from_secs(seconds)) {
        match stop.sleep(Duration::from_secs(1)) {
            Err(error) if error.is::<Interrupted>() => break,
            slept => slept?,
        }
        let now = end.counted()?;
        let (tally, _) = now.since(&before);
        before = now;
        if frames(&tally) > 0 {
            println!("{}", json!({ "frames": frames(&tally), "corrupted": tally.corrupted, "others": tally.passed }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Every frame of the bench goes back.
fn reflecting() -> Sink {
    Sink {
        magic: MAGIC,
        sequence: 1,
        flows: FLOWS,
        port: PORT,
        destination_port: DESTINATION_PORT.to_be_bytes(),
        reflect: 1,
        ..Sink::default()
    }
}

/// All of the bench's frames: a generator that is started again begins its numbers again, which here are duplicates.
fn frames(tally: &Tally) -> u64 {
    tally.received + tally.duplicated + tally.stale + tally.corrupted
}

/// The index of an interface that may be used.
fn permitted(interface: &str, force: bool) -> anyhow::Result<u32> {
    let index = if_nametoindex(interface).with_context(|| format!("interface {interface} is not there"))?;
    let routes = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let has_default = has_default_v4(&routes("/proc/net/route"), interface)
        || has_default_v6(&routes("/proc/net/ipv6_route"), interface);
    anyhow::ensure!(
        force || !has_default,
        "{interface} has a default route: a flood would take it away from everything else (--force does it all the same)"
    );
    Ok(index)
}

/// `/proc/net/route`: interface, destination, gateway, flags, ..., mask at the eighth place.
fn has_default_v4(text: &str, interface: &str) -> bool {
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.first() == Some(&interface) && fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")
    })
}

/// `/proc/net/ipv6_route`: destination, its prefix length, ..., interface last. What is unreachable belongs to `lo`.
fn has_default_v6(text: &str, interface: &str) -> bool {
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.last() == Some(&interface)
            && fields.first().is_some_and(|to| to.bytes().all(|c| c == b'0'))
            && fields.get(1) == Some(&"00")
    })
}

fn own_mac(interface: &str) -> anyhow::Result<Mac> {
    let path = format!("/sys/class/net/{interface}/address");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    text.trim().parse().map_err(|error: String| anyhow::anyhow!("{interface}: {error}"))
}

#[cfg(test)]
mod tests {
    use landbridge::lab::links;
    use landbridge::lab::namespace::Namespace;

    use super::*;

    #[test]
    fn frames_that_leave_by_a_ring_come_back_from_the_reflector_and_are_all_counted() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test needs root, and CI skips nothing");
            eprintln!("skipped: network namespaces need root");
            return;
        }
        survive_signals().expect("a handler");
        let [near, far] =
            ["near", "far"].map(|role| Namespace::new("landbridge-roles-test", role).expect("namespaces"));
        let (one, other) = links::veth((&near, "near0"), (&far, "far0"), 1, 1500).expect("a wire");
        let mut reflector = End::attach(&far, &other).expect("the reflector's program");
        reflector.expect(reflecting()).expect("a map");
        // Wherever it goes: the program sends back what is the bench's.
        let addresses = Addresses {
            source_mac: one.mac,
            destination_mac: other.mac,
            source: "10.82.1.2".parse().expect("an address"),
            destination: "10.82.2.2".parse().expect("an address"),
        };
        near.run(move || {
            let mut sender = Sender { end: End::attach_here(one.index)?.by(Way::Ring), addresses, sequence: 1 };
            for size in [FrameSize::Bytes(64), FrameSize::Imix] {
                let (version, directions, duration) = (IpVersion::V4, Directions::AToB, Duration::from_millis(300));
                let trial = Trial { size, version, rate_pps: 2000.0, directions, duration, flows: 3 };
                let result = sender.trial(&trial, &Stop::default())?;
                anyhow::ensure!(result.sent > 50 && result.sent + result.missed <= 600, "{result:?}");
                let bad = (result.lost, result.duplicated, result.reordered, result.corrupted, result.stale);
                anyhow::ensure!(bad == (0, 0, 0, 0, 0) && result.received == result.sent, "{result:?}");
                anyhow::ensure!(result.latency.count() == result.received, "{result:?}");
            }
            Ok(())
        })
        .expect("every frame comes back");
    }

    #[test]
    fn a_link_whose_other_end_takes_no_frames_of_programs_gets_them_by_a_ring() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let [near, far] = ["one", "two"].map(|role| Namespace::new("landbridge-roles-test", role).expect("namespaces"));
        let (one, other) = links::veth((&near, "near0"), (&far, "far0"), 1, 1500).expect("a wire");
        let index = one.index;
        let ways = move || Ok([Way::Auto, Way::Live, Way::Ring].map(|way| way.on(index)));
        let plain = near.run(ways).expect("an answer");
        assert_eq!(plain, [Way::Ring, Way::Live, Way::Ring]);
        let _sink = End::attach(&far, &other).expect("a program");
        assert_eq!(near.run(ways).expect("an answer"), [Way::Auto, Way::Live, Way::Ring]);
    }

    #[test]
    fn an_interface_with_a_default_route_is_known_by_it() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert!(has_default_v4(v4, "eth0") && !has_default_v4(v4, "eth1") && !has_default_v4(v4, "eth"));
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth0\n\
             fd820000000000000000000000000000 40 {zero} 00 {zero} 00000100 1 0 00000001 eth1\n"
        );
        assert!(has_default_v6(&v6, "eth0") && !has_default_v6(&v6, "eth1"));
    }

    #[test]
    fn a_mac_address_is_six_bytes() {
        assert_eq!("02:00:00:00:00:fF".parse(), Ok(Mac([2, 0, 0, 0, 0, 255])));
        for text in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "02-00-00-00-00-00", "02:00:00:00:00:gg"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_refused() {
        assert!(permitted("no-such-link", true).is_err());
    }
}
