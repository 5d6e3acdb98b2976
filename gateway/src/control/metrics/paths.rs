//! Series of paths, candidates and NATs.
//!
//! Enters: the gathered status. Leaves: series. Never does: label one with an address: what moves would leave a series behind
//! each time.

use std::collections::BTreeMap;

use landbridge_proto::candidate::CandidateKind;
use prometheus::proto::MetricType;

use super::families::Families;
use crate::status::paths::{CandidateStatus, PathStatus};
use crate::status::{PeerStatus, Status};

/// Those of the gateway as a whole.
pub(super) fn gateway(families: &mut Families, status: &Status) {
    let device = ("device", status.interface.as_str());
    let place = &status.place;
    let mut gauge = |name: &str, help: &str, labels: &[(&str, &str)], value: f64| {
        families.add(name, help, MetricType::GAUGE, labels, value);
    };
    let nat = &place.nat;
    gauge(
        "landbridge_nat_info",
        "Constant 1, labelled with the NAT that the gateway is behind (RFC 4787).",
        &[device, ("kind", &nat.kind), ("mapping", &nat.mapping), ("filtering", &nat.filtering)],
        1.0,
    );
    if let Some(blocked) = place.udp_blocked {
        let help = "1 when no STUN server answers, so that UDP seems not to get out.";
        gauge("landbridge_udp_blocked", help, &[device], f64::from(u8::from(blocked)));
    }
    let network = &status.network;
    for server in &network.stun {
        if let Some(answered) = server.answered {
            let help = "1 when the STUN server answered the last time it was asked.";
            let labels = [device, ("server", &*server.server.to_string())];
            gauge("landbridge_stun_server_up", help, &labels, f64::from(u8::from(answered)));
        }
    }
    let mapping = &network.port_mapping;
    if mapping.router.is_some() {
        let help = "1 when the router forwards our port to us, labelled with the protocol that it was asked by.";
        let labels = [device, ("protocol", mapping.protocol.as_deref().unwrap_or("none"))];
        let is_mapped = f64::from(u8::from(mapping.external.is_some()));
        gauge("landbridge_port_mapping", help, &labels, is_mapped);
        let help = "Times that a mapping of our port was lost, or is another one than before.";
        families.add("landbridge_port_mappings_lost_total", help, MetricType::COUNTER, &[device], mapping.lost as f64);
    }
    let pinhole = &network.pinhole;
    if pinhole.router.is_some() {
        let help = "1 when the router's firewall is open for our port at our address of IPv6.";
        let is_open = f64::from(u8::from(pinhole.external.is_some()));
        families.add("landbridge_pinhole", help, MetricType::GAUGE, &[device], is_open);
    }
    let mut gauge = |name: &str, help: &str, labels: &[(&str, &str)], value: f64| {
        families.add(name, help, MetricType::GAUGE, labels, value);
    };
    for (role, is) in [("introducer", place.introduces), ("relay", place.relays)] {
        let help = "1 for what the gateway does for its peers.";
        gauge("landbridge_role", help, &[device, ("role", role)], f64::from(u8::from(is)));
    }
    let theirs = status.peers.iter().flat_map(|peer| &peer.paths.candidates);
    for (side, counts) in [("ours", count(&place.candidates)), ("theirs", count(theirs))] {
        for ((kind, state), number) in counts {
            let labels = [device, ("side", side), ("kind", kind), ("state", state)];
            let help = "Candidates by kind and state: our own, and those of all peers.";
            gauge("landbridge_candidates", help, &labels, number as f64);
        }
    }
    for changes in &place.path_changes {
        families.add(
            "landbridge_path_changes_total",
            "Times that another path came into use, of all peers, by reason.",
            MetricType::COUNTER,
            &[device, ("reason", &changes.reason)],
            changes.times as f64,
        );
    }
    let counters = [
        (
            "landbridge_candidates_refused_total",
            "Candidates of peers that were refused, as they lead nowhere, into the tunnel or back to us.",
            place.candidates_refused,
        ),
        ("landbridge_introductions_made_total", "Pairs of peers introduced to each other.", place.introductions_made),
        ("landbridge_introductions_heard_total", "Introductions to peers that were sought.", place.introductions_heard),
        ("landbridge_punches_total", "Times that handshakes went to every known place of a peer.", place.punches),
        ("landbridge_relay_allocations_granted_total", "Allocations granted as a relay.", place.relays_granted),
        ("landbridge_relay_allocations_refused_total", "Allocations refused for want of ports.", place.relays_refused),
    ];
    for (name, help, value) in counters {
        families.add(name, help, MetricType::COUNTER, &[device], value as f64);
    }
}

/// How many there are of each kind and state; a kind that there is none of is known and zero.
fn count<'s>(candidates: impl IntoIterator<Item = &'s CandidateStatus>) -> BTreeMap<(&'s str, &'s str), usize> {
    let mut counts: BTreeMap<_, usize> = CandidateKind::ALL.iter().map(|kind| ((kind.label(), "known"), 0)).collect();
    for candidate in candidates {
        *counts.entry((&candidate.kind, &candidate.state)).or_default() += 1;
    }
    counts
}

/// Those of one peer that takes part in proving paths.
pub(super) fn peer(families: &mut Families, status: &Status, peer: &PeerStatus) {
    let paths = &peer.paths;
    if !paths.negotiated {
        return;
    }
    let name = peer.name.as_deref().unwrap_or("");
    let labels = [("device", status.interface.as_str()), ("public_key", &peer.public_key), ("name", name)];
    let proven = paths.in_use.as_ref().filter(|path| path.proven);
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            families.add(name, help, MetricType::GAUGE, &labels, value);
        }
    };
    gauge("landbridge_path_up", "1 while the path in use is proven.", Some(f64::from(u8::from(proven.is_some()))));
    let of = |value: fn(&PathStatus) -> Option<f64>| paths.in_use.as_ref().and_then(value);
    gauge("landbridge_path_rtt_seconds", "Round trip of the path in use.", of(|path| Some(path.rtt_ms? / 1000.0)));
    let help = "Probes of the path in use that were not answered, of the last ones.";
    gauge("landbridge_path_loss_ratio", help, of(|path| path.loss_ratio));
    let help = "The largest outer IP packet that was seen to get through the path in use.";
    gauge("landbridge_path_mtu_bytes", help, of(|path| path.mtu.map(f64::from)));
    gauge("landbridge_path_age_seconds", "How long the path in use has been that.", paths.since_seconds);
    gauge("landbridge_paths_standby", "Other paths that are proven.", Some(paths.standby.len() as f64));
    families.add(
        "landbridge_peer_path_changes_total",
        "Times that another path to the peer came into use.",
        MetricType::COUNTER,
        &labels,
        paths.changes as f64,
    );
    if let Some(path) = &paths.in_use {
        let word = |word: &Option<String>| word.clone().unwrap_or_default();
        let (tier, kind, reason) = (word(&path.tier), word(&path.kind), word(&paths.reason));
        let [device, key, name] = labels;
        let labels = [device, key, name, ("tier", &tier), ("kind", &kind), ("reason", &reason)];
        let help = "Constant 1, labelled with what the path in use is, and why it is that.";
        families.add("landbridge_path_info", help, MetricType::GAUGE, &labels, 1.0);
    }
}
