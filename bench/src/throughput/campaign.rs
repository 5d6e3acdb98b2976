//! Runs a plan: every configuration in turn, again and again, each time in a topology of its own.
//!
//! 1. A fresh topology; the hosts' offloads as the configuration wants them.
//! 2. Two gateways, joined; the scraping begins.
//! 3. Each measure, with the CPU time that it took.
//! 4. What the gateways say of themselves; everything is removed again.
//!
//! Enters: a [`Plan`]. Leaves: [`Results`], as far as it came. Never does: measure two configurations at a time, or try
//! one again that could not even begin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use landbridge::lab::stop::{Interrupted, Stop};
use landbridge::status::Status;

use super::cpu::CpuReading;
use super::gateway::Gateways;
use super::measuring::Measuring;
use super::plan::{Configuration, Measure, Plan};
use super::results::{Bound, Results, Sample};
use super::scrape::{Latest, Scraper, escaped};
use super::topology::{LAN, Side, Topology, TopologySpec};

/// How the names of its namespaces begin.
pub(crate) const PREFIX: &str = "landbridge-throughput";
/// Between two configurations, for the kernel to take namespaces away: it does so beside us.
const REST: Duration = Duration::from_millis(200);

/// What a run needs beside its plan.
pub(crate) struct Campaign<'c> {
    /// Ends it early.
    pub(crate) stop: &'c Stop,
    /// Where logs go.
    pub(crate) logs: PathBuf,
    /// What scrapers see.
    pub(crate) latest: Latest,
    /// The last value of every figure by configuration, for scrapers.
    pub(crate) last: BTreeMap<(String, String), f64>,
    /// Told after each sample.
    pub(crate) progress: &'c mut dyn FnMut(&str),
}

impl Campaign<'_> {
    /// Runs the plan until its end, or until the user ends it.
    pub(crate) fn run(&mut self, plan: Plan) -> Results {
        let (mut samples, mut hopeless) = (Vec::new(), BTreeSet::new());
        'repetitions: for repetition in 0..plan.repetitions {
            for place in plan.order(repetition) {
                if hopeless.contains(&place) {
                    continue;
                }
                let sample = self.sample(&plan, place, repetition);
                if self.stop.is_set() {
                    // What was cut short is no sample.
                    break 'repetitions;
                }
                if sample.error.is_some() && sample.figures.is_empty() {
                    hopeless.insert(place);
                }
                (self.progress)(&line(&plan, &sample));
                samples.push(sample);
                self.say(None);
            }
        }
        Results { plan, samples }
    }

    fn sample(&mut self, plan: &Plan, place: usize, repetition: u16) -> Sample {
        let (start, configuration) = (Instant::now(), &plan.configurations[place]);
        let mut sample = Sample {
            configuration: place,
            repetition,
            began_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            seconds: 0.0,
            bound: None,
            figures: BTreeMap::new(),
            lower_limits: BTreeSet::new(),
            cpu: BTreeMap::new(),
            details: Vec::new(),
            series: Vec::new(),
            error: None,
        };
        if let Err(error) = self.fill(plan, configuration, &mut sample) {
            sample.error = Some(format!("{error:#}"));
        }
        sample.seconds = start.elapsed().as_secs_f64();
        // An interrupt shows itself at the next check.
        drop(self.stop.sleep(REST));
        sample
    }

    fn fill(&mut self, plan: &Plan, configuration: &Configuration, sample: &mut Sample) -> anyhow::Result<()> {
        let topology = Topology::build(PREFIX, &TopologySpec::default())?;
        if !configuration.host_offloads {
            for side in [Side::A, Side::B] {
                without_offloads(&topology, side)?;
            }
        }
        let Configuration { implementation, backends, .. } = configuration;
        let gateways = Gateways::start(&topology, implementation, backends, &self.logs, self.stop)?;
        let labels = [("configuration", configuration.name.as_str())];
        let scraper = Scraper::start(&topology, &gateways, &labels, &self.latest)?;
        let result = self.measure(plan, &topology, &gateways, sample);
        if let Some(status) = gateways.each().first().and_then(|gateway| gateway.status()) {
            sample.bound = Some(bound(&status));
        }
        stages(&gateways, sample);
        sample.series = scraper.finish();
        result.and_then(|()| gateways.check())
    }

    fn measure(
        &mut self,
        plan: &Plan,
        topology: &Topology,
        gateways: &Gateways,
        sample: &mut Sample,
    ) -> anyhow::Result<()> {
        let name = &plan.configurations[sample.configuration].name;
        let mut measuring = Measuring::new(plan, topology, self.stop);
        for measure in &plan.measures {
            self.stop.check()?;
            gateways.check()?;
            self.say(Some((name, measure)));
            let mut readings = Vec::new();
            let mut read = || readings.push(CpuReading::take(gateways.each().iter().filter_map(|g| g.pid())));
            let outcome = match measuring.measure(measure, &sample.figures, &mut read) {
                Ok(outcome) => outcome,
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => return Err(error.context(format!("{measure}\n{}", gateways.logs()))),
            };
            for (figure, value) in &outcome.figures {
                self.last.insert((name.clone(), figure.clone()), *value);
            }
            sample.figures.extend(outcome.figures);
            sample.lower_limits.extend(outcome.lower_limits);
            sample.details.push(outcome.details);
            if let [before, .., after] = &readings[..] {
                let used = before.until(after);
                cpu_figures(measure, &used, outcome.packets, &mut sample.figures);
                sample.cpu.insert(measure.to_string(), used);
            }
        }
        Ok(())
    }

    /// Tells scrapers what is being measured, and what was found last.
    fn say(&self, running: Option<(&str, &Measure)>) {
        let mut text = String::from("# TYPE landbridge_bench_running gauge\n");
        if let Some((name, measure)) = running {
            let (name, measure) = (escaped(name), escaped(&measure.to_string()));
            let series = format!("landbridge_bench_running{{configuration=\"{name}\",measure=\"{measure}\"}} 1\n");
            text.push_str(&series);
        }
        text.push_str("# TYPE landbridge_bench_figure gauge\n");
        for ((name, figure), value) in &self.last {
            let name = escaped(name);
            let series = format!("landbridge_bench_figure{{configuration=\"{name}\",figure=\"{figure}\"}} {value}\n");
            text.push_str(&series);
        }
        self.latest.say(text);
    }
}

/// CPU a packet: of each gateway, and of the machine.
fn cpu_figures(measure: &Measure, used: &super::cpu::CpuUse, packets: f64, figures: &mut BTreeMap<String, f64>) {
    let name = match measure {
        Measure::Tcp { streams: 1 } => "tcp",
        Measure::Flood => "flood",
        _ => return,
    };
    if packets < 1.0 {
        return;
    }
    for (gateway, letter) in used.gateways.iter().zip(["a", "b"]) {
        figures.insert(format!("cpu {name} {letter} ns"), gateway.total() * 1e9 / packets);
    }
    let machine = used.machine_user + used.machine_system + used.machine_interrupts;
    figures.insert(format!("cpu {name} machine ns"), machine * 1e9 / packets);
}

/// What each stage cost a packet, by the gateways' own samples of the whole run.
fn stages(gateways: &Gateways, sample: &mut Sample) {
    for (gateway, letter) in gateways.each().iter().zip(["a", "b"]) {
        let Some(status) = gateway.status() else { continue };
        let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for stage in status.lanes.iter().filter_map(|lane| lane.stages.as_ref()).flat_map(|stages| &stages.stages) {
            let sum = sums.entry(stage.stage.clone()).or_default();
            *sum = (sum.0 + stage.ns, sum.1 + stage.packets);
        }
        for (stage, (ns, packets)) in sums {
            if packets > 0 {
                sample.figures.insert(format!("stage {letter} {stage} ns"), ns as f64 / packets as f64);
            }
        }
    }
}

fn bound(status: &Status) -> Bound {
    let interfaces = status.wan.interfaces.iter().map(|interface| {
        let driver = interface.driver.as_deref().unwrap_or("unknown driver");
        format!(" ({driver}, {}, {}, {} queues)", interface.xdp_mode, interface.copy_mode, interface.queues)
    });
    let offload = if status.lan.tso { ", segmentation offload" } else { "" };
    Bound {
        wan: format!("{}{}", status.wan.backend, interfaces.collect::<String>()),
        lan: format!("{}{offload}", status.lan.backend),
        crypto: status.crypto.engine.clone(),
        lanes: status.lanes.len(),
    }
}

/// Switches segmentation and checksum offload of a host's interface off, so that its kernel makes packets as a wire has
/// them.
fn without_offloads(topology: &Topology, side: Side) -> anyhow::Result<()> {
    let mut command = Command::new("ethtool");
    command.args(["-K", LAN, "tx", "off", "tso", "off", "gso", "off", "gro", "off"]);
    let output = topology.host(side).run(move || {
        command
            .output()
            .context("ethtool cannot be started (Debian: apt-get install ethtool): the hosts' offloads stay on")
    })?;
    anyhow::ensure!(output.status.success(), "ethtool: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// One line on a sample.
fn line(plan: &Plan, sample: &Sample) -> String {
    let name = &plan.configurations[sample.configuration].name;
    let shown = |figure: &str, unit: &str| sample.figures.get(figure).map(|value| format!("{value:.2} {unit}"));
    let figures = [
        shown("tcp 1 gbps", "Gb/s"),
        shown("flood gbps", "Gb/s UDP"),
        shown("ndr 64 one way mpps", "Mpps NDR 64 B"),
        shown("pdr 64 one way mpps", "Mpps PDR 64 B"),
    ];
    let figures: Vec<String> = figures.into_iter().flatten().collect();
    let error = sample.error.as_deref().and_then(|error| error.lines().next()).unwrap_or_default();
    format!("{}/{} {name:<40} {}{error}", sample.repetition + 1, plan.repetitions, figures.join(", "))
}

/// Where logs go, made.
pub(crate) fn log_directory(out: &Path) -> anyhow::Result<PathBuf> {
    let logs = out.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("{} cannot be made", logs.display()))?;
    Ok(logs)
}
