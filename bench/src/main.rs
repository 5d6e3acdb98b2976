//! Microbenchmarks and throughput runs of Landbridge.

#![forbid(unsafe_code)]

mod machine;
mod measure;
mod micro;
mod nat;
mod plot;
mod readme;
mod relay;
mod scaling;
mod throughput;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Landbridge on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The packet's way without sockets, piece by piece: needs no privileges.
    Micro(micro::Arguments),
    Nat(nat::Arguments),
    Relay(relay::Arguments),
    Scaling(scaling::Arguments),
    Throughput(throughput::command::Arguments),
    Trials(throughput::trials::Arguments),
    Generator(throughput::roles::Generator),
    Reflector(throughput::roles::Reflector),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let result = match command {
        Command::Micro(arguments) => micro::run(&arguments),
        Command::Nat(arguments) => nat::run(&arguments),
        Command::Relay(arguments) => relay::run(&arguments),
        Command::Scaling(arguments) => scaling::run(&arguments),
        Command::Throughput(arguments) => throughput::command::run(&arguments),
        Command::Trials(arguments) => throughput::trials::run(&arguments),
        Command::Generator(arguments) => throughput::roles::generate(&arguments),
        Command::Reflector(arguments) => throughput::roles::reflect(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("landbridge-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
