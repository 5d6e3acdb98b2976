//! Latencies: an HDR histogram of nanoseconds that can be written into a report.
//!
//! Enters: values, or counts of the sink's buckets. Leaves: percentiles. Never does: keep single values.

use std::fmt;

use hdrhistogram::Histogram;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

/// The longest latency that is told apart from longer ones.
const NS_MAX: u64 = 60_000_000_000;

/// Latencies in nanoseconds, with two significant digits.
#[derive(Clone)]
pub(crate) struct Latency(Histogram<u64>);

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percentiles = [50.0, 99.0].map(|percent| self.percentile_ns(percent));
        f.debug_struct("Latency").field("count", &self.count()).field("p50_p99_ns", &percentiles).finish()
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, NS_MAX, 2).expect("constant bounds are in order"))
    }
}

impl Latency {
    /// Adds `count` values of `ns`.
    pub(crate) fn record(&mut self, ns: u64, count: u64) {
        if count > 0 {
            self.0.saturating_record_n(ns, count);
        }
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value below or at which `percent` of the values lie; none without values.
    pub(crate) fn percentile_ns(&self, percent: f64) -> Option<u64> {
        (self.count() > 0).then(|| self.0.value_at_percentile(percent))
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Latency", 9)?;
        fields.serialize_field("count", &self.count())?;
        fields.serialize_field("min_ns", &(self.count() > 0).then(|| self.0.min()))?;
        fields.serialize_field("mean_ns", &(self.count() > 0).then(|| self.0.mean().round()))?;
        for (name, percent) in [("p50_ns", 50.0), ("p90_ns", 90.0), ("p99_ns", 99.0), ("p99_9_ns", 99.9)] {
            fields.serialize_field(name, &self.percentile_ns(percent))?;
        }
        fields.serialize_field("p99_99_ns", &self.percentile_ns(99.99))?;
        fields.serialize_field("max_ns", &(self.count() > 0).then(|| self.0.max()))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentile_ns(50.0), None);
        latency.record(1_000, 98);
        latency.record(1_000_000, 2);
        latency.record(59_000_000_000, 0);
        let near = |got: Option<u64>, want: u64| got.is_some_and(|got| got.abs_diff(want) * 100 <= want);
        assert!(near(latency.percentile_ns(50.0), 1_000) && near(latency.percentile_ns(99.0), 1_000_000));
        assert_eq!(latency.count(), 100);
        assert!(near(latency.percentile_ns(100.0), 1_000_000), "what did not occur is no maximum");
        let json = serde_json::to_value(&latency).expect("a value");
        assert_eq!(json["count"], 100);
    }
}
