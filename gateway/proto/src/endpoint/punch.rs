//! Hole punching: one initiation is sent to every place where the peer may be, while the peer does the same.
//!
//! Each side's packets open its own NAT for the other's. The bytes are the same everywhere, so whichever arrives first is
//! answered, to where it came from, and the others are recognised before they cost an agreement of keys. When both sides
//! begin, the one with the smaller public key dominates: the other answers, and lets its own attempt rest; the
//! dominant side answers only when it has not been answered itself by its next round.
//!
//! Peers that nobody introduced and that no relay leads to have no part in this: their handshakes go to their endpoint.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::receive::Way;
use super::transmit::Outgoing;
use super::{Endpoint, SPRAY_SLOT, Transmit, WallClock};
use crate::candidate::{Candidate, CandidateKind};
use crate::message::{INITIATION_LEN, MAC_LEN, RESPONSE_LEN};
use crate::noise::Received;
use crate::path::Via;
use crate::session::Role;
use crate::timer::Timer;
use crate::{DropReason, PeerId, ReceiverIndex, Session};

/// Places that an initiation is sent to.
const PLACES_MAX: usize = 16;
/// Between two of them.
const SPACING: Duration = Duration::from_millis(5);
/// When all of them are sent to, after the beginning.
const ROUNDS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(350),
    Duration::from_millis(750),
];
/// Places that the peer's own initiations came from.
const HEARD_MAX: usize = 4;
/// After an answer of ours, the peer is left to use it for so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Initiations that are remembered, to recognise their copies.
const ECHOES_MAX: usize = 256;
/// For how long.
const ECHO_LIFETIME: Duration = Duration::from_secs(5);
/// How often a copy is answered as the first one was, as answers get lost.
const ECHO_ANSWERS: u32 = 4;

/// An authentic initiation of the peer's that waits, as ours is under way.
struct Held {
    received: Box<Received>,
    sender: ReceiverIndex,
    mac1: [u8; MAC_LEN],
    way: Way,
    since: Instant,
}

/// One peer's punch.
pub(super) struct Punch {
    /// First those that somebody else vouches for than an introducer, so many of them.
    places: Vec<SocketAddr>,
    firm: usize,
    /// Where the peer's own initiations came from.
    heard: Vec<SocketAddr>,
    start: Instant,
    /// It is one of many attempts: what introducers say is tried once in each.
    is_retry: bool,
    /// The round and the place that are next.
    round: usize,
    place: usize,
    due: Option<Instant>,
    message: Option<Box<[u8; INITIATION_LEN]>>,
    held: Option<Held>,
}

impl std::fmt::Debug for Punch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Punch").field("places", &self.places.len()).field("round", &self.round).finish_non_exhaustive()
    }
}

impl Punch {
    fn new(start: Instant) -> Self {
        Self {
            places: Vec::new(),
            firm: 0,
            heard: Vec::new(),
            start,
            is_retry: false,
            round: 0,
            place: 0,
            due: Some(start),
            message: None,
            held: None,
        }
    }

    /// Begins anew, with the same message when there is one, to these places: the `firm` ones, and those of introducers.
    fn restart(&mut self, start: Instant, firm: Vec<SocketAddr>, said: Vec<SocketAddr>, is_retry: bool) {
        (self.start, self.round, self.place, self.due, self.is_retry) = (start, 0, 0, Some(start), is_retry);
        let heard = std::mem::take(&mut self.heard);
        self.places.clear();
        for place in firm.into_iter().chain(heard.iter().copied()) {
            self.add(place);
        }
        (self.firm, self.heard) = (self.places.len(), heard);
        for place in said {
            self.add(place);
        }
    }

    /// Adds a place; false when it is known or there are too many.
    fn add(&mut self, place: SocketAddr) -> bool {
        let room = self.places.len() < PLACES_MAX && !self.places.contains(&place);
        if room {
            self.places.push(place);
        }
        room
    }

    /// The peer's own initiation came from a place. True when it is news.
    fn hear(&mut self, place: SocketAddr) -> bool {
        if self.heard.contains(&place) {
            return false;
        }
        if self.heard.len() == HEARD_MAX {
            self.heard.remove(0);
        }
        self.heard.push(place);
        self.add(place)
    }

    /// The next place that is due, if any.
    fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        let due = self.due.filter(|due| *due <= now)?;
        let place = *self.places.get(self.place)?;
        self.place += 1;
        self.due = Some(due + SPACING);
        let is_said_once = self.is_retry && self.round > 0;
        if self.place >= if is_said_once { self.firm } else { self.places.len() } {
            (self.place, self.round) = (0, self.round + 1);
            let is_over = self.is_retry && self.firm == 0;
            let after = ROUNDS.get(self.round).filter(|_| !is_over);
            self.due = after.map(|after| (self.start + *after).max(due + SPACING));
        }
        Some(place)
    }
}

/// What became of an initiation.
#[derive(Debug)]
struct Echo {
    peer: PeerId,
    at: Instant,
    /// The answer, and the session that it began.
    answer: Option<(ReceiverIndex, [u8; RESPONSE_LEN])>,
    left: u32,
}

/// Initiations of late, by their macs.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    known: BTreeMap<[u8; MAC_LEN], Echo>,
    order: VecDeque<[u8; MAC_LEN]>,
}

impl Echoes {
    fn note(&mut self, mac1: [u8; MAC_LEN], echo: Echo) {
        if self.known.insert(mac1, echo).is_none() {
            self.order.push_back(mac1);
        }
        while self.order.len() > ECHOES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

impl Endpoint {
    /// Sends initiations to every place that is known of the peer, from `start` on; with a session in force its paths are
    /// checked instead.
    pub(super) fn begin_punch(&mut self, now: Instant, id: PeerId, start: Instant) {
        self.punch(now, id, start, false);
    }

    fn punch(&mut self, now: Instant, id: PeerId, start: Instant, is_retry: bool) {
        let Some(peer) = self.peers.get(id) else { return };
        if peer.can_seal(now) {
            return self.name_places(now, id);
        }
        let answered = peer.accepted.at.is_some_and(|at| now.saturating_duration_since(at) < PATIENCE);
        if self.identity.is_none() {
            return;
        }
        if answered && peer.sessions.next.is_some() {
            // Its use may be lost as well: then ours goes on.
            if peer.attempts.since.is_some() && !self.timers.is_set(id.slot, Timer::RetryHandshake) {
                self.timers.set(id.slot, Timer::RetryHandshake, now + PATIENCE);
            }
            return;
        }
        let is_relayed = |candidate: &Candidate| candidate.kind == CandidateKind::Relayed;
        let (relayed, said): (Vec<_>, Vec<_>) = self.places_of(id).into_iter().partition(is_relayed);
        let addresses = |of: Vec<Candidate>| of.into_iter().map(|candidate| candidate.address);
        let firm: Vec<_> = addresses(relayed).chain(peer.endpoint).collect();
        let said: Vec<_> = addresses(said).collect();
        if firm.is_empty() && said.is_empty() {
            return;
        }
        self.channel_counters.punches += 1;
        let punch = self.meeting.punches.entry(id).or_insert_with(|| Punch::new(start));
        punch.restart(start, firm, said, is_retry);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.attempts.since.get_or_insert(now);
        }
        self.run_punch(id, now);
    }

    /// Whether an initiation of ours is under way to places that are tried.
    pub(super) fn is_punching(&self, id: PeerId) -> bool {
        let is_under_way = self.peers.get(id).is_some_and(|peer| peer.attempts.since.is_some());
        is_under_way && self.meeting.punches.contains_key(&id)
    }

    /// Whether the peer's handshakes go to more places than its endpoint.
    pub(super) fn has_places(&self, id: PeerId) -> bool {
        !self.places_of(id).is_empty()
    }

    /// Sends what is due.
    pub(super) fn run_punch(&mut self, id: PeerId, now: Instant) {
        self.release_held(id, now);
        let Some(punch) = self.meeting.punches.get_mut(&id) else { return };
        while let Some(place) = punch.next(now) {
            self.outgoing.push_back(Outgoing::Punch { peer: id, remote: place, slot: 0 });
        }
        match punch.due {
            Some(due) => self.timers.set(id.slot, Timer::Punch, due.max(now + Duration::from_millis(1))),
            None => self.timers.stop(id.slot, Timer::Punch),
        }
    }

    /// There is a session, or the peer's own attempt was answered: ours rests.
    pub(super) fn end_punch(&mut self, id: PeerId) {
        if self.meeting.punches.remove(&id).is_some() {
            self.timers.stop(id.slot, Timer::Punch);
        }
    }

    /// The initiation of a punch, to one of its places or from one of a search's sockets.
    pub(super) fn write_punch(
        &mut self,
        id: PeerId,
        (remote, slot): (SocketAddr, u16),
        now: Instant,
        wall: WallClock,
        buffer: &mut [u8],
    ) -> Option<Transmit> {
        let in_flight = self.peers.get(id)?.attempts.in_flight.is_some();
        let message = self.meeting.punches.get(&id)?.message.clone().filter(|_| in_flight);
        let message = match message {
            Some(message) => message,
            None => {
                let message = Box::new(self.make_initiation(id, now, wall)?);
                self.meeting.punches.get_mut(&id)?.message = Some(message.clone());
                message
            }
        };
        self.note_handshake_sent(id, now, INITIATION_LEN);
        buffer[..INITIATION_LEN].copy_from_slice(&*message);
        let peer = self.peers.get(id)?;
        let local = peer.local.filter(|_| peer.endpoint == Some(remote));
        Some(Transmit { peer: Some(id), remote, local, slot, dont_fragment: false, len: INITIATION_LEN })
    }

    /// The message of a punch is not to be used again: the next one gets another.
    pub(super) fn renew_punch(&mut self, now: Instant, id: PeerId) {
        if let Some(punch) = self.meeting.punches.get_mut(&id) {
            punch.message = None;
        }
        self.punch(now, id, now, true);
    }

    /// A copy of an initiation that was heard already. `None`: it is none.
    pub(super) fn hear_echo(&mut self, now: Instant, way: Way, mac1: &[u8; MAC_LEN]) -> Option<Result<(), DropReason>> {
        let echo = self.meeting.echoes.known.get_mut(mac1)?;
        if now.saturating_duration_since(echo.at) >= ECHO_LIFETIME {
            return None;
        }
        let (index, bytes) = match echo.answer {
            Some(answer) if echo.left > 0 => answer,
            _ => return Some(Err(DropReason::ReplayedHandshake)),
        };
        let waits = self.peers.get(echo.peer).and_then(|peer| peer.sessions.next.as_ref());
        if waits.is_none_or(|next| next.local_index != index) {
            return Some(Err(DropReason::ReplayedHandshake));
        }
        echo.left -= 1;
        let peer = echo.peer;
        self.note_handshake_sent(peer, now, RESPONSE_LEN);
        Some(self.enqueue(Outgoing::datagram(Some(peer), way, &bytes)))
    }

    /// Whether a response may be a copy of the one that a session of late began with: each copy of an initiation that
    /// arrives is answered, as nobody knows which of the answers will.
    pub(super) fn is_copied(&self, now: Instant, id: PeerId, index: ReceiverIndex) -> bool {
        let session = self.peers.get(id).and_then(|peer| peer.sessions.find(index));
        let is_ours =
            |session: &Arc<Session>| session.role() == Role::Initiator && session.created + ECHO_LIFETIME > now;
        session.is_some_and(is_ours) && self.has_places(id)
    }

    /// An initiation was answered: copies of it are known, and answered alike while the session waits.
    pub(super) fn note_answer(
        &mut self,
        now: Instant,
        id: PeerId,
        mac1: [u8; MAC_LEN],
        index: ReceiverIndex,
        response: &[u8],
    ) {
        if !self.has_places(id) {
            return;
        }
        let mut bytes = [0; RESPONSE_LEN];
        bytes.copy_from_slice(response);
        let echo = Echo { peer: id, at: now, answer: Some((index, bytes)), left: ECHO_ANSWERS };
        self.meeting.echoes.note(mac1, echo);
    }

    /// An authentic initiation came: `Some` gives it back to be answered, which it is unless ours is to be answered first.
    pub(super) fn hold(
        &mut self,
        id: PeerId,
        way: Way,
        (now, received, sender, mac1): (Instant, Received, ReceiverIndex, [u8; MAC_LEN]),
    ) -> Option<Received> {
        let dominates = !self.yields_to(id);
        let in_flight = self.peers.get(id).is_some_and(|peer| peer.attempts.in_flight.is_some());
        let punch = self.meeting.punches.get_mut(&id).filter(|punch| punch.due.is_some() && punch.message.is_some());
        // What comes to a search's socket is a guess that hit: ours may have come too early to be let in.
        let is_hit = way.slot >= SPRAY_SLOT;
        let Some(punch) = punch.filter(|_| dominates && in_flight && !is_hit) else {
            self.end_punch(id);
            return Some(received);
        };
        punch.held = Some(Held { received: Box::new(received), sender, mac1, way, since: now });
        // Where it came from is a place as well, and the NATs let our own through by that way.
        let is_news = punch.hear(way.remote);
        self.meeting.echoes.note(mac1, Echo { peer: id, at: now, answer: None, left: 0 });
        if is_news {
            self.outgoing.push_back(Outgoing::Punch { peer: id, remote: way.remote, slot: way.slot });
        }
        None
    }

    /// Ours has not been answered within another round: the peer's is.
    fn release_held(&mut self, id: PeerId, now: Instant) {
        let Some(punch) = self.meeting.punches.get_mut(&id) else { return };
        let waited = |held: &mut Held| now.saturating_duration_since(held.since) >= ROUNDS[1];
        let Some(held) = punch.held.take_if(waited) else { return };
        self.end_punch(id);
        self.heard_at(id, now, (held.way.remote, held.way.local), Via::Initiation);
        // What keeps it from being answered is nobody's fault but ours, and the next round is another chance.
        let _ = self.respond(id, now, held.way, *held.received, held.sender, held.mac1);
    }
}
