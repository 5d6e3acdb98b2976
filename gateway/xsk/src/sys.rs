//! The system calls of an AF_XDP socket that libc has no safe function for.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// SOL_XDP option: most packets that one sendto sends in copy mode (Linux 6.18; if_xdp.h XDP_MAX_TX_SKB_BUDGET).
pub(crate) const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

/// A fresh AF_XDP socket.
pub(crate) fn xdp_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Types whose bytes the kernel may read and write as socket options.
///
/// # Safety
/// Plain data: every bit pattern is valid and there is no padding.
pub(crate) unsafe trait SocketOption: Copy {}

// SAFETY: plain integers.
unsafe impl SocketOption for u32 {}
// SAFETY: plain integers.
unsafe impl SocketOption for c_int {}
// SAFETY: integers without padding: two u64, then four u32.
unsafe impl SocketOption for libc::xdp_umem_reg {}
// SAFETY: u64 only.
unsafe impl SocketOption for libc::xdp_mmap_offsets {}
// SAFETY: u64 only.
unsafe impl SocketOption for libc::xdp_statistics {}
// SAFETY: one u32.
unsafe impl SocketOption for libc::xdp_options {}

pub(crate) fn set_option<T: SocketOption>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: T) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the value has.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<T>() as u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads an option of SOL_XDP. What an older kernel does not fill in is zero.
pub(crate) fn xdp_option<T: SocketOption>(fd: BorrowedFd<'_>, name: c_int) -> io::Result<T> {
    // SAFETY: SocketOption promises that zeroes are a valid value.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = size_of::<T>() as u32;
    // SAFETY: the kernel writes at most `len` bytes, which is what the value has.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, (&raw mut value).cast(), &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

pub(crate) fn bind(fd: BorrowedFd<'_>, address: &libc::sockaddr_xdp) -> io::Result<()> {
    let len = size_of::<libc::sockaddr_xdp>() as u32;
    // SAFETY: the kernel reads `len` bytes of the address.
    let result = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel send what is in the transmit ring.
pub(crate) fn kick_transmit(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no data and no address.
    let result = unsafe { libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the driver look at the fill ring, or poll its queue when busy polling is on.
pub(crate) fn kick_receive(fd: BorrowedFd<'_>) {
    // SAFETY: no buffer and no address. Nothing of the result matters: there is no data to be had this way.
    let _ = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
}
