//! Lan to wan: inner packets become datagrams.
//!
//! Enters: bursts of inner packets. Leaves: sealed datagrams to the wan side, or packets that wait for their
//! peer's handshake. Never does: send a packet in clear, or use a counter twice.
//!
//! 1. Find the peer by the inner destination; consecutive packets of one destination share the look-up. Where a burst is
//!    for several, what is kept of them is asked for before any of it is needed.
//! 2. Without endpoint or route, drop; without a session to seal with, let the packet wait and tell the
//!    control task once.
//! 3. Choose the source port by the packet's flow ([`super::flowlets`]), where the peer agreed to several. Where the path is narrower than the
//!    tunnel, make the packet fit ([`super::narrow`]). Pad, make room for header and tag.
//! 4. Take the run's counters at once and write the headers.
//! 5. Seal in place: a crypto job per burst.
//! 6. Give each run to the wan side with its path, and account for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use landbridge_aead::TAG_LEN;
use landbridge_proto::{DropReason, PeerId, Session, Spread};
use landbridge_xsk::{BURST, Burst, Frame};

use super::inner;
use super::jobs::{Direction, Job, Note, Place, Run};
use super::lane::{BURSTS_PER_TURN, Lane};
use super::narrow::Narrow;
use super::report::Report;
use super::side::{Lan, Outgoing, Wan};
use super::spread::flow_of;
use super::stages::Stage;
use super::tables::{PeerEntry, Tables};
use super::transport::{TransportHeader, padded_len};

/// What happens to the packets of one destination.
#[derive(Clone, Copy)]
enum Verdict<'a> {
    Send { entry: &'a PeerEntry, session: &'a Session },
    Wait(&'a PeerEntry),
    Drop(DropReason),
}

/// Consecutive packets for one destination.
struct Bound<'a> {
    destination: Result<IpAddr, DropReason>,
    /// Whom the destination belongs to, and what is kept at that peer's place.
    owner: Option<(PeerId, &'a Arc<PeerEntry>)>,
    packets: usize,
}

impl<W: Wan, L: Lan> Lane<W, L> {
    /// Steps 1 to 4 for as many bursts as one turn takes.
    pub(super) fn receive_lan(&mut self, tables: &Arc<Tables>, now: Instant) -> bool {
        let mut busy = false;
        for _ in 0..BURSTS_PER_TURN {
            let Some(job) = self.desk.job() else { break };
            if self.deferred.is_empty() {
                let received = self.lan.receive(&mut self.pool, &mut self.packets, &self.stats);
                self.note_lan(received);
            } else {
                let room = self.packets.remaining_capacity().min(self.deferred.len());
                self.packets.extend(self.deferred.drain(..room));
            }
            self.stages.end(Stage::LanReceive, self.packets.len());
            if self.packets.is_empty() {
                self.desk.put(job);
                break;
            }
            busy = true;
            let (full, packets) = (self.packets.is_full(), self.packets.len());
            self.stage_outbound(job, tables, now);
            self.stages.end(Stage::Route, packets);
            if !full && self.deferred.is_empty() {
                break;
            }
        }
        busy
    }

    /// Packets that waited for a session go on their way once the snapshot has it. False when there were not enough jobs
    /// for all: the rest has to be released before anything else leaves, or it would be overtaken.
    pub(super) fn release_pending(&mut self, tables: &Arc<Tables>, now: Instant) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        let ready = |peer: &PeerId| {
            tables.peer(*peer).is_some_and(|entry| matches!(verdict_of(entry, now), Verdict::Send { .. }))
        };
        let peers: Vec<PeerId> = self.pending.peers().filter(ready).collect();
        for peer in peers {
            // Those that have to wait again come behind; each is looked at once.
            let mut more = true;
            let mut left = self.pending.len();
            while more {
                while left > 0 && !self.packets.is_full() {
                    let Some(frame) = self.pending.pop(peer) else { break };
                    self.packets.push(frame);
                    left -= 1;
                }
                more = self.packets.is_full();
                let Some(job) = self.desk.job() else { return false };
                self.stage_outbound(job, tables, now);
                self.turn_over(tables, now);
            }
        }
        true
    }

    fn stage_outbound(&mut self, mut job: Box<Job>, tables: &Arc<Tables>, now: Instant) {
        job.direction = Direction::Outbound;
        let mut packets = std::mem::take(&mut self.packets);
        let bounds = bounds_of(&packets, tables);
        let mut open: Option<(&PeerEntry, &Session, usize)> = None;
        let mut choice = None;
        let mut arrived = packets.drain(..);
        for bound in &bounds {
            let verdict = verdict_for(bound, now);
            for _ in 0..bound.packets {
                // Those behind a packet that was cut may have been deferred.
                let Some(frame) = arrived.next() else { break };
                match verdict {
                    Verdict::Drop(reason) => self.drop_frame(frame, reason),
                    Verdict::Wait(entry) => self.wait(frame, entry),
                    Verdict::Send { entry, session } => {
                        if !matches!(open, Some((last, ..)) if last.id == entry.id) {
                            self.close_run(&mut job, open);
                            open = Some((entry, session, job.frames.len()));
                            choice = self.flowlets.choice(entry, now);
                            job.runs.push(Run { place: Place::To(entry.id), packets: 0 });
                        }
                        let slot = match &mut choice {
                            Some(choice) => self.flowlets.slot_of(choice, flow_of(frame.data())),
                            None => 0,
                        };
                        if entry.mtu >= tables.mtu {
                            self.add_to_run(&mut job, frame, slot, tables.mtu as usize);
                            continue;
                        }
                        let narrow = Narrow { slot, mtu: entry.mtu as usize };
                        self.add_narrowed(&mut job, frame, narrow, &mut arrived, now);
                    }
                }
            }
        }
        drop(arrived);
        self.close_run(&mut job, open);
        self.send_answers(tables, now);
        match job.frames.is_empty() {
            true => self.desk.put(job),
            false => {
                job.tables = Some(Arc::clone(tables));
                self.desk.stage(job);
            }
        }
    }

    /// Step 3.
    #[inline]
    pub(super) fn add_to_run(&mut self, job: &mut Job, mut frame: Frame, slot: u8, mtu: usize) {
        let inner_len = frame.len();
        let ecn = inner::outer_ecn(inner::ecn(frame.data()));
        let padding = padded_len(inner_len, mtu) - inner_len;
        match frame.append(padding + TAG_LEN) {
            Some(room) => room[..padding].fill(0),
            None => return self.drop_frame(frame, DropReason::Oversized),
        }
        if frame.prepend(TransportHeader::LEN).is_none() {
            return self.drop_frame(frame, DropReason::Oversized);
        }
        job.notes.push(Note { counter: 0, inner_len: inner_len as u32, authentic: false, ecn, slot });
        job.frames.push(frame);
        if let Some(run) = job.runs.last_mut() {
            run.packets += 1;
        }
    }

    /// Step 4. A session whose counters are used up leaves its packets waiting for the next one.
    fn close_run(&mut self, job: &mut Job, open: Option<(&PeerEntry, &Session, usize)>) {
        let (Some((entry, session, first)), Some(run)) = (open, job.runs.last()) else { return };
        if run.packets == 0 {
            job.runs.pop();
            return;
        }
        let Some(start) = session.take_counters(run.packets as u64) else {
            job.runs.pop();
            for (mut frame, note) in job.frames.drain(first..).zip(job.notes.drain(first..)) {
                frame.advance(TransportHeader::LEN);
                frame.truncate(note.inner_len as usize);
                self.wait(frame, entry);
            }
            return;
        };
        let receiver = session.remote_index;
        for (counter, (frame, note)) in (start..).zip(job.frames[first..].iter_mut().zip(&mut job.notes[first..])) {
            note.counter = counter;
            TransportHeader { receiver, counter }.write(frame.data_mut());
        }
    }

    /// Step 2, second half.
    fn wait(&mut self, frame: Frame, entry: &PeerEntry) {
        if let Some(evicted) = self.pending.push(entry.id, frame) {
            self.drop_frame(evicted, DropReason::PendingFull);
        }
        if entry.shared.want_session() && !self.report(Report::SessionWanted(entry.id)) {
            // Unsaid, so that the next packet says it again.
            entry.shared.take_wants_session();
        }
    }

    /// Step 6.
    pub(super) fn finish_outbound(&mut self, mut job: Box<Job>, now: Instant) {
        let Some(tables) = job.tables.take() else { return self.desk.put(job) };
        let Job { frames, notes, runs, .. } = &mut *job;
        let mut packets = frames.drain(..).zip(notes.iter());
        for run in runs.drain(..) {
            let Place::To(peer) = run.place else { unreachable!("what is sealed goes to a peer") };
            let Some(entry) = tables.peer(peer) else { unreachable!("a snapshot keeps what it had") };
            let Some(path) = &entry.path else { unreachable!("a run has a path") };
            let spread = entry.spread.as_deref();
            let mut bytes = 0;
            let mut sent_by = 0;
            let mut to = Outgoing { path, source_port: tables.source_port(path.slot), slot: path.slot, ecn: 0 };
            for (frame, note) in packets.by_ref().take(run.packets) {
                bytes += frame.len() as u64;
                if (note.slot, note.ecn) != (sent_by, to.ecn) {
                    self.transmit_wan(to, spread, sent_by);
                    sent_by = note.slot;
                    let slot = if sent_by == 0 { path.slot } else { sent_by };
                    to = Outgoing { path, source_port: tables.source_port(slot), slot, ecn: note.ecn };
                }
                self.out.push(frame);
            }
            self.transmit_wan(to, spread, sent_by);
            if entry.shared.sent(now, run.packets as u64, bytes, true)
                && self.link.reports.push(Report::Active(peer)).is_err()
            {
                entry.shared.take_active();
            }
        }
        drop(packets);
        self.desk.put(job);
    }

    #[inline]
    fn transmit_wan(&mut self, to: Outgoing<'_>, spread: Option<&Spread>, sent_by: u8) {
        if !self.out.is_empty() {
            let packets = self.out.len();
            if let Some(spread) = spread {
                spread.note_sent(sent_by, packets as u64);
            }
            self.wan.transmit(&mut self.pool, &mut self.out, to, &self.stats);
            self.stages.end(Stage::WanTransmit, packets);
        }
    }
}

/// Step 1 for a burst.
fn bounds_of<'a>(packets: &Burst, tables: &'a Tables) -> ArrayVec<Bound<'a>, BURST> {
    let mut bounds = ArrayVec::<Bound<'a>, BURST>::new();
    for frame in packets {
        let destination = inner::parse(frame.data()).map(|packet| packet.destination);
        match bounds.last_mut() {
            Some(last) if last.destination == destination => last.packets += 1,
            _ => {
                let owner = destination.ok().and_then(|destination| tables.routes.lookup(destination));
                let owner = owner.and_then(|peer| Some((peer, tables.peers.at(peer.slot as usize)?)));
                bounds.push(Bound { destination, owner, packets: 1 });
            }
        }
    }
    if bounds.len() > 1 {
        // In two passes: where the rest is stands in the entry.
        bounds.iter().filter_map(|bound| bound.owner).for_each(|(_, entry)| entry.prefetch());
        bounds.iter().filter_map(|bound| bound.owner).for_each(|(_, entry)| entry.prefetch_to_seal());
    }
    bounds
}

/// Step 2 for one destination.
#[inline]
fn verdict_for<'a>(bound: &Bound<'a>, now: Instant) -> Verdict<'a> {
    match (bound.destination, bound.owner) {
        (Err(reason), _) => Verdict::Drop(reason),
        (Ok(destination), Some((peer, entry))) if entry.id == peer => match is_channel_of(entry, destination) {
            true => Verdict::Drop(DropReason::ChannelSpoofed),
            false => verdict_of(entry, now),
        },
        (Ok(_), _) => Verdict::Drop(DropReason::NoRoute),
    }
}

/// Only the control task speaks on the control channel: allowed IPs may well cover its addresses.
#[inline]
fn is_channel_of(entry: &PeerEntry, destination: IpAddr) -> bool {
    matches!((destination, entry.channel_address), (IpAddr::V6(to), Some(channel)) if to == channel)
}

#[inline]
fn verdict_of(entry: &PeerEntry, now: Instant) -> Verdict<'_> {
    match (&entry.path, &entry.session) {
        (None, _) => Verdict::Drop(DropReason::NoEndpoint),
        (Some(_), Some(session)) if !session.is_expired(now) => Verdict::Send { entry, session },
        (Some(_), _) => Verdict::Wait(entry),
    }
}
