//! coturn as a STUN server with two addresses and two ports (RFC 5780).
//!
//! Enters: a server. Leaves: a running `turnserver`. Never does: relay anything.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::internet::Server;
use super::program::{Directory, Program};

/// Its first port; the second one is the next.
pub const PORT: u16 = 3478;
const PATIENCE: Duration = Duration::from_secs(10);

/// A running coturn.
#[derive(Debug)]
pub struct StunServer {
    _program: Program,
}

impl StunServer {
    /// Whether the program is on this machine.
    #[must_use]
    pub fn is_installed() -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join("turnserver").is_file())
    }

    /// Starts it on both addresses of a server, and waits until it answers.
    ///
    /// # Errors
    /// No such program (package coturn), or one that does not answer.
    pub fn start(server: &Server) -> anyhow::Result<Self> {
        let directory = Directory::new("coturn")?;
        let options = ["-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout", "--simple-log"];
        let mut arguments: Vec<String> = options.into_iter().map(str::to_owned).collect();
        arguments.push(format!("--pidfile={}", directory.path("pid")));
        arguments.push(format!("--userdb={}", directory.path("users")));
        arguments.push(format!("--listening-port={PORT}"));
        for address in [server.address(), server.second()] {
            arguments.push(format!("--listening-ip={address}"));
        }
        let mut program = Program::start(&server.namespace, "turnserver", &arguments, directory)?;
        let targets = [(server.address(), PORT), (server.second(), PORT + 1)].map(SocketAddr::from);
        program
            .wait_until(PATIENCE, || server.namespace.run(move || Ok(targets.iter().all(|target| answers(*target)))))?;
        Ok(Self { _program: program })
    }
}

/// Whether a STUN server answers a binding request (RFC 8489, section 5).
fn answers(target: SocketAddr) -> bool {
    let mut request = [0; 20];
    request[..2].copy_from_slice(&1_u16.to_be_bytes());
    request[4..8].copy_from_slice(&0x2112_a442_u32.to_be_bytes());
    request[8..].copy_from_slice(b"landbridgelb");
    let ask = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind((target.ip(), 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.send_to(&request, target)?;
        let mut answer = [0; 1500];
        let (length, _) = socket.recv_from(&mut answer)?;
        Ok(length >= 20 && answer[..2] == [0x01, 0x01] && answer[8..20] == request[8..])
    };
    ask().unwrap_or(false)
}
