//! One table for every timer of every peer.

use std::collections::BTreeSet;
use std::time::Instant;

/// What a peer waits for. The order breaks ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Timer {
    /// Send the initiation again, or give the handshake up.
    RetryHandshake,
    /// Answer received data with a keepalive (paper, section 6.5).
    PassiveKeepalive,
    /// Data was sent and nothing came back: try a handshake.
    NewHandshake,
    /// Send a keepalive, whatever happened.
    PersistentKeepalive,
    /// Something of the control channel.
    Channel,
    /// Something of the ways to the peer.
    Paths,
    /// What the peer is to be told until it answers.
    Errands,
    /// Initiations to every place where the peer may be.
    Punch,
    /// The search for a NAT's port.
    Spray,
    /// The session in force comes to its end.
    Lapse,
    /// Wipe every key.
    ZeroKeys,
}

impl Timer {
    pub(crate) const COUNT: usize = Self::ZeroKeys as usize + 1;
}

/// Due times by peer slot and timer, and in order.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    in_order: BTreeSet<(Instant, u32, Timer)>,
    by_slot: Vec<[Option<Instant>; Timer::COUNT]>,
}

impl Timers {
    pub(crate) fn set(&mut self, slot: u32, timer: Timer, at: Instant) {
        if self.by_slot.len() <= slot as usize {
            self.by_slot.resize(slot as usize + 1, [None; Timer::COUNT]);
        }
        let place = &mut self.by_slot[slot as usize][timer as usize];
        if let Some(before) = place.replace(at) {
            self.in_order.remove(&(before, slot, timer));
        }
        self.in_order.insert((at, slot, timer));
    }

    pub(crate) fn stop(&mut self, slot: u32, timer: Timer) {
        let place = self.by_slot.get_mut(slot as usize).map(|timers| &mut timers[timer as usize]);
        if let Some(before) = place.and_then(Option::take) {
            self.in_order.remove(&(before, slot, timer));
        }
    }

    pub(crate) fn stop_all(&mut self, slot: u32) {
        let Some(timers) = self.by_slot.get_mut(slot as usize) else { return };
        for before in std::mem::take(timers) {
            let Some(before) = before else { continue };
            // Of one slot there are few timers: remove the range of this instant and slot.
            let all: Vec<_> = self
                .in_order
                .range((before, slot, Timer::RetryHandshake)..=(before, slot, Timer::ZeroKeys))
                .copied()
                .collect();
            for entry in all {
                self.in_order.remove(&entry);
            }
        }
    }

    pub(crate) fn is_set(&self, slot: u32, timer: Timer) -> bool {
        self.by_slot.get(slot as usize).is_some_and(|timers| timers[timer as usize].is_some())
    }

    /// When the next timer is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, ..)| *at)
    }

    /// Takes a timer that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(u32, Timer)> {
        let &(at, slot, timer) = self.in_order.first()?;
        if at > now {
            return None;
        }
        self.in_order.pop_first();
        self.by_slot[slot as usize][timer as usize] = None;
        Some((slot, timer))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_come_due_in_order_and_a_later_setting_replaces_an_earlier_one() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut timers = Timers::default();
        timers.set(7, Timer::ZeroKeys, at(1));
        timers.set(7, Timer::ZeroKeys, at(5));
        timers.set(2, Timer::RetryHandshake, at(3));
        timers.set(2, Timer::NewHandshake, at(2));
        timers.stop(2, Timer::NewHandshake);
        timers.stop(900, Timer::NewHandshake);
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.pop_due(at(2)), None);
        assert_eq!(timers.pop_due(at(9)), Some((2, Timer::RetryHandshake)));
        assert!(timers.is_set(7, Timer::ZeroKeys));
        assert_eq!(timers.pop_due(at(9)), Some((7, Timer::ZeroKeys)));
        assert_eq!((timers.pop_due(at(9)), timers.next()), (None, None));
    }

    #[test]
    fn stopping_a_slot_stops_that_slot_alone() {
        let start = Instant::now();
        let mut timers = Timers::default();
        for slot in [1, 2] {
            for timer in [Timer::ZeroKeys, Timer::RetryHandshake, Timer::NewHandshake] {
                timers.set(slot, timer, start);
            }
        }
        timers.stop_all(1);
        let rest: Vec<_> = std::iter::from_fn(|| timers.pop_due(start)).collect();
        assert_eq!(rest, [(2, Timer::RetryHandshake), (2, Timer::NewHandshake), (2, Timer::ZeroKeys)]);
    }
}
