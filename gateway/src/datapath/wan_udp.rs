//! The kernel's UDP socket as a wan side, with segmentation offload in both directions.
//!
//! Enters: datagrams that the kernel joined (UDP_GRO), one frame each ([`super::landing`]); frames to send. Leaves: sends of
//! as many equal datagrams for one place as the kernel takes at once (UDP_SEGMENT), out of the frames they lie in. Never
//! does: wait for the socket, copy what it sends, or keep a frame beyond the flush.
//!
//! Datagrams may be fragmented on their way, as the kernel's WireGuard allows it: a tunnel whose MTU is set above
//! what the path carries still works.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use landbridge_proto::DropReason;
use landbridge_xsk::datagram::{self, Departure};
use landbridge_xsk::{BURST, Burst, Frame, Pool, udp};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::landing::Landing;
use super::side::{Datagrams, Outgoing};
use super::stats::LaneStats;
use super::tables::Path;

/// Bytes of payload in one send, of either family.
const SEND_MAX: usize = 65_535 - 40 - 8;
/// Bytes that the socket may queue in either direction.
const SOCKET_BUFFER: usize = 4 << 20;
/// After so many sends to a place, segments of a size that the kernel refused are tried again: the path may be another one.
const REFUSAL_LASTS: u32 = 10_000;
/// Places that are told apart among those with refusals.
const REFUSALS: usize = 16;

/// The socket and what it is about to send.
#[derive(Debug)]
pub struct WanUdp {
    socket: UdpSocket,
    is_v6: bool,
    segments_max: usize,
    landing: Landing,
    staged: Staged,
    refusals: ArrayVec<Refusal, REFUSALS>,
}

/// Equal datagrams for one place.
#[derive(Debug)]
struct Staged {
    frames: Burst,
    bytes: usize,
    segment: usize,
    remote: SocketAddr,
    from: Source,
    ecn: u8,
}

/// By which address and interface of ours a message leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Source {
    local: Option<IpAddr>,
    if_index: Option<u32>,
}

impl Source {
    const ANY: Self = Self { local: None, if_index: None };

    #[inline]
    fn of(path: &Path) -> Self {
        Self { local: path.local, if_index: path.if_index }
    }
}

/// Segments of this size and larger are not joined into one send to this place, for so many sends.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    remote: SocketAddr,
    segment: usize,
    left: u32,
}

impl WanUdp {
    /// Prepares a socket that is bound already.
    ///
    /// # Errors
    /// What the kernel said to its options.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        prepare(&socket, is_v6)?;
        let segments_max = udp::segments_max(socket.as_fd()).min(BURST);
        let remote = SocketAddr::from(([0, 0, 0, 0], 0));
        let staged = Staged { frames: Burst::new(), bytes: 0, segment: 0, remote, from: Source::ANY, ecn: 0 };
        Ok(Self { socket, is_v6, segments_max, landing: Landing::new(), staged, refusals: ArrayVec::new() })
    }

    /// See [`super::side::Wan::receive`].
    ///
    /// # Errors
    /// What recvmmsg said.
    pub fn receive(&mut self, pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) -> io::Result<()> {
        let mut more = true;
        loop {
            self.landing.cut(pool, into, stats);
            if into.is_full() || !more {
                return Ok(());
            }
            more = self.landing.read(self.socket.as_fd(), pool)?;
        }
    }

    /// Stages one datagram; what cannot join those staged before makes them leave first.
    pub fn push(&mut self, pool: &mut Pool, frame: Frame, to: Outgoing<'_>, stats: &LaneStats) {
        let remote = self.dressed(to.path.remote);
        let len = frame.len();
        if !self.staged.frames.is_empty() && !self.joins(len, remote, to) {
            self.flush(pool, stats);
        }
        let staged = &mut self.staged;
        if staged.frames.is_empty() {
            (staged.segment, staged.remote, staged.from, staged.ecn) = (len, remote, Source::of(to.path), to.ecn);
        }
        staged.bytes += len;
        staged.frames.push(frame);
    }

    #[inline]
    fn joins(&self, len: usize, remote: SocketAddr, to: Outgoing<'_>) -> bool {
        let staged = &self.staged;
        // Only the last datagram of a send may be shorter than the others.
        let closed = staged.bytes < staged.segment * staged.frames.len();
        !closed
            && len <= staged.segment
            && staged.frames.len() < self.segments_max
            && staged.bytes + len <= SEND_MAX
            && staged.remote == remote
            && staged.from == Source::of(to.path)
            && staged.ecn == to.ecn
            && !self.refusals.iter().any(|refusal| refusal.remote == remote && staged.segment >= refusal.segment)
    }

    /// Sends what is staged.
    pub fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) {
        if self.staged.frames.is_empty() {
            return;
        }
        if !self.refusals.is_empty() {
            self.forget_refusals();
        }
        let segments = self.staged.frames.len();
        match self.send(0..segments, self.staged.from) {
            Ok(()) => {
                stats.wan_socket_tx_packets.add(segments as u64);
                stats.wan_socket_tx_bytes.add(self.staged.bytes as u64);
            }
            Err(error) if is_full(&error) => stats.drop_packets(DropReason::WanFull, segments as u64),
            Err(error) if is_refusal(&error) => self.send_singly(stats),
            Err(error) => {
                tracing::debug!(%error, "a datagram was not sent");
                stats.drop_packets(DropReason::WanError, segments as u64);
            }
        }
        for frame in self.staged.frames.drain(..) {
            pool.put(frame);
        }
        self.staged.bytes = 0;
    }

    /// Sends some of what is staged as one message.
    fn send(&self, which: std::ops::Range<usize>, from: Source) -> io::Result<()> {
        let Staged { frames, segment, remote, ecn, .. } = &self.staged;
        let slices: ArrayVec<IoSlice<'_>, BURST> =
            frames[which].iter().map(|frame| IoSlice::new(frame.data())).collect();
        let segment = (slices.len() > 1).then_some(*segment as u16);
        let Source { local, if_index } = from;
        let departure = Departure { remote: *remote, local, if_index, segment, ecn: *ecn, whole_v6: false, hops: None };
        datagram::send(self.socket.as_fd(), &slices, &departure)
    }

    /// The kernel refused the arguments: the segments exceed the path's MTU, the device cannot segment, or the source
    /// address or its interface is no longer ours. Each datagram by itself shows which.
    #[cold]
    fn send_singly(&mut self, stats: &LaneStats) {
        let mut sent_with_source = false;
        let count = self.staged.frames.len();
        for place in 0..count {
            let mut result = self.send(place..place + 1, self.staged.from);
            sent_with_source |= result.is_ok();
            if self.staged.from != Source::ANY && result.as_ref().is_err_and(is_refusal) {
                result = self.send(place..place + 1, Source::ANY);
            }
            match result {
                Ok(()) => {
                    stats.wan_socket_tx_packets.add(1);
                    stats.wan_socket_tx_bytes.add(self.staged.frames[place].len() as u64);
                }
                Err(error) if is_full(&error) => stats.drop_packets(DropReason::WanFull, 1),
                Err(_) => stats.drop_packets(DropReason::WanError, 1),
            }
        }
        if count > 1 && sent_with_source {
            let Staged { segment, remote, .. } = self.staged;
            tracing::debug!(len = segment, "the kernel does not segment datagrams of this size");
            self.refusals.retain(|refusal| refusal.remote != remote);
            if self.refusals.is_full() {
                self.refusals.remove(0);
            }
            self.refusals.push(Refusal { remote, segment, left: REFUSAL_LASTS });
        }
    }

    #[cold]
    fn forget_refusals(&mut self) {
        let remote = self.staged.remote;
        self.refusals.retain(|refusal| {
            refusal.left -= u32::from(refusal.remote == remote);
            refusal.left > 0
        });
    }

    /// The address as the socket's family writes it.
    #[inline]
    fn dressed(&self, remote: SocketAddr) -> SocketAddr {
        match remote {
            SocketAddr::V4(v4) if self.is_v6 => {
                SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
            }
            other => other,
        }
    }

    /// Whether something for this place waits for the next flush.
    #[inline]
    pub(super) fn holds(&self, remote: SocketAddr) -> bool {
        !self.staged.frames.is_empty() && self.staged.remote == self.dressed(remote)
    }

    /// Uses another socket from here on. What was received by the last one is not forgotten.
    ///
    /// # Errors
    /// What the kernel said to its options; the socket in use stays.
    pub fn replace(&mut self, socket: UdpSocket) -> io::Result<()> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        prepare(&socket, is_v6)?;
        (self.socket, self.is_v6) = (socket, is_v6);
        self.refusals.clear();
        Ok(())
    }

    /// Brings every frame home.
    pub fn close(mut self, pool: &mut Pool) {
        self.landing.close(pool);
        for frame in self.staged.frames.drain(..) {
            pool.put(frame);
        }
    }
}

impl AsFd for WanUdp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is(error: &io::Error, any: &[Errno]) -> bool {
    any.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The socket's or the device's queue has no room.
fn is_full(error: &io::Error) -> bool {
    is(error, &[Errno::AGAIN, Errno::NOBUFS])
}

fn is_refusal(error: &io::Error) -> bool {
    is(error, &[Errno::INVAL, Errno::IO, Errno::MSGSIZE, Errno::OPNOTSUPP, Errno::NODEV, Errno::NETUNREACH])
}

/// Sets the options that receiving and sending rely on.
fn prepare(socket: &UdpSocket, is_v6: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    udp::tell_details(socket.as_fd(), is_v6)?;
    let _ = sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER));
    let _ = sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER));
    sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::DONT)?;
    if is_v6 {
        sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::DONT)?;
        udp::allow_ipv6_fragments(socket.as_fd())?;
    }
    Ok(())
}
