//! The report for people.
//!
//! Enters: results. Leaves: a page of Markdown, whose tables GitHub and terminals show alike. Never does: leave a missing
//! implementation out without a word.

use std::fmt::Write as _;

use super::super::environment::Environment;
use super::super::implementation::Catalogue;
use super::super::results::{Results, figure_kind};
use super::super::statistics::Spread;

/// The page.
pub(super) fn page(environment: &Environment, catalogue: &Catalogue, results: &Results) -> String {
    let mut page = Page(String::new());
    page.head(environment, results);
    page.comparison(results);
    page.absent(catalogue, results);
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, text: impl AsRef<str>) {
        let _infallible = writeln!(self.0, "{}", text.as_ref());
    }

    fn head(&mut self, environment: &Environment, results: &Results) {
        let Environment { machine, date, command, memory_gib, links, .. } = environment;
        self.line("# Throughput\n");
        self.line(format!("Made on {date} by `{command}`."));
        self.line(format!("{machine}, {memory_gib} GiB; {links}."));
        let repetitions = results.samples.iter().map(|sample| sample.repetition + 1).max().unwrap_or(0);
        self.line(format!("{repetitions} repetitions; medians, with the least and the greatest value.\n"));
    }

    /// One row for each configuration, one column for each key figure.
    fn comparison(&mut self, results: &Results) {
        let shown = ["tcp 1 gbps", "tcp 4 gbps", "tcp 16 gbps", "flood gbps", "ndr 64 one way mpps"];
        let names = results.figures();
        let figures: Vec<&str> = shown.into_iter().filter(|figure| names.iter().any(|name| name == figure)).collect();
        let titles = figures.iter().map(|figure| {
            let kind = figure_kind(figure);
            format!("{}, {}", kind.title, kind.unit)
        });
        self.row(std::iter::once("configuration".to_owned()).chain(titles));
        self.row(std::iter::repeat_n("---".to_owned(), figures.len() + 1));
        for (place, configuration) in results.plan.configurations.iter().enumerate() {
            let cells = figures.iter().map(|figure| results.spread(place, figure).map(cell).unwrap_or_default());
            self.row(std::iter::once(configuration.name.clone()).chain(cells));
        }
        self.line("");
    }

    fn row(&mut self, cells: impl Iterator<Item = String>) {
        let cells: Vec<String> = cells.collect();
        self.line(format!("| {} |", cells.join(" | ")));
    }

    fn absent(&mut self, catalogue: &Catalogue, _results: &Results) {
        for missing in &catalogue.missing {
            self.line(format!("Missing: {}: {}.", missing.name, missing.reason));
        }
    }
}

/// A figure with its spread.
fn cell(spread: Spread) -> String {
    format!("{} ({} to {})", digits(spread.median), digits(spread.min), digits(spread.max))
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0..1.0 => format!("{value:.3}"),
        1.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
