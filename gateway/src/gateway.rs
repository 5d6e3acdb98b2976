//! A gateway from start to stop: what is opened in which order, and given back in the reverse one.
//!
//! Enters: [`Settings`] and [`RunOptions`]. Leaves: a running gateway, until a signal, the end of its
//! interface or of its UAPI socket. Never does: touch a packet or decide about the protocol.

use std::fmt;
use std::os::fd::OwnedFd;

use crate::settings::{Origin, Settings};

/// Who configures the gateway, and what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// `landbridge up`: addresses, routes and hooks come from the settings and are taken away at the end.
    Up,
    /// `landbridge wg`: the cross-platform userspace interface. Addresses and routes are somebody else's, keys and peers
    /// come by the UAPI socket, and the gateway ends when its interface or that socket goes away.
    Wg,
}

/// How a gateway is run.
pub struct RunOptions {
    /// Who configures it.
    pub mode: RunMode,
    /// Called once, when the gateway is ready (daemonised parents, `sd_notify`).
    pub ready: Option<Box<dyn FnOnce() + Send>>,
    /// Where the settings came from, for messages.
    pub origin: Option<Origin>,
    /// A TUN descriptor that somebody else opened (`WG_TUN_FD`).
    pub tun_fd: Option<OwnedFd>,
    /// A listening UAPI socket that somebody else opened (`WG_UAPI_FD`).
    pub uapi_fd: Option<OwnedFd>,
}

impl RunOptions {
    /// Nothing inherited, nobody to tell.
    #[must_use]
    pub fn new(mode: RunMode) -> Self {
        Self { mode, ready: None, origin: None, tun_fd: None, uapi_fd: None }
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("mode", &self.mode)
            .field("origin", &self.origin)
            .field("tun_fd", &self.tun_fd)
            .field("uapi_fd", &self.uapi_fd)
            .finish_non_exhaustive()
    }
}

/// Runs a gateway until it is told to end. Blocks the calling thread.
///
/// # Errors
/// What could not be opened, bound or set up, with the way out.
pub fn run(settings: Settings, options: RunOptions) -> anyhow::Result<()> {
    let _ = options;
    anyhow::bail!("interface {}: this build has no control task", settings.interface)
}
