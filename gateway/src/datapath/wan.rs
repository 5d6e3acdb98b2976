//! The wan side of a running lane: its rings, if it has any, and the kernel's socket beside them.
//!
//! Enters and leaves: as [`super::side::Wan`] says. Which way a datagram leaves is decided here, per datagram:
//! by the ring when its path is resolved, leads over an interface that this lane has a ring on, and its MTU
//! suffices; else by the kernel's socket. What one place is sent by both ways leaves in the order it came. Never does:
//! drop what the other way could carry, or let one source of datagrams keep the others waiting.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use landbridge_proto::DropReason;
use landbridge_xsk::{Burst, Pool};
use rustix::event::{PollFd, PollFlags};

use super::ring::Rings;
use super::side::{Datagrams, Outgoing, PollSet, Wan};
use super::stats::LaneStats;
use super::wan_udp::WanUdp;
use super::wan_xdp::WanXdp;
use super::wire::HeaderTemplate;

/// Rings and socket of one lane. A lane that has neither only helps others.
#[derive(Debug)]
pub struct WanSide {
    rings: Rings<WanXdp>,
    socket: Option<WanUdp>,
    /// Sockets of further source ports, in their order. Only sent from: what comes to them is the control task's.
    ports: Vec<WanUdp>,
}

impl WanSide {
    /// What the lane shall use.
    #[must_use]
    pub fn new(rings: Vec<WanXdp>, socket: Option<WanUdp>, ports: Vec<WanUdp>) -> Self {
        Self { rings: Rings::new(rings), socket, ports }
    }
}

impl Wan for WanSide {
    fn receive(&mut self, pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) -> io::Result<()> {
        let Self { rings, socket, .. } = self;
        let mut result = Ok(());
        rings.in_turn(|ring| {
            match (ring, &mut *socket) {
                (Some(ring), _) => ring.receive(pool, into, stats),
                (None, Some(socket)) => result = socket.receive(pool, into, stats),
                (None, None) => {}
            }
            into.is_full()
        });
        result
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Burst, to: Outgoing<'_>, stats: &LaneStats) {
        let Self { rings, socket, ports, .. } = self;
        let mut socket = match to.slot {
            0 => socket.as_mut(),
            beside => ports.get_mut(usize::from(beside) - 1).or(socket.as_mut()),
        };
        let (remote, headers) = (to.path.remote, to.path.headers());
        let place = headers.and_then(|headers| rings.place(headers.if_index()));
        let payload_max = headers.map_or(0, HeaderTemplate::payload_max);
        for frame in frames.drain(..) {
            let left = match place {
                Some(place) if frame.len() <= payload_max => {
                    if let Some(socket) = socket.as_mut().filter(|socket| socket.holds(remote)) {
                        socket.flush(pool, stats);
                    }
                    rings.at(place).push(pool, frame, to, stats)
                }
                _ => Some(frame),
            };
            let Some(frame) = left else { continue };
            for ring in rings.iter_mut().filter(|ring| ring.holds(remote)) {
                // What it could not send it says again at the flush that ends the turn.
                let _ = ring.flush(pool, stats);
            }
            match &mut socket {
                Some(socket) => socket.push(pool, frame, to, stats),
                None => {
                    stats.drop_packets(DropReason::WanError, 1);
                    pool.put(frame);
                }
            }
        }
    }

    fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) -> io::Result<()> {
        for socket in self.socket.iter_mut().chain(&mut self.ports) {
            socket.flush(pool, stats);
        }
        self.rings.iter_mut().map(|ring| ring.flush(pool, stats)).fold(Ok(()), Result::and)
    }

    fn glance(&mut self, pool: &mut Pool) -> bool {
        self.rings.glance(pool)
    }

    fn has_rings(&self) -> bool {
        !self.rings.is_empty()
    }

    fn poll_set<'a>(&'a self, into: &mut PollSet<'a>) {
        let rings = self.rings.fds();
        let socket = self.socket.iter().map(AsFd::as_fd);
        into.extend(rings.chain(socket).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    }

    fn replace_socket(&mut self, socket: UdpSocket) -> io::Result<()> {
        match &mut self.socket {
            Some(used) => used.replace(socket),
            none => {
                *none = Some(WanUdp::new(socket)?);
                Ok(())
            }
        }
    }

    fn set_port(&mut self, slot: u8, socket: UdpSocket) -> io::Result<()> {
        // A lane without sockets sends nothing by them.
        if self.socket.is_none() {
            return Ok(());
        }
        let place = usize::from(slot).saturating_sub(1);
        let after_last = place == self.ports.len();
        match self.ports.get_mut(place) {
            Some(used) => used.replace(socket),
            None if after_last => {
                self.ports.push(WanUdp::new(socket)?);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn replace_rings(&mut self, pool: &mut Pool, if_index: u32, rings: Vec<WanXdp>) {
        self.rings.replace(pool, if_index, rings);
    }

    fn close(&mut self, pool: &mut Pool) {
        self.rings.close(pool);
        for socket in self.socket.take().into_iter().chain(self.ports.drain(..)) {
            socket.close(pool);
        }
    }
}
