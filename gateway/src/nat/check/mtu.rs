//! The largest datagram that gets to a server in one piece.
//!
//! Requests of several sizes are sent at once, none of them to be fragmented: first of the sizes that paths have, then of
//! those between the largest that was answered and the smallest that was not. The answers are small, so this is the way there.
//!
//! Enters: a server. Leaves: bytes of an IP packet. Never does: send more than [`PROBES_MAX`] probes, three times each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::asker::Asker;
use crate::nat::stun::{Query, Retry};
use crate::nat::survey::TUNNEL;

/// Probes of one round.
const PROBES_MAX: usize = 16;
/// Sizes of IP packets that paths have: IPv6's least, tunnels of several kinds, PPPoE, Ethernet, jumbo frames.
const SIZES: [u32; 14] = [576, 1280, 1340, 1380, 1400, 1420, 1440, 1460, 1472, 1480, 1492, 1500, 4000, 9000];
/// A probe is sent at 0, 250 and 750 ms, and given up at 1.25 s.
const RETRY: Retry = Retry { rto: Duration::from_millis(250), sends: 3, last: 2 };
/// Requests have sizes of so many bytes.
const STEP: u32 = 4;

/// Searches between IPv4's least packet and the interface's MTU. `None` where not even the former gets there.
pub(super) fn search(asker: &mut Asker, server: SocketAddr, interface: u32, end: Instant) -> Option<u32> {
    let headers = if server.is_ipv4() { 28 } else { 48 };
    let mut sizes: Vec<u32> = SIZES.into_iter().filter(|size| *size < interface).chain([interface]).collect();
    let mut bounds = Bounds::default();
    while !sizes.is_empty() {
        for size in &sizes {
            let payload = (size.saturating_sub(headers) / STEP * STEP) as usize;
            let query = Query { retry: RETRY, size: payload, ..Query::new(*size, server, TUNNEL) };
            asker.client.ask(query, Instant::now());
        }
        asker.until(end, |_, outcome, _| {
            bounds.note(outcome.query.size as u32 + headers, outcome.answer.is_some());
        });
        asker.client.forget(|_| true);
        sizes = if Instant::now() < end { bounds.between() } else { Vec::new() };
    }
    bounds.answered
}

#[derive(Debug, Default)]
struct Bounds {
    /// The largest that was answered.
    answered: Option<u32>,
    /// The smallest larger one that was not.
    silent: Option<u32>,
}

impl Bounds {
    fn note(&mut self, size: u32, answered: bool) {
        if answered {
            self.answered = self.answered.max(Some(size));
            self.silent = self.silent.filter(|silent| *silent > size);
        } else if self.answered.is_none_or(|answered| answered < size) {
            self.silent = Some(self.silent.map_or(size, |silent| silent.min(size)));
        }
    }

    /// Sizes that are still in question, at most [`PROBES_MAX`] of them.
    fn between(&self) -> Vec<u32> {
        let (Some(low), Some(high)) = (self.answered, self.silent) else { return Vec::new() };
        let open = (high.saturating_sub(low) / STEP).saturating_sub(1);
        let every = open.div_ceil(PROBES_MAX as u32).max(1);
        (1..=open / every).map(|at| low + at * every * STEP).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path's MTU as found by probes that are answered when they fit.
    fn found(mtu: u32) -> (Option<u32>, usize) {
        let mut bounds = Bounds::default();
        let mut sizes: Vec<u32> = SIZES.into_iter().filter(|size| *size < 1500).chain([1500]).collect();
        let mut rounds = 0;
        while !sizes.is_empty() {
            assert!(sizes.len() <= PROBES_MAX);
            // Answers come in any order.
            for size in sizes.iter().rev() {
                bounds.note(*size, *size <= mtu);
            }
            rounds += 1;
            sizes = bounds.between();
        }
        (bounds.answered, rounds)
    }

    #[test]
    fn every_mtu_is_found_to_within_a_step_in_few_rounds() {
        for mtu in 576..=1500 {
            let (found, rounds) = found(mtu);
            assert!(found.is_some_and(|found| found <= mtu && found + STEP > mtu), "{mtu}: {found:?}");
            assert!(rounds <= 3, "{mtu}: {rounds} rounds");
        }
        assert_eq!(found(500).0, None);
    }
}
