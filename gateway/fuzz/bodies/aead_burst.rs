//! Body of the fuzz target `aead_burst`: every engine beside `ring`, on one burst and its forgeries.

use landbridge_aead::{Engine, Key, Packet, TAG_LEN};

/// Packets of a burst.
const PACKETS: usize = 64;
/// The longest text.
const LONGEST: usize = 9000;
/// Bytes of all texts of a burst, so that one input takes milliseconds.
const TOTAL: usize = 192 << 10;

struct Given {
    key: usize,
    counter: u64,
    len: usize,
    change: u8,
    place: usize,
}

/// The first byte says how many keys there are; then six bytes make a packet: length (two), key and counter, what is
/// changed before opening, and where (two). Texts are made from what they belong to.
pub(crate) fn aead_burst(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let keys: Vec<Key> = (0..=first % 4).map(|i| Key::new(&[first ^ (i * 0x55); 32])).collect();
    let mut total = 0;
    let given: Vec<Given> = rest
        .chunks_exact(6)
        .map(|bytes| Given {
            key: usize::from(bytes[2]) % keys.len(),
            // Counters of both halves, and some that are equal under different keys.
            counter: u64::from(bytes[2]).wrapping_mul(0x0101_0000_0001_0101),
            len: usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % (LONGEST + 1),
            change: bytes[3],
            place: usize::from(u16::from_le_bytes([bytes[4], bytes[5]])),
        })
        .take(PACKETS)
        .take_while(|packet| {
            total += packet.len;
            total <= TOTAL
        })
        .collect();
    let plain: Vec<Box<[u8]>> = given.iter().enumerate().map(|(i, packet)| text(i, packet)).collect();
    let mut sealed = plain.clone();
    for (packet, bytes) in given.iter().zip(&mut sealed) {
        keys[packet.key].seal(packet.counter, bytes);
    }
    let changed: Vec<Box<[u8]>> = given.iter().zip(&sealed).map(|(packet, bytes)| change(packet, bytes)).collect();
    let authentic: Vec<bool> = given
        .iter()
        .zip(&changed)
        .map(|(packet, bytes)| keys[packet.key].open(packet.counter, &mut bytes.clone()).is_ok())
        .collect();
    for engine in engines() {
        let mut packets = plain.clone();
        engine.seal_burst(&mut burst(&keys, &given, &mut packets));
        assert!(packets == sealed, "{engine} seals otherwise");

        let mut packets = changed.clone();
        let mut opened = burst(&keys, &given, &mut packets);
        engine.open_burst(&mut opened);
        let verdicts: Vec<bool> = opened.iter().map(|packet| packet.authentic).collect();
        drop(opened);
        assert_eq!(verdicts, authentic, "{engine}");
        for ((packet, plain), authentic) in packets.iter().zip(&plain).zip(authentic.iter()) {
            let text = packet.len().saturating_sub(TAG_LEN);
            if *authentic {
                assert!(packet[..text] == plain[..text], "{engine} opens otherwise");
            } else if text >= 16 {
                assert!(packet[..text] != plain[..text], "{engine} leaves plaintext of what it refuses");
            }
        }
    }
}

fn engines() -> &'static [Engine] {
    static AVAILABLE: std::sync::OnceLock<Vec<Engine>> = std::sync::OnceLock::new();
    AVAILABLE.get_or_init(|| Engine::available().collect())
}

/// A text and room for its tag; allocated to the byte, so that a sanitizer sees what is read behind it.
fn text(i: usize, packet: &Given) -> Box<[u8]> {
    let mut state = packet.counter ^ (packet.len << 8 | i) as u64;
    (0..packet.len + TAG_LEN)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// The packet as it arrives.
fn change(packet: &Given, sealed: &[u8]) -> Box<[u8]> {
    let mut bytes = sealed.to_vec();
    let at = packet.place % bytes.len();
    match packet.change % 8 {
        // One bit, in the text or in the tag.
        1 => bytes[at] ^= 1 << (packet.change >> 5),
        2 => bytes[packet.len + at % TAG_LEN] ^= 1 << (packet.change >> 5),
        3 => bytes.truncate(at),
        4 => bytes.rotate_left(at),
        5 => bytes.extend([packet.change; 3]),
        6 => bytes[packet.len..].fill(packet.change),
        _ => {}
    }
    bytes.into()
}

fn burst<'a>(keys: &'a [Key], given: &[Given], packets: &'a mut [Box<[u8]>]) -> Vec<Packet<'a>> {
    let packet = |(given, bytes): (&Given, &'a mut Box<[u8]>)| Packet {
        key: &keys[given.key],
        counter: given.counter,
        bytes,
        authentic: false,
    };
    given.iter().zip(packets).map(packet).collect()
}
