//! Commands around start and stop, and name servers, as wg-quick runs them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Runs commands in order by `sh -c`; `%i` stands for the interface.
///
/// # Errors
/// The first command that failed.
pub fn run(kind: &str, commands: &[String], interface: &str) -> anyhow::Result<()> {
    for command in commands {
        let command = command.replace("%i", interface);
        tracing::info!(command, "{kind}");
        let status = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("{kind}: cannot run sh"))?;
        if !status.success() {
            bail!("{kind}: `{command}` ended with {status}");
        }
    }
    Ok(())
}

/// [`run`] for the way down, where one failure must not keep the rest from being undone.
pub fn run_all(kind: &str, commands: &[String], interface: &str) {
    for command in commands {
        if let Err(error) = run(kind, std::slice::from_ref(command), interface) {
            tracing::warn!("{error:#}");
        }
    }
}

/// Name servers given to resolvconf, taken back when this is dropped.
#[derive(Debug)]
pub struct Dns {
    record: String,
}

impl Dns {
    /// Gives name servers and search domains to resolvconf. `None` when there is nothing to give, or no resolvconf.
    #[must_use]
    pub fn set(dns: &[String], interface: &str) -> Option<Self> {
        if dns.is_empty() {
            return None;
        }
        let (servers, domains): (Vec<_>, Vec<_>) =
            dns.iter().partition(|entry| entry.parse::<std::net::IpAddr>().is_ok());
        let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        if !domains.is_empty() {
            let domains: Vec<_> = domains.into_iter().map(String::as_str).collect();
            text += &format!("search {}\n", domains.join(" "));
        }
        let record = format!("tun.{interface}");
        match resolvconf(&["-a", &record, "-m", "0", "-x"], &text) {
            Ok(()) => Some(Self { record }),
            Err(error) => {
                tracing::warn!(
                    "DNS is not set: resolvconf cannot be used ({error:#}); install openresolv, or set name servers by PostUp"
                );
                None
            }
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        if let Err(error) = resolvconf(&["-d", &self.record, "-f"], "") {
            tracing::warn!("resolvconf keeps our name servers: {error:#}");
        }
    }
}

fn resolvconf(arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = Command::new("resolvconf").args(arguments).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("it ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_know_the_interface_and_the_first_failure_ends_the_row() {
        let row = |commands: &[&str]| {
            let commands: Vec<_> = commands.iter().map(|command| (*command).to_owned()).collect();
            run("PostUp", &commands, "wg7")
        };
        row(&["test %i = wg7", "true"]).expect("both succeed");
        let error = row(&["exit 3", "kill $$"]).expect_err("the first fails").to_string();
        assert!(error.contains("`exit 3`") && error.contains('3'), "{error}");
    }
}
