//! Short programs that are run to their end, with a time limit.
//!
//! Enters: a command line. Leaves: its exit code and output. Never does: wait longer than [`LIMIT_SECONDS`].

use std::process::{Command, Stdio};

/// How long a short program may take.
const LIMIT_SECONDS: &str = "30";

/// What a program left.
#[derive(Debug)]
pub(crate) struct Output {
    /// Its exit code; 124 where the time limit ended it.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

/// Runs a program to its end and returns whatever it did.
#[track_caller]
pub(crate) fn try_run(line: &[&str]) -> Output {
    let output = Command::new("timeout")
        .args(["-k", "1", LIMIT_SECONDS])
        .args(line)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", line.join(" ")));
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program that must succeed, and returns its standard output.
#[track_caller]
pub(crate) fn run(line: &[&str]) -> String {
    let output = try_run(line);
    assert!(output.code == 0, "`{}` failed: {}{}", line.join(" "), output.stdout, output.stderr);
    output.stdout
}
