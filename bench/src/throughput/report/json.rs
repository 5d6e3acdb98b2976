//! The report for programs.
//!
//! Enters: results. Leaves: one JSON object; its keys are documented in bench/METHOD.md. Never does: round.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::environment::Environment;
use super::super::implementation::Catalogue;
use super::super::plan::Plan;
use super::super::prometheus::Summary;
use super::super::results::{Bound, Sample, figure_kind};
use super::super::statistics::Spread;
use super::Material;

/// Raised when a key changes its meaning.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Report<'r> {
    schema: u32,
    environment: &'r Environment,
    catalogue: &'r Catalogue,
    plan: &'r Plan,
    figures: Vec<Figure>,
    configurations: Vec<Configured<'r>>,
    samples: &'r [Sample],
    prometheus: Option<&'r Summary>,
}

#[derive(Serialize)]
struct Figure {
    name: String,
    title: String,
    unit: &'static str,
    more_is_better: bool,
    noise: Option<f64>,
}

#[derive(Serialize)]
struct Configured<'r> {
    name: &'r str,
    bound: Option<&'r Bound>,
    figures: BTreeMap<String, Spread>,
}

/// The text.
pub(super) fn text(material: &Material) -> anyhow::Result<String> {
    let Material { environment, catalogue, results, summary } = material;
    let names = results.figures();
    let figure = |name: &String| {
        let kind = figure_kind(name);
        Figure {
            name: name.clone(),
            title: kind.title,
            unit: kind.unit,
            more_is_better: kind.more_is_better,
            noise: results.noise(name),
        }
    };
    let configurations = results.plan.configurations.iter().enumerate().map(|(place, configuration)| Configured {
        name: &configuration.name,
        bound: results.bound(place),
        figures: names.iter().filter_map(|name| Some((name.clone(), results.spread(place, name)?))).collect(),
    });
    let report = Report {
        schema: SCHEMA,
        environment,
        catalogue,
        plan: &results.plan,
        figures: names.iter().map(figure).collect(),
        configurations: configurations.collect(),
        samples: &results.samples,
        prometheus: summary.as_ref(),
    };
    Ok(serde_json::to_string(&report)? + "\n")
}
