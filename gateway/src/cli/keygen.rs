//! `genkey`, `genpsk` and `pubkey`: what `wg` does under the same names.
//!
//! Enters: randomness, or a private key on standard input. Leaves: one line of base64. Never does: take a key as an
//! argument, where `ps` would show it.

use std::io::Read as _;

use anyhow::Context as _;
use rustix::fs::FileType;
use zeroize::Zeroizing;

use super::output;
use crate::config::{keys, values};
use crate::settings::Secret;

pub(super) fn genkey() -> anyhow::Result<()> {
    print(&keys::generate_private().context("the system gives no randomness")?)
}

pub(super) fn genpsk() -> anyhow::Result<()> {
    print(&keys::generate_preshared().context("the system gives no randomness")?)
}

pub(super) fn pubkey() -> anyhow::Result<()> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().take(4096).read_to_string(&mut text).context("standard input cannot be read")?;
    let Some(secret) = keys::decode_secret(text.trim()) else {
        anyhow::bail!("standard input holds no private key: expected {}", values::KEY);
    };
    output::print(&format!("{}\n", keys::public(&secret)))?;
    Ok(())
}

fn print(secret: &Secret) -> anyhow::Result<()> {
    let stat = rustix::fs::fstat(std::io::stdout())?;
    if FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_mode & 0o007 != 0 {
        eprintln!("landbridge: warning: everybody can read the file that this key goes to: use `umask 077`");
    }
    let mut line = keys::encode(secret);
    line.push('\n');
    output::print(&line)?;
    Ok(())
}
