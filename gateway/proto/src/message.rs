//! The messages on the wire (paper, section 5.4), from bytes to typed references in one step.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::DropReason;

/// Bytes of mac1 and of mac2.
pub(crate) const MAC_LEN: usize = 16;
/// Bytes of an AEAD tag.
pub(crate) const TAG_LEN: usize = landbridge_aead::TAG_LEN;
/// Bytes of a TAI64N timestamp.
pub(crate) const TIMESTAMP_LEN: usize = 12;

pub(crate) const TYPE_INITIATION: u32 = 1;
pub(crate) const TYPE_RESPONSE: u32 = 2;
pub(crate) const TYPE_COOKIE_REPLY: u32 = 3;
pub(crate) const TYPE_DATA: u32 = 4;

/// Section 5.4.2.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Initiation {
    pub(crate) kind: U32,
    pub(crate) sender: U32,
    pub(crate) ephemeral: [u8; 32],
    pub(crate) sealed_static: [u8; 32 + TAG_LEN],
    pub(crate) sealed_timestamp: [u8; TIMESTAMP_LEN + TAG_LEN],
    pub(crate) mac1: [u8; MAC_LEN],
    pub(crate) mac2: [u8; MAC_LEN],
}

/// Section 5.4.3.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Response {
    pub(crate) kind: U32,
    pub(crate) sender: U32,
    pub(crate) receiver: U32,
    pub(crate) ephemeral: [u8; 32],
    pub(crate) sealed_nothing: [u8; TAG_LEN],
    pub(crate) mac1: [u8; MAC_LEN],
    pub(crate) mac2: [u8; MAC_LEN],
}

/// Section 5.4.7.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct CookieReply {
    pub(crate) kind: U32,
    pub(crate) receiver: U32,
    pub(crate) nonce: [u8; 24],
    pub(crate) sealed_cookie: [u8; MAC_LEN + TAG_LEN],
}

/// Section 5.4.6: what stands before the sealed packet.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DataHeader {
    pub(crate) kind: U32,
    pub(crate) receiver: U32,
    pub(crate) counter: U64,
}

/// Bytes of an initiation, the largest message that is no transport data.
pub(crate) const INITIATION_LEN: usize = size_of::<Initiation>();
/// Bytes of a response.
pub(crate) const RESPONSE_LEN: usize = size_of::<Response>();
/// Bytes of a cookie reply.
pub(crate) const COOKIE_REPLY_LEN: usize = size_of::<CookieReply>();
/// Bytes of a keepalive: transport data without a packet.
pub(crate) const KEEPALIVE_LEN: usize = size_of::<DataHeader>() + TAG_LEN;

const _: () = assert!(INITIATION_LEN == 148 && RESPONSE_LEN == 92 && COOKIE_REPLY_LEN == 64 && KEEPALIVE_LEN == 32);

/// A message whose type and length agree; nothing else of it is checked.
pub(crate) enum Message<'a> {
    Initiation(&'a Initiation),
    Response(&'a Response),
    CookieReply(&'a CookieReply),
    Data,
}

impl<'a> Message<'a> {
    /// Tells the messages apart. The three reserved bytes behind the type must be zero, as all known
    /// implementations send them.
    pub(crate) fn parse(datagram: &'a [u8]) -> Result<Self, DropReason> {
        let (kind, _) = U32::ref_from_prefix(datagram).map_err(|_| DropReason::Truncated)?;
        match kind.get() {
            TYPE_INITIATION => exactly(datagram).map(Self::Initiation),
            TYPE_RESPONSE => exactly(datagram).map(Self::Response),
            TYPE_COOKIE_REPLY => exactly(datagram).map(Self::CookieReply),
            TYPE_DATA if datagram.len() < KEEPALIVE_LEN => Err(DropReason::Truncated),
            TYPE_DATA => Ok(Self::Data),
            _ => Err(DropReason::UnknownType),
        }
    }
}

fn exactly<T: FromBytes + KnownLayout + Immutable + Unaligned>(datagram: &[u8]) -> Result<&T, DropReason> {
    T::ref_from_bytes(datagram)
        .map_err(|_| if datagram.len() < size_of::<T>() { DropReason::Truncated } else { DropReason::Malformed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_length_of_a_type_parses() {
        let of = |kind: u8, reserved: u8, len: usize| {
            let mut bytes = vec![0; len];
            bytes[..len.min(4)].copy_from_slice(&[kind, 0, reserved, 0][..len.min(4)]);
            Message::parse(&bytes).map(|_| ())
        };
        for (kind, len) in [(1, 148), (2, 92), (3, 64)] {
            assert_eq!(of(kind, 0, len), Ok(()));
            assert_eq!(of(kind, 0, len - 1), Err(DropReason::Truncated));
            assert_eq!(of(kind, 0, len + 1), Err(DropReason::Malformed));
            assert_eq!(of(kind, 1, len), Err(DropReason::UnknownType));
        }
        assert_eq!(of(4, 0, 32), Ok(()));
        assert_eq!(of(4, 0, 31), Err(DropReason::Truncated));
        assert_eq!(of(0, 0, 148), Err(DropReason::UnknownType));
        assert_eq!(of(5, 0, 148), Err(DropReason::UnknownType));
        for len in 0..4 {
            assert_eq!(of(1, 0, len), Err(DropReason::Truncated));
        }
    }
}
