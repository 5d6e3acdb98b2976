//! Lanes: what it costs to hand bursts over for others to work on.
//!
//! Enters: nothing. Leaves: the seal path of a lane whose neighbours have nothing to do, by the number of lanes. Never
//! does: claim to know what more cores bring than this machine has: with more lanes than cores one thread takes all
//! lanes' turns, which is the bookkeeping of the hand-over without its gain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use landbridge::datapath::lane::Turn;

use super::{Curve, Growth, SampleFn};
use crate::measure::Sample;
use crate::micro::site::{Neighbour, Site};
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
    let (mut site, mut neighbours) = Site::in_crew(lanes)?;
    neighbours.iter_mut().for_each(|lane| lane.set_idle(true));
    Ok(Box::new(move || {
        // They belong to the crew as long as they are there.
        assert_eq!(neighbours.len() + 1, lanes as usize);
        turns(&mut site, len)
    }))
}

/// A thread for each neighbour, which looks for work all the time.
fn threaded(lanes: u32, len: usize) -> anyhow::Result<SampleFn> {
    let (mut site, neighbours) = Site::in_crew(lanes)?;
    let gate = Gate::default();
    let helpers: Vec<JoinHandle<()>> = neighbours.into_iter().map(|lane| help(lane, &gate)).collect();
    let crew = Crew { gate, helpers };
    Ok(Box::new(move || {
        crew.gate.open.store(true, Ordering::Release);
        let sample = turns(&mut site, len);
        crew.gate.open.store(false, Ordering::Release);
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

/// Helpers look for work while it is open.
#[derive(Debug, Clone, Default)]
struct Gate {
    open: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
}

/// Ends its helpers when it is dropped.
struct Crew {
    gate: Gate,
    helpers: Vec<JoinHandle<()>>,
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.gate.end.store(true, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            drop(helper.join());
        }
    }
}

fn help(mut lane: Neighbour, gate: &Gate) -> JoinHandle<()> {
    let gate = gate.clone();
    std::thread::spawn(move || {
        while !gate.end.load(Ordering::Acquire) {
            if !gate.open.load(Ordering::Acquire) {
                // Between samples the core belongs to the others.
                lane.set_idle(false);
                std::thread::park_timeout(std::time::Duration::from_micros(200));
                continue;
            }
            let turn = lane.poll_once(Instant::now());
            lane.set_idle(turn == Turn::Idle);
        }
    })
}
