//! What the demo found: one object for programs, one page for people.
//!
//! Enters: figures of the traffic and the status of both gateways. Leaves: [`Report`]. Never does: measure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use landbridge_ebpf_common::Verdict;
use serde::Serialize;

use super::Options;
use super::rtt::RttFigures;
use super::search::{Edge, Kind};
use super::udp::{PAYLOAD, UdpFigures};
use crate::lab::tcp::TcpFigures;
use crate::status::Status;

/// Figures of the traffic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) rtt: RttFigures,
    pub(super) tcp: TcpFigures,
    /// Of one core, per gateway, while TCP ran.
    pub(super) cpu_percent: [f64; 2],
    pub(super) udp: UdpFigures,
    pub(super) udp_edge: Edge,
}

/// The whole result. Field names are the keys of the JSON object.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    version: String,
    cpus: usize,
    kernel: String,
    wan_backend: String,
    wan_reason: String,
    xdp_mode: Option<String>,
    xdp_copy_mode: Option<String>,
    xdp_queues: Option<u32>,
    lan_backend: String,
    lan_reason: String,
    lan_tso: bool,
    lan_uso: bool,
    lanes: usize,
    crypto_engine: String,
    handshake_ms: Option<f64>,
    rtt_us_p50: f64,
    rtt_us_p99: f64,
    rtt_samples: u64,
    rtt_lost: u64,
    tcp_gbps: f64,
    tcp_streams: usize,
    tcp_seconds: f64,
    cpu_percent_gateway_a: f64,
    cpu_percent_gateway_b: f64,
    udp_pps: f64,
    udp_gbps: f64,
    udp_loss_percent: f64,
    udp_offered_pps: f64,
    /// The highest rate that arrived nearly whole, and whether it was found or is a bound.
    udp_capacity_pps: f64,
    udp_capacity_kind: Kind,
    udp_payload_bytes: usize,
    xdp_redirected_packets: u64,
    wan_xdp_data_packets: u64,
    wan_socket_data_packets: u64,
    /// Share of the data packets received that came through the rings, of one hundred.
    wan_xdp_percent: f64,
    lan_packets: u64,
    /// Share of the lan's packets, in and out, that went by rings, of one hundred.
    lan_xdp_percent: f64,
    drops_gateway_a: BTreeMap<String, u64>,
    drops_gateway_b: BTreeMap<String, u64>,
}

impl Report {
    pub(super) fn new(options: &Options, figures: &Figures, statuses: &[Status; 2]) -> Self {
        let [a, b] = statuses;
        let bound = a.wan.interfaces.first().filter(|_| a.wan.backend == "xdp");
        let redirected = Verdict::Redirected.label();
        let verdicts = statuses.iter().filter_map(|status| status.xdp_verdicts.get(redirected)).sum();
        let rings = counter(statuses, "wan_xdp_rx_packets");
        let socket = counter(statuses, "wan_socket_rx_packets");
        let both = |rx, tx| counter(statuses, rx) + counter(statuses, tx);
        let lan = both("lan_rx_packets", "lan_tx_packets");
        let lan_rings = both("lan_xdp_rx_packets", "lan_xdp_tx_packets");
        let seconds = figures.udp.window.as_secs_f64().max(1e-9);
        let handshake = |status: &Status| status.peers.iter().find_map(|peer| peer.handshake_ms);
        Self {
            version: a.version.clone(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            wan_backend: a.wan.backend.clone(),
            wan_reason: a.wan.reason.clone(),
            xdp_mode: bound.map(|interface| interface.xdp_mode.clone()),
            xdp_copy_mode: bound.map(|interface| interface.copy_mode.clone()),
            xdp_queues: bound.map(|interface| interface.queues),
            lan_backend: a.lan.backend.clone(),
            lan_reason: a.lan.reason.clone(),
            lan_tso: a.lan.tso,
            lan_uso: a.lan.uso,
            lanes: a.lanes.len(),
            crypto_engine: a.crypto.engine.clone(),
            handshake_ms: handshake(a).or_else(|| handshake(b)),
            rtt_us_p50: round(figures.rtt.us_p50, 1),
            rtt_us_p99: round(figures.rtt.us_p99, 1),
            rtt_samples: figures.rtt.samples,
            rtt_lost: figures.rtt.lost,
            tcp_gbps: round(figures.tcp.bits_per_second / 1e9, 3),
            tcp_streams: options.streams,
            tcp_seconds: round(figures.tcp.window.as_secs_f64(), 2),
            cpu_percent_gateway_a: round(figures.cpu_percent[0], 1),
            cpu_percent_gateway_b: round(figures.cpu_percent[1], 1),
            udp_pps: round(figures.udp.rate(), 0),
            udp_gbps: round(figures.udp.rate() * (PAYLOAD * 8) as f64 / 1e9, 3),
            udp_loss_percent: round(figures.udp.loss() * 100.0, 4),
            udp_offered_pps: round(figures.udp.sent as f64 / seconds, 0),
            udp_capacity_pps: round(figures.udp_edge.pps, 0),
            udp_capacity_kind: figures.udp_edge.kind,
            udp_payload_bytes: PAYLOAD,
            xdp_redirected_packets: verdicts,
            wan_xdp_data_packets: rings,
            wan_socket_data_packets: socket,
            wan_xdp_percent: round(rings as f64 * 100.0 / (rings + socket).max(1) as f64, 3),
            lan_packets: lan,
            lan_xdp_percent: round(lan_rings as f64 * 100.0 / lan.max(1) as f64, 3),
            drops_gateway_a: a.drops.clone(),
            drops_gateway_b: b.drops.clone(),
        }
    }

    /// The page for people.
    pub(crate) fn page(&self) -> String {
        let mut text = String::from("\nhost-a == gateway-a == (internet) == gateway-b == host-b\n\n");
        let mut line = |name: &str, value: String| {
            let _infallible = writeln!(text, "  {name:<14} {value}");
        };
        let bound = match (&self.xdp_mode, &self.xdp_copy_mode) {
            (Some(mode), Some(copy)) => format!(" ({mode}, {copy}, {} queues)", self.xdp_queues.unwrap_or_default()),
            _ => String::new(),
        };
        line("wan", format!("{}{bound}: {}", self.wan_backend, self.wan_reason));
        let offloads = format!("TSO {}, USO {}", on(self.lan_tso), on(self.lan_uso));
        line(
            "lan",
            match self.lan_backend.as_str() {
                "tun" => format!("tun ({offloads}): {}", self.lan_reason),
                rings => format!("{rings} beside tun ({offloads}): {}", self.lan_reason),
            },
        );
        line("machine", format!("{} CPUs, kernel {}, {} lanes a gateway", self.cpus, self.kernel, self.lanes));
        line("crypto", self.crypto_engine.clone());
        line("handshake", self.handshake_ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms:.2} ms")));
        line(
            "round trip",
            format!("{:.0} us p50, {:.0} us p99, {} echoes", self.rtt_us_p50, self.rtt_us_p99, self.rtt_samples),
        );
        line("TCP", format!("{:.2} Gb/s, {} streams, {} s", self.tcp_gbps, self.tcp_streams, self.tcp_seconds));
        let (a, b) = (self.cpu_percent_gateway_a, self.cpu_percent_gateway_b);
        line("CPU", format!("{a:.0} % gateway-a, {b:.0} % gateway-b, of one core each, during TCP"));
        line(
            "UDP",
            format!(
                "{:.0} packets/s of {} bytes ({:.2} Gb/s), {:.3} % lost",
                self.udp_pps, self.udp_payload_bytes, self.udp_gbps, self.udp_loss_percent
            ),
        );
        let edge = self.udp_capacity_pps;
        line(
            "UDP edge",
            match self.udp_capacity_kind {
                Kind::Found => format!("{edge:.0} packets/s arrive nearly whole"),
                Kind::AtLeast => {
                    format!("at least {edge:.0} packets/s arrive nearly whole: the search ended before loss")
                }
                Kind::Guess => format!("no rate that was tried arrived nearly whole, {edge:.0} packets/s may"),
            },
        );
        line(
            "data packets",
            format!(
                "{} by XDP rings, {} by the kernel's socket ({:.2} % XDP)",
                self.wan_xdp_data_packets, self.wan_socket_data_packets, self.wan_xdp_percent
            ),
        );
        line("lan packets", format!("{} ({:.2} % XDP)", self.lan_packets, self.lan_xdp_percent));
        for (name, drops) in [("drops a", &self.drops_gateway_a), ("drops b", &self.drops_gateway_b)] {
            let shown: Vec<String> =
                drops.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{reason} {n}")).collect();
            if !shown.is_empty() {
                line(name, shown.join(", "));
            }
        }
        text
    }
}

/// A lane counter, summed over lanes and gateways.
fn counter(statuses: &[Status], name: &str) -> u64 {
    statuses.iter().flat_map(|status| &status.lanes).filter_map(|lane| lane.counters.get(name)).sum()
}

pub(super) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

fn on(switch: bool) -> &'static str {
    if switch { "on" } else { "off" }
}
