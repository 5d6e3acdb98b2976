//! One link's single flow on several lanes: what the help of idle lanes brings, seal and open.
//!
//! All packets come by one lane and leave by it in the order they came, which is checked; what is compared is the time that
//! they take with a helper on another core, and without. Turns alternate, as in [`super::hot_path`]. With a single core
//! there is no case.

use std::time::Instant;

use super::TURN;
use super::crew::Crew;
use super::site::{Site, sequence_of};
use crate::measure::{Case, Sample};

const GROUP: &str = "one flow, helped by another lane";
const SIZES: [usize; 3] = [64, 512, 1420];
/// Turns whose packets are offered at once: as a queue that is never empty.
const TURNS: usize = 4;
const ROUNDS: usize = 8;

/// All cases of this file.
pub(super) fn cases() -> anyhow::Result<Vec<Case>> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Ok(Vec::new());
    }
    let mut cases = Vec::new();
    for open in [false, true] {
        for len in SIZES {
            let name = format!("{} {len} B, two lanes", if open { "open" } else { "seal" });
            let case = Case::new(GROUP, name, sample(open, len)?);
            cases.push(case.bytes(len).against("one lane"));
        }
    }
    Ok(cases)
}

fn sample(open: bool, len: usize) -> anyhow::Result<impl FnMut() -> Sample> {
    // Where opening is measured, site 1 seals for both.
    let number = if open { 2 } else { 1 };
    let (mut source, mut alone, mut crew) = (Site::new(1, 1)?, Site::new(number, 1)?, Crew::new(number, 2)?);
    Ok(move || {
        super::best_engine();
        let mut sample = Sample::default();
        for _ in 0..ROUNDS {
            crew.set_open(true);
            offer(open, len, &mut source, &mut crew.site);
            sample.time(TURN * TURNS, || drain(open, &mut crew.site));
            crew.set_open(false);
            check(open, &mut crew.site);
            offer(open, len, &mut source, &mut alone);
            sample.time_beside(TURN * TURNS, || drain(open, &mut alone));
            check(open, &mut alone);
        }
        sample
    })
}

fn offer(open: bool, len: usize, source: &mut Site, to: &mut Site) {
    for _ in 0..TURNS {
        match open {
            false => to.offer(len, std::iter::repeat_n(0, TURN)),
            true => {
                source.offer(len, std::iter::repeat_n(0, TURN));
                source.lane.poll_once(Instant::now());
                source.deliver_to(to);
            }
        }
    }
}

/// Until all packets have left: jobs that others have are theirs until they bring them back.
fn drain(open: bool, site: &mut Site) {
    while sent(open, site) < TURN * TURNS {
        site.lane.poll_once(Instant::now());
    }
}

fn sent(open: bool, site: &mut Site) -> usize {
    if open { site.lane.lan().sent.len() } else { site.lane.wan().sent.len() }
}

/// Packets leave in the order they came.
fn check(open: bool, site: &mut Site) {
    let in_order = match open {
        true => site.lane.lan().sent.iter().map(|frame| sequence_of(frame.data())).is_sorted(),
        false => site.lane.wan().sent.iter().map(|frame| counter_of(frame.data())).is_sorted(),
    };
    assert!(in_order, "packets of one flow were reordered");
    site.forget_sent();
}

/// The counter of a sealed packet behind its Ethernet, IPv4 and UDP headers.
fn counter_of(frame: &[u8]) -> u64 {
    let counter = frame[14 + 20 + 8 + 8..].first_chunk().expect("a message of transport data");
    u64::from_le_bytes(*counter)
}
