//! How a person ends a run early.
//!
//! Enters: signals. Leaves: [`Interrupted`] from whatever waits. Never does: end the process, so that all that was made
//! is removed on the way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::hangup;

/// Set by Ctrl-C, SIGTERM and SIGHUP.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// One that Ctrl-C, SIGTERM and, but under `nohup`, SIGHUP set. Programs that are started later do not inherit that
    /// SIGHUP is ignored: they are ended in order.
    ///
    /// # Errors
    /// Signals that cannot be caught.
    pub fn on_signals() -> anyhow::Result<Self> {
        let stop = Self::default();
        let ignored = hangup::keep_from_children().context("SIGHUP cannot be caught")?;
        for signal in [SIGINT, SIGTERM].into_iter().chain((!ignored).then_some(SIGHUP)) {
            signal_hook::flag::register(signal, stop.flag()).context("signals cannot be caught")?;
        }
        Ok(stop)
    }

    /// The flag, for signal handlers.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether the user wants the run to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once the user wants the run to end.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> anyhow::Result<()> {
        if self.is_set() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Sleeps, but not past the user's patience.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn sleep(&self, duration: Duration) -> anyhow::Result<()> {
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

/// The user ended the run.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
