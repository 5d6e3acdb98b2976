//! A burst that a child works on again and again, at the same place, with the secrets of one run after the other.

use core::hint::black_box;

use landbridge_aead::{Key, Packet};

/// Most packets of a burst here.
pub(crate) const MOST: usize = 16;

/// What a run seals or opens.
pub(crate) struct Input {
    /// One for all packets, or one for each.
    pub(crate) keys: Vec<[u8; 32]>,
    pub(crate) packets: Vec<Vec<u8>>,
}

impl Input {
    /// The key of packet `i`.
    pub(crate) fn key(&self, i: usize) -> &[u8; 32] {
        &self.keys[i % self.keys.len()]
    }
}

/// The counter of packet `i`.
pub(crate) fn counter(i: usize) -> u64 {
    0x1_0000_0000 + i as u64
}

/// A burst and its keys, in their places.
pub(crate) struct Bench {
    /// Of each run.
    keys: Vec<Vec<Key>>,
    inputs: Vec<Input>,
    /// Of the run at hand.
    current: Vec<Key>,
    /// Which of them each packet has: looked up, as the tracer sees this as well and takes no division.
    places: [usize; MOST],
    packets: [Vec<u8>; MOST],
    count: usize,
}

impl Bench {
    pub(crate) fn new(inputs: Vec<Input>) -> Self {
        let mut packets = [const { Vec::new() }; MOST];
        let count = inputs[0].packets.len();
        packets[..count].clone_from_slice(&inputs[0].packets);
        let keys = inputs.iter().map(|input| input.keys.iter().map(Key::new).collect()).collect();
        let places = std::array::from_fn(|i| i % inputs[0].keys.len());
        let current = inputs[0].keys.iter().map(|_| Key::new(&[0; 32])).collect();
        Self { keys, inputs, current, places, packets, count }
    }

    pub(crate) fn prepare(&mut self, run: usize) {
        // Key by key, so that each stays at its address from run to run.
        for (to, from) in self.current.iter_mut().zip(&mut self.keys[run]) {
            std::mem::swap(to, from);
        }
        for (to, from) in self.packets.iter_mut().zip(&self.inputs[run].packets) {
            to.copy_from_slice(from);
        }
    }

    pub(crate) fn work(&mut self, work: impl Fn(&mut [Packet<'_>])) {
        let mut at = 0;
        let mut burst = self.packets.each_mut().map(|bytes| {
            at += 1;
            let key = &self.current[self.places[at - 1]];
            Packet { key, counter: counter(at - 1), bytes, authentic: false }
        });
        work(black_box(&mut burst[..self.count]));
    }
}
