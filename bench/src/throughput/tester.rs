//! Generator and sink on the hosts of a topology.
//!
//! 1. [`Tester::attach`]: programs on both hosts' interfaces; the gateways' ends accept frames of XDP programs.
//! 2. [`Tester::join`]: until frames go through: neighbours resolved, sessions up.
//! 3. [`Tester::trial`]: sources started, waited for, ended; what was under way has arrived; counters compared.
//! 4. [`Tester::search`]: trials until the highest good rate is known.
//!
//! Enters: a topology and trials. Leaves: results. Never does: stay attached when it is dropped; TCP wants it gone.

use std::os::unix::thread::JoinHandleExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landbridge::lab::namespace;
use landbridge::lab::stop::Stop;
use landbridge_xsk::offloads;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::end::{Counted, End, Running, Turns};
use super::frame::{FrameSize, IpVersion};
use super::search::{Outcome, Probe, Search, SearchResult, SearchSpec};
use super::stamping::{self, Addresses, Run};
use super::topology::{LAN, Side, Topology};
use super::trial::{Directions, Trial, TrialResult};

/// From the start of a generator until its first frame is due: the kernel takes some time to begin.
pub(crate) const LEAD: Duration = Duration::from_millis(60);
/// How long after the end of a trial a generator that has no turn is waited for.
const OVERTIME: Duration = Duration::from_millis(300);
/// When nothing has arrived for so long, nothing is under way any more.
const SILENCE: Duration = Duration::from_millis(40);
/// How long arriving frames are waited for at most.
const DRAIN_MAX: Duration = Duration::from_millis(1500);
const TICK: Duration = Duration::from_millis(5);

/// Generator and sink on both hosts.
pub(crate) struct Tester<'t> {
    topology: &'t Topology,
    a: End,
    b: End,
    magic: u32,
    /// The next trial's first sequence number.
    sequence: u32,
    turns: Turns,
    /// Whether generic receive offload was on at the gateways' ends.
    was_on: [bool; 2],
}

impl<'t> Tester<'t> {
    /// Attaches to both hosts. The generators take only turns that nobody else wants.
    ///
    /// # Errors
    /// No right to do so, an interface that has an XDP program already, or what the kernel said.
    pub(crate) fn attach(topology: &'t Topology) -> anyhow::Result<Self> {
        Self::attach_with(topology, Turns::OnlyIdle)
    }

    /// [`Tester::attach`] with other turns for the generators.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn attach_with(topology: &'t Topology, turns: Turns) -> anyhow::Result<Self> {
        survive_signals()?;
        let a = End::attach(topology.host(Side::A), topology.host_lan(Side::A))?;
        let b = End::attach(topology.host(Side::B), topology.host_lan(Side::B))?;
        // Not zero, and another in each run.
        let magic = (now_ns()? >> 10) as u32 | 1;
        let mut tester = Self { topology, a, b, magic, sequence: 1, turns, was_on: [false; 2] };
        // A veth end takes frames of XDP programs once it has NAPI, which this offload switches on.
        for (place, side) in [Side::A, Side::B].into_iter().enumerate() {
            let switched = topology.gateway(side).run(|| Ok(offloads::switch_generic_receive(LAN, true)?));
            tester.was_on[place] = switched?;
        }
        Ok(tester)
    }

    /// Sends a few frames each way until some arrive, for `patience` at most.
    ///
    /// # Errors
    /// Nothing arrives, or [`landbridge::lab::stop::Interrupted`].
    pub(crate) fn join(&mut self, version: IpVersion, patience: Duration, stop: &Stop) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        let duration = Duration::from_millis(50);
        let (size, directions) = (FrameSize::Bytes(128), Directions::Both);
        loop {
            let trial = Trial { size, version, rate_pps: 500.0, directions, duration, flows: 1 };
            let results = self.trial(&trial, stop)?;
            if results.iter().all(|result| result.received > 0) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "no frame goes from host to host: {results:?}");
        }
    }

    /// Runs a trial.
    ///
    /// # Errors
    /// A trial that cannot be run, what the kernel said, or [`landbridge::lab::stop::Interrupted`].
    pub(crate) fn trial(&mut self, trial: &Trial, stop: &Stop) -> anyhow::Result<Vec<TrialResult>> {
        stop.check()?;
        let start_ns = now_ns()? + LEAD.as_nanos() as u64;
        let run = Run { magic: self.magic, sequence: self.sequence, start_ns };
        let sink = stamping::sink(trial, &run)?;
        let before = [self.expect(Side::A, sink)?, self.expect(Side::B, sink)?];
        let end = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        let started = trial.directions.sources().iter().try_for_each(|side| {
            running.push(self.start(*side, trial, &run, &end)?);
            anyhow::Ok(())
        });
        let waited = started.and_then(|()| self.wait(trial, &running, stop));
        let ended = finish(running, &end);
        waited.and(ended)?;
        self.drain(stop)?;
        let mut results = Vec::new();
        for &from in trial.directions.sources() {
            let to = from.other();
            results.push(self.result(trial, from, &before[to as usize])?);
            self.sequence = self.sequence.max(run.sequence + self.end(from).progress()?.sequence + 1);
        }
        Ok(results)
    }

    /// Searches the highest good rate of frames like those of `trial`, whose rate and duration do not count. `told`
    /// hears of each trial.
    ///
    /// # Errors
    /// As [`Tester::trial`].
    pub(crate) fn search(
        &mut self,
        spec: SearchSpec,
        trial: &Trial,
        stop: &Stop,
        mut told: impl FnMut(&Outcome),
    ) -> anyhow::Result<SearchResult> {
        let mut search = Search::new(spec);
        while let Some(probe) = search.next() {
            let Probe { rate_pps, duration } = probe;
            let results = self.trial(&Trial { rate_pps, duration, ..*trial }, stop)?;
            let outcome = Outcome::of(probe, &results);
            told(&outcome);
            search.record(outcome);
        }
        Ok(search.finish())
    }

    fn expect(&mut self, side: Side, sink: landbridge_ebpf_common::bench::Sink) -> anyhow::Result<Counted> {
        let end = self.end_mut(side);
        end.expect(sink)?;
        end.counted()
    }

    fn start(&mut self, side: Side, trial: &Trial, run: &Run, end: &Arc<AtomicBool>) -> anyhow::Result<Running> {
        let source = stamping::source(&self.addresses(side, trial.version), trial, run)?;
        let (topology, turns) = (self.topology, self.turns);
        self.end_mut(side).start(source, turns, end, |work| {
            let pinned = move || {
                stay(side)?;
                work()
            };
            topology.host(side).spawn("generator", pinned)
        })
    }

    /// Until all generators have come to their end, or should have.
    fn wait(&self, trial: &Trial, running: &[Running], stop: &Stop) -> anyhow::Result<()> {
        stop.sleep(LEAD + trial.duration)?;
        let late = Instant::now() + OVERTIME;
        while Instant::now() < late && !running.iter().any(Running::is_finished) {
            let mut done = true;
            for side in trial.directions.sources() {
                done &= self.end(*side).progress()?.done != 0;
            }
            if done {
                return Ok(());
            }
            stop.sleep(TICK)?;
        }
        // A generator that the machine never lets run ends here; what it did not send shows in its offered rate.
        Ok(())
    }

    /// Until nothing arrives any more.
    fn drain(&self, stop: &Stop) -> anyhow::Result<()> {
        let (start, mut last, mut since) = (Instant::now(), None, Instant::now());
        while start.elapsed() < DRAIN_MAX {
            let count = |end: &End| anyhow::Ok(end.counted()?.tally.received);
            let arrived = Some((count(&self.a)?, count(&self.b)?));
            if arrived != last {
                (last, since) = (arrived, Instant::now());
            } else if since.elapsed() >= SILENCE {
                break;
            }
            stop.sleep(TICK)?;
        }
        Ok(())
    }

    fn result(&self, trial: &Trial, from: Side, before: &Counted) -> anyhow::Result<TrialResult> {
        let progress = self.end(from).progress()?;
        let (tally, latency) = self.end(from.other()).counted()?.since(before);
        Ok(TrialResult::of(trial, from, &progress, &tally, latency))
    }

    /// From a host by way of its gateway to the other host.
    fn addresses(&self, side: Side, version: IpVersion) -> Addresses {
        Addresses {
            source_mac: self.topology.host_lan(side).mac,
            destination_mac: self.topology.gateway_lan(side).mac,
            source: self.topology.host_address(side, version),
            destination: self.topology.host_address(side.other(), version),
        }
    }

    fn end(&self, side: Side) -> &End {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }
}

impl Drop for Tester<'_> {
    fn drop(&mut self) {
        for (was_on, side) in self.was_on.into_iter().zip([Side::A, Side::B]) {
            if !was_on {
                // The topology may be on its way out too; then there is nothing to restore.
                let switched = self.topology.gateway(side).run(|| Ok(offloads::switch_generic_receive(LAN, false)?));
                drop(switched);
            }
        }
    }
}

/// A signal is what ends a generator; its default would end the process.
///
/// # Errors
/// Signals that cannot be caught.
pub(crate) fn survive_signals() -> anyhow::Result<()> {
    signal_hook::flag::register(Signal::SIGUSR1 as i32, Arc::new(AtomicBool::new(false)))
        .context("signals cannot be caught")?;
    Ok(())
}

/// Ends the generators: each is in one system call that only a signal cuts short.
pub(crate) fn finish(running: Vec<Running>, end: &AtomicBool) -> anyhow::Result<()> {
    end.store(true, Ordering::Relaxed);
    let mut result = Ok(());
    for thread in running {
        while !thread.is_finished() {
            // Again and again, as one that comes before the call cuts nothing short.
            let _gone = pthread_kill(thread.as_pthread_t(), Signal::SIGUSR1);
            std::thread::sleep(Duration::from_millis(1));
        }
        result = result.and(namespace::join(thread));
    }
    result
}

/// Keeps the calling thread on one core. A veth chooses the receiving queue by the core that sends: a generator that
/// moved would move its flows to another queue, which no network does, and what overtakes on the way would count as
/// reordered.
///
/// # Errors
/// A core that this process may not use.
pub(crate) fn stay(side: Side) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let core = match side {
        Side::A => cores - 1,
        Side::B => 0,
    };
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("the generator cannot be kept on one core")
}

/// The clock that the programs read.
pub(crate) fn now_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("the clock cannot be read")?;
    Ok(Duration::from(now).as_nanos() as u64)
}
