//! Lanes: what it costs to hand bursts over for others to work on.
//!
//! Enters: nothing. Leaves: the seal path of a lane whose neighbours have nothing to do, by the number of lanes. Never
//! does: claim to know what more cores bring than this machine has: with more lanes than cores one thread takes all
//! lanes' turns, which is the bookkeeping of the hand-over without its gain.

use std::time::Instant;

use super::{Curve, Growth, SampleFn};
use crate::measure::Sample;
use crate::micro::crew::Crew;
use crate::micro::site::Site;
use crate::micro::{TURN, best_engine};

const LANES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
const SIZES: [usize; 2] = [64, 1420];
const TURNS: usize = 32;

/// Everything about lanes.
pub(super) fn growth() -> anyhow::Result<Growth> {
    let mut curves = Vec::new();
    for len in SIZES {
        let sizes = LANES.map(|lanes| Ok((lanes, simulated(lanes, len)?)));
        let sizes = sizes.into_iter().collect::<anyhow::Result<_>>()?;
        curves.push(Curve { name: format!("seal {len} B, one thread"), sizes });
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    for len in SIZES {
        let sizes =
            LANES.into_iter().take_while(|lanes| *lanes <= cores).map(|lanes| Ok((lanes, threaded(lanes, len)?)));
        let sizes = sizes.collect::<anyhow::Result<_>>()?;
        curves.push(Curve { name: format!("seal {len} B, a thread each"), sizes });
    }
    Ok(Growth { with: "lanes", curves, memory: Vec::new() })
}

/// One thread: the lane shares its bursts, finds nobody awake to take them, and does them all itself.
fn simulated(lanes: u32, len: usize) -> anyhow::Result<SampleFn> {
    let (mut site, mut neighbours) = Site::in_crew(1, lanes)?;
    neighbours.iter_mut().for_each(|lane| lane.set_idle(true));
    Ok(Box::new(move || {
        // They belong to the crew as long as they are there.
        assert_eq!(neighbours.len() + 1, lanes as usize);
        turns(&mut site, len)
    }))
}

/// A thread for each neighbour, which looks for work all the time.
fn threaded(lanes: u32, len: usize) -> anyhow::Result<SampleFn> {
    let mut crew = Crew::new(1, lanes)?;
    Ok(Box::new(move || {
        crew.set_open(true);
        let sample = turns(&mut crew.site, len);
        crew.set_open(false);
        sample
    }))
}

fn turns(site: &mut Site, len: usize) -> Sample {
    best_engine();
    let mut sample = Sample::default();
    for _ in 0..TURNS {
        site.offer(len, std::iter::repeat_n(0, TURN));
        sample.time(TURN, || {
            // Jobs that others have are theirs until they bring them back.
            while site.lane.wan().sent.len() < TURN {
                site.lane.poll_once(Instant::now());
            }
        });
        site.forget_sent();
    }
    sample
}
