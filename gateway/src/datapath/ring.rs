//! An AF_XDP ring as both sides use it, and the rings of one side.
//!
//! Enters: frames from the kernel, frames to send with what counts of their bytes. Leaves: the same, in order. Never does:
//! look into a packet, or count: each side has its own counters.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use landbridge_proto::DropReason;
use landbridge_xsk::{BURST, Burst, ChainsDropped, Frame, Pool, Xsk};

use super::stats::LaneStats;

/// One ring and its backlogs.
#[derive(Debug)]
pub(super) struct Ring {
    if_index: u32,
    socket: Xsk,
    received: Burst,
    staged: Burst,
    /// Bytes that count of each of them.
    staged_lens: ArrayVec<u32, BURST>,
    /// Bytes of the longest packet in a jumbo frame that it sends, less the headers that come before it; zero for none.
    long_max: usize,
}

/// What became of staged frames.
#[derive(Debug, Default, Clone, Copy)]
#[must_use]
pub(super) struct Moved {
    /// Those that the ring took.
    pub(super) packets: u64,
    /// What was said of their bytes.
    pub(super) bytes: u64,
    /// Those that it had no room for.
    pub(super) refused: u64,
}

impl Ring {
    /// Of a bound socket.
    pub(super) fn new(if_index: u32, socket: Xsk) -> Self {
        let long_max = if socket.bound().multi_buffer { socket.len_max().saturating_sub(Frame::HEADROOM) } else { 0 };
        let (received, staged, staged_lens) = (Burst::new(), Burst::new(), ArrayVec::new());
        Self { if_index, socket, received, staged, staged_lens, long_max }
    }

    /// Receives frames where none wait already; true when some do.
    pub(super) fn glance(&mut self, pool: &mut Pool) -> bool {
        if self.received.is_empty() {
            self.socket.receive(pool, &mut self.received);
        }
        !self.received.is_empty()
    }

    /// Up to so many of the frames that wait.
    pub(super) fn take(&mut self, room: usize) -> impl Iterator<Item = Frame> + '_ {
        let room = room.min(self.received.len());
        self.received.drain(..room)
    }

    /// Bytes of the longest packet in a jumbo frame that can be staged, whatever headers were put before it; zero where none
    /// can.
    #[inline]
    pub(super) fn long_max(&self) -> usize {
        self.long_max
    }

    /// Counts what was received and dropped before anybody saw it.
    #[inline]
    pub(super) fn count_dropped(&mut self, stats: &LaneStats) {
        if self.long_max != 0 {
            let ChainsDropped { oversized, no_frame } = self.socket.take_chains_dropped();
            stats.drop_packets(DropReason::Oversized, oversized);
            stats.drop_packets(DropReason::NoFrame, no_frame);
        }
    }

    /// Whether frames may ask the device for checksums.
    #[inline]
    pub(super) fn takes_checksum_requests(&self) -> bool {
        self.socket.bound().checksum_offload
    }

    /// Whether staged frames have to be moved before another one is staged.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.staged.is_full()
    }

    /// Stages a frame of which so many bytes count; there must be room.
    #[inline]
    pub(super) fn stage(&mut self, frame: Frame, len: u32) {
        self.staged.push(frame);
        self.staged_lens.push(len);
    }

    /// Moves staged frames into the ring. One that stays full after the kernel was told refuses the rest.
    pub(super) fn move_staged(&mut self, pool: &mut Pool) -> Moved {
        let mut moved = Moved::default();
        self.fill(pool, &mut moved);
        if !self.staged.is_empty() {
            // What it could not send it says again at the flush that ends the turn.
            let _ = self.socket.flush(pool);
            self.fill(pool, &mut moved);
            moved.refused = self.staged.len() as u64;
            self.staged.drain(..).for_each(|frame| pool.put(frame));
            self.staged_lens.clear();
        }
        moved
    }

    fn fill(&mut self, pool: &mut Pool, moved: &mut Moved) {
        if self.staged.is_empty() {
            return;
        }
        self.socket.transmit(pool, &mut self.staged);
        let taken = self.staged_lens.len() - self.staged.len();
        moved.packets += taken as u64;
        moved.bytes += self.staged_lens.drain(..taken).map(u64::from).sum::<u64>();
    }

    /// Tells the kernel of what was moved.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn flush(&mut self, pool: &mut Pool) -> io::Result<()> {
        self.socket.flush(pool)
    }

    /// Whether the kernel left frames in the ring for another call. A zero-copy driver that was told goes on by itself.
    pub(super) fn is_left_over(&mut self) -> bool {
        !self.socket.bound().zero_copy && self.socket.is_unsent()
    }

    /// Brings every frame home.
    fn close(mut self, pool: &mut Pool) {
        for frame in self.received.drain(..).chain(self.staged.drain(..)) {
            pool.put(frame);
        }
        self.socket.close(pool);
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a side makes of a ring.
pub(super) trait OnRing {
    /// Its ring.
    fn ring(&self) -> &Ring;
    /// Its ring, to be used.
    fn ring_mut(&mut self) -> &mut Ring;
    /// Leaves the ring alone.
    fn into_ring(self) -> Ring;
}

/// The rings of one side of a lane, beside its way through the kernel.
#[derive(Debug)]
pub(super) struct Rings<R> {
    rings: Vec<R>,
    /// Who is received from first: a ring by its place, or behind them all the kernel.
    first: usize,
}

impl<R: OnRing> Rings<R> {
    pub(super) fn new(rings: Vec<R>) -> Self {
        Self { rings, first: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.rings.iter_mut()
    }

    /// Their descriptors.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(|ring| ring.ring().as_fd())
    }

    /// The place of the ring on an interface.
    pub(super) fn place(&self, if_index: u32) -> Option<usize> {
        self.rings.iter().position(|ring| ring.ring().if_index == if_index)
    }

    /// The ring at a place.
    pub(super) fn at(&mut self, place: usize) -> &mut R {
        &mut self.rings[place]
    }

    /// Lets each ring, and the kernel (`None`), be received from, until `receive` says that there is room for no more. Who
    /// has waited for that comes first the next time.
    pub(super) fn in_turn(&mut self, mut receive: impl FnMut(Option<&mut R>) -> bool) {
        let sources = self.rings.len() + 1;
        for source in (self.first..sources).chain(0..self.first) {
            if receive(self.rings.get_mut(source)) {
                self.first = (source + 1) % sources;
                return;
            }
        }
    }

    /// Receives frames where none wait already; true when any ring has some.
    pub(super) fn glance(&mut self, pool: &mut Pool) -> bool {
        self.rings.iter_mut().any(|ring| ring.ring_mut().glance(pool))
    }

    /// Closes those of an interface and uses others in their place.
    pub(super) fn replace(&mut self, pool: &mut Pool, if_index: u32, rings: Vec<R>) {
        for ring in self.rings.extract_if(.., |ring| ring.ring().if_index == if_index) {
            ring.into_ring().close(pool);
        }
        self.rings.extend(rings);
        self.first = 0;
    }

    /// Brings every frame home.
    pub(super) fn close(&mut self, pool: &mut Pool) {
        for ring in self.rings.drain(..) {
            ring.into_ring().close(pool);
        }
    }
}
