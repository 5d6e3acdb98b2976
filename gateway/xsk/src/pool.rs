//! The free frames of a memory.
//!
//! Enters: frames that are done with, and the slots of those dropped elsewhere. Leaves: empty frames, the one used last
//! first, as its bytes are likeliest to be in the cache. Never does: allocate, or touch packet memory.

use crate::control::{Control, Handle, JUMBO_SLOT};
use crate::frame::Frame;

/// The free frames of a memory; one per memory, owned by its lane.
#[derive(Debug)]
pub struct Pool {
    control: Handle,
    /// Free slots of the UMEM, and free jumbo slots. Both lists were made with room for all slots.
    small: Vec<u32>,
    jumbo: Vec<u32>,
}

impl Pool {
    /// The pool of a memory of which nothing was handed out yet.
    pub(crate) fn new(control: Handle) -> Self {
        // Reversed, so that slot 0 is taken first and a quiet lane touches few pages.
        let small = (0..control.small()).rev().collect();
        let jumbo = (control.small()..control.slots()).rev().collect();
        Self { control, small, jumbo }
    }

    /// Takes a small frame, empty, with [`Frame::HEADROOM`] in front.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        if self.small.is_empty() {
            self.gather();
        }
        self.small.pop().map(|index| self.control.issue(index))
    }

    /// Takes a frame that holds 64 KiB behind its headroom.
    pub fn take_jumbo(&mut self) -> Option<Frame> {
        if self.jumbo.is_empty() {
            self.gather();
        }
        self.jumbo.pop().map(|index| self.control.issue(index))
    }

    /// Takes the smallest kind of frame that holds `len` bytes and [`Frame::TAILROOM`] more behind the headroom. `None`
    /// when that kind has run out, or no kind is large enough.
    #[inline]
    pub fn take_for(&mut self, len: usize) -> Option<Frame> {
        if len.saturating_add(Frame::TAILROOM) <= self.frame_capacity() {
            self.take()
        } else if len <= JUMBO_SLOT as usize - Frame::HEADROOM - Frame::TAILROOM {
            self.take_jumbo()
        } else {
            None
        }
    }

    /// Puts a frame back: the quick way home. A frame of another memory goes home to its own.
    #[inline]
    pub fn put(&mut self, frame: Frame) {
        if self.control.is(frame.control()) {
            let index = frame.retire();
            self.keep(index);
        }
    }

    /// Frames at home (small, jumbo), those included that were dropped elsewhere.
    #[must_use]
    pub fn free(&mut self) -> (usize, usize) {
        self.gather();
        (self.small.len(), self.jumbo.len())
    }

    /// Frames of this memory, wherever they are (small, jumbo).
    #[must_use]
    pub fn total(&self) -> (usize, usize) {
        (self.control.small() as usize, (self.control.slots() - self.control.small()) as usize)
    }

    /// Bytes that a small frame holds behind its headroom.
    #[must_use]
    pub fn frame_capacity(&self) -> usize {
        self.control.frame_size() as usize - Frame::HEADROOM
    }

    /// Small frames at hand at once, without looking for those dropped elsewhere.
    #[inline]
    pub(crate) fn at_hand(&self) -> usize {
        self.small.len()
    }

    /// Brings in what was dropped elsewhere.
    pub(crate) fn gather(&mut self) {
        let Self { control, small, jumbo } = self;
        let first_jumbo = control.small();
        control.take_returned(|index| if index < first_jumbo { small.push(index) } else { jumbo.push(index) });
    }

    /// Whether this is the pool of that memory.
    #[inline]
    pub(crate) fn is_of(&self, control: &Handle) -> bool {
        self.control.is(control.as_ptr())
    }

    #[inline]
    fn keep(&mut self, index: u32) {
        if index < self.control.small() {
            self.small.push(index);
        } else {
            self.jumbo.push(index);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The last handle counts the frames at home in the stack of returned ones.
        for index in self.small.drain(..).chain(self.jumbo.drain(..)) {
            // SAFETY: free slots of this block, which were retired when they came here; the handle is held meanwhile.
            unsafe { Control::push_returned(self.control.as_ptr(), index) };
        }
    }
}
