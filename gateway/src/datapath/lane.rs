//! One lane: what it owns, and one turn of its loop.
//!
//! Enters: bursts from both sides, commands, published tables. Leaves: bursts to the other side, reports.
//! Never does: sleep (that is [`super::lanes`]'s), wait for another thread, or allocate per packet.
//!
//! A turn ([`Lane::poll_once`]):
//! 1. Load the snapshot, obey commands, release packets whose session has come.
//! 2. Receive bursts from both sides into crypto jobs ([`super::inbound`], [`super::outbound`]).
//! 3. Do the jobs, with the help of idle lanes ([`super::desk`]).
//! 4. Take finished jobs in order, transmit, flush.
//! 5. With nothing of its own to do, help another lane.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use landbridge_proto::{DropReason, PeerId, Pending, ReceiverIndex};
use landbridge_xsk::{Burst, Frame, Pool};

use super::desk::{Desk, Stolen};
use super::flowlets::Flowlets;
use super::jobs::Direction;
use super::report::{Command, Link, Report};
use super::side::{Datagrams, Lan, Origin, Wan};
use super::stages::{Stage, StageClock};
use super::stats::LaneStats;
use super::tables::{Published, Tables};
use super::too_big::Allowance;

/// Bursts that a lane takes from each side in one turn.
pub(super) const BURSTS_PER_TURN: usize = 4;
/// Packets that wait for the handshake of one peer.
const PENDING_PER_PEER: usize = 128;
/// A failing side is reported at most once in this time.
const FAILURE_INTERVAL: Duration = Duration::from_secs(1);
/// Datagrams may fill the queue to the control task up to here; the rest is for what must not be lost.
const DATAGRAMS_MAX: usize = 512;
/// Commands obeyed in one turn.
const COMMANDS_PER_TURN: usize = 64;

/// Whether the lane goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There was something to do; there may be more.
    Busy,
    /// There was nothing to do.
    Idle,
    /// The lane was told to stop.
    Stopped,
}

/// One lane with its two sides.
pub struct Lane<W, L> {
    pub(super) wan: W,
    pub(super) lan: L,
    pub(super) pool: Pool,
    pub(super) desk: Desk,
    pub(super) link: Link,
    pub(super) stats: Arc<LaneStats>,
    pub(super) stages: StageClock,
    pub(super) pending: Pending<Frame>,
    /// Lent to whoever fills and empties it, so that it is never moved as a whole.
    pub(super) datagrams: Option<Box<Datagrams>>,
    pub(super) packets: Burst,
    pub(super) out: Burst,
    /// What senders of packets that are too big are told.
    pub(super) answers: Burst,
    pub(super) answerable: Allowance,
    /// By which source ports flows leave.
    pub(super) flowlets: Flowlets,
    /// Packets that a burst had no room for after some in it were cut. They come before all others.
    pub(super) deferred: VecDeque<Frame>,
    /// Confirmations that found the queue to the control task full.
    pub(super) owed: Vec<ReceiverIndex>,
    /// The last roaming that was reported.
    pub(super) roamed: Option<(PeerId, SocketAddr, Instant)>,
    tables: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
    seen: Arc<Tables>,
    /// What waited for the snapshot that was seen has left.
    released: bool,
    lan_gone: bool,
    failed_at: Option<Instant>,
}

impl<W: Wan, L: Lan> Lane<W, L> {
    /// A lane that works for itself alone: for benches and tests, which call [`Lane::poll_once`].
    #[must_use]
    pub fn alone(wan: W, lan: L, pool: Pool, published: Published, link: Link) -> Self {
        let mut desks = super::desk::desks(vec![link.lane.clone()]);
        let desk = desks.pop().expect("one waker makes one desk");
        Self::new(wan, lan, pool, desk, published, link, Arc::new(LaneStats::default()))
    }

    /// Lanes that help each other, one for each member: for benches and tests, as [`Lane::alone`].
    #[must_use]
    pub fn crew(members: Vec<(W, L, Pool, Link)>, published: &Published) -> Vec<Self> {
        let desks = super::desk::desks(members.iter().map(|(_, _, _, link)| link.lane.clone()).collect());
        let lane = |((wan, lan, pool, link), desk)| {
            Self::new(wan, lan, pool, desk, Arc::clone(published), link, Arc::new(LaneStats::default()))
        };
        members.into_iter().zip(desks).map(lane).collect()
    }

    /// Tells the crew whether this lane has something to do, as its thread does between turns.
    pub fn set_idle(&mut self, idle: bool) {
        self.desk.set_idle(idle);
    }

    pub(super) fn new(
        wan: W,
        lan: L,
        mut pool: Pool,
        desk: Desk,
        published: Published,
        link: Link,
        stats: Arc<LaneStats>,
    ) -> Self {
        // Rings leave a quarter of the memory to the lane. Waiting packets may hold half of that, so that peers that do not
        // answer cannot stop the others.
        let pending = Pending::new(PENDING_PER_PEER, (pool.free().0 / 8).max(1));
        let seen = published.load_full();
        Self {
            wan,
            lan,
            pool,
            desk,
            link,
            stages: StageClock::new(Arc::clone(&stats)),
            stats,
            pending,
            datagrams: Some(Box::default()),
            packets: Burst::new(),
            out: Burst::new(),
            answers: Burst::new(),
            answerable: Allowance::default(),
            flowlets: Flowlets::default(),
            deferred: VecDeque::new(),
            owed: Vec::new(),
            roamed: None,
            tables: Cache::new(published),
            seen,
            released: true,
            lan_gone: false,
            failed_at: None,
        }
    }

    /// Measures the stages of one turn in so many from here on.
    pub fn sample_stages(&mut self, every: NonZeroU32) {
        self.stages.sample(every);
    }

    /// One turn; `now` is the time of everything that is done in it.
    pub fn poll_once(&mut self, now: Instant) -> Turn {
        let tables = Arc::clone(self.tables.load());
        self.stats.loops.add(1);
        self.stages.begin_turn();
        let mut busy = false;
        if !self.link.commands.is_empty() {
            busy = true;
            if self.obey(now) == Turn::Stopped {
                return Turn::Stopped;
            }
        }
        if !Arc::ptr_eq(&tables, &self.seen) {
            self.seen = Arc::clone(&tables);
            self.released = false;
        }
        if !self.released {
            self.released = self.release_pending(&tables, now);
        }
        self.pay_owed();
        self.stages.end(Stage::Other, 0);
        busy |= self.receive_wan(&tables, now);
        busy |= self.released && !self.lan_gone && self.receive_lan(&tables, now);
        busy |= self.turn_over(&tables, now);
        if !busy {
            busy = self.help();
        }
        self.stages.end(Stage::Other, 0);
        if busy { Turn::Busy } else { Turn::Idle }
    }

    /// Does what is staged, and sends what is done.
    pub(super) fn turn_over(&mut self, tables: &Tables, now: Instant) -> bool {
        let jobs = self.desk.work(&mut self.stages);
        self.stats.jobs_own.add(jobs);
        let mut busy = jobs > 0;
        let mut flush = [false; super::jobs::DIRECTIONS];
        while let Some(job) = self.desk.next_done(Direction::Inbound) {
            self.finish_inbound(job, tables, now);
            flush[Direction::Inbound as usize] = true;
        }
        if flush[Direction::Inbound as usize] {
            busy = true;
            self.flush_lan(now);
            self.stages.end(Stage::LanTransmit, 0);
        }
        while let Some(job) = self.desk.next_done(Direction::Outbound) {
            self.finish_outbound(job, now);
            flush[Direction::Outbound as usize] = true;
        }
        if flush[Direction::Outbound as usize] {
            busy = true;
            let flushed = self.wan.flush(&mut self.pool, &self.stats);
            self.note_wan(flushed, now);
            self.stages.end(Stage::WanTransmit, 0);
        }
        busy
    }

    fn help(&mut self) -> bool {
        let helped = self.desk.steal(&mut self.stages) == Stolen::One;
        self.stats.jobs_stolen.add(u64::from(helped));
        helped
    }

    fn obey(&mut self, now: Instant) -> Turn {
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.link.commands.pop() else { break };
            match command {
                Command::Stop => return Turn::Stopped,
                Command::Abandon(peer) => {
                    while let Some(frame) = self.pending.pop(peer) {
                        self.pool.put(frame);
                        self.stats.drop_packets(DropReason::HandshakeFailed, 1);
                    }
                }
                Command::Socket(socket) => {
                    let replaced = self.wan.replace_socket(socket);
                    self.note_socket(replaced, now);
                }
                Command::Port { slot, socket } => {
                    let added = self.wan.set_port(slot, socket);
                    self.note_socket(added, now);
                }
                Command::WanRings { if_index, rings } => {
                    self.wan.replace_rings(&mut self.pool, if_index, rings);
                }
                Command::LanRings { if_index, rings } => {
                    self.lan.replace_rings(&mut self.pool, if_index, rings);
                }
                Command::Data { remote, local, slot, bytes } => {
                    self.take_forwarded(Origin { remote, local, slot }, &bytes);
                }
            }
        }
        Turn::Busy
    }

    /// Counts a drop and brings the frame home.
    pub(super) fn drop_frame(&mut self, frame: Frame, reason: DropReason) {
        self.pool.put(frame);
        self.stats.drop_packets(reason, 1);
    }

    /// Tells the control task at once; false when the queue is full.
    pub(super) fn report(&self, report: Report) -> bool {
        let told = self.link.reports.push(report).is_ok();
        if told {
            self.link.control.wake();
        }
        told
    }

    /// Whether the queue to the control task has room for what may be lost.
    pub(super) fn has_room_for_datagrams(&self) -> bool {
        self.link.reports.len() < self.link.reports.capacity().min(DATAGRAMS_MAX)
    }

    fn pay_owed(&mut self) {
        while let Some(index) = self.owed.last() {
            if !self.report(Report::Confirmed(*index)) {
                break;
            }
            self.owed.pop();
        }
    }

    pub(super) fn note_lan(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        if error.raw_os_error() == Some(rustix::io::Errno::BADFD.raw_os_error()) {
            if !self.lan_gone {
                self.lan_gone = self.report(Report::LanGone);
            }
        } else {
            tracing::debug!(%error, "the lan side failed");
        }
    }

    /// Sends what waits on the lan side.
    pub(super) fn flush_lan(&mut self, now: Instant) {
        let Err(error) = self.lan.flush(&mut self.pool, &self.stats) else { return };
        if self.lan.has_rings() && self.is_news(now) {
            self.report(Report::LanFailed(error));
        }
    }

    /// The kernel's socket failed: there is no other way for what it carries, so it is only told.
    pub(super) fn note_socket(&mut self, result: io::Result<()>, now: Instant) {
        let Err(error) = result else { return };
        if self.is_news(now) {
            tracing::warn!(%error, "the kernel's UDP socket fails");
        }
    }

    /// Whether a failure is told, after those of a moment ago.
    fn is_news(&mut self, now: Instant) -> bool {
        let quiet = self.failed_at.is_some_and(|at| now.saturating_duration_since(at) < FAILURE_INTERVAL);
        if !quiet {
            self.failed_at = Some(now);
        }
        !quiet
    }

    pub(super) fn note_wan(&mut self, result: io::Result<()>, now: Instant) {
        let Err(error) = result else { return };
        if self.is_news(now) {
            self.report(Report::WanFailed(error));
        }
    }

    /// Whether the tunnel interface is there.
    pub(super) fn has_lan(&self) -> bool {
        !self.lan_gone
    }

    /// Ends: every frame that this lane holds goes home. Returns the pool, to be counted.
    pub fn close(mut self, now: Instant) -> Pool {
        let tables = Arc::clone(&self.seen);
        let limit = 1_000_000;
        for _ in 0..limit {
            self.turn_over(&tables, now);
            if self.desk.is_home() {
                break;
            }
            std::thread::yield_now();
        }
        let peers: Vec<PeerId> = self.pending.peers().collect();
        for peer in peers {
            while let Some(frame) = self.pending.pop(peer) {
                self.drop_frame(frame, DropReason::ShuttingDown);
            }
        }
        while let Some(frame) = self.deferred.pop_front() {
            self.drop_frame(frame, DropReason::ShuttingDown);
        }
        self.wan.close(&mut self.pool);
        self.lan.close(&mut self.pool);
        self.pool
    }

    /// The queues to and from the control task.
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// The wan side.
    pub fn wan(&mut self) -> &mut W {
        &mut self.wan
    }

    /// The lan side.
    pub fn lan(&mut self) -> &mut L {
        &mut self.lan
    }

    /// The lane's free frames.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// The lane's counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<LaneStats> {
        &self.stats
    }
}
