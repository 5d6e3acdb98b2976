//! `landbridge netcheck [FILE]`: what the network lets through, without a running gateway.
//!
//! Enters: a configuration file or servers. Leaves: a report, and an exit code that tells whether UDP is blocked. Never does:
//! start a gateway, or change anything on this host.

use std::process::ExitCode;

use anyhow::bail;

use super::{args, output};
use crate::config;
use crate::nat::check::{self, Options};
use crate::settings::NatSettings;

/// UDP gets to no server.
const BLOCKED: u8 = 3;

pub(super) fn run(args: &args::Netcheck) -> anyhow::Result<ExitCode> {
    let options = options(args)?;
    let report = check::run(&options)?;
    if args.json {
        output::print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        output::print(&report.text())?;
    }
    Ok(if report.is_blocked() { ExitCode::from(BLOCKED) } else { ExitCode::SUCCESS })
}

fn options(args: &args::Netcheck) -> anyhow::Result<Options> {
    let mut options = match &args.file {
        Some(file) => {
            let settings = config::load(file)?.settings;
            let NatSettings { stun, port_mapping, .. } = settings.nat;
            Options { servers: stun, port: settings.listen_port, mark: settings.fwmark, mapping: port_mapping }
        }
        None => {
            let defaults = NatSettings::default();
            Options { servers: Vec::new(), port: None, mark: None, mapping: defaults.port_mapping }
        }
    };
    if !args.stun.is_empty() {
        options.servers.clone_from(&args.stun);
    }
    if options.servers.is_empty() {
        bail!("no server to ask: name STUN servers with --stun HOST, or a configuration whose [nat] has some");
    }
    Ok(options)
}
