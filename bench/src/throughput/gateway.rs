//! Two gateways of one implementation, in their namespaces, that have shaken hands.
//!
//! 1. The program is started with a fresh interface name, so that no two ever share a control socket.
//! 2. Keys, peer and allowed IPs go in by the UAPI (by `wg` for the kernel's own).
//! 3. The interface gets its MTU, is set up, and the far site's routes lead into it.
//! 4. One packet makes gateway A begin; both tell when they have shaken hands.
//!
//! Enters: a topology, an implementation, backends. Leaves: [`Gateways`]. Never does: end what it did not start, or
//! leave a socket behind.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landbridge::config::keys;
use landbridge::lab::links;
use landbridge::lab::namespace::Namespace;
use landbridge::lab::stop::Stop;
use landbridge::settings::Secret;
use landbridge::status::{self, Status};
use serde::Serialize;

use super::frame::IpVersion;
use super::implementation::{Implementation, Kind};
use super::process::{Process, Run};
use super::topology::{LAN, Side, Topology, WAN};
use super::uapi::{self, PeerState, Setup};

/// From the start to the control socket.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// From the configuration to a session, with all retries.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(15);
const PORT: u16 = 51820;
/// Inside the tunnel a full packet still fits the 1500 bytes of the wan.
const MTU: u32 = 1420;
/// Where the gateways of this project are scraped, each in its own namespace.
pub(crate) const METRICS: &str = "127.0.0.1:9586";
/// One turn of a lane in so many is measured; a prime, so that it keeps no step with the traffic.
const STAGES_EVERY: &str = "61";
/// How interface names begin; the process id and the side follow.
const PREFIX: &str = "lbt";

/// How an implementation moves and seals packets, as far as it lets one choose.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Backends {
    /// The side towards the internet.
    pub(crate) wan: Option<&'static str>,
    /// The side towards the site.
    pub(crate) lan: Option<&'static str>,
    /// What seals and opens.
    pub(crate) crypto: Option<&'static str>,
    /// How many lanes.
    pub(crate) lanes: Option<u16>,
    /// Whether stages are measured.
    pub(crate) stages: bool,
    /// The tunnel's MTU, where it is another one than usual.
    #[serde(skip)]
    pub(crate) mtu: Option<u32>,
    /// Whether no packet may take several frames of a ring.
    #[serde(skip)]
    pub(crate) one_buffer: bool,
}

/// One of the two.
#[derive(Debug)]
pub(crate) struct Gateway {
    interface: String,
    kind: Kind,
    process: Option<Process>,
    wg: Option<PathBuf>,
    mtu: u32,
}

/// Both, or none where the kernel routes plainly.
#[derive(Debug)]
pub(crate) struct Gateways(Option<[Gateway; 2]>);

impl Gateways {
    /// Joins the sites of a topology.
    pub(crate) fn start(
        topology: &Topology,
        implementation: &Implementation,
        backends: &Backends,
        logs: &Path,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        if implementation.kind == Kind::Plain {
            topology.route_plainly()?;
            return Ok(Self(None));
        }
        remove_leftovers();
        let key = || keys::generate_private().context("the system gives no randomness");
        let keys = [key()?, key()?];
        let start = |side: Side| Gateway::start(topology, side, implementation, backends, logs);
        let gateways = [start(Side::A)?, start(Side::B)?];
        for (gateway, side) in gateways.iter().zip([Side::A, Side::B]) {
            gateway.configure(topology, side, &keys, stop)?;
        }
        let gateways = Self(Some(gateways));
        gateways.shake_hands(topology, stop)?;
        Ok(gateways)
    }

    /// Both, A first; none where the kernel routes plainly.
    pub(crate) fn each(&self) -> &[Gateway] {
        self.0.as_ref().map_or(&[], |gateways| &gateways[..])
    }

    /// An error once one has ended.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.each().iter().try_for_each(Gateway::check)
    }

    /// The ends of their logs, for messages.
    pub(crate) fn logs(&self) -> String {
        self.each().iter().filter_map(|gateway| gateway.process.as_ref()).map(Process::log).collect()
    }

    fn shake_hands(&self, topology: &Topology, stop: &Stop) -> anyhow::Result<()> {
        let end = Instant::now() + HANDSHAKE_PATIENCE;
        let far = SocketAddr::new(topology.host_address(Side::B, IpVersion::V4), 9);
        loop {
            // One packet makes the gateway begin; its later ones are retries of the protocol's own.
            knock(topology.host(Side::A), far)?;
            stop.sleep(Duration::from_millis(50))?;
            self.check()?;
            let mut done = true;
            for (gateway, side) in self.each().iter().zip([Side::A, Side::B]) {
                done &= gateway.state(topology.gateway(side))?.last_handshake_seconds != 0;
            }
            if done {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "no handshake in {HANDSHAKE_PATIENCE:?}\n{}", self.logs());
        }
    }
}

impl Gateway {
    fn start(
        topology: &Topology,
        side: Side,
        implementation: &Implementation,
        backends: &Backends,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let interface = format!("{PREFIX}{}{}", std::process::id(), side.letter());
        let (kind, namespace) = (implementation.kind, topology.gateway(side));
        let mut gateway = Self { interface, kind, process: None, wg: None, mtu: backends.mtu.unwrap_or(MTU) };
        let program = implementation.program.clone().context("an implementation without a program")?;
        if kind == Kind::Kernel {
            links::wireguard(namespace, &gateway.interface)?;
            gateway.wg = Some(program);
            return Ok(gateway);
        }
        let mut arguments: Vec<String> = kind.arguments().iter().map(|&argument| argument.to_owned()).collect();
        if kind == Kind::Landbridge {
            arguments.extend(backends.arguments());
        }
        arguments.push(gateway.interface.clone());
        gateway.process = Some(Process::start(Run {
            namespace: Some(namespace),
            program,
            arguments,
            environment: vec![("WG_PROCESS_FOREGROUND", "1"), ("LOG_LEVEL", "error"), ("WG_LOG_LEVEL", "error")],
            log: logs.join(format!("{}-{}.log", implementation.name.replace(' ', "-"), side.letter())),
        })?);
        Ok(gateway)
    }

    fn configure(&self, topology: &Topology, side: Side, keys: &[Secret; 2], stop: &Stop) -> anyhow::Result<()> {
        let (own, other) = match side {
            Side::A => (&keys[0], &keys[1]),
            Side::B => (&keys[1], &keys[0]),
        };
        let namespace = topology.gateway(side);
        let versions = [IpVersion::V4, IpVersion::V6];
        let setup = Setup {
            private: own.clone(),
            port: PORT,
            peer: keys::public(other),
            endpoint: SocketAddr::new(topology.endpoint_address(side.other()), PORT),
            allowed: versions.map(|version| topology.site_prefix(side.other(), version)).to_vec(),
        };
        match &self.wg {
            Some(wg) => setconf(namespace, wg, &self.interface, &setup)?,
            None => {
                self.wait_for_socket(stop)?;
                uapi::set(&self.socket(), &setup).with_context(|| format!("{} on {}", self.name(), self.interface))?;
            }
        }
        links::set_mtu(namespace, &self.interface, self.mtu)?;
        links::up(namespace, &self.interface)?;
        setup.allowed.iter().try_for_each(|net| links::route_into(namespace, *net, &self.interface))
    }

    fn wait_for_socket(&self, stop: &Stop) -> anyhow::Result<()> {
        let end = Instant::now() + START_PATIENCE;
        while let Err(error) = uapi::get(&self.socket()) {
            self.check()?;
            anyhow::ensure!(Instant::now() < end, "{} does not get ready: {error:#}\n{}", self.name(), self.log());
            stop.sleep(Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// Its process; the kernel's own has none.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether it serves metrics at [`METRICS`] and a status.
    pub(crate) fn is_landbridge(&self) -> bool {
        self.kind == Kind::Landbridge
    }

    /// What it tells of its peer.
    pub(crate) fn state(&self, namespace: &Namespace) -> anyhow::Result<PeerState> {
        match &self.wg {
            Some(wg) => dump(namespace, wg, &self.interface),
            None => uapi::get(&self.socket()),
        }
    }

    /// What it tells of itself, where it is ours.
    pub(crate) fn status(&self) -> Option<Status> {
        self.is_landbridge().then(|| status::fetch(&status::socket_path(&self.interface)).ok())?
    }

    /// The UAPI socket.
    pub(crate) fn socket(&self) -> PathBuf {
        uapi::socket_path(&self.interface)
    }

    /// The tunnel interface.
    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    fn check(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::check)
    }

    fn name(&self) -> String {
        format!("{:?}", self.kind)
    }

    fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.process.take());
        // Not every implementation takes its socket away when it is asked to end.
        drop(fs::remove_file(self.socket()));
    }
}

impl Backends {
    /// Options of `landbridge wg`.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--metrics".to_owned(), METRICS.to_owned()];
        let mut add = |option: &str, value: Option<String>| {
            if let Some(value) = value {
                arguments.extend([option.to_owned(), value]);
            }
        };
        let is_xdp = |backend: Option<&str>| backend == Some("xdp");
        add("--wan", self.wan.map(str::to_owned));
        add("--wan-interface", is_xdp(self.wan).then(|| WAN.to_owned()));
        add("--lan", self.lan.map(str::to_owned));
        add("--lan-interface", is_xdp(self.lan).then(|| LAN.to_owned()));
        add("--crypto", self.crypto.map(str::to_owned));
        add("--lanes", self.lanes.map(|lanes| lanes.to_string()));
        add("--stages", self.stages.then(|| STAGES_EVERY.to_owned()));
        arguments.extend(self.one_buffer.then(|| "--one-buffer".to_owned()));
        arguments
    }
}

/// Sends a packet that nobody answers but the far host's kernel.
fn knock(namespace: &Namespace, far: SocketAddr) -> anyhow::Result<()> {
    namespace.run(move || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).context("a socket on the host")?;
        // Before there is a route the kernel refuses it: that is looked at again.
        drop(socket.send_to(b"knock", far));
        Ok(())
    })
}

fn setconf(namespace: &Namespace, wg: &Path, interface: &str, setup: &Setup) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let text = uapi::wg_text(setup);
    let mut command = Command::new(wg);
    command.args(["setconf", interface, "/dev/stdin"]).stdin(Stdio::piped());
    namespace.run(move || {
        let mut child = command.spawn().context("wg cannot be started")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(text.as_bytes()).context("wg does not listen")?;
        }
        let status = child.wait()?;
        anyhow::ensure!(status.success(), "wg setconf: {status}");
        Ok(())
    })
}

/// The kernel's own, by `wg show IFNAME dump`: one line for the interface, one for the peer.
fn dump(namespace: &Namespace, wg: &Path, interface: &str) -> anyhow::Result<PeerState> {
    let mut command = std::process::Command::new(wg);
    command.args(["show", interface, "dump"]);
    let output = namespace.run(move || command.output().context("wg cannot be started"))?;
    Ok(dumped(&String::from_utf8_lossy(&output.stdout)))
}

fn dumped(text: &str) -> PeerState {
    let peer: Vec<&str> = text.lines().nth(1).unwrap_or_default().split('\t').collect();
    let number = |at: usize| peer.get(at).and_then(|field| field.parse().ok()).unwrap_or(0);
    PeerState { last_handshake_seconds: number(4), rx_bytes: number(5), tx_bytes: number(6) }
}

/// Removes the sockets of runs whose process is dead.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir("/var/run/wireguard") else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(owner) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// The process that a socket's name belongs to.
fn owner(name: &str) -> Option<u32> {
    let name = name.strip_prefix(PREFIX)?.strip_suffix(".sock")?;
    name.strip_suffix(['a', 'b'])?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_a_socket_is_read_from_its_name() {
        for (name, pid) in [("lbt17a.sock", Some(17)), ("lbt17.sock", None), ("wg0.sock", None), ("lbta.sock", None)] {
            assert_eq!(owner(name), pid, "{name}");
        }
    }

    #[test]
    fn backends_become_options_that_name_the_interfaces_of_the_topology() {
        let backends = Backends {
            wan: Some("xdp"),
            lan: Some("tun"),
            crypto: Some("ring"),
            lanes: Some(2),
            stages: true,
            ..Backends::default()
        };
        let text = backends.arguments().join(" ");
        for part in ["--wan xdp", "--wan-interface wan", "--lan tun", "--crypto ring", "--lanes 2", "--stages 61"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("--lan-interface"), "{text}");
        assert_eq!(Backends::default().arguments(), ["--metrics", METRICS]);
    }

    #[test]
    fn the_dump_of_wg_is_read_by_its_columns() {
        let text = "priv\tpub\t51820\toff\npeer\t(none)\t198.18.0.2:51820\t10.0.0.0/8\t1700000000\t11\t22\toff\n";
        let want = PeerState { last_handshake_seconds: 1_700_000_000, rx_bytes: 11, tx_bytes: 22 };
        assert_eq!(dumped(text), want);
        assert_eq!(dumped(""), PeerState::default());
    }
}
