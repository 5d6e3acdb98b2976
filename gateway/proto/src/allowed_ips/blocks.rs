//! Short runs of items in one array, which grow and shrink in place or move.
//!
//! Enters: a run's beginning and length. Leaves: where it begins after a change. Never does: know which runs there
//! are; whoever owns one keeps its beginning and its length.

/// A run of this many items is the longest.
const RUN_MAX: usize = 64;
const CLASSES: usize = RUN_MAX.ilog2() as usize + 1;

/// An array of runs. A run of `n` items has room for the next power of two.
#[derive(Debug, Clone)]
pub(super) struct Blocks<T> {
    items: Vec<T>,
    /// Beginnings of rooms that no run has, by the logarithm of their size.
    free: [Vec<u32>; CLASSES],
}

impl<T: Copy> Blocks<T> {
    pub(super) const fn new() -> Self {
        Self { items: Vec::new(), free: [const { Vec::new() }; CLASSES] }
    }

    #[inline]
    pub(super) fn at(&self, at: u32) -> Option<&T> {
        self.items.get(at as usize)
    }

    pub(super) fn at_mut(&mut self, at: u32) -> &mut T {
        &mut self.items[at as usize]
    }

    /// Puts an item into a run of `len` items, before its item `at`. Returns where the run begins then.
    pub(super) fn insert(&mut self, begin: u32, len: usize, at: usize, item: T) -> u32 {
        let mut run = begin as usize;
        let is_full = len == 0 || len.is_power_of_two();
        if is_full {
            run = self.take(len + 1, item);
            if len > 0 {
                self.items.copy_within(begin as usize..begin as usize + len, run);
                self.put(begin, len);
            }
        }
        self.items.copy_within(run + at..run + len, run + at + 1);
        self.items[run + at] = item;
        run as u32
    }

    /// Takes item `at` out of a run of `len` items. Returns where the run begins then.
    pub(super) fn remove(&mut self, begin: u32, len: usize, at: usize) -> u32 {
        let run = begin as usize;
        self.items.copy_within(run + at + 1..run + len, run + at);
        let left = len - 1;
        if left > 0 && left.next_power_of_two() == len.next_power_of_two() {
            return begin;
        }
        let mut moved = 0;
        if left > 0 {
            moved = self.take(left, self.items[run]);
            self.items.copy_within(run..run + left, moved);
        }
        self.put(begin, len);
        moved as u32
    }

    /// How much memory there is, in items.
    #[cfg(test)]
    pub(super) const fn size(&self) -> usize {
        self.items.len()
    }

    /// Room for `len` items.
    fn take(&mut self, len: usize, filler: T) -> usize {
        let size = len.next_power_of_two();
        if let Some(begin) = self.free[size.ilog2() as usize].pop() {
            return begin as usize;
        }
        let begin = self.items.len();
        self.items.resize(begin + size, filler);
        begin
    }

    fn put(&mut self, begin: u32, len: usize) {
        self.free[len.next_power_of_two().ilog2() as usize].push(begin);
    }
}
