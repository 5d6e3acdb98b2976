//! A handshake with fixed keys, byte for byte. The vectors in `golden/` were computed by other implementations
//! (Python's `noiseprotocol`, `hashlib` and `cryptography`), not by this crate.
//!
//! Every key is one byte repeated: initiator's static 1, responder's static 2, ephemerals 3 and 4, preshared 5.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use x25519_dalek::StaticSecret;
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use crate::cookie::MacKeys;
use crate::message::{CookieReply, Initiation, Response, TYPE_INITIATION, TYPE_RESPONSE};
use crate::noise::{Identity, Opened, Refused, agree, initiate};
use crate::timestamp::Timestamp;

const INITIATION: &str = include_str!("golden/initiation.hex");
const RESPONSE: &str = include_str!("golden/response.hex");
const KEEPALIVE: &str = include_str!("golden/keepalive.hex");
const DATA: &str = include_str!("golden/data.hex");
const COOKIE_REPLY: &str = include_str!("golden/cookie_reply.hex");

const INITIATOR_INDEX: u32 = 0x0102_0304;
const RESPONDER_INDEX: u32 = 0x0506_0708;
const TIMESTAMP: [u8; 12] = [0x40, 0, 0, 0, 0x5a, 0x5b, 0x5c, 0x5d, 0x0b, 0, 0, 0];
const COOKIE: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn identity(byte: u8) -> Identity {
    Identity::new(&Zeroizing::new([byte; 32]))
}

#[test]
fn both_sides_of_a_handshake_write_the_golden_bytes() {
    let (initiator, responder) = (identity(1), identity(2));
    let preshared_key = Zeroizing::new([5; 32]);
    let static_static = agree(&initiator.secret, &responder.public_key).expect("sound keys");
    let mut message = Initiation::read_from_bytes(&[0; 148]).expect("148 bytes");
    (message.kind, message.sender) = (TYPE_INITIATION.into(), INITIATOR_INDEX.into());
    let initiated = initiate(
        &initiator.public_key,
        &responder.public_key,
        &static_static,
        StaticSecret::from([3; 32]),
        Timestamp::from_bytes(TIMESTAMP),
        &mut message,
    )
    .expect("sound keys");
    let mac1 = MacKeys::new(&responder.public_key).sign(None, message.as_mut_bytes());
    assert_eq!(message.as_bytes(), bytes(INITIATION));

    let reply = CookieReply::read_from_bytes(&bytes(COOKIE_REPLY)).expect("64 bytes");
    assert_eq!(MacKeys::new(&responder.public_key).open_cookie(&mac1, &reply), Ok(COOKIE));

    let opened = Opened::new(&responder.secret, &responder.public_key, &message).expect("authentic");
    assert_eq!(opened.public_key, initiator.public_key);
    let received = opened.authenticate(&static_static, &message).expect("authentic");
    assert_eq!(received.timestamp, Timestamp::from_bytes(TIMESTAMP));
    let mut response = Response::read_from_bytes(&[0; 92]).expect("92 bytes");
    (response.kind, response.sender) = (TYPE_RESPONSE.into(), RESPONDER_INDEX.into());
    response.receiver = INITIATOR_INDEX.into();
    let ephemeral = StaticSecret::from([4; 32]);
    let theirs = received.respond(&preshared_key, &ephemeral, &mut response).expect("sound keys");
    MacKeys::new(&initiator.public_key).sign(Some(&COOKIE), response.as_mut_bytes());
    assert_eq!(response.as_bytes(), bytes(RESPONSE));

    let wrong = initiated.complete(&initiator.secret, &Zeroizing::new([6; 32]), &response);
    assert_eq!(wrong.err(), Some(Refused));
    let ours = initiated.complete(&initiator.secret, &preshared_key, &response).expect("authentic");
    assert_eq!((&ours.seal, &ours.open), (&theirs.open, &theirs.seal));
    let mut keepalive = bytes(KEEPALIVE);
    assert_eq!(landbridge_aead::Key::new(&theirs.open).open(0, &mut keepalive[16..]), Ok(0));
    let mut data = bytes(DATA);
    assert_eq!(landbridge_aead::Key::new(&ours.open).open(0, &mut data[16..]), Ok(16));
    assert_eq!(&data[16..32], b"0123456789abcdef");
}

#[test]
fn one_changed_bit_anywhere_in_a_message_is_refused() {
    let (initiator, responder) = (identity(1), identity(2));
    let static_static = agree(&initiator.secret, &responder.public_key).expect("sound keys");
    let authentic = bytes(INITIATION);
    // Behind type and sender, which Noise does not cover, and before the macs.
    for at in 8..116 {
        let mut forged = authentic.clone();
        forged[at] ^= 0x20;
        let message = Initiation::read_from_bytes(&forged).expect("148 bytes");
        let received = Opened::new(&responder.secret, &responder.public_key, &message)
            .and_then(|opened| opened.authenticate(&static_static, &message));
        assert!(received.is_err(), "byte {at}");
    }
}

#[test]
fn points_of_small_order_agree_on_nothing() {
    let secret = StaticSecret::from([7; 32]);
    let mut one = [0; 32];
    one[0] = 1;
    assert_eq!(agree(&secret, &[0; 32]).err(), Some(Refused));
    assert_eq!(agree(&secret, &one).err(), Some(Refused));
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    rng.fill_bytes(&mut one);
    assert!(agree(&secret, &one).is_ok());
}
