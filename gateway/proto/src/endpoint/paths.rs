//! Paths among everything else that an endpoint does: probes, and which place a peer is reached at.
//!
//! A peer that does not say that it proves paths is reached as any WireGuard peer is: where its last packet came from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngCore;

use super::{Endpoint, Event, NatConfig};
use crate::candidate::{Candidate, CandidateKind, Refused, is_nowhere, refusal};
use crate::channel::Said;
use crate::channel::message::probe::{PathProbe, Purpose};
use crate::channel::message::{Body, Candidates, Features, Message};
use crate::path::lifetime::Lifetime;
use crate::path::mtu::headers_len;
use crate::path::{Pace, PathReason, Paths, Probe, Terms, Tier, Via, What};
use crate::timer::Timer;
use crate::{DropReason, PeerId};

/// What is the same for all peers.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) config: NatConfig,
    /// Addresses of our interfaces.
    pub(super) own: Vec<IpAddr>,
    /// That this host has no address of IPv4, of IPv6.
    pub(super) lacks: [bool; 2],
    /// Where we may be reached.
    pub(super) candidates: Candidates,
    /// Grows with every change of them; 0 before the first.
    pub(super) generation: u32,
    /// How long the NAT before us keeps bindings.
    pub(super) lifetime: Lifetime,
    /// Whether a peer saw us at an address that is none of ours.
    pub(super) is_mapped: bool,
    /// Peers whose packets leave from several source ports.
    pub(super) spreading: BTreeSet<PeerId>,
    /// The peer that was asked for a late answer.
    pub(super) learns_by: Option<PeerId>,
    /// Peers whose paths are looked at, and those of them that are probed as they are silent.
    pub(super) watched: BTreeSet<PeerId>,
    pub(super) probed: BTreeSet<PeerId>,
    /// What peers said last that is never tried, and why.
    pub(super) refused: BTreeMap<PeerId, Vec<(Candidate, Refused)>>,
}

impl Endpoint {
    /// What this gateway does about NATs.
    pub fn set_nat_config(&mut self, now: Instant, config: NatConfig) {
        let before = std::mem::replace(&mut self.place.config, config);
        if before == config {
            return;
        }
        let ids: Vec<PeerId> = self.peers.ids().collect();
        for id in ids {
            self.change_terms(id, now);
        }
        if before.direct != config.direct {
            self.tell_candidates(now);
            let ids: Vec<PeerId> = self.peers.ids().collect();
            for id in ids {
                self.meeting_terms(now, id);
            }
        }
    }

    /// What this gateway does about NATs.
    #[must_use]
    pub const fn nat_config(&self) -> NatConfig {
        self.place.config
    }

    /// Whether the peer may see where we are, and be reached where it is.
    pub(super) fn is_direct(&self, id: PeerId) -> bool {
        self.peers.get(id).and_then(|peer| peer.direct).unwrap_or(self.place.config.direct)
    }

    /// Whether something authentic of the peer that came from a place may be answered there.
    ///
    /// # Errors
    /// It is a place that nobody has, or one where only those are answered who may see where we are: whoever is not
    /// configured with a place, so that we would not begin, and does not come by a relay.
    pub(super) fn may_answer(&self, id: PeerId, remote: SocketAddr) -> Result<(), DropReason> {
        if is_nowhere(remote) {
            return Err(DropReason::CandidateRefused);
        }
        let is_configured = self.peers.get(id).is_some_and(|peer| peer.configured.is_some());
        if self.is_direct(id) || is_configured || self.is_relayed_place(id, remote) {
            return Ok(());
        }
        Err(DropReason::NotDirect)
    }

    fn terms(&self, id: PeerId) -> Terms {
        let mut locals: Vec<IpAddr> = Vec::new();
        for candidate in &self.place.candidates.list {
            let ip = candidate.address.ip();
            if candidate.kind == CandidateKind::Host && !locals.contains(&ip) {
                locals.push(ip);
            }
        }
        Terms { direct: self.is_direct(id), mtu_max: self.place.config.mtu_max, locals }
    }

    pub(super) fn change_terms(&mut self, id: PeerId, now: Instant) {
        let terms = self.terms(id);
        if let Some(paths) = self.paths_mut(id) {
            paths.set_terms(now, terms);
            self.settle_paths(id, now);
        }
    }

    /// The address of ours that the routes to a peer's place prefer, where there are several. Among paths that are equally
    /// good the one from there is taken.
    pub fn prefer_local(&mut self, id: PeerId, local: Option<IpAddr>) {
        if let Some(paths) = self.paths_mut(id) {
            paths.prefer(local);
        }
    }

    /// Whether paths to the peer begin at one of several addresses of ours.
    #[must_use]
    pub fn has_uplinks_to(&self, id: PeerId) -> bool {
        self.peers.get(id).and_then(|peer| peer.paths.as_ref()).is_some_and(|paths| paths.has_uplinks())
    }

    pub(super) fn paths_mut(&mut self, id: PeerId) -> Option<&mut Paths> {
        self.peers.get_mut(id)?.paths.as_deref_mut()
    }

    /// The peer said what it can do.
    pub(super) fn paths_hello(&mut self, now: Instant, id: PeerId, features: Features, restarted: bool) {
        let terms = self.terms(id);
        let Some(peer) = self.peers.get_mut(id) else { return };
        if !features.contains(Features::PATHS) {
            if peer.paths.take().is_some() {
                self.unwatch(id);
                self.tell_places(id, None);
            }
            return;
        }
        if let Some(paths) = peer.paths.as_mut().filter(|_| restarted) {
            paths.restarted(now);
        }
        if peer.paths.is_none() {
            let mut paths = Paths::new(terms);
            if let Some(remote) = peer.configured {
                paths.configure(now, remote);
            }
            if let Some(remote) = peer.endpoint {
                let (kind, reason) = match peer.configured == Some(remote) {
                    true => (CandidateKind::Configured, PathReason::Configured),
                    false => (CandidateKind::PeerReflexive, PathReason::Handshake),
                };
                paths.moved(now, remote, peer.local, kind, reason);
            }
            peer.paths = Some(Box::new(paths));
            self.name_places(now, id);
        }
        self.tell_candidates_to(now, id);
        self.run_paths(id, now);
    }

    /// Something authentic came from a place.
    pub(super) fn heard_at(&mut self, id: PeerId, now: Instant, place: (SocketAddr, Option<IpAddr>), via: Via) {
        let (remote, local) = place;
        if self.may_answer(id, remote).is_err() {
            return;
        }
        let reason = match via {
            Via::Initiation | Via::Response => PathReason::Handshake,
            Via::Data | Via::Probe => PathReason::Roamed,
        };
        if self.peers.get(id).is_some_and(|peer| peer.paths.is_none()) {
            self.move_peer(id, now, remote, local, reason);
            return;
        }
        if refusal(remote, &[], &self.allowed_ips) == Some(Refused::InTunnel) {
            return;
        }
        let Some(paths) = self.paths_mut(id) else { return };
        if paths.arrived(now, remote, local, via) {
            self.move_peer(id, now, remote, local, reason);
        }
        self.run_paths(id, now);
    }

    /// The endpoint is another one.
    pub(super) fn paths_moved(
        &mut self,
        id: PeerId,
        now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
        reason: PathReason,
    ) {
        let configured = self.peers.get(id).and_then(|peer| peer.configured);
        let kind = match configured == Some(remote) {
            true => CandidateKind::Configured,
            false => CandidateKind::PeerReflexive,
        };
        let Some(paths) = self.paths_mut(id) else { return };
        let was = paths.in_use().filter(|path| path.proven || path.rtt.is_some()).map(|path| path.tier);
        if paths.moved(now, remote, local, kind, reason)
            && let Some(path) = paths.in_use()
        {
            self.channel_counters.path_changes += 1;
            let relayed = path.tier == Tier::Relayed;
            self.events.push_back(Event::PathChanged { peer: id, path, was, reason });
            if relayed {
                self.spray_soon(id, now);
            }
        }
    }

    /// A probe came.
    pub(super) fn hear_path_probe(
        &mut self,
        id: PeerId,
        now: Instant,
        place: (SocketAddr, Option<IpAddr>),
        request: u32,
        probe: PathProbe,
    ) -> Result<(), DropReason> {
        let (remote, local) = place;
        self.may_answer(id, remote)?;
        if refusal(remote, &[], &self.allowed_ips) == Some(Refused::InTunnel) {
            return Err(DropReason::CandidateRefused);
        }
        let delay = Duration::from_millis(probe.delay_ms.into());
        if delay.is_zero() {
            let body = Body::PathProbeAnswer { observed: remote };
            self.say(id, Said::to_place(Message { request, body }, remote, local));
        } else {
            let paths = self.paths_mut(id).ok_or(DropReason::ChannelUnexpected)?;
            if probe.purpose != Purpose::Lifetime || !paths.answer_late(now, request, delay, place) {
                return Err(DropReason::ChannelUnexpected);
            }
        }
        // A binding's probe comes from a port that nothing else is to be sent to.
        if probe.purpose == Purpose::Lifetime {
            self.arm_paths(id, now);
        } else if self.peers.get(id).is_some_and(|peer| peer.paths.is_some()) {
            self.spray_heard(id, now, remote);
            self.heard_at(id, now, place, Via::Probe);
        }
        Ok(())
    }

    /// An answer to a probe came.
    pub(super) fn hear_path_answer(
        &mut self,
        id: PeerId,
        now: Instant,
        (remote, local): (SocketAddr, Option<IpAddr>),
        request: u32,
        observed: SocketAddr,
    ) -> Result<(), DropReason> {
        if self.place.lifetime.answer(request) {
            self.arm_paths(id, now);
            return Ok(());
        }
        let own = &self.place.own;
        let is_mapped = !own.is_empty() && !own.contains(&observed.ip());
        let paths = self.paths_mut(id).ok_or(DropReason::ChannelUnexpected)?;
        let relayed = paths.is_relayed(remote);
        let was_proven = paths.is_proven();
        let outcome = paths.answered(now, request, remote, local);
        if !was_proven
            && paths.is_proven()
            && let Some(path) = paths.in_use()
        {
            self.events.push_back(Event::PathChanged { peer: id, path, was: None, reason: PathReason::Proven });
        }
        if outcome.is_ok() && !relayed {
            self.place.is_mapped |= is_mapped;
            self.events.push_back(Event::Observed { peer: id, by: remote, observed });
        }
        self.run_paths(id, now);
        outcome
    }

    /// Lanes saw something.
    pub(super) fn watch_paths(&mut self, id: PeerId, now: Instant) {
        self.look_at_lanes(id, now);
        self.settle_paths(id, now);
    }

    /// Reads what lanes counted of a peer's paths.
    fn look_at_lanes(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (Some(paths), Some(channel)) = (&mut peer.paths, &peer.channel) else { return };
        let (sent, heard) = (peer.shared.data_sent(), peer.shared.data_received());
        paths.set_pace(Pace::of(self.epoch, self.place.watched.len(), self.place.probed.len()));
        paths.traffic(now, sent, heard, |place| channel.heard.received(place));
        for (is_one, all) in
            [(paths.look_due().is_some(), &mut self.place.watched), (paths.is_probed(now), &mut self.place.probed)]
        {
            match is_one {
                true => all.insert(id),
                false => all.remove(&id),
            };
        }
    }

    /// The paths to a peer are not looked at any more.
    pub(super) fn unwatch(&mut self, id: PeerId) {
        self.timers.stop(id.slot, Timer::Paths);
        self.place.watched.remove(&id);
        self.place.probed.remove(&id);
    }

    /// The peer may be unable to reach us, as our own NAT gave us another place: the relays to it are told where we are,
    /// and those who introduce us see it.
    fn be_found(&mut self, id: PeerId, now: Instant) {
        self.rebind(now, id);
        for desk in self.desks_for(id) {
            self.queue_keepalive(desk);
        }
        self.run_meeting(now);
    }

    /// There is a session to seal with that was not there before.
    pub(super) fn paths_session_began(&mut self, id: PeerId, now: Instant) {
        let had_timer = self.timers.is_set(id.slot, Timer::Paths);
        let Some(paths) = self.paths_mut(id) else { return };
        if !had_timer {
            paths.resume(now);
        }
        self.tell_candidates_to(now, id);
        self.run_paths(id, now);
    }

    /// Does what is due on the paths to a peer.
    pub(super) fn run_paths(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(paths) = &mut peer.paths else { return };
        if peer.sessions.current.as_ref().is_none_or(|session| session.is_expired(now)) {
            self.keep_binding(id, now);
            self.settle_paths(id, now);
            return;
        }
        if paths.look_due().is_some() {
            // What has come meanwhile need not be asked for.
            self.look_at_lanes(id, now);
        }
        let (mut probes, rng) = (Vec::new(), &mut self.rng);
        let Some(paths) = self.peers.get_mut(id).and_then(|peer| peer.paths.as_deref_mut()) else { return };
        paths.run(now, || rng.next_u32(), &mut probes);
        let lost_touch = paths.lost_touch(now);
        for probe in probes {
            self.say(id, said(probe));
        }
        if lost_touch {
            self.be_found(id, now);
        }
        self.keep_binding(id, now);
        self.settle_paths(id, now);
    }

    /// Follows what the path manager decided.
    fn settle_paths(&mut self, id: PeerId, now: Instant) {
        while let Some(switch) = self.paths_mut(id).and_then(|paths| paths.choose(now)) {
            let before = self.peers.get(id).and_then(|peer| peer.endpoint);
            self.move_peer(id, now, switch.remote, switch.local, switch.reason);
            if before == Some(switch.remote) {
                // The same place from another address of ours, which makes it another path.
                let Some(paths) = self.paths_mut(id) else { return };
                paths.moved(now, switch.remote, switch.local, CandidateKind::PeerReflexive, switch.reason);
                break;
            }
        }
        if let Some(places) = self.paths_mut(id).and_then(Paths::places) {
            self.tell_places(id, Some(places));
        }
        if let Some(peer) = self.peers.get_mut(id) {
            let mtu = peer.paths.as_ref().and_then(|paths| paths.inner_mtu());
            if peer.mtu != mtu {
                peer.mtu = mtu;
                self.events.push_back(Event::PathMtuChanged { peer: id, mtu });
            }
        }
        self.arm_paths(id, now);
    }

    fn tell_places(&mut self, id: PeerId, places: Option<Vec<(SocketAddr, Option<IpAddr>, u8)>>) {
        if let Some(channel) = self.channel_mut(id) {
            channel.heard.set_paths(places);
            self.tell_alternates(id);
        }
    }

    fn arm_paths(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get(id) else { return };
        let Some(paths) = &peer.paths else { return };
        let can_seal = peer.sessions.current.as_ref().is_some_and(|session| !session.is_expired(now));
        let due = paths.due().filter(|_| can_seal);
        match due.into_iter().chain(self.binding_due(id, now)).min() {
            // A moment later, so that what is due once is not due for ever.
            Some(due) => self.timers.set(id.slot, Timer::Paths, due.max(now + Duration::from_millis(1))),
            None => self.timers.stop(id.slot, Timer::Paths),
        }
    }

    /// Says something that is answered, again and again until it is.
    pub(super) fn ask(&mut self, now: Instant, id: PeerId, body: Body) {
        let said = Said::to_endpoint(Message { request: self.rng.next_u32(), body });
        if let Some(channel) = self.channel_mut(id) {
            channel.retries.add(now, said.clone());
            self.say(id, said);
            self.arm_channel(id, now);
        }
    }

    /// The request of ours that an answer belongs to.
    pub(super) fn take_request(&mut self, id: PeerId, request: u32) -> Result<Body, DropReason> {
        let said = self.channel_mut(id).and_then(|channel| channel.retries.answered(request));
        said.map(|said| said.message.body).ok_or(DropReason::ChannelUnexpected)
    }
}

/// A probe as a message.
fn said(probe: Probe) -> Said {
    let Probe { request, what, remote, local } = probe;
    let of = |purpose| Body::PathProbe(PathProbe { purpose, delay_ms: 0 });
    let (body, udp_len) = match what {
        What::Check => (of(Purpose::Check), 0),
        What::Watch => (of(Purpose::Watch), 0),
        What::Mtu(size) => (of(Purpose::Mtu), usize::from(size - headers_len(remote.ip()))),
        What::LateAnswer => (Body::PathProbeAnswer { observed: remote }, 0),
    };
    Said { udp_len, ..Said::to_place(Message { request, body }, remote, local) }
}
