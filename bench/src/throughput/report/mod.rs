//! The report: one object for programs, one page for people, and plots.
//!
//! Enters: results and what they were measured on. Leaves: `report.json`, `report.md` and `*.svg` in a directory. Never does:
//! show a figure without its spread, or a ratio that the noise swallows without saying so.

mod json;
mod markdown;

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::environment::Environment;
use super::implementation::Catalogue;
use super::results::Results;

/// What was written.
pub(crate) struct Written {
    /// `report.json`.
    pub(crate) json: String,
    /// `report.md`.
    pub(crate) markdown: String,
}

/// Writes the report.
pub(crate) fn write(
    out: &Path,
    environment: &Environment,
    catalogue: &Catalogue,
    results: &Results,
) -> anyhow::Result<Written> {
    fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
    let json = json::text(environment, catalogue, results)?;
    let markdown = markdown::page(environment, catalogue, results);
    for (name, text) in [("report.json", &json), ("report.md", &markdown)] {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(Written { json, markdown })
}
