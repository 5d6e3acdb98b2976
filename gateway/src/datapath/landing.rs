//! Where the messages of a UDP socket land: in frames, one datagram each, as far as their sizes were foreseen.
//!
//! Enters: messages of datagrams that the kernel joined. Leaves: one frame per datagram. Never does: keep more frames than a
//! few messages need.
//!
//! The kernel copies a message into the slices that it is given, one after the other. Frames cut to the size that datagrams
//! had lately, as many as a message had lately, make that copy the only one. What comes in another size, or beyond those
//! frames (behind them lies room for the longest message), is copied once more.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use landbridge_proto::DropReason;
use landbridge_xsk::datagram::{Arrival, Inbox, MESSAGES};
use landbridge_xsk::{Frame, Pool};

use super::side::{Datagrams, Origin};
use super::stats::LaneStats;

/// Bytes of one message at most.
const MESSAGE_MAX: usize = 1 << 16;
/// Frames that lie ready at most.
const FRAMES: usize = 96;
/// No more than this part of the lane's frames lies ready.
const FRAMES_SHARE: usize = 8;
/// Datagrams of a message that are foreseen at most: what the kernel joins.
const EACH_MAX: usize = 64;
/// The slices of one call.
const SLICES: usize = FRAMES + MESSAGES;
/// Messages before anything was seen.
const FIRST: Shape = Shape { size: 1500, each: 1, messages: 8 };

/// What is foreseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// Bytes of a datagram.
    size: usize,
    /// Datagrams of a message; zero where no frame is ready for them.
    each: usize,
    /// Messages of one call.
    messages: usize,
}

/// Frames that lie ready, and messages that came.
#[derive(Debug)]
pub(super) struct Landing {
    inbox: Inbox,
    frames: ArrayVec<Option<Frame>, FRAMES>,
    overflow: Vec<u8>,
    shape: Shape,
    /// Messages that came and were not cut to the end, and how far the first of them was.
    waiting: Range<usize>,
    offset: usize,
    /// The largest datagrams of the last call, and the most of them in one message.
    largest: Option<(usize, usize)>,
    /// The last call brought all the messages it had room for.
    full: bool,
}

impl Landing {
    pub(super) fn new() -> Self {
        Self {
            inbox: Inbox::default(),
            frames: ArrayVec::new(),
            overflow: vec![0; MESSAGES * MESSAGE_MAX],
            shape: FIRST,
            waiting: 0..0,
            offset: 0,
            largest: None,
            full: false,
        }
    }

    /// Receives what one call brings; true when there may be more. Nothing may be left of the last call.
    pub(super) fn read(&mut self, socket: BorrowedFd<'_>, pool: &mut Pool) -> io::Result<bool> {
        self.foresee(pool);
        let Shape { each, messages, .. } = self.shape;
        let mut slices: ArrayVec<IoSliceMut<'_>, SLICES> = ArrayVec::new();
        let mut frames = self.frames.iter_mut().flatten();
        for overflow in self.overflow.chunks_exact_mut(MESSAGE_MAX).take(messages) {
            slices.extend(frames.by_ref().take(each).map(|frame| IoSliceMut::new(frame.data_mut())));
            slices.push(IoSliceMut::new(overflow));
        }
        match self.inbox.receive(socket, &mut slices, each + 1) {
            Ok(came) => {
                (self.waiting, self.offset) = (0..came, 0);
                self.full = came == messages;
                Ok(self.full)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes ready for what the last call makes likely.
    fn foresee(&mut self, pool: &mut Pool) {
        let mut shape = self.shape;
        if let Some((size, each)) = self.largest.take() {
            // A single datagram lands well in any frame that is large enough.
            if each > 1 || size > shape.size {
                shape.size = size;
            }
            // Fewer frames for each message leave more messages to a call; that pays where calls were full.
            if each > shape.each || (self.full && each <= shape.each / 2) {
                shape.each = each;
            }
        }
        let frames_max = (pool.total().0 / FRAMES_SHARE).min(FRAMES);
        shape.each = shape.each.clamp(1, EACH_MAX);
        if shape.size > pool.frame_capacity() || shape.each > frames_max {
            shape.each = 0;
        }
        shape.messages = frames_max.checked_div(shape.each).unwrap_or(FIRST.messages).clamp(2, MESSAGES);
        if shape.each * shape.messages > frames_max {
            shape.messages = 1;
        }
        let changed = shape != self.shape;
        let wanted = shape.each * shape.messages;
        for frame in self.frames.drain(wanted.min(self.frames.len())..).flatten() {
            pool.put(frame);
        }
        for place in &mut self.frames {
            if changed && let Some(frame) = place {
                frame.reset(Frame::HEADROOM);
                let _fits = frame.append(shape.size);
            }
            if place.is_none() {
                *place = ready(pool, shape.size);
            }
        }
        while self.frames.len() < wanted {
            self.frames.push(ready(pool, shape.size));
        }
        if self.frames.iter().any(Option::is_none) {
            // Frames have run out. What comes is received all the same, and counted where it finds none.
            self.close(pool);
            shape.each = 0;
        }
        self.shape = shape;
    }

    /// Moves what came into `into`, as much as it has room for.
    pub(super) fn cut(&mut self, pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) {
        while !self.waiting.is_empty() && !into.is_full() {
            let message = self.waiting.start;
            let left = match self.inbox.arrival(message) {
                Some(arrival) => self.cut_message(message, &arrival, pool, into, stats),
                None => false,
            };
            if !left {
                self.waiting.start += 1;
                self.offset = 0;
            }
        }
    }

    /// Moves as much of a message as there is room for; true when something is left of it.
    fn cut_message(
        &mut self,
        message: usize,
        arrival: &Arrival,
        pool: &mut Pool,
        into: &mut Datagrams,
        stats: &LaneStats,
    ) -> bool {
        let Arrival { len: end, remote, local, ecn, .. } = *arrival;
        let segment = arrival.segment.clamp(1, MESSAGE_MAX);
        if end == 0 {
            stats.wan_socket_rx_packets.add(1);
            stats.drop_packets(DropReason::Truncated, 1);
            return false;
        }
        if self.offset == 0 {
            self.note(segment, end.div_ceil(segment));
        }
        into.begin(Origin { remote, local, slot: 0 }, ecn);
        let (mut packets, first) = (0, self.offset);
        while self.offset < end && !into.is_full() {
            let len = segment.min(end - self.offset);
            packets += 1;
            // One that is alone may be shorter than foreseen.
            let size = if end <= segment { self.shape.size.max(len) } else { segment };
            match self.datagram(message, len, size, pool) {
                Ok(frame) => into.push_more(frame),
                Err(reason) => stats.drop_packets(reason, 1),
            }
            self.offset += len;
        }
        stats.wan_socket_rx_packets.add(packets);
        stats.wan_socket_rx_bytes.add((self.offset - first) as u64);
        self.offset < end
    }

    /// Remembers the largest datagrams of a call, and how many of them one message had.
    fn note(&mut self, size: usize, each: usize) {
        let (largest, most) = self.largest.get_or_insert((size, each));
        if size > *largest {
            (*largest, *most) = (size, each);
        } else if size == *largest {
            *most = each.max(*most);
        }
    }

    /// The next datagram of a message of datagrams of this size.
    #[inline]
    fn datagram(&mut self, message: usize, len: usize, size: usize, pool: &mut Pool) -> Result<Frame, DropReason> {
        let Shape { size: foreseen, each, .. } = self.shape;
        let place = self.offset / size;
        if size == foreseen
            && place < each
            && let Some(mut frame) = self.frames[message * each + place].take()
        {
            frame.truncate(len);
            return Ok(frame);
        }
        self.copied(message, self.offset, len, pool)
    }

    /// A datagram that did not land as foreseen.
    fn copied(&self, message: usize, mut at: usize, len: usize, pool: &mut Pool) -> Result<Frame, DropReason> {
        let Shape { size, each, .. } = self.shape;
        let mut frame = pool.take_for(len).ok_or(DropReason::NoFrame)?;
        let Some(mut room) = frame.append(len) else {
            pool.put(frame);
            return Err(DropReason::Oversized);
        };
        while !room.is_empty() {
            let piece = match at / size.max(1) {
                place if place < each => {
                    let landed = self.frames[message * each + place].as_ref();
                    landed.map(|frame| &frame.data()[at % size..]).unwrap_or_default()
                }
                _ => &self.overflow[message * MESSAGE_MAX + at - each * size..][..room.len()],
            };
            let n = piece.len().min(room.len());
            if n == 0 {
                break;
            }
            let (filled, rest) = room.split_at_mut(n);
            filled.copy_from_slice(&piece[..n]);
            (room, at) = (rest, at + n);
        }
        Ok(frame)
    }

    /// Gives up the frames that lie ready, and what they hold.
    pub(super) fn close(&mut self, pool: &mut Pool) {
        for frame in self.frames.drain(..).flatten() {
            pool.put(frame);
        }
    }
}

fn ready(pool: &mut Pool, size: usize) -> Option<Frame> {
    let mut frame = pool.take()?;
    frame.append(size)?;
    Some(frame)
}
