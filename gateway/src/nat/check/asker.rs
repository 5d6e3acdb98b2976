//! Two sockets and the questions that go out by them.
//!
//! Enters: questions of the [`Client`]. Leaves: outcomes. Never does: wait past the time it was given.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::control::sockets::{ControlSocket, Received, Sockets};
use crate::nat::stun::message::REQUEST_MAX;
use crate::nat::stun::{self, Client, Outcome};
use crate::nat::survey::{FRESH, TUNNEL};

/// The sockets of a check.
pub(super) struct Asker {
    /// What is asked.
    pub(super) client: Client,
    /// In the place of the tunnel's own, and a fresh one.
    sockets: [(u8, ControlSocket); 2],
}

impl Asker {
    pub(super) fn open(port: Option<u16>, mark: Option<u32>) -> anyhow::Result<Self> {
        let tunnel = match port {
            Some(port) => Sockets::open(Some(port), 0, mark)?.control,
            None => ControlSocket::on_free_port(mark)?,
        };
        let fresh = ControlSocket::on_free_port(mark).context("a second socket")?;
        Ok(Self { client: Client::default(), sockets: [(TUNNEL, tunnel), (FRESH, fresh)] })
    }

    pub(super) fn port(&self) -> u16 {
        self.sockets[0].1.port()
    }

    /// Sends and receives until nothing is under way, or the time is over. `take` gets every outcome, and may ask more.
    pub(super) fn until(&mut self, end: Instant, mut take: impl FnMut(&mut Client, &Outcome, Instant)) {
        loop {
            let now = Instant::now();
            self.client.handle_timeout(now);
            while let Some(outcome) = self.client.poll_outcome() {
                take(&mut self.client, &outcome, now);
            }
            self.send(now);
            if self.client.is_idle() || now >= end {
                return;
            }
            let due = self.client.poll_timeout().map_or(end, |due| due.min(end));
            self.receive(due.saturating_duration_since(now));
        }
    }

    fn send(&mut self, now: Instant) {
        let mut buffer = [0; REQUEST_MAX];
        while let Some((length, query)) = self.client.poll_transmit(now, &mut buffer) {
            let Some((_, socket)) = self.sockets.iter().find(|(number, _)| *number == query.socket) else { continue };
            if let Err(error) = socket.send(query.server, query.local, &buffer[..length], query.size > 0) {
                tracing::debug!(server = %query.server, %error, "asking a STUN server");
            }
        }
    }

    fn receive(&mut self, wait: Duration) {
        // Up to the next millisecond, so as not to turn in vain.
        let wait = PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        let ready = {
            let mut watched = self.sockets.each_ref().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
            poll(&mut watched, wait).unwrap_or(0)
        };
        if ready == 0 {
            return;
        }
        let Self { client, sockets } = self;
        for (number, socket) in sockets {
            let now = Instant::now();
            let mut take = |Received { remote, local, bytes }: Received<'_>| {
                if let Err(reason) = stun::take(client, now, *number, remote, local, bytes) {
                    tracing::debug!(reason = reason.label(), "dropped");
                }
            };
            // Bounded: a flood is not to make the check any longer.
            for _ in 0..64 {
                if !matches!(socket.receive(&mut take), Ok(true)) {
                    break;
                }
            }
        }
    }
}
