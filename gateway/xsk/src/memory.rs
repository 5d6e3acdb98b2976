//! Packet memory: one mapping cut into frames, and the tokens that own them.
//!
//! A [`Frame`](crate::Frame) is the right to one slot. It cannot be copied, cannot outlive the mapping (memory with
//! frames abroad is leaked, never unmapped), and finds its way home when it is dropped, from any thread.

use std::io;

use crate::control::Handle;
use crate::pool::Pool;

/// How a [`Memory`] is cut.
#[derive(Debug, Clone, Copy)]
pub struct MemoryConfig {
    /// Frames of `frame_size` bytes: the UMEM.
    pub frames: u32,
    /// 2048 or 4096.
    pub frame_size: u32,
    /// Frames of 64 KiB and some headroom for packets that no small frame can hold (not part of the UMEM).
    pub jumbo_frames: u32,
    /// Try 2 MiB pages first.
    pub huge_pages: bool,
}

/// Most frames of a kind: 16 GiB of small ones.
const FRAMES_MAX: u32 = 1 << 22;

/// One mapping, shared by the sockets that are bound to it and by all frames cut from it.
#[derive(Debug, Clone)]
pub struct Memory {
    pub(crate) control: Handle,
}

impl Memory {
    /// Maps memory and hands out the pool that holds all its frames. None of it is resident before it is used, except
    /// that the kernel pins the small frames when the first socket is opened on them.
    ///
    /// # Errors
    /// What mmap said, or InvalidInput for sizes that AF_XDP does not take.
    pub fn new(config: MemoryConfig) -> io::Result<(Self, Pool)> {
        let refuse = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !matches!(config.frame_size, 2048 | 4096) {
            return refuse(format!("packet memory: frame size {} is neither 2048 nor 4096", config.frame_size));
        }
        if config.frames == 0 || config.frames > FRAMES_MAX || config.jumbo_frames > FRAMES_MAX {
            return refuse(format!(
                "packet memory: {} frames and {} jumbo frames: 1 to {FRAMES_MAX}, and at most {FRAMES_MAX}, can be had",
                config.frames, config.jumbo_frames
            ));
        }
        let control = Handle::new(&config)
            .map_err(|error| io::Error::new(error.kind(), format!("map packet memory: {error}")))?;
        Ok((Self { control: control.clone() }, Pool::new(control)))
    }

    /// Bytes of a small frame.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.control.frame_size()
    }

    /// Whether 2 MiB pages were granted.
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        self.control.huge_pages()
    }
}
