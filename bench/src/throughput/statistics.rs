//! Medians, spreads and ratios of a few repetitions.
//!
//! Enters: values by repetition. Leaves: their middle, their spread, and how two sets compare. Never does: assume a
//! distribution.

use std::collections::BTreeMap;

use serde::Serialize;

/// The middle and the ends of the values of all repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The middle one.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many there are.
    pub(crate) count: usize,
}

impl Spread {
    /// Of values; none without any.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let median = median(&values)?;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { median, min, max, count: values.len() })
    }
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.is_empty(), values.len() % 2) {
        (true, _) => None,
        (false, 0) => Some((values[middle - 1] + values[middle]) / 2.0),
        (false, _) => Some(values[middle]),
    }
}

/// The median over the repetitions that both have of one's value to the other's: what disturbs the machine for a while
/// disturbs both of a repetition alike.
pub(crate) fn ratio(one: &BTreeMap<u16, f64>, other: &BTreeMap<u16, f64>) -> Option<f64> {
    let ratios = one.iter().filter_map(|(repetition, value)| {
        let other = *other.get(repetition)?;
        (other > 0.0).then(|| value / other)
    });
    median(&ratios.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_and_the_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0, 10.0]).expect("values");
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 10.0, count: 4 });
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_taken_within_repetitions() {
        let one = BTreeMap::from([(0, 10.0), (1, 40.0), (2, 6.0), (4, 1.0)]);
        let other = BTreeMap::from([(0, 5.0), (1, 10.0), (2, 2.0), (3, 9.0)]);
        assert_eq!(ratio(&one, &other), Some(3.0));
        assert_eq!(ratio(&one, &BTreeMap::from([(0, 0.0)])), None);
    }
}
