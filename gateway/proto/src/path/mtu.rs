//! The MTU of one path: datagrams of growing size that must not be fragmented (RFC 8899).
//!
//! Enters: answers, and their absence. Leaves: sizes to try, and the largest that arrived. Never does: believe an ICMP
//! message, or change what is known before three probes of one size were lost.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Every path carries this: IPv6's least (RFC 8200, section 5).
pub(crate) const BASE: u16 = 1280;
/// What most of the internet carries: tried before anything between it and jumbo frames.
const USUAL: u16 = 1500;
/// Probes of one size (RFC 8899, section 5.1.2).
const PROBES_MAX: u32 = 3;
/// How exactly the size is searched for.
const EXACT_TO: u16 = 8;
/// Between a search that is done and the next (RFC 8899, section 5.1.1), which may find more.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Between two confirmations of what is known, under traffic: a path may change to a narrower one.
const CONFIRM_EVERY: Duration = Duration::from_secs(30);
/// How long an answer may take where nothing is known.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Bytes of IP and UDP headers before a datagram.
pub(crate) const fn headers_len(remote: IpAddr) -> u16 {
    match remote {
        IpAddr::V4(_) => 20 + 8,
        IpAddr::V6(_) => 40 + 8,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Searching,
    /// Whether what is known still gets through.
    Confirming,
    Done,
}

/// What is known of one path, in bytes of outer IP packets.
#[derive(Debug)]
pub(crate) struct Mtu {
    /// The largest that arrived.
    known: Option<u16>,
    /// None beyond this is tried.
    ceiling: u16,
    /// The smallest that does not arrive.
    refused: u16,
    phase: Phase,
    /// The size under way and how often it was sent.
    size: u16,
    sent: u32,
    due: Option<Instant>,
    raised: Option<Instant>,
}

impl Default for Mtu {
    fn default() -> Self {
        Self { known: None, ceiling: 0, refused: 0, phase: Phase::Done, size: 0, sent: 0, due: None, raised: None }
    }
}

impl Mtu {
    pub(crate) const fn known(&self) -> Option<u16> {
        self.known
    }

    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Begins to search up to `ceiling`, unless that has been done.
    pub(crate) fn begin(&mut self, now: Instant, ceiling: u16) {
        if self.ceiling == ceiling && self.due.is_some() {
            return;
        }
        self.ceiling = ceiling.max(BASE);
        self.search(now);
    }

    /// Stops; what is known stays so.
    pub(crate) const fn rest(&mut self) {
        self.due = None;
    }

    fn search(&mut self, now: Instant) {
        (self.phase, self.refused, self.raised) = (Phase::Searching, self.ceiling + 1, Some(now));
        // Most paths carry what the interface does.
        self.try_size(now, self.ceiling);
    }

    fn try_size(&mut self, now: Instant, size: u16) {
        (self.size, self.sent, self.due) = (size, 0, Some(now));
    }

    /// The size to send at this time; `patience`: how long an answer takes on this path.
    pub(crate) fn run(&mut self, now: Instant, patience: Option<Duration>) -> Option<u16> {
        self.due.filter(|due| *due <= now)?;
        if self.phase == Phase::Done {
            let is_raised = self.raised.is_some_and(|at| now.saturating_duration_since(at) < RAISE_AFTER);
            match self.known {
                Some(known) if is_raised => {
                    self.phase = Phase::Confirming;
                    self.try_size(now, known);
                }
                _ => self.search(now),
            }
        } else if self.sent >= PROBES_MAX {
            self.give_up(now);
            self.due.filter(|due| *due <= now)?;
        }
        self.sent += 1;
        self.due = Some(now + patience.map_or(ANSWER_WITHIN, |patience| patience.max(Duration::from_millis(100)) * 2));
        Some(self.size)
    }

    /// No probe of the present size arrived.
    fn give_up(&mut self, now: Instant) {
        if self.phase == Phase::Confirming {
            // A black hole: at once what every path carries, and then the search for what this one does.
            self.known = Some(BASE);
            self.search(now);
            return;
        }
        self.refused = self.refused.min(self.size);
        self.next(now);
    }

    /// A probe of this size was answered. True when more is known by that.
    pub(crate) fn answer(&mut self, now: Instant, size: u16) -> bool {
        let is_news = self.known.is_none_or(|known| known < size);
        if is_news {
            self.known = Some(size);
        }
        if size == self.size && self.phase != Phase::Done {
            self.next(now);
        }
        is_news
    }

    /// Half-way between what arrives and what does not.
    fn next(&mut self, now: Instant) {
        let least = self.known.unwrap_or(BASE);
        if self.phase == Phase::Searching && least < USUAL && self.refused > USUAL {
            return self.try_size(now, USUAL);
        }
        if self.phase == Phase::Searching && self.refused > least + EXACT_TO {
            let middle = least + (self.refused - least) / 2;
            // Even the base must be seen to arrive before it is told.
            self.try_size(now, if self.known.is_none() && middle < BASE + EXACT_TO { BASE } else { middle });
            return;
        }
        self.phase = Phase::Done;
        self.due = Some(now + CONFIRM_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for a time on a path of this MTU; returns the sizes sent.
    fn run(mtu: &mut Mtu, now: &mut Instant, carries: u16, time: Duration) -> Vec<u16> {
        let (end, mut sent) = (*now + time, Vec::new());
        while let Some(due) = mtu.due().filter(|due| *due < end) {
            *now = due;
            if let Some(size) = mtu.run(*now, Some(Duration::from_millis(40))) {
                sent.push(size);
                if size <= carries {
                    mtu.answer(*now + Duration::from_millis(40), size);
                }
            }
        }
        *now = end;
        sent
    }

    #[test]
    fn a_path_that_carries_what_the_interface_does_takes_one_probe() {
        let (mut mtu, mut now) = (Mtu::default(), Instant::now());
        mtu.begin(now, 1500);
        assert_eq!(run(&mut mtu, &mut now, 1500, Duration::from_secs(10)), [1500]);
        assert_eq!(mtu.known(), Some(1500));
        assert_eq!(run(&mut mtu, &mut now, 1500, Duration::from_secs(60)), [1500, 1500], "confirmed");
    }

    #[test]
    fn every_size_is_found_to_within_eight_bytes_and_none_is_told_that_does_not_arrive() {
        for carries in [1280, 1281, 1300, 1400, 1419, 1420, 1452, 1492, 1499, 1500, 4000, 9000] {
            let (mut mtu, mut now) = (Mtu::default(), Instant::now());
            mtu.begin(now, 9000);
            let sent = run(&mut mtu, &mut now, carries, Duration::from_secs(20));
            let known = mtu.known().expect("found");
            assert!(known <= carries && carries - known <= EXACT_TO, "{known} of {carries}");
            assert!(sent.len() <= 40, "{} probes", sent.len());
        }
    }

    #[test]
    fn a_path_that_becomes_narrower_is_at_its_base_within_a_minute_and_searched_again() {
        let (mut mtu, mut now) = (Mtu::default(), Instant::now());
        mtu.begin(now, 1500);
        run(&mut mtu, &mut now, 1500, Duration::from_secs(1));
        run(&mut mtu, &mut now, 1400, CONFIRM_EVERY + Duration::from_secs(10));
        let known = mtu.known().expect("found");
        assert!((1392..=1400).contains(&known), "{known}");
        // And wider again, some minutes later.
        run(&mut mtu, &mut now, 1500, RAISE_AFTER + CONFIRM_EVERY * 2);
        assert_eq!(mtu.known(), Some(1500));
    }

    #[test]
    fn a_path_that_carries_not_even_the_base_is_not_said_to() {
        let (mut mtu, mut now) = (Mtu::default(), Instant::now());
        mtu.begin(now, 1500);
        let sent = run(&mut mtu, &mut now, 1200, Duration::from_secs(30));
        assert_eq!(mtu.known(), None);
        assert!(sent.len() <= 40 && sent.contains(&BASE), "{sent:?}");
    }
}
