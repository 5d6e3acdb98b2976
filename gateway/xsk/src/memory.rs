//! Packet memory: one mapping cut into frames, and the tokens that own them.
//!
//! A [`Frame`] is the right to one slot. It cannot be copied, cannot outlive the mapping (memory with
//! frames abroad is leaked, never unmapped), and finds its way home when it is dropped, from any thread.

use std::io;

/// How a [`Memory`] is cut.
#[derive(Debug, Clone, Copy)]
pub struct MemoryConfig {
    /// Frames of `frame_size` bytes: the UMEM.
    pub frames: u32,
    /// 2048 or 4096.
    pub frame_size: u32,
    /// Frames of 64 KiB and some headroom for packets that no small frame can hold (not part of the UMEM).
    pub jumbo_frames: u32,
    /// Try 2 MiB pages first.
    pub huge_pages: bool,
}

/// One mapping, shared by the sockets that are bound to it and by all frames cut from it.
#[derive(Debug, Clone)]
pub struct Memory {
    _private: (),
}

impl Memory {
    /// Maps memory and hands out the pool that holds all its frames.
    ///
    /// # Errors
    /// What mmap said, or InvalidInput for sizes that AF_XDP does not take.
    pub fn new(_config: MemoryConfig) -> io::Result<(Self, Pool)> {
        panic!("stub")
    }
}

/// The free frames of a memory; one per memory, owned by its lane.
#[derive(Debug)]
pub struct Pool {
    _private: (),
}

impl Pool {
    /// Takes a small frame, empty, with [`Frame::HEADROOM`] in front.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        panic!("stub")
    }

    /// Takes a frame that holds 64 KiB behind its headroom.
    pub fn take_jumbo(&mut self) -> Option<Frame> {
        panic!("stub")
    }

    /// Takes the smallest kind of frame that holds `len` bytes and `tailroom` more behind the headroom.
    #[inline]
    pub fn take_for(&mut self, _len: usize) -> Option<Frame> {
        panic!("stub")
    }

    /// Puts a frame back: the quick way home. A frame of another memory goes home to its own.
    #[inline]
    pub fn put(&mut self, _frame: Frame) {
        panic!("stub")
    }

    /// Frames at home (small, jumbo), those included that were dropped elsewhere.
    #[must_use]
    pub fn free(&mut self) -> (usize, usize) {
        panic!("stub")
    }

    /// Bytes that a small frame holds behind its headroom.
    #[must_use]
    pub fn frame_capacity(&self) -> usize {
        panic!("stub")
    }
}

/// The right to one slot of packet memory, and the packet in it: headroom, data, tailroom.
#[derive(Debug)]
pub struct Frame {
    _private: (),
}

impl Frame {
    /// Bytes before the data of a frame that was taken fresh: room for Ethernet with two VLAN tags, IPv6, UDP and the
    /// header of transport data (14+8+40+8+16), rounded up.
    pub const HEADROOM: usize = 128;

    /// Bytes of data.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        panic!("stub")
    }

    /// Whether there is no data.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        panic!("stub")
    }

    /// The data, to change.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        panic!("stub")
    }

    /// Bytes free in front of the data.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        panic!("stub")
    }

    /// Bytes free behind the data.
    #[inline]
    #[must_use]
    pub fn tailroom(&self) -> usize {
        panic!("stub")
    }

    /// Grows the data by `n` bytes in front and returns them (content unspecified). `None` when the headroom is smaller.
    #[inline]
    pub fn prepend(&mut self, _n: usize) -> Option<&mut [u8]> {
        panic!("stub")
    }

    /// Grows the data by `n` bytes behind and returns them (content unspecified). `None` when the tailroom is smaller.
    #[inline]
    pub fn append(&mut self, _n: usize) -> Option<&mut [u8]> {
        panic!("stub")
    }

    /// Takes `n` bytes (at most all) off the front.
    #[inline]
    pub fn advance(&mut self, _n: usize) {
        panic!("stub")
    }

    /// Cuts the data to `len` bytes when it is longer.
    #[inline]
    pub fn truncate(&mut self, _len: usize) {
        panic!("stub")
    }

    /// Empties the frame, with `headroom` bytes (at most what the slot holds) in front.
    #[inline]
    pub fn reset(&mut self, _headroom: usize) {
        panic!("stub")
    }
}
