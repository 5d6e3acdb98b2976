//! The text protocol by which every userspace WireGuard implementation is configured.
//!
//! Enters: a configuration of one peer. Leaves: what the implementation tells of it. Never does: repeat a key in a
//! message.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use landbridge::settings::{PublicKey, Secret};
use zeroize::Zeroizing;

/// How long an implementation may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers about one peer are short.
const ANSWER_MAX: usize = 64 * 1024;

/// Where an interface's socket is.
pub(crate) fn socket_path(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}

/// One gateway's side of the tunnel.
pub(crate) struct Setup {
    /// Its own key.
    pub(crate) private: Secret,
    /// Its port.
    pub(crate) port: u16,
    /// The other gateway's key.
    pub(crate) peer: PublicKey,
    /// Where that one is.
    pub(crate) endpoint: SocketAddr,
    /// What lies behind it.
    pub(crate) allowed: Vec<IpNet>,
}

/// What an implementation tells of its only peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PeerState {
    /// Unix time of the last handshake, zero for never.
    pub(crate) last_handshake_seconds: u64,
    /// UDP payload bytes received.
    pub(crate) rx_bytes: u64,
    /// UDP payload bytes sent.
    pub(crate) tx_bytes: u64,
}

/// Configures the interface behind a socket.
pub(crate) fn set(socket: &Path, setup: &Setup) -> anyhow::Result<()> {
    let answer = ask(socket, &set_request(setup)).context("set=1")?;
    match field(&answer, "errno") {
        Some("0") => Ok(()),
        errno => anyhow::bail!("the configuration was refused: errno {}", errno.unwrap_or("missing")),
    }
}

/// Asks for the state of the only peer.
pub(crate) fn get(socket: &Path) -> anyhow::Result<PeerState> {
    state(&ask(socket, "get=1\n\n").context("get=1")?)
}

/// The configuration as `wg setconf` takes it.
pub(crate) fn wg_text(setup: &Setup) -> Zeroizing<String> {
    let allowed: Vec<String> = setup.allowed.iter().map(IpNet::to_string).collect();
    Zeroizing::new(format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {}\n[Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = {}\n",
        *landbridge::config::keys::encode(&setup.private),
        setup.port,
        setup.peer,
        setup.endpoint,
        allowed.join(", "),
    ))
}

fn set_request(setup: &Setup) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!(
        "set=1\nprivate_key={}\nlisten_port={}\nreplace_peers=true\npublic_key={}\nendpoint={}\nreplace_allowed_ips=true\n",
        *hex(&setup.private.0[..]),
        setup.port,
        *hex(&setup.peer.0),
        setup.endpoint,
    ));
    for net in &setup.allowed {
        let _infallible = writeln!(text, "allowed_ip={net}");
    }
    text.push('\n');
    text
}

fn ask(socket: &Path, request: &str) -> anyhow::Result<Zeroizing<String>> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).with_context(|| format!("{shown} cannot be reached"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes()).with_context(|| format!("{shown} does not listen"))?;
    let mut answer = Zeroizing::new(Vec::new());
    let mut buffer = Zeroizing::new([0; 4096]);
    // Implementations keep the connection open for further questions: an empty line ends the answer.
    while !answer.ends_with(b"\n\n") && answer.len() < ANSWER_MAX {
        match stream.read(&mut *buffer).with_context(|| format!("{shown} does not answer"))? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(Zeroizing::new(String::from_utf8_lossy(&answer).into_owned()))
}

fn state(answer: &str) -> anyhow::Result<PeerState> {
    anyhow::ensure!(field(answer, "errno") == Some("0"), "the question was refused");
    let number = |key| field(answer, key).and_then(|value| value.parse().ok()).unwrap_or(0);
    Ok(PeerState {
        last_handshake_seconds: number("last_handshake_time_sec"),
        rx_bytes: number("rx_bytes"),
        tx_bytes: number("tx_bytes"),
    })
}

fn field<'t>(answer: &'t str, key: &str) -> Option<&'t str> {
    answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Setup {
        Setup {
            private: Secret(Zeroizing::new([0xab; 32])),
            port: 51820,
            peer: PublicKey([0x01; 32]),
            endpoint: "198.18.0.2:51820".parse().expect("an address"),
            allowed: vec!["10.82.2.0/24".parse().expect("a net"), "fd82:2::/64".parse().expect("a net")],
        }
    }

    #[test]
    fn a_request_has_its_keys_in_hex_and_ends_with_an_empty_line() {
        let text = set_request(&setup());
        assert!(text.starts_with(&format!("set=1\nprivate_key={}\nlisten_port=51820\n", "ab".repeat(32))));
        assert!(text.contains(&format!("\npublic_key={}\nendpoint=198.18.0.2:51820\n", "01".repeat(32))));
        assert!(text.ends_with("allowed_ip=10.82.2.0/24\nallowed_ip=fd82:2::/64\n\n"));
    }

    #[test]
    fn the_text_for_wg_is_a_configuration_that_wg_quick_would_take() {
        let text = wg_text(&setup());
        let draft = landbridge::config::parse(&text, landbridge::config::Format::WgQuick).expect("good");
        assert_eq!(draft.peers.len(), 1);
    }

    #[test]
    fn an_answer_is_read_by_its_keys() {
        let answer = "private_key=00\nrx_bytes=7\nlast_handshake_time_sec=9\ntx_bytes=8\nerrno=0\n\n";
        let want = PeerState { last_handshake_seconds: 9, rx_bytes: 7, tx_bytes: 8 };
        assert_eq!(state(answer).expect("good"), want);
        assert!(state("errno=1\n\n").is_err() && state("").is_err());
    }
}
