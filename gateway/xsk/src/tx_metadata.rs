//! What is asked of the device for one frame: struct xsk_tx_metadata (if_xdp.h), directly in front of the frame's data.
//!
//! Enters: where a checksum stands. Leaves: the bytes that the kernel or the driver reads when it sends the frame. Never
//! does: ask for anything that a completion would bring back.
//!
//! Room for it is part of a registration of packet memory (Linux 6.11; an older kernel refuses the flag, and memory is
//! registered without). Once it is, no frame may be sent that has less in front of its data, whether it asks or not; and one
//! that does not ask has to say so there, as drivers in zero-copy mode read the place in front of every frame, whatever its
//! descriptor says: what a former packet left would be taken for a request, such as to send at a later time. In
//! zero-copy mode the driver reads the request; in copy mode the kernel makes a packet with an unfinished checksum of it, as
//! its own are, and finishes that in software where the device does not.

/// Bytes in front of the data: flags, where to add up and where to put it, and the launch time that Linux 6.14 added. What
/// an older kernel does not know of them it skips.
pub const LEN: usize = 24;

/// In which modes a socket is to ask its device for checksums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChecksumOffload {
    /// With zero-copy: the driver does it.
    pub zero_copy: bool,
    /// In copy mode: the device as for the kernel's own packets, or the kernel.
    pub copy: bool,
}

impl ChecksumOffload {
    /// Whether it is wanted in any mode.
    #[must_use]
    pub const fn is_wanted(self) -> bool {
        self.zero_copy || self.copy
    }
}

/// Writes into the first bytes of `room`, which has [`LEN`].
#[inline]
pub(crate) fn write_checksum_request(room: &mut [u8], from: u16, at: u16) {
    room[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
    room[8..10].copy_from_slice(&from.to_ne_bytes());
    room[10..12].copy_from_slice(&at.to_ne_bytes());
}

/// The same for a frame that asks for nothing.
#[inline]
pub(crate) fn write_nothing(room: &mut [u8]) {
    room[..8].fill(0);
}
