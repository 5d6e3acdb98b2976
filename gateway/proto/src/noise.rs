//! The handshake Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (paper, sections 5.4.2 to 5.4.5).
//!
//! Enters: keys, messages, a timestamp. Leaves: filled messages, and a pair of transport keys. Never does: draw
//! random numbers, read clocks, or decide whether a message is wanted; macs are [`crate::cookie`]'s.

use blake2::{Blake2s256, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce, Tag};
use hmac::{Mac, SimpleHmac};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::KEY_LEN;
use crate::constants::{CONSTRUCTION, IDENTIFIER};
use crate::message::{Initiation, Response, TAG_LEN};
use crate::timestamp::Timestamp;

/// 32 secret bytes, wiped when dropped.
pub(crate) type Secret = Zeroizing<[u8; KEY_LEN]>;

/// The message does not authenticate, or a key in it is not a point that agrees on anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// The keys of a session.
pub(crate) struct TransportKeys {
    pub(crate) seal: Secret,
    pub(crate) open: Secret,
}

/// What the side that sent an initiation keeps until the response.
pub(crate) struct Initiated {
    symmetric: Symmetric,
    ephemeral: StaticSecret,
}

/// An initiation whose static key is known but not proved.
pub(crate) struct Opened {
    symmetric: Symmetric,
    pub(crate) public_key: [u8; KEY_LEN],
}

/// An authentic initiation.
pub(crate) struct Received {
    symmetric: Symmetric,
    public_key: [u8; KEY_LEN],
    ephemeral: [u8; KEY_LEN],
    pub(crate) timestamp: Timestamp,
}

/// The shared secret of two keys; refused when the public key is of small order.
pub(crate) fn agree(secret: &StaticSecret, public: &[u8; KEY_LEN]) -> Result<Secret, Refused> {
    let shared = secret.diffie_hellman(&PublicKey::from(*public));
    if shared.was_contributory() { Ok(Zeroizing::new(shared.to_bytes())) } else { Err(Refused) }
}

/// BLAKE2s of parts that follow each other.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Writes the fields of an initiation that belong to Noise. `static_static` is the agreement of both static keys.
pub(crate) fn initiate(
    our_public: &[u8; KEY_LEN],
    their_public: &[u8; KEY_LEN],
    static_static: &Secret,
    ephemeral: StaticSecret,
    timestamp: Timestamp,
    message: &mut Initiation,
) -> Result<Initiated, Refused> {
    let mut symmetric = Symmetric::new(their_public);
    message.ephemeral = PublicKey::from(&ephemeral).to_bytes();
    symmetric.mix_hash(&message.ephemeral);
    symmetric.mix_key(&message.ephemeral);
    let key = symmetric.mix_key_to_key(&*agree(&ephemeral, their_public)?);
    symmetric.seal(&key, our_public, &mut message.sealed_static);
    let key = symmetric.mix_key_to_key(&**static_static);
    symmetric.seal(&key, timestamp.as_bytes(), &mut message.sealed_timestamp);
    Ok(Initiated { symmetric, ephemeral })
}

impl Opened {
    /// Learns who claims to have sent an initiation.
    pub(crate) fn new(
        our_secret: &StaticSecret,
        our_public: &[u8; KEY_LEN],
        message: &Initiation,
    ) -> Result<Self, Refused> {
        let mut symmetric = Symmetric::new(our_public);
        symmetric.mix_hash(&message.ephemeral);
        symmetric.mix_key(&message.ephemeral);
        let key = symmetric.mix_key_to_key(&*agree(our_secret, &message.ephemeral)?);
        let mut public_key = [0; KEY_LEN];
        symmetric.open(&key, &message.sealed_static, &mut public_key)?;
        Ok(Self { symmetric, public_key })
    }

    /// Proves it.
    pub(crate) fn authenticate(mut self, static_static: &Secret, message: &Initiation) -> Result<Received, Refused> {
        let key = self.symmetric.mix_key_to_key(&**static_static);
        let mut timestamp = [0; Timestamp::LEN];
        self.symmetric.open(&key, &message.sealed_timestamp, &mut timestamp)?;
        Ok(Received {
            symmetric: self.symmetric,
            public_key: self.public_key,
            ephemeral: message.ephemeral,
            timestamp: Timestamp::from_bytes(timestamp),
        })
    }
}

impl Received {
    /// Writes the fields of the response that belong to Noise.
    pub(crate) fn respond(
        mut self,
        preshared_key: &Secret,
        ephemeral: &StaticSecret,
        message: &mut Response,
    ) -> Result<TransportKeys, Refused> {
        message.ephemeral = PublicKey::from(ephemeral).to_bytes();
        self.symmetric.mix_hash(&message.ephemeral);
        self.symmetric.mix_key(&message.ephemeral);
        self.symmetric.mix_key(&*agree(ephemeral, &self.ephemeral)?);
        self.symmetric.mix_key(&*agree(ephemeral, &self.public_key)?);
        let key = self.symmetric.mix_preshared_key(preshared_key);
        self.symmetric.seal(&key, &[], &mut message.sealed_nothing);
        let (open, seal) = self.symmetric.split();
        Ok(TransportKeys { seal, open })
    }
}

impl Initiated {
    /// Reads the response. The state stays as it was, as a forged response must not end the handshake.
    pub(crate) fn complete(
        &self,
        our_secret: &StaticSecret,
        preshared_key: &Secret,
        message: &Response,
    ) -> Result<TransportKeys, Refused> {
        let mut symmetric = self.symmetric.clone();
        symmetric.mix_hash(&message.ephemeral);
        symmetric.mix_key(&message.ephemeral);
        symmetric.mix_key(&*agree(&self.ephemeral, &message.ephemeral)?);
        symmetric.mix_key(&*agree(our_secret, &message.ephemeral)?);
        let key = symmetric.mix_preshared_key(preshared_key);
        symmetric.open(&key, &message.sealed_nothing, &mut [])?;
        let (seal, open) = symmetric.split();
        Ok(TransportKeys { seal, open })
    }
}

/// Noise's chaining key and transcript hash.
#[derive(Clone)]
struct Symmetric {
    chaining_key: Secret,
    hash: [u8; 32],
}

impl Symmetric {
    /// The state after the pre-message, which is the responder's public key.
    fn new(responder_public: &[u8; KEY_LEN]) -> Self {
        let chaining_key = hash(&[CONSTRUCTION]);
        let named = hash(&[&chaining_key, IDENTIFIER]);
        Self { chaining_key: Zeroizing::new(chaining_key), hash: hash(&[&named, responder_public]) }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        let [chaining_key] = derive(&self.chaining_key, input);
        self.chaining_key = chaining_key;
    }

    fn mix_key_to_key(&mut self, input: &[u8]) -> Secret {
        let [chaining_key, key] = derive(&self.chaining_key, input);
        self.chaining_key = chaining_key;
        key
    }

    fn mix_preshared_key(&mut self, preshared_key: &Secret) -> Secret {
        let [chaining_key, mixed, key] = derive(&self.chaining_key, &**preshared_key);
        self.chaining_key = chaining_key;
        self.mix_hash(&*mixed);
        key
    }

    /// Seals under a key that is used once, and mixes in what was sealed. `sealed` is a tag longer than `plain`.
    fn seal(&mut self, key: &Secret, plain: &[u8], sealed: &mut [u8]) {
        let (text, tag_out) = sealed.split_at_mut(plain.len());
        text.copy_from_slice(plain);
        let tag = ChaCha20Poly1305::new(Key::from_slice(&**key))
            .encrypt_in_place_detached(&Nonce::default(), &self.hash, text)
            .expect("a handshake field is far below the limit of 256 GiB");
        tag_out.copy_from_slice(&tag);
        self.mix_hash(sealed);
    }

    fn open(&mut self, key: &Secret, sealed: &[u8], plain: &mut [u8]) -> Result<(), Refused> {
        let (text, tag) = sealed.split_at(sealed.len() - TAG_LEN);
        plain.copy_from_slice(text);
        ChaCha20Poly1305::new(Key::from_slice(&**key))
            .decrypt_in_place_detached(&Nonce::default(), &self.hash, plain, Tag::from_slice(tag))
            .map_err(|_| Refused)?;
        self.mix_hash(sealed);
        Ok(())
    }

    /// The initiator's sealing and opening key.
    fn split(self) -> (Secret, Secret) {
        let [first, second] = derive(&self.chaining_key, &[]);
        (first, second)
    }
}

/// The paper's KDF_n (HKDF with HMAC-BLAKE2s).
fn derive<const N: usize>(key: &Secret, input: &[u8]) -> [Secret; N] {
    let extracted = Zeroizing::new(hmac(&**key, &[input]));
    let mut previous: Secret = Zeroizing::new([0; KEY_LEN]);
    std::array::from_fn(|i| {
        let count = [i as u8 + 1];
        let parts: [&[u8]; 2] = [if i == 0 { &[] } else { &*previous }, &count];
        let output = Zeroizing::new(hmac(&*extracted, &parts));
        previous.copy_from_slice(&*output);
        output
    })
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <SimpleHmac<Blake2s256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Our static keys and what follows from them.
pub(crate) struct Identity {
    pub(crate) secret: StaticSecret,
    pub(crate) public_key: [u8; KEY_LEN],
}

impl Identity {
    pub(crate) fn new(key: &Secret) -> Self {
        let secret = StaticSecret::from(**key);
        let public_key = PublicKey::from(&secret).to_bytes();
        Self { secret, public_key }
    }
}
