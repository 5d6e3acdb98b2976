//! How two gateways find each other by one that both are linked to.

use super::super::fields::{Field, Fields, Writer};
use super::Malformed;
use super::candidates::Candidates;
use crate::KEY_LEN;

/// To an introducer: a peer is sought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seek {
    /// The peer's public key.
    pub(crate) key: [u8; KEY_LEN],
    /// It is sought no more.
    pub(crate) stop: bool,
    pub(crate) generation: u32,
    /// Where the seeker may be reached.
    pub(crate) candidates: Candidates,
}

impl Seek {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<(Self, u32), Malformed> {
        let stop = match fields.has(Field::Stop) {
            true => fields.exactly(Field::Stop)? == [1],
            false => false,
        };
        let (candidates, ignored) = Candidates::parse(fields)?;
        let key = fields.exactly(Field::Key)?;
        Ok((Self { key, stop, generation: fields.number(Field::Generation)?, candidates }, ignored))
    }

    pub(super) fn write(&self, fields: &mut Writer<'_>) {
        fields.put(Field::Key, &self.key);
        if self.stop {
            fields.put(Field::Stop, &[1]);
        }
        fields.put(Field::Generation, &self.generation.to_be_bytes());
        self.candidates.write(fields);
    }
}

/// From an introducer: a peer that seeks the receiver, who seeks it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// The peer's public key.
    pub(crate) key: [u8; KEY_LEN],
    /// Milliseconds until both begin to send.
    pub(crate) delay_ms: u32,
    /// Where the peer may be reached; also where the introducer sees it.
    pub(crate) candidates: Candidates,
}

impl Introduction {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<(Self, u32), Malformed> {
        let (candidates, ignored) = Candidates::parse(fields)?;
        let key = fields.exactly(Field::Key)?;
        Ok((Self { key, delay_ms: fields.number(Field::Delay)?, candidates }, ignored))
    }

    pub(super) fn write(&self, fields: &mut Writer<'_>) {
        fields.put(Field::Key, &self.key);
        fields.put(Field::Delay, &self.delay_ms.to_be_bytes());
        self.candidates.write(fields);
    }
}
