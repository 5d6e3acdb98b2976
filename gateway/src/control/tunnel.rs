//! The tunnel interface, wherever it lives.
//!
//! Enters: its descriptor. Leaves: its MTU and its end. Never does: assume that it is still in the network namespace in
//! which it was made: `ip link set netns` moves it at any time, and the UDP sockets stay.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use landbridge_xsk::TunQueue;

use super::driver::End;
use super::netlink::{Monitor, Netlink, in_namespace};
use super::{Control, routing, watch};

/// How often the tunnel interface is looked at when no news ask for it.
const LOOK: Duration = Duration::from_secs(5);
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

impl Control {
    /// Looks at the tunnel interface: its MTU, where it is, and whether it is there.
    pub(super) fn look_at_tunnel(&mut self, now: Instant) -> Option<End> {
        self.tunnel_due = now + LOOK;
        match self.tunnel.look() {
            Ok(Look::There { mtu, moved }) => {
                self.driver.set_mtu(mtu);
                if let Some(monitor) = moved {
                    tracing::info!(
                        interface = self.tunnel.name,
                        "the tunnel interface is in another network namespace"
                    );
                    self.tunnel_monitor = watch(monitor).ok();
                    self.driver.doubt_paths();
                }
                self.driver.ground.tunnel = self.tunnel.index_at_home();
                self.follow_mtu(mtu);
            }
            Ok(Look::Gone) => return Some(End::Asked("the tunnel interface is gone")),
            Err(error) => tracing::debug!(%error, "looking at the tunnel interface"),
        }
        None
    }

    /// Where no MTU is configured the tunnel's is what the ways to the peers leave room for.
    fn follow_mtu(&mut self, present: u32) {
        let Some(way) = self.driver.path_mtu().filter(|_| self.mtu_follows) else { return };
        let wanted = routing::tunnel_mtu(Some(way));
        if wanted != present {
            match self.tunnel.netlink.set_mtu(self.tunnel.if_index, wanted) {
                Ok(()) => {
                    tracing::info!(mtu = wanted, "the tunnel's MTU follows the way to the peers");
                    self.driver.set_mtu(wanted);
                }
                Err(error) => tracing::debug!(%error, "setting the tunnel's MTU"),
            }
        }
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
