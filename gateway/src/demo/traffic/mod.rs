//! The demo's own senders and receivers, each a thread inside a host's namespace.
//!
//! Enters: two namespaces and a duration. Leaves: figures. Never does: wait without an end; every socket has a time-out.

pub(super) mod rtt;
pub(super) mod tcp;
pub(super) mod udp;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::namespace::Namespace;

/// How long a socket call may take before its thread looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(200);

/// From which host to which address of which host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'n> {
    pub(super) from: &'n Namespace,
    pub(super) to: &'n Namespace,
    pub(super) address: Ipv4Addr,
}

/// Set by Ctrl-C and SIGTERM.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The flag, for signal handlers.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether the user wants the demo to end.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once the user wants the demo to end.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.is_set() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Sleeps, but not past the user's patience.
    pub(super) fn sleep(&self, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// The user ended the demo.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Whether a socket call failed only because its time was up.
fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
