//! What engines leave on the stack: nothing that a key, a one-time key or key stream could be made from.
//!
//! The stack below the caller is painted, an engine seals or opens, and its dead frames are searched for every form in
//! which the secrets may lie there: in order, as limbs of either radix, as rows and as columns of ChaCha20's state.
//! `ring` wipes nothing, so it is not asked.

use core::hint::black_box;
use std::collections::{BTreeSet, HashMap};

use landbridge_aead::{Engine, Key, TAG_LEN};

use crate::bench::{Bench, Input, MOST, counter};
use crate::reference::{Bytes, chacha20_block, nonce};
use crate::tracer::{Observer, STACK, Step, trace};

/// Eight bytes that are not to be found, and what they are.
type Patterns = HashMap<u64, String>;

struct Residue {
    patterns: Patterns,
    found: BTreeSet<String>,
}

impl Observer for Residue {
    const STEPS: bool = false;

    fn step(&mut self, _run: usize, _step: &Step<'_>) {}

    fn end(&mut self, _run: usize, dead: &[u8]) {
        // Whatever is spilled is aligned to its words.
        for at in (0..dead.len() - 8).step_by(4) {
            let word = u64::from_le_bytes(dead[at..at + 8].try_into().expect("eight bytes"));
            if let Some(what) = self.patterns.get(&word) {
                self.found.insert(format!("{what}, {} bytes below", dead.len() - at));
            }
        }
    }
}

fn words(block: &[u8]) -> Vec<u32> {
    block.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// A sequence of words, in order and each one twice as in a row for all lanes.
fn add_words(patterns: &mut Patterns, what: &str, bytes: &[u8]) {
    let words = words(bytes);
    for i in 0..words.len() {
        patterns.insert(pair(words[i], words[i]), format!("word {i} of {what} in a row"));
        if let Some(&next) = words.get(i + 1) {
            patterns.insert(pair(words[i], next), format!("words {i} and {} of {what}", i + 1));
        }
    }
}

/// r, clamped, in limbs, and the multiples of the limbs that fold the top.
fn add_limbs(patterns: &mut Patterns, what: &str, one_time_key: &[u8]) {
    let r = u128::from_le_bytes(one_time_key[..16].try_into().expect("16 bytes"));
    let r = r & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let mut limbs = vec![(r as u64, "low half"), ((r >> 64) as u64, "high half")];
    for shift in [0, 44, 88] {
        let limb = (r >> shift) as u64 & ((1 << 44) - 1);
        limbs.extend([(limb, "limb of 44 bits"), (limb * 5, "5 times a limb"), (limb * 20, "20 times a limb")]);
    }
    for shift in [0, 26, 52, 78, 104] {
        let limb = (r >> shift) as u64 & ((1 << 26) - 1);
        limbs.extend([(limb, "limb of 26 bits"), (limb * 5, "5 times a limb of 26 bits")]);
    }
    for (value, kind) in limbs {
        patterns.insert(value, format!("{kind} of r of {what}"));
    }
}

fn patterns(input: &Input, texts: &[Vec<u8>]) -> Patterns {
    let mut patterns = Patterns::new();
    add_words(&mut patterns, "the key", input.key(0));
    let blocks = texts.iter().map(|text| text.len().div_ceil(64) + 1).max().unwrap_or(1);
    let stream: Vec<Vec<[u8; 64]>> = (0..texts.len())
        .map(|i| (0..blocks).map(|block| chacha20_block(input.key(0), &nonce(counter(i)), block as u32)).collect())
        .collect();
    for (i, text) in texts.iter().enumerate() {
        add_limbs(&mut patterns, &format!("packet {i}"), &stream[i][0]);
        add_words(&mut patterns, &format!("the one-time key of packet {i}"), &stream[i][0][..32]);
        add_words(&mut patterns, &format!("the text of packet {i}"), text);
        for (number, block) in stream[i].iter().enumerate().skip(1) {
            add_words(&mut patterns, &format!("block {number} of packet {i}"), block);
        }
        // Columns: one word of neighbouring lanes.
        for number in 0..blocks {
            let here = words(&stream[i][number]);
            let lanes = [stream.get(i + 1).map(|packet| &packet[number]), stream[i].get(number + 1)];
            for there in lanes.into_iter().flatten() {
                for (word, (&here, there)) in here.iter().zip(words(there)).enumerate() {
                    let what = format!("word {word} of block {number} of packet {i} and of its neighbour");
                    patterns.insert(pair(here, there), what);
                }
            }
        }
    }
    patterns
}

#[inline(never)]
fn paint() {
    let mut frame = [0x5a_u8; STACK + (8 << 10)];
    black_box(&mut frame);
}

/// What is found behind the work on these packets.
fn residue_of(input: Input, texts: &[Vec<u8>], work: impl Fn(&mut Bench)) -> BTreeSet<String> {
    let mut residue = Residue { patterns: patterns(&input, texts), found: BTreeSet::new() };
    let mut bench = Bench::new(vec![input]);
    let prepare = |bench: &mut Bench, run| {
        bench.prepare(run);
        paint();
    };
    trace(1, &mut bench, prepare, work, &mut residue);
    residue.found
}

fn input(len: usize, random: &mut Bytes) -> (Input, Vec<Vec<u8>>) {
    let texts: Vec<Vec<u8>> = (0..MOST).map(|_| random.take(len)).collect();
    let packets = texts.iter().map(|text| [&text[..], &[0; TAG_LEN]].concat()).collect();
    (Input { keys: vec![random.key()], packets }, texts)
}

fn across_packets() -> impl Iterator<Item = Engine> {
    Engine::available().filter(|&engine| engine != Engine::Ring)
}

#[test]
fn sealing_leaves_no_secret_on_the_stack() {
    let mut random = Bytes(21);
    for engine in across_packets() {
        for len in [64, 200, 1420] {
            let (input, texts) = input(len, &mut random);
            let found = residue_of(input, &texts, |bench| bench.work(|burst| engine.seal_burst(burst)));
            assert!(found.is_empty(), "{engine}, {len} bytes: {found:#?}");
        }
    }
}

#[test]
fn opening_leaves_no_secret_on_the_stack_whatever_the_verdict() {
    let mut random = Bytes(22);
    for engine in across_packets() {
        for len in [64, 200, 1420] {
            for forged in [None, Some(5)] {
                let (mut input, texts) = input(len, &mut random);
                let key = Key::new(input.key(0));
                for (i, packet) in input.packets.iter_mut().enumerate() {
                    key.seal(counter(i), packet);
                    packet[len] ^= u8::from(Some(i) == forged);
                }
                let found = residue_of(input, &texts, |bench| bench.work(|burst| engine.open_burst(burst)));
                assert!(found.is_empty(), "{engine}, {len} bytes, {forged:?} forged: {found:#?}");
            }
        }
    }
}

/// The search finds what it searches for: a routine that keeps a key on its stack, and `ring`, which wipes nothing.
#[test]
fn a_secret_that_stays_on_the_stack_is_found() {
    #[inline(never)]
    fn careless(key: &[u8; 32]) {
        let mut copy = *key;
        black_box(&mut copy);
    }
    let mut random = Bytes(23);
    let (given, texts) = input(64, &mut random);
    let key = *given.key(0);
    let found = residue_of(given, &texts, move |_| careless(&key));
    assert!(found.iter().any(|what| what.contains("of the key")), "{found:#?}");
    let (given, texts) = input(64, &mut random);
    let found = residue_of(given, &texts, |bench| bench.work(|burst| Engine::Ring.seal_burst(burst)));
    assert!(!found.is_empty(), "ring wipes its stack: then it can be asked, too");
}
