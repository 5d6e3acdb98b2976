//! The laboratory without gateways: namespaces, links and traffic over plain routes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::topology::{HOST_B, Topology};
use super::{rtt, udp};
use crate::lab::stop::Stop;
use crate::lab::{Path, tcp};

/// A process has one demo at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Whether the test can run; in CI it has to.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root, and CI skips nothing");
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

#[test]
fn traffic_between_the_hosts_is_measured_and_the_namespaces_go_away() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stop = Stop::default();
    let topology = Topology::new(2).expect("four namespaces");
    topology.join_by_routes().expect("routes");
    let names =
        [&topology.host_a, &topology.gateway_a, &topology.gateway_b, &topology.host_b].map(|n| n.name().to_owned());
    let path = Path { from: &topology.host_a, to: &topology.host_b, address: HOST_B.into() };
    let rtt = rtt::measure(path, Duration::from_millis(200), &stop).expect("echo");
    assert!(rtt.samples > 10 && rtt.us_p50 > 0.0 && rtt.us_p50 <= rtt.us_p99, "{rtt:?}");
    let mut marks = 0;
    let tcp = tcp::measure(path, 2, Duration::from_millis(400), &stop, || marks += 1, |_| {}).expect("tcp");
    assert!(tcp.bits_per_second > 1e8 && marks == 2, "{tcp:?}");
    let udp = udp::trial(path, 10_000.0, Duration::from_millis(300), &stop).expect("udp");
    assert!(udp.sent > 2_000 && udp.sent < 4_000 && udp.loss() < 0.01, "{udp:?}");
    eprintln!("{rtt:?} {tcp:?} {udp:?}");
    drop(topology);
    for name in names {
        assert!(!std::path::Path::new("/run/netns").join(&name).exists(), "{name} is left");
    }
}

#[test]
fn an_interrupted_measurement_ends_at_once() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stop = Stop::default();
    let topology = Topology::new(1).expect("four namespaces");
    topology.join_by_routes().expect("routes");
    stop.flag().store(true, std::sync::atomic::Ordering::Relaxed);
    let start = std::time::Instant::now();
    let path = Path { from: &topology.host_a, to: &topology.host_b, address: HOST_B.into() };
    let long = Duration::from_secs(600);
    assert!(tcp::measure(path, 1, long, &stop, || {}, |_| {}).is_err());
    assert!(udp::trial(path, 1000.0, long, &stop).is_err());
    assert!(rtt::measure(path, long, &stop).is_err());
    assert!(start.elapsed() < Duration::from_secs(5));
}
