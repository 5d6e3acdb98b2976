//! `landbridge check FILE`: what would run, in a person's words.
//!
//! Enters: a configuration file. Leaves: a summary, or the mistake. Never does: change anything, resolve a name, or print a
//! secret.

use std::fmt::Write as _;

use super::{args, output};
use crate::config::{self, Format, Loaded, draft};
use crate::control::lan;
use crate::settings::{
    ChecksumOffload, Crypto, LanBackend, Peer, PublicKey, RelayBackend, RelayLink, RouteTable, Settings, WanBackend,
    XdpMode,
};

pub(super) fn run(args: &args::Check) -> anyhow::Result<()> {
    let loaded = config::load(&args.file)?;
    for note in &loaded.notes {
        eprintln!("landbridge: note: {}: {note}", args.file.display());
    }
    let mut text = format!(
        "{}: good ({})\n",
        args.file.display(),
        match loaded.format {
            Format::Toml => "Landbridge's TOML",
            Format::WgQuick => "wg-quick's format",
        }
    );
    summary(&loaded, &mut text);
    output::print(&text)?;
    warn_of_forwarding(&loaded.settings);
    Ok(())
}

/// Rings forward by themselves, but what they leave to the kernel goes nowhere on a host that does not forward.
fn warn_of_forwarding(settings: &Settings) {
    if settings.lan.backend != LanBackend::Tun && !settings.lan.interfaces.is_empty() {
        for name in lan::forwarding_off() {
            eprintln!("landbridge: warning: {name} is 0 here: what lan rings leave to the kernel is not forwarded");
        }
    }
}

fn summary(loaded: &Loaded, text: &mut String) {
    let settings = &loaded.settings;
    let mut lines = vec![("interface", settings.interface.clone())];
    let key =
        draft::own_key(settings).map_or_else(|| "none: `wg set` has to give one".to_owned(), |key| key.to_string());
    lines.push(("public key", key));
    lines
        .push(("listen port", settings.listen_port.map_or_else(|| "any free one".to_owned(), |port| port.to_string())));
    lines.push(("addresses", join(&settings.addresses, "none")));
    lines.push((
        "mtu",
        settings.mtu.map_or_else(|| "from the routes to the endpoints".to_owned(), |mtu| mtu.to_string()),
    ));
    lines.push((
        "routes",
        match settings.table {
            RouteTable::Auto => "main table (a default route gets a table of its own)".to_owned(),
            RouteTable::Off => "none".to_owned(),
            RouteTable::Id(id) => format!("table {id}"),
        },
    ));
    if let Some(mark) = settings.fwmark {
        lines.push(("fwmark", format!("{mark:#x}")));
    }
    if !settings.dns.is_empty() {
        lines.push(("dns", settings.dns.join(", ")));
    }
    let hooks = &settings.hooks;
    for (name, commands) in [
        ("pre up", &hooks.pre_up),
        ("post up", &hooks.post_up),
        ("pre down", &hooks.pre_down),
        ("post down", &hooks.post_down),
    ] {
        lines.extend(commands.iter().map(|command| (name, command.clone())));
    }
    lines.push(("wan", wan(settings)));
    lines.push(("lan", lan(settings)));
    nat(settings, &mut lines);
    relay(settings, &mut lines);
    let beside = match settings.wan.source_ports {
        0 => "the listen port".to_owned(),
        ports => format!("the listen port and {ports} more, for peers that agree to them"),
    };
    lines.push(("source ports", beside));
    let lanes = settings.lanes.map_or_else(|| "by cores and queues".to_owned(), |lanes| lanes.to_string());
    let frames =
        sized(settings.frames_per_lane, "frames by the number of queues", |frames| format!("{frames} frames each"));
    let pin = match settings.pin {
        Some(true) => "each on one core",
        Some(false) => "on any core",
        None => "each on one core where others remain",
    };
    lines.push(("lanes", format!("{lanes}, {pin}, {frames}")));
    let crypto = match settings.crypto {
        Crypto::Auto => "auto (the fastest engine that works on this CPU)",
        Crypto::Ring => "ring",
        Crypto::Multibuffer => "multibuffer",
    };
    lines.push(("crypto", crypto.to_owned()));
    lines.push(("metrics", settings.metrics.map_or_else(|| "off".to_owned(), |at| format!("http://{at}/metrics"))));
    if let Some(user) = &settings.user {
        lines.push(("user", user.clone()));
    }
    for (name, value) in lines {
        let _infallible = writeln!(text, "  {name:<12} {value}");
    }
    for peer in &settings.peers {
        describe(peer, text);
    }
}

/// How peers behind NATs are found.
fn nat(settings: &Settings, lines: &mut Vec<(&str, String)>) {
    let nat = &settings.nat;
    let servers: Vec<_> = nat.stun.iter().map(ToString::to_string).collect();
    lines.push(("stun", join(&servers, "none: our address is known only from peers and from the router")));
    let protocols: Vec<_> = nat.port_mapping.iter().map(|protocol| protocol.name().to_owned()).collect();
    lines.push(("port mapping", join(&protocols, "off")));
    let direct = match (nat.direct, nat.spray) {
        (true, true) => "direct, with a search for ports behind symmetric NATs",
        (true, false) => "direct, without a search for ports behind symmetric NATs",
        (false, _) => "relays only: peers do not learn our addresses",
    };
    lines.push(("paths", direct.to_owned()));
    lines.push(("introduces", if nat.introduce { "its peers to each other" } else { "nobody" }.to_owned()));
}

/// What is forwarded between peers.
fn relay(settings: &Settings, lines: &mut Vec<(&str, String)>) {
    let relay = &settings.relay;
    if !relay.enabled {
        lines.push(("relay", "off".to_owned()));
        return;
    }
    let backend = match relay.backend {
        RelayBackend::Auto => "auto (the XDP program where the interfaces can, else a thread)",
        RelayBackend::Xdp => "xdp",
        RelayBackend::User => "user (a thread)",
    };
    let rate = sized(relay.rate_mbps, "no limit", |rate| format!("{rate} Mbit/s from each end"));
    lines.push(("relay", format!("{backend}, ports {}, {rate}", relay.ports)));
    let name = |key: PublicKey| {
        let peer = settings.peers.iter().find(|peer| peer.public_key == key);
        peer.and_then(|peer| peer.name.clone()).unwrap_or_else(|| key.to_string())
    };
    for RelayLink { peers: [one, other], ports: [port, other_port] } in &relay.links {
        lines.push(("relay link", format!("{} at port {port}, {} at port {other_port}", name(*one), name(*other))));
    }
}

fn wan(settings: &Settings) -> String {
    let wan = &settings.wan;
    let backend = match wan.backend {
        WanBackend::Auto => "auto",
        WanBackend::Xdp => "xdp",
        WanBackend::Udp => return "udp".to_owned(),
    };
    let mode = mode(wan.xdp_mode);
    let copy = if wan.copy { "copy" } else { "zero-copy or copy" };
    let interfaces =
        if wan.interfaces.is_empty() { "the endpoints' routes".to_owned() } else { wan.interfaces.join(", ") };
    let rings = sized(wan.ring, "rings by the number of queues", |entries| format!("rings of {entries}"));
    let checksums = match wan.checksum_offload {
        ChecksumOffload::Auto => "checksums over IPv6 by zero-copy drivers that can",
        ChecksumOffload::On => "checksums over IPv6 by the interface",
        ChecksumOffload::Off => "checksums over IPv6 in software",
    };
    format!("{backend} (interfaces: {interfaces}; {mode}; {copy}; {rings}; {checksums})")
}

const fn mode(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Auto => "native or generic",
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    }
}

/// A size, which is zero where nobody said it.
fn sized(size: u32, unsaid: &str, said: impl Fn(u32) -> String) -> String {
    if size == 0 { unsaid.to_owned() } else { said(size) }
}

fn lan(settings: &Settings) -> String {
    let backend = match settings.lan.backend {
        LanBackend::Auto => "auto",
        LanBackend::Tun => "tun",
        LanBackend::Xdp => "xdp",
    };
    let offload = if settings.lan.offloads { "on" } else { "off" };
    match settings.lan.interfaces.as_slice() {
        [] => format!("{backend} (segmentation offload {offload})"),
        interfaces if settings.lan.backend == LanBackend::Tun => {
            format!("tun (segmentation offload {offload}; the interfaces {} have no part in it)", interfaces.join(", "))
        }
        interfaces => {
            let mode = mode(settings.lan.xdp_mode);
            let copy = if settings.lan.copy { "copy" } else { "zero-copy or copy" };
            format!(
                "{backend} (interfaces: {}; {mode}; {copy}; beside a tun with segmentation offload {offload})",
                interfaces.join(", ")
            )
        }
    }
}

fn describe(peer: &Peer, text: &mut String) {
    let name = peer.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let endpoint = peer.endpoint.as_ref().map_or_else(|| "unknown until it calls".to_owned(), ToString::to_string);
    let keepalive =
        peer.persistent_keepalive.map_or_else(|| "off".to_owned(), |every| format!("every {} s", every.as_secs()));
    let shared = if peer.preshared_key.is_some() { "yes" } else { "no" };
    let extensions = match (peer.extensions, peer.direct) {
        (false, _) => "off",
        (true, None) => "where it has them",
        (true, Some(true)) => "where it has them; direct paths",
        (true, Some(false)) => "where it has them; relays only",
    };
    let _infallible = writeln!(
        text,
        "peer {}{name}\n  {:<12} {endpoint}\n  {:<12} {}\n  {:<12} {keepalive}\n  {:<12} {shared}\n  {:<12} {extensions}",
        peer.public_key,
        "endpoint",
        "allowed ips",
        join(&peer.allowed_ips, "none: no packet can go to it"),
        "keepalive",
        "preshared",
        "extensions",
    );
}

/// A list that stays readable.
fn join<T: ToString>(items: &[T], none: &str) -> String {
    const SHOWN: usize = 12;
    if items.is_empty() {
        return none.to_owned();
    }
    let mut text = items.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        let _infallible = write!(text, " and {} more", items.len() - SHOWN);
    }
    text
}
