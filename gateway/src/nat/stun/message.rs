//! STUN messages (RFC 8489), with the attributes of RFC 5780 that tell a NAT's behaviour.
//!
//! Enters: what to ask, or the bytes of an answer. Leaves: the bytes of a request, or an [`Answer`]. Never does: take a
//! message apart that nobody waits for; [`super::client`] looks at transaction and source first.

use std::net::SocketAddr;

use landbridge_proto::DropReason;
use stun_types::attribute::{
    Attribute as _, AttributeFromRaw as _, AttributeStaticType as _, AttributeType, ErrorCode, MappedSocketAddr,
    RawAttribute, XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageType, MessageWrite as _, MessageWriteExt as _, MessageWriteMutSlice,
    TransactionId,
};

/// Bytes of a message's header, RFC 8489 section 5.
pub const HEADER: usize = 20;
/// Bytes of an attribute's header, RFC 8489 section 14.
const ATTRIBUTE_HEADER: usize = 4;
/// Bytes of the attribute [`CHANGE_REQUEST`].
const CHANGE: usize = ATTRIBUTE_HEADER + 4;
/// The largest request: the payload of an Ethernet frame of 9,000 bytes.
pub const REQUEST_MAX: usize = 9000;

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// RFC 8489 section 14.1.
const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);
/// RFC 5780 section 7.2.
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
/// RFC 5780 section 7.4.
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);
/// Fills a request up to a size. An attribute that no server knows and every one has to pass over (RFC 8489 section 14): the
/// PADDING of RFC 5780 would be refused by servers without it, and make the answer large as well.
const FILLING: AttributeType = AttributeType::new(0xfff0);
/// Attributes of answers whose number says that they must be understood. Those that a server may add for others, and the
/// ones of RFC 3489, mean nothing here.
const UNDERSTOOD: [u16; 13] = [1, 3, 4, 5, 6, 8, 9, 0xa, 0xb, 0x1c, 0x20, 0x26, 0x27];

/// From where a server is to answer, RFC 5780 section 7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Change {
    /// From where it was asked.
    #[default]
    Nothing,
    /// From its other port.
    Port,
    /// From its other address and port.
    AddressAndPort,
}

/// What a server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Where it saw the request come from.
    Mapped {
        /// The address and port.
        mapped: SocketAddr,
        /// The server's other address and port, where it can answer from them (RFC 5780).
        other: Option<SocketAddr>,
    },
    /// An error: its code, RFC 8489 section 14.8.
    Refused(u16),
}

/// Whether a datagram is of STUN and not of WireGuard, whose messages have zeros behind their type.
#[must_use]
pub fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[0] & 0xc0 == 0 && bytes[4..8] == MAGIC_COOKIE && bytes[1..4] != [0; 3]
}

/// The transaction of a datagram that [`is_stun`], as it is on the wire.
pub(super) fn transaction(bytes: &[u8]) -> Option<[u8; 12]> {
    bytes.get(8..HEADER)?.try_into().ok()
}

/// Whether a datagram that [`is_stun`] asks rather than answers.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    bytes
        .get(..2)
        .and_then(|bytes| MessageType::from_bytes(bytes).ok())
        .is_some_and(|kind| kind.has_class(MessageClass::Request) && kind.has_method(BINDING))
}

/// Writes a Binding request of `size` bytes, or as small as it can be. Returns its length.
pub(super) fn write_request(transaction: [u8; 12], change: Change, size: usize, buffer: &mut [u8]) -> usize {
    let mut id = [0; 16];
    id[4..].copy_from_slice(&transaction);
    let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
    let out = MessageWriteMutSlice::new(buffer);
    let mut message = Message::builder(kind, TransactionId::from(u128::from_be_bytes(id)), out);
    let mut length = HEADER;
    let flags: Option<u8> = match change {
        Change::Nothing => None,
        Change::Port => Some(0b010),
        Change::AddressAndPort => Some(0b110),
    };
    if let Some(flags) = flags {
        let value = [0, 0, 0, flags];
        if message.add_attribute(&RawAttribute::new(CHANGE_REQUEST, &value)).is_ok() {
            length += CHANGE;
        }
    }
    // Attributes end at multiples of four.
    if let Some(filling) = size.min(REQUEST_MAX).checked_sub(length + ATTRIBUTE_HEADER) {
        let value = vec![0; filling & !3];
        // The buffer holds REQUEST_MAX; a smaller one gets a smaller request.
        let _ = message.add_attribute(&RawAttribute::new(FILLING, &value));
    }
    message.finish()
}

/// Reads the answer to a request.
///
/// # Errors
/// The reason for which it is worth nothing.
pub(super) fn read_answer(bytes: &[u8]) -> Result<Answer, DropReason> {
    let message = Message::from_bytes(bytes).map_err(|_| DropReason::Malformed)?;
    let length = bytes.get(2..4).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
    if length != Some(bytes.len() - HEADER) || !message.has_method(BINDING) {
        return Err(DropReason::Malformed);
    }
    match message.class() {
        MessageClass::Success => read_success(&message),
        MessageClass::Error => {
            let error = message.attribute::<ErrorCode>().map_err(|_| DropReason::Malformed)?;
            Ok(Answer::Refused(error.code()))
        }
        MessageClass::Request | MessageClass::Indication => Err(DropReason::StunUnexpected),
    }
}

fn read_success(message: &Message<'_>) -> Result<Answer, DropReason> {
    let (mut mapped, mut plain, mut other) = (None, None, None);
    for (_, attribute) in message.iter_attributes() {
        let kind = attribute.get_type();
        if kind == XorMappedAddress::TYPE {
            let address = XorMappedAddress::from_raw_ref(&attribute).map_err(|_| DropReason::Malformed)?;
            mapped = mapped.or(Some(address.addr(message.transaction_id())));
        } else if kind == MAPPED_ADDRESS {
            plain = plain.or(Some(address(&attribute)?));
        } else if kind == OTHER_ADDRESS {
            other = other.or(Some(address(&attribute)?));
        } else if kind.comprehension_required() && !UNDERSTOOD.contains(&kind.value()) {
            // RFC 8489 section 6.3.3: such an answer is none.
            return Err(DropReason::Malformed);
        }
    }
    let mapped = mapped.or(plain).map(canonical).filter(is_place).ok_or(DropReason::Malformed)?;
    Ok(Answer::Mapped { mapped, other: other.map(canonical).filter(is_place) })
}

fn address(attribute: &RawAttribute<'_>) -> Result<SocketAddr, DropReason> {
    MappedSocketAddr::from_raw(attribute).map(|address| address.addr()).map_err(|_| DropReason::Malformed)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether anything can be sent there at all.
fn is_place(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 section 2.2: the answer over IPv4.
    const ANSWER_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112\
                             a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
    /// RFC 5769 section 2.3: the answer over IPv6.
    const ANSWER_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113\
                             a9faa5d3f179bc25f4b5bed2b9d90008001\
                             4a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(text, 16).expect("hexadecimal")
        };
        digits.chunks(2).map(byte).collect()
    }

    fn mapped(text: &str) -> Answer {
        Answer::Mapped { mapped: text.parse().expect("an address"), other: None }
    }

    #[test]
    fn the_answers_of_rfc_5769_are_read() {
        assert_eq!(read_answer(&bytes(ANSWER_V4)), Ok(mapped("192.0.2.1:32853")));
        assert_eq!(read_answer(&bytes(ANSWER_V6)), Ok(mapped("[2001:db8:1234:5678:11:2233:4455:6677]:32853")));
    }

    #[test]
    fn an_answer_with_any_byte_changed_is_the_same_one_or_none() {
        let good = bytes(ANSWER_V4);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // Its FINGERPRINT covers all before it; without that one it is what RFC 3489 had.
            let same = at >= 72 && read_answer(&bad) == read_answer(&good);
            assert!(same || read_answer(&bad).is_err(), "byte {at}");
        }
        for end in 0..good.len() {
            assert!(read_answer(&good[..end]).is_err(), "{end} bytes");
        }
        assert!(read_answer(&[good, vec![0; 4]].concat()).is_err(), "what follows it is not part of it");
    }

    #[test]
    fn other_addresses_errors_and_foreign_attributes_are_told_apart() {
        let answer = |kind: u16, attributes: &[(u16, &[u8])]| {
            let body: Vec<u8> = attributes
                .iter()
                .flat_map(|(kind, value)| {
                    [&kind.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
                })
                .collect();
            let header =
                [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), &MAGIC_COOKIE, &[7; 12]].concat();
            read_answer(&[header, body].concat())
        };
        let place = [0, 1, 0x0d, 0x96, 192, 0, 2, 7];
        let other = Answer::Mapped {
            mapped: "192.0.2.7:3478".parse().expect("an address"),
            other: Some("192.0.2.7:3478".parse().expect("an address")),
        };
        assert_eq!(answer(0x0101, &[(1, &place), (0x802c, &place)]), Ok(other));
        assert_eq!(answer(0x0111, &[(9, &[0, 0, 4, 20])]), Ok(Answer::Refused(420)));
        assert_eq!(answer(0x0101, &[]), Err(DropReason::Malformed), "no address");
        assert_eq!(answer(0x0101, &[(1, &place), (0x0077, &[0; 4])]), Err(DropReason::Malformed), "must be understood");
        assert!(answer(0x0101, &[(1, &place), (0x8077, &[0; 4])]).is_ok(), "may be passed over");
        assert_eq!(answer(0x0101, &[(1, &[0, 1, 0, 0, 192, 0, 2, 7])]), Err(DropReason::Malformed), "port 0");
        assert_eq!(answer(0x0101, &[(1, &[0, 3, 1, 1, 192, 0, 2, 7])]), Err(DropReason::Malformed), "no family");
        assert_eq!(answer(0x0101, &[(0x20, &[0, 1, 0])]), Err(DropReason::Malformed), "truncated");
        assert_eq!(answer(0x0001, &[]), Err(DropReason::StunUnexpected));
    }

    #[test]
    fn requests_are_as_large_as_asked_for_and_say_what_to_change() {
        let mut buffer = [0xaa; REQUEST_MAX];
        let length = write_request([7; 12], Change::Nothing, 0, &mut buffer);
        assert_eq!(buffer[..length], [&[0, 1, 0, 0][..], &MAGIC_COOKIE, &[7; 12]].concat()[..]);
        assert!(is_stun(&buffer[..length]) && is_request(&buffer[..length]));
        let length = write_request([7; 12], Change::AddressAndPort, 0, &mut buffer);
        assert_eq!(buffer[HEADER..length], [0, 3, 0, 4, 0, 0, 0, 6]);
        for size in [24, 28, 576, 1232, 1472, REQUEST_MAX] {
            assert_eq!(write_request([7; 12], Change::Nothing, size, &mut buffer), size);
            assert_eq!(transaction(&buffer), Some([7; 12]));
        }
        assert_eq!(write_request([7; 12], Change::Nothing, 1475, &mut buffer), 1472);
        assert_eq!(write_request([7; 12], Change::Port, 1472, &mut buffer), 1472);
        assert_eq!(write_request([7; 12], Change::Nothing, usize::MAX, &mut buffer), REQUEST_MAX);
    }

    #[test]
    fn wireguard_is_no_stun_even_where_its_index_is_the_cookie() {
        for kind in 1..=4 {
            let mut message = [0; 148];
            message[0] = kind;
            message[4..8].copy_from_slice(&MAGIC_COOKIE);
            assert!(!is_stun(&message));
        }
        assert!(is_stun(&bytes(ANSWER_V4)) && !is_stun(&bytes(ANSWER_V4)[..19]) && !is_stun(b""));
    }
}
