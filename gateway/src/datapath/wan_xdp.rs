//! An AF_XDP ring as a wan side.
//!
//! Enters: Ethernet frames that the steer program redirected; UDP payloads with the path they go. Leaves: UDP
//! payloads in place; Ethernet frames on the wire. Never does: take what does not fit the path's MTU or
//! does not lie in the ring's memory; that is the kernel socket's ([`super::wan`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use landbridge_proto::DropReason;
use landbridge_xsk::{Burst, Frame, Pool, Xsk};

use super::side::{Datagrams, Origin, Outgoing};
use super::stats::LaneStats;
use super::tables::Path;
use super::wire::{self, HeaderTemplate};

/// Paths whose headers are kept ready.
const TEMPLATES: usize = 64;

/// One ring and its backlogs.
#[derive(Debug)]
pub struct WanXdp {
    /// The interface it is bound to.
    pub(super) if_index: u32,
    socket: Xsk,
    received: Burst,
    staged: Burst,
    templates: Vec<Option<Template>>,
}

#[derive(Debug)]
struct Template {
    /// Held, so that no other path can come to the same address while the headers are kept.
    path: Arc<Path>,
    listen_port: u16,
    headers: Option<HeaderTemplate>,
}

impl WanXdp {
    /// A side on a bound socket.
    #[must_use]
    pub fn new(if_index: u32, socket: Xsk) -> Self {
        let templates = std::iter::repeat_with(|| None).take(TEMPLATES).collect();
        Self { if_index, socket, received: Burst::new(), staged: Burst::new(), templates }
    }

    /// Receives frames where none wait already; true when some do.
    pub fn glance(&mut self, pool: &mut Pool) -> bool {
        if self.received.is_empty() {
            self.socket.receive(pool, &mut self.received);
        }
        !self.received.is_empty()
    }

    /// See [`super::side::Wan::receive`].
    pub fn receive(&mut self, pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) {
        while !into.is_full() && self.glance(pool) {
            let room = into.frames.remaining_capacity().min(self.received.len());
            for mut frame in self.received.drain(..room) {
                match wire::parse(frame.data()) {
                    Ok(datagram) => {
                        stats.wan_xdp_rx_packets.add(1);
                        stats.wan_xdp_rx_bytes.add(datagram.ip_len as u64);
                        frame.truncate(datagram.payload.end);
                        frame.advance(datagram.payload.start);
                        let origin = Origin { remote: datagram.remote, local: Some(datagram.local) };
                        into.push(frame, origin, datagram.ecn);
                    }
                    Err(reason) => {
                        stats.drop_packets(reason, 1);
                        pool.put(frame);
                    }
                }
            }
        }
    }

    /// Stages one datagram; gives it back when it has to take the kernel's socket.
    pub fn push(&mut self, pool: &mut Pool, mut frame: Frame, to: Outgoing<'_>, stats: &LaneStats) -> Option<Frame> {
        if frame.is_jumbo() {
            return Some(frame);
        }
        let Some(headers) = self.headers(to) else { return Some(frame) };
        if frame.len() > headers.payload_max() {
            return Some(frame);
        }
        let payload_len = frame.len();
        let ethernet_len = to.path.wire.as_ref().map_or(0, |wire| wire.ethernet.len());
        if let Err(reason) = headers.write_with_ecn(&mut frame, to.ecn) {
            stats.drop_packets(reason, 1);
            pool.put(frame);
            return None;
        }
        debug_assert!(frame.len() > payload_len + ethernet_len);
        stats.wan_xdp_tx_packets.add(1);
        stats.wan_xdp_tx_bytes.add((frame.len() - ethernet_len) as u64);
        if self.staged.is_full() {
            self.move_staged(pool, stats);
        }
        self.staged.push(frame);
        None
    }

    fn headers(&mut self, to: Outgoing<'_>) -> Option<&HeaderTemplate> {
        let address = Arc::as_ptr(to.path) as usize;
        // Allocations are aligned to 16 bytes and of similar size, so the bits above those tell them apart.
        let place = (address >> 4 ^ address >> 10) % TEMPLATES;
        let kept = &mut self.templates[place];
        let fits = |kept: &Template| Arc::ptr_eq(&kept.path, to.path) && kept.listen_port == to.listen_port;
        if !kept.as_ref().is_some_and(fits) {
            let wire = to.path.wire.as_ref()?;
            let headers = HeaderTemplate::new(wire, to.path.remote, to.listen_port);
            *kept = Some(Template { path: Arc::clone(to.path), listen_port: to.listen_port, headers });
        }
        kept.as_ref()?.headers.as_ref()
    }

    /// Moves staged frames into the ring. A ring that stays full after the kernel was told drops the rest.
    fn move_staged(&mut self, pool: &mut Pool, stats: &LaneStats) {
        self.socket.transmit(pool, &mut self.staged);
        if self.staged.is_empty() {
            return;
        }
        let _ = self.socket.flush(pool);
        self.socket.transmit(pool, &mut self.staged);
        let left = self.staged.len() as u64;
        if left > 0 {
            stats.drop_packets(DropReason::WanFull, left);
            for frame in self.staged.drain(..) {
                pool.put(frame);
            }
        }
    }

    /// Sends what is staged.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) -> io::Result<()> {
        self.move_staged(pool, stats);
        self.socket.flush(pool)
    }

    /// Brings every frame home.
    pub fn close(mut self, pool: &mut Pool) {
        for frame in self.received.drain(..).chain(self.staged.drain(..)) {
            pool.put(frame);
        }
        self.socket.close(pool);
    }
}

impl AsFd for WanXdp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
