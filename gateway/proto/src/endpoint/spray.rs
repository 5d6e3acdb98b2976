//! The search for a NAT's port among everything else that an endpoint does: when it is worth it, and its probes.
//!
//! It begins over a relay that works, on the side whose NAT draws ports, and ends when any direct path is proven or time is up.
//! The sockets are the caller's ([`Event::SprayWanted`]); what the other side's guess comes to is heard by an authentic probe,
//! and answered from there, after which the path is like any other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngCore};

use super::{Endpoint, Event, SPRAY_SLOT};
use crate::candidate::{Candidate, CandidateKind, is_private};
use crate::channel::Said;
use crate::channel::message::probe::{PathProbe, Purpose};
use crate::channel::message::{Body, Message};
use crate::path::Tier;
use crate::spray::{PACE, Role, SOCKETS, Spray, admit, role};
use crate::timer::Timer;
use crate::{DropReason, PeerId};

/// How long ordinary checks are given.
const PATIENCE: Duration = Duration::from_millis(200);
/// Between two looks at whether there is a reason.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Searches under way, and how often there were some.
#[derive(Debug, Default)]
pub(super) struct Sprays {
    running: BTreeMap<PeerId, Spray>,
    used: BTreeMap<PeerId, Instant>,
}

impl Endpoint {
    /// What is known of the NATs has changed, or a relay's path is taken: it may be worth a search soon.
    pub(super) fn spray_soon(&mut self, id: PeerId, now: Instant) {
        if !self.sprays.running.contains_key(&id) && self.place.config.spray {
            self.timers.set(id.slot, Timer::Spray, now + PATIENCE);
        }
    }

    /// Does what is due.
    pub(super) fn run_spray(&mut self, id: PeerId, now: Instant) {
        let relayed = self.is_relayed(id);
        let Some(spray) = self.sprays.running.get_mut(&id) else {
            if relayed && self.spray_role(id) == Some(Role::Opens) {
                self.begin_spray(id, now);
            }
            return;
        };
        if !relayed || spray.is_over(now) {
            self.end_spray(id);
            if relayed {
                self.timers.set(id.slot, Timer::Spray, now + LOOK_EVERY);
            }
            return;
        }
        let probes = spray.batch();
        let opens = matches!(spray, Spray::Opens { .. });
        let begins = opens && probes.first().is_some_and(|(socket, _)| *socket == Some(0));
        for (socket, remote) in probes {
            let body = Body::PathProbe(PathProbe { purpose: Purpose::Check, delay_ms: 0 });
            let message = Message { request: self.rng.next_u32(), body };
            let slot = socket.map_or(0, |socket| SPRAY_SLOT + socket);
            self.say(id, Said { slot, ..Said::to_place(message, remote, None) });
        }
        if begins {
            self.ask(now, id, Body::Spray);
        }
        self.timers.set(id.slot, Timer::Spray, now + PACE);
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
        let used = admit(now, self.sprays.used.get(&id).copied()).ok_or(DropReason::ChannelRate)?;
        self.sprays.used.insert(id, used);
        let first = self.rng.random();
        self.sprays.running.insert(id, Spray::guesses(place.ip(), first));
        self.timers.set(id.slot, Timer::Spray, now + Duration::from_millis(1));
        Ok(())
    }

    /// A probe came: where it is a guess that hit, the way back is proven at once.
    pub(super) fn spray_heard(&mut self, id: PeerId, now: Instant, remote: SocketAddr) {
        if let Some(Spray::Opens { remote: place, .. }) = self.sprays.running.get(&id)
            && *place == remote
            && let Some(paths) = self.paths_mut(id)
        {
            paths.check_soon(now, remote);
        }
    }

    /// There is a direct path, or nothing to search for.
    pub(super) fn end_spray(&mut self, id: PeerId) {
        self.timers.stop(id.slot, Timer::Spray);
        if let Some(Spray::Opens { .. }) = self.sprays.running.remove(&id) {
            self.events.push_back(Event::SprayEnded { peer: id, keep: None });
        }
    }

    /// The peer is gone.
    pub(super) fn forget_spray(&mut self, id: PeerId) {
        self.end_spray(id);
        self.sprays.used.remove(&id);
    }

    fn begin_spray(&mut self, id: PeerId, now: Instant) {
        if !self.place.config.spray || !self.is_direct(id) {
            return;
        }
        let (Some(remote), Some(used)) = (self.mapped_place(id), admit(now, self.sprays.used.get(&id).copied())) else {
            return;
        };
        self.sprays.used.insert(id, used);
        self.sprays.running.insert(id, Spray::opens(now, remote));
        self.events.push_back(Event::SprayWanted { peer: id, remote, sockets: SOCKETS });
        // Until the sockets are there.
        self.timers.set(id.slot, Timer::Spray, now + PACE);
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
        let is_mapped = |candidate: &&Candidate| {
            let by_others = matches!(candidate.kind, CandidateKind::Observed | CandidateKind::Stun);
            by_others && candidate.address.is_ipv4() && !is_private(candidate.address.ip())
        };
        introduced.chain(said).find(is_mapped).map(|candidate| candidate.address)
    }
}
