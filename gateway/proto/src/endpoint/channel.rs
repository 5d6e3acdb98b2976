//! The control channel among everything else that an endpoint does: when it speaks, and what follows from what it hears.
//!
//! Messages are sealed with the session in force, as keepalives are; without one they are forgotten, as nothing that the
//! channel has to say is worth a handshake.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngCore;
use zerocopy::IntoBytes;

use super::{Endpoint, Event, Transmit};
use crate::channel::alternates::Probed;
use crate::channel::discovery::Due;
use crate::channel::message::{Body, Features, Hello, Message, Seen};
use crate::channel::{ChannelConfig, ChannelCounters, MESSAGE_MAX, PeerChannel, Said, packet};
use crate::constants::REKEY_AFTER_TIME;
use crate::message::{DataHeader, TAG_LEN, TYPE_DATA};
use crate::path::PathReason;
use crate::session::Role;
use crate::timer::Timer;
use crate::{DropReason, PeerId};

/// A peer that begins a session so long before the present one is to be renewed has probably lost it.
const UNTIMELY: Duration = Duration::from_secs(20);

impl Endpoint {
    /// What every peer that speaks the control channel is offered.
    pub fn set_channel(&mut self, config: ChannelConfig) {
        self.channel = config;
    }

    /// Our address on the control channel; `None` without a key.
    #[must_use]
    pub const fn channel_address(&self) -> Option<Ipv6Addr> {
        self.channel_address
    }

    /// Messages so far.
    #[must_use]
    pub const fn channel_counters(&self) -> ChannelCounters {
        self.channel_counters
    }

    /// A lane opened a packet of the control channel: `packet` is the inner packet, from the peer's address to ours.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn handle_channel(
        &mut self,
        now: Instant,
        id: PeerId,
        remote: SocketAddr,
        local: Option<IpAddr>,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        let ours = self.channel_address.ok_or(DropReason::NoPrivateKey)?;
        let peer = self.peers.get(id).ok_or(DropReason::UnknownPeer)?;
        let channel = peer.channel.as_ref().ok_or(DropReason::SourceNotAllowed)?;
        if !packet::is_between(packet, channel.address, ours) {
            return Err(DropReason::ChannelMalformed);
        }
        let (message, ignored) = Message::parse(packet::unwrap(packet)?)?;
        // Probes come from wherever they are tried from; all else leaves by the path that its sender has in use.
        let tries = matches!(message.body, Body::Probe { .. } | Body::PathProbe(_) | Body::PathProbeAnswer { .. });
        if !tries && peer.endpoint != Some(remote) {
            self.handle_roamed(now, id, remote, local);
        }
        self.channel_counters.received += 1;
        self.channel_counters.fields_ignored += u64::from(ignored);
        let outcome = match message.body {
            Body::Hello(hello) => {
                let answer = Message { request: message.request, body: Body::HelloAnswer(self.hello()) };
                // The answer goes first: until the peer has it, it does not know what to make of anything that follows.
                self.say(id, Said::to_endpoint(answer));
                self.hear_hello(id, now, hello);
                Ok(())
            }
            Body::HelloAnswer(hello) => {
                self.hear_hello(id, now, hello);
                Ok(())
            }
            Body::Probe { slot } => self.hear_probe(id, now, (remote, local), slot, message.request),
            Body::ProbeAnswer(seen) => self.hear_probe_answer(id, now, message.request, seen),
            Body::Ask => {
                if let Some(channel) = self.channel_mut(id) {
                    channel.ports.probe_all(now);
                }
                let probe = Message { request: self.rng.next_u32(), body: Body::Probe { slot: 0 } };
                self.say(id, Said::to_endpoint(probe));
                Ok(())
            }
            Body::Candidates { generation, candidates } => {
                self.hear_candidates(id, now, message.request, generation, candidates)
            }
            Body::CandidatesAnswer => self.hear_candidates_answer(id, message.request),
            Body::PathProbe(probe) => self.hear_path_probe(id, now, (remote, local), message.request, probe),
            Body::PathProbeAnswer { observed } => {
                self.hear_path_answer(id, now, (remote, local), message.request, observed)
            }
            Body::Seek(seek) => self.hear_seek(now, id, message.request, seek),
            Body::Introduction(introduction) => self.hear_introduction(now, id, message.request, introduction),
            Body::RelayRequest { meeting } => self.hear_relay_request(now, id, message.request, meeting),
            Body::RelayRequestAnswer(answer) => self.hear_relay_answer(now, id, message.request, answer),
            Body::RelayOffer(offer) => self.hear_relay_offer(now, id, message.request, offer),
            Body::RelayBindAnswer { observed } => self.hear_relay_bound(now, id, message.request, observed),
            Body::RelayRelease { allocation } => self.hear_relay_release(now, id, message.request, allocation),
            Body::Spray => self.hear_spray(id, now, message.request),
            Body::SprayAnswer => self.take_request(id, message.request).map(drop),
            Body::SeekAnswer | Body::IntroductionAnswer | Body::RelayOfferAnswer | Body::RelayReleaseAnswer => {
                self.hear_done(now, id, message.request)
            }
            // What nobody asked for is followed by nothing; binds go to a relay's own port.
            Body::RelayBind { .. } => Err(DropReason::ChannelUnexpected),
        };
        self.arm_channel(id, now);
        outcome
    }

    fn hear_hello(&mut self, id: PeerId, now: Instant, hello: Hello) {
        let restarted = self.channel_mut(id).is_some_and(|channel| channel.discovery.hear(hello));
        if restarted {
            self.forget_ports(id, true);
        }
        self.paths_hello(now, id, hello.features, restarted);
        self.meeting_hello(now, id, hello.features, restarted);
    }

    fn hear_probe(
        &mut self,
        id: PeerId,
        now: Instant,
        (remote, local): (SocketAddr, Option<IpAddr>),
        slot: u8,
        request: u32,
    ) -> Result<(), DropReason> {
        let accepts = self.channel.accepts_ports;
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownPeer)?;
        let (Some(endpoint), Some(channel)) = (peer.endpoint, &mut peer.channel) else {
            return Err(DropReason::ChannelUnexpected);
        };
        if slot > accepts {
            return Err(DropReason::ChannelUnexpected);
        }
        let packets = match channel.heard.probe(now, slot, remote, endpoint) {
            Probed::Refused => return Err(DropReason::ChannelUnexpected),
            Probed::Moved => {
                // The peer itself says that this is its main port.
                self.move_peer(id, now, remote, local, PathReason::Roamed);
                0
            }
            Probed::Answer { packets, changed } => {
                if changed {
                    self.tell_alternates(id);
                    if let Some(paths) = self.paths_mut(id) {
                        paths.is_port(remote);
                    }
                }
                packets
            }
        };
        let body = Body::ProbeAnswer(Seen { slot, observed: remote, packets });
        self.say(id, Said::to_endpoint(Message { request, body }));
        Ok(())
    }

    fn hear_probe_answer(&mut self, id: PeerId, now: Instant, request: u32, seen: Seen) -> Result<(), DropReason> {
        let channel = self.channel_mut(id).ok_or(DropReason::ChannelUnexpected)?;
        // A port that was asked about while only the main one is used is answered all the same.
        let changed = match channel.ports.confirm(now, request, seen) {
            Some(changed) => changed,
            None if seen.slot == 0 => false,
            None => return Err(DropReason::ChannelUnexpected),
        };
        if changed {
            self.tell_spread(id);
        }
        Ok(())
    }

    /// What is due on the channel.
    pub(super) fn run_channel(&mut self, id: PeerId, now: Instant) {
        let request = self.rng.next_u32();
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(channel) = &mut peer.channel else { return };
        let said = channel.discovery.run(now);
        let forgot = channel.heard.forget(now);
        let again = channel.retries.run(now);
        let mut probes = Vec::new();
        let rng = &mut self.rng;
        let mut changed = channel.ports.run(now, || rng.next_u32(), &mut probes);
        match said {
            Some(Due::Say) => {
                let hello = Message { request, body: Body::Hello(self.hello()) };
                self.say(id, Said::to_endpoint(hello));
            }
            Some(Due::Silent) => {
                let Some(channel) = self.channel_mut(id) else { return };
                changed |= channel.ports.stop();
            }
            None => {}
        }
        for probe in probes {
            let message = Message { request: probe.request, body: Body::Probe { slot: probe.slot } };
            self.say(id, Said { slot: probe.slot.into(), ..Said::to_endpoint(message) });
        }
        for said in again {
            self.say(id, said);
        }
        if forgot {
            self.tell_alternates(id);
        }
        if changed {
            self.tell_spread(id);
        }
        self.arm_channel(id, now);
    }

    /// Traffic decides whether a link is worth several source ports.
    pub(super) fn measure_channel(&mut self, id: PeerId, now: Instant) {
        let ours = self.channel.source_ports;
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(channel) = &mut peer.channel else { return };
        let Some(known) = channel.discovery.known() else { return };
        let takes = known.features.contains(Features::SOURCE_PORTS);
        let beside = if takes { ours.min(known.accepts_ports).min(crate::channel::SOURCE_PORTS_MAX as u8) } else { 0 };
        if channel.ports.measure(now, peer.shared.tx_packets(), beside) {
            self.run_channel(id, now);
        }
    }

    /// A session is about to be added.
    pub(super) fn channel_session_starts(&mut self, id: PeerId, now: Instant, role: Role) {
        let Some(peer) = self.peers.get(id) else { return };
        let age = peer.sessions.current.as_ref().map(|session| now.saturating_duration_since(session.created));
        // Until a hello tells whether it restarted, nothing that it has forgotten may be relied on.
        let untimely = role == Role::Responder && age.is_some_and(|age| age + UNTIMELY < REKEY_AFTER_TIME);
        if untimely || age.is_none() {
            self.stop_spreading(id);
        }
    }

    /// There is a new session to seal with.
    pub(super) fn channel_session_began(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (Some(channel), Some(session)) = (&mut peer.channel, &peer.sessions.current) else { return };
        channel.discovery.session_began(now, session.role());
        if channel.discovery.due() == Some(now) {
            self.run_channel(id, now);
        } else {
            self.arm_channel(id, now);
        }
        self.paths_session_began(id, now);
    }

    /// There is no session any more.
    pub(super) fn channel_ended(&mut self, id: PeerId) {
        self.timers.stop(id.slot, Timer::Channel);
        self.unwatch(id);
        let Some(channel) = self.channel_mut(id) else { return };
        channel.discovery.session_ended();
        channel.outbox.clear();
        channel.retries.clear();
        self.forget_ports(id, true);
    }

    /// The peer's endpoint is another one: what was proven of the way there is not.
    pub(super) fn channel_moved(&mut self, id: PeerId, other_address: bool) {
        let sends_from_many = self.channel_mut(id).is_some_and(|channel| channel.heard.count() > 0);
        self.forget_ports(id, other_address);
        if other_address && sends_from_many {
            // Its other ports are unknown at the new address: until it has probed them, each looks like another move.
            let ask = Message { request: self.rng.next_u32(), body: Body::Ask };
            self.say(id, Said::to_endpoint(ask));
        }
    }

    /// Our own place is another one: what was proven of it is not.
    pub(super) fn channel_place_changed(&mut self, id: PeerId) {
        self.forget_ports(id, false);
    }

    /// Whether packets from an unknown place are those of a peer that sends from several ports, so that it does not roam.
    pub(super) fn channel_explains(&mut self, id: PeerId, now: Instant, remote: SocketAddr) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return false };
        let (Some(endpoint), Some(channel)) = (peer.endpoint, &mut peer.channel) else { return false };
        let Some(ask) = channel.heard.explains(now, remote, endpoint) else { return false };
        if ask {
            // To both: which of them still leads to the peer is the question.
            let ask = Message { request: self.rng.next_u32(), body: Body::Ask };
            self.say(id, Said::to_place(ask.clone(), remote, None));
            self.say(id, Said::to_endpoint(ask));
        }
        true
    }

    /// Switches the channel on or off for a peer.
    pub(super) fn switch_channel(&mut self, id: PeerId, on: bool) {
        if !on {
            self.channel_ended(id);
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        match (on, &peer.channel) {
            (true, None) => peer.channel = Some(Box::new(PeerChannel::new(&peer.public_key))),
            (false, _) => (peer.channel, peer.paths) = (None, None),
            _ => {}
        }
    }

    const fn hello(&self) -> Hello {
        let config = self.place.config;
        let features =
            Features::OURS.with(Features::INTRODUCES, config.introduces).with(Features::RELAYS, config.relays);
        Hello { instance: self.instance, features, accepts_ports: self.channel.accepts_ports }
    }

    pub(super) fn channel_mut(&mut self, id: PeerId) -> Option<&mut PeerChannel> {
        self.peers.get_mut(id)?.channel.as_deref_mut()
    }

    fn stop_spreading(&mut self, id: PeerId) {
        if self.channel_mut(id).is_some_and(|channel| channel.ports.stop()) {
            self.tell_spread(id);
        }
    }

    /// Ports of ours are to be proven again, and (`theirs`) those of the peer as well.
    fn forget_ports(&mut self, id: PeerId, theirs: bool) {
        let Some(channel) = self.channel_mut(id) else { return };
        let spread = channel.ports.restart();
        let heard = theirs && channel.heard.clear();
        if spread {
            self.tell_spread(id);
        }
        if heard {
            self.tell_alternates(id);
        }
    }

    fn tell_spread(&mut self, id: PeerId) {
        let Some(spread) = self.channel_mut(id).map(|channel| channel.ports.spread()) else { return };
        self.note_spread(id, spread.is_some());
        self.events.push_back(Event::SpreadChanged { peer: id, spread });
    }

    pub(super) fn tell_alternates(&mut self, id: PeerId) {
        let Some(alternates) = self.channel_mut(id).map(|channel| channel.heard.shared()) else { return };
        if alternates.is_some() {
            self.deepen_replay(id);
        }
        self.events.push_back(Event::AlternatesChanged { peer: id, alternates });
    }

    /// Packets of a peer that sends from several ports come by several lanes, one of which may be held up.
    pub(super) fn deepen_replay(&self, id: PeerId) {
        let Some(peer) = self.peers.get(id) else { return };
        if peer.channel.as_ref().is_some_and(|channel| channel.heard.count() > 0) {
            let sessions = &peer.sessions;
            for session in [&sessions.current, &sessions.previous, &sessions.next].into_iter().flatten() {
                session.deepen_replay();
            }
        }
    }

    pub(super) fn say(&mut self, id: PeerId, said: Said) {
        if self.channel_mut(id).is_some_and(|channel| channel.push(said)) {
            self.queue_channel(id);
        }
    }

    pub(super) fn arm_channel(&mut self, id: PeerId, now: Instant) {
        let Some(channel) = self.channel_mut(id) else { return };
        let (due, events) = (channel.due(), std::mem::take(&mut channel.ports.events));
        self.channel_counters.ports_proven += events.proven;
        self.channel_counters.ports_lost += events.lost;
        match due {
            // A moment later, so that what is due once is not due for ever.
            Some(due) => self.timers.set(id.slot, Timer::Channel, due.max(now + Duration::from_millis(1))),
            None => self.timers.stop(id.slot, Timer::Channel),
        }
    }

    /// Seals the peer's oldest message with the session in force.
    pub(super) fn write_channel(&mut self, id: PeerId, now: Instant, buffer: &mut [u8]) -> Option<Transmit> {
        let ours = self.channel_address?;
        let peer = self.peers.get_mut(id)?;
        let channel = peer.channel.as_deref_mut()?;
        let said = channel.outbox.pop_front()?;
        let (remote, local) = match said.to {
            Some(place) => place,
            None => (peer.endpoint?, peer.local),
        };
        let session = peer.sessions.current.as_ref().filter(|session| !session.is_expired(now))?;
        let counter = session.take_counters(1)?;
        let header =
            DataHeader { kind: TYPE_DATA.into(), receiver: session.remote_index.0.into(), counter: counter.into() };
        let (head, inner) = buffer.split_at_mut(size_of::<DataHeader>());
        head.copy_from_slice(header.as_bytes());
        // Of a datagram of this size, what is left for the message.
        let message_len = said.udp_len.saturating_sub(size_of::<DataHeader>() + TAG_LEN + packet::HEADERS_LEN);
        let written = said.message.write(&mut inner[packet::HEADERS_LEN..], message_len.min(MESSAGE_MAX));
        let packet_len = packet::wrap(inner, written, ours, channel.address);
        let padded = if message_len == 0 { packet_len.next_multiple_of(16) } else { packet_len };
        inner[packet_len..padded].fill(0);
        session.seal_key().seal(counter, &mut inner[..padded + TAG_LEN]);
        let len = size_of::<DataHeader>() + padded + TAG_LEN;
        peer.shared.sent(now, 1, len as u64, false);
        self.channel_counters.sent += 1;
        let dont_fragment = said.udp_len != 0;
        let to = Transmit { peer: Some(id), remote, local, slot: said.slot, dont_fragment, len };
        // The mark of activity may be ours: whoever sets it must see that the timers are derived.
        self.handle_active(now, id);
        Some(to)
    }
}
