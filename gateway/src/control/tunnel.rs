//! The tunnel interface, wherever it lives.
//!
//! Enters: its descriptor. Leaves: its MTU and its end. Never does: assume that it is still in the network namespace in
//! which it was made: `ip link set netns` moves it at any time, and the UDP sockets stay.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use landbridge_xsk::TunQueue;

use super::netlink::{Monitor, Netlink, in_namespace};

/// A namespace: device and inode of its descriptor.
type NamespaceId = (u64, u64);

/// The tunnel interface.
#[derive(Debug)]
pub struct Tunnel {
    handle: TunQueue,
    /// Its present name.
    pub name: String,
    /// Its index there.
    pub if_index: u32,
    /// The conversation with the namespace in which it lives.
    pub netlink: Netlink,
    home: NamespaceId,
    namespace: NamespaceId,
}

/// What a look at the interface found.
#[derive(Debug)]
pub enum Look {
    /// It is there.
    There {
        /// Its MTU.
        mtu: u32,
        /// It moved: its news come from here.
        moved: Option<Monitor>,
    },
    /// It was deleted.
    Gone,
}

impl Tunnel {
    /// Follows the interface of a queue, which is in the calling thread's namespace.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(handle: TunQueue) -> io::Result<Self> {
        let name = handle.interface_name()?;
        let home = identify(&rustix::fs::open(
            "/proc/thread-self/ns/net",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?)?;
        let mut tunnel = Self { handle, name, if_index: 0, netlink: Netlink::new()?, home, namespace: home };
        // A descriptor from another process may be of an interface elsewhere.
        tunnel.follow()?;
        tunnel.if_index = tunnel.netlink.link_by_name(&tunnel.name)?.index;
        Ok(tunnel)
    }

    /// Its index, when it lives in the namespace of the UDP sockets.
    #[must_use]
    pub fn index_at_home(&self) -> Option<u32> {
        (self.namespace == self.home).then_some(self.if_index)
    }

    /// Looks where it is and how it is set.
    ///
    /// # Errors
    /// What the kernel said, when that does not mean that the interface is gone.
    pub fn look(&mut self) -> io::Result<Look> {
        match self.try_look() {
            Err(error) if is_gone(&error) => {
                // It may have moved between two of the questions; its descriptor knows.
                match self.handle.interface_name() {
                    Err(error) if is_gone(&error) => Ok(Look::Gone),
                    _ => self.try_look(),
                }
            }
            result => result,
        }
    }

    fn try_look(&mut self) -> io::Result<Look> {
        self.name = self.handle.interface_name()?;
        let moved = self.follow()?;
        let link = self.netlink.link_by_name(&self.name)?;
        self.if_index = link.index;
        Ok(Look::There { mtu: link.mtu, moved })
    }

    fn follow(&mut self) -> io::Result<Option<Monitor>> {
        let namespace = self.handle.network_namespace()?;
        let identity = identify(&namespace)?;
        if identity == self.namespace {
            return Ok(None);
        }
        let (netlink, monitor) = in_namespace(namespace.as_fd(), || Ok((Netlink::new()?, Monitor::new()?)))?;
        self.netlink = netlink;
        self.namespace = identity;
        Ok(Some(monitor))
    }
}

fn identify(namespace: &OwnedFd) -> io::Result<NamespaceId> {
    let stat = rustix::fs::fstat(namespace)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// EBADFD: the descriptor has lost its interface. ENODEV: no such interface here.
fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::BADFD, Errno::NODEV].into_iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
