//! Messages of a UDP socket, of many datagrams each where the kernel joins and cuts them (UDP_GRO, UDP_SEGMENT).
//!
//! Enters: slices to fill or to send, and where to. Leaves: how much came, from where, to which address of ours, with
//! which mark of congestion. Never does: wait, allocate per call, or look into a datagram.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, cmsghdr, mmsghdr, msghdr};

/// Most messages of one [`Inbox::receive`].
pub const MESSAGES: usize = 64;

/// Bytes for the control messages of one message: all that [`crate::udp::tell_details`] asks for, twice over.
const CONTROL: usize = 256;

/// Control messages must lie as their headers do.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// An address of either family; the shorter one lies at its front.
type Name = libc::sockaddr_in6;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes of the whole message.
    pub len: usize,
    /// Bytes of each datagram in it; the last may be shorter.
    pub segment: usize,
    /// The sender; never an IPv4 address in IPv6 clothes.
    pub remote: SocketAddr,
    /// Our address that it came to.
    pub local: Option<IpAddr>,
    /// ECN of the IP packet.
    pub ecn: u8,
    /// Hops that the IP packet had left, where [`crate::udp::tell_hops`] asked for it.
    pub hops: Option<u8>,
}

/// How a message is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Where to.
    pub remote: SocketAddr,
    /// From which address of ours.
    pub local: Option<IpAddr>,
    /// Out of which interface, whatever the routes prefer; `None`: as they say. With IPv6 the kernel then chooses the address
    /// among that interface's.
    pub if_index: Option<u32>,
    /// Bytes of each datagram in it; `None`: it is one.
    pub segment: Option<u16>,
    /// ECN of the IP packets.
    pub ecn: u8,
    /// Refused where it would leave in fragments, although the socket allows them. Of IPv4 only the socket can say so.
    pub whole_v6: bool,
    /// Hops that the IP packets have; `None`: as many as the kernel gives to its own.
    pub hops: Option<u8>,
}

/// Room for what is known of messages received together.
#[derive(Debug)]
pub struct Inbox {
    names: Box<[Name; MESSAGES]>,
    control: Box<[Control; MESSAGES]>,
    /// Bytes of each message, and of its control messages.
    lens: [(u32, usize); MESSAGES],
    count: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        // SAFETY: an address is plain data for which zeroes are valid.
        let name: Name = unsafe { std::mem::zeroed() };
        Self {
            names: Box::new([name; MESSAGES]),
            control: Box::new([Control([0; CONTROL]); MESSAGES]),
            lens: [(0, 0); MESSAGES],
            count: 0,
        }
    }
}

impl Inbox {
    /// Receives the messages that wait, each into `each` of the slices, by one system call. Returns how many came.
    ///
    /// # Errors
    /// What recvmmsg said; WouldBlock when none waits.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, slices: &mut [IoSliceMut<'_>], each: usize) -> io::Result<usize> {
        self.count = 0;
        let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; MESSAGES];
        let mut asked = 0;
        let places = self.names.iter_mut().zip(self.control.iter_mut()).zip(&mut headers);
        for (slices, ((name, control), header)) in slices.chunks_exact_mut(each.max(1)).zip(places) {
            // SAFETY: a header is plain data for which zeroes are valid.
            let mut msg_hdr: msghdr = unsafe { std::mem::zeroed() };
            msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
            msg_hdr.msg_iov = slices.as_mut_ptr().cast();
            msg_hdr.msg_iovlen = slices.len() as _;
            msg_hdr.msg_control = std::ptr::from_mut(control).cast();
            msg_hdr.msg_controllen = CONTROL as _;
            header.write(mmsghdr { msg_hdr, msg_len: 0 });
            asked += 1;
        }
        let came = loop {
            // SAFETY: the first `asked` headers were written above; what they point to is borrowed for this call, and
            // IoSliceMut has the layout of iovec.
            let came = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr().cast(),
                    asked,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            };
            match usize::try_from(came) {
                Ok(came) => break came,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        };
        for (header, lens) in headers.iter().zip(&mut self.lens).take(came) {
            // SAFETY: the kernel filled these.
            let header = unsafe { header.assume_init_ref() };
            *lens = (header.msg_len, header.msg_hdr.msg_controllen as _);
        }
        self.count = came;
        Ok(came)
    }

    /// What is known of one of the messages received last; `None` when it has no sender.
    #[must_use]
    pub fn arrival(&self, message: usize) -> Option<Arrival> {
        if message >= self.count {
            return None;
        }
        let (len, control_len) = self.lens[message];
        let len = len as usize;
        let remote = address_of(&self.names[message])?;
        let mut arrival = Arrival { len, segment: len, remote, local: None, ecn: 0, hops: None };
        each_control(&self.control[message].0[..control_len.min(CONTROL)], |level, kind, data| {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = data.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    arrival.segment = usize::try_from(segment).ok().filter(|n| *n > 0).unwrap_or(len);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // struct in_pktinfo: interface, our address, the address in the packet.
                    let address = data.get(8..12).and_then(|bytes| bytes.first_chunk::<4>());
                    arrival.local = address.map(|bytes| IpAddr::from(*bytes));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let address = data.first_chunk::<16>();
                    arrival.local = address.map(|bytes| IpAddr::from(*bytes).to_canonical());
                }
                // A byte, or an int whose first byte is that on little-endian machines and whose last is on others.
                (libc::IPPROTO_IP, libc::IP_TOS) => arrival.ecn = data.first().map_or(0, |tos| tos & 3),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    arrival.ecn = data.first_chunk().map_or(0, |bytes| (i32::from_ne_bytes(*bytes) & 3) as u8);
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    let hops = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
                    arrival.hops = hops.and_then(|hops| u8::try_from(hops).ok());
                }
                _ => {}
            }
        });
        Some(arrival)
    }
}

/// Sends one message, which lies in several slices.
///
/// # Errors
/// What sendmsg said; WouldBlock when the socket's queue is full.
pub fn send(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>], to: &Departure) -> io::Result<()> {
    let (mut name, name_len) = name_of(to.remote);
    let mut control = Control([0; CONTROL]);
    let control_len = write_details(&mut control, to);
    // SAFETY: a header is plain data for which zeroes are valid.
    let mut header: msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = std::ptr::from_mut(&mut name).cast();
    header.msg_namelen = name_len;
    header.msg_iov = slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = slices.len() as _;
    if control_len > 0 {
        header.msg_control = std::ptr::from_mut(&mut control).cast();
        header.msg_controllen = control_len as _;
    }
    loop {
        // SAFETY: all that the header points to lives during this call, the kernel only reads it, and IoSlice has the
        // layout of iovec.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Writes the control messages of a departure; returns how many bytes they are.
fn write_details(control: &mut Control, to: &Departure) -> usize {
    let mut at = 0;
    let mut put = |level: c_int, kind: c_int, data: &[u8]| {
        // SAFETY: these compute sizes only.
        let (len, space) = unsafe { (libc::CMSG_LEN(data.len() as u32), libc::CMSG_SPACE(data.len() as u32)) };
        let header = size_of::<cmsghdr>();
        // SAFETY: a header is plain data for which zeroes are valid.
        let mut written: cmsghdr = unsafe { std::mem::zeroed() };
        (written.cmsg_len, written.cmsg_level, written.cmsg_type) = (len as _, level, kind);
        let room = &mut control.0[at..at + space as usize];
        // SAFETY: the room is at least a header long, and a write to unaligned memory is allowed so.
        unsafe { room.as_mut_ptr().cast::<cmsghdr>().write_unaligned(written) };
        // A header's size is a multiple of the alignment of what follows on every Linux.
        room[header..header + data.len()].copy_from_slice(data);
        at += space as usize;
    };
    let to_v4 = matches!(to.remote.ip().to_canonical(), IpAddr::V4(_));
    if to.ecn != 0 {
        let tos = c_int::from(to.ecn).to_ne_bytes();
        match to_v4 {
            true => put(libc::IPPROTO_IP, libc::IP_TOS, &tos),
            false => put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos),
        }
    }
    if let Some(hops) = to.hops {
        let hops = c_int::from(hops).to_ne_bytes();
        match to_v4 {
            true => put(libc::IPPROTO_IP, libc::IP_TTL, &hops),
            false => put(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &hops),
        }
    }
    if to.whole_v6 && !to_v4 {
        put(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, &1_i32.to_ne_bytes());
    }
    // An interface without an address is one of the remote's family.
    let unspecified = || match to_v4 {
        true => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    match to.local.or_else(|| to.if_index.map(|_| unspecified())) {
        Some(IpAddr::V4(local)) => {
            // struct in_pktinfo: interface, our address, and one that only receiving fills.
            let mut info = [0; 12];
            info[..4].copy_from_slice(&to.if_index.unwrap_or(0).to_ne_bytes());
            info[4..8].copy_from_slice(&local.octets());
            put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(local)) => {
            // struct in6_pktinfo: our address, interface. Given both, IPv6 takes the interface for a mere wish; given the
            // interface alone it obeys, and takes the address from there.
            let mut info = [0; 20];
            if to.if_index.is_none() {
                info[..16].copy_from_slice(&local.octets());
            }
            info[16..].copy_from_slice(&to.if_index.unwrap_or(0).to_ne_bytes());
            put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    if let Some(segment) = to.segment {
        put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    at
}

/// Walks the control messages in some bytes.
fn each_control(mut bytes: &[u8], mut see: impl FnMut(c_int, c_int, &[u8])) {
    let header_len = size_of::<cmsghdr>();
    while bytes.len() >= header_len {
        // SAFETY: the bytes are at least a header long, a read of unaligned memory is allowed so, and every bit pattern
        // is a header.
        let header: cmsghdr = unsafe { bytes.as_ptr().cast::<cmsghdr>().read_unaligned() };
        let len: usize = header.cmsg_len as _;
        let Some(data) = bytes.get(header_len..len) else { return };
        see(header.cmsg_level, header.cmsg_type, data);
        bytes = bytes.get(len.next_multiple_of(align_of::<usize>())..).unwrap_or_default();
    }
}

fn address_of(name: &Name) -> Option<SocketAddr> {
    match c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the front of the name is such an address, which is shorter and aligned no
            // stricter.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddrV4::new(v4, port).into(),
                None => SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

fn name_of(address: SocketAddr) -> (Name, libc::socklen_t) {
    // SAFETY: an address is plain data for which zeroes are valid.
    let mut name: Name = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the name is longer than such an address and aligned no less.
            let place = unsafe { &mut *std::ptr::from_mut(&mut name).cast::<libc::sockaddr_in>() };
            place.sin_family = libc::AF_INET as _;
            place.sin_port = v4.port().to_be();
            place.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            (name, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            name.sin6_family = libc::AF_INET6 as _;
            name.sin6_port = v6.port().to_be();
            name.sin6_addr.s6_addr = v6.ip().octets();
            name.sin6_scope_id = v6.scope_id();
            (name, size_of::<Name>() as libc::socklen_t)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use super::*;

    fn pair(address: &str) -> (UdpSocket, UdpSocket) {
        let socket = || {
            let socket = UdpSocket::bind(address).expect("loopback has room");
            crate::udp::tell_details(socket.as_fd(), address.starts_with('[')).expect("the kernel has these options");
            crate::udp::tell_hops(socket.as_fd(), address.starts_with('[')).expect("the kernel has these options");
            socket
        };
        (socket(), socket())
    }

    #[test]
    fn a_message_of_segments_comes_whole_into_the_slices_it_was_made_for() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (sender, receiver) = pair(address);
            let remote = receiver.local_addr().expect("it is bound");
            let local = Some(sender.local_addr().expect("it is bound").ip());
            let datagrams = [[1_u8; 100], [2; 100], [3; 100]];
            let slices: Vec<_> = datagrams.iter().map(|datagram| IoSlice::new(datagram)).collect();
            let departure =
                Departure { remote, local, if_index: None, segment: Some(100), ecn: 2, whole_v6: false, hops: Some(7) };
            send(sender.as_fd(), &slices, &departure).expect("loopback takes it");
            let mut rooms = [[0_u8; 100]; 8];
            let mut slices: Vec<_> = rooms.iter_mut().map(|room| IoSliceMut::new(room)).collect();
            let mut inbox = Inbox::default();
            assert_eq!(inbox.receive(receiver.as_fd(), &mut slices, 4).expect("it waits"), 1);
            let arrival = inbox.arrival(0).expect("it has a sender");
            let remote = sender.local_addr().expect("it is bound");
            let expected = Arrival { len: 300, segment: 100, remote, local: Some(remote.ip()), ecn: 2, hops: Some(7) };
            assert_eq!(arrival, expected, "{address}");
            assert_eq!(rooms[..3], datagrams);
            assert_eq!(inbox.arrival(1), None);
        }
    }

    #[test]
    fn an_empty_socket_says_so() {
        let (socket, _) = pair("127.0.0.1:0");
        let mut room = [0; 8];
        let mut slices = [IoSliceMut::new(&mut room)];
        let error = Inbox::default().receive(socket.as_fd(), &mut slices, 1).expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn control_messages_that_lie_about_their_length_end_the_walk() {
        for len in [0_usize, 1, size_of::<cmsghdr>() - 1, 65, usize::MAX] {
            let mut bytes = [0; 64];
            bytes[..8].copy_from_slice(&len.to_ne_bytes());
            let mut seen = 0;
            each_control(&bytes, |_, _, _| seen += 1);
            assert_eq!(seen, 0, "a length of {len}");
        }
    }
}
