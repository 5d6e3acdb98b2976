//! The control channel as lanes see it: packets that are taken out of the traffic.
//!
//! Enters: inner packets that were opened. Leaves: those between the two channel addresses of a session's peers, to the
//! control task, a bounded number of each peer. Never does: give such a packet to the lan side, or look into it.

use std::time::Instant;

use landbridge_proto::{DropReason, PeerId, Session};
use landbridge_xsk::Frame;

use super::lane::Lane;
use super::report::Report;
use super::side::{Lan, Origin, Wan};
use super::tables::Tables;

pub(super) use landbridge_proto::channel::is_link_local;

/// Whether a link-local packet from this peer is one of the channel: from exactly its address to exactly ours.
#[cold]
pub(super) fn is_ours(packet: &[u8], peer: PeerId, tables: &Tables) -> bool {
    let theirs = tables.peer(peer).and_then(|entry| entry.channel_address);
    match (theirs, tables.channel_address, packet.get(8..24), packet.get(24..40)) {
        (Some(theirs), Some(ours), Some(source), Some(destination)) => {
            *source == theirs.octets() && *destination == ours.octets()
        }
        _ => false,
    }
}

impl<W: Wan, L: Lan> Lane<W, L> {
    /// Hands a packet of the channel to the control task.
    #[cold]
    pub(super) fn pass_to_channel(&mut self, frame: Frame, session: &Session, origin: Origin, now: Instant) {
        let peer = session.peer;
        let verdict = if !session.shared.admit_channel(now) {
            Some(DropReason::ChannelRate)
        } else {
            let (Origin { remote, local, slot }, packet) = (origin, Box::from(frame.data()));
            let told =
                self.has_room_for_datagrams() && self.report(Report::Channel { peer, remote, local, slot, packet });
            (!told).then_some(DropReason::ControlQueueFull)
        };
        match verdict {
            None => self.pool.put(frame),
            Some(reason) => self.drop_frame(frame, reason),
        }
    }
}
