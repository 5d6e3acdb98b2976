//! What is measured: which configurations, which measures, how often, and how long that takes.
//!
//! Enters: what was found on the machine and what a person wants. Leaves: a [`Plan`]. Never does: measure.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::frame::FrameSize;
use super::gateway::Backends;
use super::implementation::{Catalogue, Implementation, Kind};
use super::search::{Goal, SearchSpec};
use super::trial::Directions;

/// From nothing to a session, and back to nothing.
const SET_UP: Duration = Duration::from_millis(1800);
/// What TCP runs before it counts.
const TCP_WARM_UP: Duration = Duration::from_millis(800);
/// What a trial takes beside the time in which it sends.
const TRIAL_REST: Duration = Duration::from_millis(150);
/// Bytes of the IP packet that carries 1300 bytes of UDP payload.
pub(crate) const FLOOD_BYTES: u16 = 1328;
/// Packets of it a second: far more than any tunnel passes here, and less than the links do.
pub(crate) const FLOOD_PPS: f64 = 1_000_000.0;
/// Shares of NDR at which latency is measured, in percent.
pub(crate) const LATENCY_PERCENTS: [u8; 3] = [10, 50, 90];

/// One thing to measure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Configuration {
    /// Its name in reports; distinct.
    pub(crate) name: String,
    /// What runs.
    pub(crate) implementation: Implementation,
    /// How.
    pub(crate) backends: Backends,
    /// Whether the hosts' interfaces use segmentation and checksum offload.
    pub(crate) host_offloads: bool,
    /// The configuration that this one repeats under another name: what differs between the two is noise.
    pub(crate) twin_of: Option<String>,
}

/// One kind of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Measure {
    /// TCP from host A to host B.
    Tcp {
        /// Streams at a time.
        streams: u16,
    },
    /// UDP of 1300 bytes, far more than can pass.
    Flood,
    /// NDR and PDR.
    Rates {
        /// Of which packets.
        size: FrameSize,
        /// Which way.
        directions: Directions,
    },
    /// Latency at shares of the NDR found before in the same run.
    Latency {
        /// Of which packets.
        size: FrameSize,
    },
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { streams: 1 } => f.write_str("TCP, 1 stream"),
            Self::Tcp { streams } => write!(f, "TCP, {streams} streams"),
            Self::Flood => f.write_str("UDP 1300 B flood"),
            Self::Rates { size, directions } => write!(f, "rates {size} {}", way(*directions)),
            Self::Latency { size } => write!(f, "latency {size}"),
        }
    }
}

/// As it stands in the names of figures.
pub(crate) fn way(directions: Directions) -> &'static str {
    match directions {
        Directions::AToB => "one way",
        Directions::Both => "both ways",
    }
}

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// One repetition of one second of one configuration: does the bench itself work?
    Smoke,
    /// The key comparisons in minutes.
    Quick,
    /// Everything, in hours.
    Full,
}

/// How long each piece lasts.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Durations {
    /// Counted time of TCP.
    pub(crate) tcp: Duration,
    /// A flood.
    pub(crate) flood: Duration,
    /// A full trial of a search.
    pub(crate) trial: Duration,
    /// A trial for latency.
    pub(crate) latency: Duration,
}

/// What a person wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    /// Configurations whose name contains one of these; all without.
    pub(crate) filter: Vec<String>,
    /// Measures whose name contains one of these; all without.
    pub(crate) measures: Vec<String>,
    /// How often each configuration is measured.
    pub(crate) repetitions: Option<u16>,
    /// Seconds of TCP and of a full trial.
    pub(crate) seconds: Option<f64>,
    /// Measure stages.
    pub(crate) stages: bool,
    /// Lanes of Landbridge's gateways.
    pub(crate) lanes: Option<u16>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    /// How thorough.
    pub(crate) mode: Mode,
    /// In the order of the report; each repetition begins with another one.
    pub(crate) configurations: Vec<Configuration>,
    /// In the order of measuring.
    pub(crate) measures: Vec<Measure>,
    /// How often.
    pub(crate) repetitions: u16,
    /// How long.
    pub(crate) durations: Durations,
}

impl Plan {
    /// Makes a plan.
    pub(crate) fn new(mode: Mode, catalogue: &Catalogue, wishes: &Wishes) -> Self {
        let mut configurations = configurations(mode, catalogue, wishes);
        if !wishes.filter.is_empty() {
            configurations.retain(|configuration| contains_any(&configuration.name, &wishes.filter));
        }
        let mut measures = measures(mode);
        if !wishes.measures.is_empty() {
            measures.retain(|measure| contains_any(&measure.to_string(), &wishes.measures));
        }
        let mut durations = durations(mode);
        if let Some(seconds) = wishes.seconds.map(Duration::from_secs_f64) {
            (durations.tcp, durations.trial) = (seconds, seconds);
        }
        let repetitions = wishes.repetitions.unwrap_or(if mode == Mode::Smoke { 1 } else { 5 });
        Self { mode, configurations, measures, repetitions, durations }
    }

    /// How long it takes, about.
    pub(crate) fn expected(&self) -> Duration {
        let once: Duration = self.measures.iter().map(|measure| self.expected_of(measure)).sum();
        (SET_UP + once) * self.configurations.len() as u32 * u32::from(self.repetitions)
    }

    fn expected_of(&self, measure: &Measure) -> Duration {
        let Durations { tcp, flood, trial, latency } = self.durations;
        match measure {
            Measure::Tcp { .. } => TCP_WARM_UP + tcp,
            Measure::Flood => flood + TRIAL_REST,
            // About as many short trials as long ones.
            Measure::Rates { .. } => match self.mode {
                Mode::Full => (trial + TRIAL_REST) * 16 + (trial / 4 + TRIAL_REST) * 12,
                Mode::Smoke | Mode::Quick => (trial + TRIAL_REST) * 8 + (trial / 4 + TRIAL_REST) * 6,
            },
            Measure::Latency { .. } => (latency + TRIAL_REST) * LATENCY_PERCENTS.len() as u32,
        }
    }

    /// How rates are searched.
    pub(crate) fn search(&self) -> SearchSpec {
        let quick = self.mode != Mode::Full;
        let whole = SearchSpec {
            goals: vec![Goal::pdr(), Goal { name: "loss0.1".to_owned(), loss_ratio_max: 0.001 }, Goal::ndr()],
            trial: self.durations.trial,
            ..SearchSpec::default()
        };
        match quick {
            false => whole,
            true => SearchSpec { trials_per_rate: 1, precision: 0.05, probes_max: 20, ..whole },
        }
    }

    /// The order of one repetition: each begins further on, so that no configuration always follows the same one first.
    pub(crate) fn order(&self, repetition: u16) -> impl Iterator<Item = usize> {
        let count = self.configurations.len();
        (0..count).map(move |step| (step + usize::from(repetition) * 5) % count.max(1))
    }
}

fn contains_any(text: &str, parts: &[String]) -> bool {
    let text = text.to_lowercase();
    parts.iter().any(|part| text.contains(&part.to_lowercase()))
}

fn durations(mode: Mode) -> Durations {
    let ms = Duration::from_millis;
    match mode {
        Mode::Smoke => Durations { tcp: ms(1000), flood: ms(300), trial: ms(400), latency: ms(200) },
        Mode::Quick => Durations { tcp: ms(1700), flood: ms(700), trial: ms(400), latency: ms(400) },
        Mode::Full => Durations { tcp: ms(5000), flood: ms(2000), trial: ms(1000), latency: ms(2000) },
    }
}

fn measures(mode: Mode) -> Vec<Measure> {
    let tcp = |streams| Measure::Tcp { streams };
    let rates = |size, directions| Measure::Rates { size, directions };
    let small = FrameSize::Bytes(64);
    match mode {
        Mode::Smoke => vec![tcp(1), Measure::Flood, rates(small, Directions::AToB)],
        Mode::Quick => {
            vec![tcp(1), tcp(4), Measure::Flood, rates(small, Directions::AToB), Measure::Latency { size: small }]
        }
        Mode::Full => {
            let sizes = [64, 128, 512, 1024, 1420].map(FrameSize::Bytes).into_iter().chain([FrameSize::Imix]);
            let sizes: Vec<FrameSize> = sizes.collect();
            let mut all = vec![tcp(1), tcp(4), tcp(16), Measure::Flood];
            all.extend(sizes.iter().map(|size| rates(*size, Directions::AToB)));
            all.extend(sizes.iter().map(|size| rates(*size, Directions::Both)));
            all.extend(sizes.iter().map(|size| Measure::Latency { size: *size }));
            all
        }
    }
}

fn configurations(mode: Mode, catalogue: &Catalogue, wishes: &Wishes) -> Vec<Configuration> {
    let mut all = Vec::new();
    for ours in catalogue.found.iter().filter(|found| found.kind == Kind::Landbridge) {
        let with = |wan, lan, crypto| landbridge(ours, wan, lan, crypto, wishes);
        let first = with("udp", "tun", None);
        match mode {
            Mode::Smoke => all.push(first),
            Mode::Quick => {
                let twin = twin(&first);
                all.extend([first, with("xdp", "tun", None), with("udp", "xdp", None), with("xdp", "xdp", None)]);
                all.push(with("udp", "tun", Some("ring")));
                all.push(twin);
            }
            Mode::Full => {
                for (wan, lan) in [("udp", "tun"), ("xdp", "tun"), ("udp", "xdp"), ("xdp", "xdp")] {
                    all.extend([with(wan, lan, Some("multibuffer")), with(wan, lan, Some("ring"))]);
                }
                let twin = twin(&all[all.len() - 8]);
                all.push(twin);
            }
        }
    }
    let others = catalogue.found.iter().filter(|found| found.kind != Kind::Landbridge);
    for other in others {
        if mode == Mode::Smoke && other.kind != Kind::Plain {
            continue;
        }
        let plain = Configuration {
            name: other.name.clone(),
            implementation: other.clone(),
            backends: Backends::default(),
            host_offloads: true,
            twin_of: None,
        };
        if other.kind == Kind::Plain && mode != Mode::Smoke {
            let name = format!("{}, host offloads off", plain.name);
            all.push(Configuration { name, host_offloads: false, ..plain.clone() });
        }
        all.push(plain);
    }
    all
}

fn landbridge(
    ours: &Implementation,
    wan: &'static str,
    lan: &'static str,
    crypto: Option<&'static str>,
    wishes: &Wishes,
) -> Configuration {
    let engine = crypto.map(|crypto| format!(", {crypto}")).unwrap_or_default();
    Configuration {
        name: format!("{} {wan}/{lan}{engine}", ours.name),
        implementation: ours.clone(),
        backends: Backends {
            wan: Some(wan),
            lan: Some(lan),
            crypto,
            lanes: wishes.lanes,
            stages: wishes.stages,
            ..Backends::default()
        },
        // AF_XDP on the lan side sees what the hosts hand to their wire: whole super-packets, if they may.
        host_offloads: lan != "xdp",
        twin_of: None,
    }
}

fn twin(of: &Configuration) -> Configuration {
    Configuration { name: format!("{} (twin)", of.name), twin_of: Some(of.name.clone()), ..of.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let found = |(name, kind): (&str, Kind)| Implementation {
            name: name.to_owned(),
            kind,
            program: None,
            version: "1".to_owned(),
        };
        let all = [("landbridge", Kind::Landbridge), ("gotatun", Kind::Gotatun), ("plain routing", Kind::Plain)];
        Catalogue { found: all.map(found).to_vec(), missing: Vec::new() }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.configurations.iter().map(|configuration| configuration.name.as_str()).collect()
    }

    #[test]
    fn every_plan_has_distinct_names_and_a_quick_one_a_twin() {
        for mode in [Mode::Smoke, Mode::Quick, Mode::Full] {
            let plan = Plan::new(mode, &catalogue(), &Wishes::default());
            let distinct: std::collections::BTreeSet<_> = names(&plan).into_iter().collect();
            assert_eq!(distinct.len(), plan.configurations.len(), "{:?}", names(&plan));
            let twins = plan.configurations.iter().filter_map(|configuration| configuration.twin_of.as_deref());
            let twins: Vec<&str> = twins.collect();
            assert_eq!(twins.len(), usize::from(mode != Mode::Smoke));
            assert!(twins.iter().all(|twin| distinct.contains(twin)), "{twins:?}");
        }
    }

    #[test]
    fn a_quick_run_of_five_repetitions_ends_within_a_quarter_of_an_hour() {
        let mut catalogue = catalogue();
        for name in ["boringtun", "wireguard-go"] {
            let other = Implementation { name: name.to_owned(), kind: Kind::Other, ..catalogue.found[1].clone() };
            catalogue.found.push(other);
        }
        let plan = Plan::new(Mode::Quick, &catalogue, &Wishes::default());
        assert_eq!(plan.repetitions, 5);
        assert!(plan.expected() <= Duration::from_secs(15 * 60), "{:?}", plan.expected());
        let smoke = Plan::new(Mode::Smoke, &catalogue, &Wishes::default());
        assert!(smoke.expected() <= Duration::from_secs(25), "{:?}", smoke.expected());
    }

    #[test]
    fn every_repetition_has_every_configuration_once_and_begins_elsewhere() {
        let plan = Plan::new(Mode::Quick, &catalogue(), &Wishes::default());
        let firsts: std::collections::BTreeSet<_> = (0..3).filter_map(|rep| plan.order(rep).next()).collect();
        assert!(firsts.len() > 1);
        for repetition in 0..4 {
            let mut order: Vec<usize> = plan.order(repetition).collect();
            order.sort_unstable();
            assert_eq!(order, (0..plan.configurations.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_filter_keeps_what_contains_one_of_its_words() {
        let wishes = Wishes {
            filter: vec!["gota".to_owned(), "XDP/tun".to_owned()],
            measures: vec!["tcp".to_owned()],
            ..Wishes::default()
        };
        let plan = Plan::new(Mode::Quick, &catalogue(), &wishes);
        assert_eq!(names(&plan), ["landbridge xdp/tun", "gotatun"]);
        assert_eq!(plan.measures, [Measure::Tcp { streams: 1 }, Measure::Tcp { streams: 4 }]);
    }
}
