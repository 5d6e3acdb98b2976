//! Alerts and dashboard are held to the metrics that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use landbridge_ebpf_common::Verdict;
use landbridge_proto::DropReason;
use serde_json::Value;

use super::tests::status;
use super::{Extra, RingCounters, text};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(deploy(file)).expect("a file of deploy")
}

/// Names of all metrics, with the names of their labels.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let rings = vec![RingCounters { interface: "eth1".to_owned(), queue: 0, statistics: Default::default() }];
    let extra = Extra { drops: vec![("replayed", 5)], rings };
    let text = String::from_utf8(text(&status(), &extra)).expect("text");
    let mut metrics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once('{').expect("every series has a device");
        let labels =
            rest.rsplit_once('}').expect("labels end").0.split("\",").filter_map(|label| label.split_once('='));
        metrics.entry(name.to_owned()).or_default().extend(labels.map(|(label, _)| label.to_owned()));
    }
    metrics
}

/// What a query asks for: metrics, each with the conditions on its labels.
fn selectors(query: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = ["landbridge_", "wireguard_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        let (name, behind) = rest[at..].split_at(rest[at..].find(|c| !is_part(c)).unwrap_or(rest.len() - at));
        let (conditions, behind) = match behind.strip_prefix('{') {
            Some(inner) => inner.split_once('}').expect("conditions end"),
            None => ("", behind),
        };
        let conditions = conditions.split("\",").filter_map(|condition| condition.split_once('='));
        let parts = conditions.map(|(label, value)| (label.trim_end_matches('!'), value.trim_matches(['~', '"'])));
        found.push((name, parts.collect()));
        rest = behind;
    }
    found
}

/// What asks for anything that there is not.
fn wrong(query: &str) -> Vec<String> {
    let metrics = metrics();
    let mut wrong = Vec::new();
    for (name, conditions) in selectors(query) {
        let Some(labels) = metrics.get(name) else {
            wrong.push(format!("there is no {name}"));
            continue;
        };
        for (label, value) in conditions {
            // Prometheus itself adds these two.
            if !labels.contains(label) && !["job", "instance"].contains(&label) {
                wrong.push(format!("{name} has no {label}"));
            }
            let known: Option<Vec<&str>> = match (name, label) {
                ("landbridge_dropped_packets_total", "reason") => {
                    Some(DropReason::ALL.iter().map(|reason| reason.label()).collect())
                }
                ("landbridge_xdp_packets_total", "verdict") => {
                    Some(Verdict::ALL.iter().map(|verdict| verdict.label()).collect())
                }
                _ => None,
            };
            let unknown =
                |value: &&str| !value.contains('*') && known.as_ref().is_some_and(|known| !known.contains(value));
            wrong.extend(value.split('|').filter(unknown).map(|value| format!("no {label} of {name} is {value}")));
        }
    }
    wrong
}

/// Title and query of every target of a dashboard.
fn panels(dashboard: &str) -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().expect("a panel's targets");
        targets.iter().map(|target| (panel["title"].to_string(), target["expr"].to_string().replace("\\\"", "\"")))
    });
    targets.collect()
}

#[test]
fn every_panel_of_the_dashboard_asks_for_metrics_that_there_are() {
    let panels = panels(&read("grafana/landbridge.json"));
    assert!(panels.len() >= 17, "{panels:?}");
    for (title, query) in &panels {
        assert!(query.contains("job=\"landbridge\",instance=~\"$instance\""), "{title}: {query}");
        assert_eq!(wrong(query), Vec::<String>::new(), "{title}: {query}");
    }
    for part in ["relay_packets", "relay_limited", "relay_allocations_max", "relay_.*\""] {
        assert!(panels.iter().any(|(_, query)| query.contains(part)), "no panel shows {part}");
    }
}

#[test]
fn panels_of_the_dashboard_lie_beside_each_other_and_have_numbers_of_their_own() {
    let dashboard: Value = serde_json::from_str(&read("grafana/landbridge.json")).expect("JSON");
    let (mut places, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(numbers.insert(panel["id"].as_u64().expect("a number")), "{panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
        assert!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(places.insert(cell), "another panel is there: {panel}");
        }
    }
}

#[test]
fn every_alert_asks_for_metrics_labels_and_reasons_that_there_are() {
    let rules = read("prometheus/landbridge.rules.yml");
    let alerts: Vec<_> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 16, "{} alerts", alerts.len());
    for alert in alerts {
        let (_, query) = alert.split_once("expr:").expect("an expression");
        let (query, _) = query.split_once("\n        labels:").expect("labels of the alert");
        assert_eq!(wrong(query), Vec::<String>::new(), "{alert}");
        assert!(alert.contains("summary:") && alert.contains("description:"), "{alert}");
    }
}

#[test]
fn a_query_for_what_there_is_not_is_found_out() {
    assert_eq!(wrong("rate(landbridge_relay_packets_total{backend=\"xdp\"}[5m]) > 0"), Vec::<String>::new());
    for query in [
        "landbridge_nothing_total",
        "landbridge_relay_packets_total{side=\"xdp\"}",
        "1 + landbridge_dropped_packets_total{reason=~\"no_route|no_such\"}",
        "landbridge_xdp_packets_total{verdict=\"nothing\"}",
    ] {
        assert_eq!(wrong(query).len(), 1, "{query}");
    }
}

/// Prometheus' own judgement, where its tools are installed.
#[test]
fn promtool_accepts_the_alerts_and_they_fire_when_they_should() {
    let run = |arguments: [&str; 2], file: &str| Command::new("promtool").args(arguments).arg(deploy(file)).output();
    for (arguments, file) in [
        (["check", "rules"], "prometheus/landbridge.rules.yml"),
        (["test", "rules"], "prometheus/landbridge.rules.test.yml"),
    ] {
        match run(arguments, file) {
            Ok(output) => {
                let said = [&output.stdout[..], &output.stderr[..]].concat();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
            }
            Err(error) => eprintln!("skipped: promtool: {error}"),
        }
    }
}
