//! TUN devices with several queues and segmentation offload (IFF_VNET_HDR).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What to create.
#[derive(Debug, Clone)]
pub struct TunConfig {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// How many queues.
    pub queues: usize,
    /// TSO (v4, v6) and, where the kernel has it, USO: super-packets of up to 64 KiB in both directions.
    pub offloads: bool,
}

/// A TUN device: its queues, and what was granted.
#[derive(Debug)]
pub struct Tun {
    /// The queues, to be handed to lanes.
    pub queues: Vec<TunQueue>,
    /// The interface's name (the kernel resolves `%d`).
    pub name: String,
    /// TCP segmentation is offloaded.
    pub tso: bool,
    /// UDP segmentation is offloaded.
    pub uso: bool,
}

impl Tun {
    /// Creates the device (not persistent: it goes with its last descriptor).
    ///
    /// # Errors
    /// What the kernel said, with the step that failed: no /dev/net/tun, no permission, name in use.
    pub fn create(_config: &TunConfig) -> io::Result<Self> {
        panic!("stub")
    }

    /// Takes a descriptor that somebody else opened (WG_TUN_FD).
    ///
    /// # Errors
    /// What the kernel said.
    pub fn from_fd(_fd: OwnedFd) -> io::Result<Self> {
        panic!("stub")
    }
}

/// One queue.
#[derive(Debug)]
pub struct TunQueue {
    _private: (),
}

/// Bytes of the virtio_net_hdr before each packet read or written.
pub const VNET_HDR_LEN: usize = 10;

impl TunQueue {
    /// Reads one packet with its virtio_net_hdr; `Ok(None)` when none waits.
    ///
    /// # Errors
    /// What read said; EBADFD (with its raw code) when the interface was deleted.
    pub fn read(&mut self, _buffer: &mut [u8]) -> io::Result<Option<usize>> {
        panic!("stub")
    }

    /// Writes one packet, virtio_net_hdr first, from several slices; `Ok(false)` when the queue is full.
    ///
    /// # Errors
    /// What writev said.
    pub fn write(&mut self, _slices: &[IoSlice<'_>]) -> io::Result<bool> {
        panic!("stub")
    }

    /// The namespace that the interface lives in at present (TUNGETDEVNETNS), wherever it was moved to.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn network_namespace(&self) -> io::Result<OwnedFd> {
        panic!("stub")
    }

    /// The interface's present name.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn interface_name(&self) -> io::Result<String> {
        panic!("stub")
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        panic!("stub")
    }
}
