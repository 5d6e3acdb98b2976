//! Every engine against `ring`, over lengths, burst sizes, keys and forgeries.

use landbridge_aead::{Engine, KEY_LEN, Key, Packet, TAG_LEN};
use proptest::collection::vec;
use proptest::prelude::*;

fn burst<'a>(keys: &'a [Key], packets: &'a mut [(usize, u64, Vec<u8>)]) -> Vec<Packet<'a>> {
    packets
        .iter_mut()
        .map(|(key, counter, bytes)| Packet { key: &keys[*key], counter: *counter, bytes, authentic: false })
        .collect()
}

fn packets(most: usize) -> impl Strategy<Value = Vec<(usize, u64, Vec<u8>)>> {
    let len = prop_oneof![4 => 0..200_usize, 2 => Just(1420_usize), 2 => 0..1500_usize, 1 => 0..9000_usize];
    let packet = (0..3_usize, any::<u64>(), len, any::<u64>()).prop_map(|(key, counter, len, seed)| {
        let mut state = seed | 1;
        let bytes = (0..len + TAG_LEN)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        (key, counter, bytes)
    });
    vec(packet, 1..=most)
}

fn keys(seed: u8) -> [Key; 3] {
    [1, 2, 3].map(|n: u8| Key::new(&[n.wrapping_mul(71) ^ seed; KEY_LEN]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_engine_seals_what_ring_seals(plain in packets(70), seed in any::<u8>()) {
        let keys = keys(seed);
        let mut reference = plain.clone();
        for (key, counter, bytes) in &mut reference {
            keys[*key].seal(*counter, bytes);
        }
        for engine in Engine::available() {
            let mut sealed = plain.clone();
            engine.seal_burst(&mut burst(&keys, &mut sealed));
            prop_assert_eq!(&sealed, &reference, "{:?}", engine);
        }
    }

    #[test]
    fn every_engine_opens_what_is_authentic_and_leaves_no_plaintext_of_the_rest(
        plain in packets(40),
        forgeries in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8_u8), 0..6),
        seed in any::<u8>(),
    ) {
        let keys = keys(seed);
        let mut sealed = plain.clone();
        for (key, counter, bytes) in &mut sealed {
            keys[*key].seal(*counter, bytes);
        }
        for (packet, place, bit) in &forgeries {
            let bytes = &mut packet.get_mut(&mut sealed[..]).2;
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
        }
        let authentic: Vec<bool> = sealed
            .iter()
            .map(|(key, counter, bytes)| keys[*key].open(*counter, &mut bytes.clone()).is_ok())
            .collect();
        for engine in Engine::available() {
            let mut opened = sealed.clone();
            let mut packets = burst(&keys, &mut opened);
            engine.open_burst(&mut packets);
            let verdicts: Vec<bool> = packets.iter().map(|packet| packet.authentic).collect();
            prop_assert_eq!(&verdicts, &authentic, "{:?}", engine);
            for (i, (_, _, bytes)) in opened.iter().enumerate() {
                let text = bytes.len() - TAG_LEN;
                if authentic[i] {
                    prop_assert_eq!(&bytes[..text], &plain[i].2[..text], "{:?} packet {}", engine, i);
                } else if text >= 32 {
                    prop_assert_ne!(&bytes[..text], &plain[i].2[..text], "{:?} packet {}", engine, i);
                }
            }
        }
    }
}

#[test]
fn every_length_agrees_in_full_and_in_partial_batches() {
    let key = [Key::new(&[0x42; KEY_LEN])];
    for count in [1, 2, 3, 5, 8, 9, 16, 17, 64] {
        for len in (0..=260).chain([1279, 1280, 1419, 1420, 1421, 8999, 9000]) {
            let plain: Vec<(usize, u64, Vec<u8>)> =
                (0..count).map(|i| (0, i as u64 * 3, vec![(i * 11 + len) as u8; len + TAG_LEN])).collect();
            let mut reference = plain.clone();
            for (_, counter, bytes) in &mut reference {
                key[0].seal(*counter, bytes);
            }
            for engine in Engine::available() {
                let mut sealed = plain.clone();
                engine.seal_burst(&mut burst(&key, &mut sealed));
                assert!(sealed == reference, "{engine:?}: {count} packets of {len} bytes");
            }
        }
    }
}

#[test]
fn a_packet_too_short_for_a_tag_spoils_no_other_packet_of_its_burst() {
    let key = [Key::new(&[9; KEY_LEN])];
    let mut sealed: Vec<(usize, u64, Vec<u8>)> = (0..12).map(|i| (0, i, vec![i as u8; 80 + TAG_LEN])).collect();
    for (_, counter, bytes) in &mut sealed {
        key[0].seal(*counter, bytes);
    }
    sealed[5].2.truncate(TAG_LEN - 1);
    sealed[6].2.clear();
    for engine in Engine::available() {
        let mut opened = sealed.clone();
        let mut packets = burst(&key, &mut opened);
        engine.open_burst(&mut packets);
        for (i, packet) in packets.iter().enumerate() {
            assert_eq!(packet.authentic, i != 5 && i != 6, "{engine:?} packet {i}");
        }
    }
}
