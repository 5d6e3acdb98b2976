//! nftables inside a namespace, by the program `nft`.
//!
//! Enters: rules. Leaves: the kernel's tables of that namespace. Never does: touch those of another one.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::lab::namespace::Namespace;

/// Applies rules, all or none.
pub(super) fn apply(namespace: &Namespace, rules: &str) -> anyhow::Result<()> {
    let rules = rules.to_owned();
    namespace.run(move || {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("the program nft (package nftables) cannot be started")?;
        let mut input = child.stdin.take().context("a pipe to nft")?;
        // Where nft has ended already, what it said is the better error.
        let written = input.write_all(rules.as_bytes());
        drop(input);
        let output = child.wait_with_output().context("nft")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "nft refuses the rules: {errors}{rules}");
        written.context("nft takes no rules")
    })
}
