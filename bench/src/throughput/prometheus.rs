//! A real Prometheus beside the run: Debian's package, with a configuration and a directory of its own.
//!
//! 1. [`super::export`] serves on loopback what the scrapers saw last.
//! 2. Prometheus is started with a generated configuration, on a free port of loopback, its data in a temporary
//!    directory.
//! 3. At the end it is asked over its HTTP API what arrived, and whether every query of the dashboard finds something.
//!
//! Enters: [`Latest`]. Leaves: a [`Summary`]. Never does: touch a Prometheus that runs as a service, or leave one
//! behind.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use landbridge::lab::stop::Stop;
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;

use super::export::Export;
use super::process::{Process, Run};
use super::scrape::{Latest, http_get};

/// How long it may take to start.
const READY_PATIENCE: Duration = Duration::from_secs(20);
/// The dashboard whose queries are tried.
const DASHBOARD: &str = include_str!("../../../deploy/grafana/landbridge-throughput.json");
/// What Grafana puts in the place of this variable with a scrape each second.
const RATE_INTERVAL: (&str, &str) = ("$__rate_interval", "5s");
/// The name of the job.
const JOB: &str = "landbridge-throughput";

/// A running Prometheus.
#[derive(Debug)]
pub(crate) struct Prometheus {
    address: SocketAddr,
    began: u64,
    // In the order of their ends.
    process: Process,
    _export: Export,
    _directory: TempDir,
}

/// What arrived.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    /// Its version.
    pub(crate) version: String,
    /// Scrapes that were answered.
    pub(crate) scrapes: f64,
    /// Names of series.
    pub(crate) names: usize,
    /// Series.
    pub(crate) series: u64,
    /// Points.
    pub(crate) samples: f64,
    /// How many series each query of the dashboard found, by panel.
    pub(crate) dashboard: Vec<(String, usize)>,
}

impl Prometheus {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(program: Option<&Path>, latest: &Latest, logs: &Path, stop: &Stop) -> anyhow::Result<Self> {
        let program = program.map_or_else(|| PathBuf::from("/usr/bin/prometheus"), Path::to_owned);
        anyhow::ensure!(
            program.exists(),
            "{} is not there: apt-get install prometheus (the service need not run)",
            program.display()
        );
        let directory = tempfile::tempdir().context("a temporary directory")?;
        let export = Export::start(latest)?;
        let configuration = directory.path().join("prometheus.yml");
        std::fs::write(&configuration, configuration_for(export.address())).context("its configuration")?;
        let address = free_address()?;
        let process = Process::start(Run {
            namespace: None,
            program,
            arguments: vec![
                format!("--config.file={}", configuration.display()),
                format!("--storage.tsdb.path={}", directory.path().join("data").display()),
                "--storage.tsdb.retention.size=256MB".to_owned(),
                format!("--web.listen-address={address}"),
                "--log.level=warn".to_owned(),
            ],
            environment: vec![("GOMAXPROCS", "1")],
            log: logs.join("prometheus.log"),
        })?;
        let began = now();
        let prometheus = Self { address, began, process, _export: export, _directory: directory };
        let end = Instant::now() + READY_PATIENCE;
        while http_get(address, "/-/ready").is_err() {
            prometheus.process.check()?;
            anyhow::ensure!(Instant::now() < end, "Prometheus does not get ready\n{}", prometheus.process.log());
            stop.sleep(Duration::from_millis(50))?;
        }
        Ok(prometheus)
    }

    /// Where to look at it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks what arrived.
    pub(crate) fn summary(&self) -> anyhow::Result<Summary> {
        self.process.check()?;
        let window = now().saturating_sub(self.began) + 5;
        let build = self.ask("/api/v1/status/buildinfo")?;
        let names = self.ask("/api/v1/label/__name__/values")?;
        let number = |query: &str| -> anyhow::Result<f64> {
            let answer = self.query(&query.replace("WINDOW", &format!("{window}s")))?;
            let value = answer["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok());
            Ok(value.unwrap_or(0.0))
        };
        Ok(Summary {
            version: build["version"].as_str().unwrap_or("unknown").to_owned(),
            scrapes: number(&format!("sum(sum_over_time(up{{job=\"{JOB}\"}}[WINDOW]))"))?,
            names: names.as_array().map_or(0, Vec::len),
            series: self.ask("/api/v1/status/tsdb")?["headStats"]["numSeries"].as_u64().unwrap_or(0),
            samples: samples_of(&http_get(self.address, "/metrics")?),
            dashboard: self.try_dashboard()?,
        })
    }

    /// How many series each panel's queries find in the time of the run.
    fn try_dashboard(&self) -> anyhow::Result<Vec<(String, usize)>> {
        let (from, to) = (self.began, now());
        // Eleven thousand steps are the most that it answers.
        let step = (to.saturating_sub(from) / 5000).max(1);
        let mut found = Vec::new();
        for (title, expression) in queries(DASHBOARD)? {
            let query = encoded(&expression.replace(RATE_INTERVAL.0, RATE_INTERVAL.1));
            let answer = self.ask(&format!("/api/v1/query_range?query={query}&start={from}&end={to}&step={step}"));
            let answer = answer.with_context(|| format!("the dashboard's query {expression:?}"))?;
            found.push((title, answer["result"].as_array().map_or(0, Vec::len)));
        }
        Ok(found)
    }

    fn query(&self, query: &str) -> anyhow::Result<Value> {
        self.ask(&format!("/api/v1/query?query={}", encoded(query)))
    }

    fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let text = http_get(self.address, path).with_context(|| format!("Prometheus at {}", self.address))?;
        let mut answer: Value = serde_json::from_str(&text).context("an answer that is no JSON")?;
        anyhow::ensure!(answer["status"] == "success", "Prometheus refuses: {}", answer["error"]);
        Ok(answer["data"].take())
    }
}

impl Summary {
    /// In a sentence.
    pub(crate) fn text(&self) -> String {
        let empty: Vec<&str> =
            self.dashboard.iter().filter(|(_, series)| *series == 0).map(|(title, _)| title.as_str()).collect();
        let empty = if empty.is_empty() { String::new() } else { format!(" (nothing for: {})", empty.join(", ")) };
        format!(
            "Prometheus {} took {} scrapes: {} series of {} names, {} points; {} of {} queries of the dashboard find series{empty}",
            self.version,
            self.scrapes,
            self.series,
            self.names,
            self.samples,
            self.dashboard.iter().filter(|(_, series)| *series > 0).count(),
            self.dashboard.len(),
        )
    }
}

/// Points taken, as Prometheus tells of itself.
fn samples_of(metrics: &str) -> f64 {
    let appended = metrics.lines().filter_map(|line| line.strip_prefix("prometheus_tsdb_head_samples_appended_total"));
    appended.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Every query of a dashboard with the title of its panel.
fn queries(dashboard: &str) -> anyhow::Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(dashboard).context("the dashboard")?;
    let panels = dashboard["panels"].as_array().context("the dashboard has no panels")?;
    let of = |panel: &Value| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let query = move |target: Value| Some((title.clone(), target["expr"].as_str()?.to_owned()));
        targets.into_iter().filter_map(query).collect::<Vec<_>>()
    };
    Ok(panels.iter().flat_map(of).collect())
}

fn configuration_for(export: SocketAddr) -> String {
    let target = |path: &str, labels: &str| {
        format!("      - targets: ['{export}']\n        labels: {{__metrics_path__: /{path}{labels}}}\n")
    };
    format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n  - job_name: {JOB}\n    static_configs:\n{}{}{}",
        target("a", ", gateway: a"),
        target("b", ", gateway: b"),
        target("bench", "")
    )
}

/// An address of loopback that is free for the moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on loopback")?;
    Ok(listener.local_addr()?)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// As a part of a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_of_the_dashboard_has_a_query_of_this_job() {
        let queries = queries(DASHBOARD).expect("a dashboard");
        assert!(queries.len() >= 6);
        for (title, query) in queries {
            assert!(query.contains(&format!("job=\"{JOB}\"")), "{title}: {query}");
        }
    }

    #[test]
    fn points_are_summed_over_their_kinds() {
        let text = "# TYPE prometheus_tsdb_head_samples_appended_total counter\n\
                    prometheus_tsdb_head_samples_appended_total{type=\"float\"} 1.5e3\n\
                    prometheus_tsdb_head_samples_appended_total{type=\"histogram\"} 2\n";
        assert_eq!(samples_of(text), 1502.0);
    }

    #[test]
    fn a_query_is_written_as_a_part_of_a_url() {
        assert_eq!(encoded("a{b=\"c d\"}[5s]"), "a%7Bb%3D%22c%20d%22%7D%5B5s%5D");
    }

    #[test]
    fn the_configuration_names_both_gateways_and_the_bench() {
        let text = configuration_for("127.0.0.1:1234".parse().expect("an address"));
        for part in ["__metrics_path__: /a, gateway: a", "__metrics_path__: /b, gateway: b", "__metrics_path__: /bench"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
