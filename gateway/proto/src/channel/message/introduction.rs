//! How two gateways find each other by one that both are linked to.

use super::super::fields::{Field, Fields, Writer};
use super::Malformed;
use super::candidates::Candidates;
use crate::introduce::MeetingId;

/// Why a peer is sought no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stop {
    /// There is a link to it. It may be told all the same where the sender is, when it seeks the sender.
    Met = 1,
    /// It is no peer any more, and is not to be told anything.
    Dropped = 2,
}

impl Stop {
    fn parse(fields: &Fields<'_>) -> Result<Self, Malformed> {
        match fields.exactly(Field::Stop)? {
            [1] => Ok(Self::Met),
            [2] => Ok(Self::Dropped),
            _ => Err(Malformed),
        }
    }
}

/// To an introducer: a peer is sought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seek {
    pub(crate) meeting: MeetingId,
    /// Why it is sought no more.
    pub(crate) stop: Option<Stop>,
    pub(crate) generation: u32,
    /// Where the seeker may be reached.
    pub(crate) candidates: Candidates,
}

impl Seek {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<(Self, u32), Malformed> {
        let stop = match fields.has(Field::Stop) {
            true => Some(Stop::parse(fields)?),
            false => None,
        };
        let (candidates, ignored) = Candidates::parse(fields)?;
        let meeting = MeetingId(fields.exactly(Field::Meeting)?);
        Ok((Self { meeting, stop, generation: fields.number(Field::Generation)?, candidates }, ignored))
    }

    pub(super) fn write(&self, fields: &mut Writer<'_>) {
        fields.put(Field::Meeting, &self.meeting.0);
        if let Some(stop) = self.stop {
            fields.put(Field::Stop, &[stop as u8]);
        }
        fields.put(Field::Generation, &self.generation.to_be_bytes());
        self.candidates.write(fields);
    }
}

/// From an introducer: a peer that seeks the receiver, who seeks it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) meeting: MeetingId,
    /// Milliseconds until both begin to send.
    pub(crate) delay_ms: u32,
    /// Where the peer may be reached; also where the introducer sees it.
    pub(crate) candidates: Candidates,
}

impl Introduction {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<(Self, u32), Malformed> {
        let (candidates, ignored) = Candidates::parse(fields)?;
        let meeting = MeetingId(fields.exactly(Field::Meeting)?);
        Ok((Self { meeting, delay_ms: fields.number(Field::Delay)?, candidates }, ignored))
    }

    pub(super) fn write(&self, fields: &mut Writer<'_>) {
        fields.put(Field::Meeting, &self.meeting.0);
        fields.put(Field::Delay, &self.delay_ms.to_be_bytes());
        self.candidates.write(fields);
    }
}
