//! The report for people.
//!
//! Enters: results. Leaves: a page of Markdown, whose tables GitHub and terminals show alike. Never does: leave a
//! missing implementation out without a word.

use std::fmt::Write as _;

use super::super::command::duration;
use super::super::environment::Environment;
use super::super::implementation::{Catalogue, Kind};
use super::super::plan::LATENCY_PERCENTS;
use super::super::results::{Comparison, Results, figure_kind, size_text};
use super::super::statistics::Spread;
use super::plots::{KEY_FIGURES, PERCENTILES, Plot};
use super::{Material, targets};

/// The page.
pub(super) fn page(material: &Material, plots: &[Plot]) -> String {
    let Material { environment, catalogue, results, summary } = material;
    let mut page = Page(String::new());
    page.head(environment, results);
    page.comparison(results);
    page.ratios(results);
    page.targets(results);
    page.rates(results);
    page.latency(results);
    page.cpu(results);
    page.stages(results);
    page.bound(results);
    page.absent(catalogue, results);
    if let Some(summary) = summary {
        page.section("Prometheus");
        page.prose(&summary.text());
    }
    page.plots(plots);
    page.0
}

/// What a README shows: the table, on what it was made, and a plot.
pub(super) fn block(material: &Material, plot: &str, report: &str) -> String {
    let Material { environment, results, .. } = material;
    let mut page = Page(String::new());
    let Environment { machine, date, .. } = environment;
    page.prose(&format!(
        "Made on {date} on {}{}, hosts and gateways on one kernel and its cores, by {} interleaved repetitions with a fresh \
         topology for each; median (least to greatest). The noise is what a configuration and its twin differ by.",
        machine.short(),
        if environment.is_virtual { ", a virtual machine" } else { "" },
        results.repetitions(),
    ));
    page.line("");
    page.comparison_table(results);
    page.line(format!("\n![Throughput by configuration]({plot})\n"));
    page.prose(&format!(
        "[The whole report]({report}) has ratios, latency, CPU a packet and what was bound; [bench/METHOD.md](bench/METHOD.md) \
         how to read and repeat it, and what may not be concluded from veth."
    ));
    page.0
}

/// The longest line of prose; tables have what they need.
const COLUMNS: usize = 120;

struct Page(String);

impl Page {
    fn line(&mut self, text: impl AsRef<str>) {
        let _infallible = writeln!(self.0, "{}", text.as_ref());
    }

    /// A paragraph, in lines of at most 120 columns.
    fn prose(&mut self, text: &str) {
        self.wrapped(text, "", "");
    }

    /// An item of a list, as [`Page::prose`].
    fn item(&mut self, text: &str) {
        self.wrapped(text, "- ", "  ");
    }

    fn wrapped(&mut self, text: &str, first: &str, other: &str) {
        let mut line = first.to_owned();
        let mut columns = line.len();
        let mut is_begun = false;
        for word in text.split_whitespace() {
            let width = word.chars().count();
            if is_begun && columns + 1 + width > COLUMNS {
                self.line(std::mem::replace(&mut line, other.to_owned()));
                (columns, is_begun) = (other.len(), false);
            }
            if is_begun {
                line.push(' ');
                columns += 1;
            }
            line.push_str(word);
            columns += width;
            is_begun = true;
        }
        self.line(line);
    }

    fn section(&mut self, title: &str) {
        self.line(format!("\n## {title}\n"));
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        self.line(format!("| {} |", cells.join(" | ")));
    }

    /// A table: a row for each configuration that has any of the figures, a column for each of them.
    fn table(&mut self, results: &Results, columns: &[(String, String)], cell: impl Fn(usize, &str) -> Option<String>) {
        let measured = results.figures();
        let columns: Vec<&(String, String)> = columns.iter().filter(|(figure, _)| measured.contains(figure)).collect();
        if columns.is_empty() {
            return;
        }
        self.row(std::iter::once(String::new()).chain(columns.iter().map(|(_, title)| title.clone())));
        self.row(std::iter::once("---".to_owned()).chain(columns.iter().map(|_| "---:".to_owned())));
        for (place, configuration) in results.plan.configurations.iter().enumerate() {
            let cells: Vec<Option<String>> = columns.iter().map(|(figure, _)| cell(place, figure)).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(Option::unwrap_or_default);
                self.row(std::iter::once(configuration.name.clone()).chain(cells));
            }
        }
    }

    fn head(&mut self, environment: &Environment, results: &Results) {
        let Environment { machine, date, command, memory_gib, links, load_before, .. } = environment;
        self.line("# Throughput through two gateways\n");
        self.line(format!("Made on {date} by `{command}`.\n"));
        let virtual_machine = if environment.is_virtual { ", a virtual machine" } else { "" };
        self.item(&format!("{machine}, {memory_gib} GiB{virtual_machine}; load before: {load_before}"));
        self.item(&format!("hosts and gateways on one kernel: {links}"));
        for (name, version) in &environment.implementations {
            self.item(&format!("{name}: {version}"));
        }
        let (done, wanted) = (results.repetitions(), results.plan.repetitions);
        let ended = if done < wanted { format!(" of {wanted}: the run was ended early") } else { String::new() };
        self.item(&format!(
            "{done} interleaved repetitions{ended}, a fresh topology for each; median (least to greatest)"
        ));
        self.item(match results.twins() {
            Some(_) if results.repetitions() >= 3 => {
                "noise: how far a configuration and its twin, which is the same under another name, differ"
            }
            _ => "without twins and three repetitions nothing is known of the noise",
        });
        self.item("what may be concluded from this and what not: bench/METHOD.md");
    }

    /// One row for each configuration, one column for each key figure.
    fn comparison(&mut self, results: &Results) {
        self.section("Comparison");
        self.comparison_table(results);
    }

    fn comparison_table(&mut self, results: &Results) {
        let columns = KEY_FIGURES.map(|figure| (figure.to_owned(), title(results, figure)));
        self.table(results, &columns, |place, figure| shown(results, place, figure));
    }

    /// How much faster every configuration is than each other implementation.
    fn ratios(&mut self, results: &Results) {
        let configurations = &results.plan.configurations;
        let is_ours = |place: &usize| configurations[*place].implementation.kind == Kind::Landbridge;
        let (ours, others): (Vec<usize>, Vec<usize>) = (0..configurations.len()).partition(is_ours);
        if ours.is_empty() || others.is_empty() {
            return;
        }
        self.section("Ratios");
        self.line("Medians of the ratios within repetitions; ≈ marks one that the noise can explain.");
        for figure in KEY_FIGURES.into_iter().filter(|figure| results.figures().iter().any(|name| name == figure)) {
            self.line(format!("\n{}:\n", title(results, figure)));
            let names = others.iter().map(|other| format!("to {}", configurations[*other].name));
            self.row(std::iter::once(String::new()).chain(names));
            self.row(std::iter::once("---".to_owned()).chain(others.iter().map(|_| "---:".to_owned())));
            for one in &ours {
                let cells =
                    others.iter().map(|other| results.compare(*one, *other, figure).map(ratio).unwrap_or_default());
                self.row(std::iter::once(configurations[*one].name.clone()).chain(cells));
            }
        }
    }

    /// What this project has set itself, as far as this run can tell.
    fn targets(&mut self, results: &Results) {
        let verdicts = targets::verdicts(results);
        if verdicts.is_empty() {
            return;
        }
        self.section("Figures to reach");
        self.row(["figure", "to reach", "reached", ""].map(str::to_owned));
        self.row(["---", "---:", "---:", "---"].map(str::to_owned));
        for verdict in verdicts {
            let word = if verdict.is_met() { "met" } else { "**missed**" };
            self.row([verdict.what.to_owned(), digits(verdict.least), digits(verdict.reached), word.to_owned()]);
        }
    }

    fn rates(&mut self, results: &Results) {
        if results.sizes("ndr").is_empty() {
            return;
        }
        self.section("Rates");
        self.prose(
            "Mpps of IP packets of that size; NDR: nothing lost, PDR: at most 0.5 % lost; ≥: the generator had no \
             more.",
        );
        self.line("");
        for way in ["one way", "both ways"] {
            let columns: Vec<(String, String)> = results
                .sizes("ndr")
                .iter()
                .flat_map(|size| ["ndr", "pdr"].map(|goal| (format!("{goal} {size} {way} mpps"), size, goal)))
                .map(|(figure, size, goal)| (figure, format!("{} {}, {way}", goal.to_uppercase(), size_text(size))))
                .collect();
            self.table(results, &columns, |place, figure| shown(results, place, figure));
            self.line("");
        }
    }

    fn latency(&mut self, results: &Results) {
        if results.sizes("latency").is_empty() {
            return;
        }
        self.section("Latency");
        self.prose("One way, in microseconds, at shares of each configuration's own NDR.");
        self.line("");
        for size in results.sizes("latency") {
            let columns: Vec<(String, String)> = LATENCY_PERCENTS
                .iter()
                .flat_map(|percent| PERCENTILES.map(|percentile| (percent, percentile)))
                .map(|(percent, percentile)| {
                    let title = format!("{}, {percent} %, {percentile}", size_text(&size));
                    (format!("latency {size} {percent} {percentile} us"), title)
                })
                .collect();
            self.table(results, &columns, |place, figure| Some(digits(results.spread(place, figure)?.median)));
            self.line("");
        }
    }

    fn cpu(&mut self, results: &Results) {
        let figures = ["tcp", "flood"]
            .into_iter()
            .flat_map(|measure| ["a", "b", "machine"].map(|gateway| format!("cpu {measure} {gateway} ns")));
        let columns: Vec<(String, String)> = figures.map(|figure| (figure.clone(), title(results, &figure))).collect();
        if !columns.iter().any(|(figure, _)| results.figures().contains(figure)) {
            return;
        }
        self.section("CPU");
        self.prose(
            "A gateway's own CPU is its process; most of what the kernel does for it between namespaces is in the \
             machine's.",
        );
        self.line("");
        self.table(results, &columns, |place, figure| shown(results, place, figure));
    }

    fn stages(&mut self, results: &Results) {
        let stages = results.stages();
        if stages.is_empty() {
            return;
        }
        self.section("Stages");
        self.prose("Nanoseconds for each packet that went through a stage, over the whole run of a configuration.");
        self.line("");
        for side in ["a", "b"] {
            let column = |stage: &String| {
                let figure = format!("stage {side} {stage} ns");
                (figure, format!("{} {}", side.to_uppercase(), stage.replace('_', " ")))
            };
            let columns: Vec<(String, String)> = stages.iter().map(column).collect();
            self.table(results, &columns, |place, figure| Some(digits(results.spread(place, figure)?.median)));
            self.line("");
        }
    }

    /// How the gateways of this project were bound, as they say themselves.
    fn bound(&mut self, results: &Results) {
        let configurations = results.plan.configurations.iter().enumerate();
        let bound: Vec<_> = configurations.filter_map(|(place, c)| Some((&c.name, results.bound(place)?))).collect();
        if bound.is_empty() {
            return;
        }
        self.section("Bound");
        for (name, bound) in bound {
            let lanes = if bound.lanes == 1 { "1 lane".to_owned() } else { format!("{} lanes", bound.lanes) };
            self.item(&format!("{name}: wan {}; lan {}; crypto {}; {lanes}", bound.wan, bound.lan, bound.crypto));
        }
    }

    fn absent(&mut self, catalogue: &Catalogue, results: &Results) {
        let errors = results.errors();
        if catalogue.missing.is_empty() && errors.is_empty() {
            return;
        }
        self.section("Not measured");
        for missing in &catalogue.missing {
            self.item(&format!("{}: {}", missing.name, missing.reason));
        }
        for (place, repetition, error) in errors {
            let name = &results.plan.configurations[place].name;
            let error: Vec<&str> = error.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
            self.item(&format!("{name}, repetition {}: {}", repetition + 1, error.join(" ")));
        }
        let took: f64 = results.samples.iter().map(|sample| sample.seconds).sum();
        self.line(format!("\nAll of it took {}.", duration(std::time::Duration::from_secs_f64(took))));
    }

    fn plots(&mut self, plots: &[Plot]) {
        for Plot { name, caption, .. } in plots {
            self.line(format!("\n![{caption}]({name})"));
        }
    }
}

/// A figure's title with unit and noise.
fn title(results: &Results, figure: &str) -> String {
    let kind = figure_kind(figure);
    let noise = results.noise(figure).map(|noise| format!(" (noise {:.0} %)", noise * 100.0)).unwrap_or_default();
    format!("{}, {}{noise}", kind.title, kind.unit)
}

fn ratio(comparison: Comparison) -> String {
    let mark = if comparison.within_noise { "≈ " } else { "" };
    format!("{mark}{}", digits(comparison.ratio))
}

/// A figure with its spread; a lower limit says so, and a rate that was never reached is none.
fn shown(results: &Results, place: usize, figure: &str) -> Option<String> {
    let at_least = if results.is_lower_limit(place, figure) { "≥ " } else { "" };
    let value = if figure_kind(figure).more_is_better { reached } else { digits };
    Some(format!("{at_least}{}", cell(results.spread(place, figure)?, value)))
}

/// A figure with its spread.
fn cell(spread: Spread, value: fn(f64) -> String) -> String {
    match spread.count {
        1 => value(spread.median),
        _ if spread.min == spread.max => value(spread.median),
        _ => format!("{} ({} to {})", value(spread.median), value(spread.min), value(spread.max)),
    }
}

/// What was reached; no trial was good enough where that is nothing.
fn reached(value: f64) -> String {
    if value > 0.0 { digits(value) } else { "none".to_owned() }
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0..0.1 => format!("{value:.4}"),
        0.1..1.0 => format!("{value:.3}"),
        1.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::results::tests::results;
    use super::*;

    #[test]
    fn a_page_has_every_configuration_its_noise_and_what_is_missing() {
        let results = results(
            "tcp 1 gbps",
            &[
                ("ours", None, &[3.0, 4.0, 3.5]),
                ("ours (twin)", Some("ours"), &[3.1, 3.9, 3.5]),
                ("other", None, &[0.5, 0.6, 0.55]),
            ],
        );
        let missing = vec![super::super::super::implementation::Missing {
            name: "kernel".to_owned(),
            reason: "this kernel has none".to_owned(),
        }];
        let catalogue = Catalogue { found: Vec::new(), missing };
        let environment = Environment::of_this(&catalogue);
        let page = page(&Material { environment, catalogue, results, summary: None }, &[]);
        for part in ["| ours | 3.50 (3.00 to 4.00) |", "| other | 0.550", "noise 3 %", "- kernel: this kernel has none"]
        {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
        assert!(page.contains("3 interleaved repetitions of 5: the run was ended early"), "{page}");
    }

    #[test]
    fn a_single_value_has_no_spread() {
        assert_eq!(cell(Spread { median: 3.456, min: 3.456, max: 3.456, count: 1 }, digits), "3.46");
    }

    #[test]
    fn a_rate_that_no_trial_reached_is_none() {
        assert_eq!(cell(Spread { median: 0.249, min: 0.0, max: 0.387, count: 5 }, reached), "0.249 (none to 0.387)");
        let results = results("ndr 64 one way mpps", &[("ours", None, &[0.0, 0.0, 0.0])]);
        assert_eq!(shown(&results, 0, "ndr 64 one way mpps").as_deref(), Some("none"));
    }

    #[test]
    fn prose_is_wrapped_between_words_and_items_are_indented() {
        let mut page = Page(String::new());
        page.item(&"wörter ".repeat(60));
        assert!(page.0.lines().count() > 3 && page.0.lines().all(|line| line.chars().count() <= COLUMNS), "{}", page.0);
        assert!(page.0.starts_with("- wörter wörter") && page.0.lines().skip(1).all(|line| line.starts_with("  w")));
        assert_eq!(page.0.matches("wörter").count(), 60);
    }
}
