//! The arithmetic of the rings that are shared with the kernel: one side produces entries, the other consumes them.
//!
//! Both counters are 32 bits wide and wrap; an entry lies at its counter masked by the ring's size, a power of two.
//! Each side writes its own counter only, with release ordering, after it has written or read the entries. A counter of
//! the other side that makes no sense is taken as "nothing to do", never as a reason to leave the ring's bounds.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::mapping::Mapping;

/// Where the parts of a ring lie.
#[derive(Debug)]
pub(crate) struct Layout<T> {
    pub(crate) producer: NonNull<AtomicU32>,
    pub(crate) consumer: NonNull<AtomicU32>,
    pub(crate) flags: NonNull<AtomicU32>,
    pub(crate) entries: NonNull<T>,
    /// A power of two.
    pub(crate) size: u32,
}

/// What both ends of a ring share.
#[derive(Debug)]
struct Ring<T> {
    layout: Layout<T>,
    /// Keeps the ring mapped; tests bring memory of their own.
    _mapping: Option<Mapping>,
}

// SAFETY: the counters are atomic, and the entries are touched by one owner at a time, as the counters say.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: whoever made the ring promised that its parts stay valid.
        unsafe { self.layout.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.layout.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above.
        let flags = unsafe { self.layout.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, counter: u32) -> NonNull<T> {
        // SAFETY: the masked counter is below `size`, which is how many entries there are.
        unsafe { self.layout.entries.add((counter & (self.layout.size - 1)) as usize) }
    }
}

/// The end of a ring that user space fills: fill and transmit.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// The next entry to write; those before it and after the published counter wait for `publish`.
    head: u32,
    /// The kernel's counter when it was last looked at.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    /// # Safety
    /// The layout's parts stay valid for as long as the ring (`mapping` keeps them so, or the caller), are used by no
    /// other producer, and `size` is a power of two and the number of entries.
    pub(crate) unsafe fn new(layout: Layout<T>, mapping: Option<Mapping>) -> Self {
        let ring = Ring { layout, _mapping: mapping };
        let head = ring.producer().load(Ordering::Relaxed);
        let consumed = ring.consumer().load(Ordering::Acquire);
        Self { ring, head, consumed }
    }

    /// Entries that can be pushed, looking at the kernel's counter when fewer than `wanted` are known to be free.
    #[inline]
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        let room = self.known_room();
        if room >= wanted {
            return wanted;
        }
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.known_room().min(wanted)
    }

    fn known_room(&self) -> u32 {
        // More in use than there are entries would be nonsense: no room.
        self.ring.layout.size.saturating_sub(self.head.wrapping_sub(self.consumed))
    }

    /// Writes an entry. `false`, and nothing written, when the ring is full.
    #[inline]
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: the entry is inside the ring, and free: the kernel reads none beyond the published counter.
        unsafe { self.ring.entry(self.head).write(entry) };
        self.head = self.head.wrapping_add(1);
        true
    }

    /// Shows the kernel what was pushed.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.ring.producer().store(self.head, Ordering::Release);
    }

    /// Entries that the kernel has not consumed.
    #[inline]
    pub(crate) fn pending(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.head.wrapping_sub(self.consumed)
    }

    /// Whether the kernel asks to be woken.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The end of a ring that user space empties: receive and completion.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// The next entry to read.
    tail: u32,
    /// The kernel's counter when it was last looked at.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    /// # Safety
    /// As for [`Producer::new`].
    pub(crate) unsafe fn new(layout: Layout<T>, mapping: Option<Mapping>) -> Self {
        let ring = Ring { layout, _mapping: mapping };
        let tail = ring.consumer().load(Ordering::Relaxed);
        let produced = ring.producer().load(Ordering::Acquire);
        Self { ring, tail, produced }
    }

    /// Reads the next entry, looking at the kernel's counter when none is known to wait.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.waiting() == 0 {
            self.produced = self.ring.producer().load(Ordering::Acquire);
            if self.waiting() == 0 {
                return None;
            }
        }
        // SAFETY: the entry is inside the ring, and the kernel published it.
        let entry = unsafe { self.ring.entry(self.tail).read() };
        self.tail = self.tail.wrapping_add(1);
        Some(entry)
    }

    /// Entries known to wait. More than the ring has would be nonsense: none.
    fn waiting(&self) -> u32 {
        let waiting = self.produced.wrapping_sub(self.tail);
        if waiting > self.ring.layout.size { 0 } else { waiting }
    }

    /// Gives the kernel the entries back that were read.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.ring.consumer().store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A ring in plain memory, with both ends in user space.
    struct Plain {
        producer: AtomicU32,
        consumer: AtomicU32,
        flags: AtomicU32,
        entries: UnsafeCell<Vec<u64>>,
        size: u32,
    }

    impl Plain {
        fn new(size: u32, start: u32) -> Self {
            Self {
                producer: AtomicU32::new(start),
                consumer: AtomicU32::new(start),
                flags: AtomicU32::new(0),
                entries: UnsafeCell::new(vec![0; size as usize]),
                size,
            }
        }

        fn layout(&self) -> Layout<u64> {
            Layout {
                producer: NonNull::from(&self.producer),
                consumer: NonNull::from(&self.consumer),
                flags: NonNull::from(&self.flags),
                // SAFETY: nobody else holds a reference to the vector, whose buffer never moves.
                entries: NonNull::new(unsafe { (*self.entries.get()).as_mut_ptr() }).expect("a vector's buffer"),
                size: self.size,
            }
        }

        fn ends(&self) -> (Producer<u64>, Consumer<u64>) {
            // SAFETY: tests keep `self` alive beyond both ends, and make one pair at a time.
            unsafe { (Producer::new(self.layout(), None), Consumer::new(self.layout(), None)) }
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_and_an_empty_one_gives_nothing() {
        let plain = Plain::new(4, 0);
        let (mut producer, mut consumer) = plain.ends();
        assert!(consumer.pop().is_none());
        for n in 0..4 {
            assert!(producer.push(n));
        }
        assert!(!producer.push(4));
        assert_eq!(producer.room(9), 0);
        assert!(consumer.pop().is_none(), "an entry was seen before it was published");
        producer.publish();
        assert_eq!(std::iter::from_fn(|| consumer.pop()).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(!producer.push(4), "an entry was overwritten before it was released");
        consumer.release();
        assert_eq!((producer.room(9), producer.pending()), (4, 0));
        assert!(producer.push(4));
    }

    #[test]
    fn counters_that_make_no_sense_are_taken_as_nothing_to_do() {
        let plain = Plain::new(4, 100);
        let (mut producer, mut consumer) = plain.ends();
        (0..4).for_each(|n| assert!(producer.push(n)));
        for nonsense in [99, 107, 0, u32::MAX] {
            plain.consumer.store(nonsense, Ordering::Relaxed);
            assert_eq!(producer.room(4), 0);
            assert!(!producer.push(5));
        }
        plain.producer.store(90, Ordering::Relaxed);
        assert!(consumer.pop().is_none());
        plain.producer.store(105, Ordering::Relaxed);
        assert!(consumer.pop().is_none());
    }

    #[test]
    fn the_kernel_asks_to_be_woken_by_its_flag() {
        let plain = Plain::new(2, 0);
        let (producer, _consumer) = plain.ends();
        assert!(!producer.needs_wakeup());
        plain.flags.store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Starting close below 2^32, so that the counters wrap on the way.
        #[test]
        fn entries_come_out_once_in_order_across_the_wrap(
            before_wrap in 0..40_u32,
            log_size in 0..6_u32,
            steps in prop::collection::vec((0..4_u8, 1..20_u32), 1..60),
        ) {
            let plain = Plain::new(1 << log_size, 0_u32.wrapping_sub(before_wrap));
            let (mut producer, mut consumer) = plain.ends();
            let (mut pushed, mut published, mut unreleased) = (VecDeque::new(), VecDeque::new(), 0_u32);
            let mut next = 0_u64;
            for (what, times) in steps {
                match what {
                    0 => for _ in 0..times {
                        let used = pushed.len() as u32 + published.len() as u32 + unreleased;
                        let fits = used < plain.size;
                        prop_assert_eq!(producer.push(next), fits);
                        if fits { pushed.push_back(next); next += 1; }
                    },
                    1 => { producer.publish(); published.append(&mut pushed); }
                    2 => for _ in 0..times {
                        let got = consumer.pop();
                        prop_assert_eq!(got, published.pop_front());
                        unreleased += u32::from(got.is_some());
                    },
                    _ => { consumer.release(); unreleased = 0; }
                }
                let used = pushed.len() as u32 + published.len() as u32 + unreleased;
                prop_assert_eq!(producer.pending(), used);
                prop_assert_eq!(producer.room(u32::MAX), plain.size - used);
            }
        }
    }

    #[test]
    fn two_threads_pass_every_entry_once_across_the_wrap() {
        let plain = Plain::new(16, u32::MAX - 500);
        let (mut producer, mut consumer) = plain.ends();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut n = 0;
                while n < 20_000 {
                    if producer.push(n) {
                        n += 1;
                        producer.publish();
                    } else {
                        std::thread::yield_now();
                    }
                }
            });
            let mut expected = 0;
            while expected < 20_000 {
                match consumer.pop() {
                    Some(entry) => {
                        assert_eq!(entry, expected);
                        expected += 1;
                        consumer.release();
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
    }
}
