//! A WireGuard implementation at one site, Landbridge or another one.
//!
//! Enters: keys, addresses, peers. Leaves: a running program with a configured interface, and what it tells of itself.
//! Never does: know how a program works inside; all are driven as an operator would.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use landbridge::status::Status;

use super::{Lab, Namespace, Output, Process, eventually, in_ci, run, uapi_socket};

/// How long a program may take from its start to its readiness, on a busy machine and without optimisation.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a program may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Which wan backend Landbridge is told to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wan {
    /// The kernel's socket.
    Udp,
    /// AF_XDP.
    Xdp,
}

/// An implementation and the way it is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `landbridge up FILE`.
    Up(Wan),
    /// `landbridge wg IFNAME`, configured by `wg`.
    Uapi(Wan),
    /// Debian's wireguard-go.
    WireguardGo,
    /// Cloudflare's boringtun-cli.
    Boringtun,
    /// Mullvad's gotatun.
    Gotatun,
}

/// Which protocol carries the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A key pair, base64.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The private key.
    pub(crate) private: String,
    /// The public key.
    pub(crate) public: String,
}

/// What a gateway knows of another one.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its key.
    pub(crate) public_key: String,
    /// The secret shared with it.
    pub(crate) preshared_key: Option<String>,
    /// Where it is.
    pub(crate) endpoint: Option<SocketAddr>,
    /// What lies behind it.
    pub(crate) allowed_ips: Vec<String>,
    /// Seconds between persistent keepalives.
    pub(crate) keepalive: Option<u16>,
}

/// One gateway.
pub(crate) struct Gateway {
    /// Where it runs.
    pub(crate) namespace: Namespace,
    /// What runs.
    pub(crate) program: Program,
    /// The tunnel interface.
    pub(crate) interface: String,
    /// Its keys.
    pub(crate) keys: Keys,
    /// Its UDP port.
    pub(crate) port: u16,
    /// Addresses of the tunnel interface, with prefix lengths.
    pub(crate) addresses: Vec<String>,
    /// MTU of the tunnel interface.
    pub(crate) mtu: u32,
    /// The interface that AF_XDP binds to.
    pub(crate) wan_interface: String,
    /// The user that Landbridge becomes after its start.
    pub(crate) user: Option<String>,
    /// Lines for Landbridge's configuration file, before its peers.
    pub(crate) extra: String,
    /// Lines for the section of its last peer.
    pub(crate) keys_of_last_peer: String,
    /// The others.
    pub(crate) peers: Vec<Peer>,
    directory: PathBuf,
    process: Option<Process>,
}

impl Outside {
    /// A host's address in the network between the sites.
    pub(crate) fn address(self, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 77, 0, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }
}

impl Keys {
    /// A fresh pair, made by `wg`.
    pub(crate) fn generate() -> Self {
        let pair = run(&["sh", "-c", "umask 077; key=$(wg genkey); echo $key; echo $key | wg pubkey"]);
        let mut lines = pair.lines().map(str::to_owned);
        Self { private: lines.next().expect("a private key"), public: lines.next().expect("a public key") }
    }

    /// A fresh preshared key.
    pub(crate) fn preshared() -> String {
        run(&["wg", "genpsk"]).trim().to_owned()
    }
}

impl Gateway {
    /// A gateway without addresses and peers that does not run.
    pub(crate) fn new(lab: &Lab, namespace: &Namespace, program: Program, role: char, keys: Keys) -> Self {
        Self {
            namespace: namespace.clone(),
            program,
            interface: lab.interface(role),
            keys,
            port: 0,
            addresses: Vec::new(),
            mtu: 1420,
            wan_interface: "wan0".to_owned(),
            user: None,
            extra: String::new(),
            keys_of_last_peer: String::new(),
            peers: Vec::new(),
            directory: lab.directory().to_owned(),
            process: None,
        }
    }

    /// Starts it and waits until its interface carries traffic.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        match self.program {
            Program::Up(wan) => self.start_up(wan),
            Program::Uapi(wan) => {
                let backend = backend(wan);
                let mut arguments = vec!["wg", "-f", "--wan", backend];
                if wan == Wan::Xdp {
                    arguments.extend(["--wan-interface", &self.wan_interface]);
                }
                let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
                self.start_uapi(landbridge(), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Program::WireguardGo => self.start_uapi("wireguard-go".into(), &["-f"]),
            Program::Boringtun => self.start_uapi(tool("boringtun-cli"), &["-f", "--disable-drop-privileges"]),
            Program::Gotatun => self.start_uapi(tool("gotatun"), &["-f", "--disable-drop-privileges"]),
        }
    }

    fn start_up(&mut self, wan: Wan) {
        let file = self.directory.join(format!("{}.toml", self.interface));
        write_private(&file, &self.toml(wan));
        let notify = self.directory.join(format!("{}.notify", self.interface));
        let _ = std::fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).expect("a socket in the test's own directory");
        ready.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        let environment = [("NOTIFY_SOCKET", path(&notify)), ("RUST_LOG", "info".to_owned())];
        let environment = environment.each_ref().map(|(key, value)| (*key, value.as_str()));
        let process = self.namespace.spawn(landbridge(), &["up", &path(&file)], &environment);
        eventually("Landbridge's word that it is ready", START_LIMIT, || {
            assert!(process.ended().is_none(), "it ended at once: {}", process.output());
            let mut message = [0; 4096];
            let length = ready.recv(&mut message).ok()?;
            String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1").then_some(())
        });
        self.process = Some(process);
    }

    fn start_uapi(&mut self, program: PathBuf, arguments: &[&str]) {
        let arguments = [arguments, &[&self.interface]].concat();
        let environment = [("WG_PROCESS_FOREGROUND", "1"), ("RUST_LOG", "info")];
        let process = self.namespace.spawn(program, &arguments, &environment);
        eventually("the control socket", START_LIMIT, || {
            assert!(process.ended().is_none(), "it ended at once: {}", process.output());
            // A file alone may be what a killed predecessor left.
            UnixStream::connect(uapi_socket(&self.interface)).is_ok().then_some(())
        });
        self.process = Some(process);
        self.setconf("setconf");
        for address in &self.addresses {
            self.namespace.ip(&format!("addr add {address} dev {}", self.interface));
        }
        self.namespace.ip(&format!("link set {} mtu {} up", self.interface, self.mtu));
        for network in self.peers.iter().flat_map(|peer| &peer.allowed_ips) {
            self.namespace.ip(&format!("route replace {network} dev {}", self.interface));
        }
    }

    /// Gives its configuration to `wg setconf` or `wg syncconf`.
    #[track_caller]
    pub(crate) fn setconf(&self, command: &str) {
        let file = self.directory.join(format!("{}.wg", self.interface));
        write_private(&file, &self.wg_text());
        self.wg(&[command, &self.interface, &path(&file)]);
    }

    /// Runs `wg` beside it; it must succeed.
    #[track_caller]
    pub(crate) fn wg(&self, arguments: &[&str]) -> String {
        self.namespace.run(&[&["wg"], arguments].concat())
    }

    /// `wg set` of its interface.
    #[track_caller]
    pub(crate) fn set(&self, arguments: &[&str]) {
        self.wg(&[&["set", &self.interface], arguments].concat());
    }

    /// One column of `wg show IFNAME WHAT` for its only peer.
    #[track_caller]
    pub(crate) fn show(&self, what: &str) -> String {
        self.wg(&["show", &self.interface, what]).trim().to_owned()
    }

    /// When the last handshake with its first peer was, in seconds since the epoch; zero for never.
    #[track_caller]
    pub(crate) fn last_handshake(&self) -> u64 {
        let line = self.show("latest-handshakes");
        line.split_whitespace().nth(1).and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
    }

    /// What Landbridge tells of itself.
    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        let output = self.status_output();
        assert!(output.code == 0, "landbridge status failed: {}{}", output.stdout, output.stderr);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", output.stdout))
    }

    /// `landbridge status IFNAME --json`, whatever it does.
    pub(crate) fn status_output(&self) -> Output {
        self.namespace.try_run(&[&path(&landbridge()), "status", &self.interface, "--json"])
    }

    /// How many packets it dropped for a reason.
    #[track_caller]
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        self.status().drops.get(reason).copied().unwrap_or(0)
    }

    /// The running program.
    #[track_caller]
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("a started gateway")
    }

    /// Ends it as an operator would.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.process.take().expect("a started gateway").terminate(STOP_LIMIT)
    }

    /// Ends it as a crash would.
    #[track_caller]
    pub(crate) fn crash(&mut self) {
        self.process.take().expect("a started gateway").kill();
        let interface = format!("/sys/class/net/{}", self.interface);
        // The kernel takes a TUN away a moment after its last descriptor.
        eventually("the end of the interface", STOP_LIMIT, || {
            (self.namespace.try_run(&["test", "-e", &interface]).code != 0).then_some(())
        });
    }

    /// Its configuration as `wg setconf` takes it.
    pub(crate) fn wg_text(&self) -> String {
        let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = {}\n", self.keys.private, self.port);
        for peer in &self.peers {
            let _ = writeln!(text, "\n[Peer]\nPublicKey = {}", peer.public_key);
            let _ = writeln!(text, "AllowedIPs = {}", peer.allowed_ips.join(", "));
            if let Some(key) = &peer.preshared_key {
                let _ = writeln!(text, "PresharedKey = {key}");
            }
            if let Some(endpoint) = peer.endpoint {
                let _ = writeln!(text, "Endpoint = {endpoint}");
            }
            if let Some(seconds) = peer.keepalive {
                let _ = writeln!(text, "PersistentKeepalive = {seconds}");
            }
        }
        text
    }

    fn toml(&self, wan: Wan) -> String {
        let list = |items: &[String]| items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
        let mut text = format!(
            "[interface]\nname = \"{}\"\nprivate_key = \"{}\"\nlisten_port = {}\naddresses = [{}]\nmtu = {}\n",
            self.interface,
            self.keys.private,
            self.port,
            list(&self.addresses),
            self.mtu,
        );
        if let Some(user) = &self.user {
            let _ = writeln!(text, "user = \"{user}\"");
        }
        let _ = writeln!(text, "\n[wan]\nbackend = \"{}\"", backend(wan));
        if wan == Wan::Xdp {
            let _ = writeln!(text, "interfaces = [\"{}\"]", self.wan_interface);
        }
        text += &self.extra;
        for peer in &self.peers {
            let _ = writeln!(text, "\n[[peer]]\npublic_key = \"{}\"", peer.public_key);
            let _ = writeln!(text, "allowed_ips = [{}]", list(&peer.allowed_ips));
            if let Some(key) = &peer.preshared_key {
                let _ = writeln!(text, "preshared_key = \"{key}\"");
            }
            if let Some(endpoint) = peer.endpoint {
                let _ = writeln!(text, "endpoint = \"{endpoint}\"");
            }
            if let Some(seconds) = peer.keepalive {
                let _ = writeln!(text, "persistent_keepalive = {seconds}");
            }
        }
        text += &self.keys_of_last_peer;
        text
    }
}

/// Waits until both gateways have agreed on keys.
#[track_caller]
pub(crate) fn connected(gateways: &[&Gateway], limit: Duration) {
    let end = Instant::now() + limit;
    for gateway in gateways {
        eventually("a handshake", end.saturating_duration_since(Instant::now()), || {
            (gateway.last_handshake() != 0).then_some(())
        });
    }
}

/// Writes a file that only root may read.
pub(crate) fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file in the test's own directory");
}

/// Landbridge as it was built for this test.
pub(crate) fn landbridge() -> PathBuf {
    env!("CARGO_BIN_EXE_landbridge").into()
}

/// Whether an implementation is there; in CI it has to be.
pub(crate) fn available(program: Program) -> bool {
    let path = match program {
        Program::Up(_) | Program::Uapi(_) => return true,
        Program::WireguardGo => PathBuf::from("wireguard-go"),
        Program::Boringtun => tool("boringtun-cli"),
        Program::Gotatun => tool("gotatun"),
    };
    let found = super::try_run(&["sh", "-c", &format!("command -v {}", path.display())]).code == 0;
    assert!(found || !in_ci(), "{} is not installed: .ci/test does it", path.display());
    if !found {
        eprintln!("skipped: {} is not installed: .ci/test does it", path.display());
    }
    found
}

/// A program that `.ci/test` puts beside the build, or one on the path.
fn tool(name: &str) -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin").join(name);
    if installed.exists() { installed } else { name.into() }
}

fn backend(wan: Wan) -> &'static str {
    match wan {
        Wan::Udp => "udp",
        Wan::Xdp => "xdp",
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("the laboratory's paths are text").to_owned()
}
