//! Memory from the kernel: mapped on creation, unmapped on drop.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes of a page. AF_XDP wants its memory aligned to this.
pub(crate) const PAGE: usize = 4096;

/// Memory of the process: anonymous and zeroed, or shared with the kernel.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    huge: bool,
}

impl Mapping {
    /// Maps `len` bytes, in 2 MiB pages when that is asked for and enough of them are reserved, else in normal ones.
    pub(crate) fn new(len: usize, huge_pages: bool) -> io::Result<Self> {
        if huge_pages {
            // Without MAP_NORESERVE: the kernel refuses here, rather than with SIGBUS at the first touch.
            let flags = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
            if let Ok(base) = map(len.next_multiple_of(HUGE_PAGE), flags) {
                return Ok(Self { base, len: len.next_multiple_of(HUGE_PAGE), huge: true });
            }
        }
        let len = len.next_multiple_of(PAGE).max(PAGE);
        let base = map(len, libc::MAP_NORESERVE)?;
        // Transparent huge pages where they were asked for. Elsewhere they are kept away: one touched frame must not
        // make 2 MiB resident. Only advice, so a kernel without them may refuse it.
        let advice = if huge_pages && len >= HUGE_PAGE { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the range is the mapping made above; this advice does not change its content.
        let _ = unsafe { libc::madvise(base.as_ptr().cast(), len, advice) };
        Ok(Self { base, len, huge: false })
    }

    /// Maps `len` bytes that the kernel shares through a descriptor.
    pub(crate) fn shared(fd: BorrowedFd<'_>, len: usize, offset: libc::off_t) -> io::Result<Self> {
        let base = map_at(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)?;
        Ok(Self { base, len, huge: false })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Whether 2 MiB pages were granted.
    pub(crate) fn huge(&self) -> bool {
        self.huge
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of a mapping that this value owns; whoever drops it has no pointer left.
        let _ = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

fn map(len: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    map_at(len, flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
}

fn map_at(len: usize, flags: libc::c_int, fd: libc::c_int, offset: libc::off_t) -> io::Result<NonNull<u8>> {
    // SAFETY: a mapping at an address of the kernel's choice aliases nothing of this process.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned address zero"))
}
