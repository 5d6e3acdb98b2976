//! Wan to lan: datagrams become inner packets.
//!
//! Enters: bursts of UDP payloads. Leaves: inner packets whose sender may send them, to the lan side. Never
//! does: trust a byte that the AEAD has not vouched for.
//!
//! 1. Parse the header of transport data; other messages go to the control task.
//! 2. Find the session by its receiver index; refuse expired ones. Where a burst is of several, what is kept of them is
//!    asked for before any of it is needed.
//! 3. Ask the replay window (locked once per consecutive packets of a session) whether the counter is hopeless.
//! 4. Open in place: a crypto job per burst.
//! 5. Commit the counters to the window, once per run of a session.
//! 6. Account: bytes and times of the peer, first use of a session, roaming.
//! 7. Take messages of the control channel out ([`super::channel`]); of the others cut the padding off, compare the inner
//!    source with the allowed IPs, lower the segment size that a SYN announces to what a narrow path carries, give the
//!    packet to the lan side.

use std::net::IpAddr;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use landbridge_aead::TAG_LEN;
use landbridge_proto::{Alternates, DropReason, PeerId, ReplayWindow, Session};
use landbridge_xsk::{BURST, Burst, Frame};

use super::jobs::{Direction, Job, Note, Place, Run};
use super::lan_table::LanTable;
use super::lane::{BURSTS_PER_TURN, Lane};
use super::report::{ControlDatagram, Report};
use super::side::{Arrivals, Datagrams, Lan, Origin, Wan};
use super::stages::Stage;
use super::tables::Tables;
use super::transport::TransportHeader;
use super::{channel, inner, mss, tables};

/// The same roaming is not reported again before this time has passed.
const ROAM_INTERVAL: Duration = Duration::from_millis(100);

/// Sums of one run, for the peer's account.
#[derive(Debug, Default)]
struct Account {
    packets: u64,
    bytes: u64,
    data: bool,
    /// Whether there was anything but messages of the control channel: those say themselves where they came from.
    roams: bool,
    ecn: u8,
}

/// What a packet was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Was {
    Data,
    Keepalive,
    Channel,
}

/// What is known of the peer that a run's packets came from.
struct Sender {
    /// The source of the last packet that it was found to own.
    accepted: Option<IpAddr>,
    /// What its path carries, where that is less than the tunnel's MTU.
    mtu: Option<usize>,
}

/// The session whose window is locked.
type Locked<'a> = Option<(&'a Arc<Session>, MutexGuard<'a, ReplayWindow>)>;

impl<W: Wan, L: Lan> Lane<W, L> {
    /// Steps 1 to 3 for as many bursts as one turn takes.
    pub(super) fn receive_wan(&mut self, tables: &Arc<Tables>, now: Instant) -> bool {
        let mut busy = false;
        let Some(mut datagrams) = self.datagrams.take() else { return false };
        for _ in 0..BURSTS_PER_TURN {
            let Some(job) = self.desk.job() else { break };
            let received = self.wan.receive(&mut self.pool, &mut datagrams, &self.stats);
            self.note_socket(received, now);
            self.stages.end(Stage::WanReceive, datagrams.frames.len());
            if datagrams.frames.is_empty() {
                self.desk.put(job);
                break;
            }
            busy = true;
            let (full, packets) = (datagrams.is_full(), datagrams.frames.len());
            self.stage_inbound(job, &mut datagrams, tables, now);
            self.stages.end(Stage::Admit, packets);
            if !full {
                break;
            }
        }
        self.datagrams = Some(datagrams);
        busy
    }

    /// A datagram that came by the control task's socket; it is the first of what is received next.
    pub(super) fn take_forwarded(&mut self, origin: Origin, bytes: &[u8]) {
        let Some(datagrams) = self.datagrams.as_mut() else { return };
        if datagrams.is_full() {
            // Helpers are slow to bring jobs back, so that those before it wait still.
            self.stats.drop_packets(DropReason::ControlQueueFull, 1);
            return;
        }
        let Some(mut frame) = self.pool.take_for(bytes.len()) else {
            self.stats.drop_packets(DropReason::NoFrame, 1);
            return;
        };
        match frame.append(bytes.len()) {
            Some(room) => room.copy_from_slice(bytes),
            None => return self.drop_frame(frame, DropReason::Oversized),
        }
        self.stats.wan_socket_rx_packets.add(1);
        self.stats.wan_socket_rx_bytes.add(bytes.len() as u64);
        datagrams.push(frame, origin, 0);
    }

    fn stage_inbound(&mut self, mut job: Box<Job>, datagrams: &mut Datagrams, tables: &Arc<Tables>, now: Instant) {
        job.direction = Direction::Inbound;
        prefetch_sessions(&datagrams.frames, tables);
        let mut locked: Locked<'_> = None;
        let mut frames = datagrams.frames.drain(..);
        for Arrivals { origin, ecn, packets } in datagrams.arrivals.drain(..) {
            // The session of the run that these are added to; another origin begins another run.
            let mut open: Option<&Arc<Session>> = None;
            for frame in frames.by_ref().take(packets) {
                match admit(frame.data(), tables, now, &mut locked) {
                    Ok((session, counter)) => {
                        if !open.is_some_and(|open| Arc::ptr_eq(open, session)) {
                            begin_run(&mut job, session, origin);
                            open = Some(session);
                        }
                        if let Some(run) = job.runs.last_mut() {
                            run.packets += 1;
                        }
                        job.notes.push(Note { counter, inner_len: 0, authentic: false, ecn, slot: 0 });
                        job.frames.push(frame);
                    }
                    Err(DropReason::UnknownType) => self.pass_up(frame, origin, now),
                    Err(reason) => self.drop_frame(frame, reason),
                }
            }
        }
        drop(locked);
        match job.frames.is_empty() {
            true => self.desk.put(job),
            false => {
                job.tables = Some(Arc::clone(tables));
                self.desk.stage(job);
            }
        }
    }

    /// Hands a message that is no transport data to the control task.
    fn pass_up(&mut self, frame: Frame, origin: Origin, now: Instant) {
        let known = matches!(frame.data().first(), Some(1..=3));
        let verdict = match ArrayVec::try_from(frame.data()) {
            Ok(bytes) if known => {
                let Origin { remote, local, .. } = origin;
                let datagram = ControlDatagram { remote, local, received: now, bytes };
                let room = self.has_room_for_datagrams();
                match room && self.report(Report::Datagram(datagram)) {
                    true => None,
                    false => Some(DropReason::ControlQueueFull),
                }
            }
            Err(_) if known => Some(DropReason::Malformed),
            _ => Some(DropReason::UnknownType),
        };
        match verdict {
            None => self.pool.put(frame),
            Some(reason) => self.drop_frame(frame, reason),
        }
    }

    /// Steps 5 to 7.
    pub(super) fn finish_inbound(&mut self, mut job: Box<Job>, tables: &Tables, now: Instant) {
        let Some(staged_with) = job.tables.take() else { return self.desk.put(job) };
        let Job { frames, notes, runs, .. } = &mut *job;
        let mut packets = frames.drain(..).zip(notes.iter());
        let mut rest = &notes[..];
        for run in runs.drain(..) {
            let (of_run, behind) = rest.split_at(run.packets);
            rest = behind;
            let Place::From(index, origin) = run.place else { continue };
            let Some(session) = staged_with.session(index) else { unreachable!("a snapshot keeps what it had") };
            let (kept, newest) = commit(session, of_run);
            // Before what it says is reported: an answer cannot be sealed with a session that waits for confirmation.
            if kept != 0 && session.confirm() && !self.report(Report::Confirmed(session.local_index)) {
                self.owed.push(session.local_index);
            }
            let mut account = Account::default();
            let mut sender = Sender { accepted: None, mtu: narrow_mtu(session.peer, tables) };
            for (i, (frame, note)) in packets.by_ref().take(run.packets).enumerate() {
                if kept & (1 << i) == 0 {
                    let reason = if note.authentic { DropReason::Replayed } else { DropReason::BadTag };
                    self.drop_frame(frame, reason);
                    continue;
                }
                account.packets += 1;
                account.bytes += frame.len() as u64;
                account.ecn = note.ecn;
                let was = self.deliver(frame, note.ecn, (session, origin), &mut sender, tables, now);
                account.data |= was == Was::Data;
                account.roams |= was != Was::Channel;
            }
            if kept != 0 {
                self.account(session, origin, &account, newest, tables, now);
            }
        }
        drop(packets);
        self.desk.put(job);
        self.transmit_lan(&tables.lan);
    }

    /// Step 6.
    fn account(
        &mut self,
        session: &Session,
        origin: Origin,
        account: &Account,
        newest: bool,
        tables: &Tables,
        now: Instant,
    ) {
        if session.shared.received(now, account.packets, account.bytes, account.data)
            && self.link.reports.push(Report::Active(session.peer)).is_err()
        {
            // Unsaid, so that the next burst says it again.
            session.shared.take_active();
        }
        let Some(entry) = tables.peer(session.peer) else { return };
        if let Some(alternates) = &entry.alternates
            && let Some(slot) = slot_of(alternates, entry, origin)
        {
            alternates.note_received(slot, account.packets);
            return;
        }
        if newest && account.roams {
            self.notice_roaming(entry, origin, now);
        }
    }

    fn notice_roaming(&mut self, entry: &tables::PeerEntry, origin: Origin, now: Instant) {
        let stays = entry.path.as_ref().is_some_and(|path| {
            let moved_here = matches!((path.local, origin.local), (Some(ours), Some(used)) if ours != used);
            path.remote == origin.remote && !moved_here
        });
        let told = matches!(self.roamed, Some((peer, remote, at))
            if peer == entry.id && remote == origin.remote && now.saturating_duration_since(at) < ROAM_INTERVAL);
        if stays || told {
            return;
        }
        let Origin { remote, local, .. } = origin;
        if self.report(Report::Roamed { peer: entry.id, remote, local }) {
            self.roamed = Some((entry.id, remote, now));
        }
    }

    /// Step 7.
    fn deliver(
        &mut self,
        mut frame: Frame,
        ecn: u8,
        (session, origin): (&Session, Origin),
        sender: &mut Sender,
        tables: &Tables,
        now: Instant,
    ) -> Was {
        frame.advance(TransportHeader::LEN);
        frame.truncate(frame.len() - TAG_LEN);
        if frame.is_empty() {
            self.pool.put(frame);
            self.stats.keepalives_received.add(1);
            return Was::Keepalive;
        }
        if channel::is_link_local(frame.data()) && channel::is_ours(frame.data(), session.peer, tables) {
            self.pass_to_channel(frame, session, origin, now);
            return Was::Channel;
        }
        match accept(&mut frame, ecn, session.peer, &mut sender.accepted, tables) {
            Ok(()) => {
                if let Some(mtu) = sender.mtu {
                    self.stats.mss_clamped.add(u64::from(mss::clamp(frame.data_mut(), mtu)));
                }
                if self.out.is_full() {
                    self.transmit_lan(&tables.lan);
                }
                self.out.push(frame);
            }
            Err(reason) => self.drop_frame(frame, reason),
        }
        Was::Data
    }

    fn transmit_lan(&mut self, table: &LanTable) {
        if self.out.is_empty() {
            self.stages.end(Stage::Commit, 0);
            return;
        }
        let packets = self.out.len();
        self.stages.end(Stage::Commit, packets);
        let sent = self.lan.transmit(&mut self.pool, &mut self.out, table, &self.stats);
        for frame in self.out.drain(..) {
            self.pool.put(frame);
            self.stats.drop_packets(DropReason::LanError, 1);
        }
        self.note_lan(sent);
        self.stages.end(Stage::LanTransmit, packets);
    }
}

#[inline]
fn narrow_mtu(peer: PeerId, tables: &Tables) -> Option<usize> {
    tables.peer(peer).filter(|entry| entry.mtu < tables.mtu).map(|entry| entry.mtu as usize)
}

/// Step 5: the set of the packets that are authentic and were not seen before, one bit for each, and whether the newest of
/// them is newer than all before.
fn commit(session: &Session, notes: &[Note]) -> (u64, bool) {
    const { assert!(landbridge_xsk::BURST <= u64::BITS as usize, "a bit for each packet of a burst") };
    let mut window = session.replay();
    let before = window.newest();
    let mut kept = 0_u64;
    for (i, note) in notes.iter().enumerate() {
        kept |= u64::from(note.authentic && window.commit(note.counter)) << i;
    }
    (kept, window.newest() > before)
}

/// Asks for what step 2 and those behind it read of each session, where a burst is of more than one.
fn prefetch_sessions(frames: &Burst, tables: &Tables) {
    let mut sessions = ArrayVec::<&Session, BURST>::new();
    let mut last = None;
    for frame in frames {
        let Ok(TransportHeader { receiver, .. }) = TransportHeader::parse(frame.data()) else { continue };
        if last.replace(receiver) != Some(receiver)
            && let Some(session) = tables.sessions.at(receiver.slot())
        {
            sessions.push(session);
        }
    }
    if sessions.len() > 1 {
        sessions.iter().for_each(|session| session.prefetch_to_open());
        // In two passes: where the rest is stands in the session.
        for session in &sessions {
            session.shared.prefetch();
            if let Some(entry) = tables.peers.at(session.peer.slot as usize) {
                entry.prefetch();
            }
        }
    }
}

/// Steps 1 to 3 for one datagram.
#[inline]
fn admit<'a>(
    payload: &[u8],
    tables: &'a Tables,
    now: Instant,
    locked: &mut Locked<'a>,
) -> Result<(&'a Arc<Session>, u64), DropReason> {
    let TransportHeader { receiver, counter } = TransportHeader::parse(payload)?;
    if !matches!(locked, Some((last, _)) if last.local_index == receiver) {
        let session = tables.session(receiver).ok_or(DropReason::UnknownIndex)?;
        if session.is_expired(now) {
            return Err(DropReason::SessionExpired);
        }
        if let Some(path) = tables.peer(session.peer).and_then(|entry| entry.path.as_ref()) {
            path.prefetch_remote();
        }
        // The lock held is given up before the next one is taken, so that lanes cannot wait in a circle.
        *locked = None;
        *locked = Some((session, session.replay()));
    }
    match locked {
        Some((session, _)) if counter >= session.limits.reject_after_messages => Err(DropReason::SessionExpired),
        Some((session, window)) if !window.would_reject(counter) => {
            window.prefetch(counter);
            Ok((session, counter))
        }
        _ => Err(DropReason::Replayed),
    }
}

/// The place among the peer's source ports and paths that packets came from: 0 where the peer is reached.
#[inline]
fn slot_of(alternates: &Alternates, entry: &tables::PeerEntry, origin: Origin) -> Option<u8> {
    let is_it = |path: &tables::Path| {
        path.remote == origin.remote && (path.local.is_none() || origin.local.is_none() || path.local == origin.local)
    };
    match &entry.path {
        Some(path) if is_it(path) => Some(0),
        _ => alternates.slot_of(origin.remote, origin.local),
    }
}

/// Makes the job's last run one of this session and place.
fn begin_run(job: &mut Job, session: &Session, origin: Origin) {
    if !job.runs.last().is_some_and(|run| run.place.is_from(session.local_index, &origin)) {
        job.runs.push(Run { place: Place::From(session.local_index, origin), packets: 0 });
    }
}

/// Cuts the packet to its own length and decides whether this peer may send it.
#[inline]
fn accept(
    frame: &mut Frame,
    ecn: u8,
    peer: PeerId,
    accepted: &mut Option<IpAddr>,
    tables: &Tables,
) -> Result<(), DropReason> {
    let packet = inner::parse(frame.data())?;
    if *accepted != Some(packet.source) {
        let owner = match packet.source {
            IpAddr::V4(source) => tables.routes.lookup_v4(source),
            IpAddr::V6(source) => tables.routes.lookup_v6(source),
        };
        if owner != Some(peer) {
            return Err(DropReason::SourceNotAllowed);
        }
        *accepted = Some(packet.source);
    }
    frame.truncate(packet.len);
    inner::take_outer_ecn(frame.data_mut(), ecn)
}
