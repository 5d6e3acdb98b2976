//! Links to peers whose place is not known: who is sought, and what introducers are told and tell.
//!
//! As a gateway: every peer that speaks the control channel and has no session in force is sought at the introducers that
//! there is a link to. What an introducer says of a peer is taken only when the peer was sought there, and then leads to
//! a punch, or to candidates of a link that exists. As an introducer: wishes are noted, and two that wish for each other
//! are told of each other at the same time, so that both begin to send together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngCore;

use super::Endpoint;
use super::punch::{Echoes, Punch};
use super::relay::Relaying;
use super::spray::mapped_place;
use crate::candidate::{CANDIDATES_MAX, Candidate, CandidateKind};
use crate::channel::Said;
use crate::channel::message::{Body, Candidates, Features, Introduction, Message, Seek, Stop};
use crate::introduce::{DELAY_MAX, Errand, Errands, Hearsay, MeetingId, Registry, Seeker, Tell, delay_for};
use crate::path::PathsView;
use crate::peer::Peer;
use crate::timer::Timer;
use crate::{DropReason, PeerId};

/// Without a link to any introducer, peers are tried of which it is not known whether they are one: so many at a time.
const REACH_MAX: usize = 8;
/// Between two such attempts; doubled each time.
const REACH_EVERY: Duration = Duration::from_secs(100);
const REACH_DOUBLINGS: u32 = 4;
/// Between any two, also when there is a new reason.
const REACH_SPACING: Duration = Duration::from_secs(5);
/// Introducers that hear from us again when a peer may have lost us.
const DESKS_FOR_MAX: usize = 3;

/// What a peer offers to those that it seeks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    generation: u32,
    candidates: Candidates,
}

/// What a peer is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// As an introducer: a peer is sought, or not any more.
    Seek { sought: PeerId, meeting: MeetingId, stop: Option<Stop> },
    /// That another peer seeks it, and how long it is to wait.
    Introduce { other: PeerId, meeting: MeetingId, delay_ms: u32 },
    /// As a relay: a way to a peer is wanted.
    RelayRequest { sought: PeerId, meeting: MeetingId },
    /// That it has an end of an allocation.
    RelayOffer { meeting: MeetingId, allocation: u64, port: u16 },
    /// That an allocation is of no use any more.
    RelayRelease { allocation: u64 },
}

/// Everything about peers whose place is not known.
#[derive(Debug, Default)]
pub(super) struct Meeting {
    seeker: Seeker,
    registry: Registry<Offer>,
    errands: BTreeMap<PeerId, Errands<Task>>,
    /// Where peers may be, as introducers said; what is refused of it is left out.
    pub(super) hearsay: Hearsay,
    pub(super) punches: BTreeMap<PeerId, Punch>,
    /// Initiations of late.
    pub(super) echoes: Echoes,
    pub(super) relaying: Relaying,
    /// Introducers and relays to which the link has come to its end.
    lapsed: BTreeSet<PeerId>,
    /// When peers are tried next that may be introducers.
    reach: Reach,
    due: Option<Instant>,
}

/// How peers are tried of which it is not known whether they are introducers.
#[derive(Debug, Default)]
struct Reach {
    due: Option<Instant>,
    last: Option<Instant>,
    /// How often, for the same reason.
    times: u32,
}

impl Meeting {
    /// When [`Endpoint::run_meeting`] has something to do.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Endpoint {
    /// A peer was added, or its session is over: it is sought unless there is no need to.
    pub(super) fn look_for(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(id) else { return };
        let speaks = peer.channel.as_ref().is_some_and(|channel| !channel.discovery.is_silent());
        if self.identity.is_none() || !speaks || peer.can_seal(now) {
            return;
        }
        if self.is_direct(id) {
            self.meeting.seeker.seek(now, id);
        }
        self.meeting.relaying.seeker.seek(now, id);
        // Whoever can be asked is to be linked soon.
        let earliest = self.meeting.reach.last.map_or(now, |last| last + REACH_SPACING);
        self.meeting.reach.due = self.meeting.reach.due.map(|due| due.min(earliest));
        self.meeting.reach.times = 0;
        self.arm_meeting(now);
    }

    /// Whether a peer may see where we are is another question than before.
    pub(super) fn meeting_terms(&mut self, now: Instant, id: PeerId) {
        if !self.is_direct(id) {
            self.meeting.seeker.dropped(now, id);
            self.meeting.hearsay.forget(id);
            self.name_places(now, id);
        }
        self.look_for(now, id);
        self.run_meeting(now);
    }

    /// There is a session to seal with.
    pub(super) fn met(&mut self, now: Instant, id: PeerId) {
        self.end_punch(id);
        self.end_blind_spray(id);
        self.meeting.seeker.found(now, id);
        let introduced = self.meeting.hearsay.knows(id) || self.has_leg(id);
        if !introduced {
            // It is where the configuration or its own initiation says: nobody has to stand by.
            self.meeting.relaying.seeker.found(now, id);
        }
        self.run_meeting(now);
    }

    /// The session in force has come to its end.
    pub(super) fn lapsed(&mut self, now: Instant, id: PeerId) {
        if self.peers.get(id).is_some_and(|peer| peer.can_seal(now)) {
            return;
        }
        self.end_spray(id);
        self.meeting.errands.remove(&id);
        self.timers.stop(id.slot, Timer::Errands);
        if self.meeting.seeker.is_desk(id) || self.meeting.relaying.seeker.is_desk(id) {
            self.meeting.lapsed.insert(id);
        }
        self.meeting.seeker.closed(now, id);
        self.meeting.registry.forget(id);
        self.relay_lapsed(now, id);
        self.meeting.relaying.seeker.closed(now, id);
        self.look_for(now, id);
        self.arm_meeting(now);
    }

    /// The peer is removed, or its keys are other ones.
    pub(super) fn part(&mut self, now: Instant, id: PeerId) {
        self.meeting.seeker.dropped(now, id);
        // While it is known what the meeting with it is called.
        while let Some(tell) = self.meeting.seeker.next_stop() {
            self.tell_desk(now, tell);
        }
        self.meeting.seeker.closed(now, id);
        self.meeting.lapsed.remove(&id);
        self.meeting.registry.forget(id);
        self.meeting.errands.remove(&id);
        self.meeting.hearsay.part(id);
        self.place.refused.remove(&id);
        self.end_punch(id);
        self.relay_part(now, id);
        self.forget_spray(id);
        self.unwatch(id);
        self.timers.stop(id.slot, Timer::Errands);
        self.arm_meeting(now);
    }

    /// The peer said what it can do.
    pub(super) fn meeting_hello(&mut self, now: Instant, id: PeerId, features: Features, restarted: bool) {
        // What comes without a session, and so not from the peer, begins nothing.
        let vouched = |peer: &&Peer| peer.sessions.current.is_some() || peer.sessions.next.is_some();
        let Some(key) = self.peers.get(id).filter(vouched).map(|peer| peer.public_key) else { return };
        if restarted {
            // What it was told and what it wished for is forgotten.
            self.meeting.registry.forget(id);
            self.relay_lapsed(now, id);
        }
        self.meeting.lapsed.remove(&id);
        match features.contains(Features::INTRODUCES) {
            true => self.meeting.seeker.opened(now, id, key, restarted),
            false => self.meeting.seeker.closed(now, id),
        }
        match features.contains(Features::RELAYS) {
            true => self.meeting.relaying.seeker.opened(now, id, key, restarted),
            false => self.meeting.relaying.seeker.closed(now, id),
        }
        self.run_meeting(now);
    }

    /// Where we may be reached is another place.
    pub(super) fn meeting_news(&mut self, now: Instant) {
        self.meeting.seeker.news(now);
        self.meeting.relaying.client.moved(now, None);
        self.run_meeting(now);
    }

    /// A peer was heard from another place: its ports as a relay are at another address as well.
    pub(super) fn meeting_moved(&mut self, id: PeerId) {
        if self.meeting.relaying.client.legs_by(id).next().is_some() {
            self.meeting.relaying.relay_moved.push(id);
            self.meeting.due = Some(self.epoch);
        }
    }

    /// A few introducers that know us and a peer, or may get to.
    pub(super) fn desks_for(&self, id: PeerId) -> BTreeSet<PeerId> {
        let seeker = &self.meeting.seeker;
        seeker.desks_that_know(id).chain(seeker.taken()).take(DESKS_FOR_MAX).collect()
    }

    /// Does what is due.
    pub(super) fn run_meeting(&mut self, now: Instant) {
        while let Some(tell) = self.meeting.seeker.run(now) {
            self.tell_desk(now, tell);
        }
        self.run_relaying(now);
        self.meeting.registry.expire(now);
        self.reach_out(now);
        self.arm_meeting(now);
    }

    fn tell_desk(&mut self, now: Instant, Tell { desk, sought, stop }: Tell) {
        if let Some(meeting) = self.meeting_with(sought, desk) {
            self.send_errand(now, desk, Task::Seek { sought, meeting, stop });
        }
    }

    pub(super) fn arm_meeting(&mut self, now: Instant) {
        let meeting = &self.meeting;
        let reach = self.lacks_desks().then(|| meeting.reach.due.unwrap_or(now));
        let due = [meeting.seeker.due(now), meeting.registry.due(), meeting.relaying.due(now), reach];
        // A moment later, so that what is due once is not due for ever.
        self.meeting.due = due.into_iter().flatten().min().map(|due| due.max(now + Duration::from_millis(1)));
    }

    /// Whether peers are sought, and there are few to ask. Without candidates of our own nobody could find us either.
    fn lacks_desks(&self) -> bool {
        let (seeker, relays) = (&self.meeting.seeker, &self.meeting.relaying.seeker);
        self.place.generation > 0 && !relays.is_idle() && !(seeker.has_desks() && relays.has_desks())
    }

    /// Few are there to ask for a peer without a place: peers whose place is known may be introducers or relays.
    fn reach_out(&mut self, now: Instant) {
        if self.meeting.reach.due.is_some_and(|due| due > now) || !self.lacks_desks() {
            return;
        }
        let reach = &mut self.meeting.reach;
        reach.due = Some(now + REACH_EVERY * 2_u32.pow(reach.times.min(REACH_DOUBLINGS)));
        reach.last = Some(now);
        reach.times += 1;
        // One that only relays lead to is as good as lost should they die.
        let has_no_place = |id: PeerId| {
            let place = self.peers.get(id).and_then(|peer| peer.endpoint);
            place.is_none_or(|place| self.is_relayed_place(id, place))
        };
        let lacks_place = self.meeting.relaying.seeker.sought().any(has_no_place);
        let may_introduce = |id: &PeerId| {
            self.peers.get(*id).is_some_and(|peer| {
                let speaks = peer.channel.as_ref().is_some_and(|channel| !channel.discovery.is_silent());
                speaks && peer.endpoint.is_some() && !peer.can_seal(now)
            })
        };
        let known = self.meeting.lapsed.iter().copied().filter(may_introduce);
        let others = self.peers.ids().filter(|id| lacks_place && may_introduce(id));
        let ids: Vec<_> = known.chain(others).take(REACH_MAX).collect();
        for id in ids {
            self.begin_handshake(id, now);
        }
    }

    /// A peer is to be told something, until it answers.
    pub(super) fn send_errand(&mut self, now: Instant, id: PeerId, task: Task) {
        let errands = self.meeting.errands.entry(id).or_default();
        match task {
            // The last word counts.
            Task::Seek { sought, .. } => {
                errands.drop_if(|old| matches!(old, Task::Seek { sought: s, .. } if *s == sought))
            }
            Task::Introduce { other, .. } => {
                errands.drop_if(|old| matches!(old, Task::Introduce { other: o, .. } if *o == other));
            }
            _ => {}
        }
        errands.push(task);
        self.run_errands(id, now);
    }

    /// Says what is due to one peer.
    pub(super) fn run_errands(&mut self, id: PeerId, now: Instant) {
        loop {
            let rng = &mut self.rng;
            let Some(errands) = self.meeting.errands.get_mut(&id) else { return };
            match errands.run(now, || rng.next_u32()) {
                Some(Errand::Say(task, request)) => match self.words(task) {
                    Some(body) => self.say(id, Said::to_endpoint(Message { request, body })),
                    None => drop(self.take_errand(now, id, request)),
                },
                Some(Errand::Unanswered(task)) => self.unanswered(now, id, task),
                None => break,
            }
        }
        let Some(errands) = self.meeting.errands.get(&id) else { return };
        match errands.due(now) {
            Some(due) => self.timers.set(id.slot, Timer::Errands, due.max(now + Duration::from_millis(1))),
            None => self.timers.stop(id.slot, Timer::Errands),
        }
    }

    /// The errand that an answer belongs to.
    pub(super) fn take_errand(&mut self, now: Instant, id: PeerId, request: u32) -> Result<Task, DropReason> {
        let errands = self.meeting.errands.get_mut(&id).ok_or(DropReason::ChannelUnexpected)?;
        let (task, took) = errands.answered(now, request).ok_or(DropReason::ChannelUnexpected)?;
        if let (Some(took), Some(peer)) = (took, self.peers.get_mut(id)) {
            peer.round_trip = Some(took);
        }
        self.meeting.seeker.answered(id);
        self.meeting.relaying.seeker.answered(id);
        Ok(task)
    }

    /// An answer that says nothing but that the errand was heard.
    pub(super) fn hear_done(&mut self, now: Instant, id: PeerId, request: u32) -> Result<(), DropReason> {
        self.take_errand(now, id, request)?;
        self.run_errands(id, now);
        Ok(())
    }

    /// What is said for an errand; `None` when it is of no use any more.
    fn words(&self, task: Task) -> Option<Body> {
        Some(match task {
            Task::Seek { meeting, stop, .. } => {
                let candidates =
                    if stop == Some(Stop::Dropped) { Candidates::default() } else { self.place.candidates.clone() };
                Body::Seek(Seek { meeting, stop, generation: self.place.generation, candidates })
            }
            Task::Introduce { other, meeting, delay_ms } => {
                let offer = self.meeting.registry.offer(other, meeting)?;
                let candidates = self.with_observed(other, &offer.candidates);
                Body::Introduction(Introduction { meeting, delay_ms, candidates })
            }
            Task::RelayRequest { meeting, .. } => Body::RelayRequest { meeting },
            Task::RelayOffer { meeting, allocation, port } => Self::offer_words(meeting, allocation, port),
            Task::RelayRelease { allocation } => Body::RelayRelease { allocation },
        })
    }

    /// A peer's candidates, and where we see it ourselves.
    fn with_observed(&self, id: PeerId, candidates: &Candidates) -> Candidates {
        let seen = self.peers.get(id).and_then(|peer| peer.endpoint).filter(|place| !self.is_relayed_place(id, *place));
        let mut list = candidates.list.clone();
        if let Some(address) = seen
            && list.iter().all(|candidate| candidate.address != address)
        {
            list.truncate(CANDIDATES_MAX - 1);
            list.insert(0, Candidate { kind: CandidateKind::Observed, address });
        }
        Candidates::new(candidates.nat, &list)
    }

    /// An introducer or relay that does not answer may have forgotten us, or be gone: another one is asked, and it is tried
    /// again by a handshake.
    fn unanswered(&mut self, now: Instant, id: PeerId, task: Task) {
        match task {
            Task::Seek { .. } => self.meeting.seeker.silent(now, id),
            Task::RelayRequest { .. } => self.meeting.relaying.seeker.silent(now, id),
            Task::Introduce { .. } | Task::RelayOffer { .. } | Task::RelayRelease { .. } => return,
        }
        self.begin_handshake(id, now);
        self.arm_meeting(now);
    }

    /// As an introducer: a peer seeks another one. The answer is the same whoever that is.
    pub(super) fn hear_seek(&mut self, now: Instant, id: PeerId, request: u32, seek: Seek) -> Result<(), DropReason> {
        if !self.place.config.introduces {
            return Err(DropReason::ChannelUnexpected);
        }
        self.say(id, Said::to_endpoint(Message { request, body: Body::SeekAnswer }));
        let is_older = |known: &Offer| seek.generation.wrapping_sub(known.generation) > u32::MAX / 2;
        if self.meeting.registry.offer(id, seek.meeting).is_some_and(is_older) {
            return Err(DropReason::ChannelStale);
        }
        let offer = Offer { generation: seek.generation, candidates: seek.candidates };
        if seek.stop == Some(Stop::Dropped) {
            self.meeting.registry.withdraw(id, seek.meeting);
            self.arm_meeting(now);
            return Ok(());
        }
        let registry = &mut self.meeting.registry;
        let matched = registry.wish(now, id, seek.meeting, offer).map_err(|_| DropReason::WishRefused)?;
        if seek.stop.is_some() {
            registry.rest(id, seek.meeting);
        } else if let Some(of) = matched {
            self.introduce(now, seek.meeting, [id, of]);
        }
        self.arm_meeting(now);
        Ok(())
    }

    /// Tells two peers of each other.
    fn introduce(&mut self, now: Instant, meeting: MeetingId, [a, b]: [PeerId; 2]) {
        self.channel_counters.introductions_made += 1;
        let round_trip = |id| self.peers.get(id).and_then(|peer| peer.round_trip.or(peer.handshake_duration));
        let (of_a, of_b) = (round_trip(a).unwrap_or_default(), round_trip(b).unwrap_or_default());
        let delay_ms = |ours, theirs| delay_for(ours, theirs).as_millis() as u32;
        self.send_errand(now, a, Task::Introduce { other: b, meeting, delay_ms: delay_ms(of_a, of_b) });
        self.send_errand(now, b, Task::Introduce { other: a, meeting, delay_ms: delay_ms(of_b, of_a) });
    }

    /// An introducer says where a peer is that was sought.
    pub(super) fn hear_introduction(
        &mut self,
        now: Instant,
        id: PeerId,
        request: u32,
        introduction: Introduction,
    ) -> Result<(), DropReason> {
        let Introduction { meeting, delay_ms, mut candidates } = introduction;
        let known: Vec<_> = self.meeting.seeker.known_at(id).collect();
        let peer = self.peer_of_meeting(id, meeting, &known).ok_or(DropReason::ChannelUnexpected)?;
        self.say(id, Said::to_endpoint(Message { request, body: Body::IntroductionAnswer }));
        let refused = self.refuse_candidates(peer, &mut candidates);
        let (nat, mapped) = (candidates.nat, mapped_place(&candidates.list));
        self.channel_counters.introductions_heard += 1;
        self.meeting.hearsay.hear(now, peer, id, candidates).map_err(|_| DropReason::ChannelRate)?;
        let delay = Duration::from_millis(delay_ms.into()).min(DELAY_MAX);
        self.begin_punch(now, peer, now + delay);
        self.plan_spray(peer, now, now + delay, nat, mapped);
        if refused > 0 { Err(DropReason::CandidateRefused) } else { Ok(()) }
    }

    /// How often a peer began to be sought by way of others.
    #[must_use]
    pub const fn searches_begun(&self) -> u64 {
        self.meeting.seeker.begun()
    }

    /// What a meeting with a peer is called at a desk; `None` without a key, and for a peer whose key agrees on nothing.
    pub(crate) fn meeting_with(&mut self, sought: PeerId, desk: PeerId) -> Option<MeetingId> {
        let desk = self.peers.get(desk)?.public_key;
        let (identity, peer) = (self.identity.as_ref()?, self.peers.get_mut(sought)?);
        let agreed = peer.static_static(identity).ok()?;
        Some(MeetingId::new(&agreed, [&identity.public_key, &peer.public_key], &desk))
    }

    /// Which of these peers a desk means.
    pub(super) fn peer_of_meeting(&mut self, desk: PeerId, meeting: MeetingId, known: &[PeerId]) -> Option<PeerId> {
        known.iter().copied().find(|peer| *peer != desk && self.meeting_with(*peer, desk) == Some(meeting))
    }

    /// Where a peer may be, by relays, and as introducers said.
    pub(super) fn places_of(&self, id: PeerId) -> Vec<Candidate> {
        let relayed = self.relayed_places(id);
        let mut places: Vec<_> =
            relayed.into_iter().map(|address| Candidate { kind: CandidateKind::Relayed, address }).collect();
        if self.is_direct(id) {
            for candidate in self.meeting.hearsay.places(id) {
                if places.iter().all(|known| known.address != candidate.address) {
                    places.push(candidate);
                }
            }
        }
        places
    }

    /// Completes what is told of the ways to a peer: who introduces us, and which relay leads to it.
    pub(super) fn complete_view(&self, id: PeerId, view: &mut PathsView) {
        view.introducers = self.meeting.seeker.desks_that_know(id).collect();
        let in_use = view.in_use.as_ref().map(|path| path.remote);
        let mut legs: Vec<_> = self.legs_of(id);
        // The one in use before those that stand by.
        legs.sort_by_key(|(_, place)| Some(*place) != in_use);
        view.relay = legs.first().map(|(relay, _)| *relay);
    }

    /// Those who prove paths are told of them.
    pub(super) fn name_places(&mut self, now: Instant, id: PeerId) {
        let places = self.places_of(id);
        if let Some(paths) = self.peers.get_mut(id).and_then(|peer| peer.paths.as_mut()) {
            paths.set_named(places);
            self.run_paths(id, now);
        }
    }
}

#[cfg(test)]
mod tests;
