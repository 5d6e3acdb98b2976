//! The report: one object for programs, one page for people, and plots.
//!
//! Enters: results and what they were measured on. Leaves: `report.json`, `report.md` and `*.svg` in a directory. Never
//! does: show a figure without its spread, or a ratio that the noise swallows without saying so.

mod json;
mod markdown;
mod plots;
pub(crate) mod publish;
mod targets;

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::environment::Environment;
use super::implementation::Catalogue;
use super::prometheus::Summary;
use super::results::Results;

/// What a report is made of.
pub(crate) struct Material {
    /// On what and with what.
    pub(crate) environment: Environment,
    /// What there was to measure, and what was missing.
    pub(crate) catalogue: Catalogue,
    /// What was found.
    pub(crate) results: Results,
    /// What a Prometheus beside the run took.
    pub(crate) summary: Option<Summary>,
}

/// What was written.
pub(crate) struct Written {
    /// Of what.
    pub(crate) material: Material,
    /// `report.json`.
    pub(crate) json: String,
    /// `report.md`.
    pub(crate) markdown: String,
    /// The plots.
    pub(crate) plots: Vec<plots::Plot>,
}

/// Writes the report.
pub(crate) fn write(out: &Path, material: Material) -> anyhow::Result<Written> {
    fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
    let json = json::text(&material)?;
    let plots = plots::all(&material.environment, &material.results)?;
    let markdown = markdown::page(&material, &plots);
    let files = [("report.json", &json), ("report.md", &markdown)];
    for (name, text) in files.into_iter().chain(plots.iter().map(|plot| (plot.name, &plot.svg))) {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(Written { material, json, markdown, plots })
}
