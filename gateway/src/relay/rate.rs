//! How fast an end may send: as the XDP program counts it, so that it makes no difference which of them forwards.

use std::time::Instant;

use landbridge_ebpf_common::RelayRate;

/// Bytes of headers that count beside a datagram: the program counts IP packets.
const HEADERS: u32 = 28;

/// What an end may send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    rate: RelayRate,
    /// When what was sent would have ended at the permitted rate, in nanoseconds from `epoch`.
    until_ns: u64,
    epoch: Instant,
}

impl Bucket {
    pub(super) fn new(rate: RelayRate, now: Instant) -> Self {
        Self { rate, until_ns: 0, epoch: now }
    }

    /// Whether one more datagram of so many bytes may go.
    pub(super) fn admits(&mut self, now: Instant, bytes: usize) -> bool {
        if self.rate.ns_per_64kib == 0 {
            return true;
        }
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        if self.until_ns > now && self.until_ns - now > u64::from(self.rate.burst_ns) {
            return false;
        }
        // A datagram has 65,535 bytes at most.
        self.until_ns = self.until_ns.max(now) + RelayRate::ns(self.rate.ns_per_64kib, bytes as u32 + HEADERS);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn over_a_second_an_end_sends_its_rate_and_one_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RelayRate::of_mbps(100), start);
        let mut bytes = 0;
        for step in 0..100_000_u32 {
            if bucket.admits(start + Duration::from_micros(10) * step, 1472) {
                bytes += 1500;
            }
        }
        let (rate, burst) = (12_500_000, 12_500_000 / 40);
        assert!((rate..rate + burst + 3000).contains(&bytes), "{bytes}");
        assert!((0..100_000).all(|_| Bucket::new(RelayRate::of_mbps(0), start).admits(start, 1472)), "no limit");
    }
}
