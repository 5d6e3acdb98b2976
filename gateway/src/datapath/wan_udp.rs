//! The kernel's UDP socket as a wan side, with segmentation offload in both directions.
//!
//! Enters: datagrams that the kernel joined (UDP_GRO), cut into frames; frames to send. Leaves: sends of as
//! many equal datagrams for one place as the kernel takes at once (UDP_SEGMENT). Never does: wait for the
//! socket, or keep a frame beyond the call.
//!
//! Datagrams may be fragmented on their way, as the kernel's WireGuard allows it: a tunnel whose MTU is set above
//! what the path carries still works.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use landbridge_proto::DropReason;
use landbridge_xsk::{Frame, Pool};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;

use super::side::{Datagrams, Origin, Outgoing};
use super::stats::LaneStats;

/// Messages received by one system call, each up to 64 KiB.
const BATCH: usize = 8;
/// Bytes of one message at most.
const MESSAGE_MAX: usize = 1 << 16;
/// Bytes of payload in one send, of either family.
const SEND_MAX: usize = 65_535 - 40 - 8;
/// Bytes that the socket may queue in either direction.
const SOCKET_BUFFER: usize = 4 << 20;
/// After so many sends, segments of a size that the kernel refused are tried again: the path may be another one.
const REFUSAL_LASTS: u32 = 100_000;

/// The socket and its buffers.
#[derive(Debug)]
pub struct WanUdp {
    socket: UdpSocket,
    state: UdpSocketState,
    is_v6: bool,
    received: Received,
    staged: Staged,
    /// Larger segments are not joined into one send, for so many sends.
    refused: Option<(usize, u32)>,
}

/// Messages received, and how far they were cut into frames.
#[derive(Debug)]
struct Received {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH],
    waiting: VecDeque<usize>,
    offset: usize,
}

/// Equal datagrams for one place.
#[derive(Debug)]
struct Staged {
    bytes: Vec<u8>,
    segment: usize,
    segments: usize,
    remote: SocketAddr,
    local: Option<IpAddr>,
    ecn: u8,
}

impl WanUdp {
    /// Prepares a socket that is bound already.
    ///
    /// # Errors
    /// What the kernel said to its options.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        let state = prepare(&socket, is_v6)?;
        let received = Received {
            bytes: vec![0; BATCH * MESSAGE_MAX],
            meta: [RecvMeta::default(); BATCH],
            waiting: VecDeque::with_capacity(BATCH),
            offset: 0,
        };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let bytes = Vec::with_capacity(MESSAGE_MAX);
        let staged = Staged { bytes, segment: 0, segments: 0, remote: nowhere, local: None, ecn: 0 };
        Ok(Self { socket, state, is_v6, received, staged, refused: None })
    }

    /// See [`super::side::Wan::receive`].
    ///
    /// # Errors
    /// What recvmmsg said.
    pub fn receive(&mut self, pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) -> io::Result<()> {
        let mut drained = false;
        while !into.is_full() {
            if self.received.cut(pool, into, stats) {
                continue;
            }
            if drained {
                break;
            }
            drained = self.read()? < BATCH;
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<usize> {
        let Received { bytes, meta, waiting, offset } = &mut self.received;
        let mut slices: ArrayVec<IoSliceMut<'_>, BATCH> =
            bytes.chunks_exact_mut(MESSAGE_MAX).map(IoSliceMut::new).collect();
        match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, meta) {
            Ok(messages) => {
                waiting.extend(0..messages);
                *offset = 0;
                Ok(messages)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Stages one datagram; what cannot join those staged before makes them leave first.
    pub fn push(&mut self, frame: &Frame, to: Outgoing<'_>, stats: &LaneStats) {
        let remote = self.dressed(to.path.remote);
        let len = frame.len();
        if self.staged.segments > 0 && !self.joins(len, remote, to) {
            self.flush(stats);
        }
        let staged = &mut self.staged;
        if staged.segments == 0 {
            (staged.segment, staged.remote, staged.local, staged.ecn) = (len, remote, to.path.local, to.ecn);
        }
        staged.bytes.extend_from_slice(frame.data());
        staged.segments += 1;
    }

    fn joins(&self, len: usize, remote: SocketAddr, to: Outgoing<'_>) -> bool {
        let staged = &self.staged;
        // Only the last datagram of a send may be shorter than the others.
        let closed = staged.bytes.len() < staged.segment * staged.segments;
        !closed
            && len <= staged.segment
            && staged.segments < self.state.max_gso_segments()
            && staged.bytes.len() + len <= SEND_MAX
            && self.refused.is_none_or(|(limit, _)| staged.segment < limit)
            && staged.remote == remote
            && staged.local == to.path.local
            && staged.ecn == to.ecn
    }

    /// Sends what is staged.
    pub fn flush(&mut self, stats: &LaneStats) {
        if self.staged.segments == 0 {
            return;
        }
        if let Some((_, left)) = &mut self.refused {
            *left -= 1;
            if *left == 0 {
                self.refused = None;
            }
        }
        let segments = self.staged.segments as u64;
        let bytes = self.staged.bytes.len() as u64;
        let segment_size = (segments > 1).then_some(self.staged.segment);
        let result = self.send(&self.staged.bytes, segment_size, self.staged.local);
        match result.map_err(|error| (error.kind(), error)) {
            Ok(()) => {
                stats.wan_socket_tx_packets.add(segments);
                stats.wan_socket_tx_bytes.add(bytes);
            }
            Err((io::ErrorKind::WouldBlock, _)) => stats.drop_packets(DropReason::WanFull, segments),
            Err((_, error)) if is_refusal(&error) => self.send_singly(stats),
            Err((_, error)) => {
                tracing::debug!(%error, "a datagram was not sent");
                stats.drop_packets(DropReason::WanError, segments);
            }
        }
        self.staged.bytes.clear();
        self.staged.segments = 0;
    }

    fn send(&self, contents: &[u8], segment_size: Option<usize>, src_ip: Option<IpAddr>) -> io::Result<()> {
        let ecn = EcnCodepoint::from_bits(self.staged.ecn);
        let transmit = Transmit { destination: self.staged.remote, ecn, contents, segment_size, src_ip };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// The kernel refused the arguments: the segments exceed the path's MTU, the device cannot segment, or the source
    /// address is no longer ours. Each datagram by itself shows which.
    #[cold]
    fn send_singly(&mut self, stats: &LaneStats) {
        // The crate takes a refusal for the lack of all segmentation; a fresh state forgets that.
        if let Ok(state) = prepare(&self.socket, self.is_v6) {
            self.state = state;
        }
        let mut sent_with_source = false;
        for datagram in self.staged.bytes.chunks(self.staged.segment) {
            let mut result = self.send(datagram, None, self.staged.local);
            sent_with_source |= result.is_ok();
            if self.staged.local.is_some() && result.as_ref().is_err_and(is_refusal) {
                result = self.send(datagram, None, None);
            }
            match result {
                Ok(()) => {
                    stats.wan_socket_tx_packets.add(1);
                    stats.wan_socket_tx_bytes.add(datagram.len() as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stats.drop_packets(DropReason::WanFull, 1);
                }
                Err(_) => stats.drop_packets(DropReason::WanError, 1),
            }
        }
        if self.staged.segments > 1 && sent_with_source {
            tracing::debug!(len = self.staged.segment, "the kernel does not segment datagrams of this size");
            self.refused = Some((self.staged.segment, REFUSAL_LASTS));
        }
    }

    /// The address as the socket's family writes it.
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
        self.staged.segments > 0 && self.staged.remote == self.dressed(remote)
    }

    /// Uses another socket from here on. What was received by the last one is not forgotten.
    ///
    /// # Errors
    /// What the kernel said to its options; the socket in use stays.
    pub fn replace(&mut self, socket: UdpSocket) -> io::Result<()> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        self.state = prepare(&socket, is_v6)?;
        (self.socket, self.is_v6, self.refused) = (socket, is_v6, None);
        Ok(())
    }
}

impl AsFd for WanUdp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Received {
    /// Copies the next datagram into a frame; false when there is none.
    #[inline]
    fn cut(&mut self, pool: &mut Pool, into: &mut Datagrams, stats: &LaneStats) -> bool {
        let Some(&message) = self.waiting.front() else { return false };
        let meta = &self.meta[message];
        let end = meta.len.min(MESSAGE_MAX);
        let len = meta.stride.clamp(1, MESSAGE_MAX).min(end - self.offset.min(end));
        let at = message * MESSAGE_MAX + self.offset;
        let datagram = &self.bytes[at..at + len];
        self.offset += len;
        if self.offset >= end {
            self.waiting.pop_front();
            self.offset = 0;
        }
        stats.wan_socket_rx_packets.add(1);
        stats.wan_socket_rx_bytes.add(len as u64);
        let Some(mut frame) = pool.take_for(len) else {
            stats.drop_packets(DropReason::NoFrame, 1);
            return true;
        };
        match frame.append(len) {
            Some(room) => room.copy_from_slice(datagram),
            None => {
                pool.put(frame);
                stats.drop_packets(DropReason::Oversized, 1);
                return true;
            }
        }
        let remote = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
        let local = meta.dst_ip.map(|ip| ip.to_canonical());
        into.push(frame, Origin { remote, local }, meta.ecn.map_or(0, |ecn| ecn as u8));
        true
    }
}

fn is_refusal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::IO, Errno::MSGSIZE, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Sets the options that receiving and sending rely on. The crate forbids fragments, as QUIC must; a tunnel wants them.
fn prepare(socket: &UdpSocket, is_v6: bool) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    landbridge_xsk::udp::forget_timestamps(socket.as_fd())?;
    let _ = sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER));
    let _ = sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER));
    sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::DONT)?;
    if is_v6 {
        sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::DONT)?;
        landbridge_xsk::udp::allow_ipv6_fragments(socket.as_fd())?;
    }
    Ok(state)
}
