//! Which flow leaves by which source port.
//!
//! Enters: the places of the ports in use, flow hashes. Leaves: a place for each flow, which lanes let it move to when it
//! pauses, and counts of what was sent by each. Never does: move a flow that it need not move: when a port comes, only flows that go to it change theirs, and
//! when one goes, only those that it had.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::SOURCE_PORTS_MAX;

/// Places of source ports: the main one, which is 0, and those beside it.
pub const SPREAD_SLOTS: usize = SOURCE_PORTS_MAX + 1;

/// Flows are told apart by these many bits of their hash.
const BUCKETS: usize = 256;

/// A count for each source port, written by lanes once per burst.
pub(crate) type SlotCounts = Arc<[AtomicU64; SPREAD_SLOTS]>;

/// The source ports in use towards a peer.
#[derive(Debug)]
pub struct Spread {
    slots: [u8; BUCKETS],
    /// The places in use, as bits.
    used: u32,
    since: Instant,
    sent: SlotCounts,
}

const _: () = assert!(SPREAD_SLOTS <= u32::BITS as usize);

impl Spread {
    /// The main port and those at these places, in use since then, with counts of their own: for tests and benches of
    /// lanes.
    #[must_use]
    pub fn over(beside: &[u8], since: Instant) -> Self {
        Self::new(beside, since, Arc::default())
    }

    /// Packets sent from the port at a place.
    #[must_use]
    pub fn sent(&self, slot: u8) -> u64 {
        self.sent.get(usize::from(slot)).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// The main port and these beside it, in use since then.
    pub(crate) fn new(beside: &[u8], since: Instant, sent: SlotCounts) -> Self {
        let best = |bucket: usize| {
            let members = beside.iter().copied().chain([0]);
            members.max_by_key(|slot| weight(bucket as u32, *slot)).unwrap_or(0)
        };
        let used = beside.iter().filter(|slot| usize::from(**slot) < SPREAD_SLOTS);
        let used = used.fold(1, |used, slot| used | 1 << slot);
        Self { slots: std::array::from_fn(best), used, since, sent }
    }

    /// The place of the port that a flow takes; the hash's upper bits decide.
    #[inline]
    #[must_use]
    pub fn slot_of(&self, flow: u32) -> u8 {
        self.slots[(flow >> 24) as usize]
    }

    /// Whether the port at a place is in use.
    #[inline]
    #[must_use]
    pub const fn uses(&self, slot: u8) -> bool {
        (slot as usize) < SPREAD_SLOTS && self.used >> slot & 1 == 1
    }

    /// When these ports came into use.
    #[inline]
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Notes packets sent.
    #[inline]
    pub fn note_sent(&self, slot: u8, packets: u64) {
        if let Some(count) = self.sent.get(usize::from(slot)) {
            count.fetch_add(packets, Ordering::Relaxed);
        }
    }

    /// The places in use, in order.
    #[must_use]
    pub fn slots(&self) -> Vec<u8> {
        let mut slots = self.slots.to_vec();
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}

/// Rendezvous hashing: each bucket takes the port with the highest weight among those there are.
const fn weight(bucket: u32, slot: u8) -> u32 {
    let mixed = (bucket ^ (slot as u32) << 16 ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b1);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
    mixed ^ mixed >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_comes_or_goes_moves_no_flow_but_its_own() {
        for gone in 1..=8_u8 {
            let all: Vec<u8> = (1..=8).collect();
            let rest: Vec<u8> = all.iter().copied().filter(|slot| *slot != gone).collect();
            let (before, after) = (Spread::over(&all, Instant::now()), Spread::over(&rest, Instant::now()));
            for flow in (0..BUCKETS as u32).map(|bucket| bucket << 24) {
                let had = before.slot_of(flow);
                assert!(had == after.slot_of(flow) || had == gone);
                assert!(before.uses(had) && !after.uses(gone));
            }
        }
    }

    #[test]
    fn every_port_gets_a_fair_share_of_flows() {
        for ports in 1..=SOURCE_PORTS_MAX as u8 {
            let spread = Spread::over(&(1..=ports).collect::<Vec<_>>(), Instant::now());
            let fair = BUCKETS / (usize::from(ports) + 1);
            for slot in 0..=ports {
                let share = spread.slots.iter().filter(|s| **s == slot).count();
                assert!(share * 3 > fair && share < fair * 2 + 4, "{ports} ports, {slot} has {share} of {fair}");
            }
        }
    }

    #[test]
    fn without_ports_beside_it_all_flows_take_the_main_one() {
        assert_eq!(Spread::over(&[], Instant::now()).slots(), [0]);
    }
}
