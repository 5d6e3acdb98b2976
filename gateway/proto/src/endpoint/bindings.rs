//! Bindings of the NAT before us: used just often enough that they live, and how often that is.
//!
//! Only who is behind a NAT does anything here, and only for links that have a session: such a link is found by its peer
//! at any time. Over a relay the binds are use enough.

use std::time::{Duration, Instant};

use rand::RngCore;

use super::Endpoint;
use crate::PeerId;
use crate::candidate::Behaviour;
use crate::channel::Said;
use crate::channel::message::probe::{PathProbe, Purpose};
use crate::channel::message::{Body, Message};
use crate::path::Tier;

impl Endpoint {
    /// Whether there is a NAT before us: as was found out, or as a peer saw.
    const fn is_behind_nat(&self) -> bool {
        match self.place.candidates.nat.mapping {
            Behaviour::None => false,
            Behaviour::Unknown => self.place.is_mapped,
            _ => true,
        }
    }

    /// How often something must be sent to a peer; `None` where nothing needs to be.
    pub(super) fn binding_interval(&self, id: PeerId) -> Option<Duration> {
        let peer = self.peers.get(id)?;
        let path = peer.paths.as_ref()?.in_use()?;
        let is_bound = matches!(path.tier, Tier::Direct | Tier::Mapped);
        let interval = self.place.lifetime.interval();
        let configured = peer.persistent_keepalive.is_some_and(|every| every <= interval);
        (is_bound && !configured && peer.sessions.current.is_some() && self.is_behind_nat()).then_some(interval)
    }

    /// When the binding towards a peer is to be used, or the lifetime that it asked for has passed.
    pub(super) fn binding_due(&self, id: PeerId, now: Instant) -> Option<Instant> {
        let used = self.peers.get(id)?.last_sent();
        let due = self.binding_interval(id).map(|every| used.unwrap_or(now) + every);
        let learned = self.place.lifetime.due().filter(|_| self.place.learns_by == Some(id));
        due.into_iter().chain(learned).min()
    }

    /// Uses the binding towards a peer when that is due, and learns how long it would live.
    pub(super) fn keep_binding(&mut self, id: PeerId, now: Instant) {
        self.place.lifetime.run(now);
        let Some(every) = self.binding_interval(id) else { return };
        let used = self.peers.get(id).and_then(|peer| peer.last_sent());
        if used.is_none_or(|used| used + every <= now) {
            self.queue_keepalive(id);
        }
        self.learn_lifetime(id, now);
    }

    /// Asks a peer for a late answer to a port that nothing else is sent from.
    fn learn_lifetime(&mut self, id: PeerId, now: Instant) {
        let slot = u16::from(self.channel.source_ports);
        let proven = self.peers.get(id).and_then(|peer| peer.paths.as_ref()).is_some_and(|paths| paths.is_proven());
        if slot == 0 || !proven || !self.place.spreading.is_empty() {
            return;
        }
        let Some(delay_s) = self.place.lifetime.wanted(now) else { return };
        let request = self.rng.next_u32();
        self.place.lifetime.asked(now, request, delay_s);
        self.place.learns_by = Some(id);
        let probe = PathProbe { purpose: Purpose::Lifetime, delay_ms: delay_s * 1000 };
        let message = Message { request, body: Body::PathProbe(probe) };
        self.say(id, Said { slot, ..Said::to_endpoint(message) });
    }

    /// Notes whether packets for a peer leave from several source ports: then no port is spare.
    pub(super) fn note_spread(&mut self, id: PeerId, spreads: bool) {
        if spreads {
            self.place.spreading.insert(id);
            self.place.lifetime.spoil();
        } else {
            self.place.spreading.remove(&id);
        }
    }
}
