//! Messages of the channel, from bytes to typed values and back.
//!
//! Enters: the bytes of a datagram. Leaves: a [`Message`]. Never does: decide what follows from it.
//!
//! A message is a version (1 byte), a type (1 byte; the highest bit marks an answer), two bytes that are zero and ignored,
//! a request number (4 bytes, network order; an answer repeats the request's), and fields. A version is raised only when
//! this very layout changes; what a peer can do is said by its hello's feature bits, and new types and fields are
//! skipped by those who do not know them.

pub(crate) mod candidates;
#[cfg(test)]
mod golden;
pub(crate) mod hello;
pub(crate) mod introduction;
pub(crate) mod probe;
pub(crate) mod relay;

use std::net::SocketAddr;

use super::fields::{Field, Fields, Writer, place};
use crate::DropReason;
use crate::introduce::MeetingId;

pub(crate) use candidates::Candidates;
pub use hello::Features;
pub(crate) use hello::Hello;
pub(crate) use introduction::{Introduction, Seek, Stop};
pub(crate) use probe::{PathProbe, Seen};
pub(crate) use relay::{RelayAnswer, RelayOffer};

/// The layout's version.
pub const VERSION: u8 = 1;
/// The longest message, which a probe of a path's MTU is; others are [`WRITTEN_MAX`] at most.
pub const MESSAGE_MAX: usize = 9000;
/// The longest message that this version writes, padded probes excepted: twelve candidates in a [`Seek`].
pub(crate) const WRITTEN_MAX: usize = 512;

const HEADER_LEN: usize = 8;
const ANSWER: u8 = 0x80;

/// What does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Malformed> for DropReason {
    fn from(_: Malformed) -> Self {
        Self::ChannelMalformed
    }
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Hello(Hello),
    HelloAnswer(Hello),
    /// Sent from the source port of this place, to be answered with what was seen.
    Probe {
        slot: u8,
    },
    ProbeAnswer(Seen),
    /// Packets come from an unknown port: every port in use is to be probed at once.
    Ask,
    /// Sent to a place that may lead to the peer.
    PathProbe(PathProbe),
    /// Sent to exactly where the probe came from, which it names.
    PathProbeAnswer {
        observed: SocketAddr,
    },
    /// Where the sender may be reached; a later generation replaces all before.
    Candidates {
        generation: u32,
        candidates: Candidates,
    },
    CandidatesAnswer,
    Seek(Seek),
    SeekAnswer,
    Introduction(Introduction),
    IntroductionAnswer,
    /// A way to a peer is wanted.
    RelayRequest {
        meeting: MeetingId,
    },
    RelayRequestAnswer(RelayAnswer),
    RelayOffer(RelayOffer),
    RelayOfferAnswer,
    /// Sent to the relay's port: the end of the allocation is where it comes from.
    RelayBind {
        allocation: u64,
    },
    RelayBindAnswer {
        observed: SocketAddr,
    },
    RelayRelease {
        allocation: u64,
    },
    RelayReleaseAnswer,
    /// Sockets are open to find a NAT's port: the receiver is to guess.
    Spray,
    SprayAnswer,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) request: u32,
    pub(crate) body: Body,
}

/// Types on the wire.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const PROBE: u8 = 2;
    pub(super) const ASK: u8 = 3;
    pub(super) const PATH_PROBE: u8 = 4;
    pub(super) const CANDIDATES: u8 = 5;
    pub(super) const SEEK: u8 = 6;
    pub(super) const INTRODUCTION: u8 = 7;
    pub(super) const RELAY_REQUEST: u8 = 8;
    pub(super) const RELAY_OFFER: u8 = 9;
    pub(super) const RELAY_BIND: u8 = 10;
    pub(super) const RELAY_RELEASE: u8 = 11;
    pub(super) const SPRAY: u8 = 12;
    pub(super) const HELLO_ANSWER: u8 = HELLO | super::ANSWER;
    pub(super) const PROBE_ANSWER: u8 = PROBE | super::ANSWER;
    pub(super) const PATH_PROBE_ANSWER: u8 = PATH_PROBE | super::ANSWER;
    pub(super) const CANDIDATES_ANSWER: u8 = CANDIDATES | super::ANSWER;
    pub(super) const SEEK_ANSWER: u8 = SEEK | super::ANSWER;
    pub(super) const INTRODUCTION_ANSWER: u8 = INTRODUCTION | super::ANSWER;
    pub(super) const RELAY_REQUEST_ANSWER: u8 = RELAY_REQUEST | super::ANSWER;
    pub(super) const RELAY_OFFER_ANSWER: u8 = RELAY_OFFER | super::ANSWER;
    pub(super) const RELAY_BIND_ANSWER: u8 = RELAY_BIND | super::ANSWER;
    pub(super) const RELAY_RELEASE_ANSWER: u8 = RELAY_RELEASE | super::ANSWER;
    pub(super) const SPRAY_ANSWER: u8 = SPRAY | super::ANSWER;
}

impl Message {
    /// The message, and how many of its fields were skipped.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, u32), DropReason> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(DropReason::ChannelMalformed)?;
        let [version, kind, _, _, request @ ..] = *header;
        if version != VERSION || !matches!(kind & !ANSWER, kind::HELLO..=kind::SPRAY) {
            return Err(DropReason::ChannelUnknown);
        }
        if kind == kind::ASK | ANSWER {
            return Err(DropReason::ChannelUnknown);
        }
        let mut fields = Fields::parse(rest)?;
        let body = Body::parse(kind, &mut fields)?;
        Ok((Self { request: u32::from_be_bytes(request), body }, fields.ignored))
    }

    /// Writes it over the front of `out` (at least [`WRITTEN_MAX`] bytes, and `padded`) and returns its length, which is
    /// `padded` where that is longer by a field.
    pub(crate) fn write(&self, out: &mut [u8], padded: usize) -> usize {
        out[..4].copy_from_slice(&[VERSION, self.body.kind(), 0, 0]);
        out[4..HEADER_LEN].copy_from_slice(&self.request.to_be_bytes());
        let mut fields = Writer { out, len: HEADER_LEN };
        self.body.write(&mut fields);
        fields.pad_to(padded);
        fields.len
    }
}

impl Body {
    fn parse(kind: u8, fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        Ok(match kind {
            kind::HELLO => Self::Hello(Hello::parse(fields)?),
            kind::HELLO_ANSWER => Self::HelloAnswer(Hello::parse(fields)?),
            kind::PROBE => Self::Probe { slot: probe::slot(fields)? },
            kind::PROBE_ANSWER => Self::ProbeAnswer(Seen::parse(fields)?),
            kind::ASK => Self::Ask,
            kind::PATH_PROBE => Self::PathProbe(PathProbe::parse(fields)?),
            kind::PATH_PROBE_ANSWER => Self::PathProbeAnswer { observed: place(fields.value(Field::Observed)?)? },
            kind::CANDIDATES => {
                let (candidates, ignored) = Candidates::parse(fields)?;
                fields.ignored += ignored;
                Self::Candidates { generation: fields.number(Field::Generation)?, candidates }
            }
            kind::CANDIDATES_ANSWER => Self::CandidatesAnswer,
            kind::SEEK => {
                let (seek, ignored) = Seek::parse(fields)?;
                fields.ignored += ignored;
                Self::Seek(seek)
            }
            kind::SEEK_ANSWER => Self::SeekAnswer,
            kind::INTRODUCTION => {
                let (introduction, ignored) = Introduction::parse(fields)?;
                fields.ignored += ignored;
                Self::Introduction(introduction)
            }
            kind::INTRODUCTION_ANSWER => Self::IntroductionAnswer,
            kind::RELAY_REQUEST => Self::RelayRequest { meeting: MeetingId(fields.exactly(Field::Meeting)?) },
            kind::RELAY_REQUEST_ANSWER => Self::RelayRequestAnswer(relay::parse_answer(fields)?),
            kind::RELAY_OFFER => Self::RelayOffer(RelayOffer::parse(fields)?),
            kind::RELAY_OFFER_ANSWER => Self::RelayOfferAnswer,
            kind::RELAY_BIND => Self::RelayBind { allocation: relay::allocation(fields)? },
            kind::RELAY_BIND_ANSWER => Self::RelayBindAnswer { observed: place(fields.value(Field::Observed)?)? },
            kind::RELAY_RELEASE => Self::RelayRelease { allocation: relay::allocation(fields)? },
            kind::RELAY_RELEASE_ANSWER => Self::RelayReleaseAnswer,
            kind::SPRAY => Self::Spray,
            kind::SPRAY_ANSWER => Self::SprayAnswer,
            _ => return Err(Malformed),
        })
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::HelloAnswer(_) => kind::HELLO_ANSWER,
            Self::Probe { .. } => kind::PROBE,
            Self::ProbeAnswer(_) => kind::PROBE_ANSWER,
            Self::Ask => kind::ASK,
            Self::PathProbe(_) => kind::PATH_PROBE,
            Self::PathProbeAnswer { .. } => kind::PATH_PROBE_ANSWER,
            Self::Candidates { .. } => kind::CANDIDATES,
            Self::CandidatesAnswer => kind::CANDIDATES_ANSWER,
            Self::Seek(_) => kind::SEEK,
            Self::SeekAnswer => kind::SEEK_ANSWER,
            Self::Introduction(_) => kind::INTRODUCTION,
            Self::IntroductionAnswer => kind::INTRODUCTION_ANSWER,
            Self::RelayRequest { .. } => kind::RELAY_REQUEST,
            Self::RelayRequestAnswer(_) => kind::RELAY_REQUEST_ANSWER,
            Self::RelayOffer(_) => kind::RELAY_OFFER,
            Self::RelayOfferAnswer => kind::RELAY_OFFER_ANSWER,
            Self::RelayBind { .. } => kind::RELAY_BIND,
            Self::RelayBindAnswer { .. } => kind::RELAY_BIND_ANSWER,
            Self::RelayRelease { .. } => kind::RELAY_RELEASE,
            Self::RelayReleaseAnswer => kind::RELAY_RELEASE_ANSWER,
            Self::Spray => kind::SPRAY,
            Self::SprayAnswer => kind::SPRAY_ANSWER,
        }
    }

    fn write(&self, fields: &mut Writer<'_>) {
        match self {
            Self::Hello(hello) | Self::HelloAnswer(hello) => hello.write(fields),
            Self::Probe { slot } => fields.put(Field::Slot, &[*slot]),
            Self::ProbeAnswer(seen) => seen.write(fields),
            Self::PathProbe(probe) => probe.write(fields),
            Self::PathProbeAnswer { observed } | Self::RelayBindAnswer { observed } => {
                fields.put_place(Field::Observed, &[], *observed);
            }
            Self::Candidates { generation, candidates } => {
                fields.put(Field::Generation, &generation.to_be_bytes());
                candidates.write(fields);
            }
            Self::Seek(seek) => seek.write(fields),
            Self::Introduction(introduction) => introduction.write(fields),
            Self::RelayRequest { meeting } => fields.put(Field::Meeting, &meeting.0),
            Self::RelayRequestAnswer(answer) => relay::write_answer(answer, fields),
            Self::RelayOffer(offer) => offer.write(fields),
            Self::RelayBind { allocation } | Self::RelayRelease { allocation } => {
                relay::put_allocation(fields, *allocation);
            }
            Self::Ask
            | Self::CandidatesAnswer
            | Self::SeekAnswer
            | Self::IntroductionAnswer
            | Self::RelayOfferAnswer
            | Self::RelayReleaseAnswer
            | Self::Spray
            | Self::SprayAnswer => {}
        }
    }
}
