//! Whether a lane's core is wanted by others: measured, not guessed from the number of cores.
//!
//! Enters: the scheduler's account of this thread. Leaves: a verdict, looked up again a hundred times a second. Never does:
//! wait, or cost anything per packet.
//!
//! A thread that had to wait for a core for a good part of the time in which it wanted one lives where all cores are busy.
//! To wake a helper there takes a core from somebody whose work is as much wanted (the other gateway, the program whose
//! packets these are), and the packets' bytes move between cores for nothing; to spin there is worse.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// How often the account is read.
const PERIOD: Duration = Duration::from_millis(10);
/// How long a verdict lasts, unless it is renewed.
const LASTS: Duration = Duration::from_millis(100);
/// Parts of the time in which the thread wanted a core, of which it may wait one.
const SHARE: u64 = 10;

/// The account of one thread.
#[derive(Debug)]
pub(super) struct Crowding {
    /// Nothing where the kernel keeps no account.
    account: Option<File>,
    last: Sample,
    at: Instant,
    until: Option<Instant>,
}

/// Nanoseconds of a thread on a core, and waiting for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sample {
    ran: u64,
    waited: u64,
}

impl Crowding {
    /// The account of the calling thread.
    pub(super) fn of_this_thread(now: Instant) -> Self {
        let account = File::open("/proc/thread-self/schedstat").ok();
        let mut crowding = Self { account, last: Sample::default(), at: now, until: None };
        crowding.last = crowding.read().unwrap_or_default();
        crowding
    }

    /// Whether others want the core, as far as is known.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.at) >= PERIOD
            && let Some(sample) = self.read()
        {
            self.at = now;
            if sample.is_crowded_since(self.last) {
                self.until = Some(now + LASTS);
            }
            self.last = sample;
        }
        self.until.is_some_and(|until| now < until)
    }

    fn read(&self) -> Option<Sample> {
        let mut text = [0; 96];
        let len = self.account.as_ref()?.read_at(&mut text, 0).ok()?;
        Sample::parse(text.get(..len)?)
    }
}

impl Sample {
    /// "ran waited timeslices".
    fn parse(text: &[u8]) -> Option<Self> {
        let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace().map(str::parse);
        let (ran, waited) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self { ran, waited })
    }

    fn is_crowded_since(self, before: Self) -> bool {
        let waited = self.waited.saturating_sub(before.waited);
        let wanted = waited + self.ran.saturating_sub(before.ran);
        waited * SHARE > wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_account_is_read_or_is_none() {
        for (text, expected) in [
            ("100 20 3\n", Some(Sample { ran: 100, waited: 20 })),
            ("18446744073709551615 0 1", Some(Sample { ran: u64::MAX, waited: 0 })),
            ("100", None),
            ("", None),
            ("a b c", None),
        ] {
            assert_eq!(Sample::parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_core_is_crowded_where_a_tenth_of_the_wanted_time_is_spent_waiting() {
        let before = Sample { ran: 1000, waited: 500 };
        for (ran, waited, crowded) in
            [(0, 0, false), (900, 100, false), (900, 101, true), (0, 1, true), (900, 0, false)]
        {
            let sample = Sample { ran: before.ran + ran, waited: before.waited + waited };
            assert_eq!(sample.is_crowded_since(before), crowded, "ran {ran}, waited {waited}");
        }
        assert!(!Sample::default().is_crowded_since(before), "an account that begins again");
    }

    #[test]
    fn a_verdict_lasts_a_while_and_ends() {
        let start = Instant::now();
        let mut crowding = Crowding { account: None, last: Sample::default(), at: start, until: Some(start + LASTS) };
        assert!(crowding.look(start + PERIOD));
        assert!(!crowding.look(start + LASTS));
    }
}
