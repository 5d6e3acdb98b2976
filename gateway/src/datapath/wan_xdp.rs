//! An AF_XDP ring as a wan side.
//!
//! Enters: Ethernet frames that the steer program redirected; UDP payloads with the path they go. Leaves: UDP
//! payloads in place; Ethernet frames on the wire. Never does: take what does not fit the path's MTU or
//! what the ring cannot send; that is the kernel socket's ([`super::wan`]).

use std::io;
use std::net::SocketAddr;

use arrayvec::ArrayVec;
use landbridge_proto::DropReason;
use landbridge_xsk::chain::{KERNEL_HEADROOM, chain_len_max};
use landbridge_xsk::{Frame, Pool, Xsk};

use super::ring::{OnRing, Ring};
use super::side::{Datagrams, Origin, Outgoing};
use super::stats::LaneStats;
use super::wire::{self, ETHERNET_MAX, SummedBy};

/// Places that are told apart among those with unsent frames.
const UNSENT_MAX: usize = 8;

/// Bytes of the longest IP packet that a frame of this size receives: what is redirected to a ring and does not fit, the
/// kernel drops.
#[must_use]
pub const fn packet_len_max(frame_size: u32) -> usize {
    (frame_size as usize).saturating_sub(KERNEL_HEADROOM as usize + ETHERNET_MAX)
}

/// The same where a packet may take several frames.
#[must_use]
pub const fn chain_packet_len_max(frame_size: u32) -> usize {
    chain_len_max(frame_size) - ETHERNET_MAX
}

/// One ring, and what is remembered for it.
#[derive(Debug)]
pub struct WanXdp {
    ring: Ring,
    /// Whom frames go to that the kernel was not yet told of; when they are too many to remember, everybody.
    unsent: ArrayVec<SocketAddr, UNSENT_MAX>,
}

impl WanXdp {
    /// A side on a bound socket of this interface.
    #[must_use]
    pub fn new(if_index: u32, socket: Xsk) -> Self {
        Self { ring: Ring::new(if_index, socket), unsent: ArrayVec::new() }
    }

    /// See [`super::side::Wan::receive`].
    pub fn receive(&mut self, pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) {
        while !into.is_full() && self.ring.glance(pool) {
            for mut frame in self.ring.take(into.frames.remaining_capacity()) {
                match wire::parse(frame.data()) {
                    Ok(datagram) => {
                        stats.wan_xdp_rx_packets.add(1);
                        stats.wan_xdp_rx_bytes.add(datagram.ip_len as u64);
                        frame.truncate(datagram.payload.end);
                        frame.advance(datagram.payload.start);
                        let origin = Origin { remote: datagram.remote, local: Some(datagram.local), slot: 0 };
                        into.push(frame, origin, datagram.ecn);
                    }
                    Err(reason) => {
                        stats.drop_packets(reason, 1);
                        pool.put(frame);
                    }
                }
            }
        }
        self.ring.count_dropped(stats);
    }

    /// Whether frames for this place may wait for the next flush.
    #[inline]
    pub(super) fn holds(&self, remote: SocketAddr) -> bool {
        self.unsent.is_full() || self.unsent.contains(&remote)
    }

    /// Stages one datagram; gives it back when it has to take the kernel's socket.
    pub fn push(&mut self, pool: &mut Pool, mut frame: Frame, to: Outgoing<'_>, stats: &LaneStats) -> Option<Frame> {
        if frame.is_jumbo() && frame.len() > self.ring.long_max() {
            return Some(frame);
        }
        let Some(headers) = to.path.headers() else { return Some(frame) };
        if frame.len() > headers.payload_max() {
            return Some(frame);
        }
        let payload_len = frame.len();
        let ethernet_len = headers.ethernet_len();
        let by = if self.ring.takes_checksum_requests() { SummedBy::Device } else { SummedBy::Us };
        if let Err(reason) = headers.write_summed_by(by, &mut frame, to.source_port, to.ecn) {
            stats.drop_packets(reason, 1);
            pool.put(frame);
            return None;
        }
        debug_assert!(frame.len() > payload_len + ethernet_len);
        let ip_len = frame.len() - ethernet_len;
        if self.ring.is_full() {
            self.move_staged(pool, stats);
        }
        self.ring.stage(frame, ip_len as u32);
        let remote = to.path.remote;
        if self.unsent.last() != Some(&remote) && !self.holds(remote) {
            self.unsent.push(remote);
        }
        None
    }

    /// Moves staged frames into the ring. A ring that stays full after the kernel was told drops the rest.
    fn move_staged(&mut self, pool: &mut Pool, stats: &LaneStats) {
        let moved = self.ring.move_staged(pool);
        stats.wan_xdp_tx_packets.add(moved.packets);
        stats.wan_xdp_tx_bytes.add(moved.bytes);
        stats.drop_packets(DropReason::WanFull, moved.refused);
    }

    /// Sends what is staged.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) -> io::Result<()> {
        self.move_staged(pool, stats);
        let result = self.ring.flush(pool);
        // What the kernel left in the ring is to leave before what goes to the same place by the socket, and so the places
        // are remembered.
        if !self.ring.is_left_over() {
            self.unsent.clear();
        }
        result
    }
}

impl OnRing for WanXdp {
    fn ring(&self) -> &Ring {
        &self.ring
    }

    fn ring_mut(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn into_ring(self) -> Ring {
        self.ring
    }
}
