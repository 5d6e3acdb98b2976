//! mac1, mac2 and cookies (paper, sections 5.4.4 and 5.4.7): what tells, before any agreement of keys, that a
//! sender knows our public key and owns its address.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use blake2::Blake2sMac;
use blake2::digest::Mac as _;
use blake2::digest::consts::U16;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Key, KeyInit as _, Tag, XChaCha20Poly1305, XNonce};
use rand::RngCore;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::KEY_LEN;
use crate::constants::{COOKIE_LIFETIME, LABEL_COOKIE, LABEL_MAC1};
use crate::message::{CookieReply, MAC_LEN, TYPE_COOKIE_REPLY};
use crate::noise::{Refused, Secret, hash};

/// Whether a handshake message was made for the owner of a public key, by its mac1: what a relay can tell of a message
/// that it cannot open. `message` is an initiation or a response; what is shorter than both macs is made for nobody.
#[must_use]
pub fn is_made_for(public_key: &[u8; KEY_LEN], message: &[u8]) -> bool {
    message.len() > 2 * MAC_LEN && MacKeys::new(public_key).mac1_matches(message)
}

/// The MAC of a source address that its owner puts under its next messages.
pub(crate) type Cookie = [u8; MAC_LEN];

/// The keys that follow from the public key of the side that receives a message.
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(crate) fn new(receiver_public: &[u8; KEY_LEN]) -> Self {
        Self { mac1: hash(&[LABEL_MAC1, receiver_public]), cookie: hash(&[LABEL_COOKIE, receiver_public]) }
    }

    /// Whether mac1 at the end of a handshake message is right.
    pub(crate) fn mac1_matches(&self, message: &[u8]) -> bool {
        let (head, macs) = split_macs(message);
        mac(&self.mac1, &[head]).ct_eq(&macs[..MAC_LEN]).into()
    }

    /// Fills mac1 and, when there is a cookie, mac2. Returns mac1.
    pub(crate) fn sign(&self, cookie: Option<&Cookie>, message: &mut [u8]) -> [u8; MAC_LEN] {
        let mac2_at = message.len() - MAC_LEN;
        let mac1_at = mac2_at - MAC_LEN;
        let mac1 = mac(&self.mac1, &[&message[..mac1_at]]);
        message[mac1_at..mac2_at].copy_from_slice(&mac1);
        let mac2 = cookie.map_or([0; MAC_LEN], |cookie| mac(cookie, &[&message[..mac2_at]]));
        message[mac2_at..].copy_from_slice(&mac2);
        mac1
    }

    /// Opens a cookie that answers the message with this mac1.
    pub(crate) fn open_cookie(&self, mac1: &[u8; MAC_LEN], reply: &CookieReply) -> Result<Cookie, Refused> {
        let (text, tag) = reply.sealed_cookie.split_at(MAC_LEN);
        let mut cookie = [0; MAC_LEN];
        cookie.copy_from_slice(text);
        XChaCha20Poly1305::new(Key::from_slice(&self.cookie))
            .decrypt_in_place_detached(XNonce::from_slice(&reply.nonce), mac1, &mut cookie, Tag::from_slice(tag))
            .map_err(|_| Refused)?;
        Ok(cookie)
    }

    fn seal_cookie(&self, mac1: &[u8; MAC_LEN], cookie: &Cookie, reply: &mut CookieReply) {
        let (text, tag_out) = reply.sealed_cookie.split_at_mut(MAC_LEN);
        text.copy_from_slice(cookie);
        let tag = XChaCha20Poly1305::new(Key::from_slice(&self.cookie))
            .encrypt_in_place_detached(XNonce::from_slice(&reply.nonce), mac1, text)
            .expect("a cookie is far below the limit of 256 GiB");
        tag_out.copy_from_slice(&tag);
    }
}

/// Makes cookies from a secret that changes every two minutes.
pub(crate) struct CookieMaker {
    secret: Secret,
    since: Option<Instant>,
}

impl CookieMaker {
    pub(crate) fn new() -> Self {
        Self { secret: Zeroizing::new([0; 32]), since: None }
    }

    /// Whether mac2 at the end of a handshake message is that of the sender's cookie.
    pub(crate) fn mac2_matches(&self, now: Instant, remote: SocketAddr, message: &[u8]) -> bool {
        if !self.is_fresh(now) {
            return false;
        }
        let (head, mac2) = message.split_at(message.len() - MAC_LEN);
        mac(&self.cookie(remote), &[head]).ct_eq(mac2).into()
    }

    /// The reply to a handshake message that came without a valid mac2.
    pub(crate) fn reply(
        &mut self,
        now: Instant,
        rng: &mut impl RngCore,
        keys: &MacKeys,
        remote: SocketAddr,
        sender: u32,
        message: &[u8],
    ) -> CookieReply {
        if !self.is_fresh(now) {
            rng.fill_bytes(&mut *self.secret);
            self.since = Some(now);
        }
        let mut reply = CookieReply {
            kind: TYPE_COOKIE_REPLY.into(),
            receiver: sender.into(),
            nonce: [0; 24],
            sealed_cookie: [0; MAC_LEN + 16],
        };
        rng.fill_bytes(&mut reply.nonce);
        let mut mac1 = [0; MAC_LEN];
        mac1.copy_from_slice(&split_macs(message).1[..MAC_LEN]);
        keys.seal_cookie(&mac1, &self.cookie(remote), &mut reply);
        reply
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) < COOKIE_LIFETIME)
    }

    /// Covers address and port: two senders behind one address translation must not share a cookie.
    fn cookie(&self, remote: SocketAddr) -> Cookie {
        let port = remote.port().to_be_bytes();
        match remote.ip().to_canonical() {
            IpAddr::V4(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
        }
    }
}

fn split_macs(message: &[u8]) -> (&[u8], &[u8]) {
    message.split_at(message.len() - 2 * MAC_LEN)
}

/// Keyed BLAKE2s with 16 bytes of output.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut mac = <Blake2sMac<U16> as blake2::digest::KeyInit>::new_from_slice(key).expect("at most 32 bytes of key");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::new([192, 0, 2, 1].into(), port)
    }

    #[test]
    fn a_cookie_is_good_for_its_address_and_port_and_two_minutes() {
        let keys = MacKeys::new(&[9; 32]);
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut maker = CookieMaker::new();
        let start = Instant::now();
        let mut message = [5; 148];
        let mac1 = keys.sign(None, &mut message);
        assert!(keys.mac1_matches(&message));
        assert!(!maker.mac2_matches(start, remote(1), &message));
        let reply = maker.reply(start, &mut rng, &keys, remote(1), 77, &message);
        let cookie = keys.open_cookie(&mac1, &reply).expect("our own reply");
        assert_eq!(keys.open_cookie(&[0; 16], &reply), Err(Refused));
        keys.sign(Some(&cookie), &mut message);
        let last = start + COOKIE_LIFETIME - std::time::Duration::from_nanos(1);
        assert!(maker.mac2_matches(last, remote(1), &message));
        assert!(!maker.mac2_matches(last, remote(2), &message));
        assert!(!maker.mac2_matches(last, SocketAddr::new([192, 0, 2, 2].into(), 1), &message));
        assert!(!maker.mac2_matches(start + COOKIE_LIFETIME, remote(1), &message));
        let later = maker.reply(start + COOKIE_LIFETIME, &mut rng, &keys, remote(1), 77, &message);
        assert_ne!(keys.open_cookie(&mac1, &later), Ok(cookie));
    }

    #[test]
    fn whom_a_message_is_made_for_is_told_without_opening_it() {
        let mut message = [5; 148];
        MacKeys::new(&[9; 32]).sign(None, &mut message);
        assert!(is_made_for(&[9; 32], &message));
        assert!(!is_made_for(&[8; 32], &message));
        assert!(
            !is_made_for(&[9; 32], &message[..147]) && !is_made_for(&[9; 32], &[0; 32]) && !is_made_for(&[9; 32], &[])
        );
    }

    #[test]
    fn a_changed_bit_anywhere_breaks_mac1() {
        let keys = MacKeys::new(&[9; 32]);
        let mut message = [5; 92];
        keys.sign(None, &mut message);
        for at in 0..92 - MAC_LEN {
            message[at] ^= 1;
            assert!(!keys.mac1_matches(&message), "byte {at}");
            message[at] ^= 1;
        }
        assert!(keys.mac1_matches(&message));
    }
}
