//! The UDP sockets of source ports beside the listen port: one for each, shared by all lanes and the control task.
//!
//! Enters: how many, and the mark of outer packets. Leaves: sockets on free ports, which are thereby nobody else's. Never
//! does: tell anybody of them: peers see a port when a packet comes from it.
//!
//! Lanes only send from them. What comes to them is for the control task, which treats it as what comes to the listen
//! port: a peer may have followed a packet there before it knew what the port was.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::epoll;

use super::Control;
use super::driver::Driver;
use super::paths::Network;
use super::sockets::ControlSocket;
use crate::datapath::lanes::LaneConfig;

/// Reads of one socket in one round.
const READS: usize = 16;

/// Opens so many; fewer where the system has no more.
#[must_use]
pub fn open(count: u8, fwmark: Option<u32>) -> Vec<ControlSocket> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        match ControlSocket::on_free_port(fwmark) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                tracing::warn!(ports = sockets.len(), "no further source port: {error:#}");
                break;
            }
        }
    }
    sockets
}

/// Gives every lane that sends by the kernel a handle of each.
///
/// # Errors
/// What the kernel said.
pub fn share(sockets: &[ControlSocket], lanes: &mut [LaneConfig]) -> std::io::Result<()> {
    for lane in lanes.iter_mut().filter(|lane| lane.socket.is_some()) {
        lane.ports = sockets.iter().map(ControlSocket::for_lane).collect::<Result<_, _>>()?;
    }
    Ok(())
}

/// One descriptor that is readable when any of them is; `None` when there are none.
///
/// # Errors
/// What the kernel said.
pub(super) fn watch(sockets: &[ControlSocket]) -> std::io::Result<Option<OwnedFd>> {
    if sockets.is_empty() {
        return Ok(None);
    }
    let all = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (place, socket) in sockets.iter().enumerate() {
        epoll::add(&all, socket.as_fd(), epoll::EventData::new_u64(place as u64), epoll::EventFlags::IN)?;
    }
    Ok(Some(all))
}

impl<N: Network> Driver<N> {
    /// Takes these, from the next snapshot on.
    pub fn set_source_ports(&mut self, sockets: Vec<ControlSocket>) {
        self.tables.source_ports = sockets.iter().map(ControlSocket::port).collect();
        self.configured_ports = sockets.len();
        self.ports = sockets;
    }

    /// They are others from here on: what watches them has to be made again.
    pub(super) fn note_ports(&mut self) {
        self.ports_generation += 1;
        self.set_dirty();
    }

    /// Reads what came to the further source ports. True when more may wait.
    pub(super) fn receive_ports(&mut self, now: std::time::Instant) -> bool {
        let mut more = false;
        for place in 0..self.ports.len() {
            more |= self.receive_at(place + 1, now, READS);
        }
        more
    }
}

impl Control {
    /// Marks what is sent from them.
    pub(super) fn mark_source_ports(&self, mark: u32) -> std::io::Result<()> {
        self.driver.ports.iter().try_for_each(|socket| socket.set_mark(mark))
    }
}
