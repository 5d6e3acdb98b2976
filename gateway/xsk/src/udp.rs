//! Options of UDP sockets that no safe crate sets.
//!
//! Enters: a socket. Leaves: the kernel's answer. Never does: keep the descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes IPV6_DONTFRAG back: datagrams larger than the path's MTU are fragmented instead of refused.
///
/// # Errors
/// What setsockopt said.
pub fn allow_ipv6_fragments(socket: BorrowedFd<'_>) -> io::Result<()> {
    switch_off(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG)
}

/// Takes SO_TIMESTAMPNS back. A time of arrival costs the whole machine's receiving, and beside it the length of joined
/// datagrams, the address and the mark of congestion find no room in the 88 bytes that quinn-udp has for them: they come
/// cut short or not at all.
///
/// # Errors
/// What setsockopt said.
pub fn forget_timestamps(socket: BorrowedFd<'_>) -> io::Result<()> {
    switch_off(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)
}

fn switch_off(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let off: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads exactly the bytes of `off`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const off).cast(),
            size_of_val(&off) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
