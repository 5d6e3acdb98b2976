//! AF_XDP sockets: four rings and a bind.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::{Burst, Memory, Pool};

/// What to bind and how large the rings are.
#[derive(Debug, Clone)]
pub struct XskConfig {
    /// The interface.
    pub if_index: u32,
    /// The queue of that interface.
    pub queue: u32,
    /// Entries of the receive ring (power of two).
    pub rx_ring: u32,
    /// Entries of the transmit ring (power of two).
    pub tx_ring: u32,
    /// Entries of the fill and of the completion ring (power of two).
    pub fill_ring: u32,
    /// Force copy mode (else zero-copy is tried first).
    pub copy: bool,
    /// Ask for busy polling with this budget (SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET); `None` for off.
    pub busy_poll: Option<u32>,
}

/// What the kernel granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Zero-copy, else copy mode.
    pub zero_copy: bool,
    /// The kernel tells when it must be woken.
    pub need_wakeup: bool,
    /// Busy polling is on.
    pub busy_poll: bool,
}

/// Counters of the kernel (XDP_STATISTICS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own names: struct xdp_statistics in if_xdp.h")]
pub struct XskStatistics {
    pub rx_dropped: u64,
    pub rx_invalid_descs: u64,
    pub tx_invalid_descs: u64,
    pub rx_ring_full: u64,
    pub rx_fill_ring_empty_descs: u64,
    pub tx_ring_empty_descs: u64,
}

/// One AF_XDP socket, bound to one queue of one interface.
#[derive(Debug)]
pub struct Xsk {
    _private: (),
}

impl Xsk {
    /// Opens and binds. Several sockets may be opened on one memory; sockets that share (interface, queue) or not are
    /// handled alike (XDP_SHARED_UMEM with rings of their own).
    ///
    /// # Errors
    /// What the kernel said, with the step that failed.
    pub fn open(_config: &XskConfig, _memory: &Memory) -> io::Result<Self> {
        panic!("stub")
    }

    /// What the kernel granted.
    #[must_use]
    pub fn bound(&self) -> Bound {
        panic!("stub")
    }

    /// Moves received frames (their data is the packet from its Ethernet header on) into `burst` until it is full or none
    /// is left; refills the fill ring from `pool`. Returns how many came.
    pub fn receive(&mut self, _pool: &mut Pool, _burst: &mut Burst) -> usize {
        panic!("stub")
    }

    /// Moves frames from the front of `burst` into the transmit ring until it is empty or the ring is full, and reclaims
    /// what was sent into `pool`. The rest stays in `burst`. Does not wake the kernel: see [`Xsk::flush`].
    pub fn transmit(&mut self, _pool: &mut Pool, _burst: &mut Burst) -> usize {
        panic!("stub")
    }

    /// Makes the kernel send what is in the transmit ring, where it has to be told (in copy mode: as often as it takes).
    ///
    /// # Errors
    /// What sendto said, EAGAIN, EBUSY and ENOBUFS excepted: those leave frames in the ring for the next call.
    pub fn flush(&mut self, _pool: &mut Pool) -> io::Result<()> {
        panic!("stub")
    }

    /// Frames that the rings hold (fill, receive, transmit, completion).
    #[must_use]
    pub fn in_flight(&self) -> usize {
        panic!("stub")
    }

    /// The kernel's counters.
    ///
    /// # Errors
    /// What getsockopt said.
    pub fn statistics(&self) -> io::Result<XskStatistics> {
        panic!("stub")
    }

    /// Closes the socket and brings every frame it held home.
    pub fn close(self, _pool: &mut Pool) {}
}

impl AsFd for Xsk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        panic!("stub")
    }
}
