//! The command line: what a person types becomes a gateway, a text or an error.
//!
//! Enters: arguments and environment. Leaves: an exit code. Never does: decide anything about packets or the protocol;
//! raw arguments are in [`args`], and each command turns them into validated settings first.

pub mod args;
mod backends;
mod check;
mod demo;
mod descriptors;
mod keygen;
mod log;
mod netcheck;
mod output;
mod paths;
mod privileges;
mod status;
mod up;
mod wg;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use self::args::{Args, Command};

/// The name under which the program is `landbridge wg`, for callers such as wg-quick that name a program and no command.
const WG_NAME: &str = "landbridge-wg";

/// Does what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse_from(with_command(std::env::args_os().collect()));
    match run(args.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("landbridge: {}", output::causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(demo) => return demo::run(&demo),
        Command::Netcheck(netcheck) => return netcheck::run(&netcheck),
        Command::Up(up) => up::run(&up),
        Command::Check(check) => check::run(&check),
        Command::Status(status) => status::run(&status),
        Command::Paths(paths) => paths::run(&paths),
        Command::Genkey => keygen::genkey(),
        Command::Genpsk => keygen::genpsk(),
        Command::Pubkey => keygen::pubkey(),
        Command::Wg(wg) => wg::run(&wg),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Puts the command `wg` in when the program was called by its other name.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == WG_NAME) {
        arguments.insert(1, "wg".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn called_by_its_other_name_the_program_is_the_userspace_interface() {
        let arguments = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            with_command(arguments(&["/usr/bin/landbridge-wg", "wg0"])),
            arguments(&["/usr/bin/landbridge-wg", "wg", "wg0"])
        );
        assert_eq!(with_command(arguments(&["landbridge", "status"])), arguments(&["landbridge", "status"]));
        assert_eq!(with_command(Vec::new()), Vec::<OsString>::new());
    }
}
