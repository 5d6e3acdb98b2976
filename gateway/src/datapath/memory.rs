//! Both sides in memory, for tests and benches: queues of frames that the caller fills and empties.
//!
//! Enters: what the caller pushes as arrived. Leaves: what the lane sent. Never does: copy a packet.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use landbridge_proto::DropReason;
use landbridge_xsk::{Burst, Frame, Pool};

use super::lan_table::LanTable;
use super::side::{Datagrams, Lan, Origin, Outgoing, PollSet, Wan};
use super::stats::LaneStats;

/// A datagram that a lane sent.
#[derive(Debug)]
pub struct Sent {
    /// Its payload.
    pub frame: Frame,
    /// Where to.
    pub remote: SocketAddr,
    /// From which address of ours.
    pub local: Option<IpAddr>,
    /// The source port.
    pub source_port: u16,
    /// ECN of the outer packet.
    pub ecn: u8,
}

/// A wan side in memory.
#[derive(Debug, Default)]
pub struct MemoryWan {
    /// What the lane will receive.
    pub arrived: VecDeque<(Frame, Origin)>,
    /// What the lane has sent.
    pub sent: VecDeque<Sent>,
}

/// A lan side in memory.
#[derive(Debug, Default)]
pub struct MemoryLan {
    /// What the lane will receive.
    pub arrived: VecDeque<Frame>,
    /// What the lane has sent.
    pub sent: VecDeque<Frame>,
    /// Packets that `sent` holds at most; `None` for no limit.
    pub limit: Option<usize>,
}

impl Wan for MemoryWan {
    fn receive(&mut self, _pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) -> io::Result<()> {
        let room = into.frames.remaining_capacity().min(self.arrived.len());
        for (frame, origin) in self.arrived.drain(..room) {
            stats.wan_socket_rx_packets.add(1);
            stats.wan_socket_rx_bytes.add(frame.len() as u64);
            into.push(frame, origin, 0);
        }
        Ok(())
    }

    fn transmit(&mut self, _pool: &mut Pool, frames: &mut Burst, to: Outgoing<'_>, stats: &LaneStats) {
        let Outgoing { path, ecn, source_port, .. } = to;
        for frame in frames.drain(..) {
            stats.wan_socket_tx_packets.add(1);
            stats.wan_socket_tx_bytes.add(frame.len() as u64);
            self.sent.push_back(Sent { frame, remote: path.remote, local: path.local, source_port, ecn });
        }
    }

    fn flush(&mut self, _pool: &mut Pool, _stats: &LaneStats) -> io::Result<()> {
        Ok(())
    }

    fn poll_set<'a>(&'a self, _into: &mut PollSet<'a>) {}

    fn replace_socket(&mut self, _socket: UdpSocket) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, pool: &mut Pool) {
        let arrived = self.arrived.drain(..).map(|(frame, _)| frame);
        for frame in arrived.chain(self.sent.drain(..).map(|sent| sent.frame)) {
            pool.put(frame);
        }
    }
}

impl Lan for MemoryLan {
    fn receive(&mut self, _pool: &mut Pool, into: &mut Burst, stats: &LaneStats) -> io::Result<()> {
        let room = into.remaining_capacity().min(self.arrived.len());
        for frame in self.arrived.drain(..room) {
            stats.lan_rx_packets.add(1);
            stats.lan_rx_bytes.add(frame.len() as u64);
            into.push(frame);
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
        for frame in frames.drain(..) {
            if self.limit.is_some_and(|limit| self.sent.len() >= limit) {
                stats.drop_packets(DropReason::LanFull, 1);
                pool.put(frame);
                continue;
            }
            stats.lan_tx_packets.add(1);
            stats.lan_tx_bytes.add(frame.len() as u64);
            self.sent.push_back(frame);
        }
        Ok(())
    }

    fn flush(&mut self, _pool: &mut Pool, _stats: &LaneStats) -> io::Result<()> {
        Ok(())
    }

    fn poll_set<'a>(&'a self, _into: &mut PollSet<'a>) {}

    fn close(&mut self, pool: &mut Pool) {
        for frame in self.arrived.drain(..).chain(self.sent.drain(..)) {
            pool.put(frame);
        }
    }
}
