//! `landbridge status`: what running gateways tell of themselves.
//!
//! Enters: the status sockets under /run/landbridge. Leaves: a readable page, or JSON. Never does: change a gateway.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use anyhow::Context as _;

use super::{args, output, paths};
use crate::status::relay::{RelayEndStatus, RelayStatus};
use crate::status::{
    ExtensionsStatus, InterfaceStatus, LanStatus, LaneStatus, PeerStatus, StageStatus, StagesStatus, Status, WanStatus,
    fetch, socket_path,
};

pub(super) fn run(args: &args::Status) -> anyhow::Result<()> {
    show(&ask(args)?, args, page)
}

/// Asks the gateway that was named, or all that run.
pub(super) fn ask(args: &args::Status) -> anyhow::Result<Vec<Status>> {
    if let Some(interface) = &args.interface {
        let path = socket_path(interface);
        return Ok(vec![fetch(&path).map_err(|error| explain(error, interface, &path))?]);
    }
    let mut all = Vec::new();
    for interface in running()? {
        let path = socket_path(&interface);
        match fetch(&path) {
            Ok(status) => all.push(status),
            // A gateway that was killed leaves its socket behind.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(explain(error, &interface, &path)),
        }
    }
    if all.is_empty() && !args.json {
        eprintln!("landbridge: no gateway is running");
    }
    Ok(all)
}

/// Prints what gateways answered, as pages or as JSON: one object for the one that was named, else a list.
pub(super) fn show<T: serde::Serialize>(
    all: &[T],
    args: &args::Status,
    page: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let text = match (args.json, all) {
        (true, [one]) if args.interface.is_some() => serde_json::to_string_pretty(one)? + "\n",
        (true, all) => serde_json::to_string_pretty(all)? + "\n",
        (false, all) => all.iter().map(page).collect::<Vec<_>>().join("\n"),
    };
    output::print(&text)?;
    Ok(())
}

/// Names of the interfaces with a socket, in order.
fn running() -> anyhow::Result<Vec<String>> {
    let path = socket_path("x");
    let directory = path.parent().unwrap_or(Path::new("/"));
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", directory.display())),
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn explain(error: io::Error, interface: &str, path: &Path) -> anyhow::Error {
    let said = match error.kind() {
        _ if is_gone(&error) => format!("no gateway is running for interface {interface}"),
        io::ErrorKind::PermissionDenied => {
            format!("{} is for root only: run `sudo landbridge status`", path.display())
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the gateway of interface {interface} does not answer")
        }
        _ => format!("{}: {error}", path.display()),
    };
    anyhow::anyhow!(said)
}

fn relay(relay: &RelayStatus) -> String {
    let [first, last] = relay.ports;
    format!(
        "{}: {}; ports {first}-{last}; {} packets by XDP, {} by the thread",
        relay.backend,
        relay.reason,
        output::count(relay.xdp.packets),
        output::count(relay.user.packets)
    )
}

fn relay_end(end: &RelayEndStatus) -> String {
    let peer = end.name.as_deref().unwrap_or(&end.public_key);
    match (&end.place, &end.forwarded_by) {
        (Some(place), Some(by)) => format!("{peer} at port {} from {place}, by {by}", end.port),
        (Some(place), None) => format!("{peer} at port {} from {place}", end.port),
        (None, _) => format!("{peer} at port {}, not there yet", end.port),
    }
}

fn page(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |indent: usize, name: &str, value: String| {
        let _infallible = writeln!(text, "{:indent$}{name}: {value}", "");
    };
    line(0, "interface", status.interface.clone());
    if let Some(key) = &status.public_key {
        line(2, "public key", key.clone());
    }
    line(2, "listening port", status.listen_port.to_string());
    line(2, "mtu", status.mtu.to_string());
    line(
        2,
        "running",
        format!("{}, process {}, version {}", output::seconds(status.uptime_seconds), status.pid, status.version),
    );
    line(2, "wan", wan(&status.wan));
    if let Some(checksums) = checksums(&status.wan) {
        line(2, "checksums", checksums);
    }
    line(2, "lan", lan(&status.lan));
    if let Some(relay) = &status.relay {
        line(2, "relay", self::relay(relay));
        for allocation in &relay.allocations {
            line(4, &allocation.kind, allocation.ends.iter().map(relay_end).collect::<Vec<_>>().join("; "));
        }
    }
    line(2, "crypto", format!("{}: {}", status.crypto.engine, status.crypto.reason));
    for lane in &status.lanes {
        line(2, &format!("lane {}", lane.lane), self::lane(lane));
        if let Some(stages) = &lane.stages {
            line(4, "ns a packet", self::stages(stages));
        }
    }
    let named = |map: &std::collections::BTreeMap<String, u64>| {
        let shown = map.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {}", output::count(*n)));
        shown.collect::<Vec<_>>().join(", ")
    };
    if !status.xdp_verdicts.is_empty() {
        line(2, "xdp verdicts", named(&status.xdp_verdicts));
    }
    let drops = named(&status.drops);
    line(2, "drops", if drops.is_empty() { "none".to_owned() } else { drops });
    for peer in &status.peers {
        text.push('\n');
        text.push_str(&self::peer(peer));
    }
    text
}

/// Who computes the checksums that datagrams over IPv6 need.
fn checksums(wan: &WanStatus) -> Option<String> {
    let said: Vec<String> = wan
        .interfaces
        .iter()
        .filter_map(|interface| Some(format!("{}: over IPv6 {}", interface.name, interface.checksums.as_ref()?)))
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn wan(wan: &WanStatus) -> String {
    format!("{}{}: {}", wan.backend, on(&wan.interfaces), wan.reason)
}

fn on(interfaces: &[InterfaceStatus]) -> String {
    let interfaces: Vec<String> = interfaces
        .iter()
        .map(|interface| {
            let driver = interface.driver.as_deref().unwrap_or("unknown driver");
            let (mode, copy) = (&interface.xdp_mode, &interface.copy_mode);
            let queues = output::plural(interface.queues.into(), "queue");
            let no = if interface.multi_buffer { "" } else { "no " };
            let buffers = format!("{no}multi-buffer: {}", interface.multi_buffer_reason);
            format!("{} ({driver}, {mode}, {copy}, {queues}, {buffers})", interface.name)
        })
        .collect();
    if interfaces.is_empty() { String::new() } else { format!(" on {}", interfaces.join(", ")) }
}

fn lan(lan: &LanStatus) -> String {
    let offloads = match (lan.tso, lan.uso) {
        (true, true) => "TCP and UDP offload",
        (true, false) => "TCP offload",
        (false, true) => "UDP offload",
        (false, false) => "no offload",
    };
    let tun = format!("{}, {offloads}", output::plural(lan.queues as u64, "queue"));
    if lan.backend == "tun" {
        return format!("tun ({tun}): {}", lan.reason);
    }
    let known =
        format!("{}, {}", output::plural(lan.routes as u64, "route"), output::plural(lan.next_hops as u64, "next hop"));
    format!("{}{} ({known}), beside tun ({tun}): {}", lan.backend, on(&lan.interfaces), lan.reason)
}

fn lane(lane: &LaneStatus) -> String {
    let value = |name: &str| lane.counters.get(name).copied().unwrap_or(0);
    let shown = |name: &str| output::count(value(name));
    let cpu = lane.cpu.map_or_else(|| "not pinned".to_owned(), |cpu| format!("cpu {cpu}"));
    let wan_in = output::count(value("wan_xdp_rx_packets") + value("wan_socket_rx_packets"));
    let wan_out = output::count(value("wan_xdp_tx_packets") + value("wan_socket_tx_packets"));
    format!(
        "{cpu}, wan {wan_in} in {wan_out} out, lan {} in {} out, jobs {} own {} stolen, {} frames free",
        shown("lan_rx_packets"),
        shown("lan_tx_packets"),
        shown("jobs_own"),
        shown("jobs_stolen"),
        value("frames_free"),
    )
}

/// What a packet costs in each stage, of the turns that were sampled.
fn stages(stages: &StagesStatus) -> String {
    let cost = |stage: &StageStatus| {
        (stage.packets > 0).then(|| format!("{} {:.0}", stage.stage, stage.ns as f64 / stage.packets as f64))
    };
    let shown: Vec<String> = stages.stages.iter().filter_map(cost).collect();
    format!(
        "{} (one turn in {} sampled)",
        if shown.is_empty() { "none yet".to_owned() } else { shown.join(", ") },
        stages.every
    )
}

fn extensions(extensions: &ExtensionsStatus) -> String {
    let refused = if extensions.ports_refused { " (more do not get through)" } else { "" };
    format!(
        "control channel {}, sends from {}{refused}, receives from {}",
        extensions.version,
        output::plural(extensions.ports_out as u64, "port"),
        output::plural(extensions.ports_in as u64, "port"),
    )
}

fn peer(peer: &PeerStatus) -> String {
    let mut text = String::new();
    let mut line = |indent: usize, name: &str, value: String| {
        let _infallible = writeln!(text, "{:indent$}{name}: {value}", "");
    };
    let name = peer.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    line(0, "peer", format!("{}{name}", peer.public_key));
    if let Some(endpoint) = peer.endpoint {
        line(2, "endpoint", endpoint.to_string());
    }
    match peer.paths.in_use.as_ref().filter(|path| path.tier.is_some()) {
        Some(path) => line(2, "path", format!("{}, by {}", paths::path(path), peer.path)),
        None => line(2, "path", peer.path.clone()),
    }
    if let Some(chosen) = paths::chosen(&peer.paths) {
        line(2, "chosen", chosen);
    }
    let networks: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    line(2, "allowed ips", if networks.is_empty() { "(none)".to_owned() } else { networks.join(", ") });
    if let Some(ago) = peer.last_handshake_seconds_ago {
        let took = peer.handshake_ms.map(|ms| format!(" (took {ms:.2} ms)")).unwrap_or_default();
        line(2, "latest handshake", format!("{} ago{took}", output::seconds(ago)));
    }
    if peer.rx_bytes > 0 || peer.tx_bytes > 0 {
        let (rx, tx) = (output::bytes(peer.rx_bytes), output::bytes(peer.tx_bytes));
        let packets = format!("{} and {} packets", output::count(peer.rx_packets), output::count(peer.tx_packets));
        line(2, "transfer", format!("{rx} received, {tx} sent ({packets})"));
    }
    if let Some(extensions) = &peer.extensions {
        line(2, "extensions", self::extensions(extensions));
    }
    if let Some(every) = peer.persistent_keepalive_seconds {
        line(2, "persistent keepalive", format!("every {}", output::seconds(every)));
    }
    text
}
