//! Peers whose path carries less than the tunnel's MTU: their packets are made to fit before they are sealed.
//!
//! Enters: inner packets for such a peer. Leaves: packets that fit, and word to the senders of others. Never does: look at a
//! packet of any other peer; those cost one comparison.
//!
//! 1. A SYN announces no larger segments than fit ([`super::mss`]).
//! 2. What fits goes on. TCP segments that do not are cut: nothing is lost where a connection finds itself on a narrower
//!    path, and its sender is told, so that it cuts them itself ([`super::too_big`]).
//! 3. Of the others, those that may be fragmented go on: the outer packet is. The rest is dropped, and its sender told.

use std::time::Instant;

use arrayvec::Drain;
use landbridge_proto::DropReason;
use landbridge_xsk::{BURST, Frame};

use super::inner::{self, InnerPacket};
use super::jobs::Job;
use super::lane::Lane;
use super::mss;
use super::segment::Cut;
use super::side::{Lan, Wan};
use super::tables::Tables;
use super::too_big::{self, IPV6_MTU_MIN};

/// The narrow way that a packet takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Narrow {
    /// Place of its source port.
    pub(super) slot: u8,
    /// Bytes of the largest inner packet.
    pub(super) mtu: usize,
}

impl<W: Wan, L: Lan> Lane<W, L> {
    /// Makes one packet fit and adds it to the last run of a job. What arrived after it and finds no room in the job any
    /// more, as pieces took it, is deferred.
    pub(super) fn add_narrowed(
        &mut self,
        job: &mut Job,
        mut frame: Frame,
        by: Narrow,
        arrived: &mut Drain<'_, Frame, BURST>,
        now: Instant,
    ) {
        let Narrow { slot, mtu } = by;
        self.stats.mss_clamped.add(u64::from(mss::clamp(frame.data_mut(), mtu)));
        if frame.len() <= mtu {
            return self.add_to_run(job, frame, slot, mtu);
        }
        let packet = match inner::parse(frame.data()) {
            Ok(packet) => packet,
            Err(reason) => return self.drop_frame(frame, reason),
        };
        // IPv6 has to be carried up to its least MTU, if in fragments.
        let fits = if packet.source.is_ipv6() { mtu.max(IPV6_MTU_MIN) } else { mtu };
        let is_too_big = frame.len() > fits && too_big::is_whole(frame.data());
        let cut = Cut::of(frame.data(), mtu).filter(|cut| cut.pieces() <= BURST);
        if cut.as_ref().is_some_and(|cut| cut.pieces() > job.frames.remaining_capacity()) {
            self.defer(arrived, arrived.len());
            self.deferred.push_front(frame);
            return;
        }
        if is_too_big {
            self.tell_sender(&frame, &packet, fits, now);
        }
        let Some(cut) = cut else {
            return match is_too_big {
                true => self.drop_frame(frame, DropReason::TooBig),
                false => self.add_to_run(job, frame, slot, mtu),
            };
        };
        self.stats.tcp_cut.add(1);
        for piece in 0..cut.pieces() {
            match cut.piece(piece, &mut self.pool) {
                Some(piece) => self.add_to_run(job, piece, slot, mtu),
                None => self.stats.drop_packets(DropReason::NoFrame, 1),
            }
        }
        self.pool.put(frame);
        self.defer(arrived, arrived.len().saturating_sub(job.frames.remaining_capacity()));
    }

    /// Takes the last so many of what arrived to the front of what comes next.
    fn defer(&mut self, arrived: &mut Drain<'_, Frame, BURST>, count: usize) {
        for frame in arrived.rev().take(count) {
            self.deferred.push_front(frame);
        }
    }

    fn tell_sender(&mut self, frame: &Frame, packet: &InnerPacket, fits: usize, now: Instant) {
        if self.answers.is_full() || !self.answerable.take(now) {
            return;
        }
        if let Some(message) = too_big::message(frame.data(), packet, fits, &mut self.pool) {
            self.stats.too_big_told.add(1);
            self.answers.push(message);
        }
    }

    /// Sends what senders are told.
    pub(super) fn send_answers(&mut self, tables: &Tables, now: Instant) {
        if self.answers.is_empty() {
            return;
        }
        let sent = self.lan.transmit(&mut self.pool, &mut self.answers, &tables.lan, &self.stats);
        for frame in self.answers.drain(..) {
            self.pool.put(frame);
            self.stats.drop_packets(DropReason::LanError, 1);
        }
        self.note_lan(sent);
        self.flush_lan(now);
    }
}
