//! What the gateways tell of themselves each second, for the report and for Prometheus.
//!
//! 1. A thread asks both gateways each second: ours at their metrics endpoint, inside their namespaces; others by the
//!    UAPI, in the names that the field has for it.
//! 2. The latest texts are kept for whoever scrapes ([`super::export`]); of each series, every value that differs from
//!    the one before is kept for the report.
//!
//! Enters: a topology with gateways. Leaves: [`Series`]. Never does: keep more than [`POINTS_MAX`] points.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landbridge::lab::namespace::Namespace;
use serde::Serialize;

use super::gateway::{Gateways, METRICS};
use super::topology::{Side, Topology};
use super::uapi;

/// Seconds between two scrapes.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer.
const ANSWER_MAX: u64 = 4 << 20;
/// Points of one gateway in one run: those beyond are lost.
const POINTS_MAX: usize = 200_000;

/// The series of one gateway: seconds since the start of the scraping, and the value.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Series {
    /// Scrapes that were answered.
    pub(crate) scrapes: u64,
    /// Scrapes that were not.
    pub(crate) failures: u64,
    /// Points by series; a value that stays is not repeated.
    pub(crate) points: BTreeMap<String, Vec<(f64, f64)>>,
    #[serde(skip)]
    kept: usize,
}

/// The latest texts: of both gateways, labelled with what is being measured and empty between runs, and of the bench
/// itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latest(Arc<Mutex<Texts>>);

#[derive(Debug, Default)]
struct Texts {
    gateways: [String; 2],
    bench: String,
}

/// A scraping on its way.
#[derive(Debug)]
pub(crate) struct Scraper {
    threads: Vec<JoinHandle<anyhow::Result<Series>>>,
    end: Vec<mpsc::Sender<()>>,
    latest: Latest,
}

/// How a gateway is asked.
#[derive(Debug, Clone)]
enum Source {
    Http(SocketAddr),
    Uapi { socket: PathBuf, interface: String },
}

impl Latest {
    /// The text of one gateway.
    pub(crate) fn text(&self, side: Side) -> String {
        self.texts().gateways[side as usize].clone()
    }

    /// What the bench tells of itself.
    pub(crate) fn bench(&self) -> String {
        self.texts().bench.clone()
    }

    /// Replaces what the bench tells of itself.
    pub(crate) fn say(&self, text: String) {
        self.texts().bench = text;
    }

    fn texts(&self) -> MutexGuard<'_, Texts> {
        // A text is replaced whole: nothing can be half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scraper {
    /// Begins. `labels` (name and value) are added to every series that goes to `latest`.
    pub(crate) fn start(
        topology: &Topology,
        gateways: &Gateways,
        labels: &[(&str, &str)],
        latest: &Latest,
    ) -> anyhow::Result<Self> {
        let (mut threads, mut ends) = (Vec::new(), Vec::new());
        for (gateway, side) in gateways.each().iter().zip([Side::A, Side::B]) {
            let source = match gateway.is_landbridge() {
                true => Source::Http(METRICS.parse().context("a constant address")?),
                false if gateway.pid().is_some() => {
                    Source::Uapi { socket: gateway.socket(), interface: gateway.interface().to_owned() }
                }
                // The kernel's own has neither.
                false => continue,
            };
            let labels =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect::<Vec<_>>();
            let (end, ended) = mpsc::channel();
            let latest = latest.clone();
            let namespace: &Namespace = topology.gateway(side);
            let work = move || Ok(scrape(&source, side, &labels.join(","), &latest, &ended));
            threads.push(namespace.spawn("scraper", work)?);
            ends.push(end);
        }
        Ok(Self { threads, end: ends, latest: latest.clone() })
    }

    /// Ends, and returns what was seen of each gateway, A first.
    pub(crate) fn finish(mut self) -> Vec<Series> {
        self.end.clear();
        let series = self.threads.drain(..).filter_map(|thread| thread.join().ok()?.ok()).collect();
        self.latest.texts().gateways = Default::default();
        series
    }
}

fn scrape(source: &Source, side: Side, labels: &str, latest: &Latest, ended: &mpsc::Receiver<()>) -> Series {
    let (start, mut series) = (Instant::now(), Series::default());
    let mut due = start;
    loop {
        match source.text() {
            Ok(text) => {
                series.add(start.elapsed().as_secs_f64(), &text);
                latest.texts().gateways[side as usize] = labelled(&text, labels);
            }
            Err(_) => series.failures += 1,
        }
        due = (due + INTERVAL).max(Instant::now());
        match ended.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return series,
        }
    }
}

impl Source {
    fn text(&self) -> anyhow::Result<String> {
        match self {
            Self::Http(address) => http_get(*address, "/metrics"),
            Self::Uapi { socket, interface } => {
                let state = uapi::get(socket)?;
                let mut text = String::new();
                for (name, kind, value) in [
                    ("wireguard_peer_receive_bytes_total", "counter", state.rx_bytes),
                    ("wireguard_peer_transmit_bytes_total", "counter", state.tx_bytes),
                    ("wireguard_peer_last_handshake_seconds", "gauge", state.last_handshake_seconds),
                ] {
                    let _infallible = writeln!(text, "# TYPE {name} {kind}\n{name}{{device=\"{interface}\"}} {value}");
                }
                Ok(text)
            }
        }
    }
}

impl Series {
    fn add(&mut self, at: f64, text: &str) {
        self.scrapes += 1;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            if self.kept >= POINTS_MAX {
                return;
            }
            let points = self.points.entry(name.to_owned()).or_default();
            if points.last().is_none_or(|(_, last)| *last != value) {
                points.push(((at * 1000.0).round() / 1000.0, value));
                self.kept += 1;
            }
        }
    }
}

/// Asks a server in the calling thread's namespace.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("{address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).with_context(|| format!("{address} does not answer"))?;
    body(&String::from_utf8_lossy(&answer))
}

/// The body of an answer; chunks are joined.
fn body(answer: &str) -> anyhow::Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    anyhow::ensure!(status == "200", "HTTP status {status}: {}", body.lines().next().unwrap_or_default());
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok(body.to_owned());
    }
    let (mut joined, mut rest) = (String::new(), body);
    while let Some((length, behind)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).context("the length of a chunk")?;
        if length == 0 {
            break;
        }
        joined.push_str(behind.get(..length).context("a chunk is cut")?);
        rest = behind.get(length..).unwrap_or_default().trim_start_matches("\r\n");
    }
    Ok(joined)
}

/// Adds labels to every series of a text.
fn labelled(text: &str, labels: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        match (line.starts_with('#'), line.split_once('{'), line.split_once(' ')) {
            (false, Some((name, rest)), _) => {
                let _infallible = writeln!(out, "{name}{{{labels},{rest}");
            }
            (false, None, Some((name, value))) => {
                let _infallible = writeln!(out, "{name}{{{labels}}} {value}");
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// A label's value as the text format has it.
pub(crate) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_added_to_every_series_and_to_nothing_else() {
        let text = "# TYPE a counter\na{x=\"1\"} 5\nb 7\n";
        assert_eq!(labelled(text, "side=\"a\""), "# TYPE a counter\na{side=\"a\",x=\"1\"} 5\nb{side=\"a\"} 7\n");
    }

    #[test]
    fn a_series_keeps_what_changes() {
        let mut series = Series::default();
        for (at, value) in [(0.0, 5), (1.0, 5), (2.0, 6)] {
            series.add(at, &format!("# HELP a A.\na{{x=\"1 2\"}} {value}\n"));
        }
        assert_eq!(series.points["a{x=\"1 2\"}"], [(0.0, 5.0), (2.0, 6.0)]);
        assert_eq!(series.scrapes, 3);
    }

    #[test]
    fn an_answer_in_chunks_is_joined_and_a_refusal_is_an_error() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("good"), "hi");
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n4\r\n you\r\n0\r\n\r\n";
        assert!(body(chunks).is_ok_and(|text| text == "hi you"));
        assert!(body("HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(body("").is_err());
    }
}
