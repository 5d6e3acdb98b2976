//! What the demo is doing, on standard error.
//!
//! Enters: steps. Leaves: one line that changes on a terminal, one line per finished step elsewhere. Never does: write to
//! standard output.

use std::io::{self, IsTerminal as _, Write as _};

/// The progress display.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    open: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), open: false }
    }

    /// Begins a step.
    pub(super) fn step(&mut self, text: &str) {
        self.update(text);
    }

    /// Says how far a step is.
    pub(super) fn update(&mut self, text: &str) {
        if self.terminal {
            self.write(&format!("\r\x1b[K  .. {text}"));
            self.open = true;
        }
    }

    /// Ends a step.
    pub(super) fn done(&mut self, text: &str) {
        self.finish();
        self.write(&format!("  ok {text}\n"));
    }

    /// Clears the line that changes.
    pub(super) fn finish(&mut self) {
        if std::mem::take(&mut self.open) {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        // Progress that nobody can see stops nothing.
        let mut err = io::stderr().lock();
        drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
