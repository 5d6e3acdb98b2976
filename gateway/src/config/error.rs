//! What is wrong with a configuration, and where.
//!
//! Enters: what the parsers and the checks found. Leaves: one line a person can act on: file, line, column, key, what is
//! there and what is expected. Never does: print a secret; a key's text is not repeated in messages.

use std::fmt;
use std::path::{Path, PathBuf};

/// A spot in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key as a person would write it, such as `peer.endpoint`.
    pub key: String,
}

impl Place {
    /// A spot.
    #[must_use]
    pub fn new(line: usize, column: usize, key: impl Into<String>) -> Self {
        Self { line, column, key: key.into() }
    }

    /// The same spot under another key.
    #[must_use]
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        Self { key: key.into(), ..self.clone() }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The text is not of the format at all.
    #[error("{0}")]
    Syntax(String),
    /// A key that nobody reads.
    #[error("unknown key{}", suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A section that nobody reads.
    #[error("unknown section{}", suggestion(.nearest.as_deref()))]
    UnknownSection {
        /// The known section that looks most like it.
        nearest: Option<String>,
    },
    /// A key that must be there is not.
    #[error("missing: expected {expected}")]
    Missing {
        /// What should be there.
        expected: String,
    },
    /// A value that is not what the key takes.
    #[error("{found}: expected {expected}")]
    Invalid {
        /// What is there, or what is wrong with it.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// The same thing a second time.
    #[error("{what} again: it is already at line {first}")]
    Duplicate {
        /// What is there twice.
        what: String,
        /// The line of the first one.
        first: usize,
    },
    /// Two things that exclude each other.
    #[error("{0}")]
    Conflict(String),
    /// A file that cannot be used.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the way out.
        problem: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}

/// A problem at a spot of a text whose file is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: Problem,
}

impl Fault {
    /// A problem at a spot.
    #[must_use]
    pub fn new(place: &Place, problem: Problem) -> Self {
        Self { place: place.clone(), problem }
    }

    /// Names the file.
    #[must_use]
    pub fn in_file(self, file: &Path) -> ConfigError {
        ConfigError { file: file.to_owned(), place: self.place, problem: self.problem }
    }
}

/// A configuration error: file, place and problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub place: Place,
    /// What.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.place.line > 0 {
            write!(f, ":{}:{}", self.place.line, self.place.column)?;
        }
        if !self.place.key.is_empty() {
            write!(f, ": `{}`", self.place.key)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// The known name that looks most like an unknown one, if any looks like it at all.
#[must_use]
pub fn nearest(unknown: &str, known: &[&str]) -> Option<String> {
    let unknown = unknown.to_lowercase();
    let limit = (unknown.chars().count() / 3).max(2);
    known
        .iter()
        .map(|name| (distance(&unknown, &name.to_lowercase()), *name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name.to_owned())
}

/// How many characters must be put in, taken out, replaced or swapped with their neighbour to get from one to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().take(64).collect());
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_its_neighbour_and_nonsense_finds_none() {
        let known = ["listen_port", "private_key", "private_key_file", "mtu"];
        for (unknown, expected) in [
            ("listenport", Some("listen_port")),
            ("listen_prot", Some("listen_port")),
            ("privat_key", Some("private_key")),
            ("MTU", Some("mtu")),
            ("colour", None),
        ] {
            assert_eq!(nearest(unknown, &known).as_deref(), expected, "{unknown}");
        }
    }
}
