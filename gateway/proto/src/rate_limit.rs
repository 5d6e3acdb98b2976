//! What keeps a flood of handshake messages from becoming an outage: a meter that says when there is load, and
//! a limit per source that holds under load.
//!
//! Only sources that have proved their address by a cookie reach the limit, so nobody can use up another's
//! share. Memory is fixed; when sources outnumber it, the one that was quiet longest is forgotten, which gives
//! it a fresh share rather than refusing anybody.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::tuning::{LOAD_HOLD, LOAD_THRESHOLD, LOAD_WINDOW, SOURCE_BURST, SOURCE_INTERVAL, SOURCE_SETS, SOURCE_WAYS};

/// Counts handshake messages in windows of a fixed length.
#[derive(Debug, Default)]
pub(crate) struct LoadMeter {
    window: Option<Instant>,
    count: u32,
    loaded: Option<Instant>,
}

impl LoadMeter {
    /// Notes a message and says whether we are under load.
    pub(crate) fn note(&mut self, now: Instant) -> bool {
        match self.window {
            Some(start) if now.saturating_duration_since(start) < LOAD_WINDOW => {
                self.count = self.count.saturating_add(1)
            }
            _ => {
                self.window = Some(now);
                self.count = 1;
            }
        }
        if self.count > LOAD_THRESHOLD {
            self.loaded = Some(now);
        }
        self.loaded.is_some_and(|last| now.saturating_duration_since(last) < LOAD_HOLD)
    }
}

/// An IPv4 address, or the first 64 bits of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    v6: bool,
    bits: u64,
}

impl Source {
    fn new(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self { v6: false, bits: ip.to_bits().into() },
            IpAddr::V6(ip) => Self { v6: true, bits: (ip.to_bits() >> 64) as u64 },
        }
    }
}

/// A token bucket in one number: until when the messages so far have used up the source's share.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    source: Source,
    used_until: Instant,
}

/// The buckets of all sources, in sets that a keyed hash selects.
#[derive(Debug)]
pub(crate) struct SourceLimit {
    key: u64,
    sets: Vec<[Option<Bucket>; SOURCE_WAYS]>,
}

impl SourceLimit {
    /// `key` makes the sets unpredictable.
    pub(crate) const fn new(key: u64) -> Self {
        Self { key, sets: Vec::new() }
    }

    /// Whether one more message from this source is within its share; it is then counted.
    pub(crate) fn admit(&mut self, now: Instant, ip: IpAddr) -> bool {
        if self.sets.is_empty() {
            self.sets = vec![[None; SOURCE_WAYS]; SOURCE_SETS];
        }
        let source = Source::new(ip);
        let set = self.set(source);
        let ways = &mut self.sets[set];
        let found = ways.iter().position(|way| way.is_some_and(|bucket| bucket.source == source));
        let way = found.or_else(|| ways.iter().position(Option::is_none)).unwrap_or_else(|| quietest(ways));
        let used_until = match ways[way] {
            Some(bucket) if found.is_some() => bucket.used_until.max(now),
            _ => now,
        } + SOURCE_INTERVAL;
        let admitted = used_until.saturating_duration_since(now) <= SOURCE_INTERVAL * SOURCE_BURST;
        if admitted {
            ways[way] = Some(Bucket { source, used_until });
        }
        admitted
    }

    fn set(&self, source: Source) -> usize {
        // A multiplicative hash under a random key: whoever fills one set only makes its own addresses forgotten.
        let mixed = (source.bits ^ self.key ^ u64::from(source.v6) << 63).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 29 ^ self.key.rotate_left(32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 40) as usize % SOURCE_SETS
    }
}

fn quietest(ways: &[Option<Bucket>; SOURCE_WAYS]) -> usize {
    (0..SOURCE_WAYS).min_by_key(|&way| ways[way].map(|bucket| bucket.used_until)).unwrap_or(0)
}

/// Whether two accepted initiations of one peer are far enough apart.
pub(crate) fn spaced(last: Option<Instant>, now: Instant, spacing: Duration) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= spacing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_begins_above_the_threshold_and_holds_one_second() {
        let mut meter = LoadMeter::default();
        let start = Instant::now();
        for _ in 0..LOAD_THRESHOLD {
            assert!(!meter.note(start));
        }
        assert!(meter.note(start));
        assert!(meter.note(start + LOAD_HOLD - Duration::from_millis(1)));
        assert!(!meter.note(start + LOAD_HOLD));
        let mut slow = LoadMeter::default();
        for i in 0..5000 {
            assert!(!slow.note(start + LOAD_WINDOW * i / LOAD_THRESHOLD));
        }
    }

    #[test]
    fn a_source_has_a_burst_and_then_its_rate() {
        let mut limit = SourceLimit::new(3);
        let ip = IpAddr::from([192, 0, 2, 1]);
        let start = Instant::now();
        let burst = (0..100).filter(|_| limit.admit(start, ip)).count();
        assert_eq!(burst as u32, SOURCE_BURST);
        assert!(limit.admit(start, IpAddr::from([192, 0, 2, 2])), "another source has its own share");
        let per_second = (1..=1000).filter(|ms| limit.admit(start + Duration::from_millis(*ms), ip)).count();
        assert_eq!(per_second, 20);
        assert!(limit.admit(start, "::ffff:192.0.2.3".parse().expect("an address")));
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let mut limit = SourceLimit::new(3);
        let start = Instant::now();
        let admitted = (0..100_u16).filter(|i| limit.admit(start, [0x2001, 0xdb8, 0, 0, *i, 0, 0, 1].into())).count();
        assert_eq!(admitted as u32, SOURCE_BURST);
        assert!(limit.admit(start, [0x2001, 0xdb8, 0, 1, 0, 0, 0, 1].into()));
    }

    #[test]
    fn a_flood_of_sources_locks_nobody_out_and_takes_no_more_memory() {
        let mut limit = SourceLimit::new(11);
        let start = Instant::now();
        for i in 0..200_000_u32 {
            assert!(limit.admit(start + Duration::from_micros(u64::from(i)), IpAddr::V4((i * 7).into())));
        }
        assert_eq!(limit.sets.len(), SOURCE_SETS);
        assert!(limit.admit(start + Duration::from_secs(1), [203, 0, 113, 9].into()));
    }
}
