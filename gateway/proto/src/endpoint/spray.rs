//! The search for a NAT's port among everything else that an endpoint does: when it is worth it, and what is sent.
//!
//! 1. Over a relay that works it begins on the side whose NAT draws ports, which tells the other one; probes are sent.
//! 2. Without a session it begins on both sides a moment after an introducer has told them of each other and of their NATs
//!    ([`SOON`]); the initiation of the punch is sent, whose answer is the session and shows the path.
//!
//! It ends when any direct path is proven, there is a session, or time is up. The sockets are the caller's
//! ([`Event::SprayWanted`]); what the other side's guess comes to is heard by an authentic message, and answered from there,
//! after which the path is like any other. One search sends at a time; others wait for their turn.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngCore};

use super::transmit::Outgoing;
use super::{Endpoint, Event, SPRAY_SLOT};
use crate::candidate::{Candidate, CandidateKind, Nat, is_private};
use crate::channel::Said;
use crate::channel::message::probe::{PathProbe, Purpose};
use crate::channel::message::{Body, Message};
use crate::introduce::Share;
use crate::path::Tier;
use crate::peer::Peer;
use crate::spray::{BLIND_BURST, BLIND_EVERY, Means, OPEN_FOR, PACE, Role, SOCKETS, Spray, admit, are_known, role};
use crate::timer::Timer;
use crate::{DropReason, PeerId};

/// How long ordinary checks are given.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long ordinary initiations are given, where both NATs are known to let none through.
const SOON: Duration = Duration::from_millis(100);
/// The same where it is not known of either.
const LATER: Duration = Duration::from_millis(350);
/// The ports of one side are to be open before the other one guesses.
const LEAD: Duration = Duration::from_millis(120);
/// Between two looks at whether there is a reason.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// For how long an answer of ours may bring about a session.
const ANSWERED: Duration = Duration::from_secs(1);
/// Searches that wait for their turn to send.
const WAITING_MAX: usize = 32;
/// For how long one without a session may wait: the other side's ports are open then.
const WAITS: Duration = OPEN_FOR.saturating_sub(Duration::from_millis(500));

/// A search on the word of an introducer that is to begin soon.
#[derive(Debug, Clone, Copy)]
struct Plan {
    role: Role,
    /// Where the peer's NAT shows it.
    place: SocketAddr,
    /// When it was to begin.
    since: Instant,
}

/// Searches under way, and how often there were some.
#[derive(Debug, Default)]
pub(super) struct Sprays {
    running: BTreeMap<PeerId, (Means, Spray)>,
    /// Those that have not sent everything: the first one has its turn.
    turns: VecDeque<PeerId>,
    planned: BTreeMap<PeerId, Plan>,
    /// The socket that a handshake came to.
    hit: BTreeMap<PeerId, u16>,
    /// Of each peer, over a relay and without a session: what introducers say uses up nothing of what the peer may ask for.
    used: BTreeMap<PeerId, Instant>,
    used_blind: BTreeMap<PeerId, Instant>,
    /// Of searches on the word of introducers, whoever is sought.
    blind: Share,
}

impl Endpoint {
    /// What is known of the NATs has changed, or a relay's path is taken: it may be worth a search soon.
    pub(super) fn spray_soon(&mut self, id: PeerId, now: Instant) {
        let is_idle = !self.sprays.running.contains_key(&id) && !self.sprays.planned.contains_key(&id);
        if is_idle && self.place.config.spray {
            self.timers.set(id.slot, Timer::Spray, now + PATIENCE);
        }
    }

    /// An introducer says where a peer is, and what NAT it is behind: where that one and ours let no initiation through,
    /// both sides search for the port, from a moment after `start`.
    pub(super) fn plan_spray(
        &mut self,
        id: PeerId,
        now: Instant,
        start: Instant,
        theirs: Nat,
        mapped: Option<SocketAddr>,
    ) {
        let ours = self.place.candidates.nat;
        let (Some(role), Some(place)) = (role(ours, theirs), mapped) else { return };
        let is_wanted = self.place.config.spray && self.is_direct(id) && !self.is_linked(id, now);
        if !is_wanted || self.sprays.running.contains_key(&id) || self.sprays.planned.contains_key(&id) {
            return;
        }
        let after = if are_known(ours, theirs) { SOON } else { LATER };
        let since = start + after + if role == Role::Guesses { LEAD } else { Duration::ZERO };
        self.sprays.planned.insert(id, Plan { role, place, since });
        self.timers.set(id.slot, Timer::Spray, since);
    }

    /// Does what is due.
    pub(super) fn run_spray(&mut self, id: PeerId, now: Instant) {
        let relayed = self.is_relayed(id);
        let Some((means, spray)) = self.sprays.running.get(&id) else {
            if let Some(plan) = self.sprays.planned.remove(&id) {
                self.begin_blind(id, now, plan);
            } else if relayed && self.spray_role(id) == Some(Role::Opens) {
                self.begin_spray(id, now);
            }
            return;
        };
        let is_of_use = match means {
            Means::Probes => relayed,
            // An answer of ours that went out from a socket has yet to be used.
            Means::Initiations if matches!(spray, Spray::Opens { .. }) => !self.is_linked(id, now),
            Means::Initiations => self.is_unanswered(id, now),
        };
        let (means, is_over) = (*means, spray.is_over(now));
        if !is_of_use || is_over && !self.sprays.turns.contains(&id) {
            self.end_spray(id);
            if relayed {
                self.timers.set(id.slot, Timer::Spray, now + LOOK_EVERY);
            }
            return;
        }
        if self.sprays.turns.front() == Some(&id) {
            self.send_spray(id, now, means);
        }
        self.timers.set(id.slot, Timer::Spray, now + PACE);
    }

    /// It is this search's turn to send.
    fn send_spray(&mut self, id: PeerId, now: Instant, means: Means) {
        let Some((_, spray)) = self.sprays.running.get_mut(&id) else { return };
        if let Spray::Opens { sent: 0, begun, .. } = spray {
            *begun = now;
        }
        let places = spray.batch();
        let begins = matches!(spray, Spray::Opens { .. }) && places.first().is_some_and(|(slot, _)| *slot == Some(0));
        if spray.is_said() {
            self.sprays.turns.pop_front();
        }
        for (socket, remote) in places {
            let slot = socket.map_or(0, |socket| SPRAY_SLOT + socket);
            match means {
                Means::Probes => {
                    let body = Body::PathProbe(PathProbe { purpose: Purpose::Check, delay_ms: 0 });
                    let message = Message { request: self.rng.next_u32(), body };
                    self.say(id, Said { slot, ..Said::to_place(message, remote, None) });
                }
                Means::Initiations => self.outgoing.push_back(Outgoing::Punch { peer: id, remote, slot }),
            }
        }
        if begins && means == Means::Probes {
            self.ask(now, id, Body::Spray);
        }
    }

    /// The other side has sockets open: its ports are guessed.
    pub(super) fn hear_spray(&mut self, id: PeerId, now: Instant, request: u32) -> Result<(), DropReason> {
        let is_part = self.is_relayed(id) && self.spray_role(id) == Some(Role::Guesses);
        if !is_part || !self.place.config.spray || !self.is_direct(id) {
            return Err(DropReason::ChannelUnexpected);
        }
        self.say(id, Said::to_endpoint(Message { request, body: Body::SprayAnswer }));
        if self.sprays.running.contains_key(&id) {
            return Ok(());
        }
        let place = self.mapped_place(id).ok_or(DropReason::ChannelUnexpected)?;
        if self.sprays.turns.len() >= WAITING_MAX {
            return Err(DropReason::ChannelRate);
        }
        let used = admit(now, self.sprays.used.get(&id).copied()).ok_or(DropReason::ChannelRate)?;
        self.sprays.used.insert(id, used);
        let first = self.rng.random();
        self.start_spray(id, now, Means::Probes, Spray::guesses(place.ip(), first, Means::Probes));
        Ok(())
    }

    /// A probe came: where it is a guess that hit, the way back is proven at once.
    pub(super) fn spray_heard(&mut self, id: PeerId, now: Instant, remote: SocketAddr) {
        if let Some((_, Spray::Opens { remote: place, .. })) = self.sprays.running.get(&id)
            && *place == remote
            && let Some(paths) = self.paths_mut(id)
        {
            paths.check_soon(now, remote);
        }
    }

    /// A handshake with a peer came to a socket of ours: should it be the session's, that one is to stay.
    pub(super) fn spray_hit(&mut self, id: PeerId, slot: u16) {
        if slot >= SPRAY_SLOT && self.sprays.running.contains_key(&id) {
            self.sprays.hit.entry(id).or_insert(slot);
        }
    }

    /// There is a direct path, or nothing to search for.
    pub(super) fn end_spray(&mut self, id: PeerId) {
        self.timers.stop(id.slot, Timer::Spray);
        self.sprays.planned.remove(&id);
        self.sprays.turns.retain(|waiting| *waiting != id);
        let keep = self.sprays.hit.remove(&id);
        if let Some((_, Spray::Opens { .. })) = self.sprays.running.remove(&id) {
            self.events.push_back(Event::SprayEnded { peer: id, keep });
        }
    }

    /// There is a session: nobody has to search for want of one.
    pub(super) fn end_blind_spray(&mut self, id: PeerId) {
        let is_blind = self.sprays.running.get(&id).is_some_and(|(means, _)| *means == Means::Initiations);
        if is_blind || self.sprays.planned.contains_key(&id) {
            self.end_spray(id);
        }
    }

    /// The peer is gone.
    pub(super) fn forget_spray(&mut self, id: PeerId) {
        self.end_spray(id);
        self.sprays.used.remove(&id);
        self.sprays.used_blind.remove(&id);
    }

    fn begin_spray(&mut self, id: PeerId, now: Instant) {
        if !self.place.config.spray || !self.is_direct(id) || self.sprays.turns.len() >= WAITING_MAX {
            return;
        }
        let (Some(remote), Some(used)) = (self.mapped_place(id), admit(now, self.sprays.used.get(&id).copied())) else {
            return;
        };
        self.sprays.used.insert(id, used);
        self.start_spray(id, now, Means::Probes, Spray::opens(now, remote));
    }

    /// On the word of an introducer, within what all of them may bring about.
    fn begin_blind(&mut self, id: PeerId, now: Instant, plan: Plan) {
        // Where a relay leads to it, the search follows over that. Whoever was answered has no need of one.
        if !self.place.config.spray || !self.is_direct(id) || self.has_leg(id) || !self.is_unanswered(id, now) {
            return;
        }
        if !self.is_punching(id) {
            return;
        }
        if plan.role == Role::Guesses && !self.sprays.turns.is_empty() {
            if now.saturating_duration_since(plan.since) < WAITS {
                self.sprays.planned.insert(id, plan);
                self.timers.set(id.slot, Timer::Spray, now + PACE);
            }
            return;
        }
        let Some(used) = admit(now, self.sprays.used_blind.get(&id).copied()) else { return };
        if self.sprays.turns.len() >= WAITING_MAX || !self.sprays.blind.take(now, BLIND_EVERY, BLIND_BURST, 1) {
            return;
        }
        self.sprays.used_blind.insert(id, used);
        let spray = match plan.role {
            Role::Opens => Spray::opens(now, plan.place),
            Role::Guesses => Spray::guesses(plan.place.ip(), self.rng.random(), Means::Initiations),
        };
        self.start_spray(id, now, Means::Initiations, spray);
    }

    fn start_spray(&mut self, id: PeerId, now: Instant, means: Means, spray: Spray) {
        // Until the sockets are there.
        let mut after = Duration::from_millis(1);
        if let Spray::Opens { remote, .. } = spray {
            self.events.push_back(Event::SprayWanted { peer: id, remote, sockets: SOCKETS });
            after = PACE;
        }
        self.sprays.running.insert(id, (means, spray));
        self.sprays.turns.push_back(id);
        self.timers.set(id.slot, Timer::Spray, now + after);
    }

    fn is_linked(&self, id: PeerId, now: Instant) -> bool {
        self.peers.get(id).is_none_or(|peer| peer.can_seal(now))
    }

    /// Whether there is neither a session nor one of late that waits for its first use.
    fn is_unanswered(&self, id: PeerId, now: Instant) -> bool {
        let waits = |peer: &Peer| {
            let answered = peer.accepted.at.is_some_and(|at| now.saturating_duration_since(at) < ANSWERED);
            answered && peer.sessions.next.is_some()
        };
        !self.is_linked(id, now) && !self.peers.get(id).is_some_and(waits)
    }

    /// Whether the path in use is a relay's, and works.
    fn is_relayed(&self, id: PeerId) -> bool {
        let path = self.peers.get(id).and_then(|peer| peer.paths.as_ref()?.in_use());
        path.is_some_and(|path| path.tier == Tier::Relayed && path.proven)
    }

    fn spray_role(&self, id: PeerId) -> Option<Role> {
        let theirs = self.peers.get(id)?.paths.as_ref()?.theirs()?.nat;
        role(self.place.candidates.nat, theirs)
    }

    /// Where the peer's NAT shows it, as an introducer, a server or it itself says.
    fn mapped_place(&self, id: PeerId) -> Option<SocketAddr> {
        let introduced = self.meeting.hearsay.all(id);
        let said = self.peers.get(id)?.paths.as_ref()?.theirs().into_iter().flat_map(|candidates| &candidates.list);
        mapped_place(introduced.chain(said))
    }
}

/// The first of these that is where somebody else sees a NAT.
pub(super) fn mapped_place<'a>(candidates: impl IntoIterator<Item = &'a Candidate>) -> Option<SocketAddr> {
    let is_mapped = |candidate: &&Candidate| {
        let by_others = matches!(candidate.kind, CandidateKind::Observed | CandidateKind::Stun);
        by_others && candidate.address.is_ipv4() && !is_private(candidate.address.ip())
    };
    candidates.into_iter().find(is_mapped).map(|candidate| candidate.address)
}
