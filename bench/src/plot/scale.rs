//! From values to pixels.
//!
//! Enters: the values that are to be seen. Leaves: places and ticks. Never does: cut a value off.

/// A scale between two pixels.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: i32,
    to: i32,
    is_log: bool,
}

impl Scale {
    /// Zero to the greatest value, with some room behind it.
    pub(super) fn linear(values: impl Iterator<Item = f64>, from: i32, to: i32) -> Self {
        let max = values.fold(0.0, f64::max);
        let high = if max > 0.0 { max * 1.02 } else { 1.0 };
        Self { low: 0.0, high, from, to, is_log: false }
    }

    /// The least to the greatest positive value, each widened to a step of one, two or five.
    pub(super) fn log(values: impl Iterator<Item = f64>, from: i32, to: i32) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (1.0, 10.0);
        }
        let below = steps(low / 10.0, low).last().unwrap_or(low);
        let above = steps(high, high * 10.0).next().unwrap_or(high);
        let above = if above > below * 1.5 { above } else { below * 10.0 };
        Self { low: below, high: above, from, to, is_log: true }
    }

    /// The pixel of a value.
    pub(super) fn place(&self, value: f64) -> i32 {
        let share = match self.is_log {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + (share * f64::from(self.to - self.from)).round() as i32
    }

    /// Round values to mark, about `count` of them.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        if self.is_log {
            let all: Vec<f64> = steps(self.low, self.high).collect();
            let decades: Vec<f64> = all.iter().copied().filter(|tick| is_decade(*tick)).collect();
            return if all.len() > count * 2 && decades.len() > 1 { decades } else { all };
        }
        let rough = self.high / count.max(1) as f64;
        let step = steps(rough / 10.0, rough * 10.0).find(|step| *step >= rough * 0.999).unwrap_or(rough);
        (0..=(self.high / step) as usize).map(|n| n as f64 * step).collect()
    }
}

fn is_decade(value: f64) -> bool {
    let log = value.log10();
    (log - log.round()).abs() < 1e-6
}

/// 1, 2 and 5 times powers of ten from `low` to `high`, both included.
fn steps(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    let all = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powi(power)));
    all.filter(move |step| *step >= low * 0.999_999 && *step <= high * 1.000_001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_scale_begins_at_zero_and_holds_every_value() {
        let scale = Scale::linear([3.0, 7.5].into_iter(), 100, 300);
        assert_eq!(scale.place(0.0), 100);
        assert!((290..=300).contains(&scale.place(7.5)));
        assert_eq!(scale.ticks(4), [0.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn a_logarithmic_scale_holds_every_value_between_round_ones() {
        let scale = Scale::log([0.3, 70.0].into_iter(), 300, 100);
        assert_eq!((scale.place(0.2), scale.place(100.0)), (300, 100));
        assert!(scale.ticks(9).contains(&10.0));
        let one = Scale::log([5.0].into_iter(), 0, 100);
        assert!((0..=100).contains(&one.place(5.0)));
        assert!(Scale::log(std::iter::empty(), 0, 100).ticks(3).len() > 1);
    }
}
