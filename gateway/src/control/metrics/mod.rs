//! Metrics for Prometheus.
//!
//! Enters: the gathered status. Leaves: Prometheus' text format. Never does: keep a counter; those are the lanes', and are
//! read when somebody asks. Names that the field has for peers and devices are kept; the rest begins with `landbridge_`,
//! in base units. [`http`] serves the text.

mod families;
pub mod http;
mod paths;
mod relay;
#[cfg(test)]
mod shown;

use std::os::fd::AsFd as _;

use landbridge_proto::DropReason;
use landbridge_xsk::XskStatistics;
use landbridge_xsk::socket::statistics_of;
use prometheus::TextEncoder;
use prometheus::proto::MetricType;

use super::driver::Driver;
use super::paths::Network;
use super::report::{Facts, Ring, dropped};
use crate::status::Status;
use families::Families;

/// What metrics show beyond the status.
#[derive(Debug, Default)]
pub struct Extra {
    /// Drops by reason, zeros included: a series that appears late hides its first increase.
    pub drops: Vec<(&'static str, u64)>,
    /// The kernel's statistics of every wan queue with rings.
    pub rings: Vec<RingCounters>,
}

/// One wan queue with rings.
#[derive(Debug)]
pub struct RingCounters {
    /// Name of its interface.
    pub interface: String,
    /// The queue.
    pub queue: u32,
    /// What the kernel counted.
    pub statistics: XskStatistics,
}

impl Extra {
    /// Gathers.
    pub fn gather<N: Network>(facts: &Facts, driver: &Driver<N>) -> Self {
        let drops = DropReason::ALL.iter().map(|reason| (reason.label(), dropped(facts, driver, *reason))).collect();
        // A socket whose interface is gone has nothing to say.
        let counters = |ring: &Ring| {
            let statistics = statistics_of(ring.socket.as_fd()).ok()?;
            Some(RingCounters { interface: ring.interface.clone(), queue: ring.queue, statistics })
        };
        Self { drops, rings: facts.rings.iter().filter_map(counters).collect() }
    }
}

/// All metrics as text.
#[must_use]
pub fn text(status: &Status, extra: &Extra) -> Vec<u8> {
    let mut families = Families::default();
    device(&mut families, status);
    channel(&mut families, status);
    for peer in &status.peers {
        families.peer(status, peer);
        paths::peer(&mut families, status, peer);
    }
    paths::gateway(&mut families, status);
    for lane in &status.lanes {
        for (name, value) in &lane.counters {
            families.lane(status, lane.lane, name, *value);
        }
        if let Some(stages) = &lane.stages {
            families.stages(status, lane.lane, stages);
        }
    }
    for (reason, packets) in &extra.drops {
        families.add(
            "landbridge_dropped_packets_total",
            "Packets dropped by lanes and control task, by reason.",
            MetricType::COUNTER,
            &[("device", &status.interface), ("reason", reason)],
            *packets as f64,
        );
    }
    for (verdict, packets) in &status.xdp_verdicts {
        families.add(
            "landbridge_xdp_packets_total",
            "Packets seen by the XDP program, by verdict.",
            MetricType::COUNTER,
            &[("device", &status.interface), ("verdict", verdict)],
            *packets as f64,
        );
    }
    backends(&mut families, status);
    relay::relay(&mut families, status);
    for ring in &extra.rings {
        families.ring(status, ring);
    }
    // Writing to a String cannot fail, and no family is empty.
    TextEncoder::new().encode_to_string(families.all()).unwrap_or_default().into_bytes()
}

fn device(families: &mut Families, status: &Status) {
    let device = status.interface.as_str();
    let port = status.listen_port.to_string();
    families.add(
        "wireguard_device_info",
        "Constant 1, labelled with what the interface is.",
        MetricType::GAUGE,
        &[
            ("device", device),
            ("public_key", status.public_key.as_deref().unwrap_or("")),
            ("listen_port", &port),
            ("wan_backend", &status.wan.backend),
            ("lan_backend", &status.lan.backend),
            ("version", &status.version),
        ],
        1.0,
    );
    families.add(
        "landbridge_crypto_engine_info",
        "Constant 1, labelled with what seals and opens packets.",
        MetricType::GAUGE,
        &[("device", device), ("engine", &status.crypto.engine)],
        1.0,
    );
    families.add(
        "landbridge_uptime_seconds",
        "Seconds since the gateway started.",
        MetricType::GAUGE,
        &[("device", device)],
        status.uptime_seconds as f64,
    );
    families.add(
        "landbridge_mtu_bytes",
        "MTU of the tunnel interface.",
        MetricType::GAUGE,
        &[("device", device)],
        f64::from(status.mtu),
    );
}

/// The control channel.
fn channel(families: &mut Families, status: &Status) {
    let device = status.interface.as_str();
    for (direction, messages) in [("tx", status.channel.messages_sent), ("rx", status.channel.messages_received)] {
        families.add(
            "landbridge_channel_messages_total",
            "Messages of the control channel, by direction.",
            MetricType::COUNTER,
            &[("device", device), ("direction", direction)],
            messages as f64,
        );
    }
    let counters = [
        ("fields_ignored", "Fields of messages skipped as a later version's.", status.channel.fields_ignored),
        ("source_ports_proven", "Source ports that a peer has confirmed.", status.channel.ports_proven),
        ("source_ports_lost", "Source ports given up, unconfirmed or lossy.", status.channel.ports_lost),
    ];
    for (name, help, value) in counters {
        let family = format!("landbridge_channel_{name}_total");
        families.add(&family, help, MetricType::COUNTER, &[("device", device)], value as f64);
    }
}

/// Per backend: the sums of the lanes' counters of that backend.
fn backends(families: &mut Families, status: &Status) {
    for (backend, prefix) in [("xdp", "wan_xdp_"), ("socket", "wan_socket_"), ("lan", "lan_"), ("lan_xdp", "lan_xdp_")]
    {
        for direction in ["rx", "tx"] {
            for (unit, help) in [("packets", "Packets carried, by backend."), ("bytes", "Bytes carried, by backend.")] {
                let field = format!("{prefix}{direction}_{unit}");
                let sum: u64 = status.lanes.iter().filter_map(|lane| lane.counters.get(&field)).sum();
                families.add(
                    &format!("landbridge_backend_{unit}_total"),
                    help,
                    MetricType::COUNTER,
                    &[("device", &status.interface), ("backend", backend), ("direction", direction)],
                    sum as f64,
                );
            }
        }
    }
    families.add(
        "landbridge_wan_ring_interfaces",
        "Wan interfaces whose rings are bound.",
        MetricType::GAUGE,
        &[("device", &status.interface)],
        status.wan.interfaces.len() as f64,
    );
    families.add(
        "landbridge_wan_rings_lost_total",
        "Times that the rings of a wan interface were lost.",
        MetricType::COUNTER,
        &[("device", &status.interface)],
        status.wan.rings_lost as f64,
    );
    families.add(
        "landbridge_xdp_programs_lost_total",
        "Times that somebody else took the XDP program from an interface.",
        MetricType::COUNTER,
        &[("device", &status.interface)],
        status.xdp_programs_lost as f64,
    );
    lan_rings(families, status);
    let wan = ("landbridge_wan_interface_info", "Constant 1, labelled with how a wan interface is bound.");
    let lan = ("landbridge_lan_interface_info", "Constant 1, labelled with how a lan interface is bound.");
    for ((name, help), interfaces) in [(wan, &status.wan.interfaces), (lan, &status.lan.interfaces)] {
        for interface in interfaces {
            families.add(
                name,
                help,
                MetricType::GAUGE,
                &[
                    ("device", &status.interface),
                    ("interface", &interface.name),
                    ("driver", interface.driver.as_deref().unwrap_or("")),
                    ("xdp_mode", &interface.xdp_mode),
                    ("copy_mode", &interface.copy_mode),
                    ("multi_buffer", if interface.multi_buffer { "yes" } else { "no" }),
                ],
                1.0,
            );
        }
    }
}

/// What the lan side's rings stand on.
fn lan_rings(families: &mut Families, status: &Status) {
    let lan = &status.lan;
    let gauges = [
        ("landbridge_lan_ring_interfaces", "Lan interfaces whose rings are bound.", lan.interfaces.len()),
        ("landbridge_lan_routes", "Routes of the kernel that lanes with lan rings look up.", lan.routes),
        ("landbridge_lan_next_hops", "Resolved next hops that lanes with lan rings send to.", lan.next_hops),
    ];
    for (name, help, value) in gauges {
        families.add(name, help, MetricType::GAUGE, &[("device", &status.interface)], value as f64);
    }
    families.add(
        "landbridge_lan_rings_lost_total",
        "Times that the rings of a lan interface were lost.",
        MetricType::COUNTER,
        &[("device", &status.interface)],
        lan.rings_lost as f64,
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::network::NetworkStatus;
    use crate::status::paths::{CandidateStatus, PathChanges, PathStatus, PathsStatus, PlaceStatus};
    use crate::status::relay::{RelayAllocationStatus, RelayCounters, RelayEndStatus, RelayStatus};
    use crate::status::{
        ChannelStatus, CryptoStatus, ExtensionsStatus, LanStatus, LaneStatus, PeerStatus, StageStatus, StagesStatus,
        WanStatus,
    };

    pub(super) fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            pid: 1,
            interface: "lb0".to_owned(),
            public_key: Some("AAAA=".to_owned()),
            listen_port: 51820,
            mtu: 1420,
            uptime_seconds: 7,
            wan: WanStatus {
                backend: "udp".to_owned(),
                reason: "configured".to_owned(),
                interfaces: Vec::new(),
                rings_lost: 2,
            },
            lan: LanStatus {
                backend: "tun".to_owned(),
                reason: "default".to_owned(),
                interfaces: Vec::new(),
                rings_lost: 0,
                routes: 0,
                next_hops: 0,
                tso: true,
                uso: true,
                queues: 1,
            },
            crypto: CryptoStatus { engine: "ring".to_owned(), reason: "configured".to_owned() },
            lanes: vec![LaneStatus {
                lane: 0,
                cpu: Some(0),
                counters: BTreeMap::from([("wan_socket_rx_packets".to_owned(), 3), ("frames_free".to_owned(), 9)]),
                stages: Some(StagesStatus {
                    every: 64,
                    turns: 2,
                    stages: vec![StageStatus { stage: "seal".to_owned(), ns: 1500, packets: 7 }],
                }),
            }],
            xdp_programs_lost: 3,
            xdp_verdicts: BTreeMap::from([("redirect".to_owned(), 4)]),
            drops: BTreeMap::new(),
            channel: ChannelStatus { messages_sent: 6, ..ChannelStatus::default() },
            network: network(),
            place: place(),
            relay: Some(relay_status()),
            peers: vec![PeerStatus {
                public_key: "BBBB=".to_owned(),
                name: Some("site \"b\"".to_owned()),
                endpoint: Some("192.0.2.1:51820".parse().expect("an address")),
                local: None,
                path: "socket".to_owned(),
                allowed_ips: Vec::new(),
                persistent_keepalive_seconds: None,
                last_handshake_seconds_ago: Some(1),
                last_handshake_unix_seconds: Some(1_700_000_000),
                handshake_ms: Some(1.5),
                rx_bytes: 10,
                tx_bytes: 20,
                rx_packets: 1,
                tx_packets: 2,
                extensions: Some(ExtensionsStatus {
                    version: 1,
                    features: vec!["source_ports".to_owned()],
                    ports_out: 9,
                    ports_in: 1,
                    ports_refused: false,
                }),
                paths: ways(),
            }],
        }
    }

    fn candidate(state: &str) -> CandidateStatus {
        let address = "192.0.2.9:7".parse().expect("an address");
        CandidateStatus { kind: "stun".to_owned(), address, state: state.to_owned(), why: None }
    }

    fn relay_status() -> RelayStatus {
        let counters = |packets| RelayCounters { packets, bytes: packets * 100, limited: 1 };
        let end = |place| RelayEndStatus {
            public_key: "BBBB=".to_owned(),
            name: None,
            port: 51_900,
            place,
            forwarded_by: None,
            silent_seconds: None,
            xdp: counters(40),
            user: counters(2),
        };
        RelayStatus {
            backend: "xdp".to_owned(),
            reason: "configured".to_owned(),
            ports: [51_900, 52_155],
            rate_mbps: 1000,
            allocations_max: 128,
            interfaces: Vec::new(),
            xdp: counters(40),
            user: counters(2),
            allocations: vec![RelayAllocationStatus {
                kind: "link".to_owned(),
                ends: vec![end(Some(([192, 0, 2, 1], 1).into())), end(None)],
            }],
        }
    }

    fn network() -> NetworkStatus {
        let mut network = NetworkStatus::default();
        network.port_mapping.router = Some("192.168.1.1".parse().expect("an address"));
        network.port_mapping.protocol = Some("pcp".to_owned());
        network.port_mapping.external = Some("198.51.100.9:51820".parse().expect("an address"));
        network.port_mapping.lost = 2;
        network
    }

    fn place() -> PlaceStatus {
        let path_changes = vec![PathChanges { reason: "other_dead".to_owned(), times: 2 }];
        PlaceStatus {
            udp_blocked: Some(false),
            candidates: vec![candidate("known")],
            path_changes,
            ..PlaceStatus::default()
        }
    }

    fn ways() -> PathsStatus {
        let path = PathStatus {
            tier: Some("relayed".to_owned()),
            kind: Some("relayed".to_owned()),
            remote: "192.0.2.1:51820".parse().expect("an address"),
            local: None,
            proven: true,
            rtt_ms: Some(25.0),
            loss_ratio: Some(0.5),
            mtu: Some(1472),
            heard_seconds_ago: None,
        };
        PathsStatus {
            negotiated: true,
            in_use: Some(path),
            since_seconds: Some(9.0),
            reason: Some("other_dead".to_owned()),
            changes: 4,
            candidates: vec![candidate("failed"), candidate("failed")],
            ..PathsStatus::default()
        }
    }

    #[test]
    fn the_text_has_the_fields_names_with_help_and_type_before_their_series() {
        let extra = Extra {
            drops: vec![("replayed", 5)],
            rings: vec![RingCounters {
                interface: "eth1".to_owned(),
                queue: 3,
                statistics: XskStatistics { rx_ring_full: 8, ..XskStatistics::default() },
            }],
        };
        let text = String::from_utf8(text(&status(), &extra)).expect("text");
        for line in [
            "# TYPE wireguard_peer_receive_bytes_total counter",
            "wireguard_peer_receive_bytes_total{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 10",
            "wireguard_peer_transmit_bytes_total{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 20",
            "wireguard_peer_last_handshake_seconds{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 1700000000",
            "landbridge_crypto_engine_info{device=\"lb0\",engine=\"ring\"} 1",
            "landbridge_wan_rings_lost_total{device=\"lb0\"} 2",
            "landbridge_xdp_programs_lost_total{device=\"lb0\"} 3",
            "landbridge_dropped_packets_total{device=\"lb0\",reason=\"replayed\"} 5",
            "landbridge_xsk_rx_ring_full_total{device=\"lb0\",interface=\"eth1\",queue=\"3\"} 8",
            "landbridge_channel_messages_total{device=\"lb0\",direction=\"tx\"} 6",
            "landbridge_relay_allocations{device=\"lb0\",kind=\"link\"} 1",
            "landbridge_relay_allocations_max{device=\"lb0\"} 128",
            "landbridge_relay_xdp{device=\"lb0\"} 1",
            "landbridge_relay_rate_bits_per_second{device=\"lb0\"} 1000000000",
            "landbridge_relay_bound_ends{device=\"lb0\"} 1",
            "landbridge_relay_packets_total{device=\"lb0\",backend=\"xdp\"} 40",
            "landbridge_relay_limited_packets_total{device=\"lb0\",backend=\"user\"} 1",
            "landbridge_peer_source_ports{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\",direction=\"tx\"} 9",
            "landbridge_xdp_packets_total{device=\"lb0\",verdict=\"redirect\"} 4",
            "# HELP landbridge_lane_wan_socket_rx_packets_total Datagrams of transport data received from the kernel's socket.",
            "landbridge_lane_wan_socket_rx_packets_total{device=\"lb0\",lane=\"0\"} 3",
            "# TYPE landbridge_lane_frames_free gauge",
            "landbridge_lane_stage_seconds_total{device=\"lb0\",lane=\"0\",stage=\"seal\"} 0.0000015",
            "landbridge_lane_stage_packets_total{device=\"lb0\",lane=\"0\",stage=\"seal\"} 7",
            "landbridge_lane_stage_sampling{device=\"lb0\",lane=\"0\"} 64",
            "landbridge_backend_packets_total{device=\"lb0\",backend=\"socket\",direction=\"rx\"} 3",
            "landbridge_path_info{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\",tier=\"relayed\",kind=\"relayed\",reason=\"other_dead\"} 1",
            "landbridge_path_up{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 1",
            "landbridge_path_rtt_seconds{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 0.025",
            "landbridge_path_loss_ratio{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 0.5",
            "landbridge_path_mtu_bytes{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 1472",
            "landbridge_peer_path_changes_total{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 4",
            "landbridge_path_changes_total{device=\"lb0\",reason=\"other_dead\"} 2",
            "landbridge_candidates{device=\"lb0\",side=\"theirs\",kind=\"stun\",state=\"failed\"} 2",
            "landbridge_candidates{device=\"lb0\",side=\"ours\",kind=\"stun\",state=\"known\"} 1",
            "landbridge_nat_info{device=\"lb0\",kind=\"unknown\",mapping=\"unknown\",filtering=\"unknown\"} 1",
            "landbridge_udp_blocked{device=\"lb0\"} 0",
            "landbridge_port_mapping{device=\"lb0\",protocol=\"pcp\"} 1",
            "landbridge_port_mappings_lost_total{device=\"lb0\"} 2",
            "landbridge_peer_handshake_duration_seconds{device=\"lb0\",public_key=\"BBBB=\",name=\"site \\\"b\\\"\"} 0.0015",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        let mut families = std::collections::BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            assert!(families.insert(line), "{line} twice");
        }
    }
}
