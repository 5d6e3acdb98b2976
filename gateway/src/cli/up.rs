//! `landbridge up FILE`: a gateway in the foreground.
//!
//! Enters: a configuration file and backend options. Leaves: when the gateway has ended. Never does: go into the background;
//! a service manager learns of readiness by `sd_notify`.

use anyhow::Context as _;
use nix::sys::signal;
use nix::unistd;
use sd_notify::NotifyState;

use super::{args, backends, log, output, privileges};
use crate::config;
use crate::gateway::{self, RunMode, RunOptions};
use crate::settings::Origin;

pub(super) fn run(args: &args::Up) -> anyhow::Result<()> {
    log::start();
    let mut loaded = config::load(&args.file)?;
    backends::apply(&args.backends, &mut loaded.settings);
    for note in &loaded.notes {
        tracing::warn!("{}: {note}", args.file.display());
    }
    let settings = loaded.settings;
    privileges::check("up", settings.wan.backend, true)?;
    let status = format!("interface {}, {}", settings.interface, output::plural(settings.peers.len() as u64, "peer"));
    let mut options = RunOptions::new(RunMode::Up);
    options.origin = Some(Origin(args.file.clone()));
    options.ready = Some(Box::new(move || notify(&[NotifyState::Ready, NotifyState::Status(&status)])));
    options.ending = Some(Box::new(|| notify(&[NotifyState::Stopping, NotifyState::Status("ending")])));
    if args.ends_with_stdin {
        end_with_stdin()?;
    }
    gateway::run(settings, options)
}

/// Ends this process as SIGTERM does when whoever started it is gone.
fn end_with_stdin() -> anyhow::Result<()> {
    let wait = || {
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        if let Err(error) = signal::kill(unistd::getpid(), signal::Signal::SIGTERM) {
            tracing::error!("the gateway cannot be ended: {error}");
        }
    };
    // Signals are for the thread that waits for them: this one is not to take them away.
    let mut before = signal::SigSet::empty();
    signal::pthread_sigmask(signal::SigmaskHow::SIG_SETMASK, Some(&signal::SigSet::all()), Some(&mut before))?;
    let thread = std::thread::Builder::new().name("stdin".to_owned()).spawn(wait);
    signal::pthread_sigmask(signal::SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    thread.context("a thread cannot be started")?;
    Ok(())
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}
