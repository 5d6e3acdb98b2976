//! An AF_XDP ring as a part of the lan side ([`super::lan`]).
//!
//! Enters: Ethernet frames that the steer program took because their destination lies behind a peer; inner packets with
//! the next hop they go to. Leaves: inner packets in place, one hop older; Ethernet frames on the wire. Never does:
//! route, answer, or take what the kernel has to see: the program leaves it to the kernel, and so does the lan side.

use std::io;

use landbridge_proto::DropReason;
use landbridge_xsk::{Burst, Frame, Pool, Xsk};

use super::inner;
use super::lan_table::NextHop;
use super::ring::{OnRing, Ring};
use super::stats::LaneStats;
use super::wire;

/// Bytes that sealing puts behind a packet at most: padding to 16, and a tag of 16.
const SEALED_BEHIND: usize = 15 + 16;

/// One ring.
#[derive(Debug)]
pub struct LanXdp {
    ring: Ring,
}

impl LanXdp {
    /// A side on a bound socket of this interface.
    #[must_use]
    pub fn new(if_index: u32, socket: Xsk) -> Self {
        Self { ring: Ring::new(if_index, socket) }
    }

    /// See [`super::side::Lan::receive`].
    pub fn receive(&mut self, pool: &mut Pool, into: &mut Burst, stats: &LaneStats) {
        let (mut packets, mut bytes) = (0, 0);
        while !into.is_full() && self.ring.glance(pool) {
            for mut frame in self.ring.take(into.remaining_capacity()) {
                match unwrap(&mut frame).and_then(|()| make_room(&mut frame, pool)) {
                    Ok(()) => {
                        packets += 1;
                        bytes += frame.len() as u64;
                        into.push(frame);
                    }
                    Err(reason) => {
                        stats.drop_packets(reason, 1);
                        pool.put(frame);
                    }
                }
            }
        }
        self.ring.count_dropped(stats);
        stats.lan_rx_packets.add(packets);
        stats.lan_rx_bytes.add(bytes);
        stats.lan_xdp_rx_packets.add(packets);
        stats.lan_xdp_rx_bytes.add(bytes);
    }

    /// Bytes of the longest packet in a jumbo frame that can be staged; zero where none can.
    #[inline]
    pub(super) fn long_max(&self) -> usize {
        self.ring.long_max()
    }

    /// Stages one packet for a next hop on this ring's interface; the hop's MTU was looked at.
    pub fn push(&mut self, pool: &mut Pool, mut frame: Frame, hop: &NextHop, stats: &LaneStats) {
        let ip_len = frame.len() as u32;
        if let Err(reason) = wrap(&mut frame, hop) {
            stats.drop_packets(reason, 1);
            pool.put(frame);
            return;
        }
        if self.ring.is_full() {
            self.move_staged(pool, stats);
        }
        self.ring.stage(frame, ip_len);
    }

    fn move_staged(&mut self, pool: &mut Pool, stats: &LaneStats) {
        let moved = self.ring.move_staged(pool);
        stats.lan_tx_packets.add(moved.packets);
        stats.lan_tx_bytes.add(moved.bytes);
        stats.lan_xdp_tx_packets.add(moved.packets);
        stats.lan_xdp_tx_bytes.add(moved.bytes);
        stats.drop_packets(DropReason::LanFull, moved.refused);
    }

    /// Sends what is staged.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) -> io::Result<()> {
        self.move_staged(pool, stats);
        self.ring.flush(pool)
    }
}

impl OnRing for LanXdp {
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

/// Makes the IP packet in an Ethernet frame the frame's data, cut to its own length (short ones come padded), and takes
/// the hop that passing this gateway is.
#[inline]
fn unwrap(frame: &mut Frame) -> Result<(), DropReason> {
    let at = wire::ip_at(frame.data())?;
    frame.advance(at);
    let len = inner::parse(frame.data())?.len;
    frame.truncate(len);
    if inner::forwarded(frame.data()).hop_limit <= 1 {
        // The program leaves these to the kernel, which answers; one that comes all the same goes no further.
        return Err(DropReason::HopLimit);
    }
    inner::take_hop(frame.data_mut());
    Ok(())
}

/// Puts the next hop's Ethernet header before an IP packet, and takes the hop.
#[inline]
fn wrap(frame: &mut Frame, hop: &NextHop) -> Result<(), DropReason> {
    inner::take_hop(frame.data_mut());
    let ether_type = match frame.data()[0] >> 4 {
        4 => wire::ETHERTYPE_IPV4,
        _ => wire::ETHERTYPE_IPV6,
    };
    let header = frame.prepend(hop.ethernet.len() + 2).ok_or(DropReason::Oversized)?;
    let (front, last) = header.split_at_mut(hop.ethernet.len());
    front.copy_from_slice(&hop.ethernet);
    last.copy_from_slice(&ether_type.to_be_bytes());
    Ok(())
}

/// Sees to it that there is room for sealing behind a packet: one that fills its frame to the end moves to a larger one.
#[inline]
fn make_room(frame: &mut Frame, pool: &mut Pool) -> Result<(), DropReason> {
    if frame.tailroom() >= SEALED_BEHIND {
        return Ok(());
    }
    let mut larger = pool.take_jumbo().ok_or(DropReason::NoFrame)?;
    if let Some(room) = larger.append(frame.len()) {
        room.copy_from_slice(frame.data());
    }
    pool.put(std::mem::replace(frame, larger));
    Ok(())
}
