//! One peer of the crowd: an endpoint and a socket, with as much of a lane as a link without payload needs.
//!
//! Enters: datagrams and time. Leaves: datagrams. Never does: have a tunnel interface, or carry payload.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use landbridge::config::keys;
use landbridge::settings::PublicKey;
use landbridge_proto::{ChannelConfig, Endpoint, Event, KEY_LEN, PeerConfig, PeerId, Session, WallClock};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const KEEPALIVE: Duration = Duration::from_secs(25);

pub(super) struct Member {
    endpoint: Endpoint,
    socket: UdpSocket,
    introducer: PeerId,
    place: SocketAddr,
    public: PublicKey,
    sessions: BTreeMap<u32, Arc<Session>>,
    linked: bool,
}

impl Member {
    pub(super) fn new(
        socket: UdpSocket,
        introducer: [u8; KEY_LEN],
        place: SocketAddr,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let own = keys::generate_private().context("the system gives no randomness")?;
        let absent = keys::generate_private().context("the system gives no randomness")?;
        let absent = keys::public(&absent).0;
        let mut endpoint = Endpoint::new(now, absent);
        endpoint.set_private_key(Some(*own.0), now);
        endpoint.set_channel(ChannelConfig { source_ports: 0, accepts_ports: 0 });
        let config =
            PeerConfig { endpoint: Some(place), persistent_keepalive: Some(KEEPALIVE), ..PeerConfig::default() };
        let introducer = endpoint.add_peer(introducer, config, now).context("room for a peer")?;
        endpoint.add_peer(absent, PeerConfig::default(), now).context("room for a second peer")?;
        Ok(Self {
            endpoint,
            socket,
            introducer,
            place,
            public: keys::public(&own),
            sessions: BTreeMap::new(),
            linked: false,
        })
    }

    pub(super) const fn public_key(&self) -> PublicKey {
        self.public
    }

    fn due(&self) -> Option<Instant> {
        self.endpoint.poll_timeout()
    }

    /// Takes what has arrived.
    fn receive(&mut self, now: Instant, wall: WallClock) {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let bytes = &mut buffer[..length];
            match bytes.first() {
                Some(4) => {
                    self.open(now, from, bytes);
                }
                // What it drops is for its own counters.
                _ => drop(self.endpoint.handle_datagram(now, wall, from, None, bytes)),
            }
        }
    }

    fn open(&mut self, now: Instant, from: SocketAddr, bytes: &mut [u8]) -> Option<()> {
        let index = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
        let counter = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        let session = Arc::clone(self.sessions.get(&index).filter(|session| !session.is_expired(now))?);
        let (size, packet) = (bytes.len() as u64, &mut bytes[16..]);
        let length = session.open_key().open(counter, packet).ok()?;
        if !session.replay().commit(counter) {
            return None;
        }
        if session.shared.received(now, 1, size, false) {
            self.endpoint.handle_active(now, session.peer);
        }
        if length > 0 {
            // What it drops, it counts itself.
            let _ = self.endpoint.handle_channel(now, session.peer, from, None, &packet[..length]);
        }
        if !session.is_confirmed() && session.confirm() {
            self.endpoint.handle_confirmed(now, session.local_index);
        }
        Some(())
    }

    /// Follows events, and sends what there is to send.
    fn turn(&mut self, now: Instant, wall: WallClock) {
        if self.due().is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now, wall);
        }
        loop {
            if let Some(event) = self.endpoint.poll_event() {
                match event {
                    Event::SessionStarted { session, .. } => {
                        self.linked |= session.peer == self.introducer;
                        self.sessions.insert(session.local_index.0, session);
                    }
                    Event::SessionEnded { index, .. } => drop(self.sessions.remove(&index.0)),
                    _ => {}
                }
                continue;
            }
            let mut buffer = [0; Endpoint::MAX_TRANSMIT];
            let Some(transmit) = self.endpoint.poll_transmit(now, wall, &mut buffer) else { break };
            // Only the introducer is there to be sent to; what a full buffer refuses is sent again.
            if transmit.remote == self.place {
                drop(self.socket.send_to(&buffer[..transmit.len], transmit.remote));
            }
        }
    }
}

/// Runs all of them until told to end; `linked` says how many have a session with the introducer.
pub(super) fn serve(mut members: Vec<Member>, end: &AtomicBool, linked: &AtomicUsize) -> anyhow::Result<()> {
    let mut begun = 0;
    while !end.load(Ordering::Relaxed) {
        let now = Instant::now();
        let wall = WallClock(SystemTime::now());
        // Not all at once, as they would not be in a network either.
        begun = (begun + 10).min(members.len());
        for member in &mut members[..begun] {
            if member.due().is_some_and(|due| due <= now) || !member.linked {
                member.turn(now, wall);
            }
        }
        linked.store(members.iter().filter(|member| member.linked).count(), Ordering::Relaxed);
        let ready: Vec<usize> = {
            let mut fds: Vec<PollFd<'_>> =
                members.iter().map(|member| PollFd::new(member.socket.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::from(20_u8)).context("poll")?;
            fds.iter().enumerate().filter(|(_, fd)| fd.any() == Some(true)).map(|(place, _)| place).collect()
        };
        let now = Instant::now();
        for place in ready {
            members[place].receive(now, wall);
            members[place].turn(now, wall);
        }
    }
    Ok(())
}
