//! The control block of a memory: where its slots lie, who owns each, and the stack by which frames come home from
//! other threads.
//!
//! Frames point to it without counting. It is freed with the last handle if every frame is home by then, and leaked
//! with its mappings otherwise, so that a frame never points to nothing.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering, fence};

use crate::frame::Frame;
use crate::mapping::Mapping;
use crate::memory::MemoryConfig;

/// Bytes of a jumbo slot: headroom, 64 KiB, tailroom, rounded up to whole pages.
pub(crate) const JUMBO_SLOT: u32 = 17 * 4096;

/// End of a list of slots.
const NONE: u32 = u32::MAX;

/// The owner of a slot: the free list.
const HOME: u8 = 0;
/// The owner of a slot: a [`Frame`].
const OWNED: u8 = 1;

/// The owner of a slot: a socket's fill and receive rings, or its transmit and completion rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelTag(u8);

impl KernelTag {
    /// Sockets that one memory can tell apart.
    pub(crate) const SOCKETS: u8 = 120;

    pub(crate) fn receive(socket: u8) -> Self {
        Self(2 + socket * 2)
    }

    pub(crate) fn transmit(socket: u8) -> Self {
        Self(3 + socket * 2)
    }
}

/// A socket that is bound to this memory.
#[derive(Debug)]
pub(crate) struct LiveSocket {
    pub(crate) number: u8,
    pub(crate) fd: RawFd,
    pub(crate) zero_copy: bool,
    pub(crate) multi_buffer: bool,
    /// Its registration has room for what is asked of the device.
    pub(crate) tx_metadata: bool,
    pub(crate) if_index: u32,
    pub(crate) queue: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    handles: AtomicUsize,
    /// Head of the list of slots dropped elsewhere. Many push; the pool takes all at once, so there is no ABA.
    returned: AtomicU32,
    /// The list's links, by slot.
    next: Box<[AtomicU32]>,
    /// The owner of each slot. The kernel's tags are exact in every build, home and owned in debug builds only.
    owner: Box<[AtomicU8]>,
    small: u32,
    frame_size: u32,
    umem: Mapping,
    jumbo: Mapping,
    /// Sockets bound to this memory.
    pub(crate) sockets: Mutex<Vec<LiveSocket>>,
    /// How many there are, for those who cannot wait for the lock.
    sharing: AtomicUsize,
    /// The kernel knows nothing of transmit metadata.
    pub(crate) without_tx_metadata: AtomicBool,
}

// SAFETY: the mappings are plain memory whose slots are reached through the one Frame that owns each; everything else
// is atomic, constant or behind a mutex.
unsafe impl Send for Control {}
// SAFETY: as above.
unsafe impl Sync for Control {}

impl Control {
    fn new(config: &MemoryConfig) -> io::Result<Self> {
        let slots = (config.frames + config.jumbo_frames) as usize;
        let umem = Mapping::new(config.frames as usize * config.frame_size as usize, config.huge_pages)?;
        let jumbo = Mapping::new(config.jumbo_frames as usize * JUMBO_SLOT as usize, false)?;
        Ok(Self {
            handles: AtomicUsize::new(1),
            returned: AtomicU32::new(NONE),
            next: (0..slots).map(|_| AtomicU32::new(NONE)).collect(),
            owner: (0..slots).map(|_| AtomicU8::new(HOME)).collect(),
            small: config.frames,
            frame_size: config.frame_size,
            umem,
            jumbo,
            sockets: Mutex::new(Vec::new()),
            sharing: AtomicUsize::new(0),
            without_tx_metadata: AtomicBool::new(false),
        })
    }

    /// Among how many sockets the frames are shared; one at least.
    #[inline]
    pub(crate) fn sharing(&self) -> usize {
        self.sharing.load(Ordering::Relaxed).max(1)
    }

    /// Notes among how many sockets the frames are shared.
    pub(crate) fn share_among(&self, sockets: usize) {
        self.sharing.store(sockets, Ordering::Relaxed);
    }

    /// Frames of the UMEM: slots 0 to this.
    pub(crate) fn small(&self) -> u32 {
        self.small
    }

    /// All slots: those of the UMEM, then the jumbo ones.
    pub(crate) fn slots(&self) -> u32 {
        self.next.len() as u32
    }

    /// Bytes of a slot of the UMEM.
    pub(crate) fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Where the UMEM begins, and its bytes.
    pub(crate) fn umem(&self) -> (NonNull<u8>, u64) {
        (self.umem.base(), u64::from(self.small) * u64::from(self.frame_size))
    }

    /// Whether the UMEM lies in 2 MiB pages.
    pub(crate) fn huge_pages(&self) -> bool {
        self.umem.huge()
    }

    /// Where a slot begins, and its bytes.
    fn slot(&self, index: u32) -> (NonNull<u8>, u32) {
        let (base, at, size) = if index < self.small {
            (self.umem.base(), index as usize * self.frame_size as usize, self.frame_size)
        } else {
            assert!(index < self.slots(), "slot of this memory");
            (self.jumbo.base(), (index - self.small) as usize * JUMBO_SLOT as usize, JUMBO_SLOT)
        };
        // SAFETY: index was checked against the number of slots that the mapping was made for.
        (unsafe { base.add(at) }, size)
    }

    /// Makes the token of a slot that the free list gave up.
    #[inline]
    pub(crate) fn issue(&self, index: u32) -> Frame {
        if cfg!(debug_assertions) {
            let was = self.owner[index as usize].swap(OWNED, Ordering::Relaxed);
            assert_eq!(was, HOME, "slot {index} was issued twice");
        }
        let (slot, capacity) = self.slot(index);
        Frame::new(NonNull::from(self), slot, index, capacity)
    }

    /// Marks a slot whose token was just given up as free.
    #[inline]
    pub(crate) fn retire(&self, index: u32) {
        if cfg!(debug_assertions) {
            let was = self.owner[index as usize].swap(HOME, Ordering::Relaxed);
            assert_eq!(was, OWNED, "slot {index} came home twice");
        }
    }

    /// Pushes a retired slot onto the stack of returned ones, from any thread.
    ///
    /// Takes a pointer, as the block may be freed by the last handle as soon as the push is seen, before this returns:
    /// a reference would promise more.
    ///
    /// # Safety
    /// `this` points to a block of which `index` is a slot that the caller just retired.
    #[inline]
    pub(crate) unsafe fn push_returned(this: NonNull<Self>, index: u32) {
        // SAFETY: until the push succeeds this slot is abroad, which keeps the block.
        let (returned, next) = unsafe { (&(*this.as_ptr()).returned, &(&(*this.as_ptr()).next)[index as usize]) };
        let mut head = returned.load(Ordering::Relaxed);
        loop {
            next.store(head, Ordering::Relaxed);
            match returned.compare_exchange_weak(head, index, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Takes all returned slots. For the pool alone (or the last handle).
    pub(crate) fn take_returned(&self, mut each: impl FnMut(u32)) {
        if self.returned.load(Ordering::Relaxed) == NONE {
            return;
        }
        let mut at = self.returned.swap(NONE, Ordering::Acquire);
        while at != NONE {
            // Read before `each`, which may give the slot away.
            let next = self.next[at as usize].load(Ordering::Relaxed);
            each(at);
            at = next;
        }
    }

    /// Notes that the kernel owns a slot whose token was just given up.
    #[inline]
    pub(crate) fn lend(&self, index: u32, tag: KernelTag) {
        let owner = &self.owner[index as usize];
        debug_assert_eq!(owner.load(Ordering::Relaxed), OWNED, "slot {index} lent without being owned");
        owner.store(tag.0, Ordering::Relaxed);
    }

    /// Makes the token of a slot that the kernel gave back, once: `None` if it was not lent under this tag.
    #[inline]
    pub(crate) fn recover(&self, index: u32, tag: KernelTag) -> Option<Frame> {
        if index >= self.small {
            return None;
        }
        let owner = &self.owner[index as usize];
        if owner.load(Ordering::Relaxed) != tag.0 {
            return None;
        }
        owner.store(OWNED, Ordering::Relaxed);
        let (slot, capacity) = self.slot(index);
        Some(Frame::new(NonNull::from(self), slot, index, capacity))
    }

    /// Recovers every slot that is lent under this tag. Returns how many; they go home by the stack.
    pub(crate) fn recover_all(&self, tag: KernelTag) -> usize {
        (0..self.small).filter_map(|index| self.recover(index, tag)).count()
    }
}

/// A counted handle to a [`Control`].
#[derive(Debug)]
pub(crate) struct Handle(NonNull<Control>);

// SAFETY: Control is Sync and Send, and the count is atomic.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    pub(crate) fn new(config: &MemoryConfig) -> io::Result<Self> {
        Ok(Self(NonNull::from(Box::leak(Box::new(Control::new(config)?)))))
    }

    /// The block behind this handle.
    #[inline]
    pub(crate) fn as_ptr(&self) -> NonNull<Control> {
        self.0
    }

    /// Whether `control` is the block behind this handle.
    #[inline]
    pub(crate) fn is(&self, control: NonNull<Control>) -> bool {
        self.0 == control
    }
}

impl Deref for Handle {
    type Target = Control;

    #[inline]
    fn deref(&self) -> &Control {
        // SAFETY: the block lives at least as long as its last handle.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.handles.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.handles.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        let mut home = 0;
        self.take_returned(|_| home += 1);
        if home == self.slots() {
            // SAFETY: made by Box::leak; this was the last handle, and no frame is abroad that could point to it: each
            // push was the last thing its frame did with the block.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        } else {
            // Frames are abroad (or were forgotten): the block and its mappings stay for as long as the process.
            let _ = ManuallyDrop::new(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Handle {
        let config = MemoryConfig { frames: 4, frame_size: 2048, jumbo_frames: 1, huge_pages: false };
        Handle::new(&config).expect("a few pages")
    }

    #[test]
    fn an_address_comes_back_once_and_only_under_the_tag_it_was_lent_by() {
        let control = control();
        let (tag, others) = (KernelTag::receive(3), [KernelTag::transmit(3), KernelTag::receive(2)]);
        assert_eq!(control.issue(2).lend(tag), (2, Frame::HEADROOM as u32));
        for other in others {
            assert!(control.recover(2, other).is_none(), "recovered under {other:?}");
        }
        for never_lent in [0, 1, 3, 4, 5, u32::MAX] {
            assert!(control.recover(never_lent, tag).is_none(), "slot {never_lent}");
        }
        let frame = control.recover(2, tag).expect("it was lent");
        assert!(control.recover(2, tag).is_none(), "a second token for one slot");
        drop(frame);
        assert_eq!(control.recover_all(tag), 0);
    }

    #[test]
    fn recovering_all_finds_exactly_what_one_socket_holds() {
        let control = control();
        for (slot, tag) in [(0, KernelTag::receive(0)), (1, KernelTag::receive(1)), (3, KernelTag::receive(0))] {
            control.issue(slot).lend(tag);
        }
        assert_eq!(control.recover_all(KernelTag::receive(0)), 2);
        let mut home = Vec::new();
        control.take_returned(|slot| home.push(slot));
        assert_eq!(home, [3, 0]);
        assert_eq!(control.recover_all(KernelTag::receive(1)), 1);
    }

    #[test]
    fn a_descriptor_that_leaves_its_slot_changes_nothing() {
        let control = control();
        let mut frame = control.issue(1);
        for (start, len) in [(0, 2049), (2048, 1), (2049, 0), (1, u32::MAX), (u32::MAX, u32::MAX)] {
            assert!(!frame.set_data(start, len), "{start} and {len} bytes");
            assert_eq!((frame.headroom(), frame.len()), (Frame::HEADROOM, 0));
        }
        assert!(frame.set_data(256, 1792));
        assert_eq!((frame.headroom(), frame.len(), frame.tailroom()), (256, 1792, 0));
    }

    #[test]
    fn every_tag_of_every_socket_is_its_own() {
        let tags = (0..KernelTag::SOCKETS).flat_map(|n| [KernelTag::receive(n).0, KernelTag::transmit(n).0]);
        let all: std::collections::BTreeSet<u8> = tags.chain([HOME, OWNED]).collect();
        assert_eq!(all.len(), usize::from(KernelTag::SOCKETS) * 2 + 2);
    }
}
