//! A gateway that a run of the laboratory starts: a program's `up`, in a namespace, with a configuration of its own.
//!
//! Enters: a configuration. Leaves: a [`Gateway`] whose status and CPU time can be asked. Never does: leave a process
//! behind; the child ends when its standard input does, so even a killed parent takes it along.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::Namespace;
use super::scratch::Scratch;
use super::stop::Stop;
use crate::status::{self, Status, socket_path};

/// Loading and attaching an XDP program and mapping memory may take a while on a busy machine.
const READY_PATIENCE: Duration = Duration::from_secs(20);
const END_PATIENCE: Duration = Duration::from_secs(6);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    interface: String,
    child: Child,
    /// Held open: its end is the child's end.
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Gateway {
    /// Starts `PROGRAM up` with a configuration in a namespace.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn start(
        program: &Path,
        namespace: &Namespace,
        scratch: &Scratch,
        interface: &str,
        configuration: &str,
    ) -> anyhow::Result<Self> {
        let path = scratch.write(&format!("{interface}.toml"), configuration)?;
        let (log, log_file) = scratch.open(&format!("{interface}.log"))?;
        let mut command = Command::new(program);
        command.arg("up").arg("--ends-with-stdin").arg(path).env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::from(log_file));
        // Ctrl-C is for whoever runs the laboratory, which ends its gateways in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = namespace.run(move || command.spawn().context("a gateway cannot be started"))?;
        let stdin = child.stdin.take();
        Ok(Self { interface: interface.to_owned(), child, stdin, log })
    }

    /// Its tunnel interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Waits until the gateway answers.
    ///
    /// # Errors
    /// One that ends or does not answer in time, or [`super::stop::Interrupted`].
    pub fn wait_until_ready(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let end = Instant::now() + READY_PATIENCE;
        while self.status().is_err() {
            self.check()?;
            anyhow::ensure!(Instant::now() < end, "gateway {} is not ready\n{}", self.interface, self.log());
            stop.sleep(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// An error if the process has ended.
    ///
    /// # Errors
    /// That end, with the log's.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow::anyhow!("gateway {} ended: {status}\n{}", self.interface, self.log())),
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// One that does not answer.
    pub fn status(&self) -> anyhow::Result<Status> {
        status::fetch(&socket_path(&self.interface))
            .with_context(|| format!("gateway {} does not answer", self.interface))
    }

    /// Whether it has shaken hands.
    ///
    /// # Errors
    /// One that does not answer.
    pub fn has_session(&self) -> anyhow::Result<bool> {
        Ok(self.status()?.peers.iter().any(|peer| peer.last_handshake_seconds_ago.is_some()))
    }

    /// The CPU time that it has used.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        cpu_time(&text).unwrap_or_default()
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kilobytes =
            text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        kilobytes.unwrap_or(0_u64) * 1024
    }

    /// The end of its log, for messages.
    #[must_use]
    pub fn log(&self) -> String {
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

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_time(""), None);
    }
}
