//! ChaCha20-Poly1305 (RFC 8439) over bursts of packets, as WireGuard's transport data uses it.
//!
//! Enters: a key, a 64-bit counter and a packet's bytes, or a burst of such triples. Leaves: the same
//! bytes sealed or opened in place. Never does: allocate, keep state between calls, or decide about
//! counters, replays and lifetimes; those belong to `landbridge-proto`.
//!
//! The nonce is 32 zero bits followed by the counter in little endian, and the associated data is empty
//! (WireGuard paper, section 5.4.6). Engines that work across packets stand behind [`seal_burst`] and
//! [`open_burst`], so their callers never learn which one runs.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod by_ring;
#[cfg(all(test, target_arch = "x86_64"))]
mod edges;
mod engine;
#[cfg(target_arch = "x86_64")]
mod multibuffer;
mod prefetch;
#[cfg(target_arch = "x86_64")]
mod schedule;
#[cfg(target_arch = "x86_64")]
mod texts;
#[cfg(target_arch = "x86_64")]
mod wipe;

pub use engine::{Engine, EngineUnavailable, select};
pub use prefetch::prefetch;

use zeroize::Zeroize;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

/// Bytes that sealing adds behind the plaintext.
pub const TAG_LEN: usize = 16;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// The one thing that opening reports: the tag does not belong to these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadTag;

impl core::fmt::Display for BadTag {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("authentication tag does not match")
    }
}

impl core::error::Error for BadTag {}

/// A transport key, ready to use for one direction of one session.
///
/// The key words of engines across packets are wiped on drop. `ring` gives no handle for wiping its
/// own copy; the bytes handed to [`Key::new`] are the caller's to wipe.
#[repr(C)]
pub struct Key {
    words: [u32; 8],
    /// Half a kilobyte, of which this algorithm uses a part: behind the rest, so that that lies beside what is before it.
    ring: LessSafeKey,
}

impl Drop for Key {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Prepares a key.
    #[must_use]
    pub fn new(bytes: &[u8; KEY_LEN]) -> Self {
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, bytes);
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let ring = LessSafeKey::new(unbound.expect("32 bytes are a ChaCha20-Poly1305 key"));
        Self { words, ring }
    }

    /// Asks for what the engine in use reads of the key: see [`prefetch()`].
    #[inline]
    pub fn prefetch(&self) {
        if Engine::in_use() == Engine::Ring {
            prefetch(&self.ring);
        } else {
            prefetch(&self.words);
        }
    }

    /// Seals the plaintext in `packet[..packet.len() - TAG_LEN]` in place and writes the tag behind it.
    ///
    /// # Panics
    /// When `packet` is shorter than [`TAG_LEN`].
    #[inline]
    pub fn seal(&self, counter: u64, packet: &mut [u8]) {
        let (text, tag_out) = packet.split_at_mut(packet.len() - TAG_LEN);
        let tag = self
            .ring
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), text)
            .expect("a packet is far below the limit of 256 GiB");
        tag_out.copy_from_slice(tag.as_ref());
    }

    /// Opens `packet` (ciphertext and tag) in place and returns the plaintext's length.
    ///
    /// # Errors
    /// [`BadTag`] when the packet is shorter than a tag or was not sealed with this key and counter. The
    /// content of `packet` is then unspecified and must not be used.
    #[inline]
    pub fn open(&self, counter: u64, packet: &mut [u8]) -> Result<usize, BadTag> {
        let text_len = packet.len().checked_sub(TAG_LEN).ok_or(BadTag)?;
        let (text, tag) = packet.split_at_mut(text_len);
        let tag = Tag::try_from(&*tag).map_err(|_| BadTag)?;
        self.ring.open_in_place_separate_tag(nonce(counter), Aad::empty(), tag, text, 0..).map_err(|_| BadTag)?;
        Ok(text_len)
    }
}

/// One packet of a burst: its key, its counter and its bytes.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The key of the packet's session and direction.
    pub key: &'a Key,
    /// The session's counter for this packet.
    pub counter: u64,
    /// Sealing: plaintext and room for the tag. Opening: ciphertext and tag.
    pub bytes: &'a mut [u8],
    /// Set by [`open_burst`]: whether the tag was right.
    pub authentic: bool,
}

/// Seals every packet of a burst in place, with the engine in use: see [`Key::seal`].
///
/// # Panics
/// When a packet is shorter than [`TAG_LEN`].
#[inline]
pub fn seal_burst(burst: &mut [Packet<'_>]) {
    Engine::in_use().seal_burst(burst);
}

/// Opens every packet of a burst in place, with the engine in use, and notes in each whether it was
/// authentic: see [`Key::open`].
#[inline]
pub fn open_burst(burst: &mut [Packet<'_>]) {
    Engine::in_use().open_burst(burst);
}

#[inline]
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_packet_opens_and_a_changed_one_does_not() {
        let key = Key::new(&[7; KEY_LEN]);
        for len in [0_usize, 1, 15, 16, 63, 64, 1420, 9000] {
            let mut packet: Vec<u8> = (0..len + TAG_LEN).map(|i| i as u8).collect();
            let plain = packet[..len].to_vec();
            key.seal(len as u64, &mut packet);
            let mut forged = packet.clone();
            forged[len / 2] ^= 0x10;
            assert_eq!(key.open(len as u64, &mut forged), Err(BadTag), "length {len}");
            let mut other_counter = packet.clone();
            assert_eq!(key.open(len as u64 + 1, &mut other_counter), Err(BadTag), "length {len}");
            assert_eq!(key.open(len as u64, &mut packet), Ok(len));
            assert_eq!(packet[..len], plain[..]);
        }
    }

    #[test]
    fn packets_shorter_than_a_tag_are_refused() {
        let key = Key::new(&[0; KEY_LEN]);
        for len in 0..TAG_LEN {
            assert_eq!(key.open(0, &mut vec![0; len]), Err(BadTag));
        }
    }

    #[test]
    fn a_burst_is_its_packets_one_by_one() {
        let keys = [Key::new(&[1; KEY_LEN]), Key::new(&[2; KEY_LEN])];
        let plain: Vec<Vec<u8>> = (0..9_usize).map(|i| vec![i as u8; i * 100 + TAG_LEN]).collect();
        let mut one_by_one = plain.clone();
        for (i, packet) in one_by_one.iter_mut().enumerate() {
            keys[i % 2].seal(i as u64, packet);
        }
        let mut together = plain;
        let mut burst: Vec<Packet<'_>> = together
            .iter_mut()
            .enumerate()
            .map(|(i, bytes)| Packet { key: &keys[i % 2], counter: i as u64, bytes, authentic: false })
            .collect();
        seal_burst(&mut burst);
        drop(burst);
        assert_eq!(together, one_by_one);
        together[4][3] ^= 1;
        let mut burst: Vec<Packet<'_>> = together
            .iter_mut()
            .enumerate()
            .map(|(i, bytes)| Packet { key: &keys[i % 2], counter: i as u64, bytes, authentic: false })
            .collect();
        open_burst(&mut burst);
        let authentic: Vec<bool> = burst.iter().map(|p| p.authentic).collect();
        assert_eq!(authentic, [true, true, true, true, false, true, true, true, true]);
    }
}
