//! How two gateways come by a pair of ports on a relay.

use super::super::fields::{Field, Fields, Writer};
use super::Malformed;
use crate::introduce::MeetingId;

/// A relay's place for one end of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) allocation: u64,
    /// The relay's UDP port that this end sends to, and that the other end's datagrams come from.
    pub(crate) port: u16,
    /// Seconds for which it holds after the last bind.
    pub(crate) lifetime_s: u32,
}

impl Grant {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, Malformed> {
        let port = u16::from_be_bytes(fields.exactly(Field::Port)?);
        if port == 0 {
            return Err(Malformed);
        }
        Ok(Self { allocation: allocation(fields)?, port, lifetime_s: fields.number(Field::Lifetime)? })
    }

    pub(super) fn write(self, fields: &mut Writer<'_>) {
        put_allocation(fields, self.allocation);
        fields.put(Field::Port, &self.port.to_be_bytes());
        fields.put(Field::Lifetime, &self.lifetime_s.to_be_bytes());
    }
}

/// Why a relay grants nothing. The numbers are those of the wire, where 0 is a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RelayRefusal {
    /// The other peer is not known, or not linked: which of them is not told.
    NotLinked,
    /// Its table, or this peer's share of it, is full.
    NoRoom,
    /// It does not relay.
    Disabled,
    /// A reason of a later version.
    Other(u8),
}

impl RelayRefusal {
    const fn from_wire(number: u8) -> Self {
        match number {
            1 => Self::NotLinked,
            2 => Self::NoRoom,
            3 => Self::Disabled,
            other => Self::Other(other),
        }
    }

    const fn wire(self) -> u8 {
        match self {
            Self::NotLinked => 1,
            Self::NoRoom => 2,
            Self::Disabled => 3,
            Self::Other(other) => other,
        }
    }
}

/// What a relay says to a request.
pub(crate) type RelayAnswer = Result<Grant, RelayRefusal>;

pub(super) fn parse_answer(fields: &Fields<'_>) -> Result<RelayAnswer, Malformed> {
    match fields.exactly(Field::Status)? {
        [0] => Grant::parse(fields).map(Ok),
        [refused] => Ok(Err(RelayRefusal::from_wire(refused))),
    }
}

pub(super) fn write_answer(answer: &RelayAnswer, fields: &mut Writer<'_>) {
    match answer {
        Ok(grant) => {
            fields.put(Field::Status, &[0]);
            grant.write(fields);
        }
        Err(refused) => fields.put(Field::Status, &[refused.wire()]),
    }
}

/// From a relay to the other end of what a request was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelayOffer {
    /// With whom, as both ends have asked for it.
    pub(crate) meeting: MeetingId,
    pub(crate) grant: Grant,
}

impl RelayOffer {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, Malformed> {
        Ok(Self { meeting: MeetingId(fields.exactly(Field::Meeting)?), grant: Grant::parse(fields)? })
    }

    pub(super) fn write(&self, fields: &mut Writer<'_>) {
        fields.put(Field::Meeting, &self.meeting.0);
        self.grant.write(fields);
    }
}

pub(super) fn allocation(fields: &Fields<'_>) -> Result<u64, Malformed> {
    fields.exactly(Field::Allocation).map(u64::from_be_bytes)
}

pub(super) fn put_allocation(fields: &mut Writer<'_>, allocation: u64) {
    fields.put(Field::Allocation, &allocation.to_be_bytes());
}
