//! Where a lane's time goes: some of its turns, cut into stages by the time stamp counter.
//!
//! Enters: the end of each stage of a turn, told by the lane. Leaves: time and packets by stage, summed over the turns that
//! were sampled. Never does: cost more than one branch per stage of a burst while it is off, or count time in which the
//! kernel gave the core to somebody else as work; that is a sum of its own ([`Stage::Preempted`]).
//!
//! Stages lie end to end: the end of one is the beginning of the next, so that their sum is the whole turn.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use landbridge_xsk::ticks;
use nix::sys::resource::{UsageWho, getrusage};

use super::jobs::Direction;
use super::stats::{Counter, LaneStats};

macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// A part of a lane's turn.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Stage {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Stage {
            /// All of them, in the order of a turn.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name,)+];
            /// How many there are.
            pub const COUNT: usize = [$($label,)+].len();

            /// Its name in status and metrics.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

stages! {
    /// Taking a burst from rings or socket, the system calls with it.
    WanReceive = "wan_receive",
    /// Header, session, first look into the replay window.
    Admit = "admit",
    /// Opening.
    Open = "open",
    /// Replay window, account, allowed IPs of the source.
    Commit = "commit",
    /// Giving inner packets to the lan side, the system calls with it.
    LanTransmit = "lan_transmit",
    /// Taking a burst from the lan side, the system calls with it.
    LanReceive = "lan_receive",
    /// Allowed-IP look-up, session, padding, counters, headers.
    Route = "route",
    /// Sealing.
    Seal = "seal",
    /// Giving datagrams to rings or socket, the system calls with it.
    WanTransmit = "wan_transmit",
    /// The rest of a turn: snapshot, commands, bookkeeping of jobs.
    Other = "other",
    /// Asleep, or looking whether there is something to do.
    Wait = "wait",
    /// Stages during which the kernel took the core away; their packets are not counted.
    Preempted = "preempted",
}

/// Sums by stage: one writer, read by anybody.
#[derive(Debug)]
pub struct StageStats {
    ticks: [Counter; Stage::COUNT],
    packets: [Counter; Stage::COUNT],
    /// One turn in so many is sampled; zero for none.
    every: Counter,
    turns: Counter,
    /// A pair of readings from which the length of a tick follows.
    origin: (Instant, u64),
}

impl Default for StageStats {
    fn default() -> Self {
        let counters = || std::array::from_fn(|_| Counter::default());
        Self {
            ticks: counters(),
            packets: counters(),
            every: Counter::default(),
            turns: Counter::default(),
            origin: (Instant::now(), ticks::now()),
        }
    }
}

/// What one stage took, of the turns that were sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageSum {
    /// Which.
    pub stage: Stage,
    /// How long in all.
    pub ns: f64,
    /// Packets that went through it meanwhile.
    pub packets: u64,
}

impl StageStats {
    /// One turn in so many is sampled; `None` when it is off.
    #[must_use]
    pub fn every(&self) -> Option<u64> {
        Some(self.every.value()).filter(|every| *every != 0)
    }

    /// Turns that were sampled.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.value()
    }

    /// Every stage.
    pub fn sums(&self) -> impl Iterator<Item = StageSum> {
        let (instant, ticks) = self.origin;
        let ticks = ticks::now().saturating_sub(ticks).max(1);
        let ns_per_tick = instant.elapsed().as_nanos() as f64 / ticks as f64;
        Stage::ALL.into_iter().map(move |stage| StageSum {
            stage,
            ns: self.ticks[stage as usize].value() as f64 * ns_per_tick,
            packets: self.packets[stage as usize].value(),
        })
    }
}

/// A lane's own side of it.
#[derive(Debug)]
pub(super) struct StageClock {
    stats: Arc<LaneStats>,
    every: u32,
    left: u32,
    sampling: bool,
    /// When the stage at hand began.
    began: u64,
    /// How often the core had been taken away by then.
    preempted: i64,
}

impl StageClock {
    /// A clock that is off.
    pub(super) fn new(stats: Arc<LaneStats>) -> Self {
        Self { stats, every: 0, left: 0, sampling: false, began: 0, preempted: 0 }
    }

    /// Samples one turn in so many from here on.
    pub(super) fn sample(&mut self, every: NonZeroU32) {
        (self.every, self.left) = (every.get(), 1);
        self.stats.stages.every.set(u64::from(every.get()));
    }

    /// A turn begins.
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        if self.every != 0 {
            self.choose();
        }
    }

    /// A stage ends, through which so many packets went; the next begins.
    #[inline]
    pub(super) fn end(&mut self, stage: Stage, packets: usize) {
        if self.sampling {
            self.add(stage, packets);
        }
    }

    #[cold]
    fn choose(&mut self) {
        self.left -= 1;
        self.sampling = self.left == 0;
        if self.sampling {
            self.left = self.every;
            self.stats.stages.turns.add(1);
            self.preempted = preemptions();
            self.began = ticks::now();
        }
    }

    #[cold]
    fn add(&mut self, stage: Stage, packets: usize) {
        let ticks = ticks::now().saturating_sub(self.began);
        let preempted = preemptions();
        let stages = &self.stats.stages;
        // A sleep is given up, not taken away; but its end waits for the core, and that is part of it.
        if preempted == self.preempted || stage == Stage::Wait {
            stages.ticks[stage as usize].add(ticks);
            stages.packets[stage as usize].add(packets as u64);
        } else {
            stages.ticks[Stage::Preempted as usize].add(ticks);
        }
        self.preempted = preempted;
        // What the questions of this function cost is in no stage.
        self.began = ticks::now();
    }
}

impl From<Direction> for Stage {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Open,
            Direction::Outbound => Self::Seal,
        }
    }
}

/// How often the kernel took the core from this thread.
fn preemptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(stats: &LaneStats, stage: Stage) -> StageSum {
        stats.stages.sums().find(|sum| sum.stage == stage).expect("every stage has a sum")
    }

    #[test]
    fn a_clock_that_is_off_counts_nothing() {
        let stats = Arc::new(LaneStats::default());
        let mut clock = StageClock::new(Arc::clone(&stats));
        for _ in 0..10 {
            clock.begin_turn();
            clock.end(Stage::Open, 64);
        }
        assert!(stats.stages.every().is_none());
        assert_eq!(stats.stages.turns(), 0);
        assert!(stats.stages.sums().all(|sum| sum.ns == 0.0 && sum.packets == 0));
    }

    #[test]
    fn one_turn_in_n_is_sampled_whole_and_its_time_is_real() {
        let stats = Arc::new(LaneStats::default());
        let mut clock = StageClock::new(Arc::clone(&stats));
        clock.sample(NonZeroU32::new(4).expect("not zero"));
        for turn in 0..12 {
            clock.begin_turn();
            clock.end(Stage::WanReceive, 3);
            if turn % 4 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
            clock.end(Stage::Wait, 0);
        }
        assert_eq!((stats.stages.every(), stats.stages.turns()), (Some(4), 3));
        let counted = sum(&stats, Stage::WanReceive).packets;
        let taken = sum(&stats, Stage::Preempted).ns > 0.0;
        assert!(counted == 9 || (taken && counted < 9), "{counted} packets of three sampled turns");
        let waited = sum(&stats, Stage::Wait).ns;
        assert!((8.9e6..3e9).contains(&waited), "three sleeps of 3 ms took {waited} ns");
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::BTreeSet<_> = Stage::ALL.iter().map(|stage| stage.label()).collect();
        assert_eq!(labels.len(), Stage::COUNT);
    }
}
