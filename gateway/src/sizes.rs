//! How large rings and packet memory are where nobody said it.
//!
//! Enters: what was configured (zero for nothing), and how many rings there are. Leaves: entries of a ring, frames of a
//! lane. Never does: reserve anything.
//!
//! The kernel pins packet memory whole as soon as a ring is bound to it, so that the default must fit the machine with
//! many queues as well as the one with two: all rings share one budget.

/// The largest MTU with which every driver keeps a received packet in one buffer (the least of those known is i40e's). Above
/// it a driver with native XDP may want a program that takes packets in several, and rings that do.
pub const ONE_BUFFER_MTU: u32 = 3046;

/// Entries of a ring where there are few.
const RING_MAX: u32 = 2048;
/// The same where hosts send to rings, which have no congestion control of their own: a lane that gets no core for some
/// milliseconds loses what its rings do not hold, at a million packets in a second.
const RING_MAX_LAN: u32 = 4096;
/// Entries of a ring, however many there are.
const RING_MIN: u32 = 256;
/// Bytes of frames that lie in the receiving half of all rings together.
const BUDGET: u32 = 8 << 20;
/// The same where some of them are on the lan.
const BUDGET_LAN: u32 = 16 << 20;
/// Small frames of a lane without rings; what it does not touch is not resident.
const WITHOUT_RINGS: u32 = 8192;
/// Frames for the bursts that a lane has under way.
const UNDER_WAY: u32 = 1024;

/// Entries of each ring: as configured, else as large as all rings can be within the budget.
#[must_use]
pub fn ring_entries(configured: u32, wan_rings: usize, lan_rings: usize, frame_size: u32) -> u32 {
    if configured != 0 {
        return configured.next_power_of_two();
    }
    let (budget, most) = if lan_rings == 0 { (BUDGET, RING_MAX) } else { (BUDGET_LAN, RING_MAX_LAN) };
    let rings = wan_rings.saturating_add(lan_rings).max(1);
    let share = budget / frame_size.max(1) / u32::try_from(rings).unwrap_or(u32::MAX);
    // The greatest power of two that is not greater.
    (1 << share.max(1).ilog2()).clamp(RING_MIN, most)
}

/// Small frames of a lane with so many rings. A ring's filling leaves a quarter of the frames to the lane, so three times
/// the entries keep both halves of every ring full, with something to spare for what is under way.
#[must_use]
pub fn frames(configured: u32, rings: usize, entries: u32) -> u32 {
    match (configured, rings) {
        (0, 0) => WITHOUT_RINGS,
        (0, _) => entries.saturating_mul(3).saturating_mul(rings as u32).saturating_add(UNDER_WAY),
        (configured, _) => configured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_memory_stays_below_a_hundred_megabytes_on_any_usual_number_of_queues() {
        for (frame_size, lanes) in [(2048, 1), (2048, 2), (2048, 8), (4096, 2), (4096, 8)] {
            for (rings, lan_rings) in (1..=16_usize).flat_map(|rings| [(rings, 0), (rings, rings.div_ceil(2))]) {
                let entries = ring_entries(0, rings - lan_rings, lan_rings, frame_size);
                let busy = lanes.min(rings);
                let frames = (0..busy).map(|lane| frames(0, rings / busy + usize::from(lane < rings % busy), entries));
                let bytes = frames.map(u64::from).sum::<u64>() * u64::from(frame_size);
                let most = match (frame_size, lan_rings) {
                    (2048, 0) => 48 << 20,
                    (2048, _) => 68 << 20,
                    _ => 84 << 20,
                };
                assert!(bytes <= most, "{bytes} bytes for {rings} rings, {lan_rings} of the lan, on {lanes} lanes");
            }
        }
    }

    #[test]
    fn every_ring_can_be_full_in_both_halves_within_what_filling_may_take() {
        for (rings, lan_rings) in [(1, 0), (2, 0), (2, 1), (3, 3), (8, 4), (64, 0)] {
            let entries = ring_entries(0, rings - lan_rings, lan_rings, 2048);
            assert!(entries.is_power_of_two());
            for of_lane in [1, rings] {
                let in_rings = 2 * entries * of_lane as u32;
                assert!(in_rings * 4 / 3 <= frames(0, of_lane, entries), "{of_lane} rings of {entries}");
            }
        }
        let of_wan = |rings| ring_entries(0, rings, 0, 2048);
        assert_eq!((of_wan(2), of_wan(8), of_wan(500)), (2048, 512, 256));
        assert_eq!(
            (ring_entries(0, 0, 2, 2048), ring_entries(0, 2, 2, 2048), ring_entries(0, 8, 8, 2048)),
            (4096, 2048, 512)
        );
    }

    #[test]
    fn what_was_configured_is_taken() {
        assert_eq!((ring_entries(64, 9, 0, 2048), frames(5000, 3, 64)), (64, 5000));
    }
}
