//! Relays among everything else that an endpoint does: as an end that asks for a way, and as a relay that grants it.
//!
//! What is relayed never comes by here: a relay's forwarder is told of ports and places by events, and hands in only
//! what is addressed to the relay itself, which are binds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngCore;
use zerocopy::FromBytes;

use super::introduce::Task;
use super::{Endpoint, Event, RelayEnd};
use crate::candidate::refusal;
use crate::channel::message::relay::{Grant, RelayRefusal};
use crate::channel::message::{Body, Message, RelayAnswer, RelayOffer};
use crate::channel::{Said, packet};
use crate::indices::Use;
use crate::introduce::{MeetingId, Registry, Seeker, Share, Tell};
use crate::message::{DataHeader, TAG_LEN, TYPE_DATA};
use crate::relay::{Asked, BindDue, Client, LIFETIME, RELAYS_MAX, Server};
use crate::{DropReason, PeerId, ReceiverIndex};

/// Within this time several binds by one relay are one use of its listen port.
const KEPT_FOR: Duration = Duration::from_secs(15);
/// The mean time between two allocations that are made for one peer, and how many may come at once: each costs ports.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ASK_BURST: u32 = 32;
/// Bytes of a sealed bind: what is longer is no bind.
const BIND_MAX: usize = 192;

/// Both roles.
#[derive(Debug)]
pub(super) struct Relaying {
    /// Which peers are asked for at which relays.
    pub(super) seeker: Seeker,
    pub(super) client: Client,
    /// Who asked for whom.
    registry: Registry<()>,
    server: Server,
    /// When something was last sent to the listen port of a relay for the sake of a NAT.
    kept: BTreeMap<PeerId, Instant>,
    /// How often a peer has asked for allocations that were to be made.
    asked: BTreeMap<PeerId, Share>,
    /// Relays whose place is another one.
    pub(super) relay_moved: Vec<PeerId>,
}

impl Default for Relaying {
    fn default() -> Self {
        Self {
            seeker: Seeker::new(RELAYS_MAX),
            client: Client::default(),
            registry: Registry::default(),
            server: Server::default(),
            kept: BTreeMap::new(),
            asked: BTreeMap::new(),
            relay_moved: Vec::new(),
        }
    }
}

impl Relaying {
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let moved = (!self.relay_moved.is_empty()).then_some(now);
        let due = [self.seeker.due(now), self.client.due(), self.registry.due(), self.server.due(), moved];
        due.into_iter().flatten().min()
    }
}

impl Endpoint {
    /// The forwarder has a port for each end of an allocation: `port_a` for the peer that [`Event::RelayAllocate`] calls a.
    pub fn relay_granted(&mut self, now: Instant, allocation: u64, port_a: u16, port_b: u16) {
        let Some(news) = self.meeting.relaying.server.granted(now, allocation, [port_a, port_b]) else { return };
        self.channel_counters.relays_granted += 1;
        for end in news {
            let grant = Grant { allocation, port: end.port, lifetime_s: LIFETIME.as_secs() as u32 };
            match end.request {
                Some(request) => self.answer_relay(end.peer, request, Ok(grant)),
                None => {
                    let offer = Task::RelayOffer { meeting: end.meeting, allocation, port: end.port };
                    self.send_errand(now, end.peer, offer);
                }
            }
        }
        self.arm_meeting(now);
    }

    /// The forwarder has no ports.
    pub fn relay_refused(&mut self, now: Instant, allocation: u64) {
        self.channel_counters.relays_refused += 1;
        for (peer, request) in self.meeting.relaying.server.refused(allocation) {
            self.answer_relay(peer, request, Err(RelayRefusal::NoRoom));
        }
        self.arm_meeting(now);
    }

    /// A datagram came to a relay's port: `local` is the address of ours that it came to. What is not for the relay
    /// itself is the forwarder's.
    ///
    /// # Errors
    /// [`DropReason::UnknownIndex`] for what is not sealed in a session of ours, which is to be forwarded if its source is
    /// the place of that port's end; others for what was to be a bind and is none.
    pub fn handle_relay_datagram(
        &mut self,
        now: Instant,
        port: u16,
        remote: SocketAddr,
        local: Option<IpAddr>,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let (id, message) = self.open_bind(now, datagram)?;
        let Body::RelayBind { allocation } = message.body else { return Err(DropReason::ChannelUnexpected) };
        if refusal(remote, &self.place.own, &self.allowed_ips).is_some() {
            return Err(DropReason::CandidateRefused);
        }
        let bound = self.meeting.relaying.server.bind(now, id, allocation, port, (remote, local));
        self.arm_meeting(now);
        let Some((end, moved)) = bound else {
            // It is over, or never was: the peer is told, lest it goes on.
            self.say_once(id, Body::RelayRelease { allocation });
            return Err(DropReason::ChannelUnexpected);
        };
        if moved {
            let end = if end == 0 { RelayEnd::A } else { RelayEnd::B };
            self.events.push_back(Event::RelayBound { allocation, end, remote, local });
        }
        let body = Body::RelayBindAnswer { observed: remote };
        self.say(id, Said::to_endpoint(Message { request: message.request, body }));
        Ok(())
    }

    /// Allocations that this gateway has granted.
    #[must_use]
    pub fn relay_allocations(&self) -> usize {
        self.meeting.relaying.server.len()
    }

    /// Opens a message of the control channel that came to a relay's port, as a lane does with those to the listen port.
    fn open_bind(&mut self, now: Instant, datagram: &[u8]) -> Result<(PeerId, Message), DropReason> {
        let (header, sealed) = DataHeader::ref_from_prefix(datagram).map_err(|_| DropReason::Truncated)?;
        if header.kind.get() != TYPE_DATA {
            return Err(DropReason::UnknownIndex);
        }
        let index = ReceiverIndex(header.receiver.get());
        let Some((id, Use::Session)) = self.indices.find(index) else { return Err(DropReason::UnknownIndex) };
        let peer = self.peers.get(id).ok_or(DropReason::UnknownIndex)?;
        if !(TAG_LEN..=BIND_MAX).contains(&sealed.len()) {
            return Err(DropReason::ChannelUnexpected);
        }
        let session = peer.sessions.find(index).ok_or(DropReason::UnknownIndex)?;
        let (ours, channel) = (self.channel_address, peer.channel.as_ref().map(|channel| channel.address));
        let (Some(ours), Some(theirs)) = (ours, channel) else { return Err(DropReason::SourceNotAllowed) };
        if session.is_expired(now) {
            return Err(DropReason::SessionExpired);
        }
        let mut inner = [0; BIND_MAX];
        let inner = &mut inner[..sealed.len()];
        inner.copy_from_slice(sealed);
        let counter = header.counter.get();
        let len = session.open_key().open(counter, inner).map_err(|_| DropReason::BadTag)?;
        if !session.replay().commit(counter) {
            return Err(DropReason::Replayed);
        }
        // Only what is authentic uses up the peer's share.
        if !peer.shared.admit_channel(now) {
            return Err(DropReason::ChannelRate);
        }
        peer.shared.received(now, 1, datagram.len() as u64, false);
        let packet = &inner[..len];
        if !packet::is_between(packet, theirs, ours) {
            return Err(DropReason::ChannelUnexpected);
        }
        let (message, ignored) = Message::parse(packet::unwrap(packet)?)?;
        self.channel_counters.received += 1;
        self.channel_counters.fields_ignored += u64::from(ignored);
        // The mark of activity may be ours: whoever sets it must see that the timers are derived.
        self.handle_active(now, id);
        Ok((id, message))
    }

    /// As a relay: a peer wants a way to another one. Until that one wants it as well it is told to wait, whoever that is.
    pub(super) fn hear_relay_request(
        &mut self,
        now: Instant,
        id: PeerId,
        request: u32,
        meeting: MeetingId,
    ) -> Result<(), DropReason> {
        if !self.place.config.relays {
            self.answer_relay(id, request, Err(RelayRefusal::Disabled));
            return Err(DropReason::ChannelUnexpected);
        }
        if self.meeting.relaying.registry.wish(now, id, meeting, ()).is_err() {
            self.answer_relay(id, request, Err(RelayRefusal::NoRoom));
            return Err(DropReason::WishRefused);
        }
        let relaying = &self.meeting.relaying;
        let allocated = relaying.server.other(id, meeting);
        let mutual = allocated.or_else(|| relaying.registry.other(id, meeting));
        self.arm_meeting(now);
        let Some(of) = mutual else {
            self.answer_relay(id, request, Err(RelayRefusal::NotLinked));
            return Ok(());
        };
        let (rng, relaying) = (&mut self.rng, &mut self.meeting.relaying);
        let asked =
            match allocated.is_some() || relaying.asked.entry(id).or_default().take(now, ASK_EVERY, ASK_BURST, 1) {
                true => relaying.server.ask(now, meeting, [id, of], request, || rng.next_u64()),
                false => Asked::Full,
            };
        self.arm_meeting(now);
        match asked {
            Asked::Granted { allocation, port } => {
                let grant = Grant { allocation, port, lifetime_s: LIFETIME.as_secs() as u32 };
                self.answer_relay(id, request, Ok(grant));
            }
            Asked::Allocate { allocation } => {
                self.events.push_back(Event::RelayAllocate { allocation, a: id, b: of });
            }
            Asked::Waits => {}
            Asked::Full => {
                self.answer_relay(id, request, Err(RelayRefusal::NoRoom));
                return Err(DropReason::WishRefused);
            }
        }
        Ok(())
    }

    /// As an end: what a relay says to a request.
    pub(super) fn hear_relay_answer(
        &mut self,
        now: Instant,
        id: PeerId,
        request: u32,
        answer: RelayAnswer,
    ) -> Result<(), DropReason> {
        let Task::RelayRequest { sought, .. } = self.take_errand(now, id, request)? else {
            return Err(DropReason::ChannelUnexpected);
        };
        match answer {
            Ok(grant) => self.add_leg(now, sought, id, grant),
            // It has noted the wish, and makes an offer when the other one asks.
            Err(RelayRefusal::NotLinked) => {}
            Err(_) => self.meeting.relaying.seeker.silent(now, id),
        }
        self.run_errands(id, now);
        self.run_meeting(now);
        Ok(())
    }

    /// As an end: a relay says that the other one has asked as well.
    pub(super) fn hear_relay_offer(
        &mut self,
        now: Instant,
        id: PeerId,
        request: u32,
        offer: RelayOffer,
    ) -> Result<(), DropReason> {
        let known: Vec<_> = self.meeting.relaying.seeker.known_at(id).collect();
        let peer = self.peer_of_meeting(id, offer.meeting, &known).ok_or(DropReason::ChannelUnexpected)?;
        self.say(id, Said::to_endpoint(Message { request, body: Body::RelayOfferAnswer }));
        self.add_leg(now, peer, id, offer.grant);
        self.run_meeting(now);
        Ok(())
    }

    /// As an end: the relay knows our place. That it is seen at two ports of the relay tells what the NAT before us does.
    pub(super) fn hear_relay_bound(
        &mut self,
        now: Instant,
        id: PeerId,
        request: u32,
        observed: SocketAddr,
    ) -> Result<(), DropReason> {
        let bound = self.meeting.relaying.client.bound(now, id, request, observed);
        self.arm_meeting(now);
        let (port, is_news) = bound.ok_or(DropReason::ChannelUnexpected)?;
        let relay = self.peers.get(id).and_then(|peer| peer.endpoint);
        if let Some(relay) = relay.filter(|_| is_news) {
            let by = SocketAddr::new(relay.ip(), port);
            self.events.push_back(Event::Observed { peer: id, by, observed });
            // Its listen port may see us elsewhere as well than it did.
            if let Some(paths) = self.paths_mut(id) {
                paths.look_again(now);
                self.run_paths(id, now);
            }
        }
        Ok(())
    }

    /// The other side, an end or the relay, says that an allocation is over.
    pub(super) fn hear_relay_release(
        &mut self,
        now: Instant,
        id: PeerId,
        request: u32,
        allocation: u64,
    ) -> Result<(), DropReason> {
        self.say(id, Said::to_endpoint(Message { request, body: Body::RelayReleaseAnswer }));
        if self.meeting.relaying.server.release(id, allocation) {
            self.events.push_back(Event::RelayFreed { allocation });
            self.arm_meeting(now);
            return Ok(());
        }
        let leg = self.meeting.relaying.client.legs_by(id).find(|(_, leg)| leg.allocation == allocation);
        let peer = leg.map(|(peer, _)| peer).ok_or(DropReason::ChannelUnexpected)?;
        self.drop_leg(now, peer, id);
        self.meeting.relaying.seeker.ask_again(now, id, peer);
        self.run_meeting(now);
        Ok(())
    }

    /// Does what is due in both roles.
    pub(super) fn run_relaying(&mut self, now: Instant) {
        for relay in std::mem::take(&mut self.meeting.relaying.relay_moved) {
            self.meeting.relaying.client.moved(now, Some(relay));
            let peers: Vec<_> = self.meeting.relaying.client.legs_by(relay).map(|(peer, _)| peer).collect();
            for peer in peers {
                self.name_places(now, peer);
            }
        }
        while let Some(Tell { desk, sought, stop }) = self.meeting.relaying.seeker.run(now) {
            let leg = self.meeting.relaying.client.leg(sought, desk).copied();
            match (leg, stop) {
                (Some(leg), Some(_)) => {
                    self.drop_leg(now, sought, desk);
                    self.send_errand(now, desk, Task::RelayRelease { allocation: leg.allocation });
                }
                (None, None) => {
                    if let Some(meeting) = self.meeting_with(sought, desk) {
                        self.send_errand(now, desk, Task::RelayRequest { sought, meeting });
                    }
                }
                (Some(_), None) | (None, Some(_)) => {}
            }
        }
        loop {
            let rng = &mut self.rng;
            match self.meeting.relaying.client.run(now, || rng.next_u32()) {
                Some(BindDue::Bind { relay, allocation, port, request, .. }) => {
                    self.bind(now, relay, allocation, port, request);
                }
                Some(BindDue::Lost { peer, relay }) => {
                    self.name_places(now, peer);
                    self.meeting.relaying.seeker.silent(now, relay);
                    self.begin_handshake(relay, now);
                }
                None => break,
            }
        }
        self.meeting.relaying.registry.expire(now);
        for allocation in self.meeting.relaying.server.expire(now) {
            self.events.push_back(Event::RelayFreed { allocation });
        }
    }

    /// The link to a relay is over, or the relay has forgotten everything; and as a relay, that to an end.
    pub(super) fn relay_lapsed(&mut self, now: Instant, id: PeerId) {
        let peers: Vec<_> = self.meeting.relaying.client.legs_by(id).map(|(peer, _)| peer).collect();
        for peer in peers {
            self.drop_leg(now, peer, id);
        }
        self.meeting.relaying.registry.forget(id);
    }

    /// The peer is removed.
    pub(super) fn relay_part(&mut self, now: Instant, id: PeerId) {
        self.relay_lapsed(now, id);
        self.meeting.relaying.seeker.closed(now, id);
        self.meeting.relaying.kept.remove(&id);
        self.meeting.relaying.seeker.dropped(now, id);
        self.meeting.relaying.asked.remove(&id);
        let relays: BTreeSet<_> = self.meeting.relaying.client.legs_to(id).map(|(relay, _)| relay).collect();
        for relay in relays {
            self.meeting.relaying.client.remove(id, relay);
        }
        for allocation in self.meeting.relaying.server.forget(id) {
            self.events.push_back(Event::RelayFreed { allocation });
        }
    }

    /// Whether the peer is reached by a relay.
    pub(super) fn has_leg(&self, id: PeerId) -> bool {
        self.meeting.relaying.client.legs_to(id).next().is_some()
    }

    /// The relays by which the peer is reached, and where.
    pub(super) fn legs_of(&self, id: PeerId) -> Vec<(PeerId, SocketAddr)> {
        let place = |relay, port| Some((relay, SocketAddr::new(self.place_of_relay(relay)?.ip(), port)));
        self.meeting.relaying.client.legs_to(id).filter_map(|(relay, leg)| place(relay, leg.port)).collect()
    }

    /// Where the peer is reached by relays.
    pub(super) fn relayed_places(&self, id: PeerId) -> Vec<SocketAddr> {
        self.legs_of(id).into_iter().map(|(_, place)| place).collect()
    }

    /// Where a relay is; `None` also for one that is itself reached by a relay: its ports are not at that address.
    fn place_of_relay(&self, relay: PeerId) -> Option<SocketAddr> {
        let place = self.peers.get(relay)?.endpoint?;
        let is_at = |id| self.peers.get(id).and_then(|peer| peer.endpoint).is_some_and(|at| at.ip() == place.ip());
        let mut legs = self.meeting.relaying.client.legs_to(relay);
        (!legs.any(|(by, leg)| leg.port == place.port() && is_at(by))).then_some(place)
    }

    /// Whether a place is a relay's port for this peer.
    pub(super) fn is_relayed_place(&self, id: PeerId, place: SocketAddr) -> bool {
        self.relayed_places(id).contains(&place)
    }

    /// The words of an offer.
    pub(super) fn offer_words(meeting: MeetingId, allocation: u64, port: u16) -> Body {
        Body::RelayOffer(RelayOffer {
            meeting,
            grant: Grant { allocation, port, lifetime_s: LIFETIME.as_secs() as u32 },
        })
    }

    fn add_leg(&mut self, now: Instant, peer: PeerId, relay: PeerId, grant: Grant) {
        if self.meeting.relaying.client.granted(now, peer, relay, grant.allocation, grant.port) {
            // The bind goes first: what comes before it reaches nobody.
            self.run_relaying(now);
            self.name_places(now, peer);
            if self.meeting.hearsay.may_again(now, peer, relay) {
                self.begin_punch(now, peer, now);
            }
        }
    }

    /// The relays by which a peer reaches us are told at once where we are.
    pub(super) fn rebind(&mut self, now: Instant, peer: PeerId) {
        for relay in self.meeting.relaying.client.bind_again(now, peer) {
            // A NAT that gave us another port lets in no answer of the listen port either.
            self.meeting.relaying.kept.remove(&relay);
        }
    }

    fn drop_leg(&mut self, now: Instant, peer: PeerId, relay: PeerId) {
        if self.meeting.relaying.client.remove(peer, relay).is_some() {
            self.name_places(now, peer);
        }
    }

    fn bind(&mut self, now: Instant, relay: PeerId, allocation: u64, port: u16, request: u32) {
        // The answer comes from the relay's listen port: a NAT lets it in only while something is sent there.
        let kept = self.meeting.relaying.kept.get(&relay);
        if kept.is_none_or(|kept| now.saturating_duration_since(*kept) >= KEPT_FOR) {
            self.meeting.relaying.kept.insert(relay, now);
            self.queue_keepalive(relay);
        }
        let local = self.peers.get(relay).and_then(|peer| peer.local);
        let Some(place) = self.place_of_relay(relay) else { return };
        let message = Message { request, body: Body::RelayBind { allocation } };
        self.say(relay, Said::to_place(message, SocketAddr::new(place.ip(), port), local));
    }

    fn answer_relay(&mut self, id: PeerId, request: u32, answer: RelayAnswer) {
        self.say(id, Said::to_endpoint(Message { request, body: Body::RelayRequestAnswer(answer) }));
    }

    /// Says something that is not said again.
    fn say_once(&mut self, id: PeerId, body: Body) {
        let message = Message { request: self.rng.next_u32(), body };
        self.say(id, Said::to_endpoint(message));
    }
}
