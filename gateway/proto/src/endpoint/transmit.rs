//! Datagrams to send. Initiations and keepalives are made when they are polled for, so that they carry that
//! moment's timestamp, counter and endpoint.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use zerocopy::IntoBytes;

use super::receive::Way;
use super::{Endpoint, Transmit, WallClock};
use crate::constants::{REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, REKEY_TIMEOUT_JITTER_MAX};
use crate::indices::Use;
use crate::message::{
    DataHeader, INITIATION_LEN, Initiation, KEEPALIVE_LEN, MAC_LEN, RESPONSE_LEN, TAG_LEN, TIMESTAMP_LEN, TYPE_DATA,
    TYPE_INITIATION,
};
use crate::noise::initiate;
use crate::peer::InFlight;
use crate::timer::Timer;
use crate::timestamp::Timestamp;
use crate::tuning::OUTGOING_MAX;
use crate::{DropReason, PeerId};

/// Something to send.
pub(super) enum Outgoing {
    /// At most one per peer.
    Initiation(PeerId),
    /// The initiation of a punch, to one of its places or from one of a search's sockets.
    Punch { peer: PeerId, remote: SocketAddr, slot: u16 },
    /// At most one per peer.
    Keepalive(PeerId),
    /// What a peer is to be told on the control channel: its oldest message.
    Channel(PeerId),
    /// A response or a cookie reply.
    Datagram { to: Transmit, bytes: [u8; RESPONSE_LEN] },
}

impl Outgoing {
    /// A response or a cookie reply, which is shorter.
    pub(super) fn datagram(peer: Option<PeerId>, to: Way, message: &[u8]) -> Self {
        let mut bytes = [0; RESPONSE_LEN];
        bytes[..message.len()].copy_from_slice(message);
        let Way { remote, local, slot } = to;
        let to = Transmit { peer, remote, local, slot, dont_fragment: false, len: message.len() };
        Self::Datagram { to, bytes }
    }
}

impl Endpoint {
    /// Writes the next datagram to send into `buffer` (at least [`Endpoint::MAX_TRANSMIT`] bytes).
    ///
    /// # Panics
    /// When `buffer` is shorter than that.
    pub fn poll_transmit(&mut self, now: Instant, wall: WallClock, buffer: &mut [u8]) -> Option<Transmit> {
        self.note_wall(now, wall);
        loop {
            let transmit = match self.outgoing.pop_front()? {
                Outgoing::Initiation(peer) => self.write_initiation(peer, now, wall, buffer),
                Outgoing::Punch { peer, remote, slot } => self.write_punch(peer, (remote, slot), now, wall, buffer),
                Outgoing::Keepalive(peer) => self.write_keepalive(peer, now, buffer),
                Outgoing::Channel(peer) => self.write_channel(peer, now, buffer),
                Outgoing::Datagram { to, bytes } => {
                    buffer[..to.len].copy_from_slice(&bytes[..to.len]);
                    Some(to)
                }
            };
            if transmit.is_some() {
                return transmit;
            }
        }
    }

    /// Queues a message of the control channel, which waits in the peer's own bounded queue.
    pub(super) fn queue_channel(&mut self, id: PeerId) {
        self.outgoing.push_back(Outgoing::Channel(id));
    }

    /// Queues a response or a cookie reply.
    pub(super) fn enqueue(&mut self, outgoing: Outgoing) -> Result<(), DropReason> {
        if self.outgoing.len() >= OUTGOING_MAX + 2 * self.peers.len() {
            return Err(DropReason::HandshakeQueueFull);
        }
        self.outgoing.push_back(outgoing);
        Ok(())
    }

    pub(super) fn queue_keepalive(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if !std::mem::replace(&mut peer.watch.keepalive_queued, true) {
            self.outgoing.push_back(Outgoing::Keepalive(id));
        }
    }

    pub(super) fn queue_initiation(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if !std::mem::replace(&mut peer.attempts.queued, true) {
            self.outgoing.push_back(Outgoing::Initiation(id));
        }
    }

    pub(super) fn note_handshake_sent(&mut self, id: PeerId, now: Instant, len: usize) {
        let coarse = self.coarse(now);
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.attempts.last_message = Some(now);
        peer.watch.handshake_sent = Some(coarse);
        peer.shared.add_handshake_sent(len as u64);
    }

    /// A little time, so that two sides do not stay in step.
    pub(super) fn jitter(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(0..REKEY_TIMEOUT_JITTER_MAX.as_millis() as u64))
    }

    fn write_initiation(&mut self, id: PeerId, now: Instant, wall: WallClock, buffer: &mut [u8]) -> Option<Transmit> {
        let peer = self.peers.get_mut(id)?;
        peer.attempts.queued = false;
        peer.attempts.since?;
        let can_seal = peer.can_seal(now);
        self.meeting.hearsay.age(now, id);
        if !can_seal && self.has_places(id) {
            self.renew_punch(now, id);
            return None;
        }
        let Some(remote) = self.peers.get(id)?.endpoint else {
            self.abandon_handshake(id);
            return None;
        };
        buffer[..INITIATION_LEN].copy_from_slice(&self.make_initiation(id, now, wall)?);
        self.note_handshake_sent(id, now, INITIATION_LEN);
        let local = self.peers.get(id)?.local;
        Some(Transmit { peer: Some(id), remote, local, slot: 0, dont_fragment: false, len: INITIATION_LEN })
    }

    /// Makes the message of a handshake that is wanted, which takes the place of the one before.
    pub(super) fn make_initiation(
        &mut self,
        id: PeerId,
        now: Instant,
        wall: WallClock,
    ) -> Option<[u8; INITIATION_LEN]> {
        let since = self.peers.get(id)?.attempts.since?;
        if self.identity.is_none() {
            self.abandon_handshake(id);
            return None;
        }
        let retry = (now + REKEY_TIMEOUT + self.jitter()).min(since + REKEY_ATTEMPT_TIME);
        self.timers.set(id.slot, Timer::RetryHandshake, retry);
        let ephemeral = self.ephemeral();
        let index = self.indices.allocate(&mut self.rng, id, Use::Handshake);
        let mut message = Initiation {
            kind: TYPE_INITIATION.into(),
            sender: index.0.into(),
            ephemeral: [0; 32],
            sealed_static: [0; 32 + TAG_LEN],
            sealed_timestamp: [0; TIMESTAMP_LEN + TAG_LEN],
            mac1: [0; MAC_LEN],
            mac2: [0; MAC_LEN],
        };
        let (peer, identity) = (self.peers.get_mut(id)?, self.identity.as_ref()?);
        let timestamp = Timestamp::after(peer.attempts.timestamp, wall.0);
        peer.attempts.timestamp = timestamp;
        peer.attempts.sent += 1;
        let state = peer.static_static(identity).and_then(|static_static| {
            initiate(&identity.public_key, &peer.public_key, &static_static, ephemeral, timestamp, &mut message)
        });
        let Ok(state) = state else {
            // The peer's key is of small order. The handshake is given up like any that nobody answers.
            self.indices.free(index);
            return None;
        };
        peer.sign(now, message.as_mut_bytes());
        if let Some(before) = peer.attempts.in_flight.replace(InFlight { index, state, sent: now }) {
            self.indices.free(before.index);
        }
        Some(zerocopy::transmute!(message))
    }

    /// Seals nothing with the current session, or begins a handshake when there is none.
    fn write_keepalive(&mut self, id: PeerId, now: Instant, buffer: &mut [u8]) -> Option<Transmit> {
        let peer = self.peers.get_mut(id)?;
        peer.watch.keepalive_queued = false;
        let remote = peer.endpoint?;
        let session = peer.sessions.current.as_ref().filter(|session| !session.is_expired(now));
        let sealed = session.and_then(|session| Some((session, session.take_counters(1)?)));
        let Some((session, counter)) = sealed else {
            self.begin_handshake(id, now);
            return None;
        };
        let header =
            DataHeader { kind: TYPE_DATA.into(), receiver: session.remote_index.0.into(), counter: counter.into() };
        let (head, tag) = buffer[..KEEPALIVE_LEN].split_at_mut(size_of::<DataHeader>());
        head.copy_from_slice(header.as_bytes());
        session.seal_key().seal(counter, tag);
        peer.shared.sent(now, 1, KEEPALIVE_LEN as u64, false);
        let local = peer.local;
        let to = Transmit { peer: Some(id), remote, local, slot: 0, dont_fragment: false, len: KEEPALIVE_LEN };
        // The mark of activity may be ours: whoever sets it must see that the timers are derived.
        self.handle_active(now, id);
        Some(to)
    }
}
