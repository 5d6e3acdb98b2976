//! Replays the corpus of the fuzz target `aead_burst` in `gateway/fuzz`, and bursts of random shape beside it.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../../fuzz/bodies/aead_burst.rs"]
mod aead_burst;

#[test]
fn every_engine_agrees_with_ring_on_the_corpus_of_bursts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/aead_burst");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the corpus is committed") {
        aead_burst::aead_burst(&std::fs::read(entry.expect("an entry").path()).expect("a file"));
        count += 1;
    }
    assert!(count >= 8, "{count} files are in the corpus");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_engine_agrees_with_ring_on_bursts_of_any_shape(keys in any::<u8>(), packets in vec(any::<[u8; 6]>(), 1..=64)) {
        let data: Vec<u8> = [keys].into_iter().chain(packets.into_iter().flatten()).collect();
        aead_burst::aead_burst(&data);
    }

    /// Short packets, most of them whole: what fills batches.
    #[test]
    fn every_engine_agrees_with_ring_on_bursts_of_short_packets(
        keys in 0..4_u8,
        packets in vec((0..300_u16, any::<u8>(), prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], any::<u16>()), 1..=64),
    ) {
        let mut data = vec![keys];
        for (len, key, change, place) in packets {
            data.extend(len.to_le_bytes());
            data.extend([key, change]);
            data.extend(place.to_le_bytes());
        }
        aead_burst::aead_burst(&data);
    }
}
