//! Probes: of source ports towards one place, and of paths.

use std::net::SocketAddr;

use super::super::SOURCE_PORTS_MAX;
use super::super::fields::{Field, Fields, Writer, place};
use super::Malformed;

/// What a probe's receiver saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) slot: u8,
    /// Where the probe came from.
    pub(crate) observed: SocketAddr,
    /// Data packets of any session that have come from there.
    pub(crate) packets: u64,
}

impl Seen {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            slot: slot(fields)?,
            observed: place(fields.value(Field::Observed)?)?,
            packets: u64::from_be_bytes(fields.exactly(Field::Packets)?),
        })
    }

    pub(super) fn write(self, fields: &mut Writer<'_>) {
        fields.put(Field::Slot, &[self.slot]);
        fields.put_place(Field::Observed, &[], self.observed);
        fields.put(Field::Packets, &self.packets.to_be_bytes());
    }
}

pub(super) fn slot(fields: &Fields<'_>) -> Result<u8, Malformed> {
    let [slot] = fields.exactly(Field::Slot)?;
    if usize::from(slot) <= SOURCE_PORTS_MAX { Ok(slot) } else { Err(Malformed) }
}

/// What a probe of a path is for. All are answered alike; who receives one learns whether it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// Whether a pair of places is a path.
    Check = 1,
    /// Whether the path in use, or one kept beside it, still is.
    Watch = 2,
    /// Whether a datagram of this size gets through (RFC 8899).
    Mtu = 3,
    /// Whether a NAT's binding outlives the delay.
    Lifetime = 4,
}

/// A probe of the path from where it comes to where it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathProbe {
    pub(crate) purpose: Purpose,
    /// The answer is to leave so many milliseconds later.
    pub(crate) delay_ms: u32,
}

impl PathProbe {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, Malformed> {
        let purpose = match fields.exactly(Field::Purpose)? {
            [1] => Purpose::Check,
            [2] => Purpose::Watch,
            [3] => Purpose::Mtu,
            [4] => Purpose::Lifetime,
            _ => return Err(Malformed),
        };
        let delay_ms = if fields.has(Field::Delay) { fields.number(Field::Delay)? } else { 0 };
        Ok(Self { purpose, delay_ms })
    }

    pub(super) fn write(self, fields: &mut Writer<'_>) {
        fields.put(Field::Purpose, &[self.purpose as u8]);
        if self.delay_ms != 0 {
            fields.put(Field::Delay, &self.delay_ms.to_be_bytes());
        }
    }
}
