//! The highest rate whose trials are good enough: throughput in the terms of RFC 2544, found in the way of MLRsearch.
//!
//! Several goals are pursued over one set of trials: NDR allows no loss, PDR half a percent. For each goal:
//!
//! 1. A first trial at the highest rate tells how much arrives when far too much is sent: the first guess.
//! 2. Short trials close in on the edge, coarsely: one trial decides a rate.
//! 3. Trials of full length confirm it: of several trials at one rate the majority decides, so that one hiccup of the
//!    machine neither makes nor breaks a result. A rate is below the edge when it is good and no lower rate is bad.
//!
//! Enters: [`Outcome`]s. Leaves: the next [`Probe`], and a [`GoalResult`] for each goal in the end. Never does: run a
//! trial, read a clock, or ask for more trials than [`SearchSpec::probes_max`].

use std::time::Duration;

use serde::Serialize;

use super::trial::TrialResult;

/// A rate is offered when the generator came this close to it, of one. Generator and gateways share cores here: what it
/// could not send in time it leaves out, and a search that took every such trial for a failure would end far below the
/// edge. The result is therefore what was offered, not what was asked for.
pub(crate) const OFFERED_RATIO_MIN: f64 = 0.8;
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

    /// Of the results of a trial's directions the worst counts.
    pub(crate) fn of(probe: Probe, results: &[TrialResult]) -> Self {
        let offered_pps = results.iter().map(|result| result.offered_pps).fold(f64::INFINITY, f64::min);
        let loss_ratio = results.iter().map(TrialResult::loss_ratio).fold(0.0, f64::max);
        Self { probe, offered_pps, loss_ratio }
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
    /// What was offered at the highest rate that is good, in packets a second (the median of its good trials): the
    /// result. None where even the lowest rate is bad.
    pub(crate) rate_pps: Option<f64>,
    /// The lowest rate that is bad. None where even the highest rate is good.
    pub(crate) bad_pps: Option<f64>,
    /// Whether both are known and as close as the precision asks.
    pub(crate) is_precise: bool,
    /// Whether the bad rate is bad only because the generator could not offer it: the result is a lower limit.
    pub(crate) limited_by_generator: bool,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SearchResult {
    /// For each goal, in the order of [`SearchSpec::goals`].
    pub(crate) goals: Vec<GoalResult>,
    /// All trials, in their order.
    pub(crate) trials: Vec<Outcome>,
}

impl SearchResult {
    /// The highest good rate for a goal's name.
    pub(crate) fn rate_pps(&self, name: &str) -> Option<f64> {
        self.goals.iter().find(|result| result.goal.name == name)?.rate_pps
    }
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

    /// What is known for each goal, and all trials.
    pub(crate) fn finish(self) -> SearchResult {
        let goals = self.spec.goals.iter().map(|goal| self.result(goal)).collect();
        SearchResult { goals, trials: self.outcomes }
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
        let rate_pps = good.map(|rate| self.offered(rate, goal, level));
        GoalResult { goal: goal.clone(), rate_pps, bad_pps: bad, is_precise, limited_by_generator }
    }

    /// What the generator sent in the good trials at a rate.
    fn offered(&self, rate: f64, goal: &Goal, level: Level) -> f64 {
        let good = self.at(rate, level).filter(|outcome| outcome.is_good(goal));
        let mut offered: Vec<f64> = good.map(|outcome| outcome.offered_pps).collect();
        offered.sort_by(f64::total_cmp);
        offered.get(offered.len() / 2).copied().unwrap_or(rate)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that forwards `capacity` packets a second and drops the rest; every so many trials something else
    /// disturbs it.
    struct Device {
        capacity: f64,
        /// What the generator can offer.
        offered_max: f64,
        /// What is forwarded under overload, of the capacity.
        under_overload: f64,
        /// Every so many trials one loses a percent more; 0 never.
        hiccup_every: usize,
        trials: usize,
    }

    impl Device {
        fn new(capacity: f64) -> Self {
            Self { capacity, offered_max: f64::INFINITY, under_overload: 1.0, hiccup_every: 0, trials: 0 }
        }

        fn trial(&mut self, probe: Probe) -> Outcome {
            self.trials += 1;
            let offered_pps = probe.rate_pps.min(self.offered_max);
            let forwarded =
                if offered_pps <= self.capacity { offered_pps } else { self.capacity * self.under_overload };
            let mut loss_ratio = 1.0 - forwarded / offered_pps;
            if self.hiccup_every > 0 && self.trials.is_multiple_of(self.hiccup_every) {
                loss_ratio = (loss_ratio + 0.01).min(1.0);
            }
            Outcome { probe, offered_pps, loss_ratio }
        }

        fn search(&mut self, spec: SearchSpec) -> SearchResult {
            let probes_max = spec.probes_max;
            let mut search = Search::new(spec);
            while let Some(probe) = search.next() {
                assert!(self.trials < probes_max, "more trials than allowed");
                search.record(self.trial(probe));
            }
            search.finish()
        }
    }

    fn spec() -> SearchSpec {
        SearchSpec::default()
    }

    #[test]
    fn the_edge_of_a_plain_device_is_found_within_the_precision() {
        for capacity in [700.0, 12_345.0, 300_000.0, 999_999.0, 2_900_000.0] {
            let mut device = Device::new(capacity);
            let result = device.search(spec());
            for (name, edge) in [("NDR", capacity), ("PDR", capacity / 0.995)] {
                let rate = result.rate_pps(name).expect("a rate");
                assert!(rate <= edge && rate * 1.021 >= edge, "{name} of {capacity}: {rate}");
            }
            assert!(result.goals.iter().all(|goal| goal.is_precise && !goal.limited_by_generator), "{result:?}");
            assert!(device.trials <= 45, "{} trials for {capacity}", device.trials);
        }
    }

    #[test]
    fn a_device_that_breaks_down_under_overload_has_the_same_edge() {
        let mut device = Device { under_overload: 0.05, ..Device::new(400_000.0) };
        let rate = device.search(spec()).rate_pps("NDR").expect("a rate");
        assert!(rate <= 400_000.0 && rate * 1.021 >= 400_000.0, "{rate}");
    }

    #[test]
    fn one_hiccup_in_some_trials_does_not_move_the_edge() {
        for every in [5, 7, 11] {
            let mut device = Device { hiccup_every: every, ..Device::new(250_000.0) };
            let rate = device.search(spec()).rate_pps("NDR").expect("a rate");
            assert!((187_500.0..=250_000.0).contains(&rate), "a hiccup in {every}: {rate}");
        }
    }

    #[test]
    fn a_generator_with_gaps_does_not_lower_the_edge_and_the_result_is_what_it_offered() {
        let mut search = Search::new(SearchSpec { trials_per_rate: 1, ..spec() });
        for (rate_pps, offered_pps, loss_ratio) in [(100e3, 100e3, 0.0), (200e3, 170e3, 0.0), (300e3, 300e3, 0.1)] {
            let probe = Probe { rate_pps, duration: Duration::from_secs(1) };
            search.record(Outcome { probe, offered_pps, loss_ratio });
        }
        let result = search.finish();
        assert_eq!(result.rate_pps("NDR"), Some(170e3));
        assert!(!result.goals[0].limited_by_generator);
    }

    #[test]
    fn a_generator_that_is_too_slow_gives_a_lower_limit_and_says_so() {
        let mut device = Device { offered_max: 800_000.0, ..Device::new(5_000_000.0) };
        let result = device.search(spec());
        let ndr = result.goals.iter().find(|result| result.goal.name == "NDR").expect("asked for");
        assert!(ndr.limited_by_generator);
        assert!(ndr.rate_pps.is_some_and(|rate| (770_000.0..=810_000.0).contains(&rate)), "{ndr:?}");
    }

    #[test]
    fn a_device_faster_than_the_highest_rate_or_slower_than_the_lowest_ends_the_search_at_the_bound() {
        let fast = Device::new(1e9).search(spec());
        assert!(fast.goals.iter().all(|goal| goal.rate_pps == Some(3_000_000.0) && goal.is_precise), "{fast:?}");
        let dead = Device::new(0.0).search(spec());
        assert!(dead.goals.iter().all(|goal| goal.rate_pps.is_none() && !goal.is_precise), "{dead:?}");
        assert!(dead.trials.len() <= 40, "{}", dead.trials.len());
    }

    #[test]
    fn a_rate_that_is_bad_makes_every_higher_one_bad() {
        // Good at 100, bad at 200, good at 300: the edge is below 200.
        let mut search = Search::new(SearchSpec { trials_per_rate: 1, ..spec() });
        for (rate_pps, loss_ratio) in [(100.0, 0.0), (200.0, 0.5), (300.0, 0.0)] {
            let probe = Probe { rate_pps, duration: Duration::from_secs(1) };
            search.record(Outcome { probe, offered_pps: rate_pps, loss_ratio });
        }
        assert_eq!(search.finish().goals[0].rate_pps, Some(100.0));
    }

    #[test]
    fn the_number_of_trials_is_bounded() {
        let few = SearchSpec { probes_max: 4, ..spec() };
        let mut device = Device::new(123_456.0);
        let result = device.search(few);
        assert_eq!(result.trials.len(), 4);
        assert!(result.goals.iter().all(|goal| !goal.is_precise));
    }
}
