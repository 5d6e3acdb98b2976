//! Datagrams that are no transport data.
//!
//! 1. Type and length. 2. For answers: whether we asked. 3. mac1. 4. Under load: mac2 and the source's share.
//! 5. Only then the agreements of keys, in the order in which each can refuse the message.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use zerocopy::IntoBytes;

use super::transmit::Outgoing;
use super::{Endpoint, WallClock};
use crate::indices::Use;
use crate::message::{
    CookieReply, INITIATION_LEN, Initiation, MAC_LEN, Message, RESPONSE_LEN, Response, TAG_LEN, TYPE_RESPONSE,
};
use crate::noise::{Opened, Received};
use crate::path::Via;
use crate::rate_limit::spaced;
use crate::session::Role;
use crate::tuning::INITIATION_SPACING;
use crate::{DropReason, PeerId, ReceiverIndex};

/// Where a datagram came from and to.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) remote: SocketAddr,
    pub(super) local: Option<IpAddr>,
    /// The socket of ours, as [`super::Transmit`] counts them.
    pub(super) slot: u16,
}

impl Endpoint {
    /// A datagram that is no transport data for a live session. `local` is the address of ours it came to.
    ///
    /// # Errors
    /// Why it was dropped. A cookie reply may be waiting in `poll_transmit` all the same.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        wall: WallClock,
        remote: SocketAddr,
        local: Option<IpAddr>,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        self.handle_datagram_at(now, wall, (remote, local, 0), datagram)
    }

    /// The same of a datagram that came to the socket of a search for a NAT's port: from [`super::SPRAY_SLOT`] on. What
    /// answers it leaves from there. All other sockets are 0.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn handle_datagram_at(
        &mut self,
        now: Instant,
        wall: WallClock,
        (remote, local, slot): (SocketAddr, Option<IpAddr>, u16),
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        self.note_wall(now, wall);
        let message = Message::parse(datagram)?;
        if self.identity.is_none() {
            return Err(DropReason::NoPrivateKey);
        }
        let way = Way { remote, local, slot };
        match message {
            Message::Initiation(message) => self.receive_initiation(now, way, message),
            Message::Response(message) => self.receive_response(now, way, message),
            Message::CookieReply(message) => self.receive_cookie_reply(now, message),
            Message::Data => Err(DropReason::UnknownIndex),
        }
    }

    fn receive_initiation(&mut self, now: Instant, way: Way, message: &Initiation) -> Result<(), DropReason> {
        if let Some(outcome) = self.hear_echo(now, way, &message.mac1) {
            return outcome;
        }
        self.admit(now, way, message.sender.get(), message.as_bytes())?;
        let identity = self.identity.as_ref().ok_or(DropReason::NoPrivateKey)?;
        let opened =
            Opened::new(&identity.secret, &identity.public_key, message).map_err(|_| DropReason::BadHandshake)?;
        let id = self.peers.by_key(&opened.public_key).ok_or(DropReason::UnknownPeer)?;
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownPeer)?;
        let static_static = peer.static_static(identity).map_err(|_| DropReason::BadHandshake)?;
        let received = opened.authenticate(&static_static, message).map_err(|_| DropReason::BadHandshake)?;
        if received.timestamp <= peer.accepted.timestamp {
            return Err(DropReason::ReplayedHandshake);
        }
        self.may_answer(id, way.remote)?;
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownPeer)?;
        if !spaced(peer.accepted.at, now, INITIATION_SPACING) {
            return Err(DropReason::HandshakeRate);
        }
        peer.accepted.timestamp = received.timestamp;
        peer.accepted.at = Some(now);
        self.note_received(id, now, INITIATION_LEN);
        let sender = ReceiverIndex(message.sender.get());
        let Some(received) = self.hold(id, way, (now, received, sender, message.mac1)) else { return Ok(()) };
        self.heard_at(id, now, (way.remote, way.local), Via::Initiation);
        self.respond(id, now, way, received, sender, message.mac1)
    }

    pub(super) fn respond(
        &mut self,
        id: PeerId,
        now: Instant,
        way: Way,
        received: Received,
        remote_index: ReceiverIndex,
        mac1: [u8; MAC_LEN],
    ) -> Result<(), DropReason> {
        let ephemeral = self.ephemeral();
        let local_index = self.indices.allocate(&mut self.rng, id, Use::Session);
        let mut message = Response {
            kind: TYPE_RESPONSE.into(),
            sender: local_index.0.into(),
            receiver: remote_index.0.into(),
            ephemeral: [0; 32],
            sealed_nothing: [0; TAG_LEN],
            mac1: [0; MAC_LEN],
            mac2: [0; MAC_LEN],
        };
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownPeer)?;
        let Ok(keys) = received.respond(&peer.preshared_key, &ephemeral, &mut message) else {
            self.indices.free(local_index);
            return Err(DropReason::BadHandshake);
        };
        peer.sign(now, message.as_mut_bytes());
        self.start_session(id, now, Role::Responder, local_index, remote_index, &keys);
        self.note_handshake_sent(id, now, RESPONSE_LEN);
        self.note_answer(now, id, mac1, local_index, message.as_bytes());
        self.spray_hit(id, way.slot);
        self.enqueue(Outgoing::datagram(Some(id), way, message.as_bytes()))
    }

    fn receive_response(&mut self, now: Instant, way: Way, message: &Response) -> Result<(), DropReason> {
        let local_index = ReceiverIndex(message.receiver.get());
        let id = match self.indices.find(local_index) {
            Some((id, Use::Handshake)) => id,
            Some((id, Use::Session)) if self.is_copied(now, id, local_index) => return Ok(()),
            _ => return Err(DropReason::UnknownIndex),
        };
        self.admit(now, way, message.sender.get(), message.as_bytes())?;
        let identity = self.identity.as_ref().ok_or(DropReason::NoPrivateKey)?;
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownPeer)?;
        let in_flight = peer.attempts.in_flight.as_ref().ok_or(DropReason::UnknownIndex)?;
        let keys = in_flight
            .state
            .complete(&identity.secret, &peer.preshared_key, message)
            .map_err(|_| DropReason::BadHandshake)?;
        peer.handshake_duration = Some(now.saturating_duration_since(in_flight.sent));
        // Its index lives on as the session's.
        peer.attempts.in_flight = None;
        self.indices.promote(local_index);
        self.note_received(id, now, RESPONSE_LEN);
        self.heard_at(id, now, (way.remote, way.local), Via::Response);
        self.spray_hit(id, way.slot);
        let remote_index = ReceiverIndex(message.sender.get());
        self.start_session(id, now, Role::Initiator, local_index, remote_index, &keys);
        // The peer seals nothing with the session before it has seen us use it.
        self.queue_keepalive(id);
        self.complete_handshake(id, now);
        Ok(())
    }

    /// A cookie reply says nothing about who sent it: it moves no endpoint and starts nothing.
    fn receive_cookie_reply(&mut self, now: Instant, message: &CookieReply) -> Result<(), DropReason> {
        let index = ReceiverIndex(message.receiver.get());
        let (id, _) = self.indices.find(index).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownIndex)?;
        peer.take_cookie(now, message).map_err(|_| DropReason::BadCookie)
    }

    /// Whether a handshake message is worth an agreement of keys.
    fn admit(&mut self, now: Instant, way: Way, sender: u32, message: &[u8]) -> Result<(), DropReason> {
        if !self.mac_keys.mac1_matches(message) {
            return Err(DropReason::BadMac1);
        }
        if !self.load.note(now) {
            return Ok(());
        }
        if self.cookies.mac2_matches(now, way.remote, message) {
            let admitted = self.sources.admit(now, way.remote.ip());
            return if admitted { Ok(()) } else { Err(DropReason::HandshakeRate) };
        }
        let reply = self.cookies.reply(now, &mut self.rng, &self.mac_keys, way.remote, sender, message);
        self.enqueue(Outgoing::datagram(None, way, reply.as_bytes()))?;
        Err(DropReason::CookieRequired)
    }

    fn note_received(&mut self, id: PeerId, now: Instant, len: usize) {
        let coarse = self.coarse(now);
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.shared.add_handshake_received(len as u64);
        peer.watch.handshake_received = Some(coarse);
    }
}
