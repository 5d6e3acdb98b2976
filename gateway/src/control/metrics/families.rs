//! Families of series, as they are collected.
//!
//! Enters: single values with their labels, and what has a whole set of series of its own: a peer, a ring, a lane, its
//! stages. Leaves: families in the order of their first series, as the text encoder wants them. Never does: decide what is
//! shown of the gateway as a whole.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::RingCounters;
use crate::datapath::stats::LaneStats;
use crate::status::{PeerStatus, StageStatus, StagesStatus, Status};

/// Families in the order of their first series.
#[derive(Default)]
pub(super) struct Families(Vec<MetricFamily>);

impl Families {
    /// All of them.
    pub(super) fn all(&self) -> &[MetricFamily] {
        &self.0
    }

    /// One value of one series.
    pub(super) fn add(&mut self, name: &str, help: &str, kind: MetricType, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::default();
        metric.set_label(labels.iter().map(|(name, value)| label(name, value)).collect());
        if kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        if let Some(family) = self.0.iter_mut().find(|family| family.name() == name) {
            family.mut_metric().push(metric);
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        self.0.push(family);
    }

    /// What one peer has.
    pub(super) fn peer(&mut self, status: &Status, peer: &PeerStatus) {
        let name = peer.name.as_deref().unwrap_or("");
        let labels = [("device", status.interface.as_str()), ("public_key", &peer.public_key), ("name", name)];
        let counters = [
            ("wireguard_peer_receive_bytes_total", "Bytes received from the peer (UDP payload).", peer.rx_bytes),
            ("wireguard_peer_transmit_bytes_total", "Bytes sent to the peer (UDP payload).", peer.tx_bytes),
            (
                "landbridge_peer_receive_packets_total",
                "Transport data packets received from the peer.",
                peer.rx_packets,
            ),
            ("landbridge_peer_transmit_packets_total", "Transport data packets sent to the peer.", peer.tx_packets),
        ];
        for (family, help, value) in counters {
            self.add(family, help, MetricType::COUNTER, &labels, value as f64);
        }
        self.add(
            "wireguard_peer_last_handshake_seconds",
            "Unix time of the last handshake, 0 when there was none.",
            MetricType::GAUGE,
            &labels,
            peer.last_handshake_unix_seconds.unwrap_or(0) as f64,
        );
        if let Some(duration) = peer.handshake_ms {
            self.add(
                "landbridge_peer_handshake_duration_seconds",
                "How long the last handshake took that we began.",
                MetricType::GAUGE,
                &labels,
                duration / 1000.0,
            );
        }
        if let Some(extensions) = &peer.extensions {
            for (direction, ports) in [("tx", extensions.ports_out), ("rx", extensions.ports_in)] {
                let labels = [labels[0], labels[1], labels[2], ("direction", direction)];
                let help = "Source ports in use with a peer that speaks the control channel, by direction.";
                self.add("landbridge_peer_source_ports", help, MetricType::GAUGE, &labels, ports as f64);
            }
        }
        let endpoint = peer.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default();
        let info = [labels[0], labels[1], labels[2], ("endpoint", endpoint.as_str()), ("path", &peer.path)];
        self.add("wireguard_peer_info", "Constant 1, labelled with what the peer is.", MetricType::GAUGE, &info, 1.0);
    }

    /// What the kernel counted of one ring.
    pub(super) fn ring(&mut self, status: &Status, ring: &RingCounters) {
        let queue = ring.queue.to_string();
        let labels = [("device", status.interface.as_str()), ("interface", &ring.interface), ("queue", &queue)];
        let statistics = &ring.statistics;
        let counters = [
            ("rx_dropped", "Packets dropped by the kernel for want of anything else.", statistics.rx_dropped),
            ("rx_ring_full", "Packets dropped as the receive ring was full.", statistics.rx_ring_full),
            ("rx_fill_ring_empty", "Times the fill ring was found empty.", statistics.rx_fill_ring_empty_descs),
            ("tx_ring_empty", "Times the transmit ring was found empty.", statistics.tx_ring_empty_descs),
            ("rx_invalid_descriptors", "Descriptors of the fill ring refused.", statistics.rx_invalid_descs),
            ("tx_invalid_descriptors", "Descriptors of the transmit ring refused.", statistics.tx_invalid_descs),
        ];
        for (name, help, value) in counters {
            let family = format!("landbridge_xsk_{name}_total");
            self.add(&family, help, MetricType::COUNTER, &labels, value as f64);
        }
    }

    /// One counter of a lane.
    pub(super) fn lane(&mut self, status: &Status, lane: usize, name: &str, value: u64) {
        let lane = lane.to_string();
        let (family, kind) = match name {
            "frames_free" => (format!("landbridge_lane_{name}"), MetricType::GAUGE),
            _ => (format!("landbridge_lane_{name}_total"), MetricType::COUNTER),
        };
        let labels = [("device", status.interface.as_str()), ("lane", &lane)];
        self.add(&family, LaneStats::help(name), kind, &labels, value as f64);
    }

    /// What a lane sampled by stage.
    pub(super) fn stages(&mut self, status: &Status, lane: usize, stages: &StagesStatus) {
        let lane = lane.to_string();
        for StageStatus { stage, ns, packets } in &stages.stages {
            let labels = [("device", status.interface.as_str()), ("lane", &lane), ("stage", stage)];
            let (seconds, packets) = (*ns as f64 / 1e9, *packets as f64);
            self.add(
                "landbridge_lane_stage_seconds_total",
                "Time by stage of the packet's way, in those turns that were sampled.",
                MetricType::COUNTER,
                &labels,
                seconds,
            );
            self.add(
                "landbridge_lane_stage_packets_total",
                "Packets by stage of their way, in those turns that were sampled.",
                MetricType::COUNTER,
                &labels,
                packets,
            );
        }
        self.add(
            "landbridge_lane_stage_sampling",
            "One turn in so many is sampled.",
            MetricType::GAUGE,
            &[("device", &status.interface), ("lane", &lane)],
            stages.every as f64,
        );
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
