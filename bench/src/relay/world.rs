//! Two hosts and a relay between them, each a namespace of its own, with allocations whose ends are bound to both hosts.
//!
//! Enters: what is to forward. Leaves: what arrived. Never does: leave a namespace or a program behind.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use landbridge::control::relay::LINK_SILENCE;
use landbridge::control::relay::egress::Egress;
use landbridge::control::relay::table::{Id, Relays};
use landbridge::datapath::tables::Tables;
use landbridge::lab::links::{self, Link};
use landbridge::lab::namespace::{Namespace, remove_leftovers};
use landbridge::lab::stop::Stop;
use landbridge::relay::{Place, Relay};
use landbridge::settings::{RelaySettings, XdpMode};
use landbridge::steer::Steer;
use landbridge::steer::relay::RelayPlan;
use landbridge_ebpf_common::bench::{Sink, Source};
use landbridge_xsk::offloads;
use serde::Serialize;

use crate::throughput::end::{End, Turns};
use crate::throughput::frame::{FrameSize, IpVersion};
use crate::throughput::stamping::{self, Addresses, PORT, Run};
use crate::throughput::tester::{LEAD, finish, now_ns, stay, survive_signals};
use crate::throughput::topology::Side;
use crate::throughput::trial::{Directions, Trial, TrialResult};

const PREFIX: &str = "landbridge-relay";
const A: Ipv4Addr = Ipv4Addr::new(10, 83, 1, 2);
const RELAY_A: Ipv4Addr = Ipv4Addr::new(10, 83, 1, 1);
const RELAY_B: Ipv4Addr = Ipv4Addr::new(10, 83, 2, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 83, 2, 2);
/// Where host B is bound.
const PORT_B: u16 = 30_000;
/// Pairs of peers at most: the relay's ports, halved.
pub(crate) const FLOWS_MAX: u16 = 128;
const PREFIX_LEN: u8 = 24;
/// What begins transport data (paper, section 5.4.6), and thereby each stamp.
const TRANSPORT_DATA: u32 = u32::from_le_bytes([4, 0, 0, 0]);
/// How long frames may be under way after the last was sent.
const GRACE: Duration = Duration::from_millis(150);
/// How long after the end of a trial a generator that has no turn is waited for.
const OVERTIME: Duration = Duration::from_millis(300);

/// What forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The XDP program, native.
    Xdp,
    /// The relay's thread; no program is attached.
    User,
    /// Nothing: frames are counted where they come to the relay. What is left is what generator and sink cost.
    Nothing,
}

/// What one trial has brought.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Outcome {
    /// Packets that host A sent each second.
    pub(crate) offered_pps: f64,
    /// Packets that arrived at host B each second.
    pub(crate) received_pps: f64,
    /// CPU time of the relay's thread, in cores.
    pub(crate) thread_cores: f64,
}

impl Outcome {
    /// CPU time of the relay's thread for each packet that arrived, in nanoseconds.
    pub(crate) fn thread_ns(&self) -> f64 {
        self.thread_cores * 1e9 / self.received_pps.max(1.0)
    }
}

/// See the module. Dropped in this order: programs before namespaces.
pub(crate) struct World {
    source: End,
    sink: End,
    middle: Middle,
    addresses: Addresses,
    flows: u16,
    sequence: u32,
    a: Namespace,
    _relay: Namespace,
    _b: Namespace,
}

/// The relay itself.
struct Middle {
    _steer: Option<Steer>,
    _relays: Option<Relays>,
    /// Of the first pair: where frames go, and where they come from afterwards. The other pairs' follow.
    ports: [u16; 2],
    /// The relay's thread.
    thread: String,
}

impl World {
    /// Makes it.
    ///
    /// # Errors
    /// No right to do so, or what the kernel said; nothing is left then.
    pub(crate) fn build(backend: Backend, flows: u16) -> anyhow::Result<Self> {
        survive_signals()?;
        remove_leftovers(PREFIX).context("what an earlier run left cannot be removed")?;
        let make = |role: &str| Namespace::new(PREFIX, role);
        let (a, relay, b) = (make("a")?, make("relay")?, make("b")?);
        for (path, value) in [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0")] {
            links::setting(&relay, path, value)?;
        }
        let (host_a, relay_a) = links::veth((&a, "wan"), (&relay, "wana"), 1, 1500)?;
        let (relay_b, host_b) = links::veth((&relay, "wanb"), (&b, "wan"), 1, 1500)?;
        for (namespace, name, address) in
            [(&a, "wan", A), (&relay, "wana", RELAY_A), (&relay, "wanb", RELAY_B), (&b, "wan", B)]
        {
            links::address(namespace, name, address.into(), PREFIX_LEN)?;
        }
        links::neighbour(&relay, "wana", A.into(), host_a.mac)?;
        links::neighbour(&relay, "wanb", B.into(), host_b.mac)?;
        // A veth end takes frames of XDP programs once it has NAPI, which this offload switches on.
        relay.run(|| Ok(offloads::switch_generic_receive("wana", true)?))?;
        let source = End::attach(&a, &host_a)?;
        let sink = match backend {
            Backend::Nothing => End::attach(&relay, &relay_a)?,
            Backend::Xdp | Backend::User => End::attach(&b, &host_b)?,
        };
        let interfaces = [relay_a.clone(), relay_b];
        let middle = relay.run(move || Middle::start(backend, flows, &interfaces))?;
        let addresses = Addresses {
            source_mac: host_a.mac,
            destination_mac: relay_a.mac,
            source: A.into(),
            destination: RELAY_A.into(),
        };
        Ok(Self { source, sink, middle, addresses, flows, sequence: 1, a, _relay: relay, _b: b })
    }

    /// Sends at a rate for a while.
    ///
    /// # Errors
    /// What the kernel said, or [`landbridge::lab::stop::Interrupted`].
    pub(crate) fn trial(
        &mut self,
        size: FrameSize,
        rate_pps: f64,
        duration: Duration,
        stop: &Stop,
    ) -> anyhow::Result<Outcome> {
        let (directions, flows) = (Directions::AToB, self.flows);
        let trial = Trial { size, version: IpVersion::V4, rate_pps, directions, duration, flows };
        let start_ns = now_ns()? + LEAD.as_nanos() as u64;
        let run = Run { magic: TRANSPORT_DATA, sequence: self.sequence, start_ns };
        let [to, port] = self.middle.ports;
        let source = stamping::source_to(&self.addresses, &trial, &run, to)?;
        // Each pair of peers has ports of the relay to itself.
        let source = Source { spread: u16::from(to != PORT_B), ..source };
        let expected = stamping::sink(&trial, &run)?;
        self.sink.expect(Sink { port, destination_port: PORT_B.to_be_bytes(), ..expected })?;
        let (before, cpu_before) = (self.sink.counted()?, self.middle.cpu());
        let end = Arc::new(AtomicBool::new(false));
        let host = &self.a;
        // The program runs in the generator's turns, as a card's interrupts would be it: they have to be as good as the thread's.
        let running = self.source.start(source, Turns::Fair, &end, |work| {
            let pinned = move || {
                stay(Side::A)?;
                work()
            };
            host.spawn("generator", pinned)
        })?;
        let mut waited = stop.sleep(LEAD + duration);
        for _ in 0..OVERTIME.as_millis() / 5 {
            if waited.is_err() || self.source.progress()?.done != 0 {
                break;
            }
            waited = stop.sleep(Duration::from_millis(5));
        }
        let ended = finish(vec![running], &end);
        let cpu = self.middle.cpu().saturating_sub(cpu_before);
        waited.and(ended)?;
        stop.sleep(GRACE)?;
        let progress = self.source.progress()?;
        self.sequence += progress.sequence + 1;
        let (tally, latency) = self.sink.counted()?.since(&before);
        let result = TrialResult::of(&trial, Side::A, &progress, &tally, latency);
        anyhow::ensure!(result.corrupted == 0, "{} frames arrived changed", result.corrupted);
        Ok(Outcome {
            offered_pps: result.offered_pps,
            received_pps: result.received_pps,
            thread_cores: cpu.as_secs_f64() / duration.as_secs_f64(),
        })
    }
}

impl Middle {
    /// In the relay's namespace.
    fn start(backend: Backend, flows: u16, interfaces: &[Link]) -> anyhow::Result<Self> {
        let mut steer = match backend {
            Backend::Xdp => Some(steer(interfaces)?),
            Backend::User => None,
            Backend::Nothing => {
                let thread = String::new();
                return Ok(Self { _steer: None, _relays: None, ports: [PORT_B, PORT], thread });
            }
        };
        let tables = Arc::new(ArcSwap::from_pointee(Tables::new(1420)));
        let thread = Relay::start(tables, LINK_SILENCE).context("the relay's thread cannot be started")?;
        let settings = RelaySettings { rate_mbps: 0, ..RelaySettings::default() };
        let first = settings.ports.first;
        let mut relays = Relays::new(&settings, thread, None, Egress::none("the bench"));
        let place = |remote: Ipv4Addr, port, local: Ipv4Addr| Place {
            remote: SocketAddr::new(remote.into(), port),
            local: IpAddr::V4(local),
        };
        for pair in 0..flows.min(FLOWS_MAX) {
            let id = Id::Granted(u64::from(pair) + 1);
            let ports = [first + pair, first + FLOWS_MAX + pair];
            relays.open(steer.as_mut(), id, [[1; 32], [2; 32]], Some(ports)).context("two ports are not free")?;
            for (end, place) in [(0, place(A, PORT + pair, RELAY_A)), (1, place(B, PORT_B, RELAY_B))] {
                let bound = relays.bind(steer.as_mut(), id, end, Some(place));
                bound.map_err(|reason| anyhow::anyhow!("an end cannot be bound: {}", reason.label()))?;
            }
        }
        // A thread names itself once it runs.
        let named = |_| {
            std::thread::sleep(Duration::from_millis(5));
            thread_named("relay")
        };
        let thread = (0..200).find_map(named).context("the relay has no thread")?;
        Ok(Self { _steer: steer, _relays: Some(relays), ports: [first, first + FLOWS_MAX], thread })
    }

    /// CPU time of the relay's thread.
    fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.thread)).unwrap_or_default();
        Duration::from_nanos(text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
    }
}

/// The program on both interfaces.
fn steer(interfaces: &[Link]) -> anyhow::Result<Steer> {
    let settings = RelaySettings::default();
    let mut steer = Steer::load()?;
    steer.set_port(51_820)?;
    let count = settings.ports.count();
    steer.set_relay(RelayPlan { first: settings.ports.first, count, native: true, back: false })?;
    for link in interfaces {
        steer.attach(link.index, &link.name, XdpMode::Native)?;
        steer.set_relay_egress(link.index, true)?;
    }
    Ok(steer)
}

/// The number of the latest of this process' threads with a name.
fn thread_named(name: &str) -> Option<String> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?.filter_map(Result::ok);
    let named =
        tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    named.filter_map(|task| task.file_name().into_string().ok()).max_by_key(|number| number.parse::<u32>().ok())
}
