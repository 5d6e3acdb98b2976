//! `landbridge wg IFNAME`: the userspace interface that `wg` and `wg-quick` configure.
//!
//! 1. Without `-f` the program starts itself again with `--foreground --detached`, standard output being a pipe.
//! 2. The child leaves the session, runs the gateway, and writes to the pipe when it is ready or why it is not.
//! 3. The parent waits for that line and ends with it.
//!
//! Enters: a name and backend options. Leaves: with the gateway, or when it is ready in the background. Never does: fork
//! with threads running; the child is a fresh process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::{args, backends, descriptors, log, output, privileges};
use crate::config::draft;
use crate::gateway::{self, RunMode, RunOptions};

/// What the child writes when it is ready.
const READY: &str = "ready\n";

pub(super) fn run(args: &args::Wg) -> anyhow::Result<()> {
    let foreground = args.foreground || std::env::var("WG_PROCESS_FOREGROUND").is_ok_and(|value| value == "1");
    if !foreground {
        return daemonise(args);
    }
    if !args.detached {
        log::start();
        return serve(args, Box::new(|| tracing::info!("ready")));
    }
    // The terminal that started us may close: its signals are not for us.
    rustix::process::setsid().context("a session of our own")?;
    log::start();
    serve(args, Box::new(|| answer(READY))).inspect_err(|error| {
        let said = output::causes(error);
        tracing::error!("{said}");
        answer(&format!("{said}\n"));
    })
}

fn serve(args: &args::Wg, ready: Box<dyn FnOnce() + Send>) -> anyhow::Result<()> {
    let mut settings = draft::bare(&args.interface).map_err(anyhow::Error::msg)?;
    backends::apply(&args.backends, &mut settings);
    let mut options = RunOptions::new(RunMode::Wg);
    options.tun_fd = descriptors::inherited("WG_TUN_FD")?;
    options.uapi_fd = descriptors::inherited("WG_UAPI_FD")?;
    options.ready = Some(ready);
    privileges::check("wg", settings.wan.backend, options.tun_fd.is_none())?;
    gateway::run(settings, options)
}

/// Tells the waiting parent, and lets go of the pipe so that it sees the end.
fn answer(text: &str) {
    let mut out = io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        // Without it the pipe stays open until the process ends, which only a parent that reads on would notice.
        if let Err(error) = nix::unistd::dup2_stdout(null) {
            tracing::warn!("standard output cannot be closed: {error}");
        }
    }
}

fn daemonise(args: &args::Wg) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("the program's own file")?;
    let mut child = Command::new(program)
        .args(["wg", "--foreground", "--detached"])
        .args(super::with_command(std::env::args_os().collect()).into_iter().skip(2))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file(args)?)
        .spawn()
        .context("the gateway's process cannot be started")?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        out.take(64 * 1024).read_to_string(&mut said).context("the gateway's process cannot be heard")?;
    }
    if said == READY {
        return Ok(());
    }
    let status = child.wait().context("the gateway's process cannot be waited for")?;
    match said.trim() {
        "" => {
            anyhow::bail!("the gateway's process ended before it was ready ({status}): run it with -f to see its log")
        }
        reason => anyhow::bail!("{reason}"),
    }
}

fn log_file(args: &args::Wg) -> anyhow::Result<Stdio> {
    let Some(path) = &args.log_file else { return Ok(Stdio::null()) };
    let file: File = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("the log {} cannot be opened", path.display()))?;
    Ok(Stdio::from(file))
}
