//! One packet at every place of a burst, amid others of its key, through every engine.
//!
//! Enters: a key, a counter, a text and what it seals to by another source. Leaves: nothing, or a panic that names the
//! engine and the place. Never does: ask the engine under test what is right.

use landbridge_aead::{Engine, Key, Packet, TAG_LEN};

/// Packets of a burst that holds the packet in question: what the engines take at once.
pub(crate) const PLACES: usize = 16;

/// A packet and what it seals to.
pub(crate) struct Vector {
    /// Names it in a failure.
    pub(crate) name: String,
    /// The key's bytes.
    pub(crate) key: [u8; 32],
    /// The counter of its nonce.
    pub(crate) counter: u64,
    /// The plaintext.
    pub(crate) text: Vec<u8>,
    /// Ciphertext and tag.
    pub(crate) sealed: Vec<u8>,
}

/// Seals and opens the vector at every place of a burst, with every engine. Its neighbours are packets of other
/// counters and lengths under the same key, so that an engine puts them into one batch; what they are to be, `ring`
/// says.
pub(crate) fn check_at_every_place(vector: &Vector) {
    let key = Key::new(&vector.key);
    let len = vector.text.len();
    for engine in Engine::available() {
        for place in 0..PLACES {
            let text = |i: usize| match i {
                _ if i == place => vector.text.clone(),
                // Neighbours of equal length, shorter, longer.
                _ => vec![(i * 23 + place) as u8; [len, len / 2, len + i, 64 + i][i % 4]],
            };
            let counter = |i: usize| if i == place { vector.counter } else { !vector.counter ^ i as u64 };
            let plain: Vec<Vec<u8>> = (0..PLACES).map(text).collect();
            let mut expected = plain.clone();
            for (i, packet) in expected.iter_mut().enumerate() {
                packet.resize(packet.len() + TAG_LEN, 0);
                key.seal(counter(i), packet);
            }
            expected[place].clone_from(&vector.sealed);

            let mut packets = plain.clone();
            packets.iter_mut().for_each(|packet| packet.resize(packet.len() + TAG_LEN, 0));
            engine.seal_burst(&mut burst(&key, &mut packets, counter));
            assert!(packets == expected, "{}: {engine:?} seals otherwise at place {place}", vector.name);

            let mut opened = burst(&key, &mut packets, counter);
            engine.open_burst(&mut opened);
            assert!(opened.iter().all(|packet| packet.authentic), "{}: {engine:?} refuses, {place}", vector.name);
            drop(opened);
            for (packet, plain) in packets.iter().zip(&plain) {
                assert!(packet[..plain.len()] == plain[..], "{}: {engine:?} opens otherwise, {place}", vector.name);
            }
        }
    }
}

/// Opens `sealed`, which is not authentic, at every place of a burst with every engine: it alone is refused, and what
/// it may have held does not come out.
pub(crate) fn check_refused_at_every_place(vector: &Vector, sealed: &[u8]) {
    let key = Key::new(&vector.key);
    for engine in Engine::available() {
        for place in 0..PLACES {
            let counter = |i: usize| if i == place { vector.counter } else { !vector.counter ^ i as u64 };
            let mut packets: Vec<Vec<u8>> = (0..PLACES).map(|i| vec![i as u8; sealed.len()]).collect();
            for (i, packet) in packets.iter_mut().enumerate() {
                key.seal(counter(i), packet);
            }
            packets[place].copy_from_slice(sealed);
            let mut opened = burst(&key, &mut packets, counter);
            engine.open_burst(&mut opened);
            for (i, packet) in opened.iter().enumerate() {
                assert_eq!(packet.authentic, i != place, "{}: {engine:?}, place {place}, packet {i}", vector.name);
            }
            drop(opened);
            let text = &packets[place][..sealed.len() - TAG_LEN];
            assert!(text.len() < 16 || text != vector.text, "{}: {engine:?} leaves plaintext, {place}", vector.name);
        }
    }
}

/// A burst of packets of one key.
pub(crate) fn burst<'a>(key: &'a Key, packets: &'a mut [Vec<u8>], counter: impl Fn(usize) -> u64) -> Vec<Packet<'a>> {
    let packet = |(i, bytes)| Packet { key, counter: counter(i), bytes, authentic: false };
    packets.iter_mut().map(Vec::as_mut_slice).enumerate().map(packet).collect()
}
