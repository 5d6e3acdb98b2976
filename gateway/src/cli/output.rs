//! Standard output and human units.
//!
//! Enters: text and numbers. Leaves: lines. Never does: panic when the reader has gone.

use std::io::{self, Write as _};

/// Writes text to standard output, as whole lines; a reader that went away early, such as `head`, is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// An error with its causes, each said once: many errors of the system repeat their cause in their own words.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// `1.50 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    scaled(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// `1.50 M`.
pub(crate) fn count(count: u64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "G", "T", "P", "E"]).trim_end().to_owned()
}

fn scaled(count: u64, step: f64, units: &[&str]) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{count} {}", units[0]) } else { format!("{value:.2} {}", units[unit]) }
}

/// `1 queue`, `2 queues`.
pub(crate) fn plural(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// `2 d 3 h 4 min 5 s`.
pub(crate) fn seconds(total: u64) -> String {
    let parts = [(total / 86400, "d"), (total / 3600 % 24, "h"), (total / 60 % 60, "min"), (total % 60, "s")];
    let text: Vec<String> =
        parts.iter().filter(|(value, _)| *value > 0).map(|(value, unit)| format!("{value} {unit}")).collect();
    if text.is_empty() { "0 s".to_owned() } else { text.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_in_the_message_already_is_not_said_again() {
        let error = anyhow::anyhow!("no such device").context("binding eth9: no such device (name another)");
        assert_eq!(causes(&error.context("lane 0")), "lane 0: binding eth9: no such device (name another)");
    }

    #[test]
    fn one_is_one_and_more_are_many() {
        assert_eq!([0, 1, 2].map(|n| plural(n, "queue")), ["0 queues", "1 queue", "2 queues"]);
    }

    #[test]
    fn numbers_are_shown_in_units_that_a_person_reads() {
        for (n, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (3 << 30, "3.00 GiB"), (u64::MAX, "16.00 EiB")]
        {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [(0, "0"), (999, "999"), (1500, "1.50 k"), (2_000_000, "2.00 M")] {
            assert_eq!(count(n), text);
        }
        for (n, text) in [(0, "0 s"), (59, "59 s"), (3600, "1 h"), (93784, "1 d 2 h 3 min 4 s")] {
            assert_eq!(seconds(n), text);
        }
    }
}
