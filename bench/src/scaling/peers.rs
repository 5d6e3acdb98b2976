//! Peers: 64-byte packets to and from all of them at random.
//!
//! Enters: nothing. Leaves: curves of seal and open, one packet to a peer at a time and sixteen in a row, and the heap
//! that all of a site's tables occupy. Never does: touch a peer that has no session.

use std::time::Instant;

use super::{Curve, Growth, SampleFn, occupied, scattered};
use crate::measure::Sample;
use crate::micro::site::Site;
use crate::micro::{TURN, best_engine};

const PEERS: [u32; 5] = [1, 10, 100, 1000, 10_000];
const LEN: usize = 64;
/// Turns of one sample.
const TURNS: usize = 32;
/// Turns before the packets begin again from the first peer.
const CYCLE: usize = 64;

/// Everything about peers.
pub(super) fn growth() -> anyhow::Result<Growth> {
    let mut curves = Vec::new();
    for (train, how) in [(1, "each to another"), (16, "16 in a row")] {
        for (way, opens) in [("seal", false), ("open", true)] {
            let sizes = PEERS.map(|peers| Ok((peers, sample(opens, peers, train)?)));
            let sizes = sizes.into_iter().collect::<anyhow::Result<_>>()?;
            curves.push(Curve { name: format!("{way}, {how}"), sizes });
        }
    }
    let memory = PEERS.map(|peers| {
        let (site, bytes) = occupied(|| Site::new(1, peers));
        site.map(|_| (peers, bytes))
    });
    Ok(Growth { with: "peers", curves, memory: memory.into_iter().collect::<anyhow::Result<_>>()? })
}

fn sample(opens: bool, peers: u32, train: usize) -> anyhow::Result<SampleFn> {
    let (mut from, mut to, now) = (Site::new(1, peers)?, Site::new(2, peers)?, Instant::now());
    let order: Vec<u32> =
        scattered(CYCLE * TURN / train, peers).into_iter().flat_map(|peer| std::iter::repeat_n(peer, train)).collect();
    let mut at = 0;
    Ok(Box::new(move || {
        best_engine();
        let mut sample = Sample::default();
        for _ in 0..TURNS {
            from.offer(LEN, order[at..at + TURN].iter().copied());
            at = (at + TURN) % order.len();
            if opens {
                from.lane.poll_once(now);
                from.deliver_to(&mut to);
                sample.time(TURN, || to.lane.poll_once(now));
                assert_eq!(to.lane.lan().sent.len(), TURN, "a turn opens all that came");
                to.forget_sent();
            } else {
                sample.time(TURN, || from.lane.poll_once(now));
                assert_eq!(from.lane.wan().sent.len(), TURN, "a turn seals all that was offered");
                from.forget_sent();
            }
        }
        sample
    }))
}
