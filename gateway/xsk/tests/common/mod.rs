//! Throw-away network namespaces for tests.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread of its own in a network namespace of its own, which vanishes with the thread and whatever
/// was opened in it. Without root the test is skipped, aloud, except in CI, where it fails.
pub(crate) fn in_namespace(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("CI").is_err(), "this test needs root, and CI skips no test");
        eprintln!("skipped: this test needs root");
        return;
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sh("ip link set lo up");
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs a line of shell in the namespace of this thread.
pub(crate) fn sh(line: &str) {
    let output = Command::new("sh").arg("-ec").arg(line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
