//! What a lane's thread does between turns: nothing, as cheaply as can be.
//!
//! Enters: a lane. Leaves: its pool, when it was told to stop. Never does: sleep while there is work, or spin
//! where cores are scarce.
//!
//! 1. A turn that found nothing makes the lane idle: others may give it their jobs.
//! 2. With rings, and a core that nobody else wants ([`super::crowding`]), look into the rings a few times; as often as that lately helped.
//! 3. Lie down: whoever makes work from here on wakes this lane. Look once more.
//! 4. Poll both sides and the waker. The first sleep after work is short, to send what a ring may have kept.

use std::thread;
use std::time::{Duration, Instant};

use landbridge_xsk::Pool;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::crowding::Crowding;
use super::lane::{Lane, Turn};
use super::side::{Lan, PollSet, Wan};
use super::stages::Stage;

/// Looks into the rings before sleeping, at most.
const SPINS_MAX: u32 = 256;
const SPINS_MIN: u32 = 8;
/// The first sleep after work, and every one while something is owed to the control task.
const SHORT: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// So many wake-ups in a row that bring nothing are a descriptor in error: it must not cost a core.
const FRUITLESS_MAX: u32 = 64;
const FRUITLESS_PAUSE: Duration = Duration::from_millis(5);

/// How the last sleeps went.
struct Rest {
    spins: u32,
    settled: bool,
    fruitless: u32,
    crowded: bool,
}

/// Runs a lane until it is told to stop, and returns its pool with every frame that came home.
pub(super) fn run<W: Wan, L: Lan>(mut lane: Lane<W, L>, spins: bool) -> Pool {
    let spins = if spins && (lane.wan.has_rings() || lane.lan.has_rings()) { SPINS_MIN } else { 0 };
    let mut rest = Rest { spins, settled: false, fruitless: 0, crowded: false };
    let mut crowding = Crowding::of_this_thread(Instant::now());
    loop {
        let now = Instant::now();
        rest.crowded = crowding.look(now);
        lane.desk.set_crowded(rest.crowded);
        match lane.poll_once(now) {
            Turn::Busy => {
                lane.desk.set_idle(false);
                (rest.settled, rest.fruitless) = (false, 0);
            }
            Turn::Idle => {
                lane.desk.set_idle(true);
                rest.take(&mut lane);
                lane.stages.end(Stage::Wait, 0);
            }
            Turn::Stopped => {
                lane.desk.set_idle(false);
                return lane.close(Instant::now());
            }
        }
    }
}

impl Rest {
    fn take<W: Wan, L: Lan>(&mut self, lane: &mut Lane<W, L>) {
        if (!self.crowded && self.spin(lane)) || !lane.desk.lie_down() {
            return;
        }
        lane.stats.sleeps.add(1);
        lane.stats.frames_free.set(lane.pool.free().0 as u64);
        let short = !self.settled || !lane.owed.is_empty();
        let woken = sleep(lane, short.then_some(&SHORT));
        lane.desk.get_up();
        match woken {
            Woken::Nobody => {
                self.settled = true;
                let flushed = lane.wan.flush(&mut lane.pool, &lane.stats);
                lane.note_wan(flushed, Instant::now());
                lane.flush_lan(Instant::now());
            }
            // Often somebody else has done by now what the lane was called for: that is no reason to make it slow to hear.
            Woken::Called => {}
            Woken::Side => self.fruitless += 1,
        }
        if self.fruitless > FRUITLESS_MAX {
            thread::sleep(FRUITLESS_PAUSE);
        }
    }

    /// Looks into the rings; true when something came.
    fn spin<W: Wan, L: Lan>(&mut self, lane: &mut Lane<W, L>) -> bool {
        for _ in 0..self.spins {
            if lane.wan.glance(&mut lane.pool) || lane.lan.glance(&mut lane.pool) {
                self.spins = (self.spins * 2).min(SPINS_MAX);
                return true;
            }
            std::hint::spin_loop();
        }
        if self.spins > 0 {
            self.spins = (self.spins / 2).max(SPINS_MIN);
        }
        false
    }
}

/// What ended a sleep.
enum Woken {
    /// The limit of time.
    Nobody,
    /// The waker alone.
    Called,
    /// A descriptor of a side.
    Side,
}

/// Polls. The waker's wakes are forgotten: what they were for is looked at next.
fn sleep<W: Wan, L: Lan>(lane: &Lane<W, L>, limit: Option<&Timespec>) -> Woken {
    let mut set = PollSet::new();
    set.push(PollFd::new(&lane.link.lane, PollFlags::IN));
    lane.wan.poll_set(&mut set);
    if lane.has_lan() {
        lane.lan.poll_set(&mut set);
    }
    // Interrupted, or short of memory for once: the next turn looks at everything anyway.
    let Ok(ready) = poll(&mut set, limit) else { return Woken::Called };
    let called = !set[0].revents().is_empty();
    if called {
        lane.link.lane.clear();
    }
    match ready - usize::from(called) {
        0 if called => Woken::Called,
        0 => Woken::Nobody,
        _ => Woken::Side,
    }
}
