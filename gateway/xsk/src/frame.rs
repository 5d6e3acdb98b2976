//! The token that owns one slot of packet memory.
//!
//! Enters: a slot from the pool or from a ring. Leaves: headroom, data, tailroom of one packet. Never does: reach
//! beyond its slot, whatever is asked of it.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::control::{Control, KernelTag};
use crate::tx_metadata;

/// What slots are measured in.
const LINE: u32 = 64;

/// The right to one slot of packet memory, and the packet in it: headroom, data, tailroom.
///
/// Invariant: `start + len <= capacity()`, and `capacity()` bytes from `slot` on belong to this frame alone.
pub struct Frame {
    control: NonNull<Control>,
    slot: NonNull<u8>,
    index: u32,
    /// In lines of 64 bytes, so that a burst of frames stays as small as it is.
    capacity_lines: u16,
    /// The device is asked for a checksum; true until the data's front moves.
    asks_checksum: bool,
    start: u32,
    len: u32,
}

// SAFETY: a frame is the only way to its slot, and the control block it points to is Sync and outlives it.
unsafe impl Send for Frame {}
// SAFETY: a shared frame only reads its slot.
unsafe impl Sync for Frame {}

impl Frame {
    /// Bytes before the data of a frame that was taken fresh: room for Ethernet with two VLAN tags, IPv6, UDP and the
    /// header of transport data (14+8+40+8+16), rounded up.
    pub const HEADROOM: usize = 128;

    /// Bytes behind the data that [`Pool::take_for`](crate::Pool::take_for) reserves: room for padding to 16 and a tag
    /// of 16, rounded up.
    pub const TAILROOM: usize = 64;

    /// The token of a slot, empty, with the usual headroom. The caller just became its only owner.
    #[inline]
    pub(crate) fn new(control: NonNull<Control>, slot: NonNull<u8>, index: u32, capacity: u32) -> Self {
        debug_assert_eq!(capacity % LINE, 0, "slots are cut in lines");
        let start = (Self::HEADROOM as u32).min(capacity);
        // The largest slot has 1,088 lines.
        let capacity_lines = (capacity / LINE) as u16;
        Self { control, slot, index, capacity_lines, asks_checksum: false, start, len: 0 }
    }

    /// Bytes of the slot.
    #[inline]
    fn capacity(&self) -> u32 {
        u32::from(self.capacity_lines) * LINE
    }

    /// Bytes of data.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no data.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The data.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        // SAFETY: start + len <= capacity, the slot is this frame's alone and was initialised (mappings are zeroed).
        unsafe { std::slice::from_raw_parts(self.slot.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The data, to change.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.slot.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// Bytes free in front of the data.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Bytes free behind the data.
    #[inline]
    #[must_use]
    pub fn tailroom(&self) -> usize {
        (self.capacity() - self.start - self.len) as usize
    }

    /// Whether this is a frame of 64 KiB, which no ring can take.
    #[inline]
    #[must_use]
    pub fn is_jumbo(&self) -> bool {
        self.capacity() == crate::control::JUMBO_SLOT
    }

    /// Grows the data by `n` bytes in front and returns them (content unspecified). `None` when the headroom is
    /// smaller.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.headroom() {
            return None;
        }
        self.start -= n as u32;
        self.len += n as u32;
        self.asks_checksum = false;
        Some(&mut self.data_mut()[..n])
    }

    /// Grows the data by `n` bytes behind and returns them (content unspecified). `None` when the tailroom is smaller.
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let before = self.len();
        self.len += n as u32;
        Some(&mut self.data_mut()[before..])
    }

    /// Takes `n` bytes (at most all) off the front.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len()) as u32;
        self.start += n;
        self.len -= n;
        self.asks_checksum = false;
    }

    /// Cuts the data to `len` bytes when it is longer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = len.min(self.len()) as u32;
    }

    /// Empties the frame, with `headroom` bytes (at most what the slot holds) in front.
    #[inline]
    pub fn reset(&mut self, headroom: usize) {
        self.start = headroom.min(self.capacity() as usize) as u32;
        self.len = 0;
        self.asks_checksum = false;
    }

    /// Makes `len` bytes from byte `start` of the slot the data. `false`, and nothing changed, when they do not fit.
    #[inline]
    pub(crate) fn set_data(&mut self, start: u32, len: u32) -> bool {
        if start > self.capacity() || len > self.capacity() - start {
            return false;
        }
        self.start = start;
        self.len = len;
        self.asks_checksum = false;
        true
    }

    /// Asks the device that sends this frame to add up its data from byte `from` on, and to put the checksum `at` bytes
    /// behind that place. What stands there before is part of the sum: for UDP, that of the pseudo header. `false`, and
    /// nothing changed, where the headroom is smaller than [`tx_metadata::LEN`] or the checksum would not lie in the data.
    ///
    /// It holds as long as the data begins where it does, and is heard by sockets with
    /// [`Bound::checksum_offload`](crate::Bound::checksum_offload) alone: others do not send such a frame.
    #[inline]
    pub fn ask_checksum(&mut self, from: u16, at: u16) -> bool {
        if usize::from(from) + usize::from(at) + 2 > self.len() {
            return false;
        }
        let Some(room) = self.prepend(tx_metadata::LEN) else { return false };
        tx_metadata::write_checksum_request(room, from, at);
        self.advance(tx_metadata::LEN);
        self.asks_checksum = true;
        true
    }

    /// Says in front of the data that nothing is asked of the device, where there is room for a request.
    #[inline]
    pub(crate) fn ask_nothing(&mut self) {
        if let Some(room) = self.prepend(tx_metadata::LEN) {
            tx_metadata::write_nothing(room);
            self.advance(tx_metadata::LEN);
        }
    }

    /// Whether the device is asked for a checksum.
    #[inline]
    pub(crate) fn asks_checksum(&self) -> bool {
        self.asks_checksum
    }

    /// The block that this frame goes home to.
    #[inline]
    pub(crate) fn control(&self) -> NonNull<Control> {
        self.control
    }

    /// Gives the slot to the kernel. Returns its number, and where in it the data starts.
    #[inline]
    pub(crate) fn lend(self, tag: KernelTag) -> (u32, u32) {
        let frame = ManuallyDrop::new(self);
        // SAFETY: the block outlives the frame.
        unsafe { frame.control.as_ref() }.lend(frame.index, tag);
        (frame.index, frame.start)
    }

    /// Gives the token up for the number of its slot, which the caller puts into a free list.
    #[inline]
    pub(crate) fn retire(self) -> u32 {
        let frame = ManuallyDrop::new(self);
        // SAFETY: the block outlives the frame.
        unsafe { frame.control.as_ref() }.retire(frame.index);
        frame.index
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the block outlives the frame.
        unsafe { self.control.as_ref() }.retire(self.index);
        // SAFETY: the slot is of that block and was just retired; the push is the last use of the block.
        unsafe { Control::push_returned(self.control, self.index) };
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the content: it may be plain text.
        f.debug_struct("Frame")
            .field("slot", &self.index)
            .field("headroom", &self.headroom())
            .field("len", &self.len)
            .field("tailroom", &self.tailroom())
            .finish()
    }
}
