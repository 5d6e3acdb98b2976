//! SIGHUP, which `nohup` has programs ignore.
//!
//! Enters: what whoever started us wants. Leaves: the same for us, and SIGHUP's default for the programs that we start: a
//! signal that is ignored stays so in every program started from there, one that is caught does not. Never does: end
//! the process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGHUP;

/// Whether whoever started us wants SIGHUP ignored.
#[must_use]
pub fn is_ignored() -> bool {
    is_ignored_in(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// The same of a process' status as the kernel writes it.
fn is_ignored_in(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    // The mask's lowest bit.
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Where SIGHUP is ignored it goes on to change nothing here, but programs that are started do not inherit that. True where
/// it is.
///
/// # Errors
/// A signal that cannot be caught.
pub fn keep_from_children() -> std::io::Result<bool> {
    let ignored = is_ignored();
    if ignored {
        signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(ignored)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const INSIDE: &str = "LANDBRIDGE_TEST_HANGUP";

    #[test]
    fn programs_started_under_nohup_have_the_default_and_we_live_on() {
        if std::env::var_os(INSIDE).is_none() {
            // Which signals are ignored is inherited only: this very test runs again below a shell that ignores it.
            let name = "hangup::tests::programs_started_under_nohup_have_the_default_and_we_live_on";
            let ended = Command::new("sh")
                .args(["-c", "trap '' HUP; exec \"$0\" --exact \"$1\""])
                .arg(std::env::current_exe().expect("this program"))
                .arg(name)
                .env(INSIDE, "1")
                .output()
                .expect("a shell");
            let said = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let ignored_by_child = || {
            let output = Command::new("grep").args(["SigIgn", "/proc/self/status"]).output().expect("grep");
            is_ignored_in(&String::from_utf8_lossy(&output.stdout))
        };
        assert!(is_ignored() && ignored_by_child());
        assert!(keep_from_children().expect("a handler"));
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).expect("a signal to ourselves");
        assert!(!ignored_by_child());
    }
}
