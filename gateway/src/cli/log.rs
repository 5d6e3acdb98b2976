//! The log: to standard error, as much as LOG_LEVEL or RUST_LOG says.
//!
//! Enters: the environment. Leaves: a subscriber for `tracing`. Never does: write to standard output.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts the log. A second call changes nothing.
pub(super) fn start() {
    let filter = filter(std::env::var("RUST_LOG").ok().as_deref(), std::env::var("LOG_LEVEL").ok().as_deref());
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false);
    // The journal stamps its lines itself.
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() && !terminal {
        log.without_time().try_init()
    } else {
        log.try_init()
    };
    drop(started);
}

/// RUST_LOG speaks for itself; LOG_LEVEL has the words that WireGuard's userspace implementations take.
fn filter(rust_log: Option<&str>, log_level: Option<&str>) -> EnvFilter {
    if let Some(directives) = rust_log.filter(|text| !text.is_empty()) {
        return EnvFilter::builder().parse_lossy(directives);
    }
    let level = match log_level.map(str::to_ascii_lowercase).as_deref() {
        Some("silent" | "off" | "none") => "off",
        Some("error") => "error",
        Some("warn" | "warning") => "warn",
        Some("verbose" | "debug") => "debug",
        Some("trace" | "max") => "trace",
        _ => "info",
    };
    EnvFilter::new(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_other_implementations_set_the_level() {
        for (rust_log, log_level, expected) in [
            (None, None, "info"),
            (None, Some("silent"), "off"),
            (None, Some("error"), "error"),
            (None, Some("verbose"), "debug"),
            (None, Some("debug"), "debug"),
            (Some("landbridge=trace"), Some("error"), "landbridge=trace"),
            (Some(""), Some("error"), "error"),
        ] {
            assert_eq!(filter(rust_log, log_level).to_string(), expected, "{rust_log:?} {log_level:?}");
        }
    }
}
