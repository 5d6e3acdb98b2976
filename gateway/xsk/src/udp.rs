//! Options of UDP sockets that no safe crate sets.
//!
//! Enters: a socket. Leaves: the kernel's answer. Never does: keep the descriptor, send or receive; that is
//! [`crate::datagram`]'s.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys;

/// Takes IPV6_DONTFRAG back: datagrams larger than the path's MTU are fragmented instead of refused.
///
/// # Errors
/// What setsockopt said.
pub fn allow_ipv6_fragments(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)
}

/// The opposite: what is larger than the path's MTU, as far as the kernel knows it, is refused.
///
/// # Errors
/// What setsockopt said.
pub fn refuse_ipv6_fragments(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
}

/// Takes SO_TIMESTAMPNS back. A time of arrival costs the whole machine's receiving, and beside it the length of joined
/// datagrams, the address and the mark of congestion find no room in the 88 bytes that quinn-udp has for them: they
/// come cut short or not at all.
///
/// # Errors
/// What setsockopt said.
pub fn forget_timestamps(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0)
}

/// Asks for what [`crate::datagram::Arrival`] tells: joined datagrams (UDP_GRO, where the kernel has it), the address
/// they came to and their mark of congestion.
///
/// # Errors
/// What setsockopt said.
pub fn tell_details(socket: BorrowedFd<'_>, is_v6: bool) -> io::Result<()> {
    // Kernels before 5.0 have no UDP_GRO, and lose nothing but speed by it.
    let _ = set(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    if is_v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        // For IPv4 in IPv6 clothes; a socket of IPv6 alone has no use for it.
        let _ = set(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
        return Ok(());
    }
    set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    set(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
}

/// Asks for how many hops each datagram had left.
///
/// # Errors
/// What setsockopt said.
pub fn tell_hops(socket: BorrowedFd<'_>, is_v6: bool) -> io::Result<()> {
    if is_v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
        // For IPv4 in IPv6 clothes; a socket of IPv6 alone has no use for it.
        let _ = set(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1);
        return Ok(());
    }
    set(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)
}

/// How many datagrams the kernel cuts one message into at most (UDP_SEGMENT).
#[must_use]
pub fn segments_max(socket: BorrowedFd<'_>) -> usize {
    const UDP_MAX_SEGMENTS: usize = 64;
    if set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok() { UDP_MAX_SEGMENTS } else { 1 }
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    sys::set_option(socket, level, option, value)
}
