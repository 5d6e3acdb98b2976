//! A queue of the TUN device as a lan side, alone or beside rings ([`super::lan`]), with segmentation offload in both directions.
//!
//! Enters: super-packets, split into segments ([`super::segment`]); inner packets, joined into super-packets
//! ([`super::join`]). Leaves: the same. Never does: block, or keep a packet beyond the flush but for
//! segments that the caller's burst had no room for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use landbridge_proto::DropReason;
use landbridge_xsk::tun::VNET_HDR_LEN;
use landbridge_xsk::{Burst, Frame, Pool, TunQueue};
use rustix::event::{PollFd, PollFlags};

use super::hold::Holder;
use super::join::{Offloads, WriteOutcome};
use super::lan_table::LanTable;
use super::segment;
use super::side::{Lan, PollSet};
use super::stats::LaneStats;

/// Bytes of the largest read.
const READ_MAX: usize = VNET_HDR_LEN + (1 << 16);
/// Segments of one super-packet that are usual at most; more are possible.
const BACKLOG: usize = 1024;

/// One queue, its read buffer and what its last read left over.
#[derive(Debug)]
pub struct LanTun {
    queue: TunQueue,
    offloads: Offloads,
    holder: Holder,
    buffer: Box<[u8]>,
    backlog: VecDeque<Frame>,
}

impl LanTun {
    /// A side on one queue.
    #[must_use]
    pub fn new(queue: TunQueue, offloads: Offloads) -> Self {
        let buffer = vec![0; READ_MAX].into();
        let backlog = VecDeque::with_capacity(BACKLOG);
        Self { queue, offloads, holder: Holder::new(), buffer, backlog }
    }

    /// Writes what is held; all of it, or all but what further packets may continue.
    fn write(&mut self, all: bool, pool: &mut Pool, stats: &LaneStats) -> io::Result<()> {
        let Self { queue, holder, offloads, .. } = self;
        let mut failure = None;
        let joined = holder.write(all, *offloads, pool, &mut |slices, _| match queue.write(slices) {
            Ok(true) => WriteOutcome::Written,
            Ok(false) => WriteOutcome::Full,
            Err(error) => {
                failure = Some(error);
                WriteOutcome::Failed
            }
        });
        stats.lan_tx_packets.add(joined.packets as u64);
        stats.lan_tx_bytes.add(joined.bytes as u64);
        stats.lan_tx_super_packets.add(joined.super_packets as u64);
        stats.drop_packets(DropReason::LanFull, joined.full as u64);
        stats.drop_packets(DropReason::LanError, joined.failed as u64);
        failure.map_or(Ok(()), Err)
    }
}

impl Lan for LanTun {
    fn receive(&mut self, pool: &mut Pool, into: &mut Burst, stats: &LaneStats) -> io::Result<()> {
        let Self { queue, buffer, backlog, .. } = self;
        let room = into.remaining_capacity().min(backlog.len());
        into.extend(backlog.drain(..room));
        while !into.is_full() {
            let Some(len) = queue.read(buffer)? else { break };
            let (mut packets, mut bytes) = (0, 0);
            let split = segment::split(&buffer[..len], pool, &mut |frame: Frame| {
                packets += 1;
                bytes += frame.len() as u64;
                if let Err(full) = into.try_push(frame) {
                    backlog.push_back(full.element());
                }
            });
            stats.lan_rx_super_packets.add(1);
            stats.lan_rx_packets.add(packets);
            stats.lan_rx_bytes.add(bytes);
            match split {
                Ok(segments) => stats.drop_packets(DropReason::NoFrame, segments.without_frame as u64),
                Err(reason) => stats.drop_packets(reason, 1),
            }
        }
        Ok(())
    }

    fn transmit(
        &mut self,
        pool: &mut Pool,
        frames: &mut Burst,
        _table: &LanTable,
        stats: &LaneStats,
    ) -> io::Result<()> {
        let mut result = Ok(());
        self.holder.take(frames);
        while !frames.is_empty() {
            result = result.and(self.write(false, pool, stats));
            self.holder.take(frames);
        }
        result
    }

    fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) -> io::Result<()> {
        self.write(true, pool, stats)
    }

    fn poll_set<'a>(&'a self, into: &mut PollSet<'a>) {
        into.push(PollFd::from_borrowed_fd(self.queue.as_fd(), PollFlags::IN));
    }

    fn close(&mut self, pool: &mut Pool) {
        for frame in self.backlog.drain(..) {
            pool.put(frame);
        }
        self.holder.close(pool);
    }
}
