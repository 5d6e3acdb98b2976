//! A burst that a child works on again and again, at the same place, with the secrets of one run after the other.

use core::hint::black_box;

use landbridge_aead::{Key, Packet};

/// Most packets of a burst here.
pub(crate) const MOST: usize = 16;

/// What a run seals or opens.
pub(crate) struct Input {
    pub(crate) key: [u8; 32],
    pub(crate) packets: Vec<Vec<u8>>,
}

/// The counter of packet `i`.
pub(crate) fn counter(i: usize) -> u64 {
    0x1_0000_0000 + i as u64
}

/// A burst and its key, in their places.
pub(crate) struct Bench {
    keys: Vec<Key>,
    inputs: Vec<Input>,
    key: Key,
    packets: [Vec<u8>; MOST],
    count: usize,
}

impl Bench {
    pub(crate) fn new(inputs: Vec<Input>) -> Self {
        let mut packets = [const { Vec::new() }; MOST];
        let count = inputs[0].packets.len();
        packets[..count].clone_from_slice(&inputs[0].packets);
        let keys = inputs.iter().map(|input| Key::new(&input.key)).collect();
        Self { keys, inputs, key: Key::new(&[0; 32]), packets, count }
    }

    pub(crate) fn prepare(&mut self, run: usize) {
        std::mem::swap(&mut self.key, &mut self.keys[run]);
        for (to, from) in self.packets.iter_mut().zip(&self.inputs[run].packets) {
            to.copy_from_slice(from);
        }
    }

    pub(crate) fn work(&mut self, work: impl Fn(&mut [Packet<'_>])) {
        let mut at = 0;
        let mut burst = self.packets.each_mut().map(|bytes| {
            at += 1;
            Packet { key: &self.key, counter: counter(at - 1), bytes, authentic: false }
        });
        work(black_box(&mut burst[..self.count]));
    }
}
