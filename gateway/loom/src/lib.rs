//! Model check of the hand-over between lanes: every interleaving of the very file that the gateway runs.
//!
//! Enters: `gateway/src/datapath/handover.rs`, compiled with loom's atomics. Leaves: nothing but the tests'
//! verdict. Never does: copy that file.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release -p landbridge-loom`

#![forbid(unsafe_code)]
#![cfg(loom)]
#![expect(dead_code, reason = "a model uses a part of the hand-over")]

#[path = "../../src/datapath/handover.rs"]
mod handover;
#[path = "../../src/datapath/sync.rs"]
mod sync;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::handover::{Board, Helpers};

    /// A waker like the lanes' eventfd: a wake before the sleep is not lost, and several are one.
    #[derive(Default)]
    struct Bell {
        rung: Mutex<bool>,
        changed: Condvar,
    }

    impl Bell {
        fn ring(&self) {
            *self.rung.lock().expect("loom does not poison") = true;
            self.changed.notify_one();
        }

        fn sleep(&self) {
            let mut rung = self.rung.lock().expect("loom does not poison");
            while !*rung {
                rung = self.changed.wait(rung).expect("loom does not poison");
            }
            *rung = false;
        }
    }

    /// An owner, its helper, and the queue of slots between them (the deque is crossbeam's and modelled there).
    struct Model {
        board: Board<u32>,
        helpers: Helpers,
        queue: Mutex<VecDeque<usize>>,
        /// How many were ever pushed and taken: what a look from outside sees of the deque, with no lock that would order it.
        pushed: AtomicUsize,
        taken: AtomicUsize,
        owner: Bell,
        helper: Bell,
    }

    const HELPER: usize = 1;

    impl Model {
        fn new(slots: usize) -> Arc<Self> {
            Arc::new(Self {
                board: Board::new(slots),
                helpers: Helpers::new(2),
                queue: Mutex::new(VecDeque::new()),
                pushed: AtomicUsize::new(0),
                taken: AtomicUsize::new(0),
                owner: Bell::default(),
                helper: Bell::default(),
            })
        }

        fn pop(&self) -> Option<usize> {
            let mut queue = self.queue.lock().expect("loom does not poison");
            let slot = queue.pop_front()?;
            self.taken.fetch_add(1, Ordering::Release);
            Some(slot)
        }

        fn is_empty(&self) -> bool {
            self.pushed.load(Ordering::Acquire) == self.taken.load(Ordering::Acquire)
        }

        fn offer(&self, slot: usize, item: u32) {
            self.board.put(slot, item);
            let mut queue = self.queue.lock().expect("loom does not poison");
            queue.push_back(slot);
            self.pushed.fetch_add(1, Ordering::Release);
            drop(queue);
            if self.helpers.rouse() == Some(HELPER) {
                self.helper.ring();
            }
        }

        /// The helper does `count` items, sleeping between them as a lane does.
        fn help(&self, count: usize) {
            let mut done = 0;
            while done < count {
                if let Some(slot) = self.pop() {
                    let item = self.board.claim(slot).expect("one claim per slot in the queue");
                    if self.board.finish(slot, item + 100) {
                        self.owner.ring();
                    }
                    done += 1;
                    continue;
                }
                self.helpers.lie_down(HELPER);
                if self.is_empty() {
                    self.helper.sleep();
                }
                self.helpers.get_up(HELPER);
            }
        }

        /// The owner takes a slot's item back, sleeping until it is finished.
        fn await_slot(&self, slot: usize) -> u32 {
            loop {
                if let Some(item) = self.board.take_finished(slot) {
                    return item;
                }
                if self.board.park(std::iter::once(slot)) {
                    self.owner.sleep();
                }
                self.board.unpark();
            }
        }
    }

    // A lost wake-up leaves a thread asleep for ever, which loom reports as a deadlock.

    #[test]
    fn neither_side_sleeps_while_the_other_waits_for_it() {
        loom::model(|| {
            let model = Model::new(1);
            let helper = thread::spawn({
                let model = Arc::clone(&model);
                move || model.help(1)
            });
            model.offer(0, 7);
            assert_eq!(model.await_slot(0), 107);
            helper.join().expect("the helper ended");
        });
    }

    #[test]
    fn items_come_back_whole_and_in_the_owners_order_when_slots_are_used_again() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let model = Model::new(2);
            let helper = thread::spawn({
                let model = Arc::clone(&model);
                move || model.help(3)
            });
            model.offer(0, 1);
            model.offer(1, 2);
            assert_eq!(model.await_slot(0), 101);
            model.offer(0, 3);
            assert_eq!(model.await_slot(1), 102);
            assert_eq!(model.await_slot(0), 103);
            helper.join().expect("the helper ended");
        });
    }

    #[test]
    fn owner_and_helper_never_both_get_the_same_item() {
        loom::model(|| {
            let model = Model::new(1);
            model.board.put(0, 1);
            model.queue.lock().expect("loom does not poison").push_back(0);
            let take = |model: &Model| {
                model.pop().map(|slot| {
                    let item = model.board.claim(slot).expect("one claim per slot in the queue");
                    let _ = model.board.finish(slot, item + 100);
                })
            };
            let helper = thread::spawn({
                let model = Arc::clone(&model);
                move || take(&model).is_some()
            });
            let own = take(&model).is_some();
            let stolen = helper.join().expect("the helper ended");
            assert!(own != stolen);
            assert_eq!(model.board.take_finished(0), Some(101));
        });
    }
}
