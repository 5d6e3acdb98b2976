//! One gateway of the demo: this very program, running `up` in a gateway's namespace.
//!
//! Enters: a role, keys and the demo's options. Leaves: a [`Gateway`] whose status and CPU time can be asked. Never does:
//! leave a process behind; the child ends when its standard input does, so even a killed demo takes it along.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Options;
use super::scratch::Scratch;
use super::topology::{LAN, WAN, WAN_B};
use crate::config::keys;
use crate::lab::namespace::Namespace;
use crate::lab::stop::Stop;
use crate::settings::{Crypto, LanBackend, Secret, WanBackend};
use crate::status::{self, Status, socket_path};

/// Loading and attaching an XDP program and mapping memory may take a while on a busy machine.
const READY_PATIENCE: Duration = Duration::from_secs(20);
const END_PATIENCE: Duration = Duration::from_secs(6);
const PORT: u16 = 51820;
/// Inside the tunnel a full packet still fits the 1500 bytes of the wan.
const MTU: u32 = 1420;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    A,
    B,
}

/// The private keys of both.
pub(super) fn keys() -> anyhow::Result<[Secret; 2]> {
    let key = || keys::generate_private().context("the system gives no randomness");
    Ok([key()?, key()?])
}

/// A running gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    interface: String,
    child: Child,
    /// Held open: its end is the child's end.
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Gateway {
    pub(super) fn start(
        role: Role,
        namespace: &Namespace,
        scratch: &Scratch,
        keys: &[Secret; 2],
        options: &Options,
    ) -> anyhow::Result<Self> {
        let (letter, own) = match role {
            Role::A => ("a", &keys[0]),
            Role::B => ("b", &keys[1]),
        };
        let interface = format!("lbd-{}-{letter}", std::process::id());
        scratch.write(&format!("{letter}.key"), &keys::encode(own))?;
        let text = configuration(role, &interface, keys, options);
        let path = scratch.write(&format!("{interface}.toml"), &text)?;
        let (log, log_file) = scratch.open(&format!("{letter}.log"))?;
        let program = std::env::current_exe().context("the program's own file")?;
        let mut child = namespace.run(move || {
            Command::new(program)
                .arg("up")
                .arg("--ends-with-stdin")
                .arg(path)
                .env_remove("NOTIFY_SOCKET")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::from(log_file))
                // Ctrl-C is for the demo, which ends its gateways in order.
                .process_group_of_its_own()
                .spawn()
                .context("a gateway cannot be started")
        })?;
        let stdin = child.stdin.take();
        Ok(Self { interface, child, stdin, log })
    }

    /// Its tunnel interface.
    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    /// Waits until the gateway answers.
    pub(super) fn wait_until_ready(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let end = Instant::now() + READY_PATIENCE;
        while self.status().is_err() {
            self.check()?;
            anyhow::ensure!(Instant::now() < end, "gateway {} is not ready\n{}", self.interface, self.log());
            stop.sleep(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// An error if the process has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow::anyhow!("gateway {} ended: {status}\n{}", self.interface, self.log())),
        }
    }

    /// What it says of itself.
    pub(super) fn status(&self) -> anyhow::Result<Status> {
        status::fetch(&socket_path(&self.interface))
            .with_context(|| format!("gateway {} does not answer", self.interface))
    }

    /// Whether it has shaken hands.
    pub(super) fn has_session(&self) -> anyhow::Result<bool> {
        Ok(self.status()?.peers.iter().any(|peer| peer.last_handshake_seconds_ago.is_some()))
    }

    /// The CPU time that it has used.
    pub(super) fn cpu_time(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        cpu_time(&text).unwrap_or_default()
    }

    /// The end of its log, for messages.
    pub(super) fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let mut shown = format!("log of {}:\n", self.interface);
        for line in &lines[lines.len().saturating_sub(20)..] {
            shown.push_str(&format!("  | {line}\n"));
        }
        shown
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.stdin.take());
            // A child that is waited for below still has its number.
            if let Err(error) = kill(pid, Signal::SIGTERM) {
                eprintln!("landbridge: gateway {} cannot be ended: {error}", self.interface);
            }
            let end = Instant::now() + END_PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            if matches!(self.child.try_wait(), Ok(None)) {
                drop(self.child.kill());
                drop(self.child.wait());
            }
        }
        // Only a gateway that had to be killed leaves its sockets.
        drop(fs::remove_file(socket_path(&self.interface)));
        drop(fs::remove_file(format!("/run/wireguard/{}.sock", self.interface)));
    }
}

/// A name for what the call does here.
trait OwnGroup {
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl OwnGroup for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

/// Gateway A knows where B is; B learns it from the handshake.
fn configuration(role: Role, interface: &str, keys: &[Secret; 2], options: &Options) -> String {
    let backend = match options.wan {
        WanBackend::Auto => "auto",
        WanBackend::Xdp => "xdp",
        WanBackend::Udp => "udp",
    };
    let lan = match options.lan {
        LanBackend::Auto => "auto",
        LanBackend::Tun => "tun",
        LanBackend::Xdp => "xdp",
    };
    let (letter, number, peer) = match role {
        Role::A => ("a", 1, &keys[1]),
        Role::B => ("b", 2, &keys[0]),
    };
    let other = 3 - number;
    let endpoint = match role {
        Role::A => format!("endpoint = \"{WAN_B}:{PORT}\"\n"),
        Role::B => String::new(),
    };
    let crypto = match options.crypto {
        Crypto::Auto => "auto",
        Crypto::Ring => "ring",
        Crypto::Multibuffer => "multibuffer",
    };
    let count = options.lanes.map(|lanes| format!("count = {lanes}\n")).unwrap_or_default();
    format!(
        "[interface]\nname = \"{interface}\"\nprivate_key_file = \"{letter}.key\"\nlisten_port = {PORT}\n\
         addresses = [\"10.81.0.{number}/24\"]\nmtu = {MTU}\n[wan]\nbackend = \"{backend}\"\ninterfaces = [\"{WAN}\"]\n\
         [lan]\nbackend = \"{lan}\"\ninterfaces = [\"{LAN}\"]\n\
         [lanes]\ncrypto = \"{crypto}\"\n{count}\
         [[peer]]\nname = \"site-{other}\"\npublic_key = \"{}\"\nallowed_ips = [\"10.81.0.{other}/32\", \"10.81.{other}.0/24\"]\n\
         {endpoint}",
        keys::public(peer)
    )
}

/// User and system time of /proc/PID/stat, in its ticks of 10 ms.
fn cpu_time(stat: &str) -> Option<Duration> {
    // The name in the second field may hold anything, but no parenthesis follows it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, parse};

    #[test]
    fn both_configurations_are_good_ones() {
        let keys = keys().expect("randomness");
        for (wan, lan) in [
            (WanBackend::Auto, LanBackend::Auto),
            (WanBackend::Xdp, LanBackend::Xdp),
            (WanBackend::Udp, LanBackend::Tun),
        ] {
            let duration = Duration::from_secs(1);
            let options = Options { wan, lan, duration, streams: 1, lanes: Some(2), crypto: Crypto::Ring };
            for (role, name) in [(Role::A, "lbd-1234567-a"), (Role::B, "lbd-1234567-b")] {
                let text = configuration(role, name, &keys, &options);
                let settings = parse(&text, Format::Toml).and_then(|draft| draft.check(None)).expect("good");
                assert_eq!((settings.interface.as_str(), settings.wan.backend), (name, wan));
                assert_eq!((settings.lan.backend, settings.lan.interfaces), (lan, vec![LAN.to_owned()]));
                assert_eq!((settings.lanes, settings.crypto), (Some(2), Crypto::Ring));
                assert_eq!(settings.peers[0].endpoint.is_some(), role == Role::A);
            }
        }
    }

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_time(""), None);
    }
}
