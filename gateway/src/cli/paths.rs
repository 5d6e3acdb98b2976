//! `landbridge paths`: how running gateways reach their peers.
//!
//! Enters: the status sockets. Leaves: a readable page, or JSON. Never does: change a gateway.

use std::fmt::Write as _;

use super::{args, output, status};
use crate::status::Status;
use crate::status::network::NetworkStatus;
use crate::status::paths::{CandidateStatus, NatStatus, PathStatus, Paths, PathsStatus, PeerPaths};

pub(super) fn run(args: &args::Status) -> anyhow::Result<()> {
    let found: Vec<Paths> = status::ask(args)?.into_iter().map(Status::into).collect();
    status::show(&found, args, page)
}

fn page(paths: &Paths) -> String {
    let mut text = format!("interface: {}\n", paths.interface);
    let mut line = |name: &str, value: &str| {
        let _infallible = writeln!(text, "  {name}: {value}");
    };
    line("nat", &nat(&paths.place.nat));
    if paths.place.udp_blocked == Some(true) {
        line("udp", "does not get out");
    }
    for (name, value) in network(&paths.network) {
        line(name, &value);
    }
    let roles = [(paths.place.introduces, "introduces its peers"), (paths.place.relays, "relays between its peers")];
    let roles: Vec<&str> = roles.iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect();
    if !roles.is_empty() {
        line("role", &roles.join(", "));
    }
    if !paths.place.candidates.is_empty() {
        line("candidates", &candidates(&paths.place.candidates));
    }
    for peer in &paths.peers {
        text.push('\n');
        text.push_str(&self::peer(peer));
    }
    text
}

/// Servers that are silent, other uplinks, and what the router does for us.
fn network(network: &NetworkStatus) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(hairpin) = network.hairpin {
        lines.push(("hairpin", if hairpin { "yes" } else { "no" }.to_owned()));
    }
    for server in network.stun.iter().filter(|server| server.answered == Some(false) || server.refused.is_some()) {
        let what =
            server.refused.map_or_else(|| "does not answer".to_owned(), |code| format!("answers with error {code}"));
        lines.push(("stun server", format!("{} {what}", server.server)));
    }
    for uplink in &network.uplinks {
        lines.push(("uplink", format!("{} is seen as {}", uplink.local, uplink.mapped)));
    }
    let mapping = &network.port_mapping;
    if let (Some(protocol), Some(external)) = (&mapping.protocol, mapping.external) {
        lines.push(("port mapping", format!("{external} by {protocol}")));
    } else if let Some(router) = mapping.router {
        let reasons: Vec<_> =
            mapping.failures.iter().map(|failure| format!("{}: {}", failure.protocol, failure.reason)).collect();
        let why = if reasons.is_empty() { "asked".to_owned() } else { reasons.join("; ") };
        lines.push(("port mapping", format!("none by {router} ({why})")));
    }
    if let Some(external) = network.pinhole.external {
        lines.push(("firewall", format!("open for {external}")));
    }
    lines
}

fn peer(peer: &PeerPaths) -> String {
    let mut text = String::new();
    let mut line = |indent: usize, name: &str, value: &str| {
        let _infallible = writeln!(text, "{:indent$}{name}: {value}", "");
    };
    let name = peer.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    line(0, "peer", &format!("{}{name}", peer.public_key));
    let paths = &peer.paths;
    match &paths.in_use {
        Some(path) => line(2, "path", &self::path(path)),
        None => line(2, "path", "none"),
    }
    if let Some(chosen) = chosen(paths) {
        line(2, "chosen", &chosen);
    }
    for path in &paths.standby {
        line(2, "stand-by", &self::path(path));
    }
    if let Some(relay) = &paths.relay {
        line(2, "relay", relay);
    }
    if !paths.introducers.is_empty() {
        line(2, "introducers", &paths.introducers.join(", "));
    }
    if paths.nat != NatStatus::default() {
        line(2, "its nat", &nat(&paths.nat));
    }
    if let Some(every) = paths.keepalive_seconds {
        line(2, "keepalive", &format!("every {every:.0} s"));
    }
    if !paths.candidates.is_empty() {
        line(2, "candidates", &candidates(&paths.candidates));
    }
    text
}

/// `direct 192.0.2.1:51820 from 198.51.100.2, 12.3 ms, 0.0 % loss, 1500 bytes`.
pub(super) fn path(path: &PathStatus) -> String {
    let mut text = path.tier.as_ref().map(|tier| format!("{} ", words(tier))).unwrap_or_default();
    text += &path.remote.to_string();
    if let Some(local) = path.local {
        let _infallible = write!(text, " from {local}");
    }
    if let Some(rtt) = path.rtt_ms {
        let _infallible = write!(text, ", {rtt:.1} ms");
    }
    if let Some(loss) = path.loss_ratio {
        let _infallible = write!(text, ", {:.1} % loss", loss * 100.0);
    }
    if let Some(mtu) = path.mtu {
        let _infallible = write!(text, ", {mtu} bytes");
    }
    if !path.proven && path.tier.is_some() {
        text += " (not proven)";
    }
    text
}

/// Since when, why, and how often it changed.
pub(super) fn chosen(paths: &PathsStatus) -> Option<String> {
    let (since, reason) = (paths.since_seconds?, paths.reason.as_ref()?);
    let changes = match paths.changes {
        0 => String::new(),
        changes => format!(", {} so far", output::plural(changes, "change")),
    };
    Some(format!("{} ago: {}{changes}", output::seconds(since as u64), words(reason)))
}

fn nat(nat: &NatStatus) -> String {
    match nat.kind.as_str() {
        "unknown" | "none" => nat.kind.clone(),
        kind => format!("{} (mapping {}, filtering {})", words(kind), words(&nat.mapping), words(&nat.filtering)),
    }
}

fn candidates(candidates: &[CandidateStatus]) -> String {
    let one = |candidate: &CandidateStatus| {
        let why = candidate.why.as_ref().map(|why| format!(": {}", words(why))).unwrap_or_default();
        format!("{} {} ({}{why})", words(&candidate.kind), candidate.address, words(&candidate.state))
    };
    candidates.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A label as people write it.
fn words(label: &str) -> String {
    label.replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::paths::PlaceStatus;

    fn a_path(tier: &str, remote: &str) -> PathStatus {
        PathStatus {
            tier: Some(tier.to_owned()),
            kind: Some("stun".to_owned()),
            remote: remote.parse().expect("an address"),
            local: Some("10.1.0.2".parse().expect("an address")),
            proven: true,
            rtt_ms: Some(12.34),
            loss_ratio: Some(0.025),
            mtu: Some(1472),
            heard_seconds_ago: Some(0.5),
        }
    }

    fn paths() -> Paths {
        let candidate = |state: &str, why: Option<&str>| CandidateStatus {
            kind: "peer_reflexive".to_owned(),
            address: "198.51.100.9:7".parse().expect("an address"),
            state: state.to_owned(),
            why: why.map(str::to_owned),
        };
        let nat = NatStatus {
            mapping: "endpoint_independent".to_owned(),
            filtering: "address_and_port_dependent".to_owned(),
            kind: "port_restricted".to_owned(),
        };
        let peer = PeerPaths {
            public_key: "BBBB=".to_owned(),
            name: Some("berlin".to_owned()),
            last_handshake_seconds_ago: Some(3),
            paths: PathsStatus {
                negotiated: true,
                in_use: Some(a_path("direct", "198.51.100.9:51820")),
                since_seconds: Some(61.0),
                reason: Some("better_tier".to_owned()),
                changes: 2,
                standby: vec![PathStatus { proven: false, ..a_path("relayed", "203.0.113.1:51900") }],
                candidates: vec![candidate("refused", Some("multicast"))],
                nat: nat.clone(),
                keepalive_seconds: Some(42.0),
                introducers: vec!["hub".to_owned()],
                relay: Some("hub".to_owned()),
            },
        };
        let place =
            PlaceStatus { nat, candidates: vec![candidate("known", None)], introduces: true, ..PlaceStatus::default() };
        let mut network = NetworkStatus { hairpin: Some(false), ..NetworkStatus::default() };
        network.port_mapping.protocol = Some("pcp".to_owned());
        network.port_mapping.external = Some("198.51.100.9:51820".parse().expect("an address"));
        Paths { interface: "wg0".to_owned(), place, network, peers: vec![peer] }
    }

    #[test]
    fn the_page_says_which_path_is_taken_since_when_and_why() {
        let page = page(&paths());
        for line in [
            "interface: wg0",
            "  nat: port-restricted (mapping endpoint-independent, filtering address-and-port-dependent)",
            "  hairpin: no",
            "  port mapping: 198.51.100.9:51820 by pcp",
            "  role: introduces its peers",
            "  candidates: peer-reflexive 198.51.100.9:7 (known)",
            "peer: BBBB= (berlin)",
            "  path: direct 198.51.100.9:51820 from 10.1.0.2, 12.3 ms, 2.5 % loss, 1472 bytes",
            "  chosen: 1 min 1 s ago: better-tier, 2 changes so far",
            "  stand-by: relayed 203.0.113.1:51900 from 10.1.0.2, 12.3 ms, 2.5 % loss, 1472 bytes (not proven)",
            "  relay: hub",
            "  introducers: hub",
            "  keepalive: every 42 s",
            "  candidates: peer-reflexive 198.51.100.9:7 (refused: multicast)",
        ] {
            assert!(page.lines().any(|found| found == line), "{line:?} is missing in:\n{page}");
        }
    }

    #[test]
    fn the_json_of_a_peer_has_its_paths_beside_its_key() {
        let json = serde_json::to_value(paths()).expect("JSON");
        assert_eq!(json["nat"]["kind"], "port_restricted");
        assert_eq!(json["peers"][0]["in_use"]["tier"], "direct");
        assert_eq!(json["peers"][0]["standby"][0]["rtt_ms"], 12.34);
        let back: Paths = serde_json::from_value(json).expect("the same");
        assert_eq!(back.peers[0].paths, paths().peers[0].paths);
    }
}
