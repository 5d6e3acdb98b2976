//! Poly1305 of every engine across packets under chosen one-time keys: what no key of ours would give.
//!
//! Enters: r and s at their extremes, those of Wycheproof, and messages that fill every limb or lead the accumulator to
//! an edge. Leaves: nothing, or a panic. Never does: take part in anything but tests.

#[path = "../tests/vectors/reference.rs"]
#[expect(dead_code, reason = "tests/vectors uses the rest")]
mod reference;

use num_bigint::BigUint;
use reference::{BLOCK, Bytes, KEY, TAG, TARGETS, authenticated, edges, halves, poly1305, text_that_leads_to};
use wycheproof::aead::{TestName, TestSet};

/// The tags of up to 16 texts under as many one-time keys, without associated data.
type Tags = fn(&[[u8; KEY]], &[Vec<u8>]) -> Vec<[u8; TAG]>;

const BATCH: usize = 16;

fn engines() -> Vec<(&'static str, Tags)> {
    let mut engines: Vec<(&'static str, Tags)> = Vec::new();
    if crate::avx2::is_supported() {
        engines.push(("avx2", crate::avx2::tags_of));
    }
    if crate::avx512::is_supported() {
        engines.push(("avx512", crate::avx512::tags_of));
    }
    engines
}

/// Runs the messages in full batches, in batches with gaps, and rotated so that each one meets every lane.
fn check(what: &str, messages: &[([u8; KEY], Vec<u8>)]) {
    for (name, tags) in engines() {
        for (size, turn) in [(BATCH, 0), (BATCH, 1), (BATCH, 7), (5, 0), (9, 3)] {
            let mut messages = messages.to_vec();
            let turn = turn % messages.len();
            messages.rotate_left(turn);
            for batch in messages.chunks(size) {
                let (keys, texts): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
                for (i, tag) in tags(&keys, &texts).into_iter().enumerate() {
                    let expected = poly1305(&keys[i], &authenticated(&[], &texts[i]));
                    assert_eq!(tag, expected, "{name}: {what}, key {:02x?}, text {:02x?}", keys[i], texts[i]);
                }
            }
        }
    }
}

/// Halves of one-time keys at their extremes. The engine clamps r itself.
fn extreme_keys() -> Vec<[u8; KEY]> {
    let mut halves: Vec<[u8; 16]> = vec![[0; 16], [0xff; 16]];
    // Runs of ones between the limbs of either radix, and single bits.
    for (low, high) in
        [(0, 26), (26, 52), (52, 78), (78, 104), (104, 128), (0, 44), (44, 88), (88, 128), (0, 1), (2, 3)]
    {
        let run: u128 = (0..128).filter(|bit| (low..high).contains(bit)).map(|bit| 1 << bit).sum();
        halves.extend([run.to_le_bytes(), (!run).to_le_bytes()]);
    }
    let key = |r: &[u8; 16], s: [u8; 16]| {
        let mut key = [0; KEY];
        key[..16].copy_from_slice(r);
        key[16..].copy_from_slice(&s);
        key
    };
    halves.iter().flat_map(|r| [key(r, [0; 16]), key(r, [0xff; 16])]).collect()
}

#[test]
fn extreme_keys_over_extreme_texts() {
    for len in [0, 1, 15, 16, 17, 48, 63, 64, 65, 128, 144, 1024] {
        for fill in [0, 0xff, 0x80, 0x01] {
            let messages: Vec<_> = extreme_keys().into_iter().map(|key| (key, vec![fill; len])).collect();
            check("extreme keys", &messages);
        }
    }
}

/// The longest chain of largest limbs: what the bounds in the engines' documentation have to hold for.
#[test]
fn the_largest_key_over_the_longest_text_of_ones() {
    let longest = vec![0xff; 9000];
    check("the largest", &vec![([0xff; KEY], longest); BATCH]);
}

#[test]
fn extreme_keys_lead_to_every_edge_of_the_accumulator() {
    let mut random = Bytes(3);
    for at in TARGETS {
        let mut messages = Vec::new();
        for (i, key) in extreme_keys().into_iter().enumerate() {
            let (r, _) = halves(&key);
            let reachable = r != BigUint::ZERO;
            for value in edges().iter().skip(i % 7).step_by(7).filter(|_| reachable) {
                let text = text_that_leads_to(value, at, &r, 2 + i % 4, &mut random);
                // Under a small r some values need a block that is none.
                messages.extend(text.map(|text| (key, text)));
            }
        }
        assert!(messages.len() > 200, "{} messages at {at:?}", messages.len());
        check("edges", &messages);
    }
}

#[test]
fn texts_of_random_lengths_under_extreme_and_random_keys() {
    let mut random = Bytes(4);
    for round in 0..40 {
        let keys = extreme_keys();
        let messages: Vec<_> = (0..BATCH)
            .map(|i| {
                let key = if i % 2 == 0 { random.key() } else { keys[random.next() as usize % keys.len()] };
                let len = random.next() as usize % [70, 300, 1500][round % 3];
                (key, random.take(len))
            })
            .collect();
        check("random lengths", &messages);
    }
}

/// The blocks that Wycheproof's vectors give to Poly1305, associated data and lengths included, stand here as a
/// text under the vector's own one-time key: the accumulator takes each value that it takes in the vector, and then
/// one block more.
#[test]
fn the_blocks_of_wycheproofs_vectors_under_their_one_time_keys() {
    let set = TestSet::load(TestName::ChaCha20Poly1305).expect("the vectors are part of the crate");
    let tests = set.test_groups.into_iter().filter(|group| group.nonce_size == 96).flat_map(|group| group.tests);
    let message = |test: wycheproof::aead::Test| {
        let key = test.key[..].try_into().expect("32 bytes");
        let nonce = test.nonce[..].try_into().expect("12 bytes");
        let text = authenticated(&test.aad, &test.ct);
        assert_eq!(text.len() % BLOCK, 0);
        (reference::one_time_key(&key, &nonce), text)
    };
    let messages: Vec<_> = tests.map(message).collect();
    assert!(messages.len() >= 316);
    check("Wycheproof", &messages);
}
