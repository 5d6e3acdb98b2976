//! RFC 8439 written down a second time, for tests: nothing here is fast, and nothing shares code with an engine.
//!
//! Enters: keys, 96-bit nonces, associated data, texts. Leaves: key stream, tags, and messages made so that Poly1305's
//! accumulator takes a chosen value. Never does: decide whether an engine is right; that is its callers' part.

use num_bigint::BigUint;

/// Bytes of a key, of a tag and of a Poly1305 block.
pub(crate) const KEY: usize = 32;
pub(crate) const TAG: usize = 16;
pub(crate) const BLOCK: usize = 16;

/// A block of ChaCha20 key stream (RFC 8439, section 2.3).
pub(crate) fn chacha20_block(key: &[u8; KEY], nonce: &[u8; 12], counter: u32) -> [u8; 64] {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let mut start = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, counter, 0, 0, 0];
    for (row, bytes) in start[4..12].iter_mut().zip(key.chunks(4)) {
        *row = word(bytes);
    }
    for (row, bytes) in start[13..].iter_mut().zip(nonce.chunks(4)) {
        *row = word(bytes);
    }
    let mut x = start;
    for round in 0..20 {
        for column in 0..4 {
            let row = |n: usize| 4 * n + if round % 2 == 0 { column } else { (column + n) % 4 };
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            for (add_to, add, turned, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
                x[add_to] = x[add_to].wrapping_add(x[add]);
                x[turned] = (x[turned] ^ x[add_to]).rotate_left(by);
            }
        }
    }
    let mut out = [0; 64];
    for (bytes, (x, start)) in out.chunks_mut(4).zip(x.iter().zip(start)) {
        bytes.copy_from_slice(&x.wrapping_add(start).to_le_bytes());
    }
    out
}

/// The text with the key stream applied, from block `counter` on.
pub(crate) fn chacha20(key: &[u8; KEY], nonce: &[u8; 12], counter: u32, text: &[u8]) -> Vec<u8> {
    let stream = (counter..).flat_map(|block| chacha20_block(key, nonce, block));
    text.iter().zip(stream).map(|(text, stream)| text ^ stream).collect()
}

/// The prime 2^130 - 5.
pub(crate) fn prime() -> BigUint {
    (BigUint::from(1_u8) << 130) - 5_u8
}

/// The two halves of a one-time key: r clamped, and s.
pub(crate) fn halves(one_time_key: &[u8; KEY]) -> (BigUint, BigUint) {
    let mut r = [0; 16];
    r.copy_from_slice(&one_time_key[..16]);
    for (i, byte) in r.iter_mut().enumerate() {
        *byte &= match i {
            3 | 7 | 11 | 15 => 0x0f,
            4 | 8 | 12 => 0xfc,
            _ => 0xff,
        };
    }
    (BigUint::from_bytes_le(&r), BigUint::from_bytes_le(&one_time_key[16..]))
}

/// The accumulator after one more block of up to 16 bytes.
pub(crate) fn absorb(h: &BigUint, r: &BigUint, block: &[u8]) -> BigUint {
    let m = BigUint::from_bytes_le(block) + (BigUint::from(1_u8) << (8 * block.len()));
    (h + m) * r % prime()
}

/// Poly1305 of a message as it stands (RFC 8439, section 2.5).
pub(crate) fn poly1305(one_time_key: &[u8; KEY], message: &[u8]) -> [u8; TAG] {
    let (r, s) = halves(one_time_key);
    let h = message.chunks(BLOCK).fold(BigUint::ZERO, |h, block| absorb(&h, &r, block));
    let mut tag = (h + s).to_bytes_le();
    tag.resize(tag.len().max(TAG), 0);
    tag[..TAG].try_into().expect("16 bytes")
}

/// What the AEAD's tag covers (RFC 8439, section 2.8).
pub(crate) fn authenticated(associated: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for part in [associated, ciphertext] {
        message.extend(part);
        message.resize(message.len().next_multiple_of(BLOCK), 0);
    }
    message.extend((associated.len() as u64).to_le_bytes());
    message.extend((ciphertext.len() as u64).to_le_bytes());
    message
}

/// The Poly1305 key of a packet.
pub(crate) fn one_time_key(key: &[u8; KEY], nonce: &[u8; 12]) -> [u8; KEY] {
    chacha20_block(key, nonce, 0)[..KEY].try_into().expect("32 bytes")
}

/// Ciphertext and tag.
pub(crate) fn seal(key: &[u8; KEY], nonce: &[u8; 12], associated: &[u8], text: &[u8]) -> Vec<u8> {
    let mut sealed = chacha20(key, nonce, 1, text);
    let tag = poly1305(&one_time_key(key, nonce), &authenticated(associated, &sealed));
    sealed.extend(tag);
    sealed
}

/// WireGuard's nonce: 32 zero bits and the counter.
pub(crate) fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// A sequence of bytes that looks random and is the same in every run.
pub(crate) struct Bytes(pub(crate) u64);

impl Bytes {
    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }

    pub(crate) fn key(&mut self) -> [u8; KEY] {
        self.take(KEY).try_into().expect("32 bytes")
    }
}

/// Values of the accumulator at which a carry, a fold or the last subtraction goes one way or the other: next to zero,
/// to the prime, to the width of a tag, and to every limb of the radices 2^26, 2^44 and 2^51.
pub(crate) fn edges() -> Vec<BigUint> {
    let p = prime();
    let bit = |n: u32| BigUint::from(1_u8) << n;
    let mut edges: Vec<BigUint> = (0..7_u8).map(BigUint::from).collect();
    edges.extend((1..=7_u8).map(|n| &p - n));
    for n in [26, 44, 52, 64, 78, 88, 96, 102, 104, 127, 128, 129] {
        edges.extend([
            bit(n) - 1_u8,
            bit(n),
            bit(n) + 1_u8,
            &p - bit(n),
            (&p >> n) << n,
            (bit(130) - 1_u8 - bit(n)) % &p,
        ]);
    }
    // One limb all ones, the others zero.
    for (low, high) in [(0, 26), (26, 52), (52, 78), (78, 104), (104, 129), (0, 44), (44, 88), (88, 129)] {
        edges.push(bit(high) - bit(low));
    }
    edges
}

/// Where a chosen value stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// In the accumulator behind the last block of the text.
    BehindText,
    /// In the sum of the accumulator and the last block of the text, before the multiplication.
    BeforeMultiplication,
    /// In the accumulator behind the block with the lengths: what is reduced fully and added to s.
    BehindLengths,
}

pub(crate) const TARGETS: [Target; 3] = [Target::BehindText, Target::BeforeMultiplication, Target::BehindLengths];

/// A text of `blocks` blocks, without associated data, that leads Poly1305 under `r` to `value`. `None` where none was
/// found: for r = 0 all but the value 0 is out of reach.
pub(crate) fn text_that_leads_to(
    value: &BigUint,
    at: Target,
    r: &BigUint,
    blocks: usize,
    random: &mut Bytes,
) -> Option<Vec<u8>> {
    let p = prime();
    let inverse = r.modpow(&(&p - 2_u8), &p);
    let lengths = BigUint::from(BLOCK * blocks) << 64;
    let mark = BigUint::from(1_u8) << 128;
    // The sum of accumulator and block, 2^128 included, that the last block of the text is to make.
    let sum = match at {
        Target::BeforeMultiplication => value.clone(),
        Target::BehindText => value * &inverse % &p,
        Target::BehindLengths => {
            let behind_text = (value * &inverse + &p + &p - &mark - lengths) % &p;
            behind_text * &inverse % &p
        }
    };
    (0..64).find_map(|_| {
        let mut text = random.take(BLOCK * (blocks - 1));
        let h = text.chunks(BLOCK).fold(BigUint::ZERO, |h, block| absorb(&h, r, block));
        let block: BigUint = (&sum + &p + &p - h - &mark) % &p;
        let mut bytes = block.to_bytes_le();
        bytes.resize(bytes.len().max(BLOCK), 0);
        (bytes.len() == BLOCK).then(|| {
            text.extend(bytes);
            text
        })
    })
}
