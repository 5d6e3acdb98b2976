//! The hand-over of work between a lane and those that help it.
//!
//! Enters: items that a lane puts on its [`Board`] for anybody to work on. Leaves: the same items, finished,
//! taken back by that lane in the order it likes. Never does: sleep or wake; it only says who has to be woken,
//! so that two things cannot happen: an owner that sleeps while its last item is finished, and a helper that
//! sleeps while there is work.
//!
//! Both rest on the same argument. The one who goes to sleep raises a flag, then looks once more; the one who
//! makes a reason to wake makes it, then looks at the flag; a fence of sequential consistency stands between
//! the two steps on both sides. So at least one of them sees the other. `gateway/loom` checks all
//! interleavings of exactly this file.

use super::sync::{AtomicBool, AtomicU8, AtomicUsize, Mutex, Ordering, fence};

const EMPTY: u8 = 0;
const PUT: u8 = 1;
const FINISHED: u8 = 2;

/// Slots of one owner, through which items go out and come back.
#[derive(Debug)]
pub(crate) struct Board<T> {
    slots: Box<[Slot<T>]>,
    parked: AtomicBool,
}

#[derive(Debug)]
struct Slot<T> {
    state: AtomicU8,
    item: Mutex<Option<T>>,
}

impl<T> Board<T> {
    /// A board with this many slots.
    pub(crate) fn new(slots: usize) -> Self {
        let slot = || Slot { state: AtomicU8::new(EMPTY), item: Mutex::new(None) };
        Self { slots: (0..slots).map(|_| slot()).collect(), parked: AtomicBool::new(false) }
    }

    /// Owner: puts an item into an empty slot.
    pub(crate) fn put(&self, slot: usize, item: T) {
        let slot = &self.slots[slot];
        slot.exchange(Some(item));
        slot.state.store(PUT, Ordering::Release);
    }

    /// Whoever took the slot's number off the queue, which only one can: takes the item to work on it.
    pub(crate) fn claim(&self, slot: usize) -> Option<T> {
        self.slots[slot].exchange(None)
    }

    /// Returns a finished item to its slot; true when its owner has to be woken.
    #[must_use]
    pub(crate) fn finish(&self, slot: usize, item: T) -> bool {
        let slot = &self.slots[slot];
        slot.exchange(Some(item));
        slot.state.store(FINISHED, Ordering::Release);
        fence(Ordering::SeqCst);
        self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel)
    }

    /// Owner: takes a finished item back and empties the slot.
    pub(crate) fn take_finished(&self, slot: usize) -> Option<T> {
        let slot = &self.slots[slot];
        if slot.state.load(Ordering::Acquire) != FINISHED {
            return None;
        }
        slot.state.store(EMPTY, Ordering::Relaxed);
        slot.exchange(None)
    }

    /// Owner: says that it is about to sleep until one of these slots is finished. False when one is already:
    /// then it must not sleep.
    #[must_use]
    pub(crate) fn park(&self, mut awaited: impl Iterator<Item = usize>) -> bool {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if awaited.any(|slot| self.slots[slot].state.load(Ordering::Acquire) == FINISHED) {
            self.unpark();
            return false;
        }
        true
    }

    /// Owner: is awake again, for whatever reason.
    pub(crate) fn unpark(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }
}

impl<T> Slot<T> {
    fn exchange(&self, item: Option<T>) -> Option<T> {
        // Nothing panics while it holds this lock; were it poisoned all the same, the item is still whole.
        #[cfg(not(loom))]
        let mut place = self.item.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        #[cfg(loom)]
        let mut place = self.item.lock().expect("loom does not poison");
        std::mem::replace(&mut *place, item)
    }
}

/// Which lanes have nothing to do, and which of them sleep.
#[derive(Debug)]
pub(crate) struct Helpers {
    asleep: Box<[AtomicBool]>,
    idle: AtomicUsize,
}

impl Helpers {
    /// All awake and busy.
    pub(crate) fn new(lanes: usize) -> Self {
        Self { asleep: (0..lanes).map(|_| AtomicBool::new(false)).collect(), idle: AtomicUsize::new(0) }
    }

    /// A lane found nothing to do.
    pub(crate) fn enter_idle(&self) {
        self.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// A lane found something to do after [`Helpers::enter_idle`].
    pub(crate) fn leave_idle(&self) {
        self.idle.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many lanes have nothing to do. A hint: work that nobody helps with is done by its owner.
    #[inline]
    pub(crate) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// A lane is about to sleep. Whatever it looks at after this call and finds empty will wake it when it is
    /// filled, by [`Helpers::rouse`].
    pub(crate) fn lie_down(&self, lane: usize) {
        self.asleep[lane].store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// A lane is awake again, for whatever reason.
    pub(crate) fn get_up(&self, lane: usize) {
        self.asleep[lane].store(false, Ordering::Relaxed);
    }

    /// After work was made visible: the lane that has to be woken for it, if any sleeps.
    #[must_use]
    pub(crate) fn rouse(&self) -> Option<usize> {
        fence(Ordering::SeqCst);
        let sleeps = |lane: &AtomicBool| lane.load(Ordering::Relaxed) && lane.swap(false, Ordering::AcqRel);
        self.asleep.iter().position(sleeps)
    }
}
