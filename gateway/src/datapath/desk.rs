//! Where a lane's crypto jobs are done: by itself, or by whoever has nothing else to do.
//!
//! Enters: staged jobs. Leaves: the same jobs, done, in the order of staging per direction. Never does:
//! transmit, or hand anything over that nobody idle is there to take.
//!
//! 1. A burst's packets are collected in a job from a fixed stock ([`Desk::job`]) and staged ([`Desk::stage`]).
//! 2. With one job, one lane, no idle lane, or no core to spare ([`super::crowding`]), the owner does it on the spot ([`Desk::work`]); this costs no
//!    atomic operation but one load.
//! 3. Else each job goes on the lane's [`Board`], its slot's number on the lane's deque, and one sleeping lane
//!    is roused. Owner and thieves take from the old end, so that the oldest jobs are done first.
//! 4. A thief returns the job to its slot and, should the owner sleep, wakes it.
//! 5. The owner takes jobs back strictly in order ([`Desk::next_done`]).

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::deque::{Steal, Stealer, Worker};

use super::handover::{Board, Helpers};
use super::jobs::{DIRECTIONS, Direction, Job};
use super::report::Waker;
use super::stages::StageClock;

/// Jobs that one lane has in work at most.
pub(crate) const JOBS: usize = 32;

/// The name of one job on one board.
#[derive(Debug, Clone, Copy)]
struct Task {
    lane: u16,
    slot: u16,
}

/// What lanes share to help each other.
#[derive(Debug)]
pub(crate) struct Crew {
    boards: Box<[Board<Box<Job>>]>,
    stealers: Box<[Stealer<Task>]>,
    wakers: Box<[Waker]>,
    helpers: Helpers,
}

/// One lane's place in the crew.
#[derive(Debug)]
pub(crate) struct Desk {
    lane: usize,
    crew: Arc<Crew>,
    worker: Worker<Task>,
    spare: Vec<Box<Job>>,
    staged: ArrayVec<Box<Job>, JOBS>,
    slots: ArrayVec<u16, JOBS>,
    abroad: [VecDeque<u16>; DIRECTIONS],
    done: [VecDeque<Box<Job>>; DIRECTIONS],
    idle: bool,
    /// Every core is busy: help would only be taken from others.
    crowded: bool,
}

/// How many jobs were done, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stolen {
    Nothing,
    One,
}

/// One desk per waker, all of one crew.
pub(crate) fn desks(wakers: Vec<Waker>) -> Vec<Desk> {
    let workers: Vec<Worker<Task>> = wakers.iter().map(|_| Worker::new_fifo()).collect();
    let crew = Arc::new(Crew {
        boards: workers.iter().map(|_| Board::new(JOBS)).collect(),
        stealers: workers.iter().map(Worker::stealer).collect(),
        helpers: Helpers::new(wakers.len()),
        wakers: wakers.into(),
    });
    let desk = |(lane, worker)| Desk {
        lane,
        crew: Arc::clone(&crew),
        worker,
        spare: (0..JOBS).map(|_| Job::new()).collect(),
        staged: ArrayVec::new(),
        slots: (0..JOBS as u16).collect(),
        abroad: std::array::from_fn(|_| VecDeque::with_capacity(JOBS)),
        done: std::array::from_fn(|_| VecDeque::with_capacity(JOBS)),
        idle: false,
        crowded: false,
    };
    workers.into_iter().enumerate().map(desk).collect()
}

impl Desk {
    /// An empty job, unless all are in work.
    pub(crate) fn job(&mut self) -> Option<Box<Job>> {
        self.spare.pop()
    }

    /// Takes a job back that is emptied or was not needed.
    pub(crate) fn put(&mut self, mut job: Box<Job>) {
        job.runs.clear();
        job.notes.clear();
        job.tables = None;
        debug_assert!(job.frames.is_empty(), "frames go home through the pool");
        self.spare.push(job);
    }

    /// Adds a job to what [`Desk::work`] will do.
    pub(crate) fn stage(&mut self, job: Box<Job>) {
        self.staged.push(job);
    }

    /// Does what is staged, with the help of idle lanes. Returns how many jobs this lane did.
    pub(crate) fn work(&mut self, stages: &mut StageClock) -> u64 {
        if self.staged.is_empty() {
            return 0;
        }
        let alone =
            self.crew.boards.len() == 1 || self.staged.len() < 2 || self.crowded || self.crew.helpers.idle() == 0;
        if alone && self.is_home() {
            let jobs = self.staged.len();
            for mut job in self.staged.drain(..) {
                job.run();
                stages.end(job.direction.into(), job.frames.len());
                self.done[job.direction as usize].push_back(job);
            }
            return jobs as u64;
        }
        self.share();
        self.work_off(stages)
    }

    fn share(&mut self) {
        let board = &self.crew.boards[self.lane];
        for job in self.staged.drain(..) {
            // There are as many slots as jobs.
            let Some(slot) = self.slots.pop() else { unreachable!("a job without a slot") };
            self.abroad[job.direction as usize].push_back(slot);
            board.put(usize::from(slot), job);
            self.worker.push(Task { lane: self.lane as u16, slot });
        }
        // The last job is done sooner by its owner than by one who has to wake up first.
        for _ in 1..self.worker.len() {
            let Some(helper) = self.crew.helpers.rouse() else { break };
            self.crew.wakers[helper].wake();
        }
    }

    fn work_off(&mut self, stages: &mut StageClock) -> u64 {
        let board = &self.crew.boards[self.lane];
        let mut jobs = 0;
        while let Some(task) = self.worker.pop() {
            let slot = usize::from(task.slot);
            if let Some(mut job) = board.claim(slot) {
                job.run();
                stages.end(job.direction.into(), job.frames.len());
                jobs += 1;
                // The owner is awake: it is the one who runs here.
                let _ = board.finish(slot, job);
            }
        }
        jobs
    }

    /// The next job in order of this direction, if it is done.
    pub(crate) fn next_done(&mut self, direction: Direction) -> Option<Box<Job>> {
        let direction = direction as usize;
        if let Some(job) = self.done[direction].pop_front() {
            return Some(job);
        }
        let slot = *self.abroad[direction].front()?;
        let job = self.crew.boards[self.lane].take_finished(usize::from(slot))?;
        self.abroad[direction].pop_front();
        self.slots.push(slot);
        Some(job)
    }

    /// Whether no other lane has a job of this one.
    pub(crate) fn is_home(&self) -> bool {
        self.abroad.iter().all(VecDeque::is_empty)
    }

    /// Does one job of another lane.
    pub(crate) fn steal(&mut self, stages: &mut StageClock) -> Stolen {
        let lanes = self.crew.boards.len();
        for victim in (1..lanes).map(|step| (self.lane + step) % lanes) {
            let task = loop {
                match self.crew.stealers[victim].steal() {
                    Steal::Success(task) => break Some(task),
                    Steal::Retry => {}
                    Steal::Empty => break None,
                }
            };
            let Some(task) = task else { continue };
            let (owner, slot) = (usize::from(task.lane), usize::from(task.slot));
            if let Some(mut job) = self.crew.boards[owner].claim(slot) {
                job.run();
                stages.end(job.direction.into(), job.frames.len());
                if self.crew.boards[owner].finish(slot, job) {
                    self.crew.wakers[owner].wake();
                }
                return Stolen::One;
            }
        }
        Stolen::Nothing
    }

    /// Tells the crew whether this lane has something to do.
    pub(crate) fn set_idle(&mut self, idle: bool) {
        if self.idle == idle || self.crew.boards.len() == 1 {
            return;
        }
        self.idle = idle;
        match idle {
            true => self.crew.helpers.enter_idle(),
            false => self.crew.helpers.leave_idle(),
        }
    }

    /// Says whether there is a core to spare for a helper.
    pub(crate) fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// Says that the lane is about to sleep. False when there is something to do after all.
    #[must_use]
    pub(crate) fn lie_down(&self) -> bool {
        if self.crew.boards.len() == 1 {
            return true;
        }
        self.crew.helpers.lie_down(self.lane);
        let others = self.crew.stealers.iter().enumerate().filter(|(lane, _)| *lane != self.lane);
        let work = others.into_iter().any(|(_, stealer)| !stealer.is_empty());
        let heads = self.abroad.iter().filter_map(|queue| queue.front().map(|slot| usize::from(*slot)));
        if work || !self.crew.boards[self.lane].park(heads) {
            self.get_up();
            return false;
        }
        true
    }

    /// Says that the lane is awake.
    pub(crate) fn get_up(&self) {
        if self.crew.boards.len() > 1 {
            self.crew.boards[self.lane].unpark();
            self.crew.helpers.get_up(self.lane);
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // A lane that has gone helps nobody.
        self.set_idle(false);
        self.crew.helpers.get_up(self.lane);
    }
}
