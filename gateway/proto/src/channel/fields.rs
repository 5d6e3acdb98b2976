//! Fields of a message: type, length, value.
//!
//! Enters: bytes behind a message's header. Leaves: values by type, each at most once. Never does: allocate, or look at
//! more fields than a message can hold.

use super::message::Malformed;

/// Bytes before a field's value: its type, and its length in network order.
const FIELD_HEADER_LEN: usize = 3;

/// Types of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Field {
    /// Skipped; of any length, and as often as wanted.
    Padding = 0,
    /// Eight bytes drawn when a gateway starts.
    Instance = 1,
    /// Four bytes of feature bits.
    Features = 2,
    /// One byte: source ports beside the main one that the sender makes use of as receiver.
    AcceptsPorts = 3,
    /// One byte: a source port by its place; 0 is the main one.
    Slot = 4,
    /// Address (4 or 16 bytes) and port that a datagram was seen to come from.
    Observed = 5,
    /// Eight bytes: packets that came from a source port.
    Packets = 6,
}

/// Known types.
const FIELDS: usize = Field::Packets as usize + 1;

/// The fields of a message.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    values: [Option<&'a [u8]>; FIELDS],
    /// How many were skipped as their types are not known.
    pub(super) ignored: u32,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        while !bytes.is_empty() {
            let (header, rest) = bytes.split_at_checked(FIELD_HEADER_LEN).ok_or(Malformed)?;
            let len = usize::from(u16::from_be_bytes([header[1], header[2]]));
            let (value, rest) = rest.split_at_checked(len).ok_or(Malformed)?;
            match fields.values.get_mut(usize::from(header[0])) {
                _ if header[0] == Field::Padding as u8 => {}
                Some(Some(_)) => return Err(Malformed),
                Some(place) => *place = Some(value),
                None => fields.ignored += 1,
            }
            bytes = rest;
        }
        Ok(fields)
    }

    /// The value of a field that must be there.
    pub(super) fn value(&self, field: Field) -> Result<&'a [u8], Malformed> {
        self.values[field as usize].ok_or(Malformed)
    }

    /// The value of a field that must be there and have this length.
    pub(super) fn exactly<const N: usize>(&self, field: Field) -> Result<[u8; N], Malformed> {
        self.value(field)?.try_into().map_err(|_| Malformed)
    }
}

/// Writes fields one after the other.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut [u8],
    pub(super) len: usize,
}

impl Writer<'_> {
    pub(super) fn put(&mut self, field: Field, value: &[u8]) {
        let (header, rest) = self.out[self.len..].split_at_mut(FIELD_HEADER_LEN);
        header[0] = field as u8;
        header[1..].copy_from_slice(&(value.len() as u16).to_be_bytes());
        rest[..value.len()].copy_from_slice(value);
        self.len += FIELD_HEADER_LEN + value.len();
    }
}
