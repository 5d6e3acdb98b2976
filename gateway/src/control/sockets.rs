//! The kernel's UDP sockets of a gateway: one of the control task, one per lane, all on one port.
//!
//! Enters: a port, a mark, datagrams to send. Leaves: datagrams received, with the address of ours they came to.
//! Never does: look into a datagram. Among the sockets of the port the kernel chooses by the datagram's first byte
//! (transport data to a lane, all else to the control task), so that a flood of handshakes never reaches a lane.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, bail};
use landbridge_xsk::datagram::{self, Departure};
use quinn_udp::{RecvMeta, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::paths::uplinks::Uplink;

/// What a socket holds until its reader comes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// What a socket holds until the interface comes to send it.
const SEND_BUFFER: usize = 4 << 20;
/// The largest datagram, or the largest row of coalesced ones.
const RECEIVE_MAX: usize = 1 << 16;

/// All sockets of one port.
#[derive(Debug)]
pub struct Sockets {
    /// For everything but transport data.
    pub control: ControlSocket,
    /// One for each lane, in their order.
    pub lanes: Vec<UdpSocket>,
}

impl Sockets {
    /// Opens the sockets on a port, which must be free; `None` takes any free one.
    ///
    /// # Errors
    /// The port is in use, or what the kernel said.
    pub fn open(port: Option<u16>, lanes: usize, fwmark: Option<u32>) -> anyhow::Result<Self> {
        let domain = if ipv6_available() { Domain::IPV6 } else { Domain::IPV4 };
        let port = probe(domain, port)?;
        // The control task's socket is bound first: the steering program calls it number 0.
        let control = open(domain, port, fwmark)?;
        let lanes = (0..lanes).map(|_| open(domain, port, fwmark)).collect::<anyhow::Result<Vec<_>>>()?;
        if !lanes.is_empty() {
            landbridge_xsk::reuseport::attach_by_message_type(&control, u16::try_from(lanes.len())?)
                .context("cannot steer datagrams among the UDP sockets (SO_ATTACH_REUSEPORT_CBPF)")?;
        }
        Ok(Self { control: ControlSocket::new(control, port)?, lanes })
    }
}

/// Whether a port can be had.
#[must_use]
pub fn is_free(port: u16) -> bool {
    probe(if ipv6_available() { Domain::IPV6 } else { Domain::IPV4 }, Some(port)).is_ok()
}

/// Whether sockets for IPv6 can be made here.
fn ipv6_available() -> bool {
    Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))
        .and_then(|socket| socket.bind(&SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))))
        .is_ok()
}

fn any_address(domain: Domain, port: u16) -> SockAddr {
    if domain == Domain::IPV6 {
        SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    } else {
        SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    }
}

/// Binds the port alone: with SO_REUSEPORT a second gateway of the same user would silently share it.
fn probe(domain: Domain, port: Option<u16>) -> anyhow::Result<u16> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).context("cannot open a UDP socket")?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    match socket.bind(&any_address(domain, port.unwrap_or(0))) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
            "UDP port {} is in use by another program (another gateway?): choose another listen port or end that program",
            port.unwrap_or(0)
        ),
        result => result.with_context(|| format!("cannot bind UDP port {}", port.unwrap_or(0)))?,
    }
    let address = socket.local_addr()?.as_socket().context("the UDP socket has no address")?;
    Ok(address.port())
}

fn open(domain: Domain, port: u16, fwmark: Option<u32>) -> anyhow::Result<UdpSocket> {
    let socket = unbound(domain, fwmark)?;
    socket.set_reuse_port(true)?;
    socket.bind(&any_address(domain, port)).with_context(|| format!("cannot bind UDP port {port}"))?;
    Ok(socket.into())
}

fn unbound(domain: Domain, fwmark: Option<u32>) -> anyhow::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).context("cannot open a UDP socket")?;
    socket.set_nonblocking(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    grow_buffers(&socket);
    if let Some(mark) = fwmark {
        socket.set_mark(mark).context("cannot mark packets: CAP_NET_ADMIN is needed for FwMark")?;
    }
    Ok(socket)
}

/// As large as wanted where we may, else as large as the system's limit.
fn grow_buffers(socket: &Socket) {
    if sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    }
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
}

/// Lets the kernel fragment outer packets that are larger than the path's MTU, as WireGuard does. quinn-udp forbids it
/// when it takes a socket.
///
/// # Errors
/// What the kernel said.
pub fn allow_fragments(socket: &UdpSocket) -> io::Result<()> {
    sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::DONT)?;
    if socket.local_addr()?.is_ipv6() {
        sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::DONT)?;
    }
    Ok(())
}

/// The opposite, whatever the kernel believes of the path's MTU: for datagrams that ask for it.
fn forbid_fragments(socket: &UdpSocket) -> io::Result<()> {
    sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::PROBE)?;
    if socket.local_addr()?.is_ipv6() {
        sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::PROBE)?;
    }
    Ok(())
}

/// A datagram that came by the control task's socket.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Where it came from.
    pub remote: SocketAddr,
    /// The address of ours it came to.
    pub local: Option<IpAddr>,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// The control task's socket.
#[derive(Debug)]
pub struct ControlSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    ipv6: bool,
    port: u16,
    buffer: Box<[u8]>,
}

impl ControlSocket {
    fn new(socket: UdpSocket, port: u16) -> anyhow::Result<Self> {
        let state = UdpSocketState::new((&socket).into()).context("cannot prepare the control task's UDP socket")?;
        landbridge_xsk::udp::forget_timestamps(socket.as_fd())?;
        allow_fragments(&socket)?;
        let ipv6 = socket.local_addr()?.is_ipv6();
        Ok(Self { socket, state, ipv6, port, buffer: vec![0; RECEIVE_MAX].into() })
    }

    /// A socket on any free port, which is this one's alone.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn on_free_port(fwmark: Option<u32>) -> anyhow::Result<Self> {
        let domain = if ipv6_available() { Domain::IPV6 } else { Domain::IPV4 };
        let socket = unbound(domain, fwmark)?;
        socket.bind(&any_address(domain, 0)).context("cannot bind a free UDP port")?;
        let port = socket.local_addr()?.as_socket().context("the UDP socket has no address")?.port();
        Self::new(socket.into(), port)
    }

    /// A second handle, for a lane to send by.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn for_lane(&self) -> io::Result<UdpSocket> {
        self.socket.try_clone()
    }

    /// A second one of the same port, which gets what the first one does not read.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn again(&self) -> anyhow::Result<Self> {
        Self::new(self.socket.try_clone()?, self.port)
    }

    /// The port of all sockets.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A second descriptor, for a reactor to watch.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn second_handle(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Marks what is sent from here on.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).set_mark(mark)
    }

    /// Reads once and hands over each datagram of it. False when nothing waited.
    ///
    /// # Errors
    /// What the kernel said, refusals of other machines excepted: those say nothing about the next datagram.
    pub fn receive(&mut self, mut each: impl FnMut(Received<'_>)) -> io::Result<bool> {
        let mut meta = [RecvMeta::default()];
        let result = self.state.recv((&self.socket).into(), &mut [IoSliceMut::new(&mut self.buffer)], &mut meta);
        match result {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted) => {
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        let meta = &meta[0];
        let remote = canonical(meta.addr);
        let local = meta.dst_ip.map(|address| address.to_canonical());
        for bytes in self.buffer[..meta.len.min(RECEIVE_MAX)].chunks(meta.stride.max(1)) {
            each(Received { remote, local, bytes });
        }
        Ok(true)
    }

    /// Sends one datagram, which with `dont_fragment` leaves in one piece or not at all; the protocol's own retries make up
    /// for one that is lost.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send(&self, remote: SocketAddr, local: Option<IpAddr>, bytes: &[u8], dont_fragment: bool) -> io::Result<()> {
        self.send_by(remote, Uplink { local, if_index: None }, bytes, dont_fragment)
    }

    /// [`ControlSocket::send`] by an uplink.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send_by(&self, remote: SocketAddr, by: Uplink, bytes: &[u8], dont_fragment: bool) -> io::Result<()> {
        if !dont_fragment {
            return match self.depart(remote, by, bytes, false) {
                // The address vanished from our interfaces: let the kernel choose another.
                Err(error) if by != Uplink::ANY && error.kind() != io::ErrorKind::WouldBlock => {
                    self.depart(remote, Uplink::ANY, bytes, false)
                }
                result => result,
            };
        }
        forbid_fragments(&self.socket)?;
        let sent = self.depart(remote, by, bytes, true);
        allow_fragments(&self.socket)?;
        match sent {
            // That it does not fit is what such a datagram asks; it is told by silence, as by every router behind.
            Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => Ok(()),
            sent => sent,
        }
    }

    fn depart(&self, remote: SocketAddr, by: Uplink, bytes: &[u8], whole_v6: bool) -> io::Result<()> {
        let departure = Departure {
            remote: self.on_the_wire(remote)?,
            local: by.local.filter(|local| local.is_ipv4() == remote.is_ipv4()),
            if_index: by.if_index,
            segment: None,
            ecn: 0,
            whole_v6,
            hops: None,
        };
        datagram::send(self.socket.as_fd(), &[IoSlice::new(bytes)], &departure)
    }

    /// The address as this socket's family writes it.
    fn on_the_wire(&self, remote: SocketAddr) -> io::Result<SocketAddr> {
        match remote {
            SocketAddr::V4(v4) if self.ipv6 => {
                Ok(SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0)))
            }
            SocketAddr::V6(_) if !self.ipv6 => Err(io::Error::new(io::ErrorKind::Unsupported, "this host has no IPv6")),
            remote => Ok(remote),
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// IPv4 as IPv4, also from a socket for both.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}
