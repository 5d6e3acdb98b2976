//! The AEAD alone: ring, packet by packet, as the measure of everything else, and our bursts.
//!
//! All cases work on the same picture of memory as a lane: as many packets as one turn takes from a side, each
//! in a slot of its own, filled just before.

use landbridge_aead::{Engine, Key, Packet, TAG_LEN};
use landbridge_xsk::BURST;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::measure::{Case, Sample};

/// Sizes measured.
const SIZES: [usize; 4] = [64, 128, 512, 1420];
/// Packets of one turn of a lane.
pub(crate) const TURN: usize = 4 * BURST;
/// Bytes processed in one sample, roughly.
const SAMPLE_BYTES: usize = 4 << 20;
const SLOT: usize = 2048;

/// Turns in one sample of packets of `len` bytes.
pub(super) const fn turns(len: usize) -> usize {
    let turns = SAMPLE_BYTES / (TURN * (len + 256));
    if turns == 0 { 1 } else { turns }
}

/// The name of the case that seals with ring.
pub(super) fn ring_seal(len: usize) -> String {
    format!("ring seal {len} B")
}

/// The engines that work on this machine.
pub(super) fn engines() -> impl Iterator<Item = Engine> {
    Engine::available()
}

/// All cases of this file.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for len in SIZES {
        cases.push(seal_by_ring(len));
        cases.push(open_by_ring(len));
        for engine in engines() {
            cases.push(seal_by_burst(engine, len));
            cases.push(open_by_burst(engine, len));
        }
    }
    cases
}

fn ring_key() -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]);
    LessSafeKey::new(key.expect("32 bytes are a ChaCha20-Poly1305 key"))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Room for a turn of packets.
pub(super) fn slots(len: usize) -> Vec<u8> {
    debug_assert!(len + TAG_LEN <= SLOT);
    vec![0; TURN * SLOT]
}

/// The packets of a turn.
pub(super) fn packets(slots: &mut [u8], len: usize) -> impl Iterator<Item = &mut [u8]> {
    slots.chunks_exact_mut(SLOT).map(move |slot| &mut slot[..len])
}

fn seal_by_ring(len: usize) -> Case {
    let (key, mut slots) = (ring_key(), slots(len));
    let plain = vec![0x5a; len];
    let sample = move || {
        let mut sample = Sample::default();
        for _ in 0..turns(len) {
            packets(&mut slots, len).for_each(|packet| packet.copy_from_slice(&plain));
            sample.time(TURN, || {
                for (counter, packet) in packets(&mut slots, len + TAG_LEN).enumerate() {
                    let (text, tag) = packet.split_at_mut(len);
                    let sealed = key.seal_in_place_separate_tag(nonce(counter as u64), Aad::empty(), text);
                    tag.copy_from_slice(sealed.expect("far below the limit").as_ref());
                }
            });
        }
        sample
    };
    Case::new("AEAD alone", ring_seal(len), sample).bytes(len).without_allocations()
}

fn open_by_ring(len: usize) -> Case {
    let (key, mut slots) = (ring_key(), slots(len));
    let sealed = sealed_by(&Key::new(&[7; 32]), len);
    let sample = move || {
        let mut sample = Sample::default();
        for _ in 0..turns(len) {
            packets(&mut slots, len + TAG_LEN).zip(&sealed).for_each(|(packet, sealed)| packet.copy_from_slice(sealed));
            sample.time(TURN, || {
                for (counter, packet) in packets(&mut slots, len + TAG_LEN).enumerate() {
                    let opened = key.open_in_place(nonce(counter as u64), Aad::empty(), packet);
                    assert!(opened.is_ok(), "ring opens what was sealed");
                }
            });
        }
        sample
    };
    Case::new("AEAD alone", format!("ring open {len} B"), sample)
        .bytes(len)
        .against(ring_seal(len))
        .without_allocations()
}

/// A turn of sealed packets.
pub(super) fn sealed_by(key: &Key, len: usize) -> Vec<Vec<u8>> {
    let seal = |counter: usize| {
        let mut packet = vec![0x5a; len + TAG_LEN];
        key.seal(counter as u64, &mut packet);
        packet
    };
    (0..TURN).map(seal).collect()
}

/// Runs `work` on bursts made of `slots`, as lanes make them.
pub(super) fn in_bursts<'a>(key: &'a Key, slots: &'a mut [u8], len: usize, work: impl Fn(&mut [Packet<'a>])) {
    let mut bytes = packets(slots, len + TAG_LEN).enumerate();
    for _ in 0..TURN / BURST {
        let mut burst = bytes.by_ref().take(BURST);
        let mut packets: [Packet<'a>; BURST] = std::array::from_fn(|_| {
            let (counter, bytes) = burst.next().expect("a turn is made of whole bursts");
            Packet { key, counter: counter as u64, bytes, authentic: false }
        });
        work(&mut packets);
    }
}

fn seal_by_burst(engine: Engine, len: usize) -> Case {
    let (key, mut slots) = (Key::new(&[7; 32]), slots(len));
    let plain = vec![0x5a; len];
    let sample = move || {
        let mut sample = Sample::default();
        for _ in 0..turns(len) {
            packets(&mut slots, len).for_each(|packet| packet.copy_from_slice(&plain));
            sample.time(TURN, || in_bursts(&key, &mut slots, len, |burst| engine.seal_burst(burst)));
        }
        sample
    };
    Case::new("AEAD alone", format!("burst seal {len} B, engine {}", engine.name()), sample)
        .bytes(len)
        .against(ring_seal(len))
        .without_allocations()
}

fn open_by_burst(engine: Engine, len: usize) -> Case {
    let (key, mut slots) = (Key::new(&[7; 32]), slots(len));
    let sealed = sealed_by(&key, len);
    let sample = move || {
        let mut sample = Sample::default();
        for _ in 0..turns(len) {
            packets(&mut slots, len + TAG_LEN).zip(&sealed).for_each(|(packet, sealed)| packet.copy_from_slice(sealed));
            sample.time(TURN, || {
                in_bursts(&key, &mut slots, len, |burst| {
                    engine.open_burst(burst);
                    assert!(burst.iter().all(|packet| packet.authentic), "a burst opens what was sealed");
                });
            });
        }
        sample
    };
    Case::new("AEAD alone", format!("burst open {len} B, engine {}", engine.name()), sample)
        .bytes(len)
        .against(ring_seal(len))
        .without_allocations()
}
