//! Fields of a message: type, length, value.
//!
//! Enters: bytes behind a message's header. Leaves: values by type, each at most once but for candidates, of which there
//! may be several. Never does: allocate, or look at more fields than a message can hold.

use std::net::{IpAddr, SocketAddr};

use super::message::Malformed;
use crate::candidate::CANDIDATES_MAX;

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
    /// One byte: what a probe of a path is for.
    Purpose = 7,
    /// Four bytes: milliseconds until something is done.
    Delay = 8,
    /// Four bytes: which of several sets of candidates is newer.
    Generation = 9,
    /// Two bytes: mapping and filtering behaviour of the sender's NAT.
    Nat = 10,
    /// A candidate: its kind (one byte), address (4 or 16 bytes) and port. As often as wanted, up to [`CANDIDATES_MAX`].
    Candidate = 11,
    /// 32 bytes: two peers that are to meet, as they alone can tell.
    Meeting = 12,
    /// One byte: why a peer is sought no more.
    Stop = 13,
    /// Eight bytes: a relay's allocation.
    Allocation = 14,
    /// Two bytes: a UDP port.
    Port = 15,
    /// Four bytes: seconds for which something holds unless it is renewed.
    Lifetime = 16,
    /// One byte: what became of a request.
    Status = 17,
}

/// Known types.
const FIELDS: usize = Field::Status as usize + 1;

/// The fields of a message.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    values: [Option<&'a [u8]>; FIELDS],
    candidates: [&'a [u8]; CANDIDATES_MAX],
    candidate_count: usize,
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
                _ if header[0] == Field::Candidate as u8 => fields.add_candidate(value)?,
                Some(Some(_)) => return Err(Malformed),
                Some(place) => *place = Some(value),
                None => fields.ignored += 1,
            }
            bytes = rest;
        }
        Ok(fields)
    }

    fn add_candidate(&mut self, value: &'a [u8]) -> Result<(), Malformed> {
        *self.candidates.get_mut(self.candidate_count).ok_or(Malformed)? = value;
        self.candidate_count += 1;
        Ok(())
    }

    /// Values of all candidates.
    pub(super) fn candidates(&self) -> &[&'a [u8]] {
        &self.candidates[..self.candidate_count]
    }

    /// Whether a field is there.
    pub(super) const fn has(&self, field: Field) -> bool {
        self.values[field as usize].is_some()
    }

    /// The value of a field that must be there.
    pub(super) fn value(&self, field: Field) -> Result<&'a [u8], Malformed> {
        self.values[field as usize].ok_or(Malformed)
    }

    /// The value of a field that must be there and have this length.
    pub(super) fn exactly<const N: usize>(&self, field: Field) -> Result<[u8; N], Malformed> {
        self.value(field)?.try_into().map_err(|_| Malformed)
    }

    /// A number of four bytes that must be there.
    pub(super) fn number(&self, field: Field) -> Result<u32, Malformed> {
        self.exactly(field).map(u32::from_be_bytes)
    }
}

/// Writes fields one after the other.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut [u8],
    pub(super) len: usize,
}

impl Writer<'_> {
    pub(super) fn put(&mut self, field: Field, value: &[u8]) {
        self.put_all(field, &[value]);
    }

    /// One field of several pieces.
    pub(super) fn put_all(&mut self, field: Field, pieces: &[&[u8]]) {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let (header, mut rest) = self.out[self.len..].split_at_mut(FIELD_HEADER_LEN);
        header[0] = field as u8;
        header[1..].copy_from_slice(&(len as u16).to_be_bytes());
        for piece in pieces {
            let (place, behind) = rest.split_at_mut(piece.len());
            place.copy_from_slice(piece);
            rest = behind;
        }
        self.len += FIELD_HEADER_LEN + len;
    }

    /// A place, behind `before`.
    pub(super) fn put_place(&mut self, field: Field, before: &[u8], place: SocketAddr) {
        let port = place.port().to_be_bytes();
        match place.ip() {
            IpAddr::V4(ip) => self.put_all(field, &[before, &ip.octets(), &port]),
            IpAddr::V6(ip) => self.put_all(field, &[before, &ip.octets(), &port]),
        }
    }

    /// Padding up to a length, where there is room for a field.
    pub(super) fn pad_to(&mut self, len: usize) {
        let Some(zeros) = len.checked_sub(self.len + FIELD_HEADER_LEN) else { return };
        self.out[self.len] = Field::Padding as u8;
        self.out[self.len + 1..self.len + FIELD_HEADER_LEN].copy_from_slice(&(zeros as u16).to_be_bytes());
        self.out[self.len + FIELD_HEADER_LEN..len].fill(0);
        self.len = len;
    }
}

/// A place: address (4 or 16 bytes) and port, which is not 0.
pub(super) fn place(value: &[u8]) -> Result<SocketAddr, Malformed> {
    let (ip, port) = value.split_last_chunk::<2>().ok_or(Malformed)?;
    let ip = match *ip {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(<[u8; 16]>::try_from(ip).map_err(|_| Malformed)?),
    };
    match u16::from_be_bytes(*port) {
        0 => Err(Malformed),
        port => Ok(SocketAddr::new(ip, port)),
    }
}
