//! As an end: the allocations that relays have granted to us.
//!
//! Enters: grants and offers, answers to binds, time. Leaves: binds to send, and which relays are of no use any more.
//! Never does: use an allocation that the relay does not acknowledge.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::PeerId;

/// Between two binds of an end that is bound.
const BIND_EVERY: Duration = Duration::from_secs(20);
/// Until a bind is sent again that was not answered; doubled each time.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// Binds without an answer that end a leg.
const TRIES: u32 = 5;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindDue {
    /// A bind for this allocation is to be sent to the relay's port, under this request number.
    Bind { peer: PeerId, relay: PeerId, allocation: u64, port: u16, request: u32 },
    /// The relay does not answer: this leg is no more.
    Lost { peer: PeerId, relay: PeerId },
}

/// A way to one peer by one relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) allocation: u64,
    /// Of the relay, for us.
    pub(crate) port: u16,
    /// Whether the relay has said that it knows our place.
    pub(crate) bound: bool,
    /// Where it saw us last.
    observed: Option<SocketAddr>,
    request: u32,
    tries: u32,
    due: Instant,
}

/// All legs, by peer and relay.
#[derive(Debug, Default)]
pub(crate) struct Client {
    legs: BTreeMap<(PeerId, PeerId), Leg>,
}

impl Client {
    /// The relay has an allocation for us and a peer. True when it is another one than before.
    pub(crate) fn granted(&mut self, now: Instant, peer: PeerId, relay: PeerId, allocation: u64, port: u16) -> bool {
        let known = self.legs.get(&(peer, relay));
        if known.is_some_and(|leg| (leg.allocation, leg.port) == (allocation, port)) {
            return false;
        }
        let leg = Leg { allocation, port, bound: false, observed: None, request: 0, tries: 0, due: now };
        self.legs.insert((peer, relay), leg);
        true
    }

    /// A bind was answered: the relay's port that it went to, and whether we were seen at another place than before.
    /// `None`: it answers nothing.
    pub(crate) fn bound(
        &mut self,
        now: Instant,
        relay: PeerId,
        request: u32,
        observed: SocketAddr,
    ) -> Option<(u16, bool)> {
        let waits = |leg: &Leg| leg.tries > 0 && leg.request == request;
        let found = self.legs.iter_mut().find(|((_, by), leg)| *by == relay && waits(leg));
        let (_, leg) = found?;
        (leg.bound, leg.tries, leg.due) = (true, 0, now + BIND_EVERY);
        Some((leg.port, leg.observed.replace(observed) != Some(observed)))
    }

    /// Our own place, or the relay's, is another one: every leg by this relay (or by all) is bound again at once.
    pub(crate) fn moved(&mut self, now: Instant, relay: Option<PeerId>) {
        for ((_, by), leg) in &mut self.legs {
            if relay.is_none_or(|relay| relay == *by) {
                (leg.tries, leg.due) = (0, now);
            }
        }
    }

    /// Every leg to a peer is bound again at once, unless that is under way. Returns by which relays.
    pub(crate) fn bind_again(&mut self, now: Instant, peer: PeerId) -> Vec<PeerId> {
        let soon = now + ANSWER_WITHIN;
        let legs = self.legs.iter_mut().filter(|((to, _), leg)| *to == peer && leg.due > soon);
        legs.map(|((_, relay), leg)| {
            (leg.tries, leg.due) = (0, now);
            *relay
        })
        .collect()
    }

    /// The next thing that is due; call it until there is none.
    pub(crate) fn run(&mut self, now: Instant, draw: impl FnOnce() -> u32) -> Option<BindDue> {
        let ((peer, relay), leg) = self.legs.iter_mut().find(|(_, leg)| leg.due <= now)?;
        let (peer, relay) = (*peer, *relay);
        if leg.tries >= TRIES {
            self.legs.remove(&(peer, relay));
            return Some(BindDue::Lost { peer, relay });
        }
        if leg.tries == 0 {
            leg.request = draw();
        }
        leg.due = now + ANSWER_WITHIN * 2_u32.pow(leg.tries);
        leg.tries += 1;
        let (allocation, port, request) = (leg.allocation, leg.port, leg.request);
        Some(BindDue::Bind { peer, relay, allocation, port, request })
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.legs.values().map(|leg| leg.due).min()
    }

    pub(crate) fn leg(&self, peer: PeerId, relay: PeerId) -> Option<&Leg> {
        self.legs.get(&(peer, relay))
    }

    /// The relays by which a peer is reached.
    pub(crate) fn legs_to(&self, peer: PeerId) -> impl Iterator<Item = (PeerId, &Leg)> {
        let all = (peer, PeerId { slot: 0, generation: 0 })..=(peer, PeerId { slot: u32::MAX, generation: u32::MAX });
        self.legs.range(all).map(|((_, relay), leg)| (*relay, leg))
    }

    /// The peers that are reached by a relay.
    pub(crate) fn legs_by(&self, relay: PeerId) -> impl Iterator<Item = (PeerId, &Leg)> {
        self.legs.iter().filter(move |((_, by), _)| *by == relay).map(|((peer, _), leg)| (*peer, leg))
    }

    /// Gives up a leg, and returns it.
    pub(crate) fn remove(&mut self, peer: PeerId, relay: PeerId) -> Option<Leg> {
        self.legs.remove(&(peer, relay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId { slot: 5, generation: 1 };
    const RELAY: PeerId = PeerId { slot: 9, generation: 1 };

    fn bind(request: u32) -> Option<BindDue> {
        Some(BindDue::Bind { peer: PEER, relay: RELAY, allocation: 7, port: 5000, request })
    }

    #[test]
    fn a_leg_is_bound_at_once_and_every_twenty_seconds() {
        let (mut client, start) = (Client::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert!(client.granted(start, PEER, RELAY, 7, 5000) && !client.granted(start, PEER, RELAY, 7, 5000));
        assert_eq!(client.run(start, || 1), bind(1));
        assert_eq!(client.run(start, || 2), None);
        let seen = SocketAddr::new([192, 0, 2, 7].into(), 9);
        assert_eq!(client.bound(start, RELAY, 2, seen), None, "it answers nothing");
        assert_eq!(client.bound(start, PEER, 1, seen), None, "nobody else may answer");
        assert_eq!(client.bound(start, RELAY, 1, seen), Some((5000, true)));
        assert!(client.leg(PEER, RELAY).is_some_and(|leg| leg.bound));
        assert_eq!(client.due(), Some(at(20)));
        assert_eq!(client.run(at(20), || 3), bind(3));
        assert_eq!(client.bound(at(20), RELAY, 3, seen), Some((5000, false)));
        client.moved(at(25), None);
        assert_eq!(client.run(at(25), || 4), bind(4), "another place is told at once");
    }

    #[test]
    fn a_relay_that_does_not_answer_is_of_no_use() {
        let (mut client, start) = (Client::default(), Instant::now());
        client.granted(start, PEER, RELAY, 7, 5000);
        let mut all = Vec::new();
        let mut now = start;
        while let Some(due) = client.due() {
            now = now.max(due);
            all.extend(client.run(now, || 1).map(|what| (now - start, what)));
        }
        assert_eq!(all.len(), 6);
        assert!(all[..5].iter().all(|(_, what)| Some(*what) == bind(1)));
        assert_eq!(all[5], (Duration::from_millis(7750), BindDue::Lost { peer: PEER, relay: RELAY }));
        assert_eq!(client.legs_to(PEER).count() + client.legs_by(RELAY).count(), 0);
    }
}
