//! What Prometheus sees while traffic runs.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::lab::{
    Echo, Flow, Lab, Namespace, Outside, Program, Sites, Wan, eventually, landbridge, run, shout, tunnel_v4,
};

const SOON: Duration = Duration::from_secs(8);
const LISTEN: &str = "127.0.0.1:9586";

/// One request, as Prometheus makes it.
fn get(namespace: &Namespace, path: &'static str) -> String {
    let answer = namespace.inside(move || -> std::io::Result<String> {
        let address: SocketAddr = LISTEN.parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    answer.expect("an answer of the metrics endpoint")
}

/// Every series of one scrape and its value.
fn scrape(namespace: &Namespace) -> BTreeMap<String, f64> {
    let answer = get(namespace, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an empty line after the head");
    assert!(head.to_lowercase().contains("content-type: text/plain"), "{head}");
    let series = body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    series
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        })
        .collect()
}

/// The one series of a name whose labels hold all of some texts.
#[track_caller]
fn value(series: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let matches = |key: &str| {
        key.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.is_empty())
            && labels.iter().all(|label| key.contains(label))
    };
    let found: Vec<_> = series.iter().filter(|(key, _)| matches(key)).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?} among {series:#?}");
    *found[0].1
}

#[test]
fn prometheus_sees_peers_lanes_and_drops_move() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Xdp), Program::Up(Wan::Udp), Outside::V4);
    left.extra = format!("\n[metrics]\nlisten = \"{LISTEN}\"\n");
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, Duration::from_millis(5));
    flow.goes_on("traffic", SOON);
    let device = format!("device=\"{}\"", left.interface);
    let key = format!("public_key=\"{}\"", right.keys.public);
    let labels = [device.as_str(), key.as_str()];
    let first = scrape(&sites.a);
    flow.goes_on("more traffic", SOON);
    let moved = ["wireguard_peer_receive_bytes_total", "wireguard_peer_transmit_bytes_total"];
    // A scrape may show what the lanes counted a moment ago.
    eventually("bytes of the peer move", SOON, || {
        let second = scrape(&sites.a);
        moved.iter().all(|name| value(&second, name, &labels) > value(&first, name, &labels) + 1000.0).then_some(())
    });
    value(&first, "wireguard_peer_info", &labels);
    value(&first, "wireguard_device_info", &labels[..1]);
    let handshake = value(&first, "wireguard_peer_last_handshake_seconds", &labels);
    assert!(handshake > 1.0e9, "seconds since the epoch, as the exporters of the field have it: {handshake}");

    let lanes: f64 = first.iter().filter(|(key, _)| key.contains("lane=\"")).map(|(_, value)| value).sum();
    assert!(lanes > 0.0, "{first:#?}");
    let no_route = |series: &BTreeMap<String, f64>| -> f64 {
        series.iter().filter(|(key, _)| key.contains("reason=\"no_route\"")).map(|(_, value)| value).sum()
    };
    let before = no_route(&scrape(&sites.a));
    shout(&sites.a, tunnel_v4(1), tunnel_v4(99), 3);
    eventually("drops move", SOON, || (no_route(&scrape(&sites.a)) >= before + 3.0).then_some(()));
}

#[test]
fn the_path_in_use_is_shown_by_prometheus_and_on_the_command_line() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    left.extra = format!("\n[metrics]\nlisten = \"{LISTEN}\"\n");
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, Duration::from_millis(5));
    flow.goes_on("traffic", SOON);
    let key = format!("public_key=\"{}\"", right.keys.public);
    let up = |series: &BTreeMap<String, f64>| {
        series.iter().any(|(name, value)| name.starts_with("landbridge_path_up{") && *value > 0.0)
    };
    let series = eventually("a proven path", SOON, || Some(scrape(&sites.a)).filter(up));
    value(&series, "landbridge_path_info", &[key.as_str(), "tier=\"local\""]);
    assert!(value(&series, "landbridge_path_rtt_seconds", &[&key]) < 5.0);
    assert!(value(&series, "landbridge_path_loss_ratio", &[&key]) <= 1.0);
    assert!(value(&series, "landbridge_path_changes_total", &["reason=\"proven\""]) >= 1.0);
    value(&series, "landbridge_nat_info", &[]);
    let program = landbridge();
    let program = program.to_str().expect("a path of letters");
    let json = run(&[program, "paths", &left.interface, "--json"]);
    let paths: landbridge::status::paths::Paths = serde_json::from_str(&json).expect("the JSON of paths");
    let path = paths.peers[0].paths.in_use.as_ref().expect("a path");
    assert_eq!((path.remote.port(), path.tier.as_deref()), (51820, Some("local")));
    let page = run(&[program, "paths", &left.interface]);
    assert!(page.contains("path: local "), "{page}");
    assert!(page.contains("chosen: "), "{page}");
}

#[test]
fn the_metrics_endpoint_answers_other_requests_and_nonsense_without_harm() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, _right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    left.extra = format!("\n[metrics]\nlisten = \"{LISTEN}\"\n");
    left.start();
    assert!(get(&sites.a, "/nothing").starts_with("HTTP/1.1 404 "));
    // Connections that say nothing, and one that says nonsense without an end, take nothing from the next scrape.
    let silent = sites.a.inside(|| (0..40).map(|_| TcpStream::connect(LISTEN)).collect::<Vec<_>>());
    sites.a.inside(|| {
        let mut stream = TcpStream::connect(LISTEN).expect("a connection");
        stream.set_write_timeout(Some(SOON)).expect("a time limit");
        for _ in 0..64 {
            // The other side may well close at some point.
            if stream.write_all(&[b'x'; 4096]).is_err() {
                break;
            }
        }
    });
    drop(silent);
    assert!(scrape(&sites.a).keys().any(|key| key.starts_with("wireguard_device_info")));
}
