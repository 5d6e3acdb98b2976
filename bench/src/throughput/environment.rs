//! What a run was measured on and with.
//!
//! Enters: the catalogue of implementations. Leaves: an [`Environment`] for the head of a report. Never does: change
//! the machine.

use std::fs::read_to_string;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::implementation::Catalogue;
use crate::machine::Machine;

/// The head of a report.
#[derive(Debug, Serialize)]
pub(crate) struct Environment {
    /// CPU and kernel.
    pub(crate) machine: Machine,
    /// Memory in GiB.
    pub(crate) memory_gib: f64,
    /// Whether this is a virtual machine, as its CPU says.
    pub(crate) is_virtual: bool,
    /// How busy the machine was before: the load average of the last minute.
    pub(crate) load_before: f64,
    /// What packets travel over.
    pub(crate) links: &'static str,
    /// Date, in UTC.
    pub(crate) date: String,
    /// The version of this bench.
    pub(crate) bench_version: &'static str,
    /// The command that was given.
    pub(crate) command: String,
    /// Versions by implementation.
    pub(crate) implementations: Vec<(String, String)>,
}

impl Environment {
    /// This machine.
    pub(crate) fn of_this(catalogue: &Catalogue) -> Self {
        let text = |path: &str| read_to_string(path).unwrap_or_default();
        let kib = text("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<f64>().ok());
        let load = text("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok());
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Self {
            machine: Machine::of_this(),
            memory_gib: (kib.unwrap_or(0.0) / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            is_virtual: text("/proc/cpuinfo").contains(" hypervisor"),
            load_before: load.unwrap_or(0.0),
            links: "veth pairs between network namespaces of one kernel (driver veth)",
            date: today(),
            bench_version: env!("CARGO_PKG_VERSION"),
            command: format!("landbridge-bench {}", arguments.join(" ")),
            implementations: catalogue.found.iter().map(|found| (found.name.clone(), found.version.clone())).collect(),
        }
    }
}

/// This moment's date.
pub(crate) fn today() -> String {
    date(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// The date of a time in seconds since the epoch, after Howard Hinnant's algorithm of civil days.
fn date(seconds: u64) -> String {
    let days = (seconds / 86_400) as i64 + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn seconds_become_dates() {
        for (seconds, want) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
        ] {
            assert_eq!(date(seconds), want);
        }
    }
}
