//! What was found: samples by configuration and repetition, figures by name, and what they are called.
//!
//! Enters: samples. Leaves: spreads, ratios and the noise between twins. Never does: judge a figure without its noise.

use std::collections::{BTreeMap, BTreeSet};

use landbridge::datapath::stages::Stage;
use serde::Serialize;

use super::cpu::CpuUse;
use super::plan::Plan;
use super::scrape::Series;
use super::statistics::{self, Spread};

/// What a gateway of this project said it bound.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bound {
    /// `xdp` or `udp`, with driver and mode.
    pub(crate) wan: String,
    /// Likewise.
    pub(crate) lan: String,
    /// The engine.
    pub(crate) crypto: String,
    /// How many lanes.
    pub(crate) lanes: usize,
}

/// One configuration, measured once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    /// Which configuration, by its place in the plan.
    pub(crate) configuration: usize,
    /// Which repetition.
    pub(crate) repetition: u16,
    /// When it began, in seconds since the epoch.
    pub(crate) began_unix_seconds: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// What gateway A said it bound.
    pub(crate) bound: Option<Bound>,
    /// Figures by name.
    pub(crate) figures: BTreeMap<String, f64>,
    /// Those of them that are only lower limits: the generator could not offer more.
    pub(crate) lower_limits: BTreeSet<String>,
    /// CPU by measure.
    pub(crate) cpu: BTreeMap<String, CpuUse>,
    /// Everything that the measures returned.
    pub(crate) details: Vec<serde_json::Value>,
    /// What the gateways told of themselves each second, A first.
    pub(crate) series: Vec<Series>,
    /// Why it ended before all was measured.
    pub(crate) error: Option<String>,
}

/// What a figure is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FigureKind {
    /// For people.
    pub(crate) title: String,
    /// Of the value.
    pub(crate) unit: &'static str,
    /// Whether more is better.
    pub(crate) more_is_better: bool,
}

/// All that was found.
#[derive(Debug)]
pub(crate) struct Results {
    /// What was to be measured.
    pub(crate) plan: Plan,
    /// What was.
    pub(crate) samples: Vec<Sample>,
}

/// How one configuration's figure compares with another's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// Median over the repetitions of one to the other.
    pub(crate) ratio: f64,
    /// Whether it differs from one by no more than the twins differ from each other: then it says nothing.
    pub(crate) within_noise: bool,
}

impl Results {
    /// The values of a figure by repetition.
    pub(crate) fn values(&self, configuration: usize, figure: &str) -> BTreeMap<u16, f64> {
        let own = self.samples.iter().filter(|sample| sample.configuration == configuration);
        own.filter_map(|sample| Some((sample.repetition, *sample.figures.get(figure)?))).collect()
    }

    /// Its middle and ends.
    pub(crate) fn spread(&self, configuration: usize, figure: &str) -> Option<Spread> {
        Spread::of(self.values(configuration, figure).into_values())
    }

    /// Whether the figure of any repetition is only a lower limit.
    pub(crate) fn is_lower_limit(&self, configuration: usize, figure: &str) -> bool {
        let mut own = self.samples.iter().filter(|sample| sample.configuration == configuration);
        own.any(|sample| sample.lower_limits.contains(figure))
    }

    /// Every figure that any sample has, in their order.
    pub(crate) fn figures(&self) -> Vec<String> {
        let mut names: Vec<String> = self.samples.iter().flat_map(|sample| sample.figures.keys().cloned()).collect();
        names.sort_by_key(|name| natural(name));
        names.dedup();
        names
    }

    /// How far the twins are apart, of one: the median ratio's distance from one, or where single repetitions differ
    /// more, half of their spread. None without twins, or where fewer than three repetitions have that figure of both.
    pub(crate) fn noise(&self, figure: &str) -> Option<f64> {
        let (one, other) = self.twins()?;
        let (one, other) = (self.values(one, figure), self.values(other, figure));
        let ratios =
            one.iter().filter_map(|(repetition, value)| Some(value / other.get(repetition).filter(|v| **v > 0.0)?));
        let spread = Spread::of(ratios).filter(|spread| spread.count >= 3)?;
        Some((spread.median - 1.0).abs().max((spread.max - spread.min) / 2.0))
    }

    /// The places of the configuration with a twin, and of the twin.
    pub(crate) fn twins(&self) -> Option<(usize, usize)> {
        let twin = self.plan.configurations.iter().position(|configuration| configuration.twin_of.is_some())?;
        let of = self.plan.configurations[twin].twin_of.as_deref()?;
        Some((self.place(of)?, twin))
    }

    /// The place of a configuration.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.plan.configurations.iter().position(|configuration| configuration.name == name)
    }

    /// Compares two configurations.
    pub(crate) fn compare(&self, one: usize, other: usize, figure: &str) -> Option<Comparison> {
        let ratio = statistics::ratio(&self.values(one, figure), &self.values(other, figure))?;
        let within_noise = one != other && self.noise(figure).is_some_and(|noise| (ratio - 1.0).abs() <= noise);
        Some(Comparison { ratio, within_noise })
    }

    /// What a configuration bound, by its first sample that knows.
    pub(crate) fn bound(&self, configuration: usize) -> Option<&Bound> {
        let mut own = self.samples.iter().filter(|sample| sample.configuration == configuration);
        own.find_map(|sample| sample.bound.as_ref())
    }

    /// Repetitions that were begun.
    pub(crate) fn repetitions(&self) -> u16 {
        self.samples.iter().map(|sample| sample.repetition + 1).max().unwrap_or(0)
    }

    /// The sizes for which there are figures that begin with a word.
    pub(crate) fn sizes(&self, word: &str) -> Vec<String> {
        let mut sizes: Vec<String> = Vec::new();
        for figure in self.figures() {
            let mut words = figure.split(' ');
            if words.next() == Some(word)
                && let Some(size) = words.next()
                && !sizes.iter().any(|known| known == size)
            {
                sizes.push(size.to_owned());
            }
        }
        sizes
    }

    /// The stages that were measured, in the order of a turn.
    pub(crate) fn stages(&self) -> Vec<String> {
        let figures = self.figures();
        let measured = |stage: &Stage| figures.iter().any(|figure| figure.ends_with(&format!(" {} ns", stage.label())));
        Stage::ALL.iter().filter(|stage| measured(stage)).map(|stage| stage.label().to_owned()).collect()
    }

    /// Errors by configuration, each text once.
    pub(crate) fn errors(&self) -> Vec<(usize, u16, &str)> {
        let with_error = self
            .samples
            .iter()
            .filter_map(|sample| sample.error.as_deref().map(|error| (sample.configuration, sample.repetition, error)));
        with_error.collect()
    }
}

/// What a figure is, by its name.
pub(crate) fn figure_kind(figure: &str) -> FigureKind {
    let words: Vec<&str> = figure.split(' ').collect();
    let kind = |title: String, unit, more_is_better| FigureKind { title, unit, more_is_better };
    match words[..] {
        ["tcp", streams, "gbps"] => {
            kind(format!("TCP, {streams} stream{}", if streams == "1" { "" } else { "s" }), "Gb/s", true)
        }
        ["flood", "gbps"] => kind("UDP 1300 B flood, received".to_owned(), "Gb/s", true),
        [goal @ ("ndr" | "pdr" | "loss0.1"), size, a, b, "mpps"] => {
            let goal = if goal == "loss0.1" { "at most 0.1 % lost".to_owned() } else { goal.to_uppercase() };
            kind(format!("{goal}, {}, {a} {b}", size_text(size)), "Mpps", true)
        }
        ["latency", size, percent, percentile, "us"] => {
            kind(format!("latency {percentile}, {}, at {percent} % of NDR", size_text(size)), "us", false)
        }
        ["jitter", size, percent, "us"] => {
            kind(format!("jitter, {}, at {percent} % of NDR", size_text(size)), "us", false)
        }
        ["reordered", size, percent, "percent"] => {
            kind(format!("reordered, {}, at {percent} % of NDR", size_text(size)), "%", false)
        }
        ["cpu", measure, gateway, "ns"] => {
            let of = match gateway {
                "a" => "gateway A's own CPU",
                "b" => "gateway B's own CPU",
                _ => "CPU of the whole machine",
            };
            kind(format!("{of} a packet, {measure}"), "ns", false)
        }
        ["stage", side, stage, "ns"] => {
            kind(format!("{} a packet, gateway {}", stage.replace('_', " "), side.to_uppercase()), "ns", false)
        }
        _ => kind(figure.to_owned(), "", true),
    }
}

/// A size as people read it.
pub(crate) fn size_text(size: &str) -> String {
    if size == "imix" { "IMIX".to_owned() } else { format!("{size} B") }
}

/// Sorts numbers within names by their value.
fn natural(name: &str) -> Vec<(u8, u64, String)> {
    let part = |word: &str| match word.parse::<u64>() {
        Ok(number) => (0, number, String::new()),
        Err(_) => (1, 0, word.to_owned()),
    };
    name.split(' ').map(part).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::super::gateway::Backends;
    use super::super::implementation::{Implementation, Kind};
    use super::super::plan::{Configuration, Durations, Mode};
    use super::*;

    /// Results of configurations with the values of one figure.
    pub(crate) fn results(figure: &str, of: &[(&str, Option<&str>, &[f64])]) -> Results {
        let implementation =
            Implementation { name: "x".to_owned(), kind: Kind::Other, program: None, version: "1".to_owned() };
        let configuration = |(name, twin_of, _): &(&str, Option<&str>, &[f64])| Configuration {
            name: (*name).to_owned(),
            implementation: implementation.clone(),
            backends: Backends::default(),
            host_offloads: true,
            twin_of: twin_of.map(str::to_owned),
        };
        let second = Duration::from_secs(1);
        let plan = Plan {
            mode: Mode::Quick,
            configurations: of.iter().map(configuration).collect(),
            measures: Vec::new(),
            repetitions: 5,
            durations: Durations { tcp: second, flood: second, trial: second, latency: second },
        };
        let samples = of.iter().enumerate().flat_map(|(place, (_, _, values))| {
            values.iter().enumerate().map(move |(repetition, value)| Sample {
                configuration: place,
                repetition: repetition as u16,
                began_unix_seconds: 0,
                seconds: 1.0,
                bound: None,
                figures: BTreeMap::from([(figure.to_owned(), *value)]),
                lower_limits: BTreeSet::new(),
                cpu: BTreeMap::new(),
                details: Vec::new(),
                series: Vec::new(),
                error: None,
            })
        });
        Results { plan, samples: samples.collect() }
    }

    #[test]
    fn a_ratio_within_the_noise_of_the_twins_is_marked() {
        let figure = "tcp 1 gbps";
        let results = results(
            figure,
            &[
                ("one", None, &[4.0, 4.4, 4.0]),
                ("one (twin)", Some("one"), &[4.0, 4.0, 4.4]),
                ("near", None, &[3.8, 4.2, 3.9]),
                ("far", None, &[1.0, 1.0, 1.1]),
            ],
        );
        let noise = results.noise(figure).expect("twins");
        assert!((0.09..0.11).contains(&noise), "{noise}");
        assert!(results.compare(0, 2, figure).expect("both").within_noise);
        let far = results.compare(0, 3, figure).expect("both");
        assert!(!far.within_noise && far.ratio == 4.0);
    }

    #[test]
    fn without_twins_nothing_is_known_of_the_noise() {
        let results = results("flood gbps", &[("one", None, &[1.0])]);
        assert_eq!(results.noise("flood gbps"), None);
    }

    #[test]
    fn figures_are_sorted_by_their_numbers_and_have_titles() {
        let mut names = ["tcp 16 gbps", "tcp 4 gbps", "tcp 1 gbps"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["tcp 1 gbps", "tcp 4 gbps", "tcp 16 gbps"]);
        assert_eq!(figure_kind("tcp 1 gbps").title, "TCP, 1 stream");
        assert_eq!(figure_kind("ndr 64 one way mpps").title, "NDR, 64 B, one way");
        assert!(!figure_kind("latency imix 50 p99 us").more_is_better);
    }
}
