//! The highest rate whose trials are good enough: throughput in the terms of RFC 2544, found in the way of MLRsearch.
//!
//! Several goals are pursued over one set of trials: NDR allows no loss, PDR half a percent. For each goal:
//!
//! 1. A first trial at the highest rate tells how much arrives when far too much is sent: the first guess.
//! 2. Short trials close in on the edge, coarsely: one trial decides a rate.
//! 3. Trials of full length confirm it: of several trials at one rate the majority decides, so that one hiccup of the machine
//!    neither makes nor breaks a result. A rate is below the edge when it is good and no lower rate is bad.
//!
//! Enters: [`Outcome`]s. Leaves: the next [`Probe`], and a [`GoalResult`] for each goal in the end. Never does: run a trial, read a
//! clock, or ask for more trials than [`SearchSpec::probes_max`].

use std::time::Duration;

use serde::Serialize;

/// A rate is offered when the generator came this close to it, of one.
pub(crate) const OFFERED_RATIO_MIN: f64 = 0.99;
/// Short trials last this share of the full ones.
const COARSE_DURATION: u32 = 4;
/// The coarse search ends when the edge is known within so many times the precision.
const COARSE_WIDTH: f64 = 4.0;

/// What counts as good enough.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Goal {
    /// Its name in reports.
    pub(crate) name: String,
    /// The highest share of frames that may be lost, of one.
    pub(crate) loss_ratio_max: f64,
}

impl Goal {
    /// No drop rate: nothing is lost.
    pub(crate) fn ndr() -> Self {
        Self { name: "NDR".to_owned(), loss_ratio_max: 0.0 }
    }

    /// Partial drop rate: at most 0.5 % is lost.
    pub(crate) fn pdr() -> Self {
        Self { name: "PDR".to_owned(), loss_ratio_max: 0.005 }
    }
}

/// How to search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SearchSpec {
    /// The goals, each found by itself over the trials of all.
    pub(crate) goals: Vec<Goal>,
    /// How long a full trial lasts.
    pub(crate) trial: Duration,
    /// How many full trials a rate is decided by at most; odd.
    pub(crate) trials_per_rate: usize,
    /// How far the lowest rate that is bad may lie above the result, as a share of it.
    pub(crate) precision: f64,
    /// The lowest rate that is tried, in packets a second.
    pub(crate) rate_min: f64,
    /// The highest.
    pub(crate) rate_max: f64,
    /// How many trials there may be in all.
    pub(crate) probes_max: usize,
}

impl Default for SearchSpec {
    fn default() -> Self {
        Self {
            goals: vec![Goal::pdr(), Goal::ndr()],
            trial: Duration::from_secs(1),
            trials_per_rate: 3,
            precision: 0.02,
            rate_min: 500.0,
            rate_max: 3_000_000.0,
            probes_max: 80,
        }
    }
}

/// A trial to run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Probe {
    /// Packets a second.
    pub(crate) rate_pps: f64,
    /// For how long.
    pub(crate) duration: Duration,
}

/// What came of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// What was asked for.
    pub(crate) probe: Probe,
    /// What the generator offered, in packets a second; of two directions the slower.
    pub(crate) offered_pps: f64,
    /// The share of the offered frames that were lost, of one; of two directions the worse.
    pub(crate) loss_ratio: f64,
}

impl Outcome {
    /// Whether the generator sent what it was asked for.
    pub(crate) fn is_offered(&self) -> bool {
        self.offered_pps >= self.probe.rate_pps * OFFERED_RATIO_MIN
    }

    fn is_good(&self, goal: &Goal) -> bool {
        self.is_offered() && self.loss_ratio <= goal.loss_ratio_max
    }
}

/// What a search found for one goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct GoalResult {
    /// The goal.
    pub(crate) goal: Goal,
    /// The highest rate that is good, in packets a second: the result. None where even the lowest rate is bad.
    pub(crate) rate_pps: Option<f64>,
    /// The lowest rate that is bad. None where even the highest rate is good.
    pub(crate) bad_pps: Option<f64>,
    /// Whether both are known and as close as the precision asks.
    pub(crate) is_precise: bool,
    /// Whether the bad rate is bad only because the generator could not offer it: the result is a lower limit.
    pub(crate) limited_by_generator: bool,
}

/// A search on its way.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    spec: SearchSpec,
    outcomes: Vec<Outcome>,
}

/// How far a rate is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Good,
    Bad,
    Open,
}

/// The edge as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    good: Option<f64>,
    bad: Option<f64>,
}

/// How trials decide.
#[derive(Debug, Clone, Copy)]
struct Level {
    duration: Duration,
    trials: usize,
    width: f64,
}

impl Search {
    /// Begins.
    pub(crate) fn new(spec: SearchSpec) -> Self {
        Self { spec, outcomes: Vec::new() }
    }

    /// The next trial, to be told to [`Search::record`]; none when all is known or the number of trials is used up.
    pub(crate) fn next(&self) -> Option<Probe> {
        if self.outcomes.len() >= self.spec.probes_max {
            return None;
        }
        if self.outcomes.is_empty() {
            return Some(Probe { rate_pps: self.spec.rate_max, duration: self.coarse().duration });
        }
        self.spec.goals.iter().find_map(|goal| self.towards(goal))
    }

    /// Takes what came of a trial.
    pub(crate) fn record(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// All trials so far.
    pub(crate) fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// What is known for each goal.
    pub(crate) fn results(&self) -> Vec<GoalResult> {
        self.spec.goals.iter().map(|goal| self.result(goal)).collect()
    }

    fn result(&self, goal: &Goal) -> GoalResult {
        let level = self.full();
        let Bounds { good, bad } = self.bounds(goal, level);
        let at_most = good.is_some_and(|good| good >= self.spec.rate_max);
        let is_precise = at_most || matches!((good, bad), (Some(good), Some(bad)) if bad <= good * (1.0 + level.width));
        // The trials that spoke against the rate: did any of them lose too much of what it did offer?
        let limited_by_generator = bad.is_some_and(|bad| {
            let mut against = self.at(bad, level).filter(|outcome| !outcome.is_good(goal)).peekable();
            against.peek().is_some() && against.all(|outcome| outcome.loss_ratio <= goal.loss_ratio_max)
        });
        GoalResult { goal: goal.clone(), rate_pps: good, bad_pps: bad, is_precise, limited_by_generator }
    }

    /// The next trial that this goal needs.
    fn towards(&self, goal: &Goal) -> Option<Probe> {
        [self.coarse(), self.full()].into_iter().find_map(|level| {
            let rate_pps = self.rate_towards(goal, level)?;
            Some(Probe { rate_pps, duration: level.duration })
        })
    }

    fn rate_towards(&self, goal: &Goal, level: Level) -> Option<f64> {
        if let Some(open) = self.open(goal, level) {
            return Some(open);
        }
        let (low, high) = (self.spec.rate_min, self.spec.rate_max);
        let Bounds { good, bad } = self.bounds(goal, level);
        let hint = self.hint(goal, level);
        match (good, bad) {
            (Some(good), Some(bad)) => (bad > good * (1.0 + level.width)).then(|| (good * bad).sqrt()),
            (Some(good), None) if good >= high => None,
            (Some(good), None) => Some(hint.bad.filter(|hint| *hint > good).unwrap_or(good * 2.0).min(high)),
            (None, Some(bad)) if bad <= low => None,
            (None, Some(bad)) => {
                let guess = hint.good.filter(|hint| *hint < bad).or_else(|| self.guess(bad)).unwrap_or(bad / 2.0);
                Some(guess.clamp(low, (bad / (1.0 + level.width)).max(low)))
            }
            (None, None) => Some(hint.good.or(hint.bad).or_else(|| self.guess(high)).unwrap_or(high).clamp(low, high)),
        }
    }

    /// What arrived in the trial at the lowest rate that was too high: the edge is near.
    fn guess(&self, below: f64) -> Option<f64> {
        let overloaded = self.outcomes.iter().filter(|outcome| outcome.probe.rate_pps >= below);
        let lowest = overloaded.min_by(|a, b| a.probe.rate_pps.total_cmp(&b.probe.rate_pps))?;
        let arrived = lowest.offered_pps * (1.0 - lowest.loss_ratio);
        // Where that was tried already, and was too much as well, halving leads on.
        Some(arrived).filter(|arrived| *arrived < below * 0.95 && *arrived > below / 64.0)
    }

    /// What the coarse search knows, for the confirmation.
    fn hint(&self, goal: &Goal, level: Level) -> Bounds {
        if level.trials == 1 { Bounds { good: None, bad: None } } else { self.bounds(goal, self.coarse()) }
    }

    /// A rate that has trials of the level's length but not enough of them.
    fn open(&self, goal: &Goal, level: Level) -> Option<f64> {
        let Bounds { good, bad } = self.bounds(goal, level);
        let between = |rate: f64| good.is_none_or(|good| rate > good) && bad.is_none_or(|bad| rate < bad);
        self.rates(level).find(|rate| between(*rate) && self.decide(*rate, goal, level) == Decision::Open)
    }

    /// The lowest rate that is bad, and the highest below it that is good.
    fn bounds(&self, goal: &Goal, level: Level) -> Bounds {
        let decided = |wanted| self.rates(level).filter(move |rate| self.decide(*rate, goal, level) == wanted);
        let bad = decided(Decision::Bad).min_by(f64::total_cmp);
        let good = decided(Decision::Good).filter(|rate| bad.is_none_or(|bad| *rate < bad)).max_by(f64::total_cmp);
        Bounds { good, bad }
    }

    fn decide(&self, rate: f64, goal: &Goal, level: Level) -> Decision {
        let majority = level.trials / 2 + 1;
        let (good, bad): (Vec<&Outcome>, Vec<&Outcome>) =
            self.at(rate, level).partition(|outcome| outcome.is_good(goal));
        match (good.len() >= majority, bad.len() >= majority) {
            // Short trials beside long ones can make both so: the larger number counts.
            (true, true) if good.len() > bad.len() => Decision::Good,
            (true, false) => Decision::Good,
            (_, true) => Decision::Bad,
            (false, false) => Decision::Open,
        }
    }

    /// Trials at a rate that last at least as long as the level asks.
    fn at(&self, rate: f64, level: Level) -> impl Iterator<Item = &Outcome> {
        let same = move |outcome: &&Outcome| {
            outcome.probe.rate_pps.total_cmp(&rate).is_eq() && outcome.probe.duration >= level.duration
        };
        self.outcomes.iter().filter(same)
    }

    fn rates(&self, level: Level) -> impl Iterator<Item = f64> {
        self.outcomes.iter().filter(move |o| o.probe.duration >= level.duration).map(|o| o.probe.rate_pps)
    }

    fn coarse(&self) -> Level {
        let width = self.spec.precision * COARSE_WIDTH;
        Level { duration: self.spec.trial / COARSE_DURATION, trials: 1, width }
    }

    fn full(&self) -> Level {
        Level { duration: self.spec.trial, trials: self.spec.trials_per_rate, width: self.spec.precision }
    }
}
