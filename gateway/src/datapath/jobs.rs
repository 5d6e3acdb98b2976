//! Crypto jobs: bursts of packets that await sealing or opening.
//!
//! Enters: frames in order of arrival, each with the run (session, place at the other end) it belongs to and
//! its counter, and the snapshot in which runs are found. Leaves: the same frames, sealed, or opened with a note of those that were not authentic.
//! Never does: allocate, reorder, look a packet up, or touch counters and replay windows; so any lane may do
//! any job.

use std::sync::Arc;

use arrayvec::ArrayVec;
use landbridge_aead as aead;
use landbridge_proto::{PeerId, ReceiverIndex, Session};
use landbridge_xsk::{BURST, Burst};

use super::side::Origin;
use super::tables::Tables;
use super::transport::TransportHeader;

/// Which way a job's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Wan to lan: open.
    Inbound = 0,
    /// Lan to wan: seal.
    Outbound = 1,
}

/// Both directions, by their discriminants.
pub(crate) const DIRECTIONS: usize = 2;

/// Consecutive packets of one session from or to one place.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) place: Place,
    /// How many packets of the job belong to it.
    pub(crate) packets: usize,
}

/// The other end of a run. Session and path are looked up in the job's snapshot each time: to count references to them
/// would cost more, where every packet is another peer's.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Inbound: the session that opens the packets, and where they came from.
    From(ReceiverIndex, Origin),
    /// Outbound: whom they go to.
    To(PeerId),
}

impl Place {
    /// The session in the snapshot that the run was made from.
    #[inline]
    pub(crate) fn session<'a>(&self, tables: &'a Tables) -> Option<&'a Session> {
        match self {
            Self::From(index, _) => tables.session(*index).map(Arc::as_ref),
            Self::To(peer) => tables.peer(*peer)?.session.as_deref(),
        }
    }

    /// Whether it is this session's, from there.
    #[inline]
    pub(crate) fn is_from(&self, index: ReceiverIndex, origin: &Origin) -> bool {
        matches!(self, Self::From(same, from) if *same == index && from == origin)
    }
}

/// What is known of one packet beside its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note {
    /// The session's counter.
    pub(crate) counter: u64,
    /// Bytes of the inner packet (outbound) before padding.
    pub(crate) inner_len: u32,
    /// Opened and found to be the peer's own (inbound).
    pub(crate) authentic: bool,
    /// ECN of the outer packet: the one received (inbound), the one to send (outbound).
    pub(crate) ecn: u8,
    /// Place of the source port that it leaves by (outbound).
    pub(crate) slot: u8,
}

/// One burst on its way through the AEAD. A frame's data is the whole message of transport data; outbound, with the
/// tag's room at its end.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) direction: Direction,
    /// The snapshot that the runs were made from; `None` in a job that is empty.
    pub(crate) tables: Option<Arc<Tables>>,
    pub(crate) frames: Burst,
    pub(crate) notes: ArrayVec<Note, BURST>,
    pub(crate) runs: ArrayVec<Run, BURST>,
}

impl Job {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            direction: Direction::Inbound,
            tables: None,
            frames: Burst::new(),
            notes: ArrayVec::new(),
            runs: ArrayVec::new(),
        })
    }

    /// Seals or opens every packet in place.
    pub(crate) fn run(&mut self) {
        let Some(tables) = &self.tables else { return };
        let mut packets: ArrayVec<aead::Packet<'_>, BURST> = ArrayVec::new();
        let mut frames = self.frames.iter_mut().zip(&self.notes);
        for run in &self.runs {
            let Some(session) = run.place.session(tables) else { unreachable!("a snapshot keeps what it had") };
            let key = match self.direction {
                Direction::Inbound => session.open_key(),
                Direction::Outbound => session.seal_key(),
            };
            for (frame, note) in frames.by_ref().take(run.packets) {
                let bytes = &mut frame.data_mut()[TransportHeader::LEN..];
                packets.push(aead::Packet { key, counter: note.counter, bytes, authentic: false });
            }
        }
        match self.direction {
            Direction::Outbound => aead::seal_burst(&mut packets),
            Direction::Inbound => {
                aead::open_burst(&mut packets);
                let verdicts: ArrayVec<bool, BURST> = packets.iter().map(|packet| packet.authentic).collect();
                for (note, authentic) in self.notes.iter_mut().zip(verdicts) {
                    note.authentic = authentic;
                }
            }
        }
    }
}
