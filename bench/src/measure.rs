//! Measuring: cases in turn, many rounds, medians.
//!
//! Enters: cases, each of which times one sample of itself when it is asked. Leaves: one row per case. Never
//! does: run a case's samples one after the other; a neighbour that disturbs the machine for a while
//! then disturbs all cases alike, and ratios are taken within a round.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;

/// One timed run of a case, made of parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// Nanoseconds of one operation, by part.
    parts: Vec<f64>,
    /// The same of what the sample measured in between, to be compared with.
    beside: Vec<f64>,
    operations: u64,
    allocations: u64,
}

impl Sample {
    /// The median of the parts: a part during which another program had the core does not count.
    fn ns(&self) -> f64 {
        median(self.parts.clone())
    }

    /// The median of what stands beside, if anything does.
    fn ns_beside(&self) -> Option<f64> {
        (!self.beside.is_empty()).then(|| median(self.beside.clone()))
    }

    /// A sample that somebody else has timed, such as the kernel.
    pub(crate) fn measured(operations: u64, ns: f64) -> Self {
        Self { parts: vec![ns], operations, ..Self::default() }
    }

    /// Times `work`, which does `operations`, as a part of the sample.
    #[inline]
    pub(crate) fn time<T>(&mut self, operations: usize, work: impl FnOnce() -> T) -> T {
        let (result, ns) = self.timed(operations, work);
        self.parts.push(ns);
        self.operations += operations as u64;
        result
    }

    /// Times, as a part, what the sample is compared with.
    #[inline]
    pub(crate) fn time_beside<T>(&mut self, operations: usize, work: impl FnOnce() -> T) -> T {
        let (result, ns) = self.timed(operations, work);
        self.beside.push(ns);
        result
    }

    #[inline]
    fn timed<T>(&mut self, operations: usize, work: impl FnOnce() -> T) -> (T, f64) {
        let (mut result, mut elapsed) = (None, Duration::ZERO);
        let counted = allocation_counter::measure(|| {
            let start = Instant::now();
            result = Some(black_box(work()));
            elapsed = start.elapsed();
        });
        self.allocations += counted.count_total;
        (result.expect("the closure has run"), elapsed.as_nanos() as f64 / operations as f64)
    }
}

/// Something to measure.
pub(crate) struct Case {
    group: &'static str,
    name: String,
    bytes: Option<usize>,
    sample: Box<dyn FnMut() -> Sample>,
    against: Option<String>,
    target: Option<f64>,
    without_allocations: bool,
}

impl Case {
    /// A case; `sample` takes some milliseconds.
    pub(crate) fn new(group: &'static str, name: impl Into<String>, sample: impl FnMut() -> Sample + 'static) -> Self {
        Self {
            group,
            name: name.into(),
            bytes: None,
            sample: Box::new(sample),
            against: None,
            target: None,
            without_allocations: false,
        }
    }

    /// Bytes of one operation, to tell Gbit/s.
    pub(crate) fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// The case that this one is compared with, or the name of what its own samples hold beside it.
    pub(crate) fn against(mut self, name: impl Into<String>) -> Self {
        self.against = Some(name.into());
        self
    }

    /// What the ratio is to be at most.
    pub(crate) fn target(mut self, ratio: f64) -> Self {
        self.target = Some(ratio);
        self
    }

    /// An allocation in this case is a failure.
    pub(crate) fn without_allocations(mut self) -> Self {
        self.without_allocations = true;
        self
    }

    /// The case's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The group's name.
    pub(crate) fn group(&self) -> &'static str {
        self.group
    }

    /// The name of the case that this one is compared with.
    pub(crate) fn reference(&self) -> Option<String> {
        self.against.clone()
    }
}

/// What came out for one case.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Cases that belong together.
    pub(crate) group: &'static str,
    /// The case.
    pub(crate) name: String,
    /// Median time of one operation.
    pub(crate) ns_median: f64,
    /// Least time of one operation.
    pub(crate) ns_min: f64,
    /// Of the median.
    pub(crate) gbps: Option<f64>,
    /// The case that `ratio` refers to.
    pub(crate) against: Option<String>,
    /// Median over all rounds of this case's time to the other's.
    pub(crate) ratio: Option<f64>,
    /// Median over all rounds of what this case takes more than the other, in nanoseconds.
    pub(crate) more_ns: Option<f64>,
    /// What the ratio is to be at most.
    pub(crate) target: Option<f64>,
    /// Whether it is.
    pub(crate) target_met: Option<bool>,
    /// Operations measured.
    pub(crate) operations: u64,
    /// Allocations during them.
    pub(crate) allocations: u64,
    /// Whether allocations are a failure.
    pub(crate) without_allocations: bool,
}

/// Runs every case once to warm up, then `rounds` times in turn.
pub(crate) fn run(mut cases: Vec<Case>, rounds: usize) -> Vec<Row> {
    for case in &mut cases {
        (case.sample)();
    }
    let mut samples = vec![Vec::with_capacity(rounds); cases.len()];
    for _ in 0..rounds {
        for (case, samples) in cases.iter_mut().zip(&mut samples) {
            samples.push((case.sample)());
        }
    }
    let row = |(case, own): (&Case, &Vec<Sample>)| {
        let ns: Vec<f64> = own.iter().map(Sample::ns).collect();
        let other = case.against.as_ref().and_then(|name| cases.iter().position(|case| case.name == *name));
        let beside: Option<Vec<f64>> = match other {
            Some(other) => Some(samples[other].iter().map(Sample::ns).collect()),
            None => own.iter().map(Sample::ns_beside).collect(),
        };
        let of_pairs = |of: fn(f64, f64) -> f64| {
            beside.as_ref().map(|beside| median(ns.iter().zip(beside).map(|(ns, beside)| of(*ns, *beside)).collect()))
        };
        let ratio = of_pairs(|ns, beside| ns / beside);
        let ns_median = median(ns.clone());
        Row {
            group: case.group,
            name: case.name.clone(),
            ns_median,
            ns_min: ns.iter().copied().fold(f64::INFINITY, f64::min),
            gbps: case.bytes.map(|bytes| bytes as f64 * 8.0 / ns_median),
            against: case.against.clone(),
            ratio,
            more_ns: of_pairs(|ns, beside| ns - beside),
            target: case.target,
            target_met: ratio.zip(case.target).map(|(ratio, target)| ratio <= target),
            operations: own.iter().map(|sample| sample.operations).sum(),
            allocations: own.iter().map(|sample| sample.allocations).sum(),
            without_allocations: case.without_allocations,
        }
    };
    cases.iter().zip(&samples).map(row).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(name: &str, ns: u64) -> Case {
        let sample = Sample { parts: vec![9e9, ns as f64, 0.0], operations: 10, ..Sample::default() };
        Case::new("fixed", name, move || sample.clone())
    }

    #[test]
    fn ratios_and_targets_refer_to_the_named_case() {
        let cases = vec![
            fixed("base", 100).bytes(1000),
            fixed("near", 120).against("base").target(1.25),
            fixed("far", 130).against("base").target(1.25),
        ];
        let rows = run(cases, 4);
        assert_eq!(rows[0].gbps, Some(80.0));
        assert_eq!((rows[1].ratio, rows[1].target_met), (Some(1.2), Some(true)));
        assert_eq!((rows[2].ratio, rows[2].target_met), (Some(1.3), Some(false)));
        assert_eq!(rows[2].operations, 40);
    }

    #[test]
    fn a_ratio_within_samples_is_taken_of_neighbours() {
        let mut rounds = [(100.0, 50.0), (400.0, 100.0), (30.0, 10.0)].into_iter().cycle();
        let sample = move || {
            let (own, beside) = rounds.next().expect("without end");
            Sample { parts: vec![own], beside: vec![beside], operations: 1, allocations: 0 }
        };
        let rows = run(vec![Case::new("paired", "own", sample).against("beside").target(3.0)], 3);
        assert_eq!((rows[0].ratio, rows[0].more_ns, rows[0].target_met), (Some(3.0), Some(50.0), Some(true)));
    }

    #[test]
    fn allocations_are_seen() {
        let mut sample = Sample::default();
        sample.time(1, || vec![1_u8; 100]);
        assert_eq!(sample.allocations, 1);
        sample.time(1, || 5);
        assert_eq!((sample.allocations, sample.operations), (1, 2));
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), 3.0);
    }
}
