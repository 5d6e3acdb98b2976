//! How fast an end may send: as the XDP program counts it, and together with it, so that it makes no difference which of them
//! forwards, or whether both do.

use std::time::Instant;

use landbridge_ebpf_common::RelayRate;
use rustix::time::{ClockId, clock_gettime};

use crate::steer::relay::SharedBucket;

/// Bytes of headers that count beside a datagram: the program counts IP packets.
const HEADERS: u32 = 28;

/// What an end may send.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: RelayRate,
    /// When what was sent would have ended at the permitted rate, in nanoseconds of the monotonic clock.
    until_ns: u64,
    /// What was counted since [`Bucket::begin`].
    counted_ns: u64,
    /// An instant and what the clock showed then.
    epoch: (Instant, u64),
    /// The program's, which both count in.
    shared: Option<SharedBucket>,
}

impl Bucket {
    pub(super) fn new(rate: RelayRate, shared: Option<SharedBucket>, now: Instant) -> Self {
        let clock = clock_gettime(ClockId::Monotonic);
        let ns = clock.tv_sec as u64 * 1_000_000_000 + clock.tv_nsec as u64;
        Self { rate, until_ns: 0, counted_ns: 0, epoch: (now, ns), shared }
    }

    fn ns(&self, now: Instant) -> u64 {
        let (epoch, ns) = self.epoch;
        ns + now.saturating_duration_since(epoch).as_nanos() as u64
    }

    /// Takes over what the program has counted. To be called before datagrams of one read.
    pub(super) fn begin(&mut self) {
        self.counted_ns = 0;
        if self.rate.ns_per_64kib != 0
            && let Some(until_ns) = self.shared.as_ref().and_then(SharedBucket::until_ns)
        {
            self.until_ns = until_ns;
        }
    }

    /// Whether one more datagram of so many bytes may go.
    pub(super) fn admits(&mut self, now: Instant, bytes: usize) -> bool {
        if self.rate.ns_per_64kib == 0 {
            return true;
        }
        let now = self.ns(now);
        if self.until_ns > now && self.until_ns - now > u64::from(self.rate.burst_ns) {
            return false;
        }
        // A datagram has 65,535 bytes at most.
        let cost = RelayRate::ns(self.rate.ns_per_64kib, bytes as u32 + HEADERS);
        self.until_ns = self.until_ns.max(now) + cost;
        self.counted_ns += cost;
        true
    }

    /// Counts with the program what was admitted. To be called after datagrams of one read.
    pub(super) fn finish(&mut self, now: Instant) {
        if let Some(shared) = self.shared.as_ref().filter(|_| self.counted_ns > 0) {
            shared.count(self.ns(now), self.counted_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn over_a_second_an_end_sends_its_rate_and_one_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RelayRate::of_mbps(100), None, start);
        let mut bytes = 0;
        for step in 0..100_000_u32 {
            bucket.begin();
            let now = start + Duration::from_micros(10) * step;
            if bucket.admits(now, 1472) {
                bytes += 1500;
            }
            bucket.finish(now);
        }
        let (rate, burst) = (12_500_000, 12_500_000 / 40);
        assert!((rate..rate + burst + 3000).contains(&bytes), "{bytes}");
        assert!((0..100_000).all(|_| Bucket::new(RelayRate::of_mbps(0), None, start).admits(start, 1472)), "no limit");
    }
}
