//! `landbridge demo` from start to end: what it prints, and that nothing is left of it.

use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Two demos at a time would measure each other.
static ONE: Mutex<()> = Mutex::new(());

/// Whether the tests can run; in CI they have to.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root, and CI skips nothing");
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_landbridge"))
        .arg("demo")
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

/// Files and namespaces that bear a demo's process id.
fn left_of(pid: u32) -> Vec<String> {
    let names = |directory: &str| -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut left = names("/run/netns");
    left.extend(names("/run/landbridge"));
    left.extend(names("/run/wireguard"));
    let of_pid = [
        format!("landbridge-demo-{pid}-"),
        format!("demo-{pid}."),
        format!("nat-{pid}."),
        format!("lbd-{pid}-"),
        format!("lbn{pid}"),
    ];
    left.retain(|name| of_pid.iter().any(|mine| name.starts_with(mine)));
    left
}

fn namespace(pid: u32) -> std::path::PathBuf {
    format!("/run/netns/landbridge-demo-{pid}-gateway-b").into()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_json_object_with_every_figure_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (wan, lan) in [("udp", "tun"), ("xdp", "tun"), ("udp", "xdp"), ("xdp", "xdp")] {
        let child = start(&["--wan", wan, "--lan", lan, "--duration", "3", "--streams", "2", "--json"]);
        let pid = child.id();
        let output = child.wait_with_output().expect("the demo ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{err}");
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        for key in [
            "wan_backend",
            "xdp_mode",
            "xdp_copy_mode",
            "lan_backend",
            "handshake_ms",
            "tcp_gbps",
            "udp_pps",
            "udp_loss_percent",
            "rtt_us_p50",
            "rtt_us_p99",
            "xdp_redirected_packets",
            "wan_socket_data_packets",
        ] {
            assert!(object.get(key).is_some(), "{key} is missing in {object:#}");
        }
        let number = |key: &str| object[key].as_f64().unwrap_or(-1.0);
        assert_eq!(object["wan_backend"], wan);
        for key in ["handshake_ms", "tcp_gbps", "udp_pps", "rtt_us_p50"] {
            assert!(number(key) > 0.0, "{key} in {object:#}");
        }
        let of_lan = number("lan_xdp_percent");
        assert!(if lan == "xdp" { of_lan > 95.0 } else { of_lan == 0.0 }, "{object:#}");
        let (by_xdp, by_socket) = (number("xdp_redirected_packets"), number("wan_socket_data_packets"));
        if wan == "xdp" {
            assert_eq!(object["xdp_mode"], "native", "veth has XDP in its driver");
            assert!(by_xdp / (by_xdp + by_socket) >= 0.999, "{object:#}");
        } else {
            assert!(object["xdp_mode"].is_null() && by_xdp.abs() < 0.5 && by_socket > 0.0, "{object:#}");
        }
        assert_eq!(left_of(pid), Vec::<String>::new());
    }
}

#[test]
fn sites_behind_nats_are_shown_to_find_each_other() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (nat, tiers) in [("full-cone,port-restricted", &["direct"][..]), ("symmetric,blocked", &["relayed"])] {
        let child = start(&["--wan", "udp", "--nat", nat, "--duration", "2", "--streams", "1", "--json"]);
        let pid = child.id();
        let output = child.wait_with_output().expect("the demo ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{err}");
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert!(tiers.iter().any(|tier| object["tier"] == *tier), "{object:#}");
        assert!(object["first_packet_ms"].is_f64() && object["tcp_gbps"].as_f64() > Some(0.0), "{object:#}");
        assert_eq!(object["direct_ms"].is_null(), object["tier"] == "relayed", "{object:#}");
        assert!(err.contains("linked to the introducer"), "{err}");
        assert_eq!(left_of(pid), Vec::<String>::new());
    }
}

#[test]
fn ctrl_c_and_sigterm_end_it_early_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let child = start(&["--wan", "udp", "--duration", "600"]);
        let pid = child.id();
        wait_for("the namespaces are made", || namespace(pid).exists());
        std::thread::sleep(Duration::from_millis(500));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).expect("signal");
        let output = child.wait_with_output().expect("the demo ends");
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(left_of(pid), Vec::<String>::new());
    }
}

#[test]
fn what_a_killed_demo_left_is_removed_by_the_next_one() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut killed = start(&["--wan", "udp", "--duration", "600"]);
    let pid = killed.id();
    wait_for("the gateways run", || left_of(pid).iter().filter(|name| name.starts_with("lbd-")).count() >= 2);
    killed.kill().expect("kill");
    killed.wait().expect("wait");
    assert!(namespace(pid).exists(), "a killed demo cannot have cleaned up");
    let next = start(&["--wan", "udp", "--duration", "600"]);
    wait_for("the leftovers go", || left_of(pid).is_empty());
    rustix::process::kill_process(rustix::process::Pid::from_child(&next), rustix::process::Signal::INT)
        .expect("signal");
    let next_pid = next.id();
    next.wait_with_output().expect("the demo ends");
    assert_eq!(left_of(next_pid), Vec::<String>::new());
}
