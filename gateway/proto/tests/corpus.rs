//! Replays the corpora of the fuzz targets in `gateway/fuzz`, and many arbitrary inputs beside them.

use std::path::Path;

use landbridge_proto::fuzzing;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

fn replay(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the corpus is committed") {
        run(&std::fs::read(entry.expect("an entry").path()).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

#[test]
fn the_corpus_of_datagrams_is_survived() {
    replay("datagram", fuzzing::datagram);
}

#[test]
fn the_corpus_of_endpoint_operations_is_survived() {
    replay("endpoint_ops", fuzzing::endpoint_ops);
}

#[test]
fn the_corpus_of_the_control_channel_is_survived() {
    replay("channel", fuzzing::channel);
}

#[test]
fn the_corpus_of_what_a_liar_says_is_survived() {
    replay("liar", fuzzing::liar);
}

#[test]
fn a_peer_that_says_anything_is_survived_and_bounded() {
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    for _ in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..60 {
            let mut step = vec![[0, 1, 1, 2, 2, 2, 3, 4][rng.random_range(0..8)], rng.random()];
            // A key, and then fields of the types and lengths that there are.
            step.push(rng.random_range(0..8));
            for _ in 0..rng.random_range(0..6) {
                let (field, len) =
                    [(7, 1), (8, 4), (9, 4), (10, 2), (11, 7), (13, 1), (14, 8), (15, 2), (16, 4), (17, 1)]
                        [rng.random_range(0..10)];
                step.extend([field, 0, len]);
                step.extend((0..len).map(|_| if rng.random() { rng.random_range(0..4) } else { rng.random() }));
            }
            bytes.push(step.len() as u8);
            bytes.extend(step);
        }
        fuzzing::liar(&bytes);
    }
}

#[test]
fn arbitrary_messages_on_the_control_channel_are_survived() {
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    for _ in 0..300 {
        let mut bytes = Vec::new();
        for _ in 0..20 {
            let mut message = vec![0; rng.random_range(0..60)];
            rng.fill_bytes(&mut message);
            if message.len() >= 11 && rng.random_range(0..8) > 0 {
                let kind = rng.random_range(1..12) | (rng.random_range(0..3_u8) / 2 * 0x80);
                message[..4].copy_from_slice(&[1, kind, 0, 0]);
                message[8] = rng.random_range(0..19);
                message[9] = 0;
                message[10] = rng.random_range(0..9);
            }
            bytes.push(message.len() as u8);
            bytes.extend(message);
        }
        fuzzing::channel(&bytes);
    }
}

#[test]
fn arbitrary_datagrams_are_survived() {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    for i in 0..600_usize {
        let mut bytes = vec![0; [148, 92, 64, 32, rng.random_range(0..200)][i % 5]];
        rng.fill_bytes(&mut bytes);
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[(i % 5) as u8 + 1, 0, 0, 0]);
        }
        fuzzing::datagram(&bytes);
    }
}

#[test]
fn arbitrary_operations_keep_sessions_consistent() {
    let mut rng = ChaCha20Rng::from_seed([6; 32]);
    for _ in 0..300 {
        let mut ops = vec![0; 600];
        for pair in ops.chunks_exact_mut(2) {
            // Mostly time and delivery, so that handshakes are completed.
            pair[0] = rng.random_range(0..12) | (rng.random_range(0..2_u8) << 7);
            if rng.random_range(0..2) == 0 {
                pair[0] &= 0x81;
            }
            pair[1] = rng.random();
        }
        fuzzing::endpoint_ops(&ops);
    }
}
