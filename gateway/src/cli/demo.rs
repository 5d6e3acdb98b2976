//! `landbridge demo`: see [`crate::demo`].
//!
//! Enters: options. Leaves: a page or one JSON object on standard output. Never does: need another program.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::{args, output, privileges};
use crate::demo::nat::{self, NatReport};
use crate::demo::{self, Options};
use crate::lab::stop::Interrupted;

/// What a shell gives to a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

pub(super) fn run(args: &args::Demo) -> anyhow::Result<ExitCode> {
    privileges::check_demo(args.wan, args.lan)?;
    let options = Options {
        wan: args.wan,
        lan: args.lan,
        duration: Duration::from_secs(args.duration),
        streams: usize::from(args.streams),
        lanes: args.lanes,
        crypto: args.crypto,
    };
    let text = match args.nat {
        None => demo::run(&options).and_then(|report| text(args.json, &report, demo::Report::page)),
        Some(kinds) => nat::run(&options, kinds).and_then(|report| text(args.json, &report, NatReport::page)),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) if error.chain().any(|cause| cause.is::<Interrupted>()) => {
            eprintln!("landbridge: interrupted; everything that the demo made is removed");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Err(error) => return Err(error),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn text<T: Serialize>(json: bool, report: &T, page: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
    Ok(if json { serde_json::to_string_pretty(report)? + "\n" } else { page(report) })
}
