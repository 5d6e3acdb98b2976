//! The vectors of RFC 8439.
//!
//! All of them run through the reference of these tests, which knows no limits; those whose nonce begins with 32 zero
//! bits, as WireGuard's do, run through every engine as well. Where such a vector has associated data, which
//! WireGuard's transport has not, its tag is replaced by the reference's for none; its ciphertext stays the RFC's.

use crate::bursts::{Vector, check_at_every_place, check_refused_at_every_place};
use crate::reference as rfc;

const SUNSCREEN: &[u8] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
    sunscreen would be it.";
const DRAFTS: &str = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, \
    replaced, or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference \
    material or to cite them other than as /\u{201c}work in progress./\u{201d}";
const SUBMISSION: &[u8] = b"Any submission to the IETF intended by the Contributor for publication as all or part of \
    an IETF Internet-Draft or RFC and any statement made within the context of an IETF activity is considered an \
    \"IETF Contribution\". Such statements include oral statements in IETF sessions, as well as written and electronic \
    communications made at any time or place, which are addressed to";

fn hex(digits: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn array<const N: usize>(digits: &str) -> [u8; N] {
    hex(digits).try_into().expect("as long as it says")
}

fn counting_from(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first + i as u8)
}

/// Section, key, nonce, text and ciphertext.
type Ciphertext = (&'static str, [u8; 32], [u8; 12], &'static [u8], Vec<u8>);

/// Sections 2.4.2 and A.2 #2: ciphertexts from block 1 on under nonces that fit. Section A.5: one with associated data.
fn ciphertexts() -> [Ciphertext; 3] {
    let mut one = [0; 32];
    one[31] = 1;
    [
        (
            "2.4.2",
            counting_from(0),
            array("000000000000004a00000000"),
            SUNSCREEN,
            hex(concat!(
                "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357",
                "1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736",
                "5af90bbf74a35be6b40b8eedf2785e42874d"
            )),
        ),
        (
            "A.2 #2",
            one,
            array("000000000000000000000002"),
            SUBMISSION,
            hex(concat!(
                "a3fbf07df3fa2fde4f376ca23e82737041605d9f4f4f57bd8cff2c1d4b7955ec2a97948bd3722915c8f3d337f7d37005",
                "0e9e96d647b7c39f56e031ca5eb6250d4042e02785ececfa4b4bb5e8ead0440e20b6e8db09d881a7c6132f420e527950",
                "42bdfa7773d8a9051447b3291ce1411c680465552aa6c405b7764d5e87bea85ad00f8449ed8f72d0d662ab052691ca66",
                "424bc86d2df80ea41f43abf937d3259dc4b2d0dfb48a6c9139ddd7f76966e928e635553ba76c5c879d7b35d49eb2e62b",
                "0871cdac638939e25e8a1e0ef9d5280fa8ca328b351c3c765989cbcf3daa8b6ccc3aaf9f3979c92b3720fc88dc95ed84",
                "a1be059c6499b9fda236e7e818b04b0bc39c1e876b193bfe5569753f88128cc08aaa9b63d1a16f80ef2554d7189c411f",
                "5869ca52c5b83fa36ff216b9c1d30062bebcfd2dc5bce0911934fda79a86f6e698ced759c3ff9b6477338f3da4f9cd85",
                "14ea9982ccafb341b2384dd902f3d1ab7ac61dd29c6f21ba5b862f3730e37cfdc4fd806c22f221"
            )),
        ),
        (
            "A.5",
            array("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"),
            array("000000000102030405060708"),
            DRAFTS.as_bytes(),
            hex(concat!(
                "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0",
                "bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855",
                "9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9",
                "9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a",
                "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130",
                "305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b"
            )),
        ),
    ]
}

#[test]
fn the_reference_makes_every_vector_of_the_rfc() {
    let block = rfc::chacha20_block(&counting_from(0), &array("000000090000004a00000000"), 1);
    let expected = concat!(
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e",
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    );
    assert_eq!(block[..], hex(expected)[..], "2.3.2");
    let key = array("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b");
    let tag = rfc::poly1305(&key, b"Cryptographic Forum Research Group");
    assert_eq!(tag, array("a8061dc1305136c6c22b8baf0c0127a9"), "2.5.2");
    let key = rfc::one_time_key(&counting_from(0x80), &array("000000000001020304050607"));
    assert_eq!(key, array("8ad5a08b905f81cc815040274ab29471a833b637e3fd0da508dbb8e2fdd1a646"), "2.6.2");
    let sealed = rfc::seal(
        &counting_from(0x80),
        &array("070000004041424344454647"),
        &hex("50515253c0c1c2c3c4c5c6c7"),
        SUNSCREEN,
    );
    let expected = concat!(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b",
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc",
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    );
    assert_eq!(sealed, hex(expected), "2.8.2");
    for (name, key, nonce, text, ciphertext) in ciphertexts() {
        assert_eq!(rfc::chacha20(&key, &nonce, 1, text), ciphertext, "{name}");
    }
    let (_, key, nonce, text, _) = &ciphertexts()[2];
    let sealed = rfc::seal(key, nonce, &hex("f33388860000000000004e91"), text);
    assert_eq!(sealed[text.len()..], hex("eead9d67890cbb22392336fea1851f38")[..], "A.5");
}

/// Section A.3, #7 to #11: accumulators around the prime.
#[test]
fn the_reference_makes_the_tags_of_accumulators_around_the_prime() {
    let ones = "ffffffffffffffffffffffffffffffff";
    let r = |low: u8, middle: u8| {
        let mut key = [0; 32];
        (key[0], key[8]) = (low, middle);
        key
    };
    let long = "e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000000000000000000000000000000000001";
    for (name, key, message, tag) in [
        ("#7", r(1, 0), format!("{ones}f0ffffffffffffffffffffffffffffff11{:030}", 0), "05"),
        ("#8", r(1, 0), format!("{ones}fbfefefefefefefefefefefefefefefe{}", "01".repeat(16)), "00"),
        ("#9", r(2, 0), "fdffffffffffffffffffffffffffffff".to_owned(), "faffffffffffffffffffffffffffffff"),
        ("#10", r(1, 4), format!("{long}{:030}", 0), "14000000000000005500000000000000"),
        ("#11", r(1, 4), long[..96].to_owned(), "13"),
    ] {
        assert_eq!(rfc::poly1305(&key, &hex(&message)), array(&format!("{tag:0<32}")), "{name}");
    }
}

#[test]
fn every_engine_makes_the_vectors_whose_nonce_is_of_wireguards_shape_at_every_place_of_a_burst() {
    for (name, key, nonce, text, ciphertext) in ciphertexts() {
        assert_eq!(nonce[..4], [0; 4], "{name}");
        let counter = u64::from_le_bytes(nonce[4..].try_into().expect("eight bytes"));
        let sealed = rfc::seal(&key, &nonce, &[], text);
        assert_eq!(sealed[..text.len()], ciphertext);
        let vector = Vector { name: name.to_owned(), key, counter, text: text.to_vec(), sealed };
        check_at_every_place(&vector);
        for at in [0, text.len() - 1, text.len(), text.len() + 15] {
            let mut forged = vector.sealed.clone();
            forged[at] ^= 1;
            check_refused_at_every_place(&vector, &forged);
        }
    }
}
