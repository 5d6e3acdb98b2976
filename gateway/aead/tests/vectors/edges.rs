//! Poly1305 at its edges, through what is public: packets whose ciphertext leads the accumulator to chosen values.
//!
//! The one-time key follows from key and counter, so r and s are as random as in use; the ciphertext is then made by
//! big integers such that the accumulator meets the value, and sealing the text behind it must give the reference's
//! tag. Chosen r and s are in `src/edges.rs`.

use crate::bursts::{PLACES, Vector, burst, check_at_every_place};
use crate::reference as rfc;
use crate::reference::{BLOCK, Bytes, TARGETS, Target};
use landbridge_aead::{Engine, Key, TAG_LEN};
use num_bigint::BigUint;

fn vector(value: &BigUint, at: Target, blocks: usize, random: &mut Bytes) -> Vector {
    let name = format!("{at:?} {value:x} in {blocks} blocks");
    loop {
        let (key, counter) = (random.key(), random.next());
        let nonce = rfc::nonce(counter);
        let (r, _) = rfc::halves(&rfc::one_time_key(&key, &nonce));
        if let Some(ciphertext) = rfc::text_that_leads_to(value, at, &r, blocks, random) {
            let text = rfc::chacha20(&key, &nonce, 1, &ciphertext);
            let sealed = rfc::seal(&key, &nonce, &[], &text);
            assert_eq!(sealed[..text.len()], ciphertext);
            return Vector { name, key, counter, text, sealed };
        }
    }
}

#[test]
fn every_engine_carries_right_at_every_edge_of_the_accumulator() {
    let mut random = Bytes(1);
    for at in TARGETS {
        for (i, value) in rfc::edges().iter().enumerate() {
            // One block alone only where the first one leads there; 5 is inside the second load of 64 bytes.
            check_at_every_place(&vector(value, at, [2, 4, 5, 8][i % 4], &mut random));
        }
    }
}

/// All packets of a batch at an edge at once, so that no lane's carry is lent to its neighbour.
#[test]
fn every_engine_carries_right_in_all_lanes_at_once() {
    let mut random = Bytes(2);
    let edges = rfc::edges();
    for round in 0..12_usize {
        let key_bytes = random.key();
        let first = random.next();
        let counter = |i: usize| first.wrapping_add(i as u64);
        let mut packets = Vec::new();
        for i in 0..PLACES {
            let nonce = rfc::nonce(counter(i));
            let (r, _) = rfc::halves(&rfc::one_time_key(&key_bytes, &nonce));
            let value = &edges[(round * PLACES + i) % edges.len()];
            let ciphertext = rfc::text_that_leads_to(value, TARGETS[round % 3], &r, 4, &mut random)
                .unwrap_or_else(|| vec![0xff; 4 * BLOCK]);
            packets.push(rfc::chacha20(&key_bytes, &nonce, 1, &ciphertext));
        }
        let expected: Vec<Vec<u8>> =
            (0..).zip(&packets).map(|(i, text)| rfc::seal(&key_bytes, &rfc::nonce(counter(i)), &[], text)).collect();
        packets.iter_mut().for_each(|packet| packet.resize(packet.len() + TAG_LEN, 0));
        let key = Key::new(&key_bytes);
        for engine in Engine::available() {
            let mut sealed = packets.clone();
            engine.seal_burst(&mut burst(&key, &mut sealed, counter));
            assert!(sealed == expected, "{engine:?}, round {round}");
            let mut opened = burst(&key, &mut sealed, counter);
            engine.open_burst(&mut opened);
            assert!(opened.iter().all(|packet| packet.authentic), "{engine:?}, round {round}");
        }
    }
}
