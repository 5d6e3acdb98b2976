//! The vectors of Project Wycheproof for ChaCha20-Poly1305.
//!
//! WireGuard's packets have nonces that begin with 32 zero bits and no associated data; no vector of Wycheproof has
//! both. So all of them prove the reference of these tests, and through it the engines: with the vector's key, text and
//! the last 64 bits of its nonce, by which the vectors whose nonce does begin with zeros keep their ciphertext and
//! their one-time key; and with the vector's forgery, applied to the tag that is right for the shape. The one-time keys
//! and the exact blocks that the vectors give to Poly1305 run through the engines in `src/edges.rs`.

use crate::bursts::{Vector, check_at_every_place, check_refused_at_every_place};
use crate::reference as rfc;
use ::wycheproof::TestResult;
use ::wycheproof::aead::{Test, TestName, TestSet};

fn vectors() -> Vec<Test> {
    let set = TestSet::load(TestName::ChaCha20Poly1305).expect("the vectors are part of the crate");
    let of_96_bits = set.test_groups.into_iter().filter(|group| group.nonce_size == 96 && group.tag_size == 128);
    let vectors: Vec<Test> = of_96_bits.flat_map(|group| group.tests).collect();
    assert!(vectors.len() >= 316, "there are {} vectors", vectors.len());
    vectors
}

fn key(test: &Test) -> [u8; 32] {
    test.key[..].try_into().expect("32 bytes")
}

fn nonce(test: &Test) -> [u8; 12] {
    test.nonce[..].try_into().expect("12 bytes")
}

#[test]
fn the_reference_agrees_with_every_vector() {
    let mut forged = 0;
    for test in vectors() {
        let sealed = rfc::seal(&key(&test), &nonce(&test), &test.aad, &test.pt);
        let given = [&test.ct[..], &test.tag[..]].concat();
        match test.result {
            TestResult::Valid => assert_eq!(sealed, given, "{}: {}", test.tc_id, test.comment),
            TestResult::Invalid => {
                forged += 1;
                assert_eq!(sealed[..test.ct.len()], test.ct[..], "{}: {}", test.tc_id, test.comment);
                assert_ne!(sealed, given, "{}: {}", test.tc_id, test.comment);
            }
            TestResult::Acceptable => panic!("{}: {} leaves it open", test.tc_id, test.comment),
        }
    }
    assert!(forged >= 60, "{forged} forgeries");
}

#[test]
fn every_engine_seals_and_opens_the_vectors_in_wireguards_shape_and_refuses_their_forgeries() {
    let mut with_the_vectors_ciphertext = 0;
    for test in vectors() {
        let (key, full_nonce) = (key(&test), nonce(&test));
        let counter = u64::from_le_bytes(full_nonce[4..].try_into().expect("eight bytes"));
        let text = test.pt.to_vec();
        let sealed = rfc::seal(&key, &rfc::nonce(counter), &[], &text);
        if full_nonce[..4] == [0; 4] {
            with_the_vectors_ciphertext += 1;
            assert_eq!(sealed[..text.len()], test.ct[..], "{}", test.tc_id);
        }
        let vector = Vector { name: format!("{} {}", test.tc_id, test.comment), key, counter, text, sealed };
        if test.result == TestResult::Valid {
            check_at_every_place(&vector);
        } else {
            let right = rfc::seal(&key, &full_nonce, &test.aad, &test.pt);
            let mut forged = vector.sealed.clone();
            let text = vector.text.len();
            for ((forged, right), given) in forged[text..].iter_mut().zip(&right[text..]).zip(&test.tag[..]) {
                *forged ^= right ^ given;
            }
            assert_ne!(forged, vector.sealed);
            check_refused_at_every_place(&vector, &forged);
        }
    }
    assert!(with_the_vectors_ciphertext >= 10, "{with_the_vectors_ciphertext} vectors kept their ciphertext");
}
