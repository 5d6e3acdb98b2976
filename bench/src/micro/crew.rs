//! A lane and its helpers, each helper on a thread of its own: for measuring what help brings.
//!
//! Enters: a site's neighbours. Leaves: packets of that site, sealed or opened by whoever took them. Never does: keep a core
//! while nothing is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use landbridge::datapath::lane::Turn;

use super::site::{Neighbour, Site};

/// A site whose lane has helpers.
pub(crate) struct Crew {
    /// The site.
    pub(crate) site: Site,
    gate: Gate,
    helpers: Vec<JoinHandle<()>>,
}

/// Helpers look for work while it is open.
#[derive(Debug, Clone, Default)]
struct Gate {
    open: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
}

impl Crew {
    /// Site 1 or 2 with one peer, whose lane has helpers for all lanes but itself.
    pub(crate) fn new(number: u8, lanes: u32) -> anyhow::Result<Self> {
        let (site, neighbours) = Site::in_crew(number, lanes)?;
        let gate = Gate::default();
        let helpers = neighbours.into_iter().map(|lane| help(lane, &gate)).collect();
        Ok(Self { site, gate, helpers })
    }

    /// Lets the helpers look for work, or sends them to sleep.
    pub(crate) fn set_open(&self, open: bool) {
        self.gate.open.store(open, Ordering::Release);
        self.helpers.iter().for_each(|helper| helper.thread().unpark());
    }
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
                std::thread::park_timeout(Duration::from_millis(5));
                continue;
            }
            let turn = lane.poll_once(Instant::now());
            lane.set_idle(turn == Turn::Idle);
        }
    })
}
