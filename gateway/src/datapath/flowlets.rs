//! Which source port a flow leaves by while the ports in use change: its own, until it pauses.
//!
//! Enters: flow hashes, the ports in use towards a peer, time. Leaves: the place of a port for each packet. Never does:
//! let a flow in full swing overtake itself. Another port is another queue of the receiver, which may be shorter.
//!
//! 1. What follows a flow's last packet closely takes the port that that one took. After a pause, in which the receiver has
//!    emptied its queues, it takes the one that [`Spread`] has for it.
//! 2. A link that had only its main port kept no book. For a moment every flow that nothing is known of is taken for one in
//!    full swing there.
//! 3. A port that is given up is left at once: what went there is lost anyway.
//! 4. The longer the ports have been the same, the shorter the pause that will do: a link that becomes busy has the
//!    longest queues, and flows that never rest are to be spread as well. One that fills a link alone stays where it is.
//!
//! The book is small and nothing is searched in it. Of flows that share an entry one that is not at its own port has it; the
//! others take theirs, at the worst too early.

use std::time::{Duration, Instant};

use landbridge_proto::Spread;

use super::tables::PeerEntry;

const FLOWLETS: usize = 4096;
/// The pause that is waited for at first, in ticks. A receiver's queues hold some 10 ms of a busy link.
const PAUSE: u16 = 50;
/// It is halved in each such time...
const HALVED_EVERY: Duration = Duration::from_secs(2);
/// ... down to this.
const PAUSE_MIN: u16 = 2;
/// A spread is published and every flow in full swing has been seen within this time.
const TAKEN_OVER_WITHIN: Duration = Duration::from_millis(250);

/// The last packet of a flow. Ticks are milliseconds, and wrap: a flow that rests for a minute may find
/// itself taken for one that never did.
#[derive(Debug, Clone, Copy, Default)]
struct Flowlet {
    tick: u16,
    slot: u8,
    /// Bits of the flow's hash beside its place, and [`HELD`] where it is to move.
    tag: u8,
}

/// The flow is at another port than its own.
const HELD: u8 = 0x80;

/// The flows of one lane.
#[derive(Debug)]
pub(super) struct Flowlets {
    began: Option<Instant>,
    flowlets: Box<[Flowlet; FLOWLETS]>,
}

/// What is the same for all packets of a run towards one peer.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    spread: &'a Spread,
    salt: u32,
    tick: u16,
    pause: u16,
    /// Step 2.
    takes_over: bool,
    /// The flow of the last packet: most packets follow one of their own flow.
    last: Option<(u32, u8)>,
}

impl Default for Flowlets {
    fn default() -> Self {
        Self { began: None, flowlets: Box::new([Flowlet::default(); FLOWLETS]) }
    }
}

impl Flowlets {
    /// How packets to a peer are to be spread; `None`: all by the main port.
    #[inline]
    pub(super) fn choice<'a>(&mut self, entry: &'a PeerEntry, now: Instant) -> Option<Choice<'a>> {
        let spread = entry.spread.as_deref()?;
        let elapsed = now.saturating_duration_since(*self.began.get_or_insert(now));
        let age = now.saturating_duration_since(spread.since());
        let halvings = (age.as_secs() / HALVED_EVERY.as_secs()).min(u64::from(u16::BITS) - 1);
        Some(Choice {
            spread,
            salt: entry.id.slot.wrapping_mul(0x9e37_79b1),
            // What nothing was written to is no flow of a moment ago.
            tick: (elapsed.as_millis() as u16).wrapping_add(PAUSE),
            pause: (PAUSE >> halvings).max(PAUSE_MIN),
            takes_over: age < TAKEN_OVER_WITHIN,
            last: None,
        })
    }

    /// The place of the port that a packet of a flow takes.
    #[inline]
    pub(super) fn slot_of(&mut self, choice: &mut Choice<'_>, flow: u32) -> u8 {
        if let Some((last, slot)) = choice.last
            && last == flow
        {
            return slot;
        }
        let own = choice.spread.slot_of(flow);
        // The upper bits alone choose the port: others have to tell the flows of one port apart.
        let at = (flow ^ flow >> 16 ^ choice.salt >> 8) as usize % FLOWLETS;
        let tag = (flow >> 12 ^ choice.salt >> 24) as u8 & !HELD;
        let flowlet = &mut self.flowlets[at];
        let (is_same, is_fresh) = (flowlet.tag & !HELD == tag, choice.tick.wrapping_sub(flowlet.tick) < choice.pause);
        let kept = match is_same && is_fresh {
            true => Some(flowlet.slot),
            false => choice.takes_over.then_some(0),
        };
        let slot = kept.filter(|slot| choice.spread.uses(*slot)).unwrap_or(own);
        if is_same || !is_fresh || flowlet.tag & HELD == 0 {
            let held = if slot == own { 0 } else { HELD };
            *flowlet = Flowlet { tick: choice.tick, slot, tag: tag | held };
        }
        choice.last = Some((flow, slot));
        slot
    }
}
