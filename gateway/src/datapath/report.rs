//! What lanes and the control task tell each other. Every queue is bounded; who finds it full counts a
//! drop and goes on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::{io, time::Instant};

use crossbeam::queue::ArrayQueue;
use landbridge_proto::{PeerId, ReceiverIndex};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::lan_xdp::LanXdp;
use super::wan_xdp::WanXdp;

/// The largest datagram that a lane passes to the control task: handshakes are 148 bytes at most.
pub const CONTROL_DATAGRAM_MAX: usize = 256;

/// What a lane tells the control task.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the queue's places are allocated once, a box would be allocated each time"
)]
pub enum Report {
    /// Packets wait for a session of this peer. Wakes the control task.
    SessionWanted(PeerId),
    /// An unconfirmed session received its first authentic packet. Wakes the control task.
    Confirmed(ReceiverIndex),
    /// A peer's authentic packets come from another place. Wakes the control task.
    Roamed {
        /// The peer.
        peer: PeerId,
        /// Where it is.
        remote: SocketAddr,
        /// The address of ours it uses.
        local: Option<IpAddr>,
    },
    /// A peer was marked active ([`landbridge_proto::PeerShared`]). Read on the control task's tick; does not wake it.
    Active(PeerId),
    /// A datagram that is not transport data came by a lane's own socket. Wakes the control task.
    Datagram(ControlDatagram),
    /// A packet of the control channel: authentic, between the two addresses of the session's peers, and within the
    /// peer's share. Wakes the control task.
    Channel {
        /// Whose session it came by.
        peer: PeerId,
        /// Where it came from.
        remote: SocketAddr,
        /// The address of ours it came to.
        local: Option<IpAddr>,
        /// Place of the source port that it came to, as in [`Command::Data`].
        slot: u16,
        /// The inner packet. Such packets are few, so that each may be allocated for.
        packet: Box<[u8]>,
    },
    /// The tunnel interface is gone: the gateway ends.
    LanGone,
    /// The rings of a wan interface fail to send: it is down, gone or failing.
    WanFailed(io::Error),
    /// The same of a lan interface.
    LanFailed(io::Error),
    /// The lane itself failed (it was not asked to stop).
    LaneFailed(String),
}

/// A datagram on its way to the control task.
#[derive(Debug, Clone)]
pub struct ControlDatagram {
    /// Where it came from.
    pub remote: SocketAddr,
    /// The address of ours it came to.
    pub local: Option<IpAddr>,
    /// When it was received.
    pub received: Instant,
    /// Its bytes.
    pub bytes: arrayvec::ArrayVec<u8, CONTROL_DATAGRAM_MAX>,
}

/// What the control task tells a lane. Each wakes the lane.
#[derive(Debug)]
pub enum Command {
    /// Transport data that came by the control task's socket.
    Data {
        /// Where it came from.
        remote: SocketAddr,
        /// The address of ours it came to.
        local: Option<IpAddr>,
        /// Place of the source port that it came to.
        slot: u16,
        /// The datagram.
        bytes: Box<[u8]>,
    },
    /// Send by this socket what leaves from a source port at this place.
    Port {
        /// The place, from 1 on.
        slot: u8,
        /// Its socket.
        socket: std::net::UdpSocket,
    },
    /// Use this kernel socket from here on (the listen port changed); the one in use is closed.
    Socket(std::net::UdpSocket),
    /// Close the rings of this wan interface, and use these from here on.
    WanRings {
        /// Its index.
        if_index: u32,
        /// In place of those closed; none leaves the interface's packets to the kernel's socket.
        rings: Vec<WanXdp>,
    },
    /// Close the rings of this lan interface, and use these from here on.
    LanRings {
        /// Its index.
        if_index: u32,
        /// In place of those closed; none leaves the interface's packets to the TUN.
        rings: Vec<LanXdp>,
    },
    /// Waiting packets of this peer are to be dropped: its handshake was given up, or it was removed.
    Abandon(PeerId),
    /// End.
    Stop,
}

/// A wake-up that costs one system call and is level-triggered until it is read.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker that nobody has pulled.
    ///
    /// # Errors
    /// What eventfd said.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)))
    }

    /// Wakes the one that polls this.
    pub fn wake(&self) {
        // The counter is at its limit only when the other side is long since due to wake.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Forgets all wakes so far.
    pub fn clear(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.0, &mut count);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Both directions between one lane and the control task.
#[derive(Debug, Clone)]
pub struct Link {
    /// Lane to control.
    pub reports: Arc<ArrayQueue<Report>>,
    /// Control to lane.
    pub commands: Arc<ArrayQueue<Command>>,
    /// Wakes the control task (one for all lanes).
    pub control: Waker,
    /// Wakes the lane.
    pub lane: Waker,
}
