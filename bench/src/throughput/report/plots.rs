//! The plots of a report.
//!
//! Enters: results. Leaves: named SVGs, of those plots for which something was measured. Never does: show the twin as
//! if it were a competitor: it stands beside the configuration that it repeats, in a lighter colour.

use landbridge::datapath::stages::Stage;
use plotters::prelude::RGBColor;

use super::super::environment::Environment;
use super::super::implementation::Kind;
use super::super::plan::{Configuration, LATENCY_PERCENTS};
use super::super::results::{Results, figure_kind, size_text};
use crate::plot::PALETTE;
use crate::plot::bars::{Bar, BarChart, Panel, Row};
use crate::plot::lines::{self, Line, LineChart};
use crate::plot::stack::StackChart;

/// The figures of the first plot, as far as they were measured.
pub(super) const KEY_FIGURES: [&str; 5] =
    ["tcp 1 gbps", "tcp 4 gbps", "tcp 16 gbps", "flood gbps", "ndr 64 one way mpps"];
/// What latency is shown at.
pub(super) const PERCENTILES: [&str; 4] = ["p50", "p90", "p99", "p99.9"];

/// A packet's way from the lan to the wan.
const OUTBOUND: &[Stage] = &[Stage::LanReceive, Stage::Route, Stage::Seal, Stage::WanTransmit];
/// And back.
const INBOUND: &[Stage] = &[Stage::WanReceive, Stage::Admit, Stage::Open, Stage::Commit, Stage::LanTransmit];

/// A plot.
pub(crate) struct Plot {
    /// Its file.
    pub(crate) name: &'static str,
    /// What it shows, in a sentence.
    pub(crate) caption: &'static str,
    /// The text.
    pub(crate) svg: String,
}

/// All of them.
pub(super) fn all(environment: &Environment, results: &Results) -> anyhow::Result<Vec<Plot>> {
    let subtitle = subtitle(environment, results);
    let plots = [
        comparison(&subtitle, results)?,
        rates(&subtitle, results)?,
        latency(&subtitle, results)?,
        cpu(&subtitle, results)?,
        stages(&subtitle, results)?,
    ];
    Ok(plots.into_iter().flatten().collect())
}

fn subtitle(environment: &Environment, results: &Results) -> String {
    let repetitions = results.repetitions();
    let times = if repetitions == 1 { "one run".to_owned() } else { format!("median and range of {repetitions} runs") };
    format!("{times}, {}, veth links on one machine, {}", environment.machine.short(), environment.date)
}

/// The places of a figure's panels and the colour of a row.
fn colour(configuration: &Configuration) -> RGBColor {
    match (configuration.implementation.kind, configuration.twin_of.is_some()) {
        (Kind::Landbridge, false) => PALETTE[0],
        (Kind::Landbridge, true) => PALETTE[5],
        (Kind::Plain, _) => PALETTE[8],
        _ => PALETTE[1],
    }
}

fn bar_chart(results: &Results, title: &str, subtitle: &str, figures: &[&str]) -> anyhow::Result<Option<String>> {
    let names = results.figures();
    let figures: Vec<&&str> = figures.iter().filter(|figure| names.iter().any(|name| name == *figure)).collect();
    if figures.is_empty() {
        return Ok(None);
    }
    let configurations = &results.plan.configurations;
    let shown: Vec<usize> = (0..configurations.len())
        .filter(|place| figures.iter().any(|figure| results.spread(*place, figure).is_some()))
        .collect();
    let panel = |figure: &&&str| {
        let kind = figure_kind(figure);
        let better = if kind.more_is_better { "more is better" } else { "less is better" };
        let noise = results.noise(figure).map(|noise| format!(", noise {:.0} %", noise * 100.0)).unwrap_or_default();
        let bar = |place: &usize| {
            let spread = results.spread(*place, figure)?;
            let is_lower_limit = results.is_lower_limit(*place, figure);
            Some(Bar { value: spread.median, min: spread.min, max: spread.max, is_lower_limit })
        };
        Panel {
            title: format!("{}, {}", kind.title, kind.unit),
            note: format!("{better}{noise}"),
            bars: shown.iter().map(bar).collect(),
        }
    };
    let row = |place: &usize| {
        let configuration = &configurations[*place];
        Row { name: configuration.name.clone(), colour: colour(configuration) }
    };
    let chart = BarChart {
        title: title.to_owned(),
        subtitle: subtitle.to_owned(),
        rows: shown.iter().map(row).collect(),
        panels: figures.iter().map(panel).collect(),
    };
    chart.svg().map(Some)
}

fn comparison(subtitle: &str, results: &Results) -> anyhow::Result<Option<Plot>> {
    let svg = bar_chart(results, "Throughput through two gateways", subtitle, &KEY_FIGURES)?;
    Ok(svg.map(|svg| Plot { name: "comparison.svg", caption: "Throughput by configuration.", svg }))
}

fn cpu(subtitle: &str, results: &Results) -> anyhow::Result<Option<Plot>> {
    let figures = ["cpu tcp a ns", "cpu tcp b ns", "cpu tcp machine ns", "cpu flood machine ns"];
    let svg = bar_chart(results, "CPU time of a packet", subtitle, &figures)?;
    let caption = "CPU time of a packet: of the gateways' own processes, and of the whole machine with the hosts.";
    Ok(svg.map(|svg| Plot { name: "cpu.svg", caption, svg }))
}

fn lines(results: &Results, figures: &[String]) -> Vec<Line> {
    let of = |(at, place): (usize, usize)| {
        let point = |figure: &String| results.spread(place, figure).map(|s| (s.median, s.min, s.max));
        Line {
            name: results.plan.configurations[place].name.clone(),
            colour: PALETTE[at % PALETTE.len()],
            points: figures.iter().map(point).collect(),
        }
    };
    // The twin would lie on the line that it repeats.
    let places =
        (0..results.plan.configurations.len()).filter(|place| results.plan.configurations[*place].twin_of.is_none());
    places.enumerate().map(of).collect()
}

fn rates(subtitle: &str, results: &Results) -> anyhow::Result<Option<Plot>> {
    let sizes = results.sizes("ndr");
    if sizes.len() < 2 {
        return Ok(None);
    }
    let panel = |way: &str| {
        let figures: Vec<String> = sizes.iter().map(|size| format!("ndr {size} {way} mpps")).collect();
        lines::Panel { title: way.to_owned(), lines: lines(results, &figures) }
    };
    let chart = LineChart {
        title: "Highest rate without loss (NDR)".to_owned(),
        subtitle: subtitle.to_owned(),
        steps: sizes.iter().map(|size| size_text(size)).collect(),
        step_title: "IP packet".to_owned(),
        value_title: "Mpps".to_owned(),
        is_log: true,
        panels: ["one way", "both ways"].map(panel).into_iter().filter(has_points).collect(),
    };
    Ok(Some(Plot { name: "rates.svg", caption: "NDR by packet size.", svg: chart.svg()? }))
}

fn has_points(panel: &lines::Panel) -> bool {
    panel.lines.iter().any(|line| line.points.iter().any(Option::is_some))
}

fn latency(subtitle: &str, results: &Results) -> anyhow::Result<Option<Plot>> {
    let sizes = results.sizes("latency");
    let Some(size) = sizes.iter().find(|size| *size == "imix").or(sizes.first()) else { return Ok(None) };
    let panel = |percent: u8| {
        let figures = PERCENTILES.map(|percentile| format!("latency {size} {percent} {percentile} us"));
        lines::Panel { title: format!("at {percent} % of the own NDR"), lines: lines(results, &figures) }
    };
    let chart = LineChart {
        title: format!("One-way latency, {}", size_text(size)),
        subtitle: subtitle.to_owned(),
        steps: PERCENTILES.map(str::to_owned).to_vec(),
        step_title: "percentile".to_owned(),
        value_title: "us".to_owned(),
        is_log: true,
        panels: LATENCY_PERCENTS.map(panel).into_iter().filter(has_points).collect(),
    };
    let caption = "Percentiles of one-way latency; each configuration at shares of its own NDR.";
    Ok(Some(Plot { name: "latency.svg", caption, svg: chart.svg()? }))
}

fn stages(subtitle: &str, results: &Results) -> anyhow::Result<Option<Plot>> {
    let parts = results.stages();
    let (mut rows, configurations) = (Vec::new(), &results.plan.configurations);
    for (place, configuration) in configurations.iter().enumerate() {
        // The way of data from host A to host B; the other way there are hardly more than acknowledgements.
        for (side, direction, way) in [("a", "outbound", OUTBOUND), ("b", "inbound", INBOUND)] {
            let value = |part: &String| {
                let own = way.iter().any(|stage| stage.label() == part);
                results.spread(place, &format!("stage {side} {part} ns")).filter(|_| own).map(|s| s.median)
            };
            let values: Vec<Option<f64>> = parts.iter().map(value).collect();
            if values.iter().any(Option::is_some) {
                let values = values.into_iter().map(Option::unwrap_or_default).collect();
                rows.push((format!("{}, {direction}", configuration.name), values));
            }
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let chart = StackChart {
        title: "Where a packet's time goes in a gateway".to_owned(),
        subtitle: format!("outbound in gateway A, inbound in gateway B, by the time stamp counter; {subtitle}"),
        axis: "ns a packet".to_owned(),
        parts: parts.iter().map(|part| part.replace('_', " ")).collect(),
        rows,
    };
    Ok(Some(Plot { name: "stages.svg", caption: "Cost of a packet by stage.", svg: chart.svg()? }))
}
