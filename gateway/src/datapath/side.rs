//! What a lane asks of its two sides.
//!
//! Enters and leaves: bursts of frames. A wan side takes and gives UDP payloads and knows how they travel; a lan
//! side takes and gives inner packets. Sides never look into a tunnel, never wait, and put every frame that
//! they are done with back into the lane's pool.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use landbridge_xsk::{BURST, Burst, Frame, Pool};
use rustix::event::PollFd;

use super::lan_table::LanTable;
use super::lan_xdp::LanXdp;
use super::stats::LaneStats;
use super::tables::Path;
use super::wan_xdp::WanXdp;

/// Where a datagram came from, and to which address of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The sender; never an IPv4 address in IPv6 clothes.
    pub remote: SocketAddr,
    /// Our address, where the backend knows it.
    pub local: Option<IpAddr>,
    /// Place of the source port that it came to; 0 where that is the listen port or does not matter.
    pub slot: u16,
}

/// Consecutive datagrams that came from one place in one way.
#[derive(Debug, Clone, Copy)]
pub struct Arrivals {
    /// From where.
    pub origin: Origin,
    /// ECN of their outer packets.
    pub ecn: u8,
    /// How many.
    pub packets: usize,
}

/// Datagrams received: each frame's data is a UDP payload; beside them, in the same order, where they came from.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// The payloads.
    pub frames: Burst,
    /// Where they came from.
    pub arrivals: ArrayVec<Arrivals, BURST>,
}

impl Datagrams {
    /// Whether another one fits.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        self.frames.is_full()
    }

    /// Adds one; there must be room.
    #[inline]
    pub fn push(&mut self, frame: Frame, origin: Origin, ecn: u8) {
        match self.arrivals.last_mut() {
            Some(last) if last.origin == origin && last.ecn == ecn => last.packets += 1,
            _ => {
                self.begin(origin, ecn);
                self.push_more(frame);
                return;
            }
        }
        self.frames.push(frame);
    }

    /// Says where those come from that [`Datagrams::push_more`] adds; there must be room for one.
    pub fn begin(&mut self, origin: Origin, ecn: u8) {
        let arrivals = Arrivals { origin, ecn, packets: 0 };
        match self.arrivals.last_mut() {
            // Every other entry has a packet, so that there are never more entries than packets fit.
            Some(last) if last.packets == 0 => *last = arrivals,
            _ => self.arrivals.push(arrivals),
        }
    }

    /// Adds one that came as [`Datagrams::begin`] said; there must be room.
    #[inline]
    pub fn push_more(&mut self, frame: Frame) {
        if let Some(last) = self.arrivals.last_mut() {
            last.packets += 1;
            self.frames.push(frame);
        }
    }

    /// Forgets them, when the frames were taken.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.arrivals.clear();
    }
}

/// How datagrams are to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The way to the peer.
    pub path: &'a Arc<Path>,
    /// The UDP port they come from, and its place among the gateway's source ports: 0 is the listen port.
    pub source_port: u16,
    /// See there.
    pub slot: u8,
    /// ECN of the outer packets.
    pub ecn: u8,
}

/// What a lane polls while it has nothing to do: its sides' descriptors and its waker.
pub type PollSet<'a> = ArrayVec<PollFd<'a>, POLL_SET>;

/// The most descriptors that one lane polls: a packet memory has 120 rings at most, and beside them are socket, TUN
/// and waker.
pub const POLL_SET: usize = 128;

/// The side towards the internet.
pub trait Wan {
    /// Receives datagrams until `into` is full or none waits.
    ///
    /// # Errors
    /// When the side itself fails, not for what is wrong with one datagram.
    fn receive(&mut self, pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) -> io::Result<()>;

    /// Takes all of `frames`, which are UDP payloads for one place. They leave at the latest with the next flush.
    fn transmit(&mut self, pool: &mut Pool, frames: &mut Burst, to: Outgoing<'_>, stats: &LaneStats);

    /// Sends what waits.
    ///
    /// # Errors
    /// When the side itself fails.
    fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) -> io::Result<()>;

    /// Looks for datagrams where that costs no system call. True when there are some.
    fn glance(&mut self, _pool: &mut Pool) -> bool {
        false
    }

    /// Whether [`Wan::glance`] can see anything.
    fn has_rings(&self) -> bool {
        false
    }

    /// What to poll for datagrams.
    fn poll_set<'a>(&'a self, into: &mut PollSet<'a>);

    /// Uses another kernel socket.
    ///
    /// # Errors
    /// What the kernel said of the socket; the side goes on with the one it had.
    fn replace_socket(&mut self, socket: std::net::UdpSocket) -> io::Result<()>;

    /// Sends by this socket what leaves from the source port at a place; a side without sockets lets go of it.
    ///
    /// # Errors
    /// What the kernel said of the socket; the side goes on with what it had.
    fn set_port(&mut self, _slot: u8, _socket: std::net::UdpSocket) -> io::Result<()> {
        Ok(())
    }

    /// Closes the rings of an interface and uses others in their place; a side without rings lets go of them.
    fn replace_rings(&mut self, _pool: &mut Pool, _if_index: u32, _rings: Vec<WanXdp>) {}

    /// Ends: every frame goes home.
    fn close(&mut self, pool: &mut Pool);
}

/// The side towards the site.
pub trait Lan {
    /// Receives inner packets until `into` is full or none waits. Each has room in front and behind for what sealing adds.
    ///
    /// # Errors
    /// When the side itself fails: EBADFD says that its interface is gone.
    fn receive(&mut self, pool: &mut Pool, into: &mut Burst, stats: &LaneStats) -> io::Result<()>;

    /// Takes all of `frames`, which are inner packets. They leave at the latest with the next flush. `table` tells next hops
    /// to sides that need them.
    ///
    /// # Errors
    /// When the side itself fails, as for [`Lan::receive`].
    fn transmit(&mut self, pool: &mut Pool, frames: &mut Burst, table: &LanTable, stats: &LaneStats) -> io::Result<()>;

    /// Sends what waits.
    ///
    /// # Errors
    /// When the side itself fails.
    fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) -> io::Result<()>;

    /// Looks for packets where that costs no system call. True when there are some.
    fn glance(&mut self, _pool: &mut Pool) -> bool {
        false
    }

    /// Whether [`Lan::glance`] can see anything.
    fn has_rings(&self) -> bool {
        false
    }

    /// What to poll for packets.
    fn poll_set<'a>(&'a self, into: &mut PollSet<'a>);

    /// Closes the rings of an interface and uses others in their place; a side without rings lets go of them.
    fn replace_rings(&mut self, _pool: &mut Pool, _if_index: u32, _rings: Vec<LanXdp>) {}

    /// Ends: every frame goes home.
    fn close(&mut self, pool: &mut Pool);
}
